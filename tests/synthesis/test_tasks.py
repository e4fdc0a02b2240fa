"""Tasks are repeatable, complete and well formed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monai_hyper.synthesis import frames, tasks
from monai_hyper.synthesis.batch import Episode, TaskBatch
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import FEWEST_VOXELS, TaskEngine, TaskSettings, shown

FAMILIES = {
    "organs": 0.2, "brain_labels": 0.2, "headneck_ct": 0.2, "shapes": 0.1, "lesions": 0.2, "supervoxels": 0.1
}  # fmt: skip
SETTINGS = TaskSettings(voxels=(5000, 6000), budget=18_000, families=FAMILIES)


@pytest.fixture(scope="module")
def engine(sources) -> TaskEngine:
    return TaskEngine(sources, SETTINGS, seed=3)


@pytest.fixture(scope="module")
def episodes(engine) -> list[Episode]:
    return [engine.episode(index) for index in range(50)]


@pytest.fixture(scope="module")
def batches(sources) -> list[TaskBatch]:
    engine = TaskEngine(sources, replace(SETTINGS, tasks=3), seed=5)
    return [engine.batch(index) for index in range(12)]


def _same(a: Episode, b: Episode) -> bool:
    pairs = [(a.support.images, b.support.images), (a.support.labels, b.support.labels)]
    pairs += [(a.images, b.images), (a.labels, b.labels)]
    return all(x.shape == y.shape and torch.allclose(x.float(), y.float(), atol=1e-4) for x, y in pairs)


def test_a_task_depends_on_the_seed_and_its_number_alone(engine, episodes):
    torch.manual_seed(99)
    np.random.seed(99)
    for index in (17, 3):
        assert _same(engine.episode(index), episodes[index])
    fresh = TaskEngine(engine.sources, engine.settings, seed=3)
    assert _same(fresh.episode(17), episodes[17]), "whatever was drawn before"
    assert not _same(TaskEngine(engine.sources, engine.settings, seed=4).episode(3), episodes[3])


def test_a_batch_depends_on_the_seed_and_its_number_alone(batches, sources):
    again = TaskEngine(sources, replace(SETTINGS, tasks=3), seed=5).batch(7)
    assert torch.equal(again.images, batches[7].images) and torch.equal(again.labels, batches[7].labels)
    assert torch.equal(again.offsets, batches[7].offsets) and again.kinds == batches[7].kinds


def test_an_episode_is_the_task_of_a_batch_of_one(engine):
    batch = TaskEngine(engine.sources, replace(SETTINGS, tasks=1), seed=3).batch(2)
    assert batch.images.shape[0] == 1 and _same(batch.episode(0), engine.episode(2))
    many = TaskEngine(engine.sources, replace(SETTINGS, tasks=4), seed=3)
    assert _same(many.episode(2), engine.episode(2)), "however many tasks its batches have"


def test_tasks_differ(episodes, batches):
    for i, one in enumerate(episodes):
        assert not any(_same(one, other) for other in episodes[i + 1 :])
    for batch in batches:
        drawn = [batch.episode(task) for task in range(3)]
        assert not any(_same(a, b) for a, b in ((drawn[0], drawn[1]), (drawn[0], drawn[2]), (drawn[1], drawn[2])))


def test_every_family_occurs(episodes, batches):
    assert {episode.kind for episode in episodes} == set(FAMILIES)
    assert {kind for batch in batches for kind in batch.kinds} == set(FAMILIES)


def test_every_support_volume_shows_every_class_but_for_lesions(episodes):
    negatives = 0
    for episode in episodes:
        counts = shown(episode.support.labels, len(episode.support.classes), episode.support.shots)[0, :, 1:]
        enough = (counts >= FEWEST_VOXELS).all(1)
        assert enough.any() if episode.kind == "lesions" else enough.all()
        negatives += int((counts == 0).any(1).sum())
        assert (episode.labels > 0).any()
    assert negatives > 0


def test_labels_images_and_sizes_are_well_formed(episodes):
    for episode in episodes:
        assert len(episode.images) >= 1
        for images, labels in ((episode.support.images, episode.support.labels), (episode.images, episode.labels)):
            assert images.shape == labels.shape and labels.dtype == torch.long
            assert bool(torch.isfinite(images).all()) and float(images.abs().max()) < 40
            assert set(labels.unique().tolist()) <= set(range(len(episode.support.classes) + 1))
            assert images[0].numel() < 1.5 * SETTINGS.voxels[1]


def test_tasks_of_a_batch_share_their_form(batches):
    for batch in batches:
        count, cases = batch.images.shape[:2]
        assert count == len(batch.kinds) == 3 and 1 <= batch.shots < cases
        assert batch.labels.shape == batch.images.shape and batch.offsets.shape == (3, cases, 3)
        for task in range(3):
            support = batch.episode(task).support
            assert support.shots == batch.shots and len(support.classes) == batch.classes
            assert int(support.labels.max()) == batch.classes
    assert {batch.local for batch in batches} == {True, False}
    assert len({tuple(batch.images.shape[3:]) for batch in batches}) > 6
    assert any(batch.classes > 1 for batch in batches) and any(batch.shots > 1 for batch in batches)


def test_windows_lie_around_their_foreground_and_are_placed_alike(batches):
    for batch in batches:
        size = torch.tensor(batch.images.shape[3:])
        if batch.local:
            assert float((batch.offsets.abs() / size).max()) < 0.45
    far = max(float((b.offsets.abs() / torch.tensor(b.images.shape[3:])).max()) for b in batches if not b.local)
    assert far > 0.2


def test_offsets_tell_where_the_foreground_lies(sources, monkeypatch):
    """Between cases that show all of it the foreground moves with the offsets, but for anatomy and bending."""
    monkeypatch.setattr(frames, "ALIGNMENT_ERROR", 0.0)
    engine = TaskEngine(sources, replace(SETTINGS, families={"brain_labels": 1.0}), seed=1)
    moved, left = [], []
    for index in range(40):
        batch = engine.batch(index)
        labels = batch.labels[0, :, 0] > 0
        inner = labels[:, 1:-1, 1:-1, 1:-1].flatten(1).sum(1) == labels.flatten(1).sum(1)
        places = torch.stack([label.nonzero().float().mean(0) for label in labels[inner]]) if inner.any() else []
        for place, offset in zip(places[1:], batch.offsets[0][inner][1:]):
            moved.append(place - places[0])
            left.append(moved[-1] - (offset - batch.offsets[0][inner][0]))
    assert len(moved) > 15
    assert torch.stack(left).square().mean() < 0.4 * torch.stack(moved).square().mean()


def test_a_draw_that_shows_too_little_is_drawn_again(engine, monkeypatch):
    plain, seen = tasks.class_labels, []

    def hide_the_first(values, classes):
        labels = plain(values, classes)
        seen.append(labels.shape)
        return labels * (len(seen) > 1)

    monkeypatch.setattr(tasks, "class_labels", hide_the_first)
    episode = engine.episode(0)
    assert len(seen) >= 2 and all(bool((label > 0).any()) for label in episode.support.labels[:1])


def test_a_family_that_gives_nothing_gives_way_to_another(sources, monkeypatch):
    families = {"brain_labels": 0.5, "shapes": 0.5}
    plain = tasks.draw_plan
    monkeypatch.setattr(tasks, "draw_plan", lambda family, *rest: None if family != "shapes" else plain(family, *rest))
    engine = TaskEngine(sources, replace(SETTINGS, families=families), seed=0)
    assert {engine.episode(index).kind for index in range(6)} == {"shapes"}


def test_padding_that_hides_a_class_is_left_out(engine, monkeypatch):
    """Whatever is blanked, the support still shows every class."""
    drawn = []

    def all_blank(cases, size, rng):
        drawn.append(cases)
        return torch.zeros(cases, 1, *size, dtype=torch.bool)

    monkeypatch.setattr(tasks, "sides_kept", all_blank)
    index = 0
    while not drawn:
        episode = engine.episode(index)
        index += 1
    assert bool((episode.support.labels > 0).any())


def test_padding_blanks_image_and_label_alike(sources, monkeypatch):
    engine = TaskEngine(sources, replace(SETTINGS, families={"shapes": 1.0}), seed=2)
    plain, cut = tasks.sides_kept, {}

    def watched(cases, size, rng):
        cut["kept"] = plain(cases, size, rng)
        return cut["kept"]

    monkeypatch.setattr(tasks, "sides_kept", watched)
    found = 0
    for index in range(40):
        cut.clear()
        batch = engine.batch(index)
        if cut and not cut["kept"].all() and not (batch.labels[0] > 0)[~cut["kept"]].any():
            for image, kept in zip(batch.images[0], cut["kept"]):
                assert not image[~kept].numel() or bool((image[~kept] == image.min()).all())
            found += 1
    assert found > 0


def test_fewer_classes_where_a_family_has_no_more(sources):
    engine = TaskEngine(Sources({"headneck_ct": sources.cohorts["headneck_ct"]}), SETTINGS, seed=0)
    only = engine.of_family("headneck_ct")
    assert only.families == ["headneck_ct"]
    assert {len(only.episode(index).support.classes) for index in range(25)} == {1, 2}


def test_counts_are_those_of_every_class():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 0, 1], dtype=torch.uint8).view(2, 1, 4, 1, 1)
    assert shown(labels, 2, 2).tolist() == [[[1, 2, 1], [1, 1, 2]]]
