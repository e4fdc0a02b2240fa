"""Training by what is reached after a polish: where its gradients lead, and what they leave alone."""

from copy import deepcopy

import pytest
import torch

from monai_hyper.data.tensors import load_parameters, load_tensors
from monai_hyper.methods import polish
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.template import frame_of
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.sources import Sources
from monai_hyper.training import loop
from monai_hyper.training.loop import STATE, WEIGHTS, TrainConfig, parameter_groups, train, train_step
from monai_hyper.training.polish import first_order, polished_loss, polished_objective

FROZEN = {"body_rate": 0, "generator_rate": 0}


@pytest.fixture
def model() -> HyperModel:
    """A small one with random parameters, but for the step sizes."""
    made = HyperModel(UNetBody(10, channels=(4, 6, 8, 10), thin=3), embedding_dim=16)
    for name, parameter in made.named_parameters():
        parameter.data += 0.02 * torch.randn_like(parameter) * (name != "polish")
    return made


@pytest.fixture
def batch() -> TaskBatch:
    """Two tasks of two support volumes and one query, which are shifted by a voxel or two."""
    labels = torch.zeros(2, 3, 1, 20, 18, 22, dtype=torch.long)
    offsets = torch.tensor([[0, 0, 0], [1, 0, -1], [0, 2, 1]]).expand(2, -1, -1)
    for case, (z, y, x) in enumerate(offsets[0].tolist()):
        labels[:, case, :, 6 + z : 13 + z, 5 + y : 12 + y, 7 + x : 15 + x] = 1
    images = labels + 0.3 * torch.randn(labels.shape)
    return TaskBatch(images, labels, offsets.float(), 2, 1, False, ("a", "b"))


def loss_of(model: HyperModel, batch: TaskBatch, steps: int) -> torch.Tensor:
    """Of the first task, always by the same draws."""
    torch.manual_seed(0)
    return polished_loss(model, batch.episode(0), steps, frame_of(batch))[0]


def test_gradients_of_step_sizes_are_those_of_the_loss_where_steps_are_linear_in_them(model, batch, monkeypatch):
    """After one step; AdamW's first is as long as its rate, whatever the gradient."""
    monkeypatch.setattr(polish, "RATE", 3.0)  # for the loss to change by more than its rounding
    loss_of(model.train(), batch, 1).backward()
    found, apart = model.polish.grad.clone(), 0.02
    directions = [torch.randn(len(found)) for _ in range(3)] + list(torch.eye(len(found))[found.abs().topk(2).indices])
    for direction in directions:
        losses = []
        for sign in (1, -1):
            model.polish.data = sign * apart * direction
            losses.append(float(loss_of(model, batch, 1).detach()))
        model.polish.data.zero_()
        expected = (losses[0] - losses[1]) / (2 * apart)
        assert float(found @ direction) == pytest.approx(expected, rel=0.05, abs=0.02 * float(found.norm()))


def test_gradients_of_the_start_are_those_of_the_loss_where_the_polish_arrived(model, batch):
    task, names = batch.episode(0), list(model.step_sizes())
    with torch.no_grad():
        network, _ = model.eval().generate(task.support, frame_of(batch))
    reached = polish.polished(model, network, task.support, polish.Budget(steps=3))
    start, end = (
        n.replaced({name: n.weights[name].clone().requires_grad_() for name in names}) for n in (network, reached)
    )
    gradients = []
    for asked, leaves in ((first_order(model, start, reached), start.weights), (end, end.weights)):
        loss = asked(task.images, places=frame_of(batch).own[2:]).square().mean()
        gradients.append(torch.autograd.grad(loss, [leaves[name] for name in names]))
    for found, expected in zip(*gradients):
        assert float((found - expected).norm()) <= 1e-3 * float(expected.norm())
    assert not torch.equal(start.weights[names[0]], end.weights[names[0]])


def test_training_after_a_polish_reaches_every_part_and_counts_every_task(model, batch):
    parts = list(polished_objective(model.train(), batch, (2, 3)))
    assert len(parts) == 2 and all(dice.shape == (1,) for _, dice in parts)
    sum(loss for loss, _ in parts).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert {name.partition(".")[0] for name in without} == {"listen", "speaker"}, "nothing is described here"


def test_the_number_of_steps_is_drawn_between_the_bounds(model, batch, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "monai_hyper.training.polish.polished_loss",
        lambda model, episode, steps, *rest: drawn.append(steps) or (torch.zeros(()), torch.zeros(1, 2, 20, 18, 22)),
    )
    for _ in range(20):
        list(polished_objective(model, batch, (2, 4)))
    assert set(drawn) == {2, 3, 4}


def updates(model: HyperModel, batch: TaskBatch, count: int, **settings) -> list[float]:
    """Losses of updates that all see the same task and draws."""
    config = TrainConfig("unused", polish_steps=(4, 4), **settings)
    optimiser = torch.optim.AdamW(parameter_groups(model.train(), config))
    for group in optimiser.param_groups:
        group["lr"] = group["rate"]
    return [train_step(model, optimiser, batch, 0, config)[0] for _ in range(count)]


def test_training_the_step_sizes_alone_leaves_all_else_unchanged_and_lowers_the_loss(model, batch):
    before = deepcopy(model.state_dict())
    losses = updates(model, batch, 6, polish_rate=0.5, **FROZEN)
    assert [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])] == ["polish"]
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "polish")
    assert losses[-1] < losses[0]


def test_training_everything_lowers_the_loss_after_the_polish(model, batch):
    before = deepcopy(model.state_dict())
    losses = updates(model, batch, 6)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert {"polish", "scale", "body.thin.conv.weight", "head.log_penalty"} <= changed
    assert losses[-1] < losses[0]


class Cut(Exception):
    """What ends a run."""


def run(output, model, batch, monkeypatch, cut_at=None):
    """Three steps, cut off before the one of a number."""

    class Engine:
        def __init__(self, *settings):
            pass

        def batch(self, index):
            return batch

    def step_of(model, optimiser, batch, step, config, infer):
        if step == cut_at:
            raise Cut
        return train_step(model, optimiser, batch, step, config, infer)

    monkeypatch.setattr(loop, "TaskEngine", Engine)
    monkeypatch.setattr(loop, "train_step", step_of)
    config = TrainConfig(output, steps=3, decay=1, warm_up=1, every=1, average=0.5, polish_steps=(1, 3), **FROZEN)
    return train(config, Sources({}), deepcopy(model))


def test_a_resumed_run_learns_the_step_sizes_of_an_unbroken_one_and_they_are_kept(model, batch, tmp_path, monkeypatch):
    run(tmp_path / "unbroken", model, batch, monkeypatch)
    with pytest.raises(Cut):
        run(tmp_path / "cut", model, batch, monkeypatch, cut_at=2)
    assert load_tensors(tmp_path / "cut" / STATE)[1]["step"] == 2
    run(tmp_path / "cut", model, batch, monkeypatch)
    for name in (STATE, WEIGHTS):
        expected, found = (load_tensors(tmp_path / folder / name)[0] for folder in ("unbroken", "cut"))
        assert expected.keys() == found.keys()
        assert [n for n, t in expected.items() if not torch.equal(found[n], t)] == []
    loaded = deepcopy(model)
    load_parameters(loaded, {name: t.float() for name, t in found.items()}, tmp_path)
    assert bool(loaded.polish.any()) and torch.equal(loaded.polish, found["polish"].float())
    torch.testing.assert_close(
        loaded.polish, load_tensors(tmp_path / "cut" / STATE)[0]["average.module.polish"], atol=1e-3, rtol=1e-3
    )
