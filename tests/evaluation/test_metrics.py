"""Dice of label maps."""

import pytest
import torch

from monai_hyper.evaluation.metrics import dice_per_class


def test_dice_equals_its_definition():
    predicted, truth = torch.randint(0, 4, (1, 9, 8, 7)), torch.randint(0, 4, (1, 9, 8, 7))
    for value, found in zip((1, 3), dice_per_class(predicted, truth, (1, 3))):
        a, b = predicted == value, truth == value
        assert found == pytest.approx(2 * float((a & b).sum()) / float(a.sum() + b.sum()))


def test_dice_does_not_depend_on_the_size_of_label_values():
    truth = torch.randint(0, 3, (1, 8, 8, 8))
    predicted = torch.randint(0, 3, (1, 8, 8, 8))
    large = torch.tensor([0, 200, 7])
    assert dice_per_class(large[predicted], large[truth], (200, 7)) == dice_per_class(predicted, truth, (1, 2))


def test_empty_classes():
    nothing, something = torch.zeros(1, 4, 4, 4).long(), torch.ones(1, 4, 4, 4).long()
    assert dice_per_class(nothing, nothing, (1,)) == [1.0]
    assert dice_per_class(nothing, something, (1,)) == [0.0]
    assert dice_per_class(something, nothing, (1,)) == [0.0]


def test_volumes_of_different_grids_are_refused():
    with pytest.raises(ValueError, match="expected one grid"):
        dice_per_class(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 5), (1,))
