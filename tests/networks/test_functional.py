"""Weights meet networks in pure functions."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_hyper.data.coarse import reduce
from monai_hyper.networks.functional import bind, enlarge, fit_field, pad_small, shapes_of
from monai_hyper.networks.head import features_at


@pytest.fixture
def target() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 3, 3), nn.InstanceNorm3d(3, affine=True), nn.Conv3d(3, 2, 1))


def test_bound_network_equals_loaded_network(target):
    weights = {name: torch.randn(shape) for name, shape in shapes_of(target).items()}
    loaded, image = deepcopy(target), torch.randn(2, 1, 6, 7, 8)
    loaded.load_state_dict(weights)
    assert_close(bind(target, weights)(image), loaded(image))


def test_binding_changes_nothing_in_the_target(target):
    before = deepcopy(target.state_dict())
    bind(target, {"0.weight": torch.zeros(3, 1, 3, 3, 3)})(torch.randn(1, 1, 6, 6, 6))
    assert_close(target.state_dict(), before)


def test_bind_names_the_wrong_weight(target):
    with pytest.raises(ValueError, match=r"weight '0.bias' is \(99,\); target expects \(3,\)"):
        bind(target, {"0.bias": torch.zeros(99)})
    with pytest.raises(ValueError, match="weight '7.bias' is .*no such weight"):
        bind(target, {"7.bias": torch.zeros(3)})


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [[16, 16, 16], [13, 17, 9]])
def test_features_at_voxels_equal_enlarged_features(factor, size):
    feature = torch.randn(1, 3, *(-(-side // factor) for side in size))
    where = torch.stack([torch.randint(0, side, (50,)) for side in size], 1)
    whole = enlarge(feature, factor, size)[0]
    assert_close(
        features_at([feature], [factor], where.float()[None])[0], whole[:, where[:, 0], where[:, 1], where[:, 2]].T,
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_fit_field_keeps_a_field_of_the_same_size():
    field = torch.randn(1, 2, 5, 6, 7)
    assert_close(fit_field(field, [5, 6, 7]), field)


def test_reduced_voxels_are_means_also_at_the_far_edge():
    x = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 5, 5)
    assert_close(reduce(x, 2)[0, 0, :, 0, 0], torch.tensor([0.5, 2.5, 4.0]))
    assert reduce(x, 1) is x


def test_volumes_thinner_than_a_cube_are_reduced_too():
    x = torch.rand(1, 2, 1, 6, 5)
    assert reduce(x, 3).shape == (1, 2, 1, 2, 2)
    assert_close(reduce(x, 3)[0, 0, 0, 0, 0], x[0, 0, 0, :3, :3].mean())


def test_enlarging_what_was_reduced_keeps_place_and_size():
    x = torch.linspace(0, 1, 13).view(1, 1, 13, 1, 1).expand(1, 1, 13, 9, 7)
    back = enlarge(reduce(x, 2), 2, [13, 9, 7])
    assert_close(back[:, :, 1:-2], x[:, :, 1:-2])


@pytest.mark.parametrize("size", [(40, 20, 1), (20, 1, 40), (5, 6, 7)])
def test_slices_stay_slices_also_when_traced(size):
    volume = torch.randn(1, 2, *size)
    found = pad_small(volume, 32, slices=True)
    assert list(found.shape[2:]) == [side if side == 1 else max(32, side) for side in size]
    assert torch.equal(found[:, :, : size[0], : size[1], : size[2]], volume)
    assert min(pad_small(volume, 32).shape[2:]) == 32
    traced = torch.jit.trace(lambda x: pad_small(x, 32, True), torch.randn(1, 2, 33, 9, 3), check_trace=False)
    assert torch.equal(traced(volume), found)
