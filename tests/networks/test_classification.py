"""Generated classifiers: laws of the generator, the head and the plain network."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.class_head import BOUNDS, ClassHead, ridge
from monai_hyper.networks.classification import GLANCE, HyperClassifier, coarser
from monai_hyper.networks.classifier import Classifier, ClassifierBody
from monai_hyper.networks.convolution import Conv3d
from monai_hyper.networks.doubt import fit_temperature, fit_threshold, judged
from monai_hyper.types import InputError

CHANNELS = (8, 8, 16, 16)


@pytest.fixture(scope="module")
def model() -> HyperClassifier:
    """A small model whose generator has moved away from where it starts."""
    torch.manual_seed(0)
    model = HyperClassifier(ClassifierBody(CHANNELS), embedding_dim=32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return model


def _support(shots: int = 3, size=(20, 24, 1), texts: bool = False) -> SupportSet:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(2).repeat_interleave(shots)
    images = torch.randn(len(labels), 1, *size, generator=generator)
    images[labels == 1, :, :10] += 2
    words = F.normalize(torch.randn(2, 384, generator=generator), dim=1) if texts else None
    return SupportSet(images, labels, ("plain", "bright"), texts=words)


SIZES = [(20, 24, 1), (16, 18, 17)]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("texts", [False, True])
def test_a_materialised_classifier_says_the_same(model, size, texts):
    network, query = model.condition(_support(size=size, texts=texts)), torch.randn(3, 1, *size)
    plain = network.materialise()
    assert_close(plain(query), network(query))
    assert_close(torch.jit.script(plain)(query), network(query))
    assert_close(network.materialise(temperature=2.0)(query), network(query) / 2)
    assert type(plain) is Classifier and sum(p.numel() for p in Classifier(ClassifierBody(), 8).parameters()) < 4e6


@torch.no_grad()
@pytest.mark.parametrize("texts", [False, True])
def test_several_tasks_at_once_equal_one_after_another(model, texts):
    tasks = [_support(texts=texts), replace(_support(texts=texts), images=torch.randn(6, 1, 20, 24, 1))]
    queries = torch.randn(2, 4, 1, 20, 24, 1)
    images = torch.cat([torch.stack([task.images for task in tasks]), queries], 1)
    shown = torch.stack([task.annotated.float() for task in tasks])
    logits, own = model.classify_tasks(images, shown, torch.stack([task.texts for task in tasks]))
    for number, task in enumerate(tasks):
        network = model.condition(task)
        assert_close(logits[number], network(queries[number]), atol=1e-4, rtol=1e-4)
        assert_close(own[number], network.own, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_order_of_examples_and_of_classes_does_not_matter(model):
    support, query = _support(texts=True), torch.randn(3, 1, 20, 24, 1)
    logits = model.condition(support)(query)
    turned = replace(support, images=support.images.flip(0), labels=support.labels.flip(0))
    assert_close(model.condition(turned)(query), logits, atol=1e-4, rtol=1e-4)
    renamed = replace(support, labels=1 - support.labels, texts=support.texts.flip(0))
    assert_close(model.condition(renamed)(query), logits.flip(1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_words_alone_images_alone_and_both_differ(model):
    both, query = _support(texts=True), torch.randn(3, 1, 20, 24, 1)
    words = SupportSet(torch.zeros(0, 1, 20, 24, 1), torch.zeros(0).long(), both.classes, texts=both.texts)
    images = replace(both, texts=None)
    found = [model.condition(support)(query) for support in (both, words, images)]
    assert all(bool(torch.isfinite(logits).all()) and logits.shape == (3, 2) for logits in found)
    assert not any(torch.allclose(found[a], found[b], atol=1e-4) for a, b in ((0, 1), (0, 2), (1, 2)))
    partly = both.subset([0, 1, 2])  # the second class has words only
    assert bool(torch.isfinite(model.condition(partly)(query)).all())


def test_every_parameter_learns(model):
    support = _support(texts=True)
    shown = support.annotated.float()[None]
    logits, own = model.classify_tasks(
        torch.cat([support.images, torch.randn(2, 1, 20, 24, 1)])[None], shown, support.texts[None]
    )
    (logits.square().sum() + own.square().sum()).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert unused == []


def test_a_ridge_regression_tells_what_it_would_say_without_each_row():
    generator = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(1, 6, 9, generator=generator).double(), torch.randn(1, 6, 2).double()
    trust, penalty = torch.rand(1, 6, generator=generator).double() + 0.5, torch.tensor([0.3]).double()
    solution, own = ridge(rows, targets, trust, penalty)
    weighed = trust[0, :, None] * rows[0]
    direct = torch.linalg.solve(weighed.T @ weighed + 0.3 * torch.eye(9), weighed.T @ (trust[0, :, None] * targets[0]))
    assert_close(solution[0], direct.T)
    for left_out in range(6):
        kept = [row for row in range(6) if row != left_out]
        without, _ = ridge(rows[:, kept], targets[:, kept], trust[:, kept], penalty)
        assert_close(own[0, left_out], without[0] @ rows[0, left_out])


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_scale_and_penalty_are_bounded_and_always_learn(size):
    head = ClassHead(8, 16)
    nn.init.normal_(head.calibrate[-1].weight)
    found = head.scale_and_penalty(torch.full((5, 3), 4.0), size * torch.randn(5, 2, 16))
    for values, (middle, most) in zip(found, BOUNDS):
        assert bool(((values.log() - middle).abs() <= most).all())
    sum(values.log().sum() for values in found).backward()
    assert bool((head.calibrate[-1].bias.grad.abs() > 1e-6).all()), "no dead end"


@pytest.mark.parametrize("side, stride", [(1, 1), (3, 1), (3, 2)])
def test_a_convolution_of_a_slice_is_the_usual_one(side, stride):
    conv = Conv3d(3, 4, side, stride)
    for size in ((9, 8, 1), (9, 1, 8), (7, 8, 9)):
        image = torch.randn(2, 3, *size)
        assert_close(conv(image), F.conv3d(image, conv.weight, conv.bias, stride, side // 2), atol=1e-5, rtol=1e-4)


def test_the_encoder_glances_at_large_images():
    assert coarser(torch.zeros(1, 1, 64, 64, 64)).shape[2:] == (GLANCE,) * 3
    assert coarser(torch.zeros(1, 1, 28, 16, 1)).shape[2:] == (28, 24, 1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 2])}, "reach from 0 to 2; expected 0 to 1"),
        ({"classes": ("one",)}, "expected 2 or more different names"),
        ({"labels": torch.tensor([0, 0, 0, 0, 0, 0])}, "class 'bright' is annotated in no support volume, and has no"),
        ({"labels": torch.tensor([0, 1])}, "support labels are .2,.; expected .6,., a class for each image"),
        ({"texts": torch.zeros(3, 384)}, "texts are .3, 384.; expected .2, 384."),
    ],
)
def test_support_sets_that_do_not_classify_are_refused(changes, message):
    support = _support()
    entries = {"images": support.images, "labels": support.labels, "classes": support.classes} | changes
    with pytest.raises(InputError, match=message):
        SupportSet(**entries)


def test_examples_that_are_often_wrong_lower_the_confidence_and_raise_the_threshold():
    sure = torch.tensor([[5.0, 0.0]]).repeat(20, 1)
    right, wrong = torch.zeros(20).long(), torch.tensor([0, 1] * 10)
    assert fit_temperature(sure, right) < 1 < fit_temperature(sure, wrong)
    mixed = torch.cat([sure, torch.tensor([[0.5, 0.0]]).repeat(20, 1)])
    labels = torch.cat([right, wrong])
    assert 0.7 < fit_threshold(mixed, labels, 0.95) <= float(sure[0].softmax(0)[0]) + 1e-6
    assert fit_threshold(mixed, labels, 0.5) < 0.7
    assert judged(torch.tensor([0, 1, 1]), 2).tolist() == [False, True, True]


def test_other_bodies_can_be_generated():
    class Pooled(nn.Module):
        width = 8

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv3d(1, 8, 3, padding=1), nn.GroupNorm(2, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(image)).mean((2, 3, 4))

    network = HyperClassifier(Pooled(), embedding_dim=16).eval().condition(_support())
    assert network(torch.randn(2, 1, 20, 24, 1)).shape == (2, 2)
