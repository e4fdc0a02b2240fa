"""Rendered images show their label maps where they are."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.synthesis import contrast
from monai_hyper.synthesis.geometry import centre_grid, random_affine, rotations, sample, warped_copy
from monai_hyper.synthesis.morphology import erode
from monai_hyper.synthesis.plans import LESION, WALL


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def values() -> torch.Tensor:
    """Two tasks of three cases, alike."""
    values = torch.zeros(6, 1, 24, 26, 22, dtype=torch.uint8)
    values[:, :, 4:14, 4:14, 4:14] = 1
    values[:, :, 14:22, 6:20, 8:18] = 2
    return values


def _render(values, seed: int = 0, empty=(False, False), hosts=(1, 2), shots: int = 2) -> torch.Tensor:
    return contrast.render(values, shots, torch.tensor(hosts), torch.tensor(empty), _generator(seed))


def test_rendering_keeps_label_boundaries_in_place(values):
    """Values jump at the boundary, not beside it: neighbours differ more across it than within a label."""
    sharper = 0
    for seed in range(20):
        image = _render(values, seed)
        assert image.shape == values.shape and bool(torch.isfinite(image).all())
        step, across = image[0].diff(dim=1).abs(), values[0].int().diff(dim=1) != 0
        means = [image[0][values[0] == value].mean() for value in range(3)]
        if min(abs(a - b) for a, b in ((means[0], means[1]), (means[1], means[2]), (means[0], means[2]))) > 0.2:
            sharper += 1
            assert float(step[across].mean()) > float(step[~across].mean()) + 0.1
    assert sharper >= 3


def test_background_is_black_where_it_is_empty_space(values):
    black = values[:3] == 0
    for seed in range(5):
        image = _render(values, seed, (True, False))
        assert float(image[:3][black].mean()) < 0.15 and float(image[:3][black].min()) >= 0
    assert max(float(_render(values, seed, (True, False))[3:][black].mean()) for seed in range(5)) > 0.3


def test_cases_of_a_task_share_an_image_model_and_tasks_do_not(values):
    """Means of the labels differ less between the support of a task than between tasks; some queries differ, too."""
    within, between, asked = [], [], []
    for seed in range(30):
        image = _render(values, seed)
        means = torch.stack([image[values == v].view(6, -1).mean(1) for v in range(3)], 1)
        within.append(float((means[0] - means[1]).abs().max()))
        between.append(float((means[0] - means[3]).abs().max()))
        asked.append(float((means[0] - means[2]).abs().max()))
    assert max(within) < 0.35 and sum(between) > 3 * sum(within)
    other = sum(found > 0.35 for found in asked) / len(asked)
    assert 0.02 < other < 0.5


def test_lesions_and_walls_differ_from_what_they_lie_in():
    for seed in range(20):
        mean, deviation, patchiness = contrast.tissue_tables(torch.tensor([5, 9]), _generator(seed))
        for task, host in enumerate((5, 9)):
            for value in (LESION, WALL):
                assert abs(float(mean[task, value] - mean[task, host])) >= 0.12
        assert float(deviation.min()) > 0 and float(patchiness.min()) >= 0


def test_labels_share_tissues_in_about_half_of_the_tasks():
    mean, _, _ = contrast.tissue_tables(torch.ones(400, dtype=torch.long), _generator())
    few = torch.stack([m[:240].sort().values.diff().topk(8).values.sum() for m in mean]) > 0.25
    deviation = contrast.tissue_tables(torch.ones(400, dtype=torch.long), _generator())[1]
    kinds = torch.tensor([len(d.unique()) for d in deviation])
    assert 0.4 < float((kinds <= 8).float().mean()) < 0.6 and bool((kinds >= 3).all()) and few.any()


def test_degrading_moves_nothing(values):
    bright = (values == 2).float()
    for seed in range(10):
        image = contrast.degrade(bright, 2, _generator(seed))
        assert image.shape == bright.shape and bool(torch.isfinite(image).all())
        axis = torch.arange(24.0).view(-1, 1, 1)
        for volume in image[:, 0]:
            weight = volume.clamp(min=0.3) - 0.3
            assert float((weight * axis).sum() / weight.sum()) == pytest.approx(17.5, abs=1.0)


def test_cases_of_a_task_are_degraded_alike_but_for_chance(values):
    """Without noise and bias only the optics are left, which all cases of a task share."""
    matrices = contrast.optics(40, [16, 16, 16], _generator())
    same = [torch.allclose(m, torch.eye(16).expand(40, 16, 16), atol=1e-3) for m in matrices]
    assert not any(same) and all(m.shape == (40, 16, 16) for m in matrices)
    untouched = torch.stack([(m - torch.eye(16)).abs().amax((1, 2)) < 1e-3 for m in matrices]).all(0)
    assert 0.1 < float(untouched.float().mean()) < 0.6


def test_remapping_is_one_curve_for_all_voxels(values):
    image = values / 2
    kinds = set()
    for seed in range(20):
        mapped = contrast.remap(image.clone(), 2, _generator(seed))
        assert bool(torch.isfinite(mapped).all()) and float(mapped.min()) >= 0 and float(mapped.max()) <= 1 + 1e-5
        levels = [mapped[:3][values[:3] == value] for value in range(3)]
        assert all(float(level.std()) < 1e-5 for level in levels), "alike in all cases of a task"
        means = [float(level.mean()) for level in levels]
        kinds.add("rising" if means == sorted(means) else "falling" if means == sorted(means)[::-1] else "other")
    assert kinds == {"rising", "falling", "other"}


def test_noise_is_as_strong_as_told_and_rician_noise_never_negative():
    image = torch.zeros(3, 1, 20, 20, 20)
    shown = contrast.noisy(image, torch.tensor([0.0, 0.1, 0.1]), torch.tensor([False, False, True]), _generator())
    assert torch.equal(shown[0], image[0])
    assert float(shown[1].std()) == pytest.approx(0.1, rel=0.05) and float(shown[1].mean().abs()) < 0.01
    assert float(shown[2].min()) >= 0
    assert float(shown[2].mean()) == pytest.approx(0.1 * (torch.pi / 2) ** 0.5, rel=0.05), "the Rayleigh distribution's"


def test_windows_hold_what_the_support_shows(values):
    image = torch.randn(3, 1, 24, 26, 22) * 0.01 + 5 * (values[:3] == 1) - 50 * (values[:3] == 0)
    image[2] += 1000
    found = contrast.windowed(image, (values[:3] == 2).to(torch.uint8), 2, narrowest=1.0)
    assert float(found.abs().max()) <= 1.7 + 1e-5
    assert float(found[:2][values[:2] == 2].std()) < 0.1 and bool((found[2] > 1.69).all())
    inner = erode(values[:2] == 1, 1)
    assert float(found[:2][inner].mean()) > float(found[:2][values[:2] == 2].mean())


def test_subdividing_touches_the_named_value_only(values):
    parts = contrast.subdivide(values, torch.tensor([0, -1]), _generator())
    assert torch.equal(parts[:3][values[:3] > 0], values[:3][values[:3] > 0]) and torch.equal(parts[3:], values[3:])
    first = contrast.BACKGROUND_PARTS
    assert set(parts[:3][values[:3] == 0].tolist()) <= set(range(first, first + 6))
    assert any(len(contrast.subdivide(values, torch.tensor([0, -1]), _generator(s)).unique()) > 5 for s in range(5))


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
