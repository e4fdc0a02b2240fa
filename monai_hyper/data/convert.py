"""Bring downloaded training data into the layout that this package reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

from monai_hyper.data.folder import read_description
from monai_hyper.data.layouts import LAYOUTS, Layout
from monai_hyper.types import InputError


def convert_folder(data: Path, layout: str, output: Path) -> list[str]:
    """Bring a downloaded source into ``output/labels``, ``output/images`` and ``output/dataset.json``.

    Everything is written beside ``output`` and renamed when it is complete; an existing ``output`` is replaced then.

    Args:
        data: the downloaded folder; a folder above the files that are needed is fine.
        layout: key of :data:`LAYOUTS`.

    Returns:
        names of the cases.

    Raises:
        InputError: for an unknown layout, a missing or damaged file, volumes that do not fit together, or an
            ``output`` that holds ``data`` or is no data set.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout '{layout}': unknown; expected one of {', '.join(LAYOUTS)}.")
    if not data.is_dir():
        raise InputError(f"{data}: expected the folder of the downloaded data, found none. Check the path.")
    if output.resolve() in (data.resolve(), *data.resolve().parents):
        raise InputError(f"{output}: holds the data to convert ({data}). Choose another --output.")
    if output.exists() and not (output / "labels").is_dir():
        raise InputError(f"{output}: expected a data set to replace, found no labels/ in it. Choose another --output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".convert-") as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        names = _write(LAYOUTS[layout], data.resolve(), new, output.name)
        if output.exists():
            os.replace(output, old)
        os.replace(new, output)
    return names


def _write(layout: Layout, data: Path, folder: Path, title: str) -> list[str]:
    """Write the cases of ``data`` into the new ``folder``; returns their names."""
    splits: dict[str, list[str]] = {}
    names: list[str] = []
    (folder / "labels").mkdir(parents=True)
    for case in layout.read(data):
        if case.name in names:
            raise InputError(f"{data}: found two cases '{case.name}'; expected one. Give the folder of one download.")
        names.append(case.name)
        _save(case.labels, case.affine, folder / "labels" / f"{case.name}.nii.gz")
        if case.image is not None:
            (folder / "images").mkdir(exist_ok=True)
            _save(case.image, case.affine, folder / "images" / f"{case.name}.nii.gz")
        if case.names is not None:
            (folder / f"{case.name}.json").write_text(json.dumps(case.names, indent=1), encoding="utf-8")
        if case.split is not None:
            splits.setdefault(case.split, []).append(case.name)
    if not names:
        raise InputError(f"{data}: expected at least one case, found none that is large enough. Check the download.")
    for split, members in layout.splits.items():
        splits[split] = [name for name in members if name in names]
    facts = layout.facts or read_description(data)
    description = {**facts, "name": title, "cases": len(names), **({"split": splits} if splits else {})}
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return names


def _save(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write whole numbers in the smallest of uint8 and int16 that holds them, anything else as float32."""
    whole = array.dtype.kind in "biu" or bool((np.rint(array) == array).all())
    low, high = float(array.min()), float(array.max())
    kind = np.float32
    if whole and low >= -(2**15) and high < 2**15:
        kind = np.uint8 if low >= 0 and high < 2**8 else np.int16
    nib.save(nib.Nifti1Image(array.astype(kind), affine), path)
