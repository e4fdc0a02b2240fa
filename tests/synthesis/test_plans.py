"""Plans ask for what there is, and for nothing else."""

import numpy as np
import pytest

from monai_hyper.synthesis.plans import (
    BODY,
    FAMILIES,
    FIRST_ORGAN,
    MOST_LESIONS,
    Plan,
    draw_classes,
    draw_plan,
    most_classes,
    possible_families,
)
from monai_hyper.synthesis.sources import Cohort, Sources

KINDS = ("organs", "brain_labels", "headneck_ct", "lesions", "shapes", "supervoxels")


def _drawn(sources, family: str, classes: int = 1, count: int = 60, shots: int = 3) -> list[Plan]:
    rng = np.random.default_rng(0)
    drawn = [draw_plan(family, sources, classes, shots, 5, rng) for _ in range(count)]
    return [plan for plan in drawn if plan is not None]


def test_families_come_about_as_often_as_designed():
    shares = {name: share / sum(FAMILIES.values()) for name, share in FAMILIES.items()}
    assert shares["organs"] == max(shares.values())
    assert sum(FAMILIES.values()) == pytest.approx(1)
    real = sum(shares[name] for name in ("headneck_ct", "fetal_brain_mr", "macaque_mr", "colin27_mr", "supervoxels"))
    assert 0.2 <= real <= 0.35


@pytest.mark.parametrize("family", KINDS)
def test_plans_are_complete(family, sources):
    assert set(possible_families(sources, FAMILIES)) == set(KINDS)
    plans = _drawn(sources, family, count=20)
    assert len(plans) >= 8
    for plan in plans:
        assert plan.family == family and plan.middle.shape == plan.extent.shape == (5, 3)
        assert (plan.extent > 0).all() and plan.total.shape == (3,)
        assert len(plan.subjects) == (0 if plan.organs else 5)
        assert plan.real <= (family in ("headneck_ct", "supervoxels"))


@pytest.mark.parametrize("family", ["organs", "brain_labels", "shapes"])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_tasks_have_as_many_classes_as_asked_for_without_overlap(family, classes, sources):
    for plan in _drawn(sources, family, classes, 20):
        assert len(plan.classes) == classes <= most_classes(family, sources)
        values = [v for members in plan.classes for v in members]
        assert len(set(values)) == len(values) and 0 not in values
        assert classes == 1 or all(len(members) == 1 for members in plan.classes)


def test_classes_come_from_the_permitted_values_only(brain):
    cohort = Cohort("made", [brain(s) for s in range(2)], (2, 4))
    rng = np.random.default_rng(0)
    drawn = [draw_classes(cohort, 1 + i % 2, rng) for i in range(200)]
    assert {value for classes in drawn for members in classes for value in members} == {2, 4}
    assert any(len(classes) == 1 and len(classes[0]) == 2 for classes in drawn), "merged by chance"
    assert draw_classes(cohort, 3, rng) is None


def test_most_classes_are_those_that_one_subject_shows(sources, brain):
    assert most_classes("brain_labels", sources) == 3 and most_classes("headneck_ct", sources) == 2
    assert most_classes("lesions", sources) == 1


def test_what_is_wanted_of_a_body_lies_within_its_box(sources):
    """The box of the first structures holds the middles of their blocks."""
    for plan in _drawn(sources, "organs", 2, 20):
        organs = plan.organs
        assert organs.matrix.shape[:2] == organs.shift.shape[:2] == (5, len(organs.values))
        places = -np.linalg.solve(organs.matrix, organs.shift[..., None])[..., 0]
        for members in plan.classes:
            for value in members:
                away = np.abs(places[:, value - FIRST_ORGAN] - plan.middle)
                assert (away <= plan.extent / 2 + 1e-6).all()


def test_structures_of_different_subjects_have_their_own_size_and_place(sources):
    for plan in _drawn(sources, "organs", count=10):
        assert len(np.unique(plan.organs.matrix[:, 0].reshape(5, -1), axis=0)) == 5
        volume = 1 / np.abs(np.linalg.det(plan.organs.matrix))
        ratio = volume / volume.mean(0)
        assert (ratio > 0.6**3 / 2.5).all() and (ratio < 1.3**3 * 2.5).all()
    bodies = [plan.organs.body is not None for plan in _drawn(sources, "organs")]
    assert 0.4 < np.mean(bodies) < 0.95 and BODY < FIRST_ORGAN


def test_some_support_volumes_show_no_lesion_but_never_all(sources):
    plans = _drawn(sources, "lesions")
    counts = np.stack([plan.lesions.counts for plan in plans])
    assert (counts[:, :3].max(1) >= 1).all() and counts.max() <= MOST_LESIONS
    assert 0.05 < (counts == 0).mean() < 0.4 and (counts > 1).any()
    numbers = np.stack([plan.lesions.numbers for plan in plans])
    assert set(numbers.flatten()) == {-1, 0}


def test_lesions_need_no_masks(sources):
    bare = Sources(sources.cohorts)
    assert all((plan.lesions.numbers == -1).all() for plan in _drawn(bare, "lesions", count=10))


def test_layers_are_asked_for_in_some_tasks_of_one_class(sources):
    layers = [plan.layer for plan in _drawn(sources, "brain_labels", count=150)]
    assert {"", "split", "shell", "rim"} == set(layers) and layers.count("") > 80
    assert {plan.layer for plan in _drawn(sources, "brain_labels", 2)} == {""}
    assert {plan.layer for plan in _drawn(sources, "lesions")} == {""}


def test_a_lone_anatomy_serves_all_cases(sources, brain):
    lone = Sources({"knee": Cohort("knee", [brain(0)], (2, 3))})
    for plan in _drawn(lone, "knee", count=5):
        assert plan.alone and len({id(held) for held in plan.subjects}) == 1
    assert not _drawn(sources, "brain_labels", count=5, shots=3)[0].real
