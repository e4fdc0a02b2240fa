"""Prototypes are means over annotated masks, compared by their direction."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.methods.prototype import SCALE, Prototype, parts_of


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_the_parts_of_a_volume_add_up_to_it():
    labels = torch.zeros(2, 1, 9, 9, 9, dtype=torch.long)
    labels[0, 0, 3:6, 3:6, 3:6], labels[1, 0, :2] = 1, 2
    parts = parts_of(labels, 1)
    assert torch.equal(parts.sum(1), torch.ones(2, 9, 9, 9))
    assert parts[0].flatten(1).sum(1).tolist() == [27, 7**3 - 27, 9**3 - 7**3]
    assert parts[1].flatten(1).sum(1).tolist() == [0, 0, 9**3]


def test_logits_are_differences_of_cosines(model, task):
    logits = Prototype(model).fit(task(2, classes=2))(task(1).images)
    assert not logits[:, 0].any()
    assert 0 < float(logits.abs().max()) <= 2 * SCALE


def test_the_order_of_the_volumes_does_not_matter(model, task):
    support, query = task(3, classes=2), task(1).images
    assert_close(Prototype(model).fit(support.subset([2, 0, 1]))(query), Prototype(model).fit(support)(query))


def test_a_volume_without_annotation_of_a_class_does_not_change_its_prototypes(model, task):
    support, query = task(3, classes=2), task(1).images
    annotated = torch.tensor([[True, True], [True, True], [True, False]])
    labels = support.labels.clone()
    labels[2][labels[2] == 2] = 0
    logits = Prototype(model).fit(replace(support, annotated=annotated))(query)
    moved = Prototype(model).fit(replace(support, annotated=annotated, labels=labels))(query)
    assert torch.equal(logits[:, 2], moved[:, 2])
    everything = Prototype(model).fit(replace(support, labels=labels))(query)
    assert not torch.allclose(logits[:, 2], everything[:, 2])


def test_volumes_thinner_than_the_coarsest_features(model, task):
    support = task(2)
    thin = replace(support, images=support.images[:, :, :5], labels=support.labels[:, :, :5], extents=None)
    assert Prototype(model).fit(thin)(thin.images[:1]).shape == (1, 2, *thin.images.shape[2:])
