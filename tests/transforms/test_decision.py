"""The decision of the highest expected Dice."""

import itertools

import torch

from monai_hyper.transforms.decision import LOWEST, best_threshold


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


def test_all_voxels_at_the_threshold_are_taken():
    probability = torch.tensor([0.4] * 8 + [0.0] * 8)
    assert int((probability > best_threshold(probability)).sum()) == 8


def test_voxels_may_lie_in_any_order():
    probability = torch.rand(200)
    assert best_threshold(probability) == best_threshold(probability.flip(0).view(10, 20))
