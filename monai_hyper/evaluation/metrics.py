"""How well a segmentation agrees with the truth."""

from __future__ import annotations

import torch
from monai.metrics import DiceMetric
from torch import Tensor


def dice_per_class(predicted: Tensor, truth: Tensor, values: tuple[int, ...]) -> list[float]:
    """Dice of every class on one volume, by MONAI's ``DiceMetric``.

    Args:
        predicted, truth: label maps of one shape, ``(1, D, H, W)``.
        values: label values of the classes.

    Returns:
        one number per class: 1 where both are empty, 0 where one is.

    Example:
        >>> truth = torch.zeros(1, 4, 4, 4).long()
        >>> truth[..., :2] = 1
        >>> dice_per_class(truth, truth, (1, 2))
        [1.0, 1.0]
    """

    if predicted.shape != truth.shape:
        raise ValueError(f"prediction is {tuple(predicted.shape)}, truth is {tuple(truth.shape)}; expected one grid.")
    one_hot = [torch.stack([(volume == value).float() for value in values], 1) for volume in (predicted, truth)]
    scores = DiceMetric(include_background=True, ignore_empty=False)(*one_hot)
    return [float(score) for score in scores[0]]
