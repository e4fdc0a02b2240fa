"""Two scales: find where a structure must lie by the template of the whole volumes, then segment a window around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_hyper.data.coarse import reduce
from monai_hyper.networks.alignment import align, read_at, unexplained, voxels
from monai_hyper.networks.confidence import confidence
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

    def forward(self, image: Tensor) -> tuple[list[int], Tensor]:
        """First voxels and sides of the window in an image ``(1, 1, D, H, W)``, six numbers; and where its voxels, on
        the template's grid, lie in the template."""
        size = [self.template.shape[2], self.template.shape[3], self.template.shape[4]]
        places = align(reduce(image, self.factor), self.template)
        mask = read_at(self.mask, places, size)
        return window_of(mask, self.factor, self.window, image.shape[2:]), places

    def explains(self, image: Tensor, places: Tensor) -> bool:
        """Whether an image looks like the template that it is aligned to; places: as from :meth:`forward`."""
        return unexplained(reduce(image, self.factor), self.template, places) < 1


def window_of(mask: Tensor, factor: int, window: list[int], size: list[int]) -> list[int]:
    """The window of an image around the centre of a soft mask, or in its middle where the mask is empty.

    Args:
        mask: ``(1, 1, d, h, w)`` on a grid that is coarser by ``factor``; size: of the image.

    Returns:
        first voxels along the axes, then sides.

    Example:
        >>> window_of(torch.ones(1, 1, 4, 4, 4), 2, [4, 6, 20], [8, 8, 8])
        [2, 1, -6, 4, 6, 20]
    """
    shape = [mask.shape[2], mask.shape[3], mask.shape[4]]
    weight = mask[0, 0, :, :, :, None]
    centre = (voxels(shape, mask) * weight).sum((0, 1, 2)) / weight.sum().clamp(min=1e-6)
    found: list[int] = []
    for axis in range(3):
        middle = (float(centre[axis]) + 0.5) * factor if float(mask.sum()) > 1 else size[axis] / 2
        found.append(int(round(middle - window[axis] / 2)))
    return found + window


def cut(volume: Tensor, window: list[int], beyond: str = "edge") -> Tensor:
    """A window of volumes ``(B, C, D, H, W)``, beyond their edges the edge itself, or "zero".

    Args:
        window: see :func:`window_of`.
    """
    for axis in range(3):
        index = torch.arange(window[axis], window[axis] + window[axis + 3], device=volume.device)
        last = volume.shape[axis + 2] - 1
        volume = volume.index_select(axis + 2, index.clamp(0, last))
        if beyond == "zero":
            shape = [1, 1, 1, 1, 1]
            shape[axis + 2] = -1
            volume = volume * ((index >= 0) & (index <= last)).view(shape).to(volume.dtype)
    return volume


def put(logits: Tensor, window: list[int], size: list[int]) -> Tensor:
    """Logits of a window in a volume of ``size`` that is background everywhere else."""
    whole = torch.full([logits.shape[0], logits.shape[1], size[0], size[1], size[2]], -15.0, device=logits.device)
    whole[:, 0] = 0
    low = [max(0, window[axis]) for axis in range(3)]
    high = [max(low[axis], min(size[axis], window[axis] + window[axis + 3])) for axis in range(3)]
    a, b, c = low[0] - window[0], low[1] - window[1], low[2] - window[2]
    d, e, f = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    shown = logits[:, :, a : a + d, b : b + e, c : c + f].to(whole.dtype)
    whole[:, :, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = shown
    return whole


class Cascade(nn.Module):
    """A finder, the network for its window, and where the window is not to be trusted others for the whole volume.

    Of several answers the one counts that expects the highest Dice of itself; those without alignment are asked only
    where the template does not explain the image. It needs no hypernetwork and no support set.
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
                if whole.aligned or not self.finder.explains(one, places):
                    other = whole(one, [places])
                    if confidence(other) > confidence(logits):
                        logits = other
            found.append(logits)
        return torch.cat(found)
