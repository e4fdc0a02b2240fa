"""How well images are classified: accuracy with its interval, AUC, calibration, and what abstaining buys."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from torch import Tensor

from monai_hyper.methods.classify.registry import ClassMethod
from monai_hyper.synthesis.batch import ClassBatch

BINS = 15
"""Equally wide bins of confidence."""


def mean_interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half of its 95% interval, as papers on episodes give it: 1.96 standard errors.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        (0.5, 0.0)
    """
    values = list(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), 1.96 * spread / math.sqrt(len(values))


def auc(probabilities: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve; of more than two classes the mean of each against the rest.

    Args:
        probabilities: ``(n, N)``; labels: ``(n,)``.

    Example:
        >>> auc(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), torch.tensor([0, 0, 1]))
        1.0
    """
    if probabilities.shape[1] == 2:
        return float(compute_roc_auc(probabilities[:, 1], labels))
    one_hot = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return float(compute_roc_auc(probabilities, one_hot, average="macro"))


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Mean distance between confidence and accuracy over bins of confidence, after Guo et al., "On Calibration of
    Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599.

    Args:
        probabilities: ``(n, N)``; labels: ``(n,)``.

    Example:
        >>> expected_calibration_error(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        0.25
    """
    confidence, answer = probabilities.max(1)
    right = (answer == labels).float()
    number = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = [
        abs(float((confidence[number == b] - right[number == b]).sum())) for b in range(BINS) if (number == b).any()
    ]
    return sum(gaps) / len(labels)


def risk_coverage(probabilities: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Share of wrong answers among the most confident ones, for every number of them.

    After Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", 2017,
    https://arxiv.org/abs/1705.08500.

    Returns:
        coverage, 0 to 1, and risk, ``(n,)`` each.

    Example:
        >>> coverage, risk = risk_coverage(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]))
        >>> coverage.tolist(), risk.tolist()
        ([0.5, 1.0], [0.0, 0.5])
    """
    confidence, answer = probabilities.max(1)
    wrong = (answer != labels)[confidence.argsort(descending=True, stable=True)].double().numpy()
    count = np.arange(1, len(wrong) + 1)
    return count / len(wrong), wrong.cumsum() / count


@dataclass
class Score:
    """What a method reached in episodes.

    Args:
        accuracies: of every episode; milliseconds: of every fit.
    """

    accuracies: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)


def run_episodes(
    methods: Mapping[str, ClassMethod], draw: Callable[[int], ClassBatch], episodes: int
) -> dict[str, Score]:
    """Every method on the same episodes, one after another in this process.

    Args:
        draw: the batch of a number, of one task.
    """
    found = {name: Score() for name in methods}
    for number in range(episodes):
        batch = draw(number)
        support, (images, labels) = batch.support(0), batch.queries(0)
        for name, method in methods.items():
            begun = time.perf_counter()
            network = method.fit(support)
            found[name].milliseconds.append(1000 * (time.perf_counter() - begun))
            with torch.no_grad():
                found[name].accuracies.append(float((network(images).argmax(1) == labels).float().mean()))
    return found
