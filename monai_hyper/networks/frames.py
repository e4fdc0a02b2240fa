"""The common frame of several training tasks, whose volumes differ from it by known shifts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Matrices = tuple[Tensor, Tensor, Tensor]
"""One matrix per spatial axis for every volume, ``(..., m, n)``: shifts, stretches and means act on axes one by one."""


def along_axes(fields: Tensor, matrices: Matrices) -> Tensor:
    """Fields ``(..., C, d, h, w)`` with a matrix applied along every spatial axis, ``(..., C, D, H, W)``."""
    first, second, third = matrices
    fields = torch.einsum("...ad,...cdhw->...cahw", first, fields)
    fields = torch.einsum("...bh,...cahw->...cabw", second, fields)
    return torch.einsum("...ew,...cabw->...cabe", third, fields)


def reading(shift: Tensor, side: int, count: int) -> Tensor:
    """Matrix that reads a line of ``count`` values, which span ``side`` voxels, at every voxel plus a shift.

    Args:
        shift: in voxels, ``(...)``.

    Returns:
        linear interpolation, zero beyond the line, ``(..., side, count)``.

    Example:
        >>> reading(torch.tensor(0.5), 3, 3)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000],
                [0.0000, 0.0000, 0.5000]])
    """
    voxels = torch.arange(side, device=shift.device, dtype=shift.dtype)
    places = (voxels + shift[..., None] + 0.5) * count / side - 0.5
    values = torch.arange(count, device=shift.device, dtype=shift.dtype)
    return (1 - (places[..., None] - values).abs()).clamp(min=0)


@dataclass(frozen=True)
class Frames:
    """Like :class:`monai_hyper.networks.template.Template`, for all volumes of several tasks at once.

    Args:
        offsets: of every volume, see :class:`monai_hyper.synthesis.batch.TaskBatch`, ``(T, B, 3)``.
        size: of all grids, the frames' included.
    """

    offsets: Tensor
    size: list[int]

    @property
    def quarter(self) -> list[int]:
        """Sides of the prior."""
        return [-(-side // 4) for side in self.size]

    def gathered(self, fields: Tensor) -> Tensor:
        """What volumes show, ``(T, B, C, *size)``, in their task's frame; zero beyond a volume."""
        return along_axes(fields, self._reading(self.offsets, self.size))

    def gathered_prior(self, priors: Tensor) -> Tensor:
        """Priors over the volumes, ``(T, B, P, *quarter)``, in their task's frame, as means over a prior's voxel."""
        means, there = self._means(), self._reading(self.offsets, self.quarter)
        return along_axes(priors, tuple(mean @ each for mean, each in zip(means, there)))

    def spread(self, fields: Tensor) -> Tensor:
        """What frames know, ``(T, B, C, d, h, w)`` of any resolution, on the grids of volumes; zero beyond a frame."""
        return along_axes(fields, self._reading(-self.offsets, list(fields.shape[3:])))

    def covered(self) -> tuple[Tensor, Tensor]:
        """What of the frame every volume shows, ``(T, B, 1, *size)`` and as means ``(T, B, 1, *quarter)``."""
        shown = []
        for axis, side in enumerate(self.size):
            places = torch.arange(side, device=self.offsets.device) + self.offsets[..., axis : axis + 1]
            shown.append(((places >= -0.5) & (places <= side - 0.5)).float()[..., None])
        once = torch.ones(*self.offsets.shape[:2], 1, 1, 1, 1, device=self.offsets.device)
        means = tuple(mean @ each for mean, each in zip(self._means(), shown))
        return along_axes(once, tuple(shown)), along_axes(once, means)

    def _reading(self, shifts: Tensor, counts: list[int]) -> Matrices:
        return tuple(reading(shifts[..., a], side, count) for a, (side, count) in enumerate(zip(self.size, counts)))

    def _means(self) -> Matrices:
        eyes = (torch.eye(side, device=self.offsets.device)[None] for side in self.size)
        return tuple(F.adaptive_avg_pool1d(eye, count)[0].T for eye, count in zip(eyes, self.quarter))
