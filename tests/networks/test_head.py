"""The analytic head: which voxels it reads, and that unannotated volumes do not count."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.networks.head import FAR_POINTS, FOREGROUND_POINTS, RIM_POINTS, RidgeHead, pick, sample_points

WIDTHS, CLASSES = (5, 7), 2
SIZE = sum(WIDTHS) + CLASSES + 1


@pytest.fixture
def ridge() -> RidgeHead:
    return RidgeHead(WIDTHS, embedding_dim=16)


@pytest.fixture
def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    """Gram matrices and moments of four volumes."""
    rows, targets = torch.randn(4, 60, SIZE), torch.rand(4, 60, CLASSES).round()
    return rows.mT @ rows / 60, rows.mT @ targets / 60


def test_solution_satisfies_the_normal_equations(ridge, volumes):
    gram, moment = volumes
    solution = ridge.solve(gram, moment, torch.ones(1, 4, CLASSES))[0]
    penalty = ridge.log_penalty.exp()
    sizes = torch.tensor([*WIDTHS, CLASSES])
    diagonal = torch.cat([penalty.repeat_interleave(sizes), torch.tensor([1e-5])])
    left = gram.mean(0) + torch.diag(diagonal)
    assert_close(left @ solution.T, moment.mean(0), rtol=1e-3, atol=1e-4)


def test_rows_of_unannotated_volumes_enter_nothing(ridge, volumes):
    gram, moment = volumes
    used = torch.ones(1, 4, CLASSES)
    used[0, 2, 1] = 0
    solution = ridge.solve(gram, moment, used)[0]
    changed_gram, changed_moment = gram.clone(), moment.clone()
    changed_gram[2], changed_moment[2] = 50 * torch.eye(SIZE), 9.0
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


def test_pick_spreads_over_a_region_and_repeats_small_ones():
    region = torch.zeros(1000, dtype=torch.bool)
    region[200:700] = True
    found = pick(region, torch.rand(50))
    assert bool(region[found].all()) and bool((found.diff() > 0).all())
    assert int(found.min()) < 210 and int(found.max()) >= 690
    few = torch.zeros(1000, dtype=torch.bool)
    few[[3, 500]] = True
    assert sorted(set(pick(few, torch.rand(50)).tolist())) == [3, 500]
    assert len(pick(torch.zeros(10, dtype=torch.bool), torch.rand(50))) == 0


def test_no_region_outweighs_another():
    label = torch.zeros(20, 21, 22, dtype=torch.long)
    label[2:4, 2:4, 2:4], label[10:18, 10:18, 10:18] = 1, 2
    where, weight, target = sample_points(label, 2)
    assert len(where) == 2 * FOREGROUND_POINTS + RIM_POINTS + FAR_POINTS
    at = label[tuple(where.long().T)]
    assert_close(target, torch.stack([at == 1, at == 2], 1).float())
    assert_close(torch.stack([weight[at == value].sum() for value in range(3)]), torch.tensor([0.5, 0.25, 0.25]))


def test_a_class_that_is_absent_leaves_its_weight_to_the_others():
    label = torch.zeros(20, 20, 20, dtype=torch.long)
    label[5:9, 5:9, 5:9] = 2
    where, weight, target = sample_points(label, 2)
    at = label[tuple(where.long().T)]
    assert_close(weight[at == 2].sum(), torch.tensor(0.5))
    assert float(target[:, 0].sum()) == 0
