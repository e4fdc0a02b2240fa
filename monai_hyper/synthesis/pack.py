"""All training data in one compact file, which training starts from anywhere."""

from __future__ import annotations

import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_hyper.synthesis.sources import Cohort, Sources, load_sources, subject
from monai_hyper.types import InputError

HEADER = "pack.json"
FORMAT = 1

CT_RANGE = (-1024.0, 1024.0)
"""HU that 8 bits are spread over: steps of 8 HU, less than the noise of a CT."""

BRIGHT = 0.9995
"""Quantile of an MR image above which all is one."""


def write_pack(sources: Sources, path: Path) -> None:
    """Write training data as one file: labels without loss, images in 256 levels.

    A ZIP archive of NumPy arrays and one JSON header, compressed by LZMA; written beside the target, then renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    header = {"format": FORMAT, "cohorts": {}, "lesions": len(sources.lesions)}
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_LZMA) as archive:
            for name, cohort in sources.cohorts.items():
                header["cohorts"][name] = _write_cohort(archive, name, cohort)
            for number, mask in enumerate(sources.lesions):
                _write_array(archive, f"lesions/{number}", mask.numpy())
            archive.writestr(HEADER, json.dumps(header))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write_cohort(archive: zipfile.ZipFile, name: str, cohort: Cohort) -> dict:
    """Write the arrays of a cohort; returns what the header says of it."""
    entries = []
    for number, held in enumerate(cohort.subjects):
        entry = {"spacing": held.spacing.tolist()}
        _write_array(archive, f"{name}/{number}/labels", held.labels.numpy())
        if held.image is not None:
            low, high = CT_RANGE if cohort.is_ct else _bounds(held.image)
            levels = ((held.image - low) / (high - low)).clamp(0, 1) * 255
            _write_array(archive, f"{name}/{number}/image", levels.round().to(torch.uint8).numpy())
            entry["range"] = [low, high]
        entries.append(entry)
    facts = {"foregrounds": list(cohort.foregrounds), "is_ct": cohort.is_ct, "names": cohort.names}
    return facts | {"body_is_labelled": cohort.body_is_labelled, "subjects": entries}


def _bounds(image: Tensor) -> tuple[float, float]:
    values = image.flatten().sort().values
    low, high = float(values[0]), float(values[round(BRIGHT * (len(values) - 1))])
    return low, high if high > low else low + 1


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    archive.writestr(f"{name}.npy", held.getvalue())


def read_pack(path: Path) -> Sources:
    """Read what :func:`write_pack` wrote.

    Raises:
        InputError: if the file is missing, damaged or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(HEADER))
            if header["format"] != FORMAT:
                raise InputError(f"{path}: a pack of format {header['format']}; expected {FORMAT}. Write it again.")

            def array(name: str) -> np.ndarray:
                return np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)

            cohorts = {name: _read_cohort(array, name, facts) for name, facts in header["cohorts"].items()}
            lesions = [torch.from_numpy(array(f"lesions/{number}")) for number in range(header["lesions"])]
    except InputError:  # a ValueError too
        raise
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise InputError(f"{path}: expected training data that 'monai-hyper pack' wrote; found {error}.") from error
    return Sources(cohorts, lesions)


def training_data(path: Path) -> Sources:
    """Training data from a pack, or from the folder of the data sets.

    Raises:
        InputError: see :func:`read_pack` and :func:`monai_hyper.synthesis.sources.load_sources`.
    """
    return read_pack(path) if path.is_file() else load_sources(path)


def _read_cohort(array: Callable[[str], np.ndarray], name: str, facts: dict) -> Cohort:
    subjects = []
    for number, entry in enumerate(facts["subjects"]):
        image = None
        if "range" in entry:
            low, high = entry["range"]
            image = array(f"{name}/{number}/image").astype(np.float32) * ((high - low) / 255) + low
        subjects.append(subject(array(f"{name}/{number}/labels"), entry["spacing"], image))
    names = {int(value): tuple(called) for value, called in facts.get("names", {}).items()}  # older packs have none
    return Cohort(name, subjects, tuple(facts["foregrounds"]), facts["body_is_labelled"], facts["is_ct"], names)
