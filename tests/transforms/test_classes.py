"""Choosing, merging and renaming classes."""

import pytest
import torch

from monai_hyper.transforms import RenameClasses, SelectClasses, SelectClassesd
from monai_hyper.types import InputError


def test_gaps_close_in_the_order_asked():
    label = torch.tensor([0, 5, 2, 9, 5])
    assert SelectClasses([9, 5])(label).tolist() == [0, 2, 0, 1, 2]
    assert label.tolist() == [0, 5, 2, 9, 5]


def test_values_merge():
    data = {"label": torch.tensor([0, 1, 2, 3])}
    assert SelectClassesd("label", [(1, 2), 3])(data)["label"].tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("values", [[], [0], [3, 3], [(1, 2), 2]])
def test_values_that_make_no_sense(values):
    with pytest.raises(InputError, match="expected one or more"):
        SelectClasses(values)


def test_unknown_and_coinciding_names():
    with pytest.raises(InputError, match="unknown class lung; known are liver"):
        RenameClasses({"lung": "x"})(("liver",))
    with pytest.raises(InputError, match="different names"):
        RenameClasses({"lung": "liver"})(("liver", "lung"))
