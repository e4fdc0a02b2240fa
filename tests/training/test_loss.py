"""The loss and the Dice of one episode."""

import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel
from monai_hyper.synthesis.tasks import Episode
from monai_hyper.training.loss import episode_dice, episode_loss


def test_dice_of_right_and_wrong_answers():
    labels = torch.randint(0, 3, (2, 1, 8, 8, 8))
    right = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    assert episode_dice(right, labels) == pytest.approx(1)
    assert episode_dice(right[:, [1, 2, 0]], labels) == pytest.approx(0)
    half = right.clone()
    half[:, 2] = -1  # class 2 is never chosen
    assert episode_dice(half, labels) == pytest.approx(0.5)


def test_the_support_is_told_about_itself():
    images, labels = torch.randn(3, 1, 24, 24, 24), torch.zeros(3, 1, 24, 24, 24, dtype=torch.long)
    labels[:, :, 8:16, 8:16, 8:16] = 1
    episode = Episode(SupportSet(images[:2], labels[:2]), images[2:], labels[2:], "made")
    model = HyperModel().eval()
    with torch.no_grad():
        loss, logits = episode_loss(model, episode)
        network, _ = model.generate(episode.support)
        assert torch.equal(network(episode.images), logits)
    moved = Episode(episode.support, torch.zeros_like(images[2:]), 1 - labels[2:], "made")
    with torch.no_grad():
        assert float(episode_loss(model, moved)[0]) > float(loss)
