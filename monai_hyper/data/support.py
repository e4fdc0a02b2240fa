"""The support set: what a task looks like, by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.coarse import reduce
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.types import MAX_CLASSES, MOST_VOLUMES, InputError


@dataclass(frozen=True)
class SupportSet:
    """K annotated volumes of one task, on one grid: label maps to segment after, or a class each to classify after.

    Volumes whose field of view is smaller than the grid lie in its low corner; ``extents`` tells how
    many voxels of each axis they really cover, and what lies beyond is never read.

    Args:
        images: harmonised intensities, ``(K, 1, D, H, W)``; an image of one slice has a last axis of one voxel.
        labels: 0 is background, ``i + 1`` is ``classes[i]``, ``(K, 1, D, H, W)``; or, to classify, the number of each
            image's class, ``(K,)``.
        classes: name of every class, 1 to 8 of the foreground; or, to classify, 2 or more.
        annotated: which class is annotated in which volume, ``(K, N - 1)``, bool; default: all.
            A class that is not annotated in a volume enters nothing that is computed from that volume. To classify it
            follows from the labels, ``(K, N)``.
        extents: voxels covered by each volume, ``(K, 3)``; default: the whole grid.
        texts: what describes the classes, one vector each, ``(len(classes), 384)``, zero for a class without
            description; default: no class has any. A class that has one needs no volume.

    Raises:
        InputError: for shapes that disagree, no shot or too many, and labels without a class.

    Example:
        >>> images, labels = torch.rand(2, 1, 8, 8, 8), torch.ones(2, 1, 8, 8, 8).long()
        >>> SupportSet(images, labels, ("liver",)).shots
        2
        >>> SupportSet(images, torch.tensor([0, 1]), ("benign", "malignant")).classifies
        True
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ("foreground",)
    annotated: Tensor | None = None
    extents: Tensor | None = None
    texts: Tensor | None = None

    def __post_init__(self) -> None:
        k, _, *grid = self.images.shape
        count = len(self.classes)
        if self.texts is None:
            object.__setattr__(self, "texts", torch.zeros(count, TEXT_DIM))
        if tuple(self.texts.shape) != (count, TEXT_DIM):
            raise InputError(f"texts are {tuple(self.texts.shape)}; expected {(count, TEXT_DIM)} for {self.classes}.")
        if self.classifies:
            self._check_classification()
        else:
            self._check_segmentation()
        if self.extents is None:
            object.__setattr__(self, "extents", torch.tensor([grid] * k).view(k, 3))
        if tuple(self.annotated.shape) != (k, count):
            raise InputError(f"annotated is {tuple(self.annotated.shape)}; expected {(k, count)}.")
        for name, shown, told in zip(self.classes, self.annotated.any(0).tolist(), self.described.tolist()):
            if not shown and not told:
                raise InputError(
                    f"class '{name}' is annotated in no support volume, and has no description; annotate it, describe "
                    "it or leave it out."
                )

    def _check_segmentation(self) -> None:
        k, _, *grid = self.images.shape
        if not 1 <= k <= MOST_VOLUMES and not bool(self.described.all()):
            raise InputError(f"the support set holds {k} volumes; expected 1 to {MOST_VOLUMES}. Choose fewer of them.")
        if tuple(self.labels.shape) != (k, 1, *grid):
            raise InputError(
                f"support labels are {tuple(self.labels.shape)}; expected {(k, 1, *grid)}. "
                "Bring images and labels to one grid with ResampleToMatchd."
            )
        if not 1 <= len(self.classes) <= MAX_CLASSES or len(set(self.classes)) != len(self.classes):
            raise InputError(f"classes are {self.classes}; expected 1 to {MAX_CLASSES} different names.")
        self._check_numbers(len(self.classes))
        if self.annotated is None:
            object.__setattr__(self, "annotated", torch.ones(k, len(self.classes), dtype=torch.bool))

    def _check_classification(self) -> None:
        k, count = self.images.shape[0], len(self.classes)
        if tuple(self.labels.shape) != (k,):
            raise InputError(f"support labels are {tuple(self.labels.shape)}; expected {(k,)}, a class for each image.")
        if count < 2 or len(set(self.classes)) != count:
            raise InputError(f"classes are {self.classes}; expected 2 or more different names.")
        self._check_numbers(count - 1)
        shown = F.one_hot(self.labels.cpu().long(), count).bool()
        object.__setattr__(self, "annotated", shown)
        name, most = max(zip(self.classes, shown.sum(0).tolist()), key=lambda each: each[1])
        if most > MOST_VOLUMES:
            raise InputError(
                f"class '{name}' has {most} images; expected at most {MOST_VOLUMES}. Choose fewer of them."
            )

    def _check_numbers(self, largest: int) -> None:
        if self.labels.numel() and (int(self.labels.max()) > largest or int(self.labels.min()) < 0):
            raise InputError(
                f"support labels reach from {int(self.labels.min())} to {int(self.labels.max())}; "
                f"expected 0 to {largest} for the classes {self.classes}."
            )

    @property
    def classifies(self) -> bool:
        """Whether every image has a class, rather than a label map."""
        return self.labels.ndim == 1

    @property
    def described(self) -> Tensor:
        """Which classes have a description, ``(len(classes),)`` bool."""
        return self.texts.abs().sum(1).cpu() > 0

    @property
    def shots(self) -> int:
        """Number of volumes ``K``."""
        return self.images.shape[0]

    def subset(self, indices: Sequence[int]) -> SupportSet:
        """The same task shown by some of its volumes, in the order given."""
        index = torch.as_tensor(indices, dtype=torch.long)
        at = index.to(self.images.device)
        return replace(
            self,
            images=self.images[at],
            labels=self.labels[at],
            annotated=self.annotated[index],
            extents=self.extents[index],
        )

    def to(self, device: torch.device | str) -> SupportSet:
        """The same support set with its volumes on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), texts=self.texts.to(device))

    def coarser(self, factor: int) -> SupportSet:
        """The same task on a grid where cubes of ``factor`` voxels a side are one.

        Images are averaged. A voxel belongs to the class that fills most of it, if that is at least half of it, or
        at least half of what the class fills anywhere in the volume: small structures stay.
        """
        if factor == 1:
            return self
        found = {}
        for shots, images, labels in self.volumes():
            one_hot = F.one_hot(labels[:, 0], len(self.classes) + 1).movedim(-1, 1)[:, 1:].to(images)
            image, share = reduce(torch.cat([images, one_hot], 1), factor).split([1, len(self.classes)], 1)
            enough = (share.flatten(2).amax(-1) / 2).clamp(min=1e-6, max=0.5)[:, :, None, None, None]
            filled, number = (share / enough).max(1, keepdim=True)
            found.update(zip(shots, zip(image, torch.where(filled >= 1, number + 1, 0))))
        images, labels = (stack_in_corner(each) for each in zip(*(found[shot] for shot in range(self.shots))))
        return replace(self, images=images, labels=labels, extents=-(-self.extents // factor))

    def volumes(self) -> list[tuple[list[int], Tensor, Tensor]]:
        """Volumes cut to what they really cover, those of equal size together.

        Returns:
            one ``(shots, images, labels)`` per size, images and labels ``(k, 1, d, h, w)``.
        """
        return [
            (shots, self.images[shots][..., :d, :h, :w], self.labels[shots][..., :d, :h, :w])
            for (d, h, w), shots in shots_by_size(self.extents.tolist()).items()
        ]


def shots_by_size(sizes: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """The numbers of the volumes of each size, sizes in the order in which they first occur.

    Example:
        >>> shots_by_size([[4, 4, 4], [5, 4, 4], [4, 4, 4]])
        {(4, 4, 4): [0, 2], (5, 4, 4): [1]}
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for shot, size in enumerate(sizes):
        groups.setdefault(tuple(size), []).append(shot)
    return groups


def stack_in_corner(volumes: Sequence[Tensor]) -> Tensor:
    """Put volumes ``(C, d, h, w)`` of any sizes into the low corner of one grid, ``(K, C, D, H, W)``, zeros beyond.

    Example:
        >>> stack_in_corner([torch.ones(1, 2, 3, 4), torch.ones(1, 4, 3, 2)]).shape
        torch.Size([2, 1, 4, 3, 4])
    """
    largest = [max(sides) for sides in zip(*(volume.shape[1:] for volume in volumes))]

    def filled(volume: Tensor) -> Tensor:
        return F.pad(volume, [side for n, m in zip(volume.shape[:0:-1], largest[::-1]) for side in (0, m - n)])

    return torch.stack([filled(volume) for volume in volumes])
