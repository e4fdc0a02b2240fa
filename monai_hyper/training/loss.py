"""The loss of a batch of tasks, and of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from monai.losses import DiceFocalLoss
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.batched import segment_tasks, segment_told
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.template import Template
from monai_hyper.synthesis.batch import ClassBatch, Episode, TaskBatch
from monai_hyper.training.class_loss import class_objective

SELF_WEIGHT = 0.2
"""Weight of what the support volumes are told about themselves by the others."""

_loss = DiceFocalLoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-3, smooth_dr=1e-3)


def together(volumes: Tensor) -> Tensor:
    """Volumes of several tasks with those of a task as one long one, ``(T, B, C, D, H, W)`` to ``(T, C, B D, H, W)``.

    Example:
        >>> together(torch.zeros(2, 3, 4, 5, 6, 7)).shape
        torch.Size([2, 4, 15, 6, 7])
    """
    return volumes.transpose(1, 2).flatten(2, 3)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice and focal loss of every task, over all its volumes and then over classes; the mean over tasks.

    Args:
        logits: ``(T, B, N, D, H, W)``; labels: ``(T, B, 1, D, H, W)``.
    """
    return _loss(together(logits), together(labels))


HEARD = 0.25, 0.5
"""How often a batch is of descriptions alone where every class has one, and of volumes with descriptions."""


def heard_of(batch: TaskBatch, shares: tuple[float, float] = HEARD) -> str:
    """What a network is generated from, drawn by chance: "volumes", "words" or "both"; shares: see ``HEARD``."""
    described = batch.texts.abs().sum(-1) > 0
    if not bool(described.any()):
        return "volumes"
    chance = float(torch.rand(()))
    words, both = shares
    if chance < words and bool(described.all()):
        return "words"
    return "both" if chance > 1 - both else "volumes"


def batch_loss(
    model: HyperModel, batch: TaskBatch, low: torch.autocast | None = None, heard: tuple[float, float] = HEARD
) -> tuple[Tensor, Tensor]:
    """Dice and focal loss on the queries, plus the leave-one-out loss on the support: the mean over the tasks.

    Descriptions are withheld from some of the batches that have any; in some of those that describe every class they
    are all there is.

    Args:
        low: see :func:`monai_hyper.networks.batched.segment_tasks`; heard: see ``HEARD``.

    Returns:
        the loss, and the queries' logits ``(T, Q, N, D, H, W)``.
    """
    source = heard_of(batch, heard)
    if source == "words":
        logits = segment_told(model, batch, low)
        return segmentation_loss(logits, batch.labels[:, batch.shots :]), logits
    logits, own = segment_tasks(model, batch if source == "both" else replace(batch, texts=None), low)
    asked, shown = batch.labels[:, batch.shots :], batch.labels[:, : batch.shots]
    return segmentation_loss(logits, asked) + SELF_WEIGHT * segmentation_loss(own, shown), logits


def episode_loss(
    model: HyperModel, episode: Episode, template: Template | None = None, local: bool = False
) -> tuple[Tensor, Tensor]:
    """What :func:`batch_loss` is for one task whose volumes may differ in size and are aligned first.

    Args:
        template: the common frame of the support volumes and, after them, the queries, where it is known: then
            nothing is aligned.
        local: whether the volumes are windows around the foreground.

    Returns:
        the loss, and the queries' logits ``(Q, N, D, H, W)``.
    """
    network, own_logits = model.generate(episode.support, template, local)
    places = None if template is None else template.own[episode.support.shots :]
    logits = network(episode.images, places=places)
    loss = segmentation_loss(logits[None], episode.labels[None])
    for (shots, own), (_, _, labels) in zip(own_logits(), episode.support.volumes()):
        loss = loss + SELF_WEIGHT * segmentation_loss(own[None], labels[None]) * len(shots) / episode.support.shots
    return loss, logits


def one_class(episode: Episode) -> Episode:
    """One class of the episode, drawn by chance, against everything else: what binary methods learn from.

    Volumes that do not annotate it are left out of the support.
    """
    support = episode.support
    index = int(torch.randint(len(support.classes), ()))
    shown = support.subset(support.annotated[:, index].nonzero()[:, 0].tolist())
    binary = SupportSet(
        shown.images, (shown.labels == index + 1).long(), (support.classes[index],), extents=shown.extents
    )
    return Episode(binary, episode.images, (episode.labels == index + 1).long(), episode.kind)


def objective(
    model: nn.Module,
    batch: TaskBatch | ClassBatch,
    low: torch.autocast | None = None,
    heard: tuple[float, float] = HEARD,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What meta-training descends, in parts that are summed, and the score of the queries of every part's tasks: Dice,
    or of classifiers the share that is right.

    A :class:`HyperModel` takes all tasks at once; a :class:`monai_hyper.methods.meta.Learner` one after another, of
    each one class, in float32.

    Args:
        low: see :func:`monai_hyper.networks.batched.segment_tasks`; heard: of segmentation, see ``HEARD``.
    """
    if isinstance(batch, ClassBatch):
        yield from class_objective(model, batch)
        return
    if isinstance(model, HyperModel):
        loss, logits = batch_loss(model, batch, low, heard)
        yield loss, task_dice(logits, batch.labels[:, batch.shots :])
        return
    for task in range(len(batch.kinds)):
        episode = one_class(batch.episode(task))
        loss, logits = model.episode_loss(episode)
        yield loss / len(batch.kinds), task_dice(logits[None], episode.labels[None])


@torch.no_grad()
def task_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean Dice over classes of every task, all its volumes taken together, ``(T,)``.

    Args:
        logits: ``(T, B, N, D, H, W)``; labels: ``(T, B, 1, D, H, W)``.
    """
    predicted, scores = logits.argmax(2, keepdim=True), []
    for value in range(1, logits.shape[2]):
        a, b = (predicted == value).flatten(1), (labels == value).flatten(1)
        scores.append(2 * (a & b).sum(1) / (a.sum(1) + b.sum(1)).clamp(min=1))
    return torch.stack(scores).mean(0)
