"""How images are prepared to be classified, defined here and nowhere else.

Everything is decided from the support set, written down as a :class:`ClassPlan`, and applied to support and query
alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from monai_hyper.data.examples import LabelledExamples, list_examples, read_examples
from monai_hyper.data.pictures import ARRAYS, PICTURES, to_grey
from monai_hyper.data.support import SupportSet
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.data.vocabulary import description
from monai_hyper.inference.pipeline import measure_modality
from monai_hyper.transforms.grid import ResampleToGrid, task_grid
from monai_hyper.transforms.intensity import harmonise_ct, harmonise_mr, harmonise_picture
from monai_hyper.types import InputError

Scale = Literal["CT", "MR", "picture"]
"""Hounsfield units; any scale, each image by its own body; or from the least to the greatest value of each image."""

LARGEST_SIDE = 64
"""Most voxels along a side of the grid."""

FEW_VALUES = 3
"""Images of no more different values are drawings or masks."""


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
    def from_dict(cls, entries: dict) -> ClassPlan:
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


def make_class_plan(
    pictures: Sequence[MetaTensor], classes: Sequence[str], texts: Sequence[str], drawn: bool, side: int = LARGEST_SIDE
) -> ClassPlan:
    """Decide from the examples how images of this task are prepared.

    The voxel of the grid is the finest of the examples, or as large as it takes for the longest side to have at most
    ``side`` voxels; the grid holds the largest example.

    Args:
        pictures: as read, ``(C, D, H, W)``; drawn: whether they are files without a size in mm.
    """
    flat = is_slice(pictures[0])
    grey = [to_grey(picture) for picture in pictures]
    sizes = [_size_mm(picture) for picture in grey]
    longest = max(max(size) for size in sizes)
    count = max(max(picture.shape[1:]) for picture in grey)
    unsized = drawn and len({tuple(picture.shape) for picture in grey}) > 1
    finest = min(min(s for s, n in zip(_spacing(picture), picture.shape[1:]) if n > 1) for picture in grey)
    spacing = max(finest, longest / side)
    grid = tuple(max(1, min(side, math.ceil(max(size[i] for size in sizes) / spacing - 1e-3))) for i in range(3))
    if unsized:
        grid = (min(side, count),) * 2 + (1 if flat else min(side, count),)
    grid = (*grid[:2], 1) if flat else grid
    scale = _scale(grey, drawn)
    window = _window(grey) if scale == "CT" else None
    return ClassPlan(
        scale, window, grid, None if unsized else round(spacing, 6), tuple(classes), tuple(texts), len(pictures[0])
    )


def _spacing(picture: MetaTensor) -> list[float]:
    return flattened(picture)[1] if is_slice(picture) else picture.affine[:3, :3].norm(dim=0).tolist()


def _size_mm(picture: MetaTensor) -> list[float]:
    """Sides of an image on the axes of the grid, mm."""
    if is_slice(picture):
        plane, spacing = flattened(picture)
        return [n * s for n, s in zip(plane.shape[1:], spacing)]
    finest = min(_spacing(picture))
    return [n * finest for n in task_grid(picture.affine, picture.shape[1:], finest)[1]]


def _scale(grey: Sequence[MetaTensor], drawn: bool) -> Scale:
    few = sum(len(torch.unique(picture.as_tensor())) <= FEW_VALUES for picture in grey) * 2 > len(grey)
    if drawn or few:
        return "picture"
    votes = [measure_modality(picture) for picture in grey]
    return "CT" if votes.count("CT") * 2 > len(votes) else "MR"


def _window(grey: Sequence[MetaTensor]) -> tuple[float, float]:
    """From the 1st to the 99th percentile of what is not air."""
    values = torch.cat([picture.as_tensor().flatten() for picture in grey])
    values = values[values > -500].sort().values
    if len(values) == 0:
        return -160.0, 240.0
    low, high = (float(values[round(q * (len(values) - 1))]) for q in (0.01, 0.99))
    return round(low, 1), round(max(high, low + 200.0), 1)


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
    spacing = _spacing(grey)
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


def read_class_support(folder: str | Path | LabelledExamples) -> tuple[SupportSet, ClassPlan]:
    """Read a folder with a sub-folder for every class, or a CSV file, as the support set of a classification task.

    Args:
        folder: see :func:`monai_hyper.data.examples.list_examples`.

    Returns:
        the support set, and how its images were prepared.

    Raises:
        InputError: for every defect of the folder and its files.
    """
    found = folder if isinstance(folder, LabelledExamples) else list_examples(folder)
    pictures = read_examples(found)
    texts = tuple(found.texts.get(name, "") for name in found.classes)
    vectors = torch.stack([description(text) if text else torch.zeros(TEXT_DIM) for text in texts])
    if not pictures:
        plan = ClassPlan("MR", None, (LARGEST_SIDE,) * 3, None, found.classes, texts, 1)
        return SupportSet(torch.zeros(0, 1, *plan.grid), torch.zeros(0).long(), found.classes, texts=vectors), plan
    drawn = all(example.image.name.lower().endswith((*PICTURES, *ARRAYS)) for example in found.examples)
    plan = make_class_plan(pictures, found.classes, texts, drawn)
    images = torch.stack([prepare(picture, plan) for picture in pictures])
    labels = torch.tensor([found.classes.index(example.label) for example in found.examples])
    return SupportSet(images, labels, found.classes, texts=vectors), plan
