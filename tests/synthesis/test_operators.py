"""Matrices along the axes do what they are named after."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.synthesis.operators import (
    along_axes,
    chance,
    gaussian,
    low_pass,
    octaves,
    slices,
    smooth_noise,
    splines,
    uniform,
)  # fmt: skip


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("operator, nothing", [(gaussian, 0.0), (slices, 1.0), (low_pass, 1.0)])
@pytest.mark.parametrize("n", [8, 9])
def test_optics_can_change_nothing_and_never_change_what_is_even(operator, nothing, n):
    assert_close(operator(torch.tensor([nothing, nothing]), n), torch.eye(n).expand(2, n, n), atol=1e-5, rtol=0)
    some = operator(torch.tensor([nothing, 2.3 if nothing < 1 or operator is slices else 0.4]), n)[1]
    assert not torch.allclose(some, torch.eye(n), atol=0.1)
    assert_close(some.sum(1), torch.ones(n))


def test_operators_act_along_their_axis_and_on_their_volume(generator):
    x = torch.randn(2, 3, 4, 5, 6, generator=generator)
    matrices = [torch.randn(2, n + 1, n, generator=generator) for n in (4, 5, 6)]
    expected = torch.einsum("bcdhw,bxd,byh,bzw->bcxyz", x, *matrices)
    assert_close(along_axes(x, matrices), expected, rtol=1e-4, atol=1e-4)


def test_blur_keeps_an_impulse_whole_and_spreads_it_as_far_as_told():
    impulse = torch.zeros(21)
    impulse[10] = 1
    spread = gaussian(torch.tensor([2.0]), 21)[0].T @ impulse
    at = torch.arange(21.0)
    assert_close(spread.sum(), torch.tensor(1.0), rtol=1e-3, atol=0)
    assert float((spread * (at - 10).square()).sum().sqrt()) == pytest.approx(2, rel=0.05)


def test_slices_average_over_their_thickness():
    """Halfway in a slice its mean is shown, whatever the values beside it."""
    x = torch.randn(9)
    shown = slices(torch.tensor([3.0]), 9)[0] @ x
    assert_close(shown[[1, 4, 7]], x.view(3, 3).mean(1))


def test_ringing_keeps_low_frequencies_and_drops_high_ones():
    at = torch.arange(16.0)
    matrix = low_pass(torch.tensor([0.5]), 16)[0]
    low, high = torch.cos(2 * torch.pi * 3 * at / 16), torch.cos(2 * torch.pi * 6 * at / 16)
    assert_close(matrix @ low, low, atol=1e-5, rtol=0)
    assert_close(matrix @ high, torch.zeros(16), atol=1e-5, rtol=0)


def test_splines_have_unit_length_and_touch_few_knots():
    weights = splines(torch.tensor([3.0, 7.0]), 20)
    assert weights.shape == (2, 20, 9)
    assert_close(weights.square().sum(-1), torch.ones(2, 20))
    assert bool(((weights > 0).sum(-1) <= 4).all()) and not weights[0, :, 5:].any()


@pytest.mark.parametrize("texture", [False, True])
def test_noise_has_unit_deviation_and_is_smoother_with_fewer_knots(texture, generator):
    knots = torch.tensor([3] * 60 + [8] * 60)
    if texture:
        fields = octaves(knots, (12, 13, 14), torch.full((120,), 0.5), generator)
    else:
        fields = smooth_noise(knots, (12, 13, 14), 1, generator)
    assert fields.shape == (120, 1, 12, 13, 14)
    assert float(fields.square().mean()) == pytest.approx(1, abs=0.15)
    rough = fields.diff(dim=2).square().flatten(1).mean(1)
    assert float(rough[60:].mean()) > 2 * float(rough[:60].mean())


def test_every_volume_has_its_own_knots(generator):
    """A volume's field does not depend on the knots of the others, but for the values that were drawn."""
    one = splines(torch.tensor([4.0]), 11)
    both = splines(torch.tensor([4.0, 9.0]), 11)
    assert_close(both[:1, :, : one.shape[-1]], one)


def test_uniform_and_chance_keep_to_their_odds(generator):
    values = uniform(-2, 3, generator, 2000)
    assert -2 <= float(values.min()) < -1.9 and 2.9 < float(values.max()) <= 3
    assert float(chance(0.3, generator, 2000).float().mean()) == pytest.approx(0.3, abs=0.05)
