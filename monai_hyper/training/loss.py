"""The loss of one episode."""

from __future__ import annotations

import torch
from monai.losses import DiceFocalLoss
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel
from monai_hyper.synthesis.batch import Episode

SELF_WEIGHT = 0.2
"""Weight of what the support volumes are told about themselves by the others."""

_loss = DiceFocalLoss(
    include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-3, smooth_dr=1e-3
)


def episode_loss(model: HyperModel, episode: Episode) -> tuple[Tensor, Tensor]:
    """Dice and focal loss on the queries, plus the leave-one-out loss on the support.

    Returns:
        the loss, and the queries' logits ``(Q, N, D, H, W)``.
    """
    network, own_logits = model.generate(episode.support)
    logits = network(episode.images)
    loss = _loss(logits, episode.labels)
    for (shots, own), (_, _, labels) in zip(own_logits(), episode.support.volumes()):
        loss = loss + SELF_WEIGHT * _loss(own, labels) * len(shots) / episode.support.shots
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


def objective(model: nn.Module, episode: Episode) -> tuple[Tensor, float]:
    """What meta-training descends, and the Dice of the queries to report.

    Args:
        model: a :class:`HyperModel`, or a :class:`monai_hyper.methods.meta.Learner`, which sees one class only.
    """
    if isinstance(model, HyperModel):
        loss, logits = episode_loss(model, episode)
    else:
        episode = one_class(episode)
        loss, logits = model.episode_loss(episode)
    return loss, episode_dice(logits, episode.labels)


@torch.no_grad()
def episode_dice(logits: Tensor, labels: Tensor) -> float:
    """Mean Dice over classes, all queries taken together.

    Args:
        logits: ``(Q, N, D, H, W)``; labels: ``(Q, 1, D, H, W)``.
    """
    predicted, scores = logits.argmax(1, keepdim=True), []
    for value in range(1, logits.shape[1]):
        a, b = predicted == value, labels == value
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))
    return float(torch.stack(scores).mean())
