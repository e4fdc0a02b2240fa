"""What a volume is shown of itself while the generated weights are polished, and how the steps are counted."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_hyper.methods import polish
from monai_hyper.methods.polish import Polish, mean_dice
from monai_hyper.networks.functional import fit_field


@pytest.fixture
def shown(monkeypatch):
    """Every pair of prepared volume and label that a step of polish starts from."""
    pairs, cut = [], polish.random_patch
    monkeypatch.setattr(polish, "random_patch", lambda x, label, by: pairs.append((x, label)) or cut(x, label, by))
    return pairs


def blurred(label: torch.Tensor) -> torch.Tensor:
    """A mask as the network sees it, at half of the grid and back."""
    half = [-(-side // 2) for side in label.shape[2:]]
    return fit_field(F.adaptive_avg_pool3d((label == 1).float(), half), list(label.shape[2:]))


def test_a_volume_is_shown_the_mask_of_the_others(model, task, shown):
    support = task(2)
    list(Polish(model, steps=6).polished(support, [6]))
    assert len(shown) == 6
    for prepared, label in shown:
        other = next(labels for labels in support.labels[:, None] if not torch.equal(labels, label))
        assert_close(prepared[:, -1:], blurred(other), rtol=0, atol=1e-5)


def test_a_single_volume_is_shown_new_copies_of_its_mask(model, task, shown):
    support = task(1)
    list(Polish(model, steps=3).polished(support, [3]))
    masks = [prepared[:, -1:] for prepared, _ in shown]
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    assert all(float((mask - blurred(support.labels)).abs().max()) > 0.3 for mask in masks)


def test_prior_and_mean_masks_stay_as_generated(model, task):
    support = task(2)
    start, end = Polish(model, steps=2).polished(support, [0, 2])
    assert {n for n, w in end.weights.items() if torch.equal(w, start.weights[n])} >= {"prior", "masks"}
    changed = [n for n, w in end.weights.items() if not torch.equal(w, start.weights[n])]
    assert any(".body." in name for name in changed) and any(".head." in name for name in changed)


def test_of_equally_good_numbers_of_steps_the_smallest_is_taken(model, task, monkeypatch):
    monkeypatch.setattr(polish, "mean_dice", lambda network, support: 0.5)
    assert Polish(model, steps=4).best_steps(task(2)) == 0


def test_the_best_number_of_steps_is_taken(model, task, monkeypatch):
    scores = iter([0.1, 0.2, 0.6, 0.4, 0.3] + [0.1, 0.2, 0.4, 0.5, 0.3])
    monkeypatch.setattr(polish, "mean_dice", lambda network, support: next(scores))
    assert Polish(model, steps=4).best_steps(task(4)) == 2


def test_mean_dice_counts_annotated_classes_only(task):
    support = task(2, classes=2)
    truth = F.one_hot(support.labels[:, 0], 3).movedim(-1, 1).float()
    without_second = truth * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1, 1)
    answers = iter([truth[:1], without_second[1:]])
    support = replace(support, annotated=torch.tensor([[True, True], [True, False]]))
    assert mean_dice(lambda image: next(answers), support) == 1
    answers = iter([without_second[:1], truth[1:]])
    assert mean_dice(lambda image: next(answers), support) == pytest.approx(2 / 3)
