"""The loss of one episode."""

from __future__ import annotations

import torch
from monai.losses import DiceFocalLoss
from torch import Tensor

from monai_hyper.networks.model import HyperModel
from monai_hyper.synthesis.tasks import Episode

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
