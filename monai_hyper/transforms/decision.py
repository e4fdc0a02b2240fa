"""From probabilities to a label: the choice of the highest expected Dice."""

from __future__ import annotations

import torch
from torch import Tensor

_JUST_BELOW = 1 - 1e-5  # so that voxels at the threshold itself are taken

LOWEST = 0.25
"""A voxel of less probability is never foreground: where nothing is likely, nothing is found."""


def dice_curve(probability: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The Dice to be expected of taking the n most probable voxels, for every n.

    Approximated by twice the mass of those voxels over n plus the mass of all.

    Args:
        probability: of one class against everything else, any shape.
        least: voxels of less probability are never taken.

    Returns:
        probabilities in falling order, and the expected Dice, ``(n,)`` float64.
    """
    likely = probability[probability >= least].flatten().sort(descending=True).values
    taken = torch.arange(1, likely.shape[0] + 1, device=likely.device)
    return likely, 2 * likely.double().cumsum(0) / (taken + probability.double().sum())


def best_threshold(probability: Tensor) -> float:
    """The threshold of the highest expected Dice, if the probabilities are right.

    Dice forgives little that is found too much and a lot that is missed, so the best threshold is half of the Dice that
    can be expected, and one half only where everything is certain: Lipton et al., "Optimal Thresholding of Classifiers
    to Maximize F1 Measure", 2014, https://arxiv.org/abs/1402.1892.

    Args:
        probability: of one class against everything else, any shape.

    Returns:
        from ``LOWEST`` to 0.5.

    Example:
        >>> certain, unsure = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.4, 0.4, 0.1])
        >>> round(best_threshold(certain), 3), round(best_threshold(unsure), 3)
        (0.5, 0.4)
    """
    candidates, expected = dice_curve(probability, LOWEST)
    if not len(candidates):
        return 0.5
    return min(0.5, _JUST_BELOW * float(candidates[int(expected.argmax())]))
