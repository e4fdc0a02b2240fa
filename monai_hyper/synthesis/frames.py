"""Where the volumes of a task look: grids of one size, placed in every anatomy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_hyper.synthesis.geometry import centre_grid, rotations
from monai_hyper.synthesis.operators import smooth_noise
from monai_hyper.synthesis.plans import Plan

MARGIN, RIM = 1.6, 12
"""Sides of windows: so many times what is wanted, and so many voxels; as the cascade of networks cuts them."""

FARTHEST = 0.35
"""Fields of view lie elsewhere by up to this share of a side."""

ALIGNMENT_ERROR = 1.0
"""Standard deviation, in voxels, of an offset about the true one."""


@dataclass(frozen=True)
class Frame:
    """Fields of view of the cases of one task.

    Args:
        matrix: from voxels, counted from the middle of the grid, to mm, ``(C, 3, 3)``.
        centre: where the middle of the grid lies in mm, ``(C, 3)``.
        offsets: from the common frame to the case, in voxels, see :class:`TaskBatch`, ``(C, 3)``.
        bend: standard deviation of the bending in voxels, over ``knots`` knots a side.
    """

    matrix: np.ndarray
    centre: np.ndarray
    offsets: np.ndarray
    bend: float
    knots: int


def grid_size(plan: Plan, voxels: float, local: bool, rng: np.random.Generator) -> list[int]:
    """Voxels along the axes of a field of view around what a task wants, ``voxels`` of them in all, about."""
    extent = plan.extent.max(0)
    if local:  # MARGIN * extent / spacing + RIM voxels a side
        low, high = 1e-3, 1e3
        for _ in range(60):
            spacing = (low * high) ** 0.5
            sides = MARGIN * extent / spacing + _rim(voxels)
            low, high = (spacing, high) if sides.prod() > voxels else (low, spacing)
    else:
        sides = extent * np.exp(rng.uniform(-0.35, 0.35, 3))
        sides = np.clip(sides, sides.max() * 0.4, None)
    sides = sides * (voxels / sides.prod()) ** (1 / 3)
    return [int(n) for n in np.clip(np.round(sides), *_limits(voxels))]


def _rim(voxels: float) -> float:
    """``RIM``, or less where windows are so small that nothing would be left of them."""
    return min(RIM, 0.4 * voxels ** (1 / 3))


def _limits(voxels: float) -> tuple[int, int]:
    """Fewest and most voxels of a side."""
    cube = voxels ** (1 / 3)
    return min(20, int(0.75 * cube)), int(max(20, 2.2 * cube))


def make_frame(plan: Plan, size: list[int], local: bool, rng: np.random.Generator) -> Frame:
    """Place grids of a size around what a task wants in every case."""
    cases, sides = len(plan.middle), np.array(size)
    extent = plan.extent.max(0) if local else plan.extent.mean(0)
    spacing = _spacing(extent, plan.total, sides, local, rng)
    slack = np.clip(sides * spacing - extent, 0, None) / 2
    away = rng.uniform(-0.7, 0.7, 3) * slack * (not local)
    spread = (0.05 if local else 0.035) * rng.standard_normal((cases, 3)) * sides * spacing
    if plan.elsewhere and not local:
        spread = rng.uniform(-FARTHEST, FARTHEST, (cases, 3)) * sides * spacing
        spread = np.clip(spread + away, -0.4 * sides * spacing, 0.4 * sides * spacing) - away
    common = _turns(rng.standard_normal((1, 3)) * 5, np.ones((1, 3))) * np.where(
        rng.random(3) < (0.5, 0.15, 0.15), -1, 1
    )
    own = rng.standard_normal((cases, 7)).clip(-2, 2)
    scale = np.exp((own[:, 3:4] + own[:, 4:] / 3) * (0.14 if plan.alone else 0.09))
    matrix = _turns(own[:, :3] * (12 if plan.alone else 7), scale) @ common * spacing
    # the same place, the middle of what is wanted, in the case's grid and in the common one
    own_place = -np.linalg.solve(matrix, (away + spread)[..., None])[..., 0]
    offsets = own_place + np.linalg.solve(common[0] * spacing, away)
    offsets[1:] += ALIGNMENT_ERROR * rng.standard_normal((cases - 1, 3))
    bend = rng.uniform(0.015, 0.045) if plan.alone else rng.uniform(0, 0.022)
    knots = int(rng.integers(3, 6))
    return Frame(matrix, plan.middle + away + spread, offsets, bend * max(size), knots)


def _spacing(extent: np.ndarray, total: np.ndarray, sides: np.ndarray, local: bool, rng: np.random.Generator) -> float:
    """Voxel size in mm at which a grid shows what is wanted, with a margin."""
    if local:
        return float((MARGIN * extent / np.maximum(sides - _rim(sides.prod()), 4)).max())
    near = rng.random() < 0.65
    margin = np.exp(rng.uniform(np.log(1.15), np.log(4.5)) if near else rng.uniform(np.log(3), np.log(12)))
    spacing = margin * np.exp(np.log(extent / sides).mean())
    spacing = min(spacing, 1.1 * np.exp(np.log(total / sides).mean()))
    return float(max(spacing, 1.1 * (extent / sides).max()))


def _turns(degrees: np.ndarray, scale: np.ndarray) -> np.ndarray:
    turn = rotations(torch.from_numpy(np.radians(degrees))).numpy()
    return turn * scale[:, None, :]


def positions(frames: list[Frame], size: list[int], generator: torch.Generator) -> Tensor:
    """What the voxels of all cases show, in mm, ``(T * C, 3, D, H, W)``."""
    device = generator.device
    cases = len(frames[0].centre)

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(f, name) for f in frames])).float().to(device)

    knots = torch.tensor([f.knots for f in frames], device=device).repeat_interleave(cases)
    bend = torch.tensor([f.bend for f in frames], device=device).repeat_interleave(cases)
    field = smooth_noise(knots, size, 3, generator) * bend.view(-1, 1, 1, 1, 1)
    field += centre_grid(size, device).permute(3, 0, 1, 2)
    points = torch.baddbmm(joined("centre")[..., None], joined("matrix"), field.flatten(2))
    return points.view(-1, 3, *size)


def sides_kept(cases: int, size: list[int], rng: np.random.Generator) -> Tensor:
    """Which voxels remain when volumes were padded at some sides, ``(C, 1, D, H, W)`` bool.

    Up to a quarter of a side is blank, at two sides of five.
    """
    kept = torch.ones(cases, 1, 1, 1, 1, dtype=torch.bool)
    for axis, n in enumerate(size):
        width = (rng.uniform(0, 0.25, (cases, 1)) * n * (rng.random((cases, 1)) < 0.4)).astype(int)
        place = np.where(rng.random((cases, 1)) < 0.5, np.arange(n), np.arange(n)[::-1])
        shape = [-1, 1, 1, 1, 1]
        shape[axis + 2] = n
        kept = kept & torch.from_numpy(place >= width).view(shape)
    return kept
