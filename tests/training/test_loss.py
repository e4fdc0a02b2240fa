"""The loss and the Dice of one episode."""

import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel
from monai_hyper.synthesis.tasks import Episode
from monai_hyper.training import loss


def test_dice_of_right_and_wrong_answers():
    labels = torch.randint(0, 3, (2, 1, 8, 8, 8))
    right = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    assert loss.episode_dice(right, labels) == pytest.approx(1)
    assert loss.episode_dice(right[:, [1, 2, 0]], labels) == pytest.approx(0)
    half = right.clone()
    half[:, 2] = -1  # class 2 is never chosen
    assert loss.episode_dice(half, labels) == pytest.approx(0.5)


@torch.no_grad()
def test_the_loss_is_that_of_the_queries_plus_a_share_of_the_support_s_own(monkeypatch):
    images, labels = torch.randn(3, 1, 24, 24, 24), torch.zeros(3, 1, 24, 24, 24, dtype=torch.long)
    labels[:, :, 8:16, 8:16, 8:16] = 1
    episode = Episode(SupportSet(images[:2], labels[:2]), images[2:], labels[2:], "made")
    model, found = HyperModel().eval(), {}
    for weight in (0.0, 0.2, 0.4):
        monkeypatch.setattr(loss, "SELF_WEIGHT", weight)
        found[weight], logits = loss.episode_loss(model, episode)
    assert torch.equal(logits, model(episode.images, episode.support))
    assert float(found[0.2]) > float(found[0.0]) > 0
    assert float(found[0.4] - found[0.0]) == pytest.approx(2 * float(found[0.2] - found[0.0]), rel=1e-3)


def test_one_class_is_told_from_everything_else_by_the_volumes_that_annotate_it():
    images, labels = torch.randn(4, 1, 8, 8, 8), torch.randint(0, 3, (4, 1, 8, 8, 8))
    annotated = torch.tensor([[True, False], [True, True], [False, True]])
    extents = torch.tensor([[8, 8, 8], [8, 7, 8], [6, 8, 8]])
    support = SupportSet(images[:3], labels[:3], ("first", "second"), annotated, extents)
    seen = {}
    for _ in range(20):
        binary = loss.one_class(Episode(support, images[3:], labels[3:], "made"))
        seen[binary.support.classes] = binary
    assert seen.keys() == {("first",), ("second",)}
    for value, shots in ((1, [0, 1]), (2, [1, 2])):
        found = seen[(support.classes[value - 1],)]
        assert torch.equal(found.support.images, images[shots])
        assert torch.equal(found.support.labels, (labels[shots] == value).long())
        assert torch.equal(found.support.extents, extents[shots])
        assert bool(found.support.annotated.all()) and torch.equal(found.labels, (labels[3:] == value).long())


def test_the_objective_asks_a_model_for_all_classes_and_a_learner_for_one():
    images, labels = torch.randn(2, 1, 24, 24, 24), torch.zeros(2, 1, 24, 24, 24, dtype=torch.long)
    labels[:, :, 4:10, 4:10, 4:10], labels[:, :, 14:20, 4:10, 4:10] = 1, 2
    episode = Episode(SupportSet(images[:1], labels[:1], ("first", "second")), images[1:], labels[1:], "made")

    class Perfect(torch.nn.Module):
        def episode_loss(self, episode):
            assert episode.support.classes in (("first",), ("second",))
            return torch.zeros(()), torch.cat([1 - episode.labels, episode.labels], 1).float()

    assert loss.objective(Perfect(), episode) == (0, pytest.approx(1))
    with torch.no_grad():
        model = HyperModel().eval()
        value, dice = loss.objective(model, episode)
        expected, logits = loss.episode_loss(model, episode)
    assert torch.equal(value, expected) and dice == loss.episode_dice(logits, episode.labels)
