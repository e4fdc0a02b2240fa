"""Methods share one interface; the mean mask is what it says."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.hyper import Hyper
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.networks.model import HyperModel

SIZE = (32, 34, 33)


@pytest.fixture
def support() -> SupportSet:
    labels = torch.zeros(3, 1, *SIZE, dtype=torch.long)
    for shot in range(3):
        labels[shot, :, 4 + 2 * shot : 14, 8:16, 8:16] = 1
        labels[shot, :, 18:26, 8 : 12 + 2 * shot, 8:16] = 2
    return SupportSet(torch.randn(3, 1, *SIZE), labels, ("first", "second"))


@pytest.fixture
def query() -> torch.Tensor:
    return torch.randn(2, 1, *SIZE)


def _shares(support: SupportSet) -> torch.Tensor:
    """Mean of the masks, background first, ``(N, D, H, W)``."""
    return torch.stack([(support.labels[:, 0] == value).float().mean(0) for value in range(len(support.classes) + 1)])


def test_mean_mask_is_the_mean_of_the_masks(support, query):
    probabilities = MeanMask().fit(support)(query).softmax(1)
    assert_close(probabilities[0], _shares(support), rtol=0, atol=1e-5)
    assert torch.equal(probabilities[0], probabilities[1])


def test_mean_mask_looks_at_no_image(support, query):
    blank = replace(support, images=torch.zeros_like(support.images))
    assert torch.equal(MeanMask().fit(support)(query), MeanMask().fit(blank)(torch.zeros_like(query)))


def test_mean_mask_stretches_over_the_query(support):
    halves = torch.zeros_like(support.labels)
    halves[:, :, 16:] = 1
    network = MeanMask().fit(SupportSet(support.images, halves))
    found = network(torch.zeros(1, 1, 64, 20, 33)).argmax(1)[0]
    expected = torch.zeros(64, 20, 33, dtype=torch.long)
    expected[32:] = 1
    assert torch.equal(found, expected)


def test_volumes_of_different_sizes_count_over_their_own_field_of_view(support):
    labels = torch.ones_like(support.labels)  # beyond the extents, everything is foreground
    for shot, side in enumerate((16, 24, 32)):
        labels[shot, :, : side // 2, :side, :side] = 0
    support = SupportSet(support.images, labels, extents=torch.tensor([[n, n, n] for n in (16, 24, 32)]))
    found = MeanMask().fit(support)(torch.zeros(1, 1, 32, 32, 32)).argmax(1)[0]
    assert not found[:16].any() and found[16:].all()


def test_unannotated_volumes_do_not_count(support, query):
    annotated = torch.tensor([[True, True], [True, True], [True, False]])
    labels = support.labels.clone()
    labels[2][labels[2] == 2] = 0
    partial = MeanMask().fit(replace(support, labels=labels, annotated=annotated))(query).exp()
    two = MeanMask().fit(support.subset([0, 1]))(query).exp()
    assert_close(partial[:, 2], two[:, 2])
    assert_close(partial[0, 1], _shares(support)[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [MeanMask, lambda: Hyper(HyperModel().eval())], ids=["mean-mask", "hyper"])
@torch.no_grad()
def test_methods_have_one_interface(make, support, query):
    method = make()
    logits = method.fit(support)(query)
    assert logits.shape == (2, 3, *SIZE)
    assert bool(torch.isfinite(logits).all())
    shorter = method.fit(support.subset([0]))(query[:1, :, :30])
    assert shorter.shape == (1, 3, 30, *SIZE[1:])
