"""What a volume is shown of itself while the generated weights are polished, and how the steps are counted."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from monai_hyper.methods import polish
from monai_hyper.methods.polish import Polish, mean_dice


@pytest.fixture
def shown(monkeypatch):
    """Every pair of prepared volume and label that a step of polish starts from."""
    pairs, cut = [], polish.random_patch
    monkeypatch.setattr(polish, "random_patch", lambda x, label, by: pairs.append((x, label)) or cut(x, label, by))
    return pairs


def local_of(network):
    """The network of windows where there is one."""
    return getattr(network, "local", network)


def test_a_volume_is_shown_the_mask_of_the_others(model, task, shown):
    """Aligned, and never its own: what it is shown of itself is less like its label than its label is."""
    list(Polish(model, steps=6).polished(task(2), [6]))
    assert len(shown) == 6
    for prepared, label in shown:
        mask, true = prepared[:, -1:], (label == 1).float()
        assert mask.shape == true.shape and float(mask.max()) > 0.5
        assert float((mask - true).abs().max()) > 0.3


def test_a_single_volume_is_shown_new_copies_of_its_mask(model, task, shown):
    list(Polish(model, steps=3).polished(task(1), [3]))
    masks = [prepared[:, -1:] for prepared, _ in shown[:3]]
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    assert all(float((mask - label).abs().max()) > 0.3 for mask, (_, label) in zip(masks, shown))


def test_prior_and_mean_masks_stay_as_generated(model, task):
    support = task(2)
    start, end = (local_of(network) for network in Polish(model, steps=2).polished(support, [0, 2]))
    assert {n for n, w in end.weights.items() if torch.equal(w, start.weights[n])} >= {"template", "prior", "masks"}
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
