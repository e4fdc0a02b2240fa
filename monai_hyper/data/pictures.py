"""Read one image to classify: a volume, a DICOM file or series, a picture, or an array."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from PIL import Image, ImageOps
from pydicom.errors import InvalidDicomError

from monai_hyper.data.dicom import DERIVED
from monai_hyper.data.volumes import SUFFIXES as VOLUMES
from monai_hyper.data.volumes import read_image
from monai_hyper.types import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
"""File names that pillow reads."""

ARRAYS = (".npz", ".npy")
"""File names that NumPy reads."""

_KEYS = ("image", "images", "data")
_UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, RuntimeError, MemoryError, struct.error, zlib.error,
               zipfile.BadZipFile, Image.DecompressionBombError)  # fmt: skip
_HEADER = ("Modality", "SeriesInstanceUID", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
           "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "Units")  # fmt: skip


def is_picture(path: str | Path) -> bool:
    """Whether :func:`read_picture` reads files of this name, or of this beginning (DICOM).

    Example:
        >>> is_picture("skin.JPG"), is_picture("notes.txt")
        (True, False)
    """
    path = Path(path)
    return path.name.lower().endswith((*VOLUMES, *PICTURES, *ARRAYS)) or is_dicom(path)


def is_dicom(path: str | Path) -> bool:
    """Whether a file is called ``.dcm``, or begins as DICOM files do."""
    path = Path(path)
    if path.suffix.lower() == ".dcm" or not path.is_file():
        return path.suffix.lower() == ".dcm"
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def find_images(path: str | Path) -> list[Path]:
    """Images to classify: a file, a folder of them, a folder of one DICOM series, or of such.

    Raises:
        InputError: if there is nothing.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such query; expected an image or a folder of images. Check the path.")
    if path.is_file():
        return [path]
    found = sorted(f for f in path.iterdir() if not f.name.startswith("."))
    files = [f for f in found if f.is_file() and is_picture(f)]
    if files and all(f.suffix.lower() in (".dcm", "") for f in files):
        return [path]
    images = files + [f for f in found if f.is_dir()]
    if not images:
        raise InputError(f"{path}: expected images, found none. Check the path and the files' suffixes.")
    return images


def read_picture(path: str | Path, index: int | None = None) -> MetaTensor:
    """Read an image.

    A picture is a volume of one slice: its first axis runs along the columns (left to right), the second along the
    rows (top to bottom), the third has length 1, and pixels measure 1. So are flat arrays, which are stored rows first;
    arrays of three axes are volumes in their own order, unless the last axis is 3: that is a flat image's colours.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha``; a DICOM file, or a folder of one DICOM series; ``.png``,
            ``.jpg``, ``.jpeg``, ``.bmp``; or ``.npz``, ``.npy`` with one image (of several arrays "image", "images" or
            "data" is read).
        index: of an array, the image at this place of the first axis; for arrays only.

    Returns:
        ``(C, D, H, W)`` float32, intensities as stored (HU for CT), with its affine (RAS+, mm). ``C`` is 3 (red, green,
        blue) in colour, else 1: equal channels are grey, transparency is dropped, and bright is always large.

    Raises:
        InputError: if the file is missing, of another kind, unreadable or empty; for pickled objects, NaN or infinite
            values, and an index that is not there.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: expected an image, found nothing. Check the path.")
    kind = path.name.lower()
    if index is not None and not kind.endswith(ARRAYS):
        raise InputError(f"{path}: expected .npz or .npy for image number {index}, found another file. Drop the index.")
    if path.is_dir():
        only = _only_file(path)
        return read_image(path) if only is None else _read_dicom(only)
    if kind.endswith(VOLUMES):
        return read_image(path)
    if kind.endswith(PICTURES):
        return _picture(decoded(path.read_bytes(), path), path)
    if kind.endswith(ARRAYS):
        return _picture(_channels_first(read_array(path), index, path), path)
    if is_dicom(path):
        return _read_dicom(path)
    raise InputError(
        f"{path}: expected {', '.join((*VOLUMES, *PICTURES, *ARRAYS))}, DICOM or a folder of one DICOM series, found "
        "another file. Convert it."
    )


def to_grey(picture: MetaTensor) -> MetaTensor:
    """Luminance of an image by ITU-R BT.601, https://www.itu.int/rec/R-REC-BT.601; a grey image stays as it is.

    Args:
        picture: ``(1, D, H, W)`` or, in red, green and blue, ``(3, D, H, W)``.

    Returns:
        ``(1, D, H, W)``, on the same grid.

    Raises:
        InputError: for another number of channels.

    Example:
        >>> round(to_grey(MetaTensor(torch.tensor([255.0, 0, 0]).view(3, 1, 1, 1))).item(), 3)
        76.245
    """
    if picture.shape[0] == 1:
        return picture
    if picture.shape[0] != 3:
        name = picture.meta.get("filename_or_obj", "the image") if isinstance(picture, MetaTensor) else "the image"
        raise InputError(f"{name}: expected 1 or 3 channels, found {picture.shape[0]}. Give a grey or colour image.")
    return 0.299 * picture[:1] + 0.587 * picture[1:2] + 0.114 * picture[2:]


def decoded(content: bytes, name: str | Path) -> np.ndarray:
    """Pixels of a PNG, JPEG or BMP file, upright as its viewers show it.

    Args:
        content: of the file; name: for the message.

    Returns:
        ``(1, columns, rows, 1)`` uint8 or of more bits if grey, ``(3, columns, rows, 1)`` uint8 in colour.

    Raises:
        InputError: if it is another kind of file, or corrupt.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP")) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode in ("1", "LA"):
                image = image.convert("L")
            elif image.mode != "L" and not image.mode.startswith(("I", "F")):
                image = image.convert("RGBA" if image.mode == "P" else image.mode).convert("RGB")
            array = np.asarray(image)
    except _UNREADABLE as error:
        raise _unreadable(name, "a picture", error) from error
    return _flat(array)


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """An array of numbers of a ``.npz`` or ``.npy`` file. Pickled objects are never loaded; do not write to the array.

    Args:
        key: its name; else the only one, or the first of "image", "images" and "data".

    Raises:
        InputError: if the file is missing, unreadable, or has no such array of real numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of arrays, found nothing. Check the path.")
    state = path.stat()
    return _array(path, key, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)  # of a stack one image is asked for after the other
def _array(path: Path, key: str | None, modified: int, size: int) -> np.ndarray:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.ndarray):
                found = found[_key(path, found.files, key)]
            elif key is not None:
                raise InputError(f"{path}: expected a .npz file with an array called {key}, found one without names.")
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, "arrays of numbers without pickled objects", error) from error
    if found.dtype.kind not in "buif":
        raise InputError(f"{path}: expected real numbers, found {found.dtype}. Save the array as numbers.")
    found.flags.writeable = False
    return found


def _key(path: Path, names: list[str], key: str | None) -> str:
    wanted = _KEYS if key is None else (key,)
    if key is None and len(names) == 1:
        return names[0]
    for name in wanted:
        if name in names:
            return name
    known = ", ".join(names) or "none"
    raise InputError(f"{path}: expected an array called {' or '.join(wanted)}, found {known}. Rename the array.")


def _channels_first(array: np.ndarray, index: int | None, path: Path) -> np.ndarray:
    if index is not None:
        if array.ndim < 3 or not 0 <= index < len(array):
            raise InputError(
                f"{path}: expected a stack with an image number {index}, found an array of shape {array.shape}. "
                "Images are numbered from 0 along the first axis."
            )
        array = array[index]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3):
        return _flat(array)
    if array.ndim != 3:
        raise InputError(
            f"{path}: expected one image, flat, of three axes, or flat with 3 colours last, found shape {array.shape}. "
            "Of a stack, give the index of the image."
        )
    return array[None]


def _flat(array: np.ndarray) -> np.ndarray:
    """``(rows, columns)`` or ``(rows, columns, 3)`` as ``(C, columns, rows, 1)``."""
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).swapaxes(1, 2)[..., None]


def _picture(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> MetaTensor:
    if array.size == 0:
        raise InputError(f"{path}: expected pixels, found an empty image of shape {array.shape}. Export it again.")
    if len(array) == 3 and (array[:1] == array[1:]).all():
        array = array[:1]
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise InputError(
            f"{path}: expected finite intensities, found {bad} NaN or infinite ones. Replace them in the file."
        )
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array)),
        affine=torch.from_numpy(np.eye(4) if affine is None else affine),
        meta={"filename_or_obj": str(path)},
    )


def _only_file(folder: Path) -> Path | None:
    """The only file of a folder, if it is a DICOM image without a position, such as an X-ray."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if len(files) != 1 or not is_dicom(files[0]):
        return None
    header = _header(files[0])
    alone = header.get("ImagePositionPatient") is None and int(header.get("NumberOfFrames", 1) or 1) == 1
    return files[0] if alone else None


def series_of(path: str | Path) -> str:
    """SeriesInstanceUID of a DICOM file, empty where it has none.

    Raises:
        InputError: if it is no DICOM file.
    """
    return str(_header(Path(path)).get("SeriesInstanceUID", ""))


def _header(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
    except (InvalidDicomError, *_UNREADABLE) as error:
        raise _unreadable(path, "a DICOM file", error) from error


def _read_dicom(path: Path) -> MetaTensor:
    """One DICOM file; ITK applies slope and intercept, turns MONOCHROME1 round and decodes compressed pixels."""
    header = _header(path)
    if header.get("Modality") in DERIVED:
        raise InputError(f"{path}: expected an image, found an annotation ({header.Modality}). Take it away.")
    if header.get("Modality") == "PT" and header.get("Units") != "GML":
        raise InputError(
            f"{path}: expected PET as a folder of one series, to give SUV, found one file. Put it in a folder."
        )
    try:
        image = sitk.ReadImage(str(path))
    except _UNREADABLE as error:
        raise _unreadable(path, "a DICOM image", error) from error
    array = sitk.GetArrayFromImage(image)
    colours = image.GetNumberOfComponentsPerPixel()
    if colours not in (1, 3):
        raise InputError(f"{path}: expected a grey or colour image, found {colours} channels. Convert it.")
    array = array.transpose(3, 2, 1, 0) if colours == 3 else array.T[None]
    return _picture(array.reshape(array.shape[0], *array.shape[1:3], -1), path, _affine(header, image))


def _affine(header: pydicom.Dataset, image: sitk.Image) -> np.ndarray:
    """``(4, 4)``, RAS+ mm; of an image without position only the size of its pixels is known."""
    affine, direction = np.eye(4), np.array(image.GetDirection()).reshape(3, 3)
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        placed, spacing = True, np.array(image.GetSpacing())
    else:
        placed = all(header.get(tag) is not None for tag in ("ImagePositionPatient", "ImageOrientationPatient"))
        row, column = (float(each) for each in header.get("PixelSpacing") or header.get("ImagerPixelSpacing") or (1, 1))
        spacing = np.array([column, row, float(header.get("SliceThickness") or 1) if placed else 1.0])
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(f"{header.filename}: expected positive spacings, found {spacing.tolist()} mm. Correct them.")
    if not placed:
        return np.diag([*spacing, 1.0])
    affine[:3, :3], affine[:3, 3] = direction * spacing, image.GetOrigin()
    affine[:2] *= -1  # the patient's left and back are positive in DICOM
    return affine


def _unreadable(path: str | Path, wanted: str, error: Exception) -> InputError:
    return InputError(
        f"{path}: expected {wanted}, found a file of another kind, corrupt or truncated ({type(error).__name__}: "
        f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Copy or export it again."
    )
