"""How images are prepared to be classified, decided here and nowhere else.

Everything is decided from the support set, written down as a :class:`ClassPlan`, and applied to support and query
alike, see :mod:`monai_hyper.transforms.pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.data import MetaTensor

from monai_hyper.data.examples import LabelledExamples, list_examples, read_examples
from monai_hyper.data.pictures import ARRAYS, PICTURES, to_grey
from monai_hyper.data.support import SupportSet
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.data.vocabulary import description
from monai_hyper.inference.pipeline import measure_modality
from monai_hyper.transforms.grid import task_grid
from monai_hyper.transforms.pictures import ClassPlan, Scale, flattened, is_slice, prepare, spacing_of

LARGEST_SIDE = 64
"""Most voxels along a side of the grid."""

FEW_VALUES = 3
"""Images of no more different values are drawings or masks."""


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
    finest = min(min(s for s, n in zip(spacing_of(picture), picture.shape[1:]) if n > 1) for picture in grey)
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


def _size_mm(picture: MetaTensor) -> list[float]:
    """Sides of an image on the axes of the grid, mm."""
    if is_slice(picture):
        plane, spacing = flattened(picture)
        return [n * s for n, s in zip(plane.shape[1:], spacing)]
    finest = min(spacing_of(picture))
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
