"""Tasks together equal tasks one by one."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_hyper.networks import batched, head
from monai_hyper.networks import model as unbatched
from monai_hyper.networks.alignment import voxels, within
from monai_hyper.networks.batched import segment_tasks, segment_told
from monai_hyper.networks.frames import Frames
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.template import Template
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.pseudo import random_shapes

SIZE = [20, 18, 22]


def _far_from_the_start(make_body: Callable) -> HyperModel:
    torch.manual_seed(3)
    model = HyperModel(make_body(), embedding_dim=16).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def double(monkeypatch) -> Iterator[None]:
    """All arithmetic in float64: the ridge regression makes rounding grow, more on some processors than on others."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def small() -> HyperModel:
    return _far_from_the_start(lambda: UNetBody(10, channels=(8, 8, 8, 8), thin=4))


def make_batch(tasks: int = 2, shots: int = 2, queries: int = 2, classes: int = 2, local: bool = False) -> TaskBatch:
    """Random shapes; every volume is shifted against its task's frame."""
    generator, rng = torch.Generator().manual_seed(4), np.random.default_rng(4)
    images, labels, count = [], [], shots + queries
    d, h, w = SIZE
    for _ in range(tasks):
        shapes = [random_shapes(rng).subjects[0].labels[:d, :h, :w] for _ in range(count)]
        scene = torch.stack(shapes)[:, None].float()
        images.append(scene.sin() + 0.1 * torch.randn(scene.shape, generator=generator))
        labels.append(torch.where(scene <= classes, scene, 0).long())
    offsets = (torch.rand(tasks, count, 3, generator=generator) - 0.5) * 8
    kinds = ("shapes",) * tasks
    texts = torch.nn.functional.normalize(torch.randn(tasks, classes, 384, generator=generator), dim=-1)
    return TaskBatch(torch.stack(images), torch.stack(labels), offsets, shots, classes, local, kinds, texts)


def template_of(batch: TaskBatch, task: int) -> Template:
    """The common frame of one task."""
    grid, offsets = voxels(SIZE, batch.images), batch.offsets[task]
    own = [grid - offset for offset in offsets]
    return Template(torch.zeros(1, 1, *SIZE), [grid + offset for offset in offsets], own, [SIZE] * len(offsets))


def one_by_one(model: HyperModel, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """What :func:`segment_tasks` should give."""
    queries, own = [], []
    for task in range(len(batch.kinds)):
        episode, template = batch.episode(task), template_of(batch, task)
        network, own_logits = model.generate(episode.support, template, batch.local)
        places = template.own[batch.shots :]
        queries.append(network(episode.images, places=places))
        own.append(own_logits()[0][1])
    return torch.stack(queries), torch.stack(own)


def assert_same(found: Tensor, expected: Tensor, relative: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= relative * float(expected.abs().max())


@pytest.fixture(autouse=True)
def same_places(monkeypatch) -> None:
    """The same voxels for every ridge regression, the same warped copy of a volume wherever it is."""
    jitter = torch.rand(head.FAR_POINTS)
    monkeypatch.setattr(head, "draw_jitter", lambda generator, device: jitter)
    for module in (batched, unbatched):
        monkeypatch.setattr(module, "warped", lambda image, masks, generator: (image.flip(2), masks.flip(2)))


@pytest.mark.parametrize(("shots", "classes", "local"), [(1, 2, False), (2, 1, True), (3, 2, False)])
def test_tasks_together_equal_tasks_one_by_one(small, shots, classes, local):
    batch = make_batch(shots=shots, classes=classes, local=local)
    found = segment_tasks(small, batch)
    for one, other in zip(found, one_by_one(small, batch)):
        assert_same(one, other)


def test_the_gradient_equals_that_of_the_folded_networks(double, small):
    batch, gradients = make_batch(), []
    for answer in (segment_tasks, one_by_one):
        small.zero_grad()
        found = answer(small, batch)
        torch.manual_seed(0)
        sum((logits * torch.randn_like(logits)).mean() for logits in found).backward()
        gradients.append({name: p.grad.clone() for name, p in small.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[1].items():
        assert float((gradients[0][name] - expected).norm()) <= 1e-8 * float(expected.norm()), name


@torch.no_grad()
def test_the_order_of_the_support_does_not_matter(small):
    batch = make_batch(shots=3)
    order = [2, 0, 1, 3, 4]
    moved = replace(batch, **{name: getattr(batch, name)[:, order] for name in ("images", "labels", "offsets")})
    (queries, own), (again, own_again) = segment_tasks(small, batch), segment_tasks(small, moved)
    assert_same(again, queries)
    assert_same(own_again, own[:, [2, 0, 1]])


@torch.no_grad()
def test_tasks_of_a_batch_do_not_influence_each_other(small):
    batch = make_batch()
    changed = replace(batch, images=batch.images.clone(), labels=batch.labels.clone(), offsets=batch.offsets.clone())
    changed.images[1], changed.offsets[1] = torch.randn_like(batch.images[1]), 0
    changed.labels[1] = batch.labels[1].flip(-1)
    for one, other in zip(segment_tasks(small, batch), segment_tasks(small, changed)):
        assert_same(other[0], one[0])
        assert float((other[1] - one[1]).abs().max()) > 0.01 * float(one[1].abs().max())


def test_whole_volumes_and_windows_are_told_apart_by_the_scale_token(small):
    batch = make_batch()
    with torch.no_grad():
        small.scale.zero_()
        plain = segment_tasks(small, batch)[0]
        assert torch.equal(segment_tasks(small, replace(batch, local=True))[0], plain)
        small.scale[1] = 1.0
        assert torch.equal(segment_tasks(small, batch)[0], plain)
        assert not torch.allclose(segment_tasks(small, replace(batch, local=True))[0], plain, rtol=0.01)
    segment_tasks(small, replace(batch, local=True))[0].square().mean().backward()
    assert not small.scale.grad[0].any() and bool(small.scale.grad[1].any())


def test_every_parameter_receives_a_gradient(small):
    batch = make_batch()
    found = [*segment_tasks(small, batch), segment_told(small, batch)]
    sum(logits.square().mean() for logits in found).backward()
    without = [n for n, p in small.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == ["polish"], "which is learned by polishing"


@torch.no_grad()
def test_half_the_precision_gives_nearly_the_same_logits(small):
    batch = make_batch(shots=1, queries=1, classes=1)
    plain, low = (segment_tasks(small, batch, c)[0] for c in (None, torch.autocast("cpu", torch.bfloat16)))
    assert low.dtype == torch.float32 and not torch.equal(low, plain)
    assert float((low - plain).abs().mean()) < 0.1 * float(plain.std())


def test_frames_read_what_a_template_of_one_task_reads():
    offsets, sizes = torch.tensor([[[0.3, -4.0, 2.5], [30.0, 0, 0]]]), SIZE
    frames = Frames(offsets, sizes)
    fields, priors = torch.randn(1, 2, 3, *SIZE), torch.randn(1, 2, 3, *frames.quarter)
    batch = replace(make_batch(1, 1, 1), offsets=offsets)
    template, (shown, means) = template_of(batch, 0), frames.covered()
    pool = torch.nn.functional.adaptive_avg_pool3d
    for volume in range(2):
        there = template.gathered(volume, priors[:, volume])
        assert_same(frames.gathered(fields)[:, volume], template.gathered(volume, fields[:, volume]), 1e-5)
        assert_same(frames.gathered_prior(priors)[:, volume], pool(there, frames.quarter), 1e-5)
        assert_same(frames.spread(priors)[:, volume], template.spread(volume, priors[:, volume]), 1e-5)
        covered = within(template.theirs[volume], SIZE)
        assert torch.equal(shown[:, volume], covered)
        assert_same(means[:, volume], pool(covered, frames.quarter), 1e-5)
    assert not frames.gathered(fields)[:, 1].any(), "nothing of it lies in the frame"
