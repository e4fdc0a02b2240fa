"""What the hypernetwork emits: the body's own weights at first, folded mixings later."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_hyper.networks.functional import shapes_of
from monai_hyper.networks.generator import FactorHead, Standard, generator_for, mixed
from monai_hyper.networks.model import HyperModel


def test_mixed_equals_the_product_of_matrices_at_every_kernel_position():
    torch.set_default_dtype(torch.float64)
    try:
        base, (u, v), (p, q) = torch.randn(6, 5, 3, 2, 3), torch.randn(2, 6, 4), torch.randn(2, 5, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    left, right = torch.eye(6, dtype=torch.float64) + u @ v.T, torch.eye(5, dtype=torch.float64) + p @ q.T
    expected = torch.empty_like(base)
    for i in range(3):
        for j in range(2):
            for k in range(3):
                expected[..., i, j, k] = left @ base[..., i, j, k] @ right
    assert_close(mixed(base, (u, v), (p, q)), expected, rtol=1e-6, atol=1e-9)


def test_mixed_convolution_equals_mixing_convolving_mixing():
    base, (u, v), (p, q) = torch.randn(6, 5, 3, 3, 3), 0.3 * torch.randn(2, 6, 2), 0.3 * torch.randn(2, 5, 2)
    image = torch.randn(1, 5, 7, 8, 6)
    before = torch.einsum("ij,bjdhw->bidhw", torch.eye(5) + p @ q.T, image)
    after = torch.einsum("oi,bidhw->bodhw", torch.eye(6) + u @ v.T, nn.functional.conv3d(before, base))
    assert_close(nn.functional.conv3d(image, mixed(base, (u, v), (p, q))), after, rtol=1e-4, atol=1e-4)


def test_at_first_the_generated_weights_are_the_body_s_own(make_support):
    model = HyperModel().eval()
    weights = model.generate(make_support(2))[0].weights
    for name, own in model.body.named_parameters():
        assert torch.equal(weights[f"reader.body.{name}"], own), name


def test_later_they_depend_on_the_task(model, make_support):
    weights = model.generate(make_support(2))[0].weights
    others = model.generate(make_support(2, size=(36, 32, 32)))[0].weights
    for name, own in model.body.named_parameters():
        if name in model.hypernetwork.convolutions:
            assert not torch.equal(weights[f"reader.body.{name}"], own), name
            assert not torch.equal(weights[f"reader.body.{name}"], others[f"reader.body.{name}"]), name


def test_what_is_neither_convolution_nor_normalisation_stays_as_learned(perturbed):
    body = nn.Sequential(nn.Conv3d(2, 8, 3), nn.PReLU(8), nn.InstanceNorm3d(8, affine=True))
    hypernetwork = perturbed(generator_for(body, 16))
    own = dict(body.named_parameters())
    weights = hypernetwork(torch.randn(5, 16), own)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes_of(body)
    kept = {name for name in own if torch.equal(weights[name], own[name])}
    assert kept == {"0.bias", "1.weight"}


def test_a_body_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="Linear has no 3D convolution"):
        generator_for(nn.Linear(3, 2), 16)


def test_factors_of_bounded_reach_stay_within_it_however_long_the_token_is():
    head = FactorHead(12, 16, 4, reach=0.5)
    nn.init.normal_(head.moving.weight)
    tokens = torch.randn(3, 12) * torch.tensor([[0.01], [1.0], [1000.0]])
    moving, fixed = head(tokens)
    norms = torch.linalg.matrix_norm(moving @ fixed.mT)
    assert bool((norms < 0.5 + 1e-6).all()) and norms[2] > 0.499
    free = FactorHead(12, 16, 4)
    free.load_state_dict(head.state_dict())
    u, v = free(tokens)
    size = torch.linalg.matrix_norm(u @ v.mT, keepdim=True)
    assert_close(moving, u / (1 + 4 * size.square()).sqrt())
    assert_close(fixed, v)


def test_tokens_become_deviations_from_what_is_usual():
    torch.manual_seed(0)
    standard = Standard(5, 7)
    usual, spread = 30 * torch.randn(5, 7), torch.rand(5, 7) * 1e-2 + 1e-3
    for _ in range(400):
        standard(usual + spread * torch.randn(4, 5, 7))
    standard.eval()
    found = standard(usual + spread * torch.randn(500, 5, 7))
    assert float(found.mean(0).abs().max()) < 0.6 and 0.7 < float(found.std(0).mean()) < 1.3
    assert torch.equal(standard(usual[None]), standard(usual.expand(3, -1, -1))[1:2]), "as alone, so among others"
    assert float(standard(usual[None] + 1e6).max()) <= standard.MOST
