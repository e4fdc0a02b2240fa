"""What meta-training of classifiers descends."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.synthesis.batch import ClassBatch

SELF_WEIGHT = 0.2
"""Weight of what the examples are told about themselves by the others."""

IMAGES_ONLY, WORDS_ONLY = 0.45, 0.15
"""How often descriptions are withheld from described tasks, and how often the images are."""


def withheld(batch: ClassBatch, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, classes of the examples and descriptions, the descriptions or the examples left out by chance.

    Args:
        shown: classes of the examples, one-hot, ``(T, K, N)``.
    """
    chance, described = float(torch.rand(())), bool((batch.texts.abs().sum(-1) > 0).all())
    if chance < IMAGES_ONLY:
        return batch.images, shown, torch.zeros_like(batch.texts)
    if described and chance > 1 - WORDS_ONLY:
        return batch.images[:, batch.examples :], shown[:, :0], batch.texts
    return batch.images, shown, batch.texts


def class_loss(model: HyperClassifier, batch: ClassBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the queries, and of the examples by each other where classes have several.

    Returns:
        the loss, mean over tasks; and the share of the queries that is classified rightly, ``(T,)``.
    """
    one_hot = F.one_hot(batch.labels[:, : batch.examples], batch.classes).float()
    images, shown, texts = withheld(batch, one_hot)
    logits, own = model.classify_tasks(images, shown, texts)
    asked = batch.labels[:, batch.examples :]
    loss = F.cross_entropy(logits.flatten(0, 1), asked.flatten())
    if batch.shots > 1 and shown.shape[1]:
        loss = loss + SELF_WEIGHT * F.cross_entropy(own.flatten(0, 1), batch.labels[:, : batch.examples].flatten())
    return loss, accuracy(logits, asked)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of images that are classified rightly, of every task: logits ``(T, Q, N)``, labels ``(T, Q)``."""
    return (logits.argmax(-1) == labels).float().mean(1)


def class_objective(model: nn.Module, batch: ClassBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """See :func:`monai_hyper.training.loss.objective`; a :class:`HyperClassifier` takes all tasks at once, a baseline
    one after another, and images alone."""
    if isinstance(model, HyperClassifier):
        yield class_loss(model, batch)
        return
    for task in range(len(batch.kinds)):
        loss, logits = model.task_loss(batch, task)
        yield loss / len(batch.kinds), accuracy(logits[None], batch.queries(task)[1][None])
