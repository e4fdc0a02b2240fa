"""The loss and the Dice of one episode."""

from dataclasses import replace

import pytest
import torch
from monai.losses import DiceFocalLoss

from monai_hyper.data.support import SupportSet
from monai_hyper.networks import template as template_module
from monai_hyper.networks import unet
from monai_hyper.networks.alignment import align
from monai_hyper.networks.batched import segment_tasks
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.template import make_template
from monai_hyper.synthesis.batch import Episode, TaskBatch
from monai_hyper.training import loss


def test_dice_of_right_and_wrong_answers():
    labels = torch.randint(0, 3, (3, 2, 1, 8, 8, 8))
    logits = torch.nn.functional.one_hot(labels[:, :, 0], 3).movedim(-1, 2).float()
    logits[1] = logits[1][:, [1, 2, 0]]
    logits[2, :, 2] = -1  # class 2 is never chosen
    assert loss.task_dice(logits, labels).tolist() == pytest.approx([1, 0, 0.5])


def test_the_loss_of_tasks_is_the_mean_of_the_losses_of_their_volumes_together():
    labels, logits = torch.randint(0, 3, (2, 2, 1, 8, 7, 6)), torch.randn(2, 2, 3, 8, 7, 6)
    settings = dict(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-3, smooth_dr=1e-3)
    each = [DiceFocalLoss(batch=True, **settings)(*task) for task in zip(logits, labels)]
    assert float(loss.segmentation_loss(logits, labels)) == pytest.approx(float(sum(each) / 2), rel=1e-5)


@torch.no_grad()
def test_the_loss_is_that_of_the_queries_plus_a_share_of_the_support_s_own(monkeypatch):
    images, labels = torch.randn(3, 1, 24, 24, 24), torch.zeros(3, 1, 24, 24, 24, dtype=torch.long)
    labels[:, :, 8:16, 8:16, 8:16] = 1
    episode = Episode(SupportSet(images[:2], labels[:2]), images[2:], labels[2:], "made")
    model, found = HyperModel().eval(), {}
    for weight in (0.0, 0.2, 0.4):
        monkeypatch.setattr(loss, "SELF_WEIGHT", weight)
        found[weight], logits = loss.episode_loss(model, episode)
    assert torch.equal(logits, model.generate(episode.support)[0](episode.images))
    assert float(found[0.2]) > float(found[0.0]) > 0
    assert float(found[0.4] - found[0.0]) == pytest.approx(2 * float(found[0.2] - found[0.0]), rel=1e-3)


@torch.no_grad()
def test_where_the_frame_of_an_episode_is_known_nothing_is_aligned(monkeypatch):
    labels = torch.zeros(3, 1, 26, 24, 25, dtype=torch.long)
    for volume, start in zip(labels, (4, 6, 9)):
        volume[:, start : start + 9, 6:14, start : start + 10] = 1
    images = labels + 0.1 * torch.randn(labels.shape)
    episode = Episode(SupportSet(images[:2], labels[:2]), images[2:], labels[2:], "made")
    model, template = HyperModel().eval(), make_template(episode.support)
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    expected, logits = loss.episode_loss(model, episode)
    known = replace(template, own=[*template.own, align(episode.images, template.image)])
    for module in (unet, template_module):
        monkeypatch.setattr(module, "align", None)
    found, same = loss.episode_loss(model, episode, known)
    assert torch.equal(same, logits) and torch.equal(found, expected)
    assert not torch.equal(loss.episode_loss(model, episode, known, local=True)[1], logits)


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


def make_batch() -> TaskBatch:
    """Two tasks of one support volume and one query, two classes each."""
    images, labels = torch.randn(2, 2, 1, 24, 24, 24), torch.zeros(2, 2, 1, 24, 24, 24, dtype=torch.long)
    labels[..., 4:10, 4:10, 4:10], labels[..., 14:20, 4:10, 4:10] = 1, 2
    return TaskBatch(images, labels, torch.zeros(2, 2, 3), 1, 2, False, ("a", "b"))


def test_the_objective_asks_a_learner_for_one_class_of_one_task_after_another():
    batch, seen = make_batch(), []

    class Perfect(torch.nn.Module):
        def episode_loss(self, episode):
            assert episode.support.classes in (("class_1",), ("class_2",))
            seen.append(episode.images)
            return torch.tensor(3.0), torch.cat([1 - episode.labels, episode.labels], 1).float()

    parts = list(loss.objective(Perfect(), batch))
    assert sum(float(part) for part, _ in parts) == pytest.approx(3)
    assert [dice.tolist() for _, dice in parts] == [[pytest.approx(1)], [pytest.approx(1)]]
    assert torch.equal(torch.stack(seen), batch.images[:, 1:])


@torch.no_grad()
def test_the_objective_asks_a_model_for_all_classes_of_all_tasks_at_once(monkeypatch):
    batch, model, found = make_batch(), HyperModel().eval(), {}
    for weight in (0.0, 0.2, 0.4):
        monkeypatch.setattr(loss, "SELF_WEIGHT", weight)
        torch.manual_seed(0)
        ((found[weight], dice),) = loss.objective(model, batch)
    torch.manual_seed(0)
    logits, own = segment_tasks(model, batch)
    assert dice.tolist() == loss.task_dice(logits, batch.labels[:, 1:]).tolist()
    assert float(found[0.0]) == pytest.approx(float(loss.segmentation_loss(logits, batch.labels[:, 1:])))
    of_support = float(loss.segmentation_loss(own, batch.labels[:, :1]))
    assert float(found[0.4] - found[0.2]) == pytest.approx(0.2 * of_support, rel=1e-3)
