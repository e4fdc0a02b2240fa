"""The ridge baseline is a linear read-out of unconditioned features, fitted to what is annotated."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.methods.ridge import Ridge


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_it_has_the_body_of_the_model_and_no_prior(model, task):
    network = Ridge(model).fit(task(2))
    for name, parameter in model.body.named_parameters():
        assert torch.equal(network.weights[f"reader.body.{name}"], parameter)
    assert not network.weights["prior"].any() and not network.weights["masks"].any()


def test_the_order_of_the_volumes_does_not_matter(model, task):
    support = task(3, classes=2)
    query = task(1).images
    assert_close(
        Ridge(model).fit(support.subset([2, 0, 1]))(query), Ridge(model).fit(support)(query), rtol=1e-2, atol=1e-2
    )


def test_a_volume_without_annotation_of_a_class_says_nothing_about_it(model, task):
    support, query = task(3, classes=2), task(1).images
    partial = replace(support, annotated=torch.tensor([[True, True], [True, True], [True, False]]))
    logits = Ridge(model).fit(partial)(query)
    assert_close(logits[:, 2], Ridge(model).fit(support.subset([0, 1]))(query)[:, 2], rtol=1e-2, atol=1e-2)
    assert_close(logits[:, 1], Ridge(model).fit(support)(query)[:, 1], rtol=1e-2, atol=1e-2)


def test_the_network_can_be_materialised(model, task):
    network, query = Ridge(model).fit(task(1)), task(2).images
    assert_close(network.materialise()(query), network(query), rtol=1e-3, atol=1e-3)
