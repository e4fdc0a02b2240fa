"""The support set laid over one of its volumes, which queries are aligned to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.alignment import align, inverse, read_at, stretched, unexplained, voxels, within
from monai_hyper.networks.shift import content
from monai_hyper.synthesis.batch import TaskBatch


@dataclass(frozen=True)
class Template:
    """A common frame of the volumes of a support set.

    Args:
        image: mean of the aligned volumes on the grid of one of them, ``(1, 1, D, H, W)``.
        theirs: where the voxels of the template lie in every volume, ``(D, H, W, 3)`` each.
        own: where the voxels of every volume lie in the template, ``(d, h, w, 3)`` each.
        sizes: of the volumes.
        aligned: whether volumes are aligned to it, or just stretched onto its field of view.
    """

    image: Tensor
    theirs: list[Tensor]
    own: list[Tensor]
    sizes: list[list[int]]
    aligned: bool = True

    @property
    def size(self) -> list[int]:
        """Of the template's grid."""
        return list(self.image.shape[2:])

    def gathered(self, shot: int, field: Tensor) -> Tensor:
        """What a volume shows, in the template's frame; zero beyond it.

        Args:
            field: over the volume, of any resolution, ``(1, C, d', h', w')``.
        """
        return read_at(field, self.theirs[shot], self.sizes[shot])

    def covered(self, shot: int) -> Tensor:
        """What of the template a volume shows, ``(1, 1, D, H, W)``."""
        return within(self.theirs[shot], self.sizes[shot])

    def spread(self, shot: int, field: Tensor) -> Tensor:
        """What the template knows, on the grid of a volume; zero beyond the template.

        Args:
            field: over the template, of any resolution, ``(1, C, d', h', w')``.
        """
        return read_at(field, self.own[shot], self.size)

    @torch.no_grad()
    def unexplained(self, support: SupportSet) -> float:
        """What the template leaves of the volumes that it was made of, see
        :func:`monai_hyper.networks.alignment.unexplained`: the mean over them; the one that it lies on counts too."""
        left = [
            float(unexplained(support.images[k : k + 1, :, :d, :h, :w], self.image, self.own[k]))
            for k, (d, h, w) in enumerate(self.sizes)
        ]
        return sum(left) / len(left)


@torch.no_grad()
def make_template(support: SupportSet, aligned: bool = True) -> Template:
    """Align all volumes to the one that shows most, and average them.

    Volumes are taken in an order of their own, so that the order of the support cannot matter.

    Args:
        aligned: otherwise the fields of view are stretched onto that volume's, for what may be anywhere in them.
    """
    sizes = support.extents.tolist()
    images = [support.images[k : k + 1, :, :d, :h, :w].float() for k, (d, h, w) in enumerate(sizes)]
    order = sorted(range(support.shots), key=lambda k: _rank(images[k], support.labels[k]), reverse=True)
    first = order[0]
    reference = images[first]
    own = voxels(sizes[first], reference)
    theirs_of, own_of = {first: own}, {first: own}
    total, count = reference.clone(), torch.ones_like(reference)
    for shot in order[1:]:
        if aligned:
            places = align(reference, images[shot])
            theirs_of[shot], own_of[shot] = places, inverse(places, sizes[shot])
        else:
            places = stretched(sizes[first], sizes[shot], reference)
            theirs_of[shot], own_of[shot] = places, stretched(sizes[shot], sizes[first], reference)
        covered = within(places, sizes[shot])
        total, count = total + covered * read_at(images[shot], places, sizes[shot], "border"), count + covered
    shots = range(support.shots)
    return Template(total / count, [theirs_of[k] for k in shots], [own_of[k] for k in shots], sizes, aligned)


def frame_of(batch: TaskBatch, task: int = 0) -> Template:
    """Where the volumes of a training task, support before queries, lie in their common frame, as its offsets tell.

    It has no image, since nothing is aligned to it.
    """
    size, offsets = list(batch.images.shape[3:]), batch.offsets[task]
    grid, empty = voxels(size, batch.images), batch.images.new_zeros(1, 1, *size)
    return Template(empty, [grid + each for each in offsets], [grid - each for each in offsets], [size] * len(offsets))


def _rank(image: Tensor, labels: Tensor) -> tuple[int, int, float]:
    """What a volume shows: voxels of content, foreground, and a number that tells equal ones apart."""
    a, b, c, d, e, f = content(image[0, 0]).tolist()
    return (b - a) * (d - c) * (f - e), int((labels > 0).sum()), float(image.double().sum())
