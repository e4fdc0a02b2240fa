"""Budget, augmentation and loss of what is trained on one task."""

import time

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_hyper.methods.fitting import (
    PATCH,
    Augment,
    Budget,
    annotated_loss,
    clock,
    descend,
    fit_by_gradient,
    in_windows,
    random_patch,
)


def test_a_budget_needs_a_limit():
    with pytest.raises(ValueError, match="expected at least one limit"):
        Budget()


def test_the_plateau_rule_ends_a_loss_that_stays():
    x = torch.zeros(3, requires_grad=True)
    steps = list(descend([x], lambda: (0 * x).sum() + 1, Budget(patience=5), rate=0.1))
    assert len(steps) == 5 * 4, "one mean to compare with, then three that are no better"


def test_the_first_limit_ends_it():
    x = torch.ones(3, requires_grad=True)
    assert len(list(descend([x], lambda: x.square().sum(), Budget(steps=7, patience=100), rate=0.1))) == 7


def test_waiting_costs_no_budget_on_a_cpu(monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 6.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 1e9)
    assert clock("cpu") == 6.0 / torch.get_num_threads()


def test_unannotated_classes_enter_no_loss():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 6, 6, 6), torch.randint(0, 3, (1, 1, 6, 6, 6))
    only_first = torch.tensor([True, False])
    loss = annotated_loss(logits, labels, only_first)
    other = logits.clone()
    other[:, 2] += 5
    assert_close(annotated_loss(other, labels, only_first), loss)
    elsewhere = logits + 9 * (labels == 2) * torch.randn(1, 3, 1, 1, 1)
    assert_close(annotated_loss(elsewhere, labels, only_first), loss)
    assert annotated_loss(other, labels, torch.tensor([True, True])) > loss


def test_a_perfect_answer_has_next_to_no_loss():
    labels = torch.randint(0, 3, (1, 1, 6, 6, 6))
    logits = 20.0 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1)
    assert float(annotated_loss(logits, labels, torch.tensor([True, True]))) < 1e-3


def test_image_and_label_move_alike_and_patches_are_bounded():
    torch.manual_seed(0)
    label = torch.zeros(1, 1, 90, 40, 30, dtype=torch.long)
    label[..., 20:60, 10:30, 8:22] = 1
    for _ in range(5):
        image, moved = random_patch(torch.cat([torch.randn(1, 1, 90, 40, 30), label.float()], 1), label)
        assert image.shape[2:] == moved.shape[2:] == (PATCH, 40, 30)
        agreement = ((image[:, 1:] > 0.5) == (moved == 1)).float().mean()
        assert float(agreement) > 0.95
        assert Augment()(image[:, :1], moved)[0].shape[2:] == (PATCH, 40, 30)


def test_only_parameters_that_require_gradients_are_fitted(task):
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 1))
    network[0].requires_grad_(False)
    before = [parameter.clone() for parameter in network.parameters()]
    fit_by_gradient(network, task(2), Budget(steps=2), rate=0.1)
    assert [torch.equal(a, b) for a, b in zip(before, network.parameters())] == [True, True, False, False]


def test_windows_of_a_network_of_one_voxel_equal_the_whole():
    network, seen = nn.Conv3d(1, 2, 1).requires_grad_(False), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    query = torch.randn(1, 1, 90, 20, 66)
    assert_close(in_windows(network)(query), network(query))
    assert set(seen[:-1]) == {(PATCH, 20, PATCH)}
