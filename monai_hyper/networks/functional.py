"""Where generated weights meet a network: pure functions, nothing is patched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from monai_hyper.types import Shapes, Weights


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
