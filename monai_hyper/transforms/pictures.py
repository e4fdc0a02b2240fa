"""How images are prepared to be classified: by a plan that the examples decide, see
:mod:`monai_hyper.inference.class_pipeline`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_hyper.data.pictures import read_picture, to_grey
from monai_hyper.transforms.grid import ResampleToGrid
from monai_hyper.transforms.intensity import harmonise_ct, harmonise_mr, harmonise_picture
from monai_hyper.types import InputError

Scale = Literal["CT", "MR", "picture"]
"""Hounsfield units; any scale, each image by its own body; or from the least to the greatest value of each image."""


@dataclass(frozen=True)
class ClassPlan:
    """How images are prepared for one task.

    Args:
        scale: see ``Scale``; window: lower and upper edge in HU for CT, None otherwise.
        grid: voxels of every image, the last axis one voxel for slices.
        spacing: side of a voxel, mm; None where images have no size: then the longest side of each fills the grid.
        classes: names of the classes; texts: what describes them, "" where nothing does.
        channels: of the images as read.

    Example:
        >>> plan = ClassPlan("MR", None, (28, 28, 28), 1.0, ("benign", "malignant"), ("", ""), 1)
        >>> ClassPlan.from_dict(plan.to_dict()) == plan
        True
    """

    scale: Scale
    window: tuple[float, float] | None
    grid: tuple[int, int, int]
    spacing: float | None
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    channels: int

    def to_dict(self) -> dict:
        """The plan in types that JSON knows."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: Mapping) -> ClassPlan:
        """The plan that :meth:`to_dict` wrote."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()})


def is_slice(picture: Tensor) -> bool:
    """Whether one axis of an image ``(C, D, H, W)`` has one voxel."""
    return 1 in picture.shape[1:]


def flattened(picture: MetaTensor) -> tuple[Tensor, list[float]]:
    """A slice ``(1, D, H, 1)`` with its one voxel along the last axis, and its spacing in mm."""
    spacing = picture.affine[:3, :3].norm(dim=0).tolist()
    axis = [i for i, side in enumerate(picture.shape[1:]) if side == 1][-1]
    rest = [i for i in range(3) if i != axis]
    return picture.as_tensor().movedim(axis + 1, -1), [*(spacing[i] for i in rest), 1.0]


def spacing_of(picture: MetaTensor) -> list[float]:
    """Sides of a voxel in mm; of a slice those of its plane come first."""
    return flattened(picture)[1] if is_slice(picture) else picture.affine[:3, :3].norm(dim=0).tolist()


def prepare(picture: MetaTensor, plan: ClassPlan) -> Tensor:
    """An image as the classifier sees it.

    Args:
        picture: as read, ``(C, D, H, W)``.

    Returns:
        ``(1, *plan.grid)`` float32.

    Raises:
        InputError: if it has other channels than the examples, or is a slice where they are volumes, or the reverse.
    """
    flat = plan.grid[2] == 1
    if len(picture) != plan.channels or is_slice(picture) != flat:
        kind = f"{plan.channels} channels and {'one slice' if flat else 'several slices'}"
        raise InputError(f"the image is {tuple(picture.shape)}; expected {kind}, as the examples have.")
    grey = to_grey(picture)
    spacing = spacing_of(grey)
    step = plan.spacing or max(n * s for n, s in zip(grey.shape[1:], spacing)) / max(plan.grid)
    image = _resized(grey, step) if flat else ResampleToGrid(step)(grey).as_tensor()
    image = _fitted(image, plan.grid)
    if plan.scale == "CT":
        return harmonise_ct(image, *plan.window)
    return harmonise_mr(image) if plan.scale == "MR" else harmonise_picture(image)


def _resized(picture: MetaTensor, step: float) -> Tensor:
    """A slice with square pixels of ``step`` mm, ``(1, D, H, 1)``."""
    plane, spacing = flattened(picture)
    size = [max(1, round(n * s / step)) for n, s in zip(plane.shape[1:3], spacing)]
    if size == list(plane.shape[1:3]):
        return plane
    return F.interpolate(plane[None, ..., 0], size, mode="bilinear", antialias=True)[0, ..., None]


def _fitted(image: Tensor, grid: Sequence[int]) -> Tensor:
    """The middle of an image on the grid; what lies beyond the image has its least value."""
    least = float(image.min())
    for axis, side in enumerate(grid, start=1):
        spare = side - image.shape[axis]
        if spare < 0:
            image = image.narrow(axis, -spare // 2, side)
        elif spare > 0:
            pads = [0] * 6
            pads[2 * (3 - axis)], pads[2 * (3 - axis) + 1] = spare // 2, spare - spare // 2
            image = F.pad(image, pads, value=least)
    return image


class ReadPictured(MapTransform):
    """Dictionary version of :func:`monai_hyper.data.pictures.read_picture`: from a path to ``(C, D, H, W)``."""

    def __call__(self, data: Mapping) -> dict:
        return {**data, **{key: read_picture(data[key]) for key in self.key_iterator(data)}}


class PreparePictured(MapTransform):
    """Dictionary version of :func:`prepare`.

    Args:
        plan: a :class:`ClassPlan`, or what :meth:`ClassPlan.to_dict` wrote.

    Example:
        >>> import torch
        >>> plan = ClassPlan("MR", None, (16, 16, 16), 1.0, ("benign", "malignant"), ("", ""), 1)
        >>> PreparePictured("image", plan.to_dict())({"image": MetaTensor(torch.rand(1, 12, 12, 12))})["image"].shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(self, keys: KeysCollection, plan: ClassPlan | Mapping, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plan = plan if isinstance(plan, ClassPlan) else ClassPlan.from_dict(plan)

    def __call__(self, data: Mapping) -> dict:
        return {**data, **{key: prepare(data[key], self.plan) for key in self.key_iterator(data)}}
