"""Windows around the foreground of a support set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monai_hyper.data.coarse import reduce
from monai_hyper.data.support import SupportSet
from monai_hyper.networks.cascade import Finder, cut, window_of
from monai_hyper.networks.template import Template

MARGIN, RIM = 1.6, 12
"""Sides of the window: so many times the largest foreground of the support, and so many voxels."""

SEEN = 0.8
"""Share of its foreground that the others' masks must bring into the window of a volume, else it was not found."""


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


def _windowed(support: SupportSet, volumes: list[tuple[Tensor, Tensor]], windows: list[Tensor]) -> SupportSet:
    images = torch.cat([cut(image, window) for (image, _), window in zip(volumes, windows)])
    labels = torch.cat([cut(label, window, "zero") for (_, label), window in zip(volumes, windows)])
    return replace(support, images=images, labels=labels, extents=None)
