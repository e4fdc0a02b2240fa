"""Label maps as clients send them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_hyper.data.folder import refuse_other_grid
from monai_hyper.data.labels import label_values
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.label.names import Names, named
from monai_hyper.types import InputError


def read_sent(path: Path, image_path: Path, names: Names, label_info: object = None) -> MetaTensor:
    """A label map on the grid of its image, in the values that names have here.

    Args:
        path: ``.nii.gz``, ``.nii``, ``.nrrd``, ``.mha``; or ``.bin``: one byte a voxel, the first axis fastest.
        image_path: of its image.
        names: grows with what is new.
        label_info: the client's names, see :func:`named`; default: those in the file (``.seg.nrrd``), else values.

    Returns:
        ``(1, D, H, W)`` int64.

    Raises:
        InputError: if it is no label map, or lies on another grid.
    """
    image = read_image(image_path)
    label = _raw(path, image) if path.suffix == ".bin" else read_label(path)
    refuse_other_grid(image, label, "the label", "its image")
    values = [value for value in label_values(label) if value]
    given = _segments(path) if not label_info and path.suffix == ".nrrd" else None
    found = {value: given[value] for value in values if value in given} if given else named(values, label_info)
    table = torch.zeros(max(values, default=0) + 1, dtype=torch.int64)
    for value in values:
        name = found.get(value)
        table[value] = names.values([name or names.name(value)])[0]
    return MetaTensor(table[label.as_tensor().long()], affine=image.affine)


def _raw(path: Path, image: MetaTensor) -> MetaTensor:
    flat, shape = np.fromfile(path, np.uint8), tuple(image.shape[1:])
    if flat.size != image.numel():
        raise InputError(
            f"the label: expected {image.numel()} bytes, one for each voxel of its image, found {flat.size}. "
            "Send it on the image's grid."
        )
    array = flat.reshape(shape, order="F").astype(np.int64)
    return MetaTensor(torch.from_numpy(array)[None], affine=image.affine)


def _segments(path: Path) -> dict[int, str]:
    """Names by value in the header of a segmentation that 3D Slicer wrote."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    found = {}
    for key in reader.GetMetaDataKeys():
        match = re.fullmatch(r"Segment(\d+)_LabelValue", key)
        if match and reader.HasMetaDataKey(f"Segment{match[1]}_Name"):
            found[int(reader.GetMetaData(key))] = reader.GetMetaData(f"Segment{match[1]}_Name")
    return found


def checked_name(text: str, what: str) -> str:
    """A name that a client chose, once it is known to be no path.

    Raises:
        InputError: if it is empty, too long, or holds anything but letters, digits, space, dot, dash and underscore.
    """
    if not re.fullmatch(r"[\w][\w .-]{0,127}", text) or ".." in text:
        raise InputError(f"{what}: expected letters, digits, dots, dashes and underscores, found {text[:80]!r}.")
    return text


def shown(label: MetaTensor, values: Sequence[int]) -> MetaTensor:
    """A label map with nothing but these values."""
    keep = torch.isin(label.as_tensor(), torch.tensor(list(values)))
    return MetaTensor(torch.where(keep, label.as_tensor(), 0), affine=label.affine)
