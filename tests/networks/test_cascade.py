"""Laws of the two scales: windows, where they lie, and when they are used."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.cascade import cut, put, window_of
from monai_hyper.networks.confidence import agreement, confidence, expected_dice
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork
from monai_hyper.networks.readout import own_dice
from monai_hyper.networks.released import load_model
from monai_hyper.networks.template import make_template
from monai_hyper.networks.windows import find_windows
from monai_hyper.synthesis.geometry import warped_copy


def patient(seed: int, lesion_at: tuple[int, int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of one anatomy with a bright organ, or with a bright ball anywhere, ``(1, 48, 44, 40)``."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(1, 1, 8, 8, 8, generator=generator)
    scene = torch.nn.functional.interpolate(coarse, size=(48, 44, 40), mode="trilinear").tanh() * 0.4
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (48, 44, 40)), indexing="ij"))
    place = torch.tensor(lesion_at or (30, 14, 22)).float()[:, None, None, None]
    ball = ((grid - place).norm(dim=0) < 5).float()[None, None]
    image, label = warped_copy(scene + ball, ball, torch.Generator().manual_seed(seed), 0.5)
    return image[0] + 0.02 * torch.randn(image[0].shape, generator=generator), (label[0] > 0.5).long()


def support_of(places: list) -> SupportSet:
    images, labels = zip(*(patient(seed, place) for seed, place in enumerate(places)))
    return SupportSet(torch.stack(images), torch.stack(labels))


def windows(support: SupportSet):
    return find_windows(support, make_template(support), 1)


def test_cutting_and_putting_back_gives_the_volume_within_the_window():
    volume, window = torch.rand(2, 3, 8, 9, 10), torch.tensor([-2, 3, 6, 5, 4, 7])
    back = put(cut(volume, window), window, [8, 9, 10])
    assert_close(back[:, :, :3, 3:7, 6:], volume[:, :, :3, 3:7, 6:])
    assert bool((back[:, 1:, 3:] == -15).all()) and bool((back[:, 0, :, :3] == 0).all())
    assert bool((cut(volume, window, "zero")[:, :, :2] == 0).all())
    assert_close(cut(volume, window)[:, :, 0], cut(volume, window)[:, :, 2])


def test_a_window_that_misses_the_volume_shows_background():
    back = put(torch.ones(1, 2, 4, 4, 4), torch.tensor([20, 0, 0, 4, 4, 4]), [8, 8, 8])
    assert bool((back[:, 1] == -15).all())


def test_the_window_lies_around_the_mask_on_any_grid():
    mask = torch.zeros(1, 1, 10, 10, 10)
    mask[..., 6, 3, 8] = 5
    assert window_of(mask, 1, [4, 4, 4], [10, 10, 10])[:3].tolist() == [4, 2, 6]
    assert window_of(mask, 2, [4, 4, 4], [20, 20, 20])[:3].tolist() == [11, 5, 15]
    assert window_of(0 * mask, 2, [4, 4, 4], [20, 20, 20])[:3].tolist() == [8, 8, 8]


def test_an_organ_is_found_in_every_volume_and_in_queries():
    found = windows(support_of([None, None, None]))
    assert found.found.tolist() == [True] * 3
    image, label = patient(9)
    window, _ = found.finder(image[None])
    inside = cut(label[None], window, "zero")
    assert int(inside.sum()) == int(label.sum())
    assert int(window[3:].max()) < 40 and int(window[3:].min()) >= 20
    assert all(int((a > 0).sum()) > 0 for a in found.support.labels)


def test_a_lesion_that_is_always_elsewhere_is_not_found():
    places = [(10, 10, 8), (38, 34, 30), (10, 34, 30), (38, 10, 8)]
    assert windows(support_of(places)).found.tolist() == [False] * 4


def test_a_lone_volume_has_nobody_to_find_it():
    found = windows(support_of([None]))
    assert found.found.tolist() == [False]
    assert int((found.support.labels > 0).sum()) == int(patient(0)[1].sum()), "its window lies around its foreground"


@pytest.fixture(scope="module")
def released():
    return load_model()


@torch.no_grad()
def test_organs_are_segmented_in_windows_and_scattered_lesions_are_not(released):
    organ = released.condition(support_of([None, None, None]))
    assert isinstance(organ, CascadeNetwork) and organ.others == ()
    assert 0 < organ.expected_dice <= 1
    image, label = patient(9)
    predicted = organ(image[None]).argmax(1)
    dice = 2 * float((predicted * label).sum()) / float((predicted + label).sum())
    assert dice > 0.8, dice
    places = [(10, 10, 8), (38, 34, 30), (10, 34, 30), (38, 10, 8)]
    scattered = released.condition(support_of(places))
    assert isinstance(scattered, ConditionedNetwork) and scattered.expected_dice is not None


@torch.no_grad()
@pytest.mark.parametrize("shots", [2, 3])
def test_volumes_that_look_alike_once_aligned_need_no_network_without_alignment(released, monkeypatch, shots):
    made, generate = [], HyperModel.generate

    def noted(model, support, template=None, local=False):
        made.append("local" if local else template.aligned)
        return generate(model, support, template, local)

    monkeypatch.setattr(HyperModel, "generate", noted)
    alike, noise = support_of([None] * shots), torch.Generator().manual_seed(3)
    released.condition(alike)
    assert made == ["local", True]
    made.clear()
    released.condition(replace(alike, images=torch.rand(alike.images.shape, generator=noise)))
    assert made == ["local", True, False]


@torch.no_grad()
def test_a_lone_volume_keeps_all_networks_and_takes_the_most_confident_answer(released):
    network = released.condition(support_of([None]))
    assert isinstance(network, CascadeNetwork) and network.expected_dice is None
    assert [other.reading.template.aligned for other in network.others] == [True, False]
    other = torch.rand(1, 1, 48, 44, 40, generator=torch.Generator().manual_seed(3))
    for image, explained in ((patient(9)[0][None], True), (other, False)):
        assert network.finder.explains(image, network.finder(image)[1]) == explained
        alone = replace(network, others=())(image)
        answers = [alone, *(whole(image) for whole in network.others[: 1 if explained else 2])]
        best = max(answers, key=confidence)
        assert torch.equal(network(image), best)
        assert_close(network.answers(image), [best, answers[1] if best is answers[0] else answers[0]])


@torch.no_grad()
def test_what_to_expect_of_a_lone_volume_falls_with_disagreement(released):
    network = released.condition(support_of([None]))
    one, two = torch.zeros(2, 1, 2, 4, 4, 4)
    one[:, 1], two[:, 1] = -8, -8
    one[:, 1, :2], two[:, 1, 1:3] = 8, 8
    assert agreement(one, two) == agreement(two, one) == pytest.approx(0.5, abs=1e-2)
    assert agreement(one, one) == pytest.approx(1)
    assert expected_dice(network, [one, one]) == pytest.approx(confidence(one))
    assert expected_dice(network, [one, two]) == pytest.approx(confidence(one) * agreement(one, two) ** 0.5)
    assert expected_dice(replace(network, expected_dice=0.6), [one]) == pytest.approx((0.6 + confidence(one)) / 2)


@torch.no_grad()
@pytest.mark.parametrize("shots", [1, 3])
def test_materialised_and_scripted_equal_generated(released, shots):
    network = released.condition(support_of([None] * shots))
    image, _ = patient(9)
    expected, plain = network(image[None]), network.materialise()
    scale = float(expected.abs().max())
    assert_close(plain(image[None]), expected, atol=1e-3 * scale, rtol=0)
    assert_close(torch.jit.script(plain)(image[None]), expected, atol=1e-3 * scale, rtol=0)


def test_confidence_is_the_dice_that_probabilities_expect():
    sure = torch.full((1, 2, 4, 4, 4), 0.0)
    sure[:, 1], sure[:, 1, :2] = -30, 30
    assert confidence(sure) == pytest.approx(1, abs=1e-4)
    assert confidence(torch.zeros(1, 2, 4, 4, 4)) == pytest.approx(2 / 3, abs=1e-4), "2 * n / 2 over n + n / 2"


def test_confidence_is_not_lost_in_a_wide_thin_background():
    small = torch.full((1, 2, 32, 32, 32), 0.0)
    small[:, 1], small[:, 1, 8:12, 8:12, 8:12] = -30, 4
    wide = small.clone()
    wide[:, 1] = wide[:, 1].clamp(min=-3.5)  # a probability of 0.03, in all ten times the structure's
    assert confidence(wide) == pytest.approx(confidence(small), abs=1e-6)
    wide[:, 1] = wide[:, 1].clamp(min=-2)  # of 0.12, which may be missed foreground
    assert confidence(wide) < 0.5 * confidence(small)


def test_own_dice_counts_what_lies_beyond_the_window():
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    labels[..., 2:6, :, :] = 1
    whole = SupportSet(torch.rand(1, 1, 8, 8, 8), labels)
    part = SupportSet(whole.images[:, :, :4], labels[:, :, :4])
    logits = torch.stack([1 - part.labels[:, 0], part.labels[:, 0]], 1).float()
    assert own_dice([([0], logits)], part, part).tolist() == [[1.0]]
    assert own_dice([([0], logits)], part, whole)[0].tolist() == pytest.approx([2 / 3])
