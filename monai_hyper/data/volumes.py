"""Read one volume from disk and refuse, before any work, what cannot be segmented."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import itk
import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import ITKReader, MetaTensor, NibabelReader
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from monai_hyper.data.dicom import Series, find_series, read_series
from monai_hyper.types import InputError

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""File names that are read; a folder is read as one DICOM series."""

_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, RuntimeError, ImageFileError, HeaderDataError)
_BYTES_PER_VOXEL = 16  # as stored, as converted, and a mask or two


@dataclass(frozen=True)
class Header:
    """What a file announces about its volume, known without reading a voxel.

    Args:
        shape: voxels per axis ``(D, H, W)``.
        spacing: distance of voxel centres per axis, mm.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]


def volume_name(path: str | Path) -> str:
    """File name without the suffix of a volume; a folder keeps its whole name.

    Example:
        >>> volume_name("images/case.01.nii.gz")
        'case.01'
    """
    path = Path(path)
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and not path.is_dir():
            return path.name[: -len(suffix)]
    return path.name


def read_header(path: str | Path, series: Collection[str] = ()) -> Header:
    """Shape and spacing of a volume, checked, without reading its voxels.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha``, or a folder that holds one DICOM series.
        series: UIDs; of several series in a folder one of these is meant.

    Raises:
        InputError: if the file is missing, of another kind, unreadable, not one three-dimensional volume of
            single numbers, empty, without a positive spacing, or larger than the free memory.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: expected a volume, found nothing. Check the path.")
    if not path.is_dir() and not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: expected {', '.join(SUFFIXES)} or a folder of one DICOM series. Convert the file.")
    try:
        if path.is_dir():
            header = _series_header(path, series)
        else:
            header = _nifti_header(path) if _is_nifti(path) else _itk_header(path)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if len(header.shape) != 3:
        raise InputError(
            f"{path}: expected a volume of 3 axes, found shape {header.shape}. "
            "Save one volume per file; a series over time or channels has to be split."
        )
    if 0 in header.shape:
        raise InputError(f"{path}: expected voxels, found an empty volume of shape {header.shape}. Export it again.")
    if not all(math.isfinite(s) and s > 0 for s in header.spacing):
        raise InputError(
            f"{path}: expected a positive spacing in mm on every axis, found {header.spacing}. Correct the header."
        )
    needed, free = math.prod(header.shape) * _BYTES_PER_VOXEL, free_memory()
    if needed > free:
        raise InputError(
            f"{path}: its header announces {header.shape} voxels, about {needed / 2**30:.1f} GiB; "
            f"{free / 2**30:.1f} GiB are free. Check the header, crop or resample the volume."
        )
    return header


def free_memory() -> int:
    """Memory that can be used now, bytes."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_image(path: str | Path, series: Collection[str] = ()) -> MetaTensor:
    """Read an image.

    Args:
        path, series: see :func:`read_header`.

    Returns:
        ``(1, D, H, W)`` float32, intensities as stored (HU for CT), with its affine (RAS+, mm).

    Raises:
        InputError: see :func:`read_header`; and for NaN or infinite voxels.
    """
    array, affine = _read(Path(path), series)
    array = array.astype(np.float32, copy=False)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise InputError(
            f"{path}: expected finite intensities, found {bad} NaN or infinite voxels. Replace them in the file."
        )
    return _volume(array, affine, path)


def read_label(path: str | Path) -> MetaTensor:
    """Read a label map; files that hold whole numbers as floats are fine.

    Args:
        path: see :func:`read_header`.

    Returns:
        ``(1, D, H, W)`` int64, with its affine (RAS+, mm).

    Raises:
        InputError: see :func:`read_header`; and for values that are not whole numbers from 0 upward.
    """
    array, affine = _read(Path(path))
    if array.dtype.kind == "f":
        bad = array[~(np.isfinite(array) & (np.rint(array) == array))]
        if bad.size:
            raise InputError(
                f"{path}: expected whole numbers as labels, found {bad.size} voxels such as {bad[0]:g}. "
                "Resample label maps with nearest neighbour, and give a label map, not an image."
            )
    array = array.astype(np.int64)
    if array.min() < 0:
        raise InputError(f"{path}: expected labels from 0 upward, found {array.min()}. Give classes positive values.")
    return _volume(array, affine, path)


def _is_nifti(path: Path) -> bool:
    return not path.is_dir() and path.name.lower().endswith((".nii", ".nii.gz"))


def _unreadable(path: Path, error: Exception) -> InputError:
    kind = "a DICOM series" if path.is_dir() else "a volume"
    return InputError(
        f"{path}: expected {kind} that can be read, found a corrupt or truncated one ({type(error).__name__}). "
        "Copy or export it again."
    )


def _nifti_header(path: Path) -> Header:
    image = nibabel.load(path)
    with ImageOpener(path) as file:  # nibabel repairs spacings silently; here they are needed as they were written
        raw = type(image.header).from_fileobj(file, check=False)
    if image.get_data_dtype().names is not None or image.get_data_dtype().kind == "c":
        raise InputError(f"{path}: expected one number a voxel, found colours or complex ones. Convert it to scalars.")
    shape, spacing = list(image.shape), raw["pixdim"][1:4].tolist()
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) == 3:
        _check_affine(path, image.affine)
    return Header(tuple(shape), tuple(spacing))


def _series_header(folder: Path, among: Collection[str]) -> Header:
    series = find_series(folder, among)
    if series.affine is None:
        return _itk_header(series.files[0])
    return Header(series.shape, tuple(np.linalg.norm(series.affine[:3, :3], axis=0).tolist()))


def _itk_header(path: Path) -> Header:
    if path.suffix in (".nrrd", ".mha"):
        _check_spacing_is_written(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape, spacing = list(reader.GetSize()), reader.GetSpacing()
    if reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: expected one number a voxel, found {reader.GetNumberOfComponents()}. Convert colours to scalars."
        )
    if len(shape) == 4 and shape[-1] == 1:
        shape.pop()
    return Header(tuple(shape), tuple(spacing[: len(shape)]))


def _check_spacing_is_written(path: Path) -> None:
    """ITK takes 1 mm where a NRRD or MetaImage header says nothing about spacing."""
    with path.open("rb") as file:
        head = file.read(4096).lower()
    if not any(word in head for word in (b"spacings:", b"space directions:", b"elementspacing", b"elementsize")):
        raise InputError(f"{path}: expected a spacing in mm, found none in the header. Write it into the header.")


def _check_affine(path: Path, affine: np.ndarray) -> None:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (sides == 0).any() or abs(np.linalg.det(affine[:3, :3] / sides)) < 1e-3:
        raise InputError(
            f"{path}: expected an affine that gives every voxel its own place, found {affine[:3].tolist()}. "
            "Correct the header."
        )


def _read(path: Path, series: Collection[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(D, H, W)`` as stored and affine ``(4, 4)``, RAS+ mm, by MONAI's readers."""
    header = read_header(path, series)
    factor = 1.0
    if path.is_dir():
        found = find_series(path, series)
        if found.affine is not None:
            return _read_stack(path, found)
        path, factor = found.files[0], found.factor
    # ITK's Python types have no 64 bit integers; float32 holds every intensity in use and labels up to 16 million.
    reader = NibabelReader() if _is_nifti(path) else ITKReader(pixel_type=itk.F)
    try:
        array, meta = reader.get_data(reader.read(path))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if math.prod(array.shape) != math.prod(header.shape):
        raise InputError(
            f"{path}: expected {header.shape} voxels as announced, found {array.shape}. "
            "Export the volume again as one file or one complete series."
        )
    affine = np.eye(4)
    read = np.asarray(meta["affine"], dtype=np.float64)
    rank = min(len(read) - 1, 3)
    affine[:rank, :rank], affine[:rank, 3] = read[:rank, :rank], read[:rank, -1]
    _check_affine(path, affine)
    array = np.asarray(array).reshape(header.shape)
    return array if factor == 1 else array * np.float32(factor), affine


def _read_stack(folder: Path, series: Series) -> tuple[np.ndarray, np.ndarray]:
    try:
        return read_series(series), series.affine.copy()  # what was found of a folder is kept
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error


def _volume(array: np.ndarray, affine: np.ndarray, path: str | Path) -> MetaTensor:
    """A MetaTensor that carries its affine and file, and nothing else of the header: no patient's name travels on."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)[None])
    return MetaTensor(tensor, affine=torch.from_numpy(affine), meta={"filename_or_obj": str(path)})
