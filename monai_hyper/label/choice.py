"""Which labelled volumes become the support set, and which volume is worth annotating next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from monai_hyper.inference.pipeline import measure_modality
from monai_hyper.transforms.grid import ResampleToGrid
from monai_hyper.transforms.intensity import HarmoniseIntensity

SIDE = 8
"""Cells along each axis of what is compared of two volumes."""

RECENT = 3
"""So many times the volumes that are used are considered, the newest ones."""


@dataclass(frozen=True)
class Labelled:
    """An annotated volume.

    Args:
        name: of the volume; classes: values that its label map shows.
        saved: when, any number that grows; look: see :func:`looks`.
    """

    name: str
    classes: frozenset[int]
    saved: float
    look: Tensor


def looks(image: MetaTensor) -> Tensor:
    """What a volume looks like from afar: mean brightness of 8 x 8 x 8 cells of it, in RAS order, length one.

    Args:
        image: as read, ``(1, D, H, W)``.

    Returns:
        ``(512,)``.
    """
    sides = image.affine[:3, :3].norm(dim=0) * torch.tensor(image.shape[1:])
    coarse = ResampleToGrid(float(sides.max()) / (4 * SIDE))(image)
    window = (-160.0, 240.0) if measure_modality(image) == "CT" else None
    scaled = HarmoniseIntensity("CT" if window else "MR", window)(coarse).as_tensor()
    cells = F.adaptive_avg_pool3d(scaled[None], SIDE).flatten()
    return F.normalize(cells - cells.mean(), dim=0)


def likeness(first: Tensor, second: Tensor) -> float:
    """Correlation of two looks, -1 to 1."""
    return float(first @ second)


def choose_support(labelled: Sequence[Labelled], most: int) -> list[Labelled]:
    """At most ``most`` volumes: the newest of every class, then those least like any that was chosen before.

    Only the newest ``RECENT * most`` are considered, and always the newest one of a class.

    Example:
        >>> alike, other = F.normalize(torch.ones(512), dim=0), F.normalize(torch.arange(512.0), dim=0)
        >>> three = [Labelled("a", frozenset({1}), 0, other), Labelled("b", frozenset({1}), 1, alike)]
        >>> three += [Labelled("c", frozenset({1}), 2, alike)]
        >>> [volume.name for volume in choose_support(three, 2)]
        ['c', 'a']
    """
    newest = sorted(labelled, key=lambda volume: (-volume.saved, volume.name))
    chosen: list[Labelled] = []
    for value in sorted(set().union(*(volume.classes for volume in newest))) if newest else ():
        if not any(value in volume.classes for volume in chosen) and len(chosen) < most:
            chosen.append(next(volume for volume in newest if value in volume.classes))
    rest = [volume for volume in newest[: RECENT * most] if volume not in chosen and volume.classes]
    while rest and len(chosen) < most:
        farthest = min(rest, key=lambda volume: max(likeness(volume.look, one.look) for one in chosen))
        chosen.append(farthest)
        rest.remove(farthest)
    return chosen


def farthest(candidates: dict[str, Tensor], seen: Sequence[Tensor]) -> str:
    """The candidate least like all that was seen; if nothing was, the one most like all candidates.

    Args:
        candidates: looks by name, at least one.
    """
    if not seen:
        return max(candidates, key=lambda name: density(name, candidates))
    return min(candidates, key=lambda name: max(likeness(candidates[name], one) for one in seen))


def density(name: str, candidates: dict[str, Tensor]) -> float:
    """How typical a candidate is: its mean likeness to all, from 0 to 1."""
    own = candidates[name]
    return sum((1 + likeness(own, other)) / 2 for other in candidates.values()) / len(candidates)
