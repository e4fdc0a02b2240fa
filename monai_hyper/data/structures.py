"""Structures that DICOM objects mark on images, Segmentation (SEG) or Structure Set (RTSTRUCT), as masks."""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path

from monai.data import MetaTensor
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from torch import Tensor

from monai_hyper.data.annotation import read_annotation
from monai_hyper.data.dicom import DERIVED
from monai_hyper.data.dicom_seg import read_segments, segment_names
from monai_hyper.data.rtstruct import read_rois, roi_names
from monai_hyper.types import InputError

KINDS = ("SEG", "RTSTRUCT")
"""Modalities of the objects that are read."""

_MODALITY = 0x00080060


def is_structures(path: str | Path) -> bool:
    """Whether a path is a SEG or RTSTRUCT file, or a folder that holds such files and no image slices.

    Example:
        >>> is_structures("no/such/file.dcm")
        False
    """
    path = Path(path)
    if not path.is_dir():
        return path.is_file() and _modality(path) in KINDS
    found = False
    for file in _files(path):
        modality = _modality(file)
        if modality is not None and modality not in DERIVED:
            return False
        found |= modality in KINDS
    return found


def structure_names(path: str | Path) -> tuple[str, ...]:
    """Names of all structures, in the order of the files, without reading a voxel.

    Segments or regions of one name are one structure. Regions without a closed contour do not count.

    Args:
        path: a SEG or RTSTRUCT file, or a folder that holds some.

    Raises:
        InputError: if there is no such object, or one is unreadable or without structures.
    """
    return tuple(dict.fromkeys(name for _, _, names in _objects(Path(path)) for name in names))


def annotated_series(path: str | Path) -> set[str]:
    """UIDs of the series that the objects say they annotate.

    Raises:
        InputError: see :func:`structure_names`.
    """
    return {uid for file, _, _ in _objects(Path(path)) for uid in read_annotation(file).images}


def read_structures(path: str | Path, image: MetaTensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Masks of structures on the grid of an image.

    Segments are brought to it by nearest neighbour, contours are filled on its slices; see :func:`read_segments` and
    :func:`read_rois`.

    Args:
        path: a SEG or RTSTRUCT file, or a folder that holds some.
        image: the volume they annotate, ``(1, D, H, W)`` with its affine, RAS+ mm.
        names: which structures; None takes all.

    Returns:
        a boolean mask ``(D, H, W)`` by name, in the order of :func:`structure_names`.

    Raises:
        InputError: see :func:`structure_names`; for an unknown name; if objects lie outside of the image, or contours
            are not parallel to its slices.
    """
    path = Path(path)
    objects = _objects(path)
    known = tuple(dict.fromkeys(name for _, _, there in objects for name in there))
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise InputError(
            f"{path}: expected structures {', '.join(unknown)}, found {', '.join(known)}. Choose among these."
        )
    masks: dict[str, Tensor] = {}
    for file, kind, there in objects:
        wanted = [name for name in there if names is None or name in names]
        if wanted:
            read = read_segments if kind == "SEG" else read_rois
            for name, mask in read(file, image, wanted).items():
                masks[name] = masks[name] | mask if name in masks else mask
    return {name: masks[name] for name in known if name in masks}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _objects(path: Path) -> list[tuple[Path, str, tuple[str, ...]]]:
    """Files that hold structures, their kinds, and the names of their structures."""
    if not path.exists():
        raise InputError(f"{path}: expected a DICOM file or folder, found nothing. Check the path.")
    modalities = {file: _modality(file) for file in (_files(path) if path.is_dir() else [path])}
    found = [(file, modality) for file, modality in modalities.items() if modality in KINDS]
    if not found:
        others = sorted({modality for modality in modalities.values() if modality})
        raise InputError(
            f"{path}: expected a DICOM object of modality {' or '.join(KINDS)}, found "
            f"{', '.join(others) or 'no DICOM'}. Give the file of the structures."
        )
    return [(file, kind, segment_names(file) if kind == "SEG" else roi_names(file)) for file, kind in found]


def _modality(file: Path) -> str | None:
    """What a file holds, by its first few tags; None if it is no DICOM file."""
    try:
        with file.open("rb") as opened:
            data = read_partial(opened, stop_when=lambda tag, *_: tag > _MODALITY)
    except (InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, struct.error):
        return None
    return str(data.get("Modality") or "unknown")
