"""Single structures cut out of label maps, as small blocks that are bent, eroded and put together to new bodies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.synthesis.geometry import centre_grid, sample
from monai_hyper.synthesis.morphology import CHANGES
from monai_hyper.synthesis.operators import smooth_noise
from monai_hyper.synthesis.sources import Sources, Subject, subject

SIDE = 48
"""Voxels of a block along each axis."""

REACH = 1.3
"""Sides of what a block shows, relative to the sides of the box around its structure."""


class Shelf:
    """Label maps, images and blocks of the sources on the device that draws tasks, each from when it is first wanted.

    Args:
        sources: what tasks are made of.
        device: where to.
    """

    def __init__(self, sources: Sources, device: torch.device | str = "cpu") -> None:
        self.sources, self.device = sources, torch.device(device)
        held = [held for cohort in sources.cohorts.values() for held in cohort.subjects]
        self._lasting = {id(volume) for one in held for volume in (one.labels, one.image)}
        self._volumes: dict[int, Tensor] = {}
        self._blocks: dict[tuple[int, int], Tensor] = {}
        self._lesions: dict[int, Tensor] = {}

    def here(self, volume: Tensor) -> Tensor:
        """A label map or image on the device; it is kept there if it is of the sources."""
        if volume.device == self.device:
            return volume
        if id(volume) not in self._lasting:
            return volume.to(self.device)
        if id(volume) not in self._volumes:
            self._volumes[id(volume)] = volume.to(self.device)
        return self._volumes[id(volume)]

    def block(self, held: Subject, value: int) -> Tensor:
        """Where a subject of the sources has the value, in and around its box, ``(SIDE, SIDE, SIDE)`` uint8."""
        key = id(held), value
        if key not in self._blocks:
            self._blocks[key] = cut_block(held, value).to(self.device)
        return self._blocks[key]

    def lesion(self, number: int) -> Tensor:
        """A lesion mask of the sources as a block."""
        if number not in self._lesions:
            held = subject(self.sources.lesions[number].numpy().astype(np.uint8), (1.0, 1.0, 1.0))
            self._lesions[number] = cut_block(held, 1).to(self.device)
        return self._lesions[number]


def cut_block(held: Subject, value: int) -> Tensor:
    """See :meth:`Shelf.block`; empty beyond the label map."""
    block = held.labels
    for axis, (middle, length, spacing) in enumerate(zip(*held.boxes[value], held.spacing.tolist())):
        place = np.linspace(-0.5, 0.5, SIDE) * length * REACH + middle
        index = torch.from_numpy(np.round(place / spacing)).long()
        inside = (index >= 0) & (index < block.shape[axis])
        shape = [-1 if i == axis else 1 for i in range(3)]
        block = block.index_select(axis, index.clamp(0, block.shape[axis] - 1)) * inside.view(shape)
    return (block == value).to(torch.uint8)


def bent(blocks: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Deform every block by a smooth random field of its own.

    Args:
        blocks: ``(B, 1, SIDE, SIDE, SIDE)``, bool; strength: displacement in voxels of the block, ``(B,)``.
    """
    size = list(blocks.shape[2:])
    knots = torch.full((len(blocks),), 4, device=blocks.device)
    field = smooth_noise(knots, size, 3, generator) * strength.view(-1, 1, 1, 1, 1)
    points = centre_grid(size, blocks.device) + field.permute(0, 2, 3, 4, 1)
    return sample(blocks.float(), points) > 0.5


def changed(blocks: Tensor, changes: Sequence[tuple[str, int]]) -> Tensor:
    """Erode, dilate, open or close blocks; those that would vanish stay as they are.

    Args:
        blocks: bool, ``(B, 1, SIDE, SIDE, SIDE)``.
        changes: name, see :data:`CHANGES`, and radius for every block; another name changes nothing.
    """
    found = blocks.clone()
    for change in set(changes):
        if change[0] in CHANGES:
            chosen = [i for i, other in enumerate(changes) if other == change]
            result = CHANGES[change[0]](blocks[chosen], change[1])
            enough = result.flatten(1).sum(1) > 0.2 * blocks[chosen].flatten(1).sum(1)
            found[chosen] = torch.where(enough.view(-1, 1, 1, 1, 1), result, blocks[chosen])
    return found


def blobs(count: int, generator: torch.Generator) -> Tensor:
    """Irregular round masks: a ball that smooth noise makes uneven, ``(B, 1, SIDE, SIDE, SIDE)`` bool."""
    device = generator.device
    radius = centre_grid([SIDE] * 3, device).norm(dim=-1) / (SIDE / 2 / REACH)
    knots = torch.randint(3, 8, (count,), generator=generator, device=device)
    uneven = 0.4 * torch.rand(count, 1, 1, 1, 1, generator=generator, device=device)
    return radius + uneven * smooth_noise(knots, [SIDE] * 3, 1, generator) < 0.85


def put(blocks: Tensor, matrix: Tensor, shift: Tensor, points: Tensor) -> Tensor:
    """Where blocks lie in a field of view.

    Args:
        blocks: ``(B, 1, SIDE, SIDE, SIDE)``, bool.
        matrix, shift: from a position to the block's own coordinates, -1 to 1, ``(B, 3, 3)`` and ``(B, 3)``.
        points: positions, ``(B, 3, D, H, W)``.

    Returns:
        ``(B, 1, D, H, W)`` bool.
    """
    at = torch.baddbmm((shift[..., None] + 1) * (SIDE / 2), matrix * (SIDE / 2), points.flatten(2)).floor_()
    at = at.clamp_(0, SIDE - 1)
    index = ((at[:, 0] * SIDE + at[:, 1]) * SIDE + at[:, 2]).int()
    index += torch.arange(len(blocks), device=blocks.device, dtype=torch.int32)[:, None] * SIDE**3
    inner = F.pad(blocks[..., 1:-1, 1:-1, 1:-1], [1] * 6)  # what lies beyond a block gets the value of its border
    return inner.flatten().index_select(0, index.flatten()).view(len(points), 1, *points.shape[2:])
