"""Two scales: find where a structure must lie by the template of the whole volumes, then segment a window around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_hyper.data.coarse import reduce
from monai_hyper.networks.alignment import align, read_at, unexplained, voxels
from monai_hyper.networks.confidence import expectation
from monai_hyper.networks.functional import exporting, vector
from monai_hyper.networks.unet import Target


class Finder(nn.Module):
    """Where in an image the window around the foreground begins.

    Args:
        template: size of the template, ``(d, h, w)``; factor: voxels of the task's grid that are one of its.
        window: sides of the window in voxels of the task's grid.
    """

    def __init__(self, template: tuple[int, int, int], factor: int, window: list[int]) -> None:
        super().__init__()
        self.factor, self.window = factor, window
        self.template = nn.Parameter(torch.zeros(1, 1, *template), requires_grad=False)
        self.mask = nn.Parameter(torch.zeros(1, 1, *template), requires_grad=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """First voxels and sides of the window in an image ``(1, 1, D, H, W)``, ``(6,)``; and where its voxels, on
        the template's grid, lie in the template."""
        size = [self.template.shape[2], self.template.shape[3], self.template.shape[4]]
        places = align(reduce(image, self.factor), self.template)
        mask = read_at(self.mask, places, size)
        return window_of(mask, self.factor, self.window, image.shape[2:]), places

    def explains(self, image: Tensor, places: Tensor) -> bool:
        """Whether an image looks like the template that it is aligned to; places: as from :meth:`forward`."""
        return bool(unexplained(reduce(image, self.factor), self.template, places) < 1)


def window_of(mask: Tensor, factor: int, window: list[int], size: list[int]) -> Tensor:
    """The window of an image around the centre of a soft mask, or in its middle where the mask is empty.

    Args:
        mask: ``(1, 1, d, h, w)`` on a grid that is coarser by ``factor``; size: of the image.

    Returns:
        first voxels along the axes, then sides, whole numbers ``(6,)``.

    Example:
        >>> window_of(torch.ones(1, 1, 4, 4, 4), 2, [4, 6, 20], [8, 8, 8])
        tensor([ 2,  1, -6,  4,  6, 20])
    """
    shape = [mask.shape[2], mask.shape[3], mask.shape[4]]
    weight = mask[0, 0, :, :, :, None]
    centre = (voxels(shape, mask) * weight).sum((0, 1, 2)) / weight.sum().clamp(min=1e-6)
    sides = torch.tensor(window, device=mask.device)
    middle = (centre.double() + 0.5) * factor
    middle = torch.where(mask.sum() > 1, middle, vector(size, middle) / 2)
    return torch.cat([(middle - sides / 2).round().long(), sides])


def cut(volume: Tensor, window: Tensor, beyond: str = "edge") -> Tensor:
    """A window of volumes ``(B, C, D, H, W)``, beyond their edges the edge itself, or "zero".

    Args:
        window: see :func:`window_of`.
    """
    for axis in range(3):
        index = torch.arange(int(window[axis + 3]), device=volume.device) + window[axis]
        last = volume.shape[axis + 2] - 1
        volume = volume.index_select(axis + 2, index.clamp(min=0).clamp(max=last))
        if beyond == "zero":
            shape = [1, 1, 1, 1, 1]
            shape[axis + 2] = -1
            volume = volume * ((index >= 0) & (index <= last)).view(shape).to(volume.dtype)
    return volume


def put(logits: Tensor, window: Tensor, size: list[int]) -> Tensor:
    """Logits of a window in a volume of ``size`` that is background everywhere else."""
    background = torch.full_like(logits[:, :, :1, :1, :1], -15.0)
    background[:, 0] = 0
    inside: list[Tensor] = []
    for axis in range(3):
        index = torch.arange(size[axis], device=logits.device) - window[axis]
        inside.append((index >= 0) & (index < logits.shape[axis + 2]))
        logits = logits.index_select(axis + 2, index.clamp(0, logits.shape[axis + 2] - 1))
    there = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return torch.where(there, logits, background)


class Cascade(nn.Module):
    """A finder, the network for its window, and where the window is not to be trusted others for the whole volume.

    Of several answers the one counts that expects the highest Dice of itself; those without alignment count only where
    the template does not explain the image. It needs no hypernetwork and no support set.
    """

    def __init__(self, finder: Finder, local: Target, others: Sequence[Target] = ()) -> None:
        super().__init__()
        self.finder, self.local, self.others = finder, local, nn.ModuleList(others)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of a harmonised image ``(B, 1, D, H, W)`` on the task's grid."""
        found: list[Tensor] = []
        for i in range(image.shape[0]):
            one = image[i : i + 1]
            window, places = self.finder(one)
            logits = put(self.local(cut(one, window)), window, one.shape[2:])
            for whole in self.others:  # those that are aligned have the finder's template
                counts = torch.ones((), dtype=torch.bool, device=one.device)
                if not whole.aligned:
                    counts = unexplained(reduce(one, self.finder.factor), self.finder.template, places) >= 1
                if exporting() or bool(counts):
                    other = whole(one, [places])
                    better = counts & (expectation(other) > expectation(logits))
                    logits = torch.where(better, other, logits)
            found.append(logits)
        return torch.cat(found)
