"""MAML: gradients through gradient steps, and what adaptation does."""

from dataclasses import replace

import pytest
import torch
from monai.metrics import compute_dice
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.data.tensors import save_tensors
from monai_hyper.evaluation.bench import ball_task
from monai_hyper.methods import meta
from monai_hyper.methods.imaml import IMamlLearner
from monai_hyper.methods.maml import MamlLearner, adapt, support_loss
from monai_hyper.methods.meta import MetaTrained, examples_of, working_size
from monai_hyper.methods.universeg import UniverSegLearner
from monai_hyper.synthesis.tasks import Episode
from monai_hyper.types import InputError

SIZE = (18, 16, 20)
SMALL = {"channels": [4, 4, 4, 4], "thin": 2, "inner_steps": 2, "test_steps": 3}
KINDS = {
    "maml": (MamlLearner, SMALL),
    "imaml": (IMamlLearner, SMALL),
    "universeg": (UniverSegLearner, {"channels": [4, 6, 8]}),
}


def _support(shots: int, classes: int = 1) -> SupportSet:
    labels = torch.zeros(shots, 1, *SIZE, dtype=torch.long)
    for shot in range(shots):
        labels[shot, :, 3 : 10 + shot, 4:10, 4:12] = 1
        labels[shot, :, 13:16, 4:10, 4:12] = classes
    images = labels + 0.3 * torch.randn(labels.shape)
    return SupportSet(images, labels, tuple(f"class_{c + 1}" for c in range(classes)))


def _episode(shots: int = 2) -> Episode:
    support = _support(shots + 2)
    return Episode(support.subset(range(shots)), support.images[shots:], support.labels[shots:], "made")


@pytest.fixture(params=list(KINDS))
def fitted(request, tmp_path):
    """A method whose weights on disk are random, and the learner they came from."""
    kind, settings = KINDS[request.param]
    learner = kind(**settings)
    path = tmp_path / "weights.safetensors"
    facts = {"method": kind.method, "learner": learner.settings}
    save_tensors({name: tensor.half() for name, tensor in learner.state_dict().items()}, path, facts)
    return MetaTrained(kind, path), learner


# what holds for all meta-trained baselines


def test_methods_have_one_interface_and_leave_the_grad_mode(fitted):
    method, _ = fitted
    support = _support(3, classes=2)
    support = replace(support, extents=torch.tensor([[18, 16, 20], [18, 16, 20], [16, 16, 18]]))
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            network = method.fit(support)
            assert torch.is_grad_enabled() == mode
    query = torch.randn(2, 1, 9, 21, 17)
    with torch.no_grad():
        logits = network(query)
    assert logits.shape == (2, 3, 9, 21, 17) and bool(torch.isfinite(logits).all())
    assert not logits[:, 0].any() and not logits.requires_grad
    assert bool((logits[:, 1] != logits[:, 2]).any())


@torch.no_grad()
def test_fitting_twice_gives_the_same_and_changes_no_weight(fitted):
    method, learner = fitted
    support, query = _support(2), torch.randn(1, 1, *SIZE)
    first = method.fit(support)(query)
    assert torch.equal(method.fit(support)(query), first)
    for name, tensor in method._learner.state_dict().items():
        assert torch.equal(tensor, learner.state_dict()[name].half().float()), name


@torch.no_grad()
def test_a_class_is_learned_from_the_volumes_that_annotate_it(fitted):
    method, _ = fitted
    support, query = _support(3, classes=2), torch.randn(1, 1, *SIZE)
    annotated = torch.tensor([[True, True], [True, False], [True, True]])
    spoilt = support.labels.clone()
    spoilt[1][spoilt[1] == 2] = 0
    partial = method.fit(replace(support, labels=spoilt, annotated=annotated))(query)
    assert_close(partial[:, 1], method.fit(support)(query)[:, 1], rtol=1e-4, atol=1e-4)
    assert_close(partial[:, 2], method.fit(support.subset([0, 2]))(query)[:, 2], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_large_volumes_are_worked_on_at_a_coarser_grid(fitted, monkeypatch):
    method, _ = fitted
    monkeypatch.setattr(meta, "WORKING_VOXELS", 16**3)
    support, query = _support(1), torch.randn(1, 1, *SIZE)
    assert [len(images) for images, _ in examples_of(support, 0)] == [1]
    assert examples_of(support, 0)[0][0].shape[2:] == tuple(working_size(SIZE))
    assert method.fit(support)(query).shape == (1, 2, *SIZE)


def test_every_parameter_learns_from_an_episode(fitted):
    _, learner = fitted
    loss, logits = learner.episode_loss(_episode())
    loss.backward()
    assert logits.shape == (2, 2, *SIZE) and not logits[:, 0].any()
    assert [name for name, p in learner.named_parameters() if p.grad is None] == []


def test_absent_weights_name_the_command_that_makes_them(tmp_path):
    for name, (kind, _) in KINDS.items():
        with pytest.raises(InputError, match=f"no weights of '{name}'.*monai-hyper train --method {name} --config"):
            MetaTrained(kind, tmp_path / "absent.safetensors").fit(_support(1))


def test_weights_of_another_method_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_tensors({"a": torch.zeros(1)}, path, {"method": "maml", "learner": {}})
    with pytest.raises(InputError, match="weights of 'maml'; expected those of 'universeg'"):
        MetaTrained(UniverSegLearner, path).fit(_support(1))


def test_baselines_fit_into_five_megabytes():
    for name in KINDS:
        assert 1e6 < (meta.BASELINES / f"{name}.safetensors").stat().st_size < 5e6


@torch.no_grad()
@pytest.mark.parametrize("name", list(KINDS))
def test_the_weights_of_the_project_find_a_bright_ball(name):
    support = ball_task(2, 32)
    query = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(5)) + support.labels[:1]
    found = MetaTrained(KINDS[name][0]).fit(support)(query).argmax(1, keepdim=True)
    assert float(compute_dice(found, support.labels[:1], num_classes=2, include_background=False)) > 0.7


# MAML itself


class Tiny(nn.Module):
    """A smooth network of 40 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv3d(1, 3, (3, 1, 3)), nn.Conv3d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(nn.functional.pad(x, [1, 1, 0, 0, 1, 1]))))


def _outer_loss(network, rates, examples, query, second_order=True):
    weights = adapt(network, dict(network.named_parameters()), rates, examples, 3, second_order)
    return support_loss(network, weights, query)


@pytest.fixture
def tiny():
    torch.manual_seed(3)
    examples = [(torch.randn(2, 1, 5, 4, 5).double(), torch.randint(0, 2, (2, 1, 5, 4, 5)).double()) for _ in range(3)]
    network = Tiny().double()
    rates = torch.tensor([0.5, 0.3, 0.8, 0.4], dtype=torch.float64, requires_grad=True)
    return network, rates, examples[:2], examples[2]


def test_second_order_gradients_equal_finite_differences(tiny):
    network, rates, examples, query = tiny
    parameters = list(network.parameters())
    loss = _outer_loss(network, rates, examples, query)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*parameters, rates])])
    start = torch.cat([parameters_to_vector(parameters).detach(), rates.detach()])
    differences = torch.zeros_like(start)
    for i in range(len(start)):
        ends = []
        for sign in (1, -1):
            moved = start.clone()
            moved[i] += sign * 1e-5
            vector_to_parameters(moved[:-4], parameters)
            ends.append(_outer_loss(network, moved[-4:], examples, query).detach())
        differences[i] = (ends[0] - ends[1]) / 2e-5
    assert_close(gradient, differences, rtol=1e-6, atol=1e-9)


def test_first_order_gradients_are_those_at_the_adapted_weights(tiny):
    network, rates, examples, query = tiny
    parameters = list(network.parameters())
    first = torch.autograd.grad(_outer_loss(network, rates, examples, query, second_order=False), parameters)
    weights = adapt(network, dict(network.named_parameters()), rates.detach(), examples, 3)
    weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
    at_the_end = torch.autograd.grad(support_loss(network, weights, query), list(weights.values()))
    second = torch.autograd.grad(_outer_loss(network, rates, examples, query), parameters)
    for own, end, exact in zip(first, at_the_end, second):
        assert_close(own, end)
        assert not torch.allclose(own, exact, rtol=1e-2)


def test_adaptation_takes_turns_and_lowers_the_loss(tiny):
    network, rates, examples, _ = tiny
    start = dict(network.named_parameters())
    one = adapt(network, start, rates.detach(), examples[:1], 1)
    assert_close(adapt(network, start, rates.detach(), examples, 1), one)
    two = adapt(network, one, rates.detach(), examples[1:], 1)
    assert_close(adapt(network, start, rates.detach(), examples, 2), two)
    far = adapt(network, start, rates.detach(), examples[:1], 30)
    assert support_loss(network, far, examples[0]).item() < support_loss(network, start, examples[0]).item()


def test_more_steps_fit_the_support_better():
    learner = MamlLearner(**(SMALL | {"inner_rate": 0.3}))
    examples = examples_of(_support(2), 0)
    losses = []
    for steps in (0, 10):
        learner.test_steps = steps
        with torch.no_grad():
            losses.append(float(meta.binary_loss(learner.network(examples)(examples[0][0]), examples[0][1])))
    assert losses[1] < 0.8 * losses[0]


def test_second_order_is_an_option_of_the_learner():
    gradients = []
    for second_order in (False, True):
        torch.manual_seed(0)
        learner = MamlLearner(**(SMALL | {"second_order": second_order}))
        torch.manual_seed(1)
        learner.episode_loss(_episode())[0].backward()
        gradients.append(parameters_to_vector([p.grad for p in learner.body.parameters()]))
    assert bool(torch.isfinite(gradients[1]).all()) and not torch.allclose(*gradients, rtol=1e-2)


def test_examples_are_batches_of_one_size():
    support = replace(_support(6), extents=torch.tensor([[18, 16, 20]] * 5 + [[16, 16, 16]]))
    batches = examples_of(support, 0)
    assert [tuple(images.shape) for images, _ in batches] == [
        (2, 1, *SIZE),
        (2, 1, *SIZE),
        (1, 1, *SIZE),
        (1, 1, 16, 16, 16),
    ]
    assert_close(batches[1][0], support.images[2:4])
    assert_close(batches[3][1], (support.labels[5:, :, :16, :16, :16] == 1).float())
