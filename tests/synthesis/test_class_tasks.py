"""Classification tasks are repeatable, balanced, well formed, and to be solved by what they are about alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from monai_hyper.data.phrases import known_phrases, phrased, vector_of
from monai_hyper.data.vocabulary import known_names
from monai_hyper.synthesis import class_tasks
from monai_hyper.synthesis.batch import ClassBatch
from monai_hyper.synthesis.class_catalogue import Catalogue
from monai_hyper.synthesis.class_frames import ClassLayout, magnified
from monai_hyper.synthesis.class_plans import FAMILIES, possible
from monai_hyper.synthesis.class_tasks import ClassTaskEngine, ClassTaskSettings, contrast
from monai_hyper.synthesis.sources import Cohort, Sources, load_sources
from monai_hyper.types import InputError

SETTINGS = ClassTaskSettings(shots=(1, 3), queries=2, voxels=(14, 18), pixels=(20, 26), budget=200_000)


@pytest.fixture(scope="module")
def named(sources, brain) -> Sources:
    """Sources whose structures have names, two of them left and right."""
    names = {2: ("left kidney", "kidney, left side"), 3: ("right kidney", "right ren"), 4: ("liver", "hepar")}
    labelled = Cohort("brain_labels", [brain(s) for s in range(4)], (2, 3, 4), body_is_labelled=True, names=names)
    pictured = Cohort("headneck_ct", [brain(s, True) for s in range(4)], (2, 3), is_ct=True, names=names)
    return Sources({"brain_labels": labelled, "headneck_ct": pictured}, sources.lesions)


@pytest.fixture(scope="module")
def engine(named) -> ClassTaskEngine:
    return ClassTaskEngine(named, SETTINGS, seed=3)


@pytest.fixture(scope="module")
def batches(engine) -> list[ClassBatch]:
    return [engine.batch(index) for index in range(24)]


def nearest_mean(batch: ClassBatch, feature: Callable[[Tensor], Tensor]) -> list[float]:
    """Share of the queries of every task whose class has the nearest mean of a feature ``(C, n)`` of images."""
    found = []
    for task in range(len(batch.images)):
        values, labels = feature(batch.images[task]).float(), batch.labels[task]
        k = batch.examples
        means = torch.stack([values[:k][labels[:k] == c].mean(0) for c in range(batch.classes)])
        guess = torch.cdist(values[k:], means).argmin(1)
        found.append(float((guess == labels[k:]).float().mean()))
    return found


def test_a_batch_depends_on_the_seed_and_its_number_alone(engine, batches, named):
    torch.manual_seed(99)
    np.random.seed(99)
    for again in (engine, ClassTaskEngine(named, SETTINGS, seed=3)):
        for index in (7, 2):
            found, before = again.batch(index), batches[index]
            assert found.kinds == before.kinds and torch.equal(found.labels, before.labels)
            assert_close(found.images, before.images, atol=1e-4, rtol=0)
            assert torch.equal(found.texts, before.texts)
    other = ClassTaskEngine(named, SETTINGS, seed=4).batch(2)
    assert other.images.shape != batches[2].images.shape or not torch.equal(other.images, batches[2].images)


def test_examples_come_first_class_after_class_and_all_alike_often(batches):
    for batch in batches:
        n, k = batch.classes, batch.shots
        order = torch.arange(n)
        expected = torch.cat([order.repeat_interleave(k), order.repeat_interleave(SETTINGS.queries)])
        assert batch.labels.shape == batch.images.shape[:2] and (batch.labels == expected).all()
        assert batch.examples == n * k and batch.support(0).images.shape[0] == n * k


def test_images_are_finite_and_of_the_sizes_that_the_settings_tell(batches):
    for batch in batches:
        size = batch.images.shape[3:]
        low, high = SETTINGS.pixels if size[2] == 1 else SETTINGS.voxels
        assert all(low <= side <= high for side in size[: 2 if size[2] == 1 else 3])
        assert bool(torch.isfinite(batch.images).all()) and float(batch.images.abs().max()) < 40
        assert (batch.images.flatten(2).std(2) > 1e-3).all(), "an empty image"
    flat = [batch for batch in batches if batch.images.shape[-1] == 1]
    assert 0 < len(flat) < len(batches)


def test_every_family_occurs(batches):
    assert {kind for batch in batches for kind in batch.kinds} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_every_family_can_be_drawn_as_volumes_and_slices(engine, family, flat):
    only = engine.of_family(family)
    only.settings = replace(only.settings, flat=flat, shots=(1, 2))
    for index in range(3):
        batch = only.batch(index)
        assert set(batch.kinds) == {family} and (batch.images.shape[-1] == 1) == bool(flat)


def test_tasks_of_a_batch_are_all_described_or_none(batches):
    told = []
    for batch in batches:
        norms = batch.texts.norm(dim=-1)
        assert batch.texts.shape == (len(batch.images), batch.classes, 384)
        assert torch.allclose(norms, torch.ones(())) or not norms.any()
        told.append(bool(norms.any()))
        if told[-1]:
            assert "texture" not in batch.kinds
            assert all(len(texts.unique(dim=0)) == batch.classes for texts in batch.texts), "one text for two classes"
    assert any(told) and not all(told)


def test_what_is_said_needs_no_encoder(engine, monkeypatch):
    said, plain = set(), class_tasks.vector_of
    monkeypatch.setattr(class_tasks, "vector_of", lambda text: said.add(text) or plain(text))
    for index in range(12):
        engine.batch(index)
    assert said and said <= set(known_names()) | set(known_phrases())


def test_phrases_have_vectors_of_unit_length():
    for phrase in known_phrases()[::100]:
        assert float(vector_of(phrase).norm()) == pytest.approx(1, abs=1e-5)


def test_sources_without_what_a_family_needs_leave_it_out(sources):
    """No names, no sides; without any family nothing can be drawn."""
    engine = ClassTaskEngine(sources, SETTINGS)
    assert engine.families == [family for family in FAMILIES if family != "side"]
    with pytest.raises(InputError, match="none can be drawn"):
        ClassTaskEngine(sources, replace(SETTINGS, families={"side": 1.0}))
    with pytest.raises(InputError, match="none can be drawn"):
        ClassTaskEngine(sources, replace(SETTINGS, classes=(4, 5), families={"structure": 1.0, "lesion": 1.0}))
    catalogue = Catalogue(sources, engine.shelf)
    assert possible("structure", 3, False, catalogue) and not possible("structure", 3, True, catalogue)


def test_what_a_benchmark_asks_for_is_shown_by_no_task(named, brain):
    names = {2: ("left adrenal gland",), 3: ("right suprarenal gland",), 4: ("liver",)}
    cohort = Cohort("abdomen", [brain(0)], (2, 3, 4), names=names)
    engine = ClassTaskEngine(Sources({"abdomen": cohort}), SETTINGS)
    assert [one.values for one in engine.catalogue.cohorts["abdomen"]] == [(4,)]


def test_settings_bound_classes_and_shots(named):
    settings = replace(SETTINGS, classes=(3, 3), shots=(2, 2), tasks=1)
    for index in range(4):
        batch = ClassTaskEngine(named, settings, seed=1).batch(index)
        assert (batch.classes, batch.shots, len(batch.images)) == (3, 2, 1)
    narrow = ClassTaskEngine(named, replace(SETTINGS, shots=(1, 8), budget=1), seed=1)
    assert {narrow.batch(index).shots for index in range(4)} == {1}


def drawn(engine: ClassTaskEngine, monkeypatch, count: int) -> list[tuple]:
    """Tasks as they are drawn and their images."""
    found, plain = [], ClassTaskEngine._images

    def watched(self, task, layout, *rest):
        images = plain(self, task, layout, *rest)
        if images is not None:
            found.append((task, layout, images))
        return images

    monkeypatch.setattr(ClassTaskEngine, "_images", watched)
    for index in range(count):
        engine.batch(index)
    return found


def test_lesions_are_where_they_should_be(engine, monkeypatch):
    kinds = set()
    for task, _, _ in drawn(engine.of_family("lesion"), monkeypatch, 8):
        counts = task.shown.flatten(1).sum(1).numpy()
        assert ((counts > 0) == (task.plan.lesions.counts > 0)).all()
        kinds.add(tuple(sorted(set(task.plan.lesions.counts.tolist()))))
    assert len(kinds) > 1


def test_masks_are_bare_in_about_half_of_the_shapes(engine, monkeypatch):
    found = drawn(engine.of_family("shape"), monkeypatch, 16)
    bare = [image for task, _, image in found if task.plan.shapes.bare]
    assert 0.25 < len(bare) / len(found) < 0.8
    assert all(set(image.unique().tolist()) == {np.float32(-1.7), np.float32(1.7)} for image in bare)


def test_masses_make_shapes_larger_and_thick_ones_have_more_voxels(engine, monkeypatch):
    rises = []
    for task, _, _ in drawn(engine.of_family("shape"), monkeypatch, 12):
        shapes, volume = task.plan.shapes, task.shown.flatten(1).sum(1).double().log().numpy()
        if len(set(shapes.masses)) > 1:
            rises.append(volume[shapes.masses > 0].mean() - volume[shapes.masses == 0].mean())
    assert len(rises) > 2 and np.mean(rises) > 0


def test_contrast_does_not_tell_shapes_apart(engine, monkeypatch):
    """The mean around a shape, and the mean inside, are no better than a guess in rendered tasks."""
    settings = replace(SETTINGS, families={"shape": 1.0}, classes=(2, 2), shots=(3, 3), flat=1.0)
    only = ClassTaskEngine(engine.catalogue.sources, settings, seed=2)
    found = []
    for task, layout, images in drawn(only, monkeypatch, 24):
        if not task.plan.shapes.bare:
            kinds, k = torch.from_numpy(layout.numbers), layout.examples
            inside = [(images * m).flatten(1).sum(1) / m.flatten(1).sum(1) for m in (task.shown, ~task.shown)]
            batch = ClassBatch(torch.stack(inside, 1)[None], kinds[None], k // 2, 2, torch.zeros(1, 2, 384), ("shape",))
            found += nearest_mean(batch, lambda values: values)
    assert len(found) > 15 and np.mean(found) < 0.65


def test_contrast_does_not_tell_sides_apart(engine, monkeypatch):
    """Left and right have one value where they are rendered."""
    only = engine.of_family("side")
    for task, layout, _ in drawn(only, monkeypatch, 4):
        values = [set(task.values[layout.numbers == c][task.shown[layout.numbers == c]].tolist()) for c in (0, 1)]
        assert values == [{2}, {2}]


def test_left_stays_left(engine, monkeypatch):
    """What is left in the body, of lower numbers along the first axis, is so in all images of tasks of sides."""
    only = engine.of_family("side")
    for task, _, _ in drawn(only, monkeypatch, 6):
        along = task.points[:, 0].mean((2, 3))  # (C, D) mm of the body
        assert (along.diff(dim=1) > 0).all()


def test_grades_grow_what_is_in_the_middle():
    points = torch.stack(torch.meshgrid(*[torch.linspace(-20, 20, 21)] * 3, indexing="ij"))[None]
    sizes = []
    for growth in (0.5, 1.0, 1.8):
        found = magnified(points, np.zeros((1, 3)), np.full((1, 3), 16.0), np.array([growth]))
        sizes.append(int((found.norm(dim=1) < 8).sum()))
        assert (found[0, 0].diff(dim=0) > 0).all(), "it folds"
        assert_close(found[..., 0, 0, 0], points[..., 0, 0, 0], atol=0.2, rtol=0)
    assert sizes[0] < 0.5 * sizes[1] and sizes[2] > 2 * sizes[1]


def test_contrast_is_measured_in_deviations():
    generator = torch.Generator().manual_seed(0)
    shown = torch.zeros(3, 1, 16, 16, 16, dtype=torch.bool)
    shown[:2, :, 4:12, 4:12, 4:12] = True
    image = torch.randn(shown.shape, generator=generator)
    assert contrast(image, shown) < 0.2
    assert contrast(image + 2 * shown, shown) == pytest.approx(2, abs=0.2)


def test_a_layout_knows_its_cases():
    layout = ClassLayout((8, 8, 1), 2, 3, 1)
    assert layout.flat and layout.cases == 8 and layout.examples == 6
    assert layout.numbers.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]


def test_names_lose_their_side():
    assert phrased(["kidney, left side"]) == phrased(["right kidney"]) == "kidney" and phrased(["big toe"]) is None


@pytest.mark.shared_data
def test_tasks_of_real_structures_can_be_solved(shared_data: Path, tmp_path: Path):
    """The class with the nearest mean of coarse pixels is right more often than a guess."""
    for name in ("macaque_mr", "fetal_brain_mr"):
        (tmp_path / name).symlink_to(shared_data / name)
    settings = ClassTaskSettings(classes=(3, 3), shots=(4, 4), families={"structure": 1.0}, flat=0.0, voxels=(24, 24))
    engine = ClassTaskEngine(load_sources(tmp_path), settings, seed=1)
    coarse = torch.nn.AvgPool3d(4)
    found = [share for index in range(6) for share in nearest_mean(engine.batch(index), lambda x: coarse(x).flatten(1))]
    assert np.mean(found) > 0.45
