"""A body shared by several tasks equals each task's own folded body."""

import pytest
import torch
from monai.networks.nets import BasicUNet, SegResNet
from torch import nn
from torch.testing import assert_close

from monai_hyper.networks.functional import bind
from monai_hyper.networks.generator import Changes, generator_for
from monai_hyper.networks.mixing import shared
from monai_hyper.networks.unet import HeadlessNetwork, UNetBody

TASKS, VOLUMES = 2, 2


def _unet() -> nn.Module:
    return UNetBody(3, channels=(6, 8, 10, 12), thin=4)


def _basic_unet() -> nn.Module:
    """Transposed convolutions, and biases everywhere."""
    network = BasicUNet(in_channels=3, out_channels=2, features=(8,) * 6, norm=("instance", {"affine": True}))
    return HeadlessNetwork(network, "final_conv")


def _segresnet() -> nn.Module:
    """Group normalisation."""
    return HeadlessNetwork(SegResNet(init_filters=8, in_channels=3, out_channels=2), "conv_final.2.conv")


def _answers(body: nn.Module, generator: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features of volumes of two tasks by the shared body, and by each task's folded one."""
    dtype = next(body.parameters()).dtype
    context = torch.randn(TASKS, 5, 16, dtype=dtype)
    x = torch.randn(TASKS * VOLUMES, 3, 32, 32, 33, dtype=dtype)
    with shared(body, generator.changes(context)):
        found = body(x)
    parameters = dict(body.named_parameters())
    folded = [bind(body, generator(each, parameters))(x[VOLUMES * t :][:VOLUMES]) for t, each in enumerate(context)]
    assert not torch.allclose(found[0], body(x)[0], rtol=0.01, atol=0.01)
    return found, [torch.cat(scale) for scale in zip(*folded)]


@pytest.mark.parametrize("make_body", [_unet, _basic_unet, _segresnet])
@torch.no_grad()
def test_every_task_gets_the_features_of_its_folded_body(make_body, perturbed):
    body = make_body()
    for found, expected in zip(*_answers(body, perturbed(generator_for(body, 16)))):
        assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_the_gradient_of_the_shared_weights_equals_that_of_the_folded_form(perturbed):
    body = _unet().double()  # so that rounding moves nothing across the kink of an activation
    generator = perturbed(generator_for(body, 16)).double()
    answers = _answers(body, generator)
    weigh = [torch.randn_like(scale) for scale in answers[0]]
    weights = [*body.parameters(), *generator.parameters()]
    gradients, others = (
        torch.autograd.grad(sum((f * w).sum() for f, w in zip(scales, weigh)), weights) for scales in answers
    )
    for found, expected in zip(gradients, others):
        assert float((found - expected).norm()) <= 1e-8 * float(expected.norm()) + 1e-12


@torch.no_grad()
def test_the_order_of_weights_in_memory_does_not_matter(perturbed):
    body = _unet()
    changes = perturbed(generator_for(body, 16)).changes(torch.randn(TASKS, 5, 16))
    x = torch.randn(TASKS * VOLUMES, 3, 32, 32, 33)
    with shared(body, changes):
        expected = body(x)
        body.to(memory_format=torch.channels_last_3d)
        found = body(x)
    assert not body.full.conv.weight.is_contiguous()
    for one, other in zip(found, expected):
        assert float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())


def test_outside_of_the_context_the_body_is_what_it_was_even_after_an_error(perturbed):
    body = _unet()
    changes = perturbed(generator_for(body, 16)).changes(torch.randn(1, 5, 16))
    x = torch.randn(1, 3, 32, 32, 32)
    expected = body(x)
    with pytest.raises(RuntimeError, match="made"), shared(body, changes):
        assert not torch.equal(body(x)[0], expected[0])
        raise RuntimeError("made")
    assert all(torch.equal(a, b) for a, b in zip(body(x), expected))
    assert not any("forward" in vars(module) for module in body.modules())


def test_layers_that_cannot_be_shared_are_refused():
    grouped, batch = nn.Sequential(nn.Conv3d(4, 4, 3, groups=2)), nn.Sequential(nn.BatchNorm3d(4))
    changes = generator_for(nn.Sequential(nn.Conv3d(2, 4, 3)), 16).changes(torch.zeros(1, 2, 16))
    with pytest.raises(ValueError, match="'0.weight' belongs to Conv3d.*one group"), shared(grouped, changes):
        pass
    with pytest.raises(ValueError, match="'0' is BatchNorm3d"):
        with shared(batch, Changes({}, {"0": (torch.zeros(1, 4), torch.zeros(1, 4))})):
            pass


def test_tasks_do_not_influence_each_other(perturbed):
    body = _unet()
    generator, x = perturbed(generator_for(body, 16)), torch.randn(3, 3, 32, 32, 32)
    context = torch.randn(3, 5, 16)
    with shared(body, generator.changes(context)):
        together = body(x)
    context[1], x[1] = context[1] + 1, 5.0
    with shared(body, generator.changes(context)):
        changed = body(x)
    for one, other in zip(together, changed):
        assert_close(other[[0, 2]], one[[0, 2]], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(other[1], one[1], rtol=0.1)
