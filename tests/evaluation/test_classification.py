"""Scores of classifiers: known values, and laws."""

import math

import pytest
import torch

from monai_hyper.evaluation.classification import (
    auc,
    expected_calibration_error,
    mean_interval,
    risk_coverage,
    run_episodes,
)
from monai_hyper.synthesis.class_images import ImageTasks, ImageTaskSettings


def test_the_interval_is_that_of_papers_on_episodes():
    mean, half = mean_interval([0.0, 1.0] * 50)
    assert mean == 0.5 and half == pytest.approx(1.96 * math.sqrt(0.25 * 100 / 99) / 10)


def test_auc_counts_pairs_in_the_right_order():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(60, generator=generator), torch.randint(0, 2, (60,), generator=generator)
    first, second = scores[labels == 0], scores[labels == 1]
    pairs = float((second[:, None] > first[None]).float().mean())
    assert auc(torch.stack([1 - scores, scores], 1), labels) == pytest.approx(pairs, abs=1e-6)
    several = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    assert auc(several, torch.tensor([0, 1, 2, 0])) == 1.0


def test_calibrated_probabilities_have_no_calibration_error_and_sure_wrong_ones_have_all():
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert expected_calibration_error(torch.tensor([[0.7, 0.3]] * 10), labels) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(torch.tensor([[0.0, 1.0]] * 10), torch.zeros(10).long()) == pytest.approx(1)


def test_risk_at_full_coverage_is_the_error_and_falls_where_confidence_helps():
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(200, generator=generator)
    probabilities = torch.stack([0.5 + sure / 2, 0.5 - sure / 2], 1)
    labels = (torch.rand(200, generator=generator) > probabilities[:, 0]).long()
    coverage, risk = risk_coverage(probabilities, labels)
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(float(labels.float().mean()))
    assert risk[49] < risk[-1]


def test_all_methods_see_the_same_episodes():
    images = torch.randn(24, 1, 8, 8, 1)
    seen: dict[str, list] = {"one": [], "two": []}

    class Watching:
        def __init__(self, name: str) -> None:
            self.name = name

        def fit(self, support):
            seen[self.name].append(support.images)
            return lambda queries: torch.eye(len(support.classes))[torch.zeros(len(queries)).long()]

    tasks = ImageTasks(images, torch.arange(24) % 3, ImageTaskSettings((3, 3), (1, 1), 2))
    scores = run_episodes({name: Watching(name) for name in seen}, tasks.batch, 4)
    assert all(torch.equal(a, b) for a, b in zip(*seen.values()))
    assert scores["one"].accuracies == [pytest.approx(1 / 3)] * 4 and len(scores["two"].milliseconds) == 4
