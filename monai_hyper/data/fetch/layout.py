"""The folder that is fetched into: what is there, and how a case appears in it all at once."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pydicom
from pydicom.misc import is_dicom

from monai_hyper.data.annotation import Annotation, read_annotation
from monai_hyper.data.fetch.catalogue import citation_of
from monai_hyper.data.fetch.client import Client, DownloadFailed, Series
from monai_hyper.data.folder import read_description
from monai_hyper.types import InputError

PARTIAL = ".partial"
"""Folder of series that are under way, or whose case is not complete."""

LICENCES = "LICENSE-AND-CITATION.md"
"""File with the duties that come with the data."""

_TAGS = ("SeriesInstanceUID", "PatientID", "Modality")

_AGAIN = "Repair that, and run the same command again: it goes on from here."

_UNKNOWN = "**not known here: look it up before you use the data**"


@dataclass
class Target:
    """A support folder that grows case by case.

    Args:
        path: folder; appears with the first series.
        source, collection: where its cases come from.
        keep_identifiers: whether cases carry the collection's patient ids.
        cases: case of every image series that is there.
        patients: patient id of every case that is there.
        modalities: of the images of every case.
        objects: case of every annotation series that is there, also of cases that lack their images yet.
    """

    path: Path
    source: str
    collection: str
    keep_identifiers: bool = False
    cases: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    modalities: dict[str, str] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: if the folder holds something else.
        """
        self._refuse_others()
        for folder in _folders(self.path / "images"):
            header = _first_header(folder)
            if header is not None:
                self.cases[str(header.SeriesInstanceUID)] = folder.name
                self.patients[folder.name] = str(header.get("PatientID", ""))
                self.modalities[folder.name] = str(header.get("Modality", ""))
        for folder in _folders(self.path / "labels"):
            self.objects |= {each.series: folder.name for each in objects_in(folder)}

    def _refuse_others(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: expected a folder, found a file. Choose another --output.")
        found = sorted(path.name for path in self.path.glob("*"))
        there = [name for name in found if not name.startswith(".") and name != LICENCES]  # that one is written first
        origin = read_description(self.path).get("source") if there else None
        wanted = {"service": self.source, "collection": self.collection}
        if there and origin != wanted:
            other = f"cases of {origin}" if origin else ", ".join(there[:3])
            raise InputError(
                f"{self.path}: expected an empty folder, or one with cases of {self.collection} from {self.source}; "
                f"found {other}. Choose another --output."
            )

    def series(self, client: Client, series: Series) -> Path:
        """Folder with all files of a series, downloaded unless it is there from an earlier call.

        Raises:
            InputError: if the disk is full, or the service cannot be reached.
            DownloadFailed: if the series is not as it was announced.
        """
        done, loading = self.path / PARTIAL / series.uid, self.path / PARTIAL / f"{series.uid}.loading"
        if done.is_dir():
            return done
        shutil.rmtree(loading, ignore_errors=True)
        loading.mkdir(parents=True)
        try:
            self._refuse_full_disk(series)
            client.download(series.uid, loading)
            _number(loading, series)
            os.replace(loading, done)
        except OSError as error:
            raise InputError(f"{loading}: {error.strerror or error}. {_AGAIN}") from error
        finally:
            shutil.rmtree(loading, ignore_errors=True)
        return done

    def _refuse_full_disk(self, series: Series) -> None:
        free = shutil.disk_usage(self.path).free / 1e6
        if free < 1.2 * series.megabytes:
            raise InputError(
                f"{self.path}: expected {series.megabytes:.0f} MB of free disk for one series, found {free:.0f} MB. "
                "Make room, and run the same command again: it goes on from here."
            )

    def name(self, series: Series, objects: Sequence[Annotation]) -> str:
        """Name of the case of an image series: its own if it has one, else the next."""
        if series.uid in self.cases:
            return self.cases[series.uid]
        begun = [self.objects[each.series] for each in objects if each.series in self.objects]
        if begun:
            return begun[0]
        taken = {*self.patients, *self.objects.values()}
        if not self.keep_identifiers:
            return _first_free((f"case-{number}" for number in count(1)), taken)
        patient = re.sub(r"[^\w.-]+", "_", series.patient).lstrip(".") or "patient"
        return _first_free((patient if number == 1 else f"{patient}-{number}" for number in count(1)), taken)

    def is_complete(self, series: Series) -> bool:
        """Whether an annotation series lies in a case that has its images."""
        return self.objects.get(series.uid) in self.patients

    def key(self, patient: str) -> str:
        """What ``dataset.json`` calls a patient: by number, or by id where ids are kept."""
        if self.keep_identifiers:
            return patient
        keys = {self.patients[case]: key for case, key in self._of_cases("patients").items()}
        return keys.get(patient) or _first_free((f"patient-{number}" for number in count(1)), set(keys.values()))

    def _of_cases(self, key: str) -> dict:
        """What ``dataset.json`` says about cases that are complete."""
        return {
            case: value for case, value in read_description(self.path).get(key, {}).items() if case in self.patients
        }

    def publish(self, name: str, images: Path, objects: Sequence[Annotation], used: Sequence[Series]) -> None:
        """Make a case of an image series and its annotation objects: first labels, at last the images.

        Args:
            name: of the case.
            images: folder of the image series, or the case's own if it is there.
            objects: annotation objects that are to be added.
            used: series of images and annotations, the images' first.
        """
        image = used[0]
        try:
            self._describe(name, objects, used)
            self._put_labels(self.path / "labels" / name, objects)
            if image.uid not in self.cases:
                (self.path / "images").mkdir(exist_ok=True)
                os.replace(images, self.path / "images" / name)
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}. {_AGAIN}") from error
        self.cases[image.uid] = name
        self.patients[name], self.modalities[name] = image.patient, image.modality
        self.objects |= {each.series: name for each in objects}

    def _put_labels(self, labels: Path, objects: Sequence[Annotation]) -> None:
        beside = self.path / PARTIAL / f"{labels.name}.labels"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        new = {each.series for each in objects}
        kept = [each for each in objects_in(labels) if each.series not in new]
        for number, each in enumerate([*kept, *objects], 1):
            shutil.copy2(each.path, beside / f"{number:04d}.dcm")
        labels.parent.mkdir(exist_ok=True)
        shutil.rmtree(labels, ignore_errors=True)  # cut off here, the next call misses its objects, and fetches them
        os.replace(beside, labels)

    def _describe(self, name: str, objects: Sequence[Annotation], used: Sequence[Series]) -> None:
        found, structures = read_description(self.path), self._of_cases("structures")
        names = [*structures.get(name, []), *(text for each in objects for text in each.structures)]
        modalities = {*found.get("modality", "").split(", "), used[0].modality} - {""}
        terms = {json.dumps(term, sort_keys=True): term for term in [*found.get("licences", []), *map(_terms, used)]}
        description = {
            "name": self.collection,
            "modality": ", ".join(sorted(modalities)),
            "source": {"service": self.source, "collection": self.collection},
            "licences": list(terms.values()),
            "patients": {**self._of_cases("patients"), name: self.key(used[0].patient)},
            "structures": {**structures, name: list(dict.fromkeys(names))},
        }
        _write(self.path / LICENCES, _licence_text(description))
        _write(self.path / "dataset.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Take away what no case needs."""
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)


def objects_in(folder: Path) -> list[Annotation]:
    """Annotation objects of a folder; none if it is not there."""
    return [read_annotation(path) for path in sorted(folder.glob("*")) if path.is_file() and is_dicom(path)]


def _number(folder: Path, series: Series) -> None:
    """Take away what is no DICOM file, and number the rest: names in archives may tell who it is.

    Raises:
        DownloadFailed: if files are missing.
    """
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if is_dicom(path):
            files.append(path)
        else:
            path.unlink()
    if len(files) != series.files:
        raise DownloadFailed(f"expected {series.files} files of a series of {series.modality}, found {len(files)}")
    for number, path in enumerate(files, 1):
        os.replace(path, folder / f"{number:04d}.part")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            os.replace(path, path.with_suffix(".dcm"))


def _terms(series: Series) -> dict:
    return {
        "licence": series.licence or None,
        "url": series.licence_url or None,
        "doi": series.doi or None,
        "citation": citation_of(series.doi),
    }


def _licence_text(description: Mapping) -> str:
    """The duties, for people."""
    lines = [f"# Licence and citation of {description['name']}", "",
             f"Fetched from {description['source']['service']}. Who uses or passes on these data keeps to the "
             "licences, and cites the data sets:"]  # fmt: skip
    for term in description["licences"]:
        address = term["doi"] and (term["doi"] if "://" in term["doi"] else f"https://doi.org/{term['doi']}")
        licence = term["licence"] or _UNKNOWN
        lines += ["", f"- data set: {f'<{address}>' if address else _UNKNOWN}",
                  f"- licence: {licence}{', <' + term['url'] + '>' if term['url'] else ''}",
                  f"- citation: {term['citation'] or _UNKNOWN}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _first_header(folder: Path) -> pydicom.Dataset | None:
    for path in sorted(folder.iterdir()):
        if is_dicom(path):
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    return None


def _first_free(names: Iterable[str], taken: set[str]) -> str:
    return next(name for name in names if name not in taken)
