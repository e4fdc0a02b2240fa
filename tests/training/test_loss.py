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
