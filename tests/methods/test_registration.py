"""Label propagation finds what was moved, asks only those who know, and lets the better fit decide."""

import os
from dataclasses import replace
from types import SimpleNamespace

import itk
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.methods import registration
from monai_hyper.methods.registration import Registration, best_shift, local_correlation, register, warp
from monai_hyper.types import InputError

needs_elastix = pytest.mark.skipif(not hasattr(itk, "ElastixRegistrationMethod"), reason="itk-elastix is absent")


def scene(centre, scale=1.0, size=(26, 24, 25)) -> tuple[torch.Tensor, torch.Tensor]:
    """A textured body with two organs around ``centre``: image and labels, ``(D, H, W)`` each."""
    place = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
    place = (place - torch.tensor(centre)[:, None, None, None]) / scale
    distance = lambda *at: (place - torch.tensor(at)[:, None, None, None]).square().sum(0).sqrt()  # noqa: E731
    first, second = distance(-2.0, -2.0, 0.0) < 3.5, distance(3.0, 2.0, 1.0) < 3.0
    image = (distance(0.0, 0.0, 0.0) < 9).float() + first.float() - 0.7 * second.float()
    image += 0.3 * torch.sin(place[0] / 1.7) * torch.cos(place[1] / 1.3) * torch.sin(place[2] / 2.1 + 0.5)
    return image, first.long() + 2 * second.long()


def support_of(*scenes: tuple[torch.Tensor, torch.Tensor]) -> SupportSet:
    images, labels = (torch.stack(volumes)[:, None] for volumes in zip(*scenes))
    return SupportSet(images, labels, ("first", "second"))


def dice(logits: torch.Tensor, truth: torch.Tensor) -> float:
    found = logits.argmax(1)[0]
    both = [2 * ((found == c) & (truth == c)).sum() / ((found == c).sum() + (truth == c).sum()) for c in (1, 2)]
    return float(sum(both) / 2)


@pytest.fixture
def still(monkeypatch):
    """Registration that moves nothing."""
    monkeypatch.setattr(registration, "register", lambda fixed, moving, threads: torch.zeros(3, *fixed.shape))


@needs_elastix
@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_labels_follow_the_anatomy_whatever_is_bright(contrast):
    support = support_of(scene((12.0, 12.0, 12.0)))
    image, truth = scene((14.0, 10.0, 13.0), scale=1.15)
    network = Registration().fit(support)
    logits = network(contrast * image[None, None])
    assert logits.shape == (1, 3, *image.shape) and torch.isfinite(logits).all()
    assert (
        dice(logits, truth)
        > 0.85
        > 0.7
        > dice(support.labels.movedim(0, 1).eq(torch.arange(3)[:, None, None, None]).float(), truth)
    )


@needs_elastix
def test_fields_of_view_may_differ():
    image, label = scene((13.0, 12.0, 12.0))
    support = support_of(scene((12.0, 11.0, 13.0)), (torch.full_like(image, 9.0), torch.ones_like(label)))
    small = torch.tensor([[26, 24, 25], [18, 17, 25]])
    images, labels = support.images.clone(), support.labels.clone()
    images[1, 0, :18, :17], labels[1, 0, :18, :17] = image[8:, 7:], label[8:, 7:]
    support = SupportSet(images, labels, support.classes, extents=small)
    network = Registration().fit(support)
    assert dice(network(image[None, None]), label) > 0.85
    part = network(image[None, None, 4:24, 3:])
    assert part.shape == (1, 3, 20, 21, 25)
    assert dice(part, label[4:24, 3:]) > 0.85
    padded = torch.nn.functional.pad(image - image.min(), (9, 0, 0, 6, 3, 3))
    assert dice(network(padded[None, None]), torch.nn.functional.pad(label, (9, 0, 0, 6, 3, 3))) > 0.85


@needs_elastix
def test_elastix_is_deterministic_quiet_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    network = Registration().fit(support_of(scene((12.0, 12.0, 12.0))))
    query = torch.stack([scene((13.0, 11.0, 12.0))[0], scene((11.0, 13.0, 12.0))[0]])[:, None]
    capfd.readouterr()
    both = network(query)
    assert torch.equal(both[:1], network(query[:1])) and torch.equal(both[1:], network(query[1:]))
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == []


@needs_elastix
@torch.no_grad()
def test_small_and_flat_volumes():
    support = SupportSet(torch.rand(2, 1, 8, 11, 9), torch.randint(0, 2, (2, 1, 8, 11, 9)))
    network = Registration().fit(support)
    assert network(torch.rand(1, 1, 9, 8, 8)).shape == (1, 2, 9, 8, 8)
    assert not torch.is_grad_enabled()


def test_a_volume_that_does_not_annotate_a_class_has_no_vote_on_it(still):
    images, labels = torch.rand(2, 1, 10, 10, 10), torch.ones(2, 1, 10, 10, 10).long()
    labels[0, :, 5:] = 2
    annotated = torch.tensor([[True, True], [True, False]])
    support = SupportSet(images, labels, ("first", "second"), annotated)
    found = Registration().fit(support)(images[:1]).softmax(1)[0]
    alone = Registration().fit(replace(support.subset([0])))(images[:1]).softmax(1)[0]
    assert_close(found[2] > 0.4, alone[2] > 0.4)
    assert (found[1, :5] > 0.99).all()


def test_the_better_local_fit_decides(still):
    query, noise = torch.rand(16, 12, 12), torch.rand(16, 12, 12)
    images = torch.stack([query, query])[:, None].clone()
    images[0, 0, 8:], images[1, 0, :8] = noise[8:], noise[:8]
    labels = torch.zeros(2, 1, 16, 12, 12).long()
    labels[0, 0, 4:8, 4:8], labels[0, 0, 12:, 4:8] = 1, 1  # right where it fits, wrong elsewhere
    labels[1, 0, 0:4, 4:8], labels[1, 0, 8:12, 4:8] = 1, 1
    found = Registration().fit(SupportSet(images, labels))(query[None, None]).argmax(1)[0]
    truth = torch.zeros(16, 12, 12).long()
    truth[4:8, 4:8], truth[8:12, 4:8] = 1, 1
    inner = [slice(0, 6), slice(10, 16)]  # away from the border of the two halves
    assert all(torch.equal(found[part], truth[part]) for part in inner)


def test_equal_votes_give_their_mean(still):
    labels = torch.zeros(4, 1, 9, 9, 9).long()
    labels[:3, :, 4:6], labels[3, :, 4:6] = 1, 2
    support = SupportSet(torch.rand(1, 1, 9, 9, 9).expand(4, 1, 9, 9, 9), labels, ("first", "second"))
    found = Registration().fit(support)(torch.rand(1, 1, 9, 9, 9)).softmax(1)[0]
    assert_close(found[:, 4, 4, 4], torch.tensor([0.0, 0.75, 0.25]), atol=1e-4, rtol=0)
    assert_close(found[:, 1, 1, 1], torch.tensor([1.0, 0.0, 0.0]), atol=1e-4, rtol=0)


def test_a_failed_registration_leaves_its_vote_out(monkeypatch):
    images = torch.rand(2, 1, 9, 9, 9)
    images[1] += 5
    labels = torch.stack([torch.ones(1, 9, 9, 9), torch.zeros(1, 9, 9, 9)]).long()

    def fails_for_the_second(fixed, moving, threads):
        if moving.mean() > 3:
            raise RuntimeError("too few samples")
        return torch.zeros(3, *fixed.shape)

    monkeypatch.setattr(registration, "register", fails_for_the_second)
    network = Registration().fit(SupportSet(images, labels))
    assert (network(images[:1]).argmax(1) == 1).all()
    with pytest.raises(RuntimeError, match="could be registered: too few samples"):
        Registration().fit(SupportSet(images[1:], labels[:1]))(images[:1])


def test_without_elastix_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(registration, "itk", SimpleNamespace())
    with pytest.raises(InputError, match=r"pip install monai_hyper\[registration\]"):
        Registration().fit(support_of(scene((12.0, 12.0, 12.0))))


@needs_elastix
def test_register_says_where_voxels_lie():
    moved, _ = scene((14.0, 10.0, 12.0))
    image, label = scene((12.0, 12.0, 12.0))
    field = register(image, moved)
    inside = field[:, label > 0]
    assert_close(inside.mean(1), torch.tensor([2.0, -2.0, 0.0]), atol=0.3, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [20, 70])
def test_the_best_shift_is_found_by_what_both_show(sign, size):
    whole = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6, 6), size=(size,) * 3, mode="trilinear")[0, 0]
    quarter = size // 4
    fixed, moving = whole[: 3 * quarter, :, quarter:], sign * whole[quarter:, quarter:, : 3 * quarter] + 3
    step = -(-size // 32)
    expected = torch.tensor([quarter, quarter, -quarter])
    assert (best_shift(fixed, moving) - expected).abs().max() <= step


def test_warping_by_whole_voxels_moves_them():
    volume = torch.rand(2, 7, 8, 9)
    step = torch.tensor([1.0, 2.0, -1.0])[:, None, None, None].expand(3, 7, 8, 9)
    found = warp(volume, step)
    assert_close(found[:, :6, :6, 1:], volume[:, 1:, 2:, :-1], atol=1e-5, rtol=0)
    assert found[:, 6].abs().max() < 1e-5 and found[:, :, 6:].abs().max() < 1e-5 and found[..., 0].abs().max() < 1e-5


def test_local_correlation_is_that_of_the_neighbourhood():
    first, second = torch.rand(8, 9, 7), torch.rand(8, 9, 7)
    found = local_correlation(first, second)
    for at in ((4, 4, 3), (0, 8, 2)):
        around = tuple(slice(max(n - 2, 0), n + 3) for n in at)
        expected = np.corrcoef(first[around].flatten(), second[around].flatten())[0, 1]
        assert float(found[at]) == pytest.approx(expected, abs=1e-4)
    assert local_correlation(first, torch.ones(8, 9, 7)).abs().max() < 1e-3
