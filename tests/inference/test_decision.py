"""The decision of the highest expected Dice."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.inference.decision import LOWEST, best_threshold, weigh


def expected_dice(probability: torch.Tensor, chosen: torch.Tensor) -> float:
    """Mean Dice of a choice over all truths, each voxel being foreground by itself with its probability."""
    total = 0.0
    for truth in itertools.product((0.0, 1.0), repeat=len(probability)):
        truth = torch.tensor(truth)
        odds = torch.where(truth > 0, probability, 1 - probability).prod()
        both = chosen.sum() + truth.sum()
        total += float(odds * (2 * (chosen * truth).sum() / both if both else 1.0))
    return total


def test_no_other_threshold_is_expected_to_be_much_better():
    """Against all 2^9 truths, counted one by one; the approximation may cost a little."""
    torch.manual_seed(0)
    for _ in range(20):
        probability = torch.rand(9) * 0.75 + 0.25
        best = max(expected_dice(probability, (probability >= t).float()) for t in probability)
        found = expected_dice(probability, (probability >= best_threshold(probability)).float())
        at_half = expected_dice(probability, (probability > 0.5).float())
        assert found > best - 0.02 and found >= at_half - 0.005


def test_unsure_probabilities_are_cut_lower_than_certain_ones():
    unsure, certain = torch.full((100,), 0.45), torch.tensor([0.999] * 50 + [0.001] * 50)
    assert best_threshold(unsure) < 0.45
    assert best_threshold(certain) == 0.5


def test_what_is_nowhere_likely_is_found_nowhere():
    assert best_threshold(torch.full((50,), LOWEST - 0.01)) == 0.5
    probabilities = torch.stack([torch.full((4, 4, 4), 0.9), torch.full((4, 4, 4), 0.1)])
    assert not weigh(probabilities).argmax(0).any()


def test_certain_classes_are_chosen_as_before():
    logits = 20 * torch.nn.functional.one_hot(torch.randint(0, 4, (6, 6, 6)), 4).movedim(-1, 0).float()
    probabilities = logits.softmax(0)
    assert_close(weigh(probabilities), probabilities)


@pytest.mark.parametrize("classes", [1, 3])
def test_all_voxels_at_the_threshold_are_taken(classes):
    probabilities = torch.zeros(1 + classes, 2, 2, 2)
    probabilities[1, 0] = 0.4
    probabilities[0] = 1 - probabilities[1]
    assert torch.equal(weigh(probabilities).argmax(0), torch.tensor([1, 0])[:, None, None].expand(2, 2, 2))


def test_voxels_may_lie_in_any_order():
    probability = torch.rand(200)
    assert best_threshold(probability) == best_threshold(probability.flip(0).view(10, 20))
