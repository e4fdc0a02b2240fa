"""The read-out is fitted with the weights that the support set speaks for."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.networks.confidence import own_dice
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.readout import LONE, SIZES, ReadOut


@pytest.fixture
def fitted(make_support, monkeypatch):
    """A model that keeps the read-outs it has fitted, those of a support set, and the network."""
    found = []
    start = ReadOut.__init__

    def kept(self, *arguments):
        start(self, *arguments)
        found.append(self)

    def fit(shots, training=False, **facts):
        monkeypatch.setattr(ReadOut, "__init__", kept)
        torch.manual_seed(0)
        with torch.no_grad():
            network, own = HyperModel().train(training).generate(make_support(shots, **facts))
        return found[-1], network, own

    return fit


def bias(network):
    return network.weights["reader.mask_head.bias"]


def test_the_size_that_counts_is_the_one_by_which_the_volumes_segment_each_other_best(fitted):
    read_out, network, own = fitted(3)
    dice = [float(own_dice(read_out.own_logits(size), read_out.support, read_out.support).mean()) for size in SIZES]
    assert dice[0] != dice[1]
    best = SIZES[dice.index(max(dice))]
    assert read_out.best_size() == best
    assert torch.equal(bias(network), read_out.of_all(best)[1])
    for (_, expected), (_, found) in zip(read_out.own_logits(best), own()):
        assert_close(found, expected)


def test_a_lone_volume_and_training_have_no_choice(fitted):
    read_out, network, _ = fitted(1)
    assert torch.equal(bias(network), read_out.of_all(LONE)[1])
    read_out, network, _ = fitted(1, training=True)
    assert torch.equal(bias(network), read_out.of_all(0.0)[1])


def test_volumes_that_show_nothing_choose_as_a_lone_one_does(fitted, make_support):
    empty = make_support(2)
    empty.labels.zero_()
    with torch.no_grad():
        network = HyperModel().eval().generate(empty)[0]
        assert bool(torch.isfinite(network(empty.images[:1])).all())
