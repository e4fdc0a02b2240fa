"""Where generated weights meet a network: pure functions, nothing is patched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from monai_hyper.types import Shapes, Weights

SMALLEST_SIDE = 32
"""Shorter sides are padded by repetition, so that the coarsest level keeps more than one voxel."""


def shapes_of(target: nn.Module) -> Shapes:
    """Name and shape of every parameter of ``target``.

    Example:
        >>> shapes_of(nn.Linear(3, 2))
        {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: tuple(parameter.shape) for name, parameter in target.named_parameters()}


def bind(target: nn.Module, weights: Weights) -> Callable[[Tensor], Any]:
    """Return ``target`` as a function of its input, with ``weights`` in place of its own.

    Raises:
        ValueError: if a weight has no parameter of that name and shape in ``target``.
    """
    expected = shapes_of(target)
    for name, weight in weights.items():
        if tuple(weight.shape) != expected.get(name):
            raise ValueError(
                f"weight '{name}' is {tuple(weight.shape)}; target expects {expected.get(name, 'no such weight')}."
            )
    return lambda query: functional_call(target, weights, (query,))


def enlarge(x: Tensor, factor: int, size: list[int]) -> Tensor:
    """Upsample ``(B, C, d, h, w)`` trilinearly by ``factor`` and keep the first ``size`` voxels.

    Cropping, not stretching, keeps voxel ``i`` of the result above voxel ``i // factor`` of ``x``
    for odd sizes too.
    """
    if factor > 1:
        x = F.interpolate(x, scale_factor=float(factor), mode="trilinear", align_corners=False)
    return x[:, :, : size[0], : size[1], : size[2]]


def fit_field(x: Tensor, size: list[int]) -> Tensor:
    """Stretch ``(B, C, d, h, w)`` over a field of view of ``size`` voxels, trilinearly."""
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def pad_small(x: Tensor, smallest: int = SMALLEST_SIDE, slices: bool = False) -> Tensor:
    """Repeat the last voxels of ``(B, C, D, H, W)`` until every side has ``smallest`` of them.

    Args:
        slices: whether an axis of one voxel stays as it is.
    """
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():  # whether it is to be padded is known only when the exported network runs
            for axis in (2, 3, 4):
                missing = (smallest - x.shape[axis]).clamp(min=0)
                missing = missing * (x.shape[axis] > 1) if slices else missing
                index = torch.arange(x.shape[axis] + missing, device=x.device)
                x = x.index_select(axis, index.clamp(max=x.shape[axis] - 1))
            return x
    return pad_high(x, [0 if slices and side == 1 else max(0, smallest - side) for side in x.shape[2:]])


def pad_high(x: Tensor, by: list[int]) -> Tensor:
    """Repeat the last voxels of ``(B, C, D, H, W)``, ``by[i]`` times along spatial axis ``i``."""
    return F.pad(x, [0, by[2], 0, by[1], 0, by[0]], mode="replicate") if sum(by) > 0 else x


def exporting() -> bool:
    """Whether an exporter traces what is computed: operators that it does not know, and choices, are to be avoided."""
    if torch.jit.is_scripting():
        return False
    return torch.jit.is_tracing()


def vector(numbers: list[int], like: Tensor) -> Tensor:
    """Whole numbers as a tensor ``(3,)``; unlike ``torch.tensor`` it keeps numbers that an exporter traces."""
    zero = torch.zeros((), device=like.device, dtype=like.dtype)
    return torch.stack([zero + numbers[0], zero + numbers[1], zero + numbers[2]])
