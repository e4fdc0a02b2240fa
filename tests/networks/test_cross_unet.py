"""Cross-convolutions: what the concatenated form says, in any order and number of support volumes."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_hyper.networks import cross_unet
from monai_hyper.networks.cross_unet import CrossBlock, CrossUNet


@pytest.fixture
def network(perturbed) -> CrossUNet:
    return perturbed(CrossUNet((4, 6, 8)))


@torch.no_grad()
def test_a_block_is_the_convolution_of_the_concatenated_features(perturbed):
    block = perturbed(CrossBlock(3, 5, 4))
    query, support = torch.randn(2, 3, 6, 5, 7), torch.randn(6, 5, 6, 5, 7)  # three volumes beside each query
    joint = nn.Conv3d(8, 4, 3, padding=1)
    joint.weight.copy_(torch.cat([block.of_query.weight, block.of_support.weight], 1))
    joint.bias.copy_(block.of_query.bias)
    met = joint(torch.cat([query.repeat_interleave(3, 0), support], 1))
    new_query, new_support = block(query, support)
    assert_close(new_support, block.to_support(met), rtol=1e-4, atol=1e-4)
    assert_close(new_query, block.to_query(met.unflatten(0, (2, 3)).mean(1)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_order_and_the_repetition_of_support_volumes_do_not_matter(network):
    query, support = torch.randn(1, 1, 17, 16, 18), torch.randn(3, 2, 17, 16, 18)
    logits = network(query, support)
    assert_close(network(query, support[[2, 0, 1]]), logits, rtol=1e-3, atol=1e-4)
    assert_close(network(query, support.repeat(2, 1, 1, 1, 1)), logits, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_queries_are_read_one_by_one_and_support_volumes_in_chunks_of_any_size(network, monkeypatch):
    query, support = torch.randn(2, 1, 16, 17, 16), torch.randn(3, 2, 16, 17, 16)
    together = network(query, support)
    assert_close(torch.cat([network(one[None], support) for one in query]), together, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(cross_unet, "CHUNK", 1)
    assert_close(network(query, support), together, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_image_and_mask_of_the_support_are_both_read(network):
    query, support = torch.randn(1, 1, 16, 16, 16), torch.rand(2, 2, 16, 16, 16)
    logits = network(query, support)
    for channel in range(2):
        other = support.clone()
        other[:, channel] = other[:, channel].flip(1)
        assert float((network(query, other) - logits).abs().max()) > 1e-3


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 21, 16), (3, 30, 1)])
@torch.no_grad()
def test_any_size_is_possible(network, size):
    logits = network(torch.randn(1, 1, *size), torch.randn(2, 2, *size))
    assert logits.shape == (1, 1, *size) and bool(torch.isfinite(logits).all())


def test_every_parameter_is_used():
    network = CrossUNet((4, 6, 8))
    network(torch.randn(2, 1, 16, 16, 16), torch.randn(3, 2, 16, 16, 16)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
