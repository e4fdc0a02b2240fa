"""Plain features: of brightness and expected place, beside what the body sees."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel
from monai_hyper.networks.plain import PLAIN, plain_features, with_plain, with_plain_widths


def inputs_of(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([image, torch.randn(len(image), PRIOR_CHANNELS, *image.shape[2:]), mask], 1)


def test_flat_images_and_masks_give_flat_finite_features():
    for value in (0.0, 0.3, 1.0):
        mask = torch.full((1, 1, 9, 8, 7), value)
        found = plain_features(inputs_of(torch.full_like(mask, 2.0), mask))
        assert found.shape == (1, PLAIN, 9, 8, 7) and bool(torch.isfinite(found).all())
        assert_close(found, found[:, :, :1, :1, :1].expand_as(found))
        assert_close(found[0, :, 0, 0, 0][[0, 5, 8]], torch.tensor([value**2, 2.0, 4.0]))


def test_the_prior_is_not_looked_at_and_volumes_stay_apart():
    image, mask = torch.randn(2, 1, 8, 8, 8), torch.rand(2, 1, 8, 8, 8)
    both = plain_features(inputs_of(image, mask))
    assert_close(both, plain_features(inputs_of(image, mask)))
    assert_close(both[1:], plain_features(inputs_of(image[1:], mask[1:])))


def test_log_odds_tell_the_sides_of_a_mask_apart():
    mask = F.pad(torch.ones(1, 1, 4, 8, 8), [0, 0, 0, 0, 4, 4])
    odds = plain_features(inputs_of(torch.zeros(1, 1, 12, 8, 8), mask))[0, 3, :, 4, 4]
    assert bool((odds[5:7] > 0.5).all()) and bool((odds[[0, 11]] < -0.5).all())


@pytest.mark.parametrize("side", [8, 11])
def test_they_stand_beside_the_finest_features_also_where_those_are_padded(side):
    inputs = inputs_of(torch.randn(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8))
    features = [torch.randn(1, 5, side, side, side), torch.randn(1, 7, 4, 4, 4)]
    first, second = with_plain(features, inputs)
    assert second is features[1] and first.shape[1] == with_plain_widths((5, 7))[0]
    assert_close(first[:, :5], features[0])
    assert_close(first[:, 5:, :8, :8, :8], plain_features(inputs))


@torch.no_grad()
def test_a_ring_is_cut_out_of_a_disc_by_place_alone():
    """What is linear in the mean mask cannot tell its rim from what lies around; its square can."""
    grid = torch.linspace(-1, 1, 24)
    distance = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij")).norm(dim=0)[None, None]
    mask = torch.sigmoid(8 * (0.6 - distance))
    ring = (mask - 0.5).abs() < 0.3
    columns = torch.cat([torch.ones_like(mask), mask, plain_features(inputs_of(torch.zeros_like(mask), mask))], 1)
    rows, target = columns[0].flatten(1).T.double(), ring.flatten().double()
    errors = []
    for count in (2, 7):
        solved = torch.linalg.lstsq(rows[:, :count], target[:, None]).solution
        errors.append(float((rows[:, :count] @ solved - target[:, None]).square().mean()))
    assert errors[1] < 0.5 * errors[0], errors


@torch.no_grad()
def test_what_the_body_sees_by_itself_has_none():
    features = HyperModel().eval().unconditioned(torch.randn(1, 1, 32, 32, 32))
    assert float(features[0][:, -PLAIN:].abs().max()) == 0 and float(features[0][:, :-PLAIN].abs().max()) > 0


@torch.no_grad()
def test_the_generated_network_reads_them():
    torch.manual_seed(0)
    support = SupportSet(torch.randn(2, 1, 24, 24, 24), torch.randint(0, 2, (2, 1, 24, 24, 24)))
    network = HyperModel().eval().generate(support)[0]
    weights = network.weights["reader.head.0.weight"]
    assert weights.shape[1] == 16 + PLAIN and float(weights[:, 16:].abs().max()) > 0
