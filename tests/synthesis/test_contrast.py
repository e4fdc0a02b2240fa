"""Rendered images show their label maps where they are."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.synthesis import contrast
from monai_hyper.synthesis.geometry import centre_grid, random_affine, rotations, sample, warped_copy


@pytest.fixture
def labels() -> torch.Tensor:
    labels = torch.zeros(2, 1, 24, 26, 22, dtype=torch.long)
    labels[:, :, 4:14, 4:14, 4:14] = 1
    labels[:, :, 14:22, 6:20, 8:18] = 2
    return labels


def test_rendering_keeps_label_boundaries_in_place(labels):
    """Values jump at the boundary, not beside it: neighbours differ more across it than within a label."""
    sharper = 0
    for seed in range(20):
        image = contrast.render(labels, torch.Generator().manual_seed(seed), empty_background=False)
        step, across = image.diff(dim=2).abs(), labels.diff(dim=2) != 0
        means = [image[0][labels[0] == value].mean() for value in range(3)]
        if min(abs(a - b) for a, b in ((means[0], means[1]), (means[1], means[2]), (means[0], means[2]))) > 0.2:
            sharper += 1
            assert float(step[across].mean()) > float(step[~across].mean()) + 0.1
    assert sharper >= 3


def test_background_is_black_where_it_is_empty_space(labels):
    for seed in range(5):
        image = contrast.render(labels, torch.Generator().manual_seed(seed), empty_background=True)
        assert float(image[labels == 0].mean()) < 0.1
        assert float(image[labels == 0].min()) >= 0


def test_degrading_moves_nothing(labels):
    bright = (labels == 2).float()
    for seed in range(10):
        image = contrast.degrade(bright, torch.Generator().manual_seed(seed))
        assert image.shape == bright.shape
        axis = torch.arange(24.0).view(-1, 1, 1)
        weight = image[0, 0].clamp(min=0.3) - 0.3
        assert float((weight * axis).sum() / weight.sum()) == pytest.approx(17.5, abs=1.0)


def test_remapping_is_one_curve_for_all_voxels(labels):
    image = labels / 2
    for seed in range(10):
        mapped = contrast.remap(image.clone(), torch.Generator().manual_seed(seed))
        assert bool(torch.isfinite(mapped).all())
        for value in range(3):
            assert float(mapped[labels == value].std()) < 1e-5


def test_blur_keeps_the_mean_and_ringing_the_shape():
    image = torch.zeros(1, 1, 20, 20, 20)
    image[..., 10, 10, 10] = 1
    blurred = contrast.blur(image, 1.2)
    assert_close(blurred.sum(), torch.tensor(1.0))
    assert_close(blurred, blurred.flip(2).roll(1, 2), rtol=1e-4, atol=1e-6)
    assert contrast.blur(image, 0.1) is image
    assert contrast.ringing(torch.randn(1, 1, 9, 8, 7), 0.6).shape == (1, 1, 9, 8, 7)


def test_subdividing_touches_unlabelled_tissue_only(labels):
    parts = contrast.subdivide(labels, 4, 240, torch.Generator().manual_seed(0))
    assert torch.equal(parts[labels > 0], labels[labels > 0])
    assert set(parts[labels == 0].tolist()) <= set(range(240, 244))


def test_random_shapes_fill_the_volume():
    shapes = contrast.random_shapes([20, 21, 22], torch.Generator().manual_seed(0))
    assert shapes.shape == (20, 21, 22) and shapes.dtype == torch.uint8
    assert int(shapes.min()) > 0 and len(shapes.unique()) >= 3


def test_sampling_at_the_own_places_returns_the_volume():
    volume = torch.randn(2, 3, 6, 7, 8)
    assert_close(sample(volume, centre_grid([6, 7, 8]).expand(2, -1, -1, -1, -1)), volume, rtol=1e-4, atol=1e-5)


def test_sampling_reads_axes_in_tensor_order():
    volume = torch.randn(1, 1, 6, 7, 8)
    points = centre_grid([6, 7, 8])[None] + torch.tensor([1.0, 0, -2])
    found = sample(volume, points, "nearest")
    assert_close(found[..., :5, :, 2:], volume[..., 1:, :, :6])


def test_rotations_are_rotations():
    turn = rotations(torch.randn(5, 3))
    assert_close(turn @ turn.mT, torch.eye(3).expand(5, 3, 3), rtol=1e-5, atol=1e-5)
    assert_close(torch.linalg.det(turn), torch.ones(5))
    assert_close(random_affine(2, 0, 0), torch.eye(3).expand(2, 3, 3))


def test_warped_copies_move_image_and_mask_alike():
    masks = torch.zeros(2, 1, 24, 24, 24)
    masks[:, :, 8:16, 6:18, 9:15] = 1
    images, moved = warped_copy(3 * masks + 1, masks, torch.Generator().manual_seed(0))
    assert_close(images, 3 * moved + 1, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(moved, masks, atol=0.1)
    assert not torch.allclose(moved[0], moved[1], atol=0.1)
