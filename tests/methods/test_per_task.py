"""Laws of the methods that are fitted to one support set."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.methods import polish
from monai_hyper.methods.fine_tune import FineTune
from monai_hyper.methods.fitting import Budget
from monai_hyper.methods.polish import Polish
from monai_hyper.methods.prototype import Prototype
from monai_hyper.methods.ridge import Ridge
from monai_hyper.methods.scratch import Scratch

FEW = Budget(steps=2)
METHODS = {
    "polish": lambda model: Polish(model, Budget(steps=4)),
    "prototype": Prototype,
    "ridge": Ridge,
    "scratch": lambda model: Scratch(FEW),
    "fine-tune": lambda model: FineTune(model, FEW),
    "fine-tune-head": lambda model: FineTune(model, FEW, head_only=True),
}


def logits_of(name, model, support, query):
    torch.manual_seed(0)
    network = METHODS[name](model).fit(support)
    with torch.no_grad():
        return network(query)


@pytest.fixture
def query(task):
    return task(2).images[1:, ..., :25, :, :23].clone()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("shots", "classes"), [(1, 1), (3, 2)])
def test_logits_lie_on_the_grid_of_the_query(name, model, task, query, shots, classes):
    extents = torch.tensor([[24, 26, 25 - shot] for shot in range(shots)])
    logits = logits_of(name, model, task(shots, classes, extents), query)
    assert logits.shape == (1, classes + 1, *query.shape[2:]) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_released_model_and_the_mode_stay_as_they_are(name, model, task, query):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits_of(name, model, task(2), query)
    assert torch.is_grad_enabled() and not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_network(name, model, task, query):
    first, second = (logits_of(name, model, task(2), query) for _ in range(2))
    assert_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_class_may_be_annotated_in_some_volumes_only(name, model, task, query):
    support = replace(task(3, classes=2), annotated=torch.tensor([[True, True], [True, True], [True, False]]))
    assert torch.isfinite(logits_of(name, model, support, query)).all()


@pytest.mark.parametrize("name", ["prototype", "ridge"])
def test_brightness_is_found_by_a_read_out_of_any_features(name, model, task):
    support, asked = task(4), task(1)
    predicted = logits_of(name, model, support, asked.images).argmax(1, keepdim=True)
    assert dice(predicted, asked.labels) > 0.5


def test_scratch_learns_brightness(task):
    torch.manual_seed(0)
    asked = task(1)
    network = Scratch(Budget(steps=60)).fit(task(4))
    with torch.no_grad():
        assert dice(network(asked.images).argmax(1, keepdim=True), asked.labels) > 0.6


def test_steps_of_no_size_are_the_generated_network(model, task, query, monkeypatch):
    support = task(2)
    monkeypatch.setattr(polish, "RATE", 0.0)
    network = Polish(model, Budget(steps=4)).fit(support)
    with torch.no_grad():
        assert_close(network(query), model.condition(support)(query))


def test_polish_lowers_its_loss_and_stays_an_ordinary_network(model, task, query):
    torch.manual_seed(0)
    network = Polish(model, Budget(steps=3)).fit(task(1))
    with torch.no_grad():
        assert_close(network.materialise()(query), network(query), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(network(query), model.condition(task(1))(query), atol=1e-3)


def dice(predicted, truth) -> float:
    return float(2 * ((predicted == 1) & (truth == 1)).sum() / ((predicted == 1).sum() + (truth == 1).sum()))
