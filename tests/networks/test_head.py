"""The analytic head: which voxels it reads, and that unannotated volumes do not count."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.networks.head import (
    FAR_POINTS,
    FOREGROUND_POINTS,
    RIM_POINTS,
    RidgeHead,
    features_at,
    pick,
    region_weights,
    sample_regions,
)

WIDTHS, CLASSES = (5, 7), 2
SIZE = sum(WIDTHS) + CLASSES + 1


@pytest.fixture
def ridge() -> RidgeHead:
    return RidgeHead(WIDTHS, embedding_dim=16)


@pytest.fixture
def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    """Gram matrices and moments of four volumes and two classes."""
    rows, targets = torch.randn(4, CLASSES, 60, SIZE), torch.rand(4, CLASSES, 60, 1).round()
    return rows.mT @ rows / 60, (rows.mT @ targets / 60)[..., 0]


def test_solution_satisfies_the_normal_equations(ridge, volumes):
    gram, moment = volumes
    solution = ridge.solve(gram, moment, torch.ones(1, 4, CLASSES))[0]
    penalty = ridge.log_penalty.exp()
    sizes = torch.tensor([*WIDTHS, CLASSES])
    diagonal = torch.cat([penalty.repeat_interleave(sizes), torch.tensor([1e-5])])
    left = gram.mean(0) + torch.diag(diagonal)
    assert_close(torch.einsum("nfg,ng->nf", left, solution), moment.mean(0), rtol=1e-3, atol=1e-4)


def test_rows_of_unannotated_volumes_enter_nothing(ridge, volumes):
    gram, moment = volumes
    used = torch.ones(1, 4, CLASSES)
    used[0, 2, 1] = 0
    solution = ridge.solve(gram, moment, used)[0]
    changed_gram, changed_moment = gram.clone(), moment.clone()
    changed_gram[2], changed_moment[2] = 50 * torch.eye(SIZE).expand(CLASSES, -1, -1), 9.0
    changed = ridge.solve(changed_gram, changed_moment, used)[0]
    assert torch.equal(changed[1], solution[1])
    assert not torch.allclose(changed[0], solution[0])
    without = ridge.solve(gram[[0, 1, 3]], moment[[0, 1, 3]], torch.ones(1, 3, CLASSES))[0]
    assert_close(solution[1], without[1], rtol=1e-4, atol=1e-5)


def test_choices_of_volumes_do_not_mix(ridge, volumes):
    gram, moment = volumes
    choices = torch.rand(3, 4, CLASSES).round()
    choices[:, 0] = 1
    together = ridge.solve(gram, moment, choices)
    for choice, solution in zip(choices, together):
        assert_close(ridge.solve(gram, moment, choice[None])[0], solution, rtol=1e-4, atol=1e-5)


def _picked_one_by_one(region: torch.Tensor, jitter: torch.Tensor) -> torch.Tensor:
    """What :func:`pick` means for one region that is not empty."""
    inside = region.nonzero()[:, 0]
    steps = (torch.arange(len(jitter)) + jitter) / len(jitter)
    return inside[(steps * len(inside)).long().clamp(max=len(inside) - 1)]


def test_pick_spreads_over_a_region_and_repeats_small_ones():
    regions = torch.zeros(3, 1000, dtype=torch.bool)
    regions[0, 200:700] = True
    regions[1, [3, 500]] = True
    found = pick(regions, torch.rand(50))
    assert found.shape == (3, 50)
    assert bool(regions[0][found[0]].all()) and bool((found[0].diff() > 0).all())
    assert int(found[0].min()) < 210 and int(found[0].max()) >= 690
    assert sorted(set(found[1].tolist())) == [3, 500]
    assert not found[2].any()


def test_regions_picked_together_equal_regions_picked_by_their_voxels():
    regions = torch.rand(2, 3, 4000) < torch.tensor([0.5, 0.02, 0.0005])[:, None]
    regions[..., 7] = True
    jitter = torch.rand(512)
    jitter[-1] = 1 - 1e-7
    found = pick(regions, jitter)
    for region, picked in zip(regions.flatten(0, 1), found.flatten(0, 1)):
        assert torch.equal(picked, _picked_one_by_one(region, jitter))


def test_sampled_voxels_lie_in_their_regions():
    label = torch.zeros(2, 1, 20, 21, 22, dtype=torch.long)
    label[..., 2:4, 2:4, 2:4], label[..., 10:18, 10:18, 10:18] = 1, 2
    label[1] = label[1].flip(-1)
    where, share = sample_regions(label, 2, torch.rand(FAR_POINTS))
    assert bool((share > 0).all()) and where.shape == (2, 2 * FOREGROUND_POINTS + RIM_POINTS + FAR_POINTS, 3)
    for volume, points in zip(label[:, 0], where):
        regions = points.split([FOREGROUND_POINTS, FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS])
        values = [set(volume[tuple(region.long().T)].tolist()) for region in regions]
        assert values == [{1}, {2}, {0}, {0}]
        inside = (volume > 0).nonzero().float()
        rim, far = (torch.cdist(region, inside, p=float("inf")).amin(1) for region in regions[2:])
        assert float(rim.max()) <= 2 < float(far.min())


@pytest.mark.parametrize("size", [0.0, 0.75, 1.0])
def test_a_region_that_is_absent_is_not_shown_and_weighs_nothing(size):
    label = torch.zeros(1, 1, 20, 20, 20, dtype=torch.long)
    label[..., 5:9, 5:9, 5:9] = 2
    share = sample_regions(label, 2, torch.rand(FAR_POINTS))[1]
    assert_close(share, torch.tensor([[0, 64, 448, 7488]]) / 8000)
    ridge, features, masks = RidgeHead((5,), 16), torch.randn(1, 5, 20, 20, 20), torch.rand(1, 2, 20, 20, 20)
    gram, moment = ridge.regions([features], [1], masks, label, torch.Generator()).weighed(size)
    assert not moment[0, 0].any() and bool(moment[0, 1].any())
    changed = features.clone()
    changed[..., 0, 0, 0] = 100  # an empty region points there, and the far background's first voxel is another one
    again, _ = ridge.regions([changed], [1], masks, label, torch.Generator()).weighed(size)
    assert_close(gram[0, 1, -1, -1], torch.tensor(1.0))
    assert_close(again, gram, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("present", [[True], [True, True], [True, True, False], [True] * 8])
def test_a_class_weighs_as_much_as_all_that_is_not_it(present):
    weights = region_weights(torch.tensor(present))
    classes = len(present)
    assert_close(weights.sum(1), torch.ones(classes))
    assert_close(weights.diagonal(), torch.full((classes,), 0.5))
    assert_close(weights[:, -1], weights[:, -2])
    for value, shown in enumerate(present):
        others = [row for row in range(classes) if row != value]
        assert shown or not weights[others, value].any()


@pytest.mark.parametrize("size", [0.0, 0.5, 1.0])
def test_statistics_equal_weighted_regression_rows(size):
    """Gram matrix and moments are those of the sampled voxels, each with its share of its region's weight."""
    ridge, label = RidgeHead((5,), 16), torch.zeros(1, 1, 16, 16, 16, dtype=torch.long)
    label[..., 2:6, 2:6, 2:6], label[..., 9:13, 9:13, 9:14] = 1, 2
    features, masks = torch.randn(1, 5, 16, 16, 16), torch.rand(1, 2, 16, 16, 16)
    regions = ridge.regions([features], [1], masks, label, torch.Generator())
    gram, moment = regions.weighed(size)
    where, _ = sample_regions(label, 2, torch.rand(FAR_POINTS, generator=torch.Generator().manual_seed(0)))
    found = torch.cat([features_at([features, masks], [1, 1], where)[0], torch.ones(where.shape[1], 1)], 1)
    rows = found.split([FOREGROUND_POINTS, FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS])
    weights = region_weights(torch.tensor([True, True])) ** (1 - size) * regions.share**size
    weights = weights / weights.sum(1, keepdim=True)
    for value in range(2):
        expected = sum(w * part.T @ part / len(part) for w, part in zip(weights[value], rows))
        assert_close(gram[0, value], expected, rtol=1e-4, atol=1e-4)
        assert_close(moment[0, value], weights[value, value] * rows[value].mean(0), rtol=1e-4, atol=1e-4)


def test_regions_that_weigh_what_they_measure_give_the_least_squares_of_all_voxels():
    """Features that are constant within each region: the sample is then as good as every voxel."""
    ridge, label = RidgeHead((1,), 16), torch.zeros(1, 1, 12, 12, 12, dtype=torch.long)
    label[..., 4:8, 4:8, 4:8] = 1
    near = torch.nn.functional.max_pool3d((label > 0).float(), 5, 1, 2)
    features = 3.0 * (label > 0) - 2.0 * near
    regions = ridge.regions([features], [1], torch.zeros(1, 1, 12, 12, 12), label, torch.Generator())
    gram, moment = regions.weighed(1.0)
    every = torch.stack([features.flatten(), 0 * features.flatten(), torch.ones(1728)], 1)
    assert_close(gram[0, 0], every.T @ every / 1728, rtol=1e-4, atol=1e-4)
    assert_close(moment[0, 0], every.T @ label.flatten().float() / 1728, rtol=1e-4, atol=1e-4)


def test_an_unannotated_class_changes_nothing_for_itself_whatever_its_volume_shows(ridge, volumes):
    gram, moment = volumes
    used = torch.tensor([[[1.0, 1], [1, 1], [1, 0], [1, 1]]])
    others = torch.cat([used * (torch.arange(4) != shot).view(1, 4, 1) for shot in range(4)])
    changed = gram.clone()
    changed[2, 1] = 30 * torch.eye(SIZE)
    assert torch.equal(ridge.solve(changed, moment, others), ridge.solve(gram, moment, others))
