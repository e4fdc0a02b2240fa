"""Where the images of a classification task look: volumes or slices around what every case shows, nearer or farther."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from monai_hyper.synthesis.frames import Frame
from monai_hyper.synthesis.geometry import rotations

PLANES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""Axes of the body that the axes of slices run along, and the one across them: axial, coronal, sagittal."""

SLAB = 14
"""Planes of the slab that a silhouette is the shadow of."""


@dataclass(frozen=True)
class ClassLayout:
    """What the tasks of a batch share.

    Args:
        size: voxels along the axes, the last of them 1 for slices; classes: number ``N``.
        shots, queries: of every class.
    """

    size: tuple[int, int, int]
    classes: int
    shots: int
    queries: int

    @cached_property
    def numbers(self) -> np.ndarray:
        """Class of every case: of the examples, class after class, and then of the queries."""
        classes = np.arange(self.classes)
        return np.concatenate([classes.repeat(self.shots), classes.repeat(self.queries)])

    @property
    def cases(self) -> int:
        return self.classes * (self.shots + self.queries)

    @property
    def examples(self) -> int:
        return self.classes * self.shots

    @property
    def flat(self) -> bool:
        return self.size[2] == 1


@dataclass(frozen=True)
class View:
    """How cases are looked at.

    Args:
        margin: fields of view are between so many times as long as what is shown.
        free: whether all cases of a task may be mirrored and turned by quarters.
        turned: standard deviation of a case's own angles in degrees; scaled: of the logarithm of its size.
        moved: standard deviation of its place, in sides.
        bend: least and greatest standard deviation of the bending, in sides.
        planes: numbers of the ``PLANES`` that slices show.
    """

    margin: tuple[float, float]
    free: bool = True
    turned: float = 9
    scaled: float = 0.1
    moved: float = 0.05
    bend: tuple[float, float] = (0.01, 0.04)
    planes: tuple[int, ...] = (0, 1, 2)


def looked_at(
    view: View, middle: np.ndarray, extent: np.ndarray, total: np.ndarray, layout: ClassLayout, rng: np.random.Generator
) -> Frame:
    """Grids around what the cases show; of one size in mm, about, in half of the tasks.

    Args:
        middle, extent: of the boxes around what is shown, in mm, ``(C, 3)``; total: sides of all there is, ``(3,)``.
    """
    axes, signs = _axes(view, layout, rng)
    sides = np.array(layout.size[:2] if layout.flat else layout.size)
    shown = extent[:, axes[: len(sides)]]
    near = (shown / sides).max(1)  # mm of a voxel where what is shown just fits
    margin = np.exp(rng.uniform(*np.log(view.margin)))
    spacing = margin * near
    if rng.random() < 0.5:
        spacing = np.clip(np.exp(np.log(spacing).mean()), 1.1 * near, view.margin[1] * near)
    spacing = np.minimum(spacing, np.maximum(1.1 * (total[axes[: len(sides)]] / sides).max(), 1.05 * near))
    own = rng.standard_normal((len(middle), 7)).clip(-2, 2)
    scale = np.exp((own[:, 3:4] + own[:, 4:] / 3) * view.scaled)
    common = turns(4 * rng.standard_normal((1, 3)))[0]
    columns = np.zeros((3, 3))
    columns[axes, range(3)] = signs
    matrix = turns(own[:, :3] * view.turned) * scale[:, None, :] @ common @ columns * spacing[:, None, None]
    away = view.moved * rng.standard_normal(middle.shape).clip(-2, 2) * layout.size
    if layout.flat:
        away[:, 2] = 0.08 * rng.standard_normal(len(middle)).clip(-2, 2) * extent[:, axes[2]] / spacing
    centre = middle + (matrix @ away[..., None])[..., 0]
    bend = rng.uniform(*view.bend) * max(layout.size)
    return Frame(matrix, centre, np.zeros_like(middle), bend, int(rng.integers(3, 6)))


def _axes(view: View, layout: ClassLayout, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Axis of the body that each axis of the grid runs along, and whether upwards."""
    axes = list(PLANES[int(rng.choice(view.planes))]) if layout.flat else [0, 1, 2]
    signs = np.ones(3)
    if view.free:
        signs = np.where(rng.random(3) < 0.3, -1.0, 1.0)
        if rng.random() < 0.25:
            axes = [axes[1], axes[0], axes[2]] if layout.flat else list(rng.permutation(3))
    return axes, signs


def turns(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrices for angles in degrees, ``(n, 3)`` to ``(n, 3, 3)``."""
    return rotations(torch.from_numpy(np.radians(degrees))).numpy()


def around(extent: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Lengths of the boxes around turned ellipsoids, ``(C, 3)``; turn: from body to grid, ``(C, 3, 3)``."""
    return np.sqrt(((turn * extent[:, None, :]) ** 2).sum(-1))


def magnified(points: Tensor, middle: np.ndarray, extent: np.ndarray, growth: np.ndarray) -> Tensor:
    """Positions that show what is in the middle larger or smaller than before, and what is around it as it was.

    Places near the middle are drawn towards it or pushed away by a Gaussian of their distance; nothing folds as long as
    growth is between 0.35 and infinity.

    Args:
        points: in mm, ``(C, 3, D, H, W)``; middle, extent: of what grows, in mm, ``(C, 3)``.
        growth: factor of its size, ``(C,)``.
    """
    reach = np.maximum(extent, 0.3 * extent.max(1, keepdims=True)) * 0.5
    middle, reach = (torch.from_numpy(x).to(points).view(-1, 3, 1, 1, 1) for x in (middle, reach))
    more = torch.from_numpy(1 / growth - 1).to(points).view(-1, 1, 1, 1, 1)
    away = points - middle
    return points + away * more * torch.exp(-0.5 * (away / reach).square().sum(1, keepdim=True))
