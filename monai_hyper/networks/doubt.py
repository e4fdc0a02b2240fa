"""How far the probabilities of a classifier may be believed, from what its examples say of each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURES = torch.logspace(-0.8, 0.8, 65)
"""What temperatures are chosen from."""

SPREAD = 0.5
"""Standard deviation of the logarithm of the temperature before any example is seen."""

PRIOR = 4.0
"""So many examples that are right as often as they say stand beside the real ones."""


def judged(labels: Tensor, classes: int) -> Tensor:
    """Which examples can be judged by the others: those of classes that have several, ``(K,)`` bool.

    Example:
        >>> judged(torch.tensor([0, 0, 1]), 2)
        tensor([ True,  True, False])
    """
    return F.one_hot(labels, classes).sum(0)[labels] > 1


def fit_temperature(own: Tensor, labels: Tensor) -> float:
    """What to divide logits by, so that probabilities are as often right as they say.

    After Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599; few examples
    move it little.

    Args:
        own: logits of examples, each by the others, ``(K, N)``; labels: their classes, ``(K,)``; K may be 0.

    Example:
        >>> logits = torch.tensor([[6.0, 0.0]] * 10)
        >>> fit_temperature(logits, torch.tensor([0] * 7 + [1] * 3)) > 2
        True
        >>> round(fit_temperature(logits[:0], torch.zeros(0).long()), 6)
        1.0
    """
    loss = (TEMPERATURES.log() / SPREAD).square() / 2
    for number, temperature in enumerate(TEMPERATURES.tolist()):
        loss[number] += F.cross_entropy(own.cpu().float() / temperature, labels.cpu(), reduction="sum")
    return float(TEMPERATURES[loss.argmin()])


def fit_threshold(own: Tensor, labels: Tensor, wanted: float) -> float:
    """The least confidence from which on answers are right as often as wanted.

    Args:
        own: see :func:`fit_temperature`, divided by the temperature; wanted: share of right answers, 0 to 1.

    Returns:
        a probability; ``wanted`` itself where there is no example.

    Example:
        >>> fit_threshold(torch.zeros(0, 2), torch.zeros(0).long(), 0.9)
        0.9
    """
    if not len(own):
        return wanted
    confidence, answer = own.cpu().float().softmax(1).max(1)
    right = (answer == labels.cpu()).float()
    confidence, order = confidence.sort(descending=True)
    count = torch.arange(1, len(order) + 1)
    believed = confidence.cumsum(0) / count
    reached = (right[order].cumsum(0) + PRIOR * believed) / (count + PRIOR)
    last = torch.cat([confidence[1:] < confidence[:-1], torch.tensor([True])])  # of several that are as confident
    enough = torch.nonzero((reached >= wanted) & last)[:, 0]
    return float(confidence[enough[-1]]) if len(enough) else max(wanted, float(confidence[0]))
