"""Two scales: find where a structure must lie by the template of the whole volumes, then segment a window around it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from monai_hyper.data.coarse import reduce
from monai_hyper.data.support import SupportSet
from monai_hyper.networks.alignment import align, read_at, unexplained, voxels
from monai_hyper.networks.confidence import confidence
from monai_hyper.networks.network import ConditionedNetwork
from monai_hyper.networks.template import Template
from monai_hyper.networks.unet import Target

MARGIN, RIM = 1.6, 12
"""Sides of the window: so many times the largest foreground of the support, and so many voxels."""

SEEN = 0.8
"""Share of its foreground that the others' masks must bring into the window of a volume, else it was not found."""


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


@dataclass(frozen=True)
class CascadeNetwork:
    """What a support set generates at two scales: image in, logits out, see :class:`Cascade`.

    Args:
        finder: of the window.
        local: network of windows.
        others: networks of whole volumes, where the window is not to be trusted; those that are aligned have the
            finder's template.
        support: the windows of the support volumes.
        expected_dice: see :class:`ConditionedNetwork`; None for a lone volume.
    """

    finder: Finder
    local: ConditionedNetwork
    others: tuple[ConditionedNetwork, ...]
    support: SupportSet
    expected_dice: float | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the foreground classes."""
        return self.local.classes

    def __call__(self, query: Tensor, inferer: Callable | None = None) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of harmonised images ``(B, 1, D, H, W)`` of the whole field of view.

        Args:
            inferer: how the networks are run over prepared images; default: over the whole of them at once.
        """
        return torch.cat([self.answers(image, inferer)[0] for image in query.split(1)])

    def answers(self, image: Tensor, inferer: Callable | None = None) -> list[Tensor]:
        """The answer to one image, and what another network of the same support set says, where there is one.

        Args:
            image: ``(1, 1, D, H, W)``.

        Returns:
            logits ``(1, N, D, H, W)``, once or twice. The other answer comes from a network that aligns, too.
        """
        window, places = self.finder(image)
        within = put(self.local(cut(image, window), inferer), window, list(image.shape[2:]))
        if not self.others:
            return [within]
        explained = self.finder.explains(image, places)
        asked = [other for other in self.others if other.aligned or not explained]
        found = [within, *(other(image, inferer, [places]) for other in asked)]
        best = max(range(len(found)), key=lambda i: confidence(found[i]))
        return [found[best], found[0 if best == 1 else 1]]

    def materialise(self) -> Cascade:
        """A plain module that holds the weights and knows nothing of where they came from."""
        others = [other.materialise() for other in self.others]
        return Cascade(copy.deepcopy(self.finder), self.local.materialise(), others).eval()


@dataclass(frozen=True)
class Local:
    """Windows around the foreground of a support set.

    Args:
        finder: of the window in queries; support: the windows of the volumes.
        found: whether the others' masks brought the foreground of a volume into its window, ``(K,)``; where not, the
            window lies around the foreground itself.
    """

    finder: Finder
    support: SupportSet
    found: Tensor


@torch.no_grad()
def find_windows(support: SupportSet, template: Template, factor: int) -> Local:
    """Windows of a support set, where the others' masks tell that a volume's foreground is.

    Args:
        template: of the support set; factor: it is coarser than the task's grid by so much.
    """
    sizes = support.extents.tolist()
    volumes = [
        (support.images[k : k + 1, :, :d, :h, :w], support.labels[k : k + 1, :, :d, :h, :w])
        for k, (d, h, w) in enumerate(sizes)
    ]
    masks = [reduce((labels > 0).float(), factor) for _, labels in volumes]
    gathered = [template.gathered(k, mask) for k, mask in enumerate(masks)]
    covered = [template.covered(k) for k in range(support.shots)]
    total, count = sum(gathered), sum(covered)
    window = _sides([labels for _, labels in volumes], sizes)
    found, windows = [], []
    for k, (_, labels) in enumerate(volumes):
        others = (total - gathered[k]) / (count - covered[k]).clamp(min=1)
        guess = window_of(template.spread(k, others), factor, window, sizes[k])
        share = float((cut(labels, guess, "zero") > 0).sum() / (labels > 0).sum().clamp(min=1))
        found.append(support.shots > 1 and share >= SEEN)
        windows.append(guess if found[-1] else window_of((labels > 0).float(), 1, window, sizes[k]))
    finder = Finder(tuple(template.size), factor, window).to(template.image.device)
    finder.template.copy_(template.image)
    finder.mask.copy_(total / count.clamp(min=1))
    return Local(finder, _windowed(support, volumes, windows), torch.tensor(found))


def _sides(labels: list[Tensor], sizes: list[list[int]]) -> list[int]:
    """Sides of the window of a support set; not longer than the volumes' mean, and just that if all are empty."""
    mean = [sum(sides) // len(sizes) for sides in zip(*sizes)]
    extents = [found.amax(0) - found.amin(0) + 1 for found in ((x[0, 0] > 0).nonzero() for x in labels) if len(found)]
    if not extents:
        return mean
    largest = torch.stack(extents).amax(0).tolist()
    return [min(most, int(MARGIN * side + RIM)) for most, side in zip(mean, largest)]


def _windowed(support: SupportSet, volumes: list[tuple[Tensor, Tensor]], windows: list[list[int]]) -> SupportSet:
    images = torch.cat([cut(image, window) for (image, _), window in zip(volumes, windows)])
    labels = torch.cat([cut(label, window, "zero") for (_, label), window in zip(volumes, windows)])
    return replace(support, images=images, labels=labels, extents=None)
