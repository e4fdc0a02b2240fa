"""What erosion, dilation and their kin never do."""

import pytest
import torch

from monai_hyper.synthesis import morphology as mo


@pytest.fixture(params=[1, 2])
def radius(request) -> int:
    return request.param


@pytest.fixture
def masks() -> torch.Tensor:
    """Random masks of all densities, touching the border."""
    rough = torch.rand(6, 1, 9, 10, 11, generator=torch.Generator().manual_seed(0))
    return rough < torch.tensor([0.02, 0.1, 0.3, 0.6, 0.9, 0.99]).view(-1, 1, 1, 1, 1)


def test_dilation_is_the_largest_value_around(masks, radius):
    size = 2 * radius + 1
    expected = torch.nn.functional.max_pool3d(masks.float(), size, 1, radius) > 0
    assert torch.equal(mo.dilate(masks, radius), expected)


def test_erosion_undoes_no_more_than_dilation_did(masks, radius):
    assert not (mo.erode(masks, radius) & ~masks).any()
    assert not (masks & ~mo.erode(mo.dilate(masks, radius), radius)).any()


def test_opening_adds_nothing_and_closing_removes_nothing(masks, radius):
    opened, closed = mo.opened(masks, radius), mo.closed(masks, radius)
    assert not (opened & ~masks).any() and not (masks & ~closed).any()
    assert torch.equal(mo.opened(opened, radius), opened) and torch.equal(mo.closed(closed, radius), closed)


def test_opening_removes_what_is_thin_and_closing_fills_what_is_narrow(radius):
    thick = torch.zeros(1, 1, 15, 15, 15, dtype=torch.bool)
    thick[..., 4:11, 4:11, 4:11] = True
    spike, hole = thick.clone(), thick.clone()
    spike[..., 7, 7, 11:14] = True
    hole[..., 7, 7, 7] = False
    assert torch.equal(mo.opened(spike, radius), thick) and torch.equal(mo.closed(hole, radius), thick)


def test_a_shell_lies_inside_and_a_rim_outside(masks, radius):
    shell, rim = mo.shell(masks, radius), mo.rim(masks, radius)
    assert not (shell & ~masks).any() and not (rim & masks).any()
    assert torch.equal(shell | mo.erode(masks, radius), masks)
    assert torch.equal(rim | masks, mo.dilate(masks, radius))


def test_masks_are_left_as_they_were(masks, radius):
    before = masks.clone()
    for change in (*mo.CHANGES.values(), *mo.LAYERS.values()):
        change(masks, radius)
    assert torch.equal(masks, before)
