"""Annotated volumes of public collections, as a folder that every other verb reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_hyper.data.annotation import KINDS, Annotation
from monai_hyper.data.dicom import DERIVED
from monai_hyper.data.fetch.catalogue import RESTRICTED, find_entry, list_collections
from monai_hyper.data.fetch.client import Client, DownloadFailed, Series, plain
from monai_hyper.data.fetch.idc import Idc
from monai_hyper.data.fetch.layout import LICENCES, Target, objects_in
from monai_hyper.data.fetch.tcia import Tcia
from monai_hyper.data.folder import read_description
from monai_hyper.types import InputError, SomeFailed

__all__ = ["fetch", "list_collections"]

CLIENTS: dict[str, Callable[[], Client]] = {"tcia": Tcia, "idc": Idc}
"""Services by name."""


@dataclass
class _Order:
    """What is fetched, whence and whither.

    Args:
        client, target: service and folder.
        series: all series of the collection by their UID.
        modality: of images; None: any.
        structures: what the name of one structure at least must contain; None: anything.
        progress: takes lines for people.
        failed: what went wrong with single series.
    """

    client: Client
    target: Target
    series: Mapping[str, Series]
    modality: str | None
    structures: re.Pattern | None
    progress: Callable[[str], None]
    failed: list[str] = field(default_factory=list)


def fetch(
    source: str,
    collection: str,
    output: Path,
    patients: Sequence[str] | None = None,
    most: int = 4,
    modality: str | None = None,
    progress: Callable[[str], None] = print,
    *,
    structures: str | None = None,
    annotations: str | None = None,
    keep_identifiers: bool = False,
) -> list[dict]:
    """Fetch annotated image series of a public collection into ``images/NAME/`` and ``labels/NAME/``.

    Writes ``dataset.json`` and ``LICENSE-AND-CITATION.md``, too. A call that was cut off is run again: it goes on, and
    fetches nothing twice.

    Args:
        source: ``tcia`` or ``idc``.
        collection: name, see :func:`list_collections`; at ``idc`` also the name of an analysis of a collection.
        output: folder; new, empty, or of an earlier call for the same collection.
        patients: ids of the collection; None takes the first with annotations.
        most: number of patients where none are named.
        modality: only images of this one, as DICOM writes it: CT, MR, PT.
        structures: regular expression; only annotation objects that have a structure of such a name, case ignored.
        annotations: id or DOI of an analysis, to take its annotations in place of the collection's own.
        keep_identifiers: whether cases are called by the collection's patient ids instead of by numbers.

    Returns:
        one row for each case: its name, key of its patient, modality, number of image files and of annotation
        objects, structures, and whether it was fetched or was there.

    Raises:
        InputError: for an unknown or restricted collection, unknown patients, no annotations, a folder that holds
            something else, a missing client, no network, or a full disk.
        SomeFailed: if single series could not be had; the other cases are complete.
    """
    pattern = _checked(source, most, structures)
    client = CLIENTS[source]()
    name, listed = _listing(client, source, collection)
    wanted = _wanted(name, listed, annotations, progress)
    chosen = _patients(name, listed, wanted, patients, progress)
    target = Target(Path(output), source, name, keep_identifiers)
    series = {each.uid: each for each in listed}
    order = _Order(client, target, series, modality and modality.upper(), pattern, progress)
    rows: list[dict] = []
    done = 0
    for patient in chosen:
        found = _fetch_patient(order, [each for each in wanted if each.patient == patient])
        rows += found
        done += bool(found)
        if patients is None and done == most:
            break
    return _finished(order, name, rows)


def _checked(source: str, most: int, structures: str | None) -> re.Pattern | None:
    """The pattern of structures' names, if the options can be met at all."""
    if source not in CLIENTS:
        raise InputError(f"unknown source '{source}'; expected {' or '.join(CLIENTS)}.")
    if most < 1:
        raise InputError(f"--most is {most}; expected a number of patients, 1 or more.")
    try:
        return None if structures is None else re.compile(structures, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--structures is '{structures}'; expected a regular expression ({error}).") from error


def _listing(client: Client, source: str, collection: str) -> tuple[str, list[Series]]:
    """A collection's name as the service writes it, and its series that are open."""
    entry = find_entry(collection) or {}
    by_plain = {plain(name): name for name in client.collections()}
    name = by_plain.get(plain(collection))
    series = [] if name is None else client.series(name)
    listed = [each for each in series if each.is_open]
    if listed:
        return name, listed
    if series or entry.get("licence", "").startswith(RESTRICTED):
        where = f": https://doi.org/{entry['doi']}" if entry.get("doi") else ""
        raise InputError(
            f"{source}: {collection}: expected an open collection, found a restricted one: its licence asks for a "
            f"login. Ask the archive for access, and fetch it with the archive's own tool{where}."
        )
    if name is not None:
        raise InputError(f"{source}: {collection}: expected DICOM series, found none. Choose another collection.")
    close = difflib.get_close_matches(plain(collection), by_plain, n=3, cutoff=0.5)
    close += [each for each in by_plain if plain(collection) in each and each not in close][:3]
    elsewhere = [each for each in entry.get("sources", []) if each != source]
    known = f" Similar: {', '.join(by_plain[each] for each in close)}." if close else ""
    raise InputError(
        f"{source}: unknown collection '{collection}'; expected one of {len(by_plain)}.{known}"
        f"{f' It is at {elsewhere[0]}.' if elsewhere else ''} See the table in docs/fetch.md."
    )


def _wanted(
    name: str, listed: Sequence[Series], annotations: str | None, report: Callable[[str], None]
) -> list[Series]:
    """Annotation series of the collection itself, or of one analysis of it."""
    found = [each for each in listed if each.modality in KINDS]
    analyses = sorted({each.analysis for each in found} - {""})
    if annotations is None and name in analyses:
        annotations = name
    if annotations is not None:
        asked = plain(annotations)
        chosen = [e for e in found if e.analysis and asked.endswith((plain(e.analysis), plain(e.doi or e.analysis)))]
        if not chosen:
            known = ", ".join(analyses) or "none"
            raise InputError(f"{name}: unknown analysis '{annotations}'; its annotations come from {known}.")
        return chosen
    own = [each for each in found if not each.analysis]
    if not found:
        raise InputError(
            f"{name}: expected annotations ({' or '.join(KINDS)}), found none. Choose another collection, see "
            "docs/fetch.md; annotations in other formats are on the collection's page."
        )
    if not own and len(analyses) > 1:
        raise InputError(
            f"{name}: expected annotations by one analysis, found those of {', '.join(analyses)}. "
            f"Choose one with --annotations {analyses[0]}."
        )
    if not own:
        report(f"annotations are not the collection's own, but of {analyses[0]}")
    return own or found


def _patients(
    name: str,
    listed: Sequence[Series],
    wanted: Sequence[Series],
    patients: Sequence[str] | None,
    report: Callable[[str], None],
) -> list[str]:
    """Patients with annotations, of those asked for."""
    annotated = sorted({each.patient for each in wanted})
    if patients is None:
        return annotated
    known = sorted({each.patient for each in listed})
    for patient in patients:
        if patient not in known:
            close = difflib.get_close_matches(patient, known, n=3, cutoff=0.3) or known[:3]
            raise InputError(
                f"{name}: unknown patient '{patient}'; expected one of {len(known)}, like {', '.join(close)}."
            )
        if patient not in annotated:
            report(f"{patient}: skipped, no annotations")
    chosen = [patient for patient in dict.fromkeys(patients) if patient in annotated]
    if not chosen:
        raise InputError(f"{name}: none of the {len(patients)} patients has annotations; {len(annotated)} others have.")
    return chosen


def _fetch_patient(order: _Order, wanted: Sequence[Series]) -> list[dict]:
    """Cases of one patient."""
    target, groups, there = order.target, {}, {}
    for series in wanted:
        if target.is_complete(series):
            case = target.objects[series.uid]
            if order.modality in (None, target.modalities[case]):
                there[case] = "there"
            continue
        for annotation in _annotations(order, series):
            image = _image_of(order, annotation)
            if image is not None:
                groups.setdefault(image.uid, []).append(annotation)
    for uid, objects in groups.items():
        image = order.series[uid]
        name = target.name(image, objects)
        try:
            if uid not in target.cases:
                order.progress(f"{name}: {image.modality}, {image.files} files, {image.megabytes:.0f} MB")
            images = Path() if uid in target.cases else target.series(order.client, image)
        except DownloadFailed as error:
            order.failed.append(f"{name}: {error}")
            continue
        target.publish(name, images, objects, [image, *(order.series[each.series] for each in objects)])
        there[name] = "fetched"
    return [_row(target, name, state) for name, state in there.items()]


def _annotations(order: _Order, series: Series) -> list[Annotation]:
    """Objects of an annotation series that have a structure of the wanted name."""
    try:
        folder = order.target.series(order.client, series)
        found = objects_in(folder)
    except DownloadFailed as error:
        order.failed.append(f"annotations: {error}")
        return []
    return [
        each for each in found if order.structures is None or any(order.structures.search(s) for s in each.structures)
    ]


def _image_of(order: _Order, annotation: Annotation) -> Series | None:
    """The image series of an annotation object; None where it is not wanted or not told."""
    images = [each for each in order.series.values() if each.modality not in DERIVED]
    if annotation.images:
        found = [each for uid in annotation.images for each in images if each.uid == uid]
    else:  # older objects name single images only; then the study must have one series
        found = [each for each in images if each.study == annotation.study]
        found = found if len(found) == 1 else []
    if not found:
        order.progress(
            f"an object of {', '.join(annotation.structures[:3])}: skipped, its images are not in the collection"
        )
        return None
    wanted = [each for each in found if order.modality is None or each.modality == order.modality]
    return wanted[0] if wanted else None


def _row(target: Target, name: str, state: str) -> dict:
    description = read_description(target.path)
    return {
        "case": name,
        "patient": description["patients"][name],
        "modality": target.modalities[name],
        "files": len(list((target.path / "images" / name).iterdir())),
        "annotations": len(list((target.path / "labels" / name).iterdir())),
        "structures": ", ".join(description["structures"][name]),
        "state": state,
    }


def _finished(order: _Order, name: str, rows: list[dict]) -> list[dict]:
    """
    Raises:
        InputError: if there is no case.
        SomeFailed: if there are some, and others failed.
    """
    failed = "\n".join(order.failed)
    if not rows and failed:
        raise InputError(f"{name}: no series arrived as it was announced. Run the same command again.\n{failed}")
    if not rows:
        narrowed = [
            text for text, given in (("--modality", order.modality), ("--structures", order.structures)) if given
        ]
        raise InputError(
            f"{name}: expected annotated images, found none. "
            + (f"Widen {' or '.join(narrowed)}." if narrowed else "Choose other patients or another collection.")
        )
    if failed:
        raise SomeFailed(f"{len(rows)} cases are there, the rest can be tried again:\n{failed}")
    order.target.finish()
    order.progress(f"licence and citation: {order.target.path / LICENCES}")
    return rows
