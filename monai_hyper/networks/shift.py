"""The shift of one image over another at which they correlate best, searched exhaustively by Fourier transforms.

Everything here can be scripted and traced, since a generated network carries it along.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.networks.functional import vector


def _waves(rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a Fourier transform of ``rows`` frequencies, ``(rows, columns)``."""
    k, n = torch.arange(rows, device=like.device), torch.arange(columns, device=like.device)
    angle = 2 * math.pi / rows * (k[:, None] * n % rows).to(like.dtype)
    return torch.sin(angle + math.pi / 2), torch.sin(angle)


def _transformed(real: Tensor, imaginary: Tensor, size: list[int], sign: float) -> tuple[Tensor, Tensor]:
    """Fourier transform of stacks ``(S, d, h, w)``, continued by zeros to ``size``; sign: 1 forward, -1 backward.

    By matrices: the images are small, and unlike transforms of the library it can be exported.
    """
    for _ in range(3):
        cosines, sines = _waves(size[0], real.shape[1], real)
        real, imaginary = real.movedim(1, -1), imaginary.movedim(1, -1)  # the axes come back in their order
        further = real @ cosines.T + sign * (imaginary @ sines.T)
        imaginary = imaginary @ cosines.T - sign * (real @ sines.T)
        real, size = further, [size[1], size[2], size[0]]
    return real, imaginary


def _correlated(first: Tensor, second: Tensor, size: list[int]) -> Tensor:
    """Sums of products of stacks of images ``(S, d, h, w)`` at every shift, ``(S, *size)``."""
    a, b = _transformed(first, torch.zeros_like(first), size, 1.0)
    second = second.flip([1, 2, 3])
    c, d = _transformed(second, torch.zeros_like(second), size, 1.0)
    return _transformed(a * c - b * d, a * d + b * c, size, -1.0)[0] / (size[0] * size[1] * size[2])


def largest(sides: list[int]) -> int:
    """The largest of several numbers."""
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():
            return torch.stack([torch.as_tensor(side) for side in sides]).amax()
    return max(sides)


def pooled(x: Tensor, step: int) -> Tensor:
    """Mean over cubes of ``step`` voxels of an image ``(D, H, W)``, those at the far edge over what they hold."""
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():  # pooling wants to know the step before
            for _ in range(3):
                n = torch.arange(x.shape[0], device=x.device) // step
                rows = (n == torch.arange((x.shape[0] + step - 1) // step, device=x.device)[:, None]).to(x.dtype)
                x = ((rows / rows.sum(1, keepdim=True)) @ x.flatten(1)).reshape(-1, x.shape[1], x.shape[2])
                x = x.movedim(0, -1)
            return x
    return F.avg_pool3d(x[None, None], step, ceil_mode=True)[0, 0]


def best_shift(fixed: Tensor, moving: Tensor, search_side: int = 32, least_overlap: float = 0.25) -> Tensor:
    """The shift of one image over another, to a few voxels, at which they correlate best over what they share.

    All shifts are tried by Fourier transforms, after Padfield, "Masked Object Registration in the Fourier Domain",
    2012, https://doi.org/10.1109/TIP.2011.2181402. Ranked by the magnitude of the correlation times the root of the
    number of voxels shared, its significance.

    Args:
        fixed, moving: images ``(D, H, W)`` and ``(d, h, w)``, of one spacing.
        search_side: most voxels along a side for the search.
        least_overlap: share of the smaller image that must be shared.

    Returns:
        voxels along each axis that voxel 0 of ``moving`` lies behind voxel 0 of ``fixed``, whole numbers ``(3,)``.

    Example:
        >>> volume = torch.rand(12, 12, 12)
        >>> best_shift(volume, volume[2:, 1:, :])
        tensor([2, 1, 0])
    """
    sides = [fixed.shape[0], fixed.shape[1], fixed.shape[2], moving.shape[0], moving.shape[1], moving.shape[2]]
    step = (largest(sides) + search_side - 1) // search_side
    a, b = pooled(fixed, step).double(), pooled(moving, step).double()
    a, b = a - a.mean(), b - b.mean()
    size = [a.shape[0] + b.shape[0] - 1, a.shape[1] + b.shape[1] - 1, a.shape[2] + b.shape[2] - 1]
    in_a, in_b = torch.ones_like(a), torch.ones_like(b)
    firsts = torch.stack([in_a, a, in_a, a, a.square(), in_a])
    found = _correlated(firsts, torch.stack([in_b, in_b, b, b, in_b, b.square()]), size)
    shared, sum_a, sum_b = found[0].round().clamp(min=1), found[1], found[2]
    covariance = found[3] - sum_a * sum_b / shared
    of_a = (found[4] - sum_a.square() / shared).clamp(min=1e-6)
    of_b = (found[5] - sum_b.square() / shared).clamp(min=1e-6)
    score = covariance.abs() / (of_a * of_b).sqrt() * shared.sqrt()
    score = torch.where(shared < least_overlap * torch.minimum(in_a.sum(), in_b.sum()), torch.zeros_like(score), score)
    place = score.flatten().argmax()
    rest = place % (size[1] * size[2])
    at = torch.stack([place // (size[1] * size[2]), rest // size[2], rest % size[2]])
    return step * (at - vector([b.shape[0] - 1, b.shape[1] - 1, b.shape[2] - 1], at))


def content(image: Tensor, thinnest: int = 8) -> Tensor:
    """Bounds of the smallest box outside of which an image ``(D, H, W)`` has its darkest value everywhere.

    Returns:
        start and end along the three axes, whole numbers ``(6,)``; a side that would be shorter than ``thinnest``
        voxels stays whole.
    """
    low, high = image.min(), image.max()
    bright = (image > low + 0.01 * (high - low)).long()
    bounds: list[Tensor] = []
    for line in [bright.amax([1, 2]), bright.amax([0, 2]), bright.amax([0, 1])]:
        first, last = line.argmax(), line.shape[0] - line.flip(0).argmax()
        whole = (line.sum() == 0) | (last - first < thinnest)
        bounds.append(torch.where(whole, torch.zeros_like(first), first))
        bounds.append(torch.where(whole, torch.zeros_like(first) + line.shape[0], last))
    return torch.stack(bounds)
