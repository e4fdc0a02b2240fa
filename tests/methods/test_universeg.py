"""UniverSeg: the support is read with every query, over its own field of view."""

import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.meta import binary_loss, examples_of
from monai_hyper.methods.universeg import UniverSegLearner
from monai_hyper.networks.functional import fit_field
from monai_hyper.synthesis.tasks import Episode


def _learner() -> UniverSegLearner:
    return UniverSegLearner([4, 6, 8])


@torch.no_grad()
def test_support_volumes_of_any_size_are_stretched_over_the_query():
    learner, query = _learner(), torch.randn(2, 1, 18, 16, 17)
    small, large = torch.rand(1, 1, 12, 14, 16), torch.rand(1, 1, 20, 18, 16)
    examples = [(small, (small > 0.5).float()), (large, (large > 0.5).float())]
    stretched = [tuple(fit_field(x, [18, 16, 17]) for x in pair) for pair in examples]
    found = learner.network(examples)(query)
    assert_close(found, learner.network(stretched)(query))
    assert_close(found, learner(query, examples), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_order_of_batches_does_not_matter():
    learner, query = _learner(), torch.randn(1, 1, 16, 16, 16)
    support = SupportSet(torch.randn(6, 1, 16, 16, 16), torch.randint(0, 2, (6, 1, 16, 16, 16)))
    turned = support.subset([5, 3, 1, 0, 2, 4])
    found = [learner.network(examples_of(s, 0))(query) for s in (support, turned)]
    assert_close(*found, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_loss_is_that_of_the_queries():
    images, labels = torch.randn(4, 1, 16, 16, 16), torch.randint(0, 2, (4, 1, 16, 16, 16))
    learner, support = _learner(), SupportSet(images[:2], labels[:2])
    loss, logits = learner.episode_loss(Episode(support, images[2:], labels[2:], "made"))
    expected = learner(images[2:], examples_of(support, 0))
    assert_close(logits[:, 1:], expected)
    assert_close(loss, binary_loss(expected, labels[2:].float()))
