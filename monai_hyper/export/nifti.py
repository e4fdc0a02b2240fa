"""Write volumes as NIfTI, all of it or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
from monai.data import MetaTensor

from monai_hyper.types import InputError


def save_label(label: MetaTensor, path: str | Path, overwrite: bool = False, note: str = "") -> Path:
    """Save a label map; the file appears under its name only when it is complete.

    Args:
        label: ``(1, D, H, W)`` of whole numbers from 0 upward, with its affine (RAS+, mm).
        path: ``.nii.gz`` or ``.nii``; its folder is made.
        note: description in the header, at most 79 bytes.
        overwrite: whether an existing file may be replaced.

    Returns:
        ``path``.

    Raises:
        InputError: if the file exists and may not be replaced, for another suffix or shape, and negative labels.
    """
    path = Path(path)
    _refuse(path, overwrite)
    if label.ndim != 4 or label.shape[0] != 1 or int(label.min()) < 0:
        raise InputError(f"{path}: expected labels (1, D, H, W) from 0 upward, found {tuple(label.shape)}.")
    array = label[0].cpu().numpy()
    return _write(array.astype(np.min_scalar_type(int(array.max()))), label, path, note)


def save_image(image: MetaTensor, path: str | Path, overwrite: bool = False) -> Path:
    """Save an image as float32, as :func:`save_label` saves label maps.

    Args:
        image: ``(1, D, H, W)`` with its affine (RAS+, mm).

    Raises:
        InputError: if the file exists and may not be replaced, and for another suffix.
    """
    path = Path(path)
    _refuse(path, overwrite)
    return _write(image[0].cpu().numpy().astype(np.float32), image, path)


def _refuse(path: Path, overwrite: bool) -> None:
    if not path.name.endswith((".nii.gz", ".nii")):
        raise InputError(f"{path}: expected a name that ends in .nii.gz or .nii. Choose such a name.")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: the file exists already. Choose another output or allow it with --overwrite.")


def _write(array: np.ndarray, volume: MetaTensor, path: Path, note: str = "") -> Path:
    affine = volume.affine.cpu().double().numpy()
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nibabel.save(image, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
