"""The read-out is fitted with the weights that the support set speaks for."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.readout import EQUAL, SIZES, ReadOut, own_dice


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


def test_for_every_class_the_size_counts_by_which_the_volumes_segment_each_other_best(fitted):
    read_out, network, own = fitted(3, classes=2)
    dice = [own_dice(read_out.own_logits([size] * 2), read_out.support, read_out.support).mean(0) for size in SIZES]
    assert len(set(torch.stack(dice)[:, 0].tolist())) > 1
    best = [SIZES[max(range(len(SIZES)), key=lambda i: float(dice[i][c]))] for c in range(2)]
    assert read_out.best_sizes() == best
    assert torch.equal(bias(network), read_out.of_all(best)[1])
    for (_, expected), (_, found) in zip(read_out.own_logits(best), own()):
        assert_close(found, expected)


def test_a_class_has_the_read_out_of_its_own_size(fitted):
    read_out = fitted(3, classes=2)[0]
    first, second, mixed = (read_out.of_all(sizes) for sizes in ([0.0, 0.0], [1.0, 1.0], [0.0, 1.0]))
    for one, other, found in zip([*first[0], first[1]], [*second[0], second[1]], [*mixed[0], mixed[1]]):
        assert torch.equal(found[0], one[0]) and torch.equal(found[1], other[1])
    assert not torch.equal(first[1], second[1])


def test_a_lone_volume_and_training_have_no_choice(fitted):
    for shots, training in ((1, False), (1, True), (3, True)):
        read_out, network, _ = fitted(shots, training=training)
        assert torch.equal(bias(network), read_out.of_all([EQUAL])[1])


def test_a_class_that_no_volume_shows_has_no_choice(fitted):
    read_out = fitted(2, classes=2)[0]
    read_out.support.labels[read_out.support.labels == 2] = 0
    assert read_out.best_sizes()[1] == EQUAL


def test_volumes_that_show_nothing_still_give_a_network(make_support):
    empty = make_support(2)
    empty.labels.zero_()
    with torch.no_grad():
        network = HyperModel().eval().generate(empty)[0]
        assert bool(torch.isfinite(network(empty.images[:1])).all())
