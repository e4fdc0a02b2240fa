"""Tasks are repeatable, complete and well formed."""

import numpy as np
import pytest
import torch

from monai_hyper.synthesis import tasks
from monai_hyper.synthesis.sources import Cohort, Sources, Subject, subject
from monai_hyper.synthesis.tasks import FEWEST_VOXELS, Episode, Frame, TaskEngine, TaskSettings, gather

SETTINGS = TaskSettings(voxels=(8000, 9000), budget=30_000)


def _brain(shift: int, image: bool = False) -> Subject:
    """A body of four labels, somewhat different from subject to subject."""
    labels = np.zeros((40, 42, 38), dtype=np.uint8)
    labels[4:36, 4:38, 4:34] = 1
    labels[8 + shift : 18 + shift, 10:20, 10:20] = 2
    labels[22:32, 10 + shift : 24 + shift, 12:24] = 3
    labels[10:20, 26:36, 20 + shift : 28 + shift] = 4
    picture = labels * 100.0 + np.arange(38) if image else None
    return subject(labels, (2.0, 2.0, 2.0), picture)


@pytest.fixture(scope="module")
def engine() -> TaskEngine:
    """Tasks of four families: rendered, of real images, of shapes, with lesions."""
    lesion = torch.zeros(12, 12, 12, dtype=torch.bool)
    lesion[3:9, 3:9, 3:9] = True
    cohorts = {
        "brain_labels": Cohort("brain_labels", [_brain(s) for s in range(4)], (2, 3, 4), body_is_labelled=True),
        "headneck_ct": Cohort("headneck_ct", [_brain(s, True) for s in range(4)], (2, 3), is_ct=True),
    }
    families = {"brain_labels": 0.3, "headneck_ct": 0.3, "shapes": 0.2, "lesions": 0.2}
    return TaskEngine(Sources(cohorts, [lesion]), TaskSettings(SETTINGS.voxels, SETTINGS.budget, families), seed=3)


@pytest.fixture(scope="module")
def episodes(engine) -> list[Episode]:
    return [engine.episode(index) for index in range(40)]


def _same(a: Episode, b: Episode) -> bool:
    pairs = [(a.support.images, b.support.images), (a.support.labels, b.support.labels)]
    pairs += [(a.images, b.images), (a.labels, b.labels)]
    return all(x.shape == y.shape and torch.allclose(x.float(), y.float(), atol=1e-4) for x, y in pairs)


def test_a_task_depends_on_the_seed_and_its_number_alone(engine, episodes):
    torch.manual_seed(99)
    np.random.seed(99)
    for index in (17, 3):
        assert _same(engine.episode(index), episodes[index])
    assert not _same(TaskEngine(engine.sources, engine.settings, seed=4).episode(3), episodes[3])


def test_tasks_differ(episodes):
    for i, one in enumerate(episodes):
        assert not any(_same(one, other) for other in episodes[i + 1 :])


def test_every_family_occurs(episodes):
    assert {episode.kind for episode in episodes} == {"brain_labels", "headneck_ct", "shapes", "lesions"}


def test_every_support_volume_shows_every_class(episodes):
    for episode in episodes:
        for label in episode.support.labels:
            for value in range(1, len(episode.support.classes) + 1):
                assert int((label == value).sum()) >= FEWEST_VOXELS


def test_labels_images_and_sizes_are_well_formed(episodes):
    for episode in episodes:
        assert len(episode.images) >= 1
        for images, labels in ((episode.support.images, episode.support.labels), (episode.images, episode.labels)):
            assert images.shape == labels.shape and labels.dtype == torch.long
            assert bool(torch.isfinite(images).all()) and float(images.abs().max()) < 20
            assert set(labels.unique().tolist()) <= set(range(len(episode.support.classes) + 1))
            assert images[0].numel() < 3 * SETTINGS.voxels[1]


def test_padding_that_hides_a_class_is_drawn_again(engine, monkeypatch):
    """Whatever is blanked, the support still shows every class."""
    plain, drawn = tasks._pad_sides, []

    def blank_the_first(images, labels, rng):
        drawn.append(labels.shape)
        images, labels = plain(images, labels, rng)
        if len(drawn) == 1:
            labels = labels * 0
        return images, labels

    monkeypatch.setattr(tasks, "_pad_sides", blank_the_first)
    index = 0
    while not drawn:
        episode = engine.episode(index)
        index += 1
    assert all(bool((label > 0).any()) for label in episode.support.labels)


def test_flips_move_image_and_label_alike():
    volumes = torch.randn(2, 1, 5, 6, 7)
    turned = set()
    for seed in range(40):
        images, labels = tasks._flip(volumes, volumes.clone(), np.random.default_rng(seed))
        assert torch.equal(images, labels)
        turned |= {axes for axes in ((), (2,), (3,), (4,)) if torch.equal(images, volumes.flip(axes))}
    assert turned == {(), (2,), (3,), (4,)}


def test_padding_blanks_image_and_label_alike():
    images, labels = torch.rand(2, 1, 20, 20, 20) + 1, torch.ones(2, 1, 20, 20, 20, dtype=torch.long)
    before = images.clone()
    padded, cut = tasks._pad_sides(images, labels, np.random.default_rng(0))
    gone = cut == 0
    assert 0 < int(gone.sum()) < gone.numel()
    for image, hidden, old in zip(padded, gone, before):
        assert bool((image[hidden] == old.min()).all())
        assert torch.equal(image[~hidden], old[~hidden])
    assert torch.equal(images, before) and bool((labels == 1).all())


def test_gathering_on_the_own_grid_returns_image_and_labels():
    held = _brain(2, image=True)
    axes = [torch.arange(side) * 2.0 for side in held.labels.shape]
    frame = Frame(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None], 2.0)
    assert torch.equal(gather([held], frame)[0, 0], held.labels)
    torch.testing.assert_close(gather([held], frame, image=True)[0, 0], held.image, rtol=1e-4, atol=1e-2)


def test_labels_end_where_a_subject_ends():
    held = _brain(0)
    frame = Frame(torch.tensor([-10.0, 20, 20]).expand(1, 2, 2, 2, 3), 2.0)
    assert not gather([held], frame).any()


def test_classes_come_from_the_permitted_values_only():
    cohort = Cohort("made", [_brain(s) for s in range(2)], (2, 4))
    rng = np.random.default_rng(0)
    drawn = [TaskEngine._classes(cohort, rng) for _ in range(200)]
    assert {value for classes in drawn for members in classes for value in members} == {2, 4}
    assert all(len({v for members in classes for v in members}) == sum(map(len, classes)) for classes in drawn)
    assert {len(classes) for classes in drawn} == {1, 2}


def test_cropped_cases_keep_their_voxels_and_differ_in_extent():
    rng = np.random.default_rng(0)
    images = torch.arange(5 * 30**3).float().reshape(5, 1, 30, 30, 30)
    labels = torch.ones(5, 1, 30, 30, 30).long()
    episode = tasks._cropped(images, labels, ("class_1",), 3, "shapes", rng)
    support = episode.support
    assert len({tuple(extent) for extent in support.extents.tolist()}) == 3
    assert (support.extents >= 14).all() and (support.extents <= 30).all()
    for shot, image, label in support.volumes():
        assert label.all(), "what lies beyond the extent is never read"
        steps = image[0, 0, 1:, 1:, 1:] - image[0, 0, :-1, :-1, :-1]
        assert (steps == 30 * 30 + 30 + 1).all() and torch.isin(image, images[shot]).all()
    assert episode.images.shape == episode.labels.shape and len(episode.images) == 2
    assert torch.isin(episode.images[1], images[4]).all()


def test_a_crop_without_foreground_is_no_episode():
    rng = np.random.default_rng(0)
    labels = torch.zeros(3, 1, 30, 30, 30).long()
    assert tasks._cropped(labels.float(), labels, ("class_1",), 1, "shapes", rng) is None
