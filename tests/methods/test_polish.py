"""What a volume is shown of itself while the generated weights are polished, and how the steps are counted."""

from copy import deepcopy

import pytest
import torch

from monai_hyper.methods import polish
from monai_hyper.methods.fitting import Budget, descend
from monai_hyper.methods.polish import AVERAGE, RATE, Polish, polished, support_loss


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
    Polish(model, Budget(steps=6)).fit(task(2))
    assert len(shown) == 6
    for prepared, label in shown:
        mask, true = prepared[:, -1:], (label == 1).float()
        assert mask.shape == true.shape and float(mask.max()) > 0.5
        assert float((mask - true).abs().max()) > 0.1


def test_a_single_volume_is_shown_new_copies_of_its_mask(model, task, shown):
    Polish(model, Budget(steps=6)).fit(task(1))
    masks = [prepared[:, -1:] for prepared, _ in shown[:3]]
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    assert all(float((mask - label).abs().max()) > 0.3 for mask, (_, label) in zip(masks, shown))


def test_prior_and_mean_masks_stay_as_generated(model, task):
    support = task(2)
    start, end = (local_of(n) for n in (model.condition(support), Polish(model, Budget(steps=2)).fit(support)))
    assert {n for n, w in end.weights.items() if torch.equal(w, start.weights[n])} >= {"template", "prior", "masks"}
    changed = [n for n, w in end.weights.items() if not torch.equal(w, start.weights[n])]
    assert any(".body." in name for name in changed) and any(".head." in name for name in changed)


def taken(model, network, support, steps):
    """The weights after some steps, always by the same draws."""
    torch.manual_seed(3)
    return polished(model, network, support, Budget(steps=steps)).weights


def with_step_sizes(model, values):
    changed = deepcopy(model)
    changed.polish.data.copy_(values)
    return changed


def test_where_no_step_sizes_were_learned_the_size_of_a_tensor_alone_decides(model, task):
    """To the last bit: zeros are what older weights have."""
    support, plain = task(2), with_step_sizes(model, torch.zeros_like(model.polish))
    network = plain.generate(support)[0]
    found = taken(plain, network, support, 3)
    own = {n: w.detach().clone().requires_grad_() for n, w in network.weights.items() if n.startswith("reader.")}
    mean = {n: w.detach().clone() for n, w in own.items()}
    groups = [{"params": [w], "lr": RATE * float(w.detach().square().mean().sqrt())} for w in own.values()]
    torch.manual_seed(3)
    for _ in descend(groups, support_loss(plain, network.replaced(own), support), Budget(steps=3), RATE):
        for name, weight in own.items():
            mean[name].lerp_(weight.detach(), 1 - AVERAGE)
    assert [name for name in mean if not torch.equal(mean[name], found[name])] == []
    learned = taken(with_step_sizes(model, torch.ones_like(model.polish)), network, support, 3)
    assert not any(torch.equal(mean[name], learned[name]) for name in mean)


def test_a_learned_step_size_scales_the_step_of_its_tensor_alone(model, task):
    support, values = task(2), torch.zeros_like(model.polish)
    network, name = model.generate(support)[0], "reader.body.down2.0.conv.weight"
    start, index = network.weights, list(model.step_sizes()).index(name)
    plain = taken(with_step_sizes(model, values), network, support, 1)
    values[index] = 1.5
    other = taken(with_step_sizes(model, values), network, support, 1)
    assert [n for n in plain if not torch.equal(plain[n], other[n])] == [name]
    ratio = (other[name] - start[name]).norm() / (plain[name] - start[name]).norm()
    assert float(ratio) == pytest.approx(torch.tensor(1.5).exp().item(), rel=1e-3)


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_the_whole_budget_is_spent_on_the_examples(model, task, shown, shots):
    """By each of a lone volume's networks its share; what was expected before the polish stays known."""
    generated, network = model.condition(task(shots)), Polish(model, Budget(steps=6)).fit(task(shots))
    assert len(shown) == 6
    assert network.expected_dice == generated.expected_dice
    start, end = local_of(generated).weights, local_of(network).weights
    assert start.keys() == end.keys() and not torch.equal(start["reader.head.0.weight"], end["reader.head.0.weight"])


def test_polish_is_repeatable_and_leaves_the_random_state_alone(model, task):
    before = torch.get_rng_state()
    first, second = (local_of(Polish(model, Budget(steps=2)).fit(task(2))).weights for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.get_rng_state())
