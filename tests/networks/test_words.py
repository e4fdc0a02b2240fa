"""Networks that segment what words describe: with examples, and without."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.batched import segment_tasks, segment_told
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.unet import UNetBody
from monai_hyper.networks.words import told
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.training.loss import heard_of

SIZE = (20, 18, 22)


@pytest.fixture(scope="module")
def model() -> HyperModel:
    torch.manual_seed(3)
    model = HyperModel(UNetBody(10, channels=(8, 8, 8, 8), thin=4), embedding_dim=16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def texts() -> torch.Tensor:
    return F.normalize(torch.randn(2, 2, 384), dim=-1)


def _words(texts: torch.Tensor) -> SupportSet:
    empty = torch.zeros(0, 1, *SIZE)
    return SupportSet(empty, empty.long(), ("a", "b"), texts=texts)


def _batch(texts: torch.Tensor | None) -> TaskBatch:
    labels = torch.zeros(2, 4, 1, *SIZE).long()
    labels[..., 2:9, 3:9, 3:9], labels[..., 12:18, 9:15, 12:20] = 1, 2
    images = labels + 0.3 * torch.randn(labels.shape)
    return TaskBatch(images, labels, torch.zeros(2, 4, 3), 2, 2, False, ("made",) * 2, texts)


@torch.no_grad()
def test_a_network_from_words_alone_is_a_plain_one(model, texts):
    network, query = model.condition(_words(texts[0])), torch.randn(2, 1, *SIZE)
    logits = network(query)
    assert logits.shape == (2, 3, *SIZE) and bool(torch.isfinite(logits).all()) and not logits[:, 0].any()
    assert_close(network.materialise()(query), logits)
    assert not torch.allclose(model.condition(_words(texts[1]))(query), logits, atol=1e-3)


@torch.no_grad()
def test_several_described_tasks_at_once_equal_one_after_another(model, texts):
    batch = _batch(texts)
    logits = segment_told(model, batch)
    for task in range(2):
        network = model.condition(_words(texts[task]))
        assert_close(logits[task], network(batch.episode(task).images), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_words_reach_a_network_that_has_examples(model, texts):
    batch, nothing = _batch(texts), _batch(None)
    nothing = replace(nothing, images=batch.images)
    both, _ = segment_tasks(model, batch)
    alone, _ = segment_tasks(model, nothing)
    assert not torch.allclose(both, alone, atol=1e-3)
    support = batch.episode(0).support
    assert not torch.equal(
        model.condition(support)(batch.images[0, 2:]),
        model.condition(replace(support, texts=None))(batch.images[0, 2:]),
    )


@torch.no_grad()
def test_before_words_are_learned_they_change_nothing(texts):
    torch.manual_seed(0)
    model, batch = HyperModel(UNetBody(10, channels=(8, 8, 8, 8), thin=4), embedding_dim=16).eval(), _batch(texts)
    torch.manual_seed(1)  # voxels are drawn by chance
    found, _ = segment_tasks(model, batch)
    torch.manual_seed(1)
    expected, _ = segment_tasks(model, replace(batch, texts=None))
    assert torch.equal(found, expected)


def test_words_are_withheld_by_chance_and_alone_only_where_all_classes_have_some(texts):
    torch.manual_seed(0)
    assert {heard_of(_batch(texts)) for _ in range(60)} == {"volumes", "words", "both"}
    partly = texts.clone()
    partly[0, 1] = 0
    assert {heard_of(_batch(partly)) for _ in range(60)} == {"volumes", "both"}
    assert {heard_of(_batch(None)) for _ in range(20)} == {"volumes"}


def test_the_mean_is_over_what_is_described():
    texts = torch.zeros(3, 2, 384)
    texts[0, 0], texts[1] = 1.0, torch.tensor([2.0, 4.0])[:, None]
    assert told(texts)[:, 0].tolist() == [1.0, 3.0, 0.0]
