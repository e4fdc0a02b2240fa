"""Random changes: small, seedable, the same for image and label."""

import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from monai_hyper.transforms import RandFieldOfView, RandFieldOfViewd, RandSupportAugment, RandSupportAugmentd


@pytest.fixture
def pair() -> dict:
    """A bright box in a dark volume, and its label."""
    label = torch.zeros(1, 32, 32, 32, dtype=torch.int64)
    label[:, 10:22, 8:20, 12:26] = 3
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    return {"image": MetaTensor(label.float() - 1, affine=affine), "label": MetaTensor(label, affine=affine)}


TWINS = [RandSupportAugmentd, RandFieldOfViewd]
KEYS = {"keys": ["image", "label"], "mode": ["image", "label"]}


@pytest.mark.parametrize("twin", TWINS)
def test_image_and_label_change_alike(pair, twin):
    change = twin(**KEYS).set_random_state(seed=1)
    for _ in range(5):
        out = change(pair)
        assert out["label"].dtype == torch.int64 and set(out["label"].unique().tolist()) <= {0, 3}
        differ = ((out["image"] > 0.5) != (out["label"] == 3)).as_tensor().float().mean()
        assert differ < 0.01


@pytest.mark.parametrize("twin", TWINS)
def test_seeds_repeat_and_calls_differ(pair, twin):
    first, second = (twin(**KEYS).set_random_state(seed=5) for _ in range(2))
    a, b, c = first(pair)["image"], second(pair)["image"], first(pair)["image"]
    assert torch.equal(a.as_tensor(), b.as_tensor())
    assert a.shape != c.shape or not torch.equal(a.as_tensor(), c.as_tensor())


@pytest.mark.parametrize("twin", TWINS)
def test_the_input_is_not_modified(pair, twin):
    before = {key: value.clone() for key, value in pair.items()}
    twin(**KEYS).set_random_state(seed=0)(pair)
    assert all(torch.equal(before[key].as_tensor(), pair[key].as_tensor()) for key in pair)


def test_augmentation_moves_little_but_moves(pair):
    augment = RandSupportAugment("label").set_random_state(seed=2)
    label = pair["label"].as_tensor() == 3
    for _ in range(8):
        moved = augment(pair["label"]).as_tensor() == 3
        overlap = 2 * (moved & label).sum() / (moved.sum() + label.sum())
        assert 0.3 < overlap < 1.0


def test_single_slices_are_augmented():
    assert RandSupportAugment().set_random_state(seed=0)(torch.rand(1, 32, 32, 1)).shape == (1, 32, 32, 1)


def test_every_voxel_keeps_its_place(pair):
    change = RandFieldOfView().set_random_state(seed=4)
    box = pair["label"].as_tensor()[0] == 3
    corner = (pair["label"].affine @ torch.cat([box.nonzero().min(0).values, torch.ones(1)]).double())[:3]
    seen = 0
    for _ in range(20):
        changed = change(pair["label"], mode="label")
        inside = changed.as_tensor()[0] == 3
        if inside.sum() != box.sum():
            continue  # the box was cropped
        seen += 1
        low = torch.cat([inside.nonzero().min(0).values, torch.ones(1)]).double()
        assert_close((changed.affine @ low)[:3], corner)
    assert seen


def test_fields_of_view_grow_and_shrink_within_bounds():
    change = RandFieldOfView(0.35).set_random_state(seed=0)
    sides = [change(torch.rand(1, 20, 20, 20)).shape[1:] for _ in range(30)]
    flat = [side for shape in sides for side in shape]
    assert min(flat) >= 6 and max(flat) <= 34 and min(flat) < 15 and max(flat) > 25


def test_images_are_padded_with_their_minimum_and_labels_with_background():
    change = RandFieldOfView(0.35).set_random_state(seed=0)
    image, label = torch.rand(1, 16, 16, 16) + 5, torch.ones(1, 16, 16, 16)
    for _ in range(10):
        assert change(image).min() >= image.min()
        assert set(change(label, mode="label", randomize=False).unique().tolist()) <= {0.0, 1.0}


def test_no_change_for_fraction_zero():
    volume = torch.rand(1, 8, 8, 8)
    assert torch.equal(RandFieldOfView(0.0)(volume), volume)


def test_a_fraction_that_could_leave_nothing():
    with pytest.raises(ValueError, match="expected 0 to below 0.5"):
        RandFieldOfView(0.5)
