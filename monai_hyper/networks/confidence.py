"""What Dice can be expected, before any truth is seen."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from monai_hyper.transforms.decision import dice_curve

THIN = 0.05
"""A voxel of less probability says nothing of an answer: over a whole volume, what is hardly likely anywhere adds up to
more than a structure."""


def expectation(logits: Tensor, thin: float = THIN) -> Tensor:
    """The Dice that probabilities expect of themselves, of the best cut, mean over the foreground classes.

    Args:
        logits: ``(1, N, D, H, W)``, background first; thin: what is less probable is not counted.

    Returns:
        a number, float64.
    """
    found: list[Tensor] = []
    for each in logits.softmax(1)[0, 1:]:
        _, curve = dice_curve(each[each >= thin], thin)
        found.append(torch.cat([curve, curve.new_zeros(1)]).max())
    return torch.stack(found).mean()


def confidence(logits: Tensor, thin: float = THIN) -> float:
    """See :func:`expectation`."""
    return float(expectation(logits, thin))


class Expecting(Protocol):
    """A generated network that may know how well the volumes of its support set were segmented."""

    expected_dice: float | None


def agreement(first: Tensor, second: Tensor) -> float:
    """Dice of two answers, probabilities as they are, mean over the foreground classes.

    Args:
        first, second: logits ``(1, N, D, H, W)``, background first.

    Example:
        >>> agreement(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4))
        1.0
    """
    found: list[float] = []
    for a, b in zip(first.softmax(1)[0, 1:], second.softmax(1)[0, 1:]):
        found.append(float(2 * torch.minimum(a, b).sum() / (a.sum() + b.sum()).clamp(min=1e-6)))
    return sum(found) / len(found)


def expected_dice(network: Expecting, answers: list[Tensor]) -> float:
    """The Dice to expect of an answer.

    Where it is known how well the examples were segmented by each other, before any polish, the mean of that and of
    what the answer expects of itself. A lone volume has no such examples: there what the answer expects of itself
    counts as far as another network of the same volume agrees. Two answers that each have a Dice of d, and err apart,
    agree by about the square of d.

    Args:
        answers: logits ``(1, N, D, H, W)``; the answer, then the other one where there is one.
    """
    own = confidence(answers[0])
    if network.expected_dice is not None:
        return (network.expected_dice + own) / 2
    return own * math.sqrt(agreement(*answers)) if len(answers) == 2 else own
