"""Blur, thick slices, ringing and smooth noise as matrices along the axes of volumes, another one for every volume."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_KNOTS = 40
"""Smooth noise has at most so many knots along an axis."""


def along_axes(x: Tensor, operators: Sequence[Tensor]) -> Tensor:
    """Multiply volumes by a matrix along each of their axes.

    Args:
        x: ``(B, C, d, h, w)``; operators: for the three axes, ``(B, D, d)``, ``(B, H, h)`` and ``(B, W, w)``.

    Returns:
        ``(B, C, D, H, W)``.
    """
    first, second, third = operators
    batch, channels, d, h, w = x.shape
    x = torch.bmm(x.reshape(batch, channels * d * h, w), third.mT)  # then the axes that have more lines to go through
    x = torch.matmul(second[:, None], x.view(batch, channels * d, h, -1))
    x = torch.matmul(first[:, None], x.view(batch, channels, d, -1))
    return x.view(batch, channels, first.shape[1], second.shape[1], third.shape[1])


def _differences(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.arange(rows, device=device)[:, None] - torch.arange(columns, device=device)


def gaussian(sigma: Tensor, n: int) -> Tensor:
    """Gaussian blur, the weights of what lies inside of the volume add up to one.

    Args:
        sigma: in voxels, ``(B,)``; zero changes nothing.

    Returns:
        ``(B, n, n)``.
    """
    weight = torch.exp(-_differences(n, n, sigma.device).square() / (2 * sigma.clamp(min=1e-3)[:, None, None].square()))
    return weight / weight.sum(-1, keepdim=True)


def slices(thickness: Tensor, n: int) -> Tensor:
    """Mean over slices, linearly interpolated between their middles: partial volume along one axis.

    Args:
        thickness: in voxels, at least 1, which changes nothing, ``(B,)``.

    Returns:
        ``(B, n, n)``.
    """
    thick = thickness[:, None, None]
    number, voxel = torch.arange(n, device=thickness.device)[:, None], torch.arange(n, device=thickness.device)
    overlap = torch.minimum((number + 1) * thick, voxel + 1.0) - torch.maximum(number * thick, voxel.float())
    overlap = overlap.clamp(min=0)
    mean = overlap / overlap.sum(-1, keepdim=True).clamp(min=1e-6)
    last = (n / thick - 1e-4).ceil() - 1
    middle = torch.minimum(((voxel[:, None] + 0.5) / thick - 0.5).clamp(min=0), last)
    return (1 - (middle - voxel).abs()).clamp(min=0) @ mean


def low_pass(kept: Tensor, n: int) -> Tensor:
    """Gibbs ringing: drop the highest spatial frequencies.

    Args:
        kept: share of the frequencies to keep, ``(B,)``; one changes nothing.

    Returns:
        ``(B, n, n)``.
    """
    number = torch.arange(n, device=kept.device)
    frequency = torch.minimum(number, n - number)
    passed = (frequency <= kept[:, None] * (n / 2)).float()
    waves = torch.cos(2 * math.pi / n * ((number[:, None] * number) % n)) / n
    return (passed @ waves)[:, _differences(n, n, kept.device) % n]


def splines(knots: Tensor, n: int) -> Tensor:
    """Cubic B-splines on evenly spaced knots, of unit length at every voxel.

    Independent values of unit deviation at the knots become smooth noise of unit deviation.

    Args:
        knots: number of knots across the axis, up to ``MOST_KNOTS``, ``(B,)``.

    Returns:
        ``(B, n, m)``, where ``m`` is two more than the most knots.
    """
    columns = int(knots.max()) + 2
    place = torch.linspace(0, 1, n, device=knots.device)[:, None] * (knots - 1)[:, None, None] + 1
    distance = (place - torch.arange(columns, device=knots.device)).abs()
    near, far = 4 - 6 * distance.square() + 3 * distance**3, (2 - distance).clamp(min=0) ** 3
    weight = torch.where(distance < 1, near, far)
    return weight / weight.square().sum(-1, keepdim=True).sqrt()


def smooth_noise(knots: Tensor, size: Sequence[int], channels: int, generator: torch.Generator) -> Tensor:
    """Smooth random fields of unit deviation, ``(B, C, D, H, W)``.

    Args:
        knots: number of independent values across each axis of every volume, ``(B,)``.
    """
    operators = spline_axes(knots, size)
    return along_axes(noise(knot_shape(operators, channels), generator), operators)


def spline_axes(knots: Tensor, size: Sequence[int]) -> list[Tensor]:
    """What makes smooth noise along the three axes from values at the knots, see :func:`splines`."""
    return [splines(knots.float().clamp(max=MOST_KNOTS), n) for n in size]


def knot_shape(operators: Sequence[Tensor], channels: int) -> list[int]:
    """Shape of the values at the knots."""
    return [len(operators[0]), channels, *(operator.shape[-1] for operator in operators)]


def octaves(knots: Tensor, size: Sequence[int], persistence: Tensor, generator: torch.Generator) -> Tensor:
    """Texture of three scales after Perlin, "An image synthesizer", 1985, of unit deviation, ``(B, 1, D, H, W)``.

    Args:
        knots: of the coarsest scale, ``(B,)``.
        persistence: strength of each scale relative to the one before, ``(B,)``.
    """
    strength = persistence.view(-1, 1, 1, 1, 1)
    total = sum(strength**i * smooth_noise(knots * 2**i, size, 1, generator) for i in range(3))
    return total / (1 + strength**2 + strength**4).sqrt()


def noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Independent values of unit deviation, on the generator's device."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def uniform(low: float, high: float, generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers between ``low`` and ``high``, on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def chance(probability: float, generator: torch.Generator, *shape: int) -> Tensor:
    """True with that probability, on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability
