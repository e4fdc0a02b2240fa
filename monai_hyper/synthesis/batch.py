"""What a training step learns from: one task, or several of equal shape at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.data.text import TEXT_DIM


@dataclass(frozen=True)
class Episode:
    """One task: what a support set shows and queries ask.

    Args:
        images: queries ``(Q, 1, D, H, W)``; labels: ``(Q, 1, D, H, W)``; kind: name of the task's family.
    """

    support: SupportSet
    images: Tensor
    labels: Tensor
    kind: str


@dataclass(frozen=True)
class TaskBatch:
    """``T`` tasks with as many shots, queries and classes each, on grids of one size.

    Args:
        images: harmonised intensities, support before queries, ``(T, K + Q, 1, D, H, W)``.
        labels: 0 is background, ``(T, K + Q, 1, D, H, W)``.
        offsets: what to add to a position in the task's common frame, in voxels, to come to the same place in a case,
            ``(T, K + Q, 3)``; about, as after an alignment.
        shots: ``K``; classes: number ``n`` of foreground classes.
        local: whether the volumes are windows around the foreground rather than whole fields of view.
        kinds: name of the family of every task.
        texts: what describes the classes, zero where nothing does, ``(T, n, 384)``; default: nothing does.
    """

    images: Tensor
    labels: Tensor
    offsets: Tensor
    shots: int
    classes: int
    local: bool
    kinds: tuple[str, ...]
    texts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.texts is None:
            nothing = torch.zeros(len(self.kinds), self.classes, TEXT_DIM, device=self.images.device)
            object.__setattr__(self, "texts", nothing)

    def episode(self, task: int) -> Episode:
        """One of the tasks by itself."""
        images, labels, shots = self.images[task], self.labels[task], self.shots
        names = tuple(f"class_{c + 1}" for c in range(self.classes))
        support = SupportSet(images[:shots], labels[:shots], names, texts=self.texts[task])
        return Episode(support, images[shots:], labels[shots:], self.kinds[task])


@dataclass(frozen=True)
class ClassBatch:
    """``T`` tasks of classification with as many shots, queries and classes each, on grids of one size.

    Args:
        images: harmonised intensities, examples before queries, ``(T, K + Q, 1, D, H, W)``; the examples are class
            after class, ``shots`` of each.
        labels: numbers of the classes, ``(T, K + Q)``.
        shots: examples of every class; classes: number ``N`` of classes.
        texts: what describes the classes, zero where nothing does, ``(T, N, 384)``.
        kinds: name of the family of every task.
    """

    images: Tensor
    labels: Tensor
    shots: int
    classes: int
    texts: Tensor
    kinds: tuple[str, ...]

    @property
    def examples(self) -> int:
        """Number ``K`` of examples of a task."""
        return self.shots * self.classes

    def support(self, task: int) -> SupportSet:
        """The examples of one of the tasks."""
        names = tuple(f"class_{c + 1}" for c in range(self.classes))
        shown = self.images[task, : self.examples], self.labels[task, : self.examples]
        return SupportSet(*shown, names, texts=self.texts[task])

    def queries(self, task: int) -> tuple[Tensor, Tensor]:
        """Images ``(Q, 1, D, H, W)`` and classes ``(Q,)`` that one of the tasks asks for."""
        return self.images[task, self.examples :], self.labels[task, self.examples :]
