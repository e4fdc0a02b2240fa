"""What a task is: which structures of which subjects, put together how. Few numbers, no voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from monai_hyper.synthesis.blocks import REACH
from monai_hyper.synthesis.geometry import rotations
from monai_hyper.synthesis.morphology import CHANGES
from monai_hyper.synthesis.pseudo import random_shapes, supervoxel_cohort
from monai_hyper.synthesis.sources import Cohort, Sources, Subject

FAMILIES = {
    # single structures of different subjects, put together to new bodies
    "organs": 0.28,
    # whole label maps, rendered
    "brain_labels": 0.14, "headneck_labels": 0.08, "abdomen": 0.04, "knee": 0.02,
    "lesions": 0.1,
    "shapes": 0.08,
    # real images
    "headneck_ct": 0.08, "fetal_brain_mr": 0.04, "macaque_mr": 0.05, "colin27_mr": 0.05, "supervoxels": 0.04,
}  # fmt: skip
"""How often each family of tasks is drawn, relative to the others; cohorts of label maps and images by their names."""

OUTSIDE, BODY, FIRST_ORGAN = 0, 1, 2
"""Values of a body that is put together."""

WALL, LESION = 254, 255
"""Values that are in no label map: the visible layer of a structure, and lesions."""

MOST_ORGANS, MOST_LESIONS = 6, 4

LAYER_ODDS = {"split": 0.13, "shell": 0.07, "rim": 0.05}
"""How often a task of one class asks for something else than the whole structure."""


@dataclass(frozen=True)
class Organs:
    """Single structures of ``C`` cases put together; ``S`` of them in every case.

    Args:
        subjects: whose structure it is, ``C`` lists of ``S``; values: which, ``S``.
        matrix, shift: from mm to the coordinates of a block, ``(C, S, 3, 3)`` and ``(C, S, 3)``.
        changes: name and radius, see :func:`monai_hyper.synthesis.blocks.changed`, ``S``.
        bend: of every structure's own, in voxels of a block.
        body: like ``matrix`` and ``shift``, of the unit ball that is the body; None if there is no end of it.
    """

    subjects: list[list[Subject]]
    values: list[int]
    matrix: np.ndarray
    shift: np.ndarray
    changes: list[tuple[str, int]]
    bend: float
    body: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class Lesions:
    """Lesions of the cases of a task.

    Args:
        numbers: masks among the sources', -1 for a blob, ``(C, MOST_LESIONS)``.
        matrix: from mm about their middle to the coordinates of a block, ``(C, MOST_LESIONS, 3, 3)``.
        counts: how many each case has, ``(C,)``.
        inside: whether they end where the organ ends, rather than where all that is labelled does.
    """

    numbers: np.ndarray
    matrix: np.ndarray
    counts: np.ndarray
    inside: bool


@dataclass(frozen=True)
class Plan:
    """One task before any voxel is drawn.

    Args:
        family: name among ``FAMILIES``.
        cohort: whose subjects the cases show; for bodies that are put together, an empty one.
        subjects: of the cases; classes: values that make up every class.
        middle, extent: of the box around all classes in every case, in mm, ``(C, 3)``.
        total: sides of all there is to see, in mm, ``(3,)``.
        real: whether the images are real ones.
        alone: whether one anatomy serves several cases.
        elsewhere: whether fields of view differ between the cases.
        layer: what is asked for instead of the whole, "" or see ``LAYER_ODDS``; thickness: in voxels.
    """

    family: str
    cohort: Cohort
    subjects: list[Subject]
    classes: list[list[int]]
    middle: np.ndarray
    extent: np.ndarray
    total: np.ndarray
    real: bool = False
    alone: bool = False
    elsewhere: bool = False
    layer: str = ""
    thickness: int = 1
    organs: Organs | None = None
    lesions: Lesions | None = None


def possible_families(sources: Sources, weights: dict[str, float]) -> list[str]:
    """The families that can be drawn from what there is."""
    possible = {"shapes", *sources.cohorts}
    if _donors(sources):
        possible |= {"organs", "lesions"}
    if any(held.image is not None for cohort in sources.cohorts.values() for held in cohort.subjects):
        possible.add("supervoxels")
    return [family for family in weights if family in possible]


def most_classes(family: str, sources: Sources) -> int:
    """Tasks of a family have at most so many classes."""
    if family == "lesions":
        return 1
    if family in sources.cohorts:
        cohort = sources.cohorts[family]
        return max(len(set(cohort.foregrounds) & set(held.boxes)) for held in cohort.subjects)
    return 4


def draw_plan(
    family: str, sources: Sources, classes: int, shots: int, cases: int, rng: np.random.Generator
) -> Plan | None:
    """Draw a task of a family; None where the draw does not give one."""
    if family == "organs":
        plan = _organ_plan(sources, classes, cases, rng)
    elif family == "lesions":
        plan = _lesion_plan(sources, shots, cases, rng)
    else:
        plan = _cohort_plan(family, _cohort(family, sources, rng), classes, cases, rng)
    if plan is None:
        return None
    layer = ""
    if classes == 1 and family != "lesions":
        layer = str(rng.choice(["", *LAYER_ODDS], p=[1 - sum(LAYER_ODDS.values()), *LAYER_ODDS.values()]))
    return replace(plan, elsewhere=bool(rng.random() < 0.5), layer=layer, thickness=int(rng.integers(1, 4)))


def _cohort(family: str, sources: Sources, rng: np.random.Generator) -> Cohort | None:
    if family == "shapes":
        return random_shapes(rng)
    if family == "supervoxels":
        pictured = [c for c in sources.cohorts.values() if c.subjects[0].image is not None]
        cohort = pictured[int(rng.integers(len(pictured)))]
        held = cohort.subjects[int(rng.integers(len(cohort.subjects)))]
        return supervoxel_cohort(held, cohort.is_ct, rng)
    return sources.cohorts[family]


def _cohort_plan(family: str, cohort: Cohort | None, classes: int, cases: int, rng: np.random.Generator) -> Plan | None:
    """Whole label maps, or images, of the subjects of a cohort."""
    wanted = draw_classes(cohort, classes, rng) if cohort else None
    fit = [s for s in cohort.subjects if all(any(v in s.boxes for v in c) for c in wanted)] if wanted else []
    if not fit:
        return None
    order = np.concatenate([rng.permutation(len(fit)) for _ in range(-(-cases // len(fit)))])
    subjects = [fit[i] for i in order[:cases]]
    boxes = [np.stack([s.boxes[v] for c in wanted for v in c if v in s.boxes]) for s in subjects]
    low = np.stack([(b[:, 0] - b[:, 1] / 2).min(0) for b in boxes])
    high = np.stack([(b[:, 0] + b[:, 1] / 2).max(0) for b in boxes])
    total = np.array(subjects[0].labels.shape) * subjects[0].spacing.numpy()
    real = subjects[0].image is not None and bool(family == "supervoxels" or rng.random() < 0.85)
    alone = len(fit) < cases
    return Plan(family, cohort, subjects, wanted, (low + high) / 2, high - low, total, real, alone)


def draw_classes(cohort: Cohort, count: int, rng: np.random.Generator) -> list[list[int]] | None:
    """Values of every class: one anchor, and neighbours beside it; a lone one is merged with neighbours by chance."""
    shown = cohort.subjects[int(rng.integers(len(cohort.subjects)))].boxes
    present = [v for v in cohort.foregrounds if v in shown]
    if len(present) < count:
        return None
    anchor = int(rng.choice(present))
    near = sorted((v for v in present if v != anchor), key=lambda v: np.linalg.norm(shown[v][0] - shown[anchor][0]))
    near = near[: max(6, count)]
    rng.shuffle(near)
    if count == 1 and rng.random() < 0.3:
        return [[anchor, *near[: int(rng.integers(1, 4))]]]
    return [[anchor], *([v] for v in near[: count - 1])]


def _donors(sources: Sources) -> list[Cohort]:
    """Cohorts that structures are taken from."""
    return [cohort for cohort in sources.cohorts.values() if cohort.foregrounds]


def _organ_plan(sources: Sources, classes: int, cases: int, rng: np.random.Generator) -> Plan | None:
    """Structures of different subjects beside each other; the first ``classes`` of them are what is wanted."""
    count = int(rng.integers(max(2, classes), max(MOST_ORGANS, classes) + 1))
    donors = _donors(sources)
    odds = np.array([(len(c.foregrounds) * len(c.subjects)) ** 0.5 for c in donors])
    picks = rng.choice(len(donors), count, p=odds / odds.sum())
    if rng.random() < 0.5:
        picks[:] = picks[0]
    structures = [(donors[i], int(rng.choice(donors[i].foregrounds))) for i in picks]
    fit = [[s for s in cohort.subjects if value in s.boxes] for cohort, value in structures]
    if not all(fit):
        return None
    subjects = [[each[int(rng.integers(len(each)))] for each in fit] for _ in range(cases)]
    values = [value for _, value in structures]
    size, position = _arranged(count, rng)
    lengths = np.array([[s.boxes[v][1] for s, v in zip(row, values)] for row in subjects])  # (C, S, 3)
    lengths = lengths / lengths.mean(0).max(-1)[None, :, None] * size[:, None]
    organs, places, lengths = _place_organs(subjects, values, lengths, position, rng)
    number = int(rng.integers(1, count)) if classes == 1 and rng.random() < 0.3 else classes  # a union of several
    wanted = [FIRST_ORGAN + s for s in range(number)]
    low = (places - lengths / 2)[:, :number].min(1)
    high = (places + lengths / 2)[:, :number].max(1)
    names = [[v] for v in wanted] if number == classes else [wanted]
    cohort = Cohort("organs", [], tuple(wanted), body_is_labelled=organs.body is not None)
    alone = max(map(len, fit[:number])) == 1
    return Plan(
        "organs", cohort, [], names, (low + high) / 2, high - low, np.full(3, 400.0), alone=alone, organs=organs
    )


def _arranged(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Longest sides ``(S,)`` and middles ``(S, 3)`` in mm of structures beside each other, the first at the origin."""
    size = rng.uniform(20, 60) * np.exp(rng.uniform(np.log(0.4), np.log(1.6), count))
    position = rng.standard_normal((count, 3))
    distance = (size + size[0]) / 2 * rng.uniform(0.5, 1.3, count)
    position *= (distance / np.linalg.norm(position, axis=1))[:, None]
    position[0] = 0
    return size, position


def _place_organs(subjects, values, lengths, position, rng) -> tuple[Organs, np.ndarray, np.ndarray]:
    """Turn, scale and move structures, alike in all cases but for chance; returns also middles and lengths of boxes."""
    cases, count = lengths.shape[:2]
    turn = _rotation(rng.uniform(-180, 180, (1, count, 3)) * (rng.random() < 0.5))
    turn = turn @ _rotation(8 * rng.standard_normal((cases, count, 3)))
    spread = rng.uniform(0.05, 0.2)
    lengths = lengths * np.exp(spread * rng.standard_normal((cases, count, 1))).clip(0.6, 1.3)
    places = position + 0.06 * lengths.max(-1, keepdims=True) * rng.standard_normal((cases, count, 3))
    matrix = np.swapaxes(turn, -1, -2) * (2 / (REACH * lengths))[..., None]
    shift = -(matrix @ places[..., None])[..., 0]
    kinds = rng.choice(["", *CHANGES], count, p=[0.6] + [0.4 / len(CHANGES)] * len(CHANGES))
    changes = [(str(kind), int(rng.integers(1, 4))) for kind in kinds]
    body = _envelope(places, lengths, rng) if rng.random() < 0.7 else None
    organs = Organs(subjects, values, matrix, shift, changes, float(rng.uniform(0, 2.0)), body)
    return organs, places, _turned(turn, lengths)


def _turned(turn: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sides of the boxes around turned ellipsoids of the given sides, all ``(..., 3)``."""
    return np.sqrt(((turn * lengths[..., None, :]) ** 2).sum(-1))


def _rotation(degrees: np.ndarray) -> np.ndarray:
    flat = torch.from_numpy(np.radians(degrees).reshape(-1, 3))
    return rotations(flat).numpy().reshape(*degrees.shape[:-1], 3, 3)


def _envelope(places: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid around most of the structures of every case, as a matrix to the unit ball and a shift."""
    cases = len(places)
    low, high = (places - lengths / 2).min(1).mean(0), (places + lengths / 2).max(1).mean(0)
    sides = (high - low) / 2 * rng.uniform(1.05, 1.8) * np.exp(rng.uniform(-0.2, 0.2, 3))
    sides = sides * np.exp(0.08 * rng.standard_normal((cases, 3)))
    middle = (low + high) / 2 + 0.1 * sides * rng.standard_normal((cases, 3))
    matrix = np.swapaxes(_rotation(5 * rng.standard_normal((cases, 3))), -1, -2) / sides[..., None]
    return matrix, -(matrix @ middle[..., None])[..., 0]


def _lesion_plan(sources: Sources, shots: int, cases: int, rng: np.random.Generator) -> Plan | None:
    """Lesions in or about a structure of a rendered body; some volumes show none."""
    plans = [_host_plan(sources, cases, rng) for _ in range(2)]
    plan = max((p for p in plans if p is not None), key=lambda p: p.extent.prod(), default=None)
    if plan is None:
        return None
    # between the shortest and the mean side of the organ, so that flat ones have lesions as well
    host = (plan.extent.min() * plan.extent.mean()) ** 0.5
    side = host * np.exp(rng.uniform(np.log(0.25), np.log(0.8)))
    side = side * np.exp(0.35 * rng.standard_normal((cases, MOST_LESIONS)))
    ratio = np.exp(0.15 * rng.standard_normal((cases, MOST_LESIONS, 3)))
    turn = _rotation(rng.uniform(-180, 180, (cases, MOST_LESIONS, 3)))
    matrix = turn * (2 / (REACH * side[..., None] * ratio))[..., None]
    counts = np.minimum(rng.geometric(0.5, cases), MOST_LESIONS) * (rng.random(cases) > rng.choice([0, 0.35]))
    if not counts[:shots].any():
        counts[int(rng.integers(shots))] = 1
    drawn = rng.integers(max(1, len(sources.lesions)), size=(cases, MOST_LESIONS))
    blobs = rng.random(drawn.shape) < rng.choice([0.1, 0.9]) if sources.lesions else np.ones(drawn.shape, bool)
    lesions = Lesions(np.where(blobs, -1, drawn), matrix, counts, bool(rng.random() < 0.7))
    return replace(plan, family="lesions", real=False, lesions=lesions)


def _host_plan(sources: Sources, cases: int, rng: np.random.Generator) -> Plan | None:
    """A structure that may have lesions, in a rendered body."""
    whole = [c for c in _donors(sources) if c.body_is_labelled] or _donors(sources)
    if rng.random() < 0.3:
        return _organ_plan(sources, 1, cases, rng)
    return _cohort_plan("lesions", whole[int(rng.integers(len(whole)))], 1, cases, rng)
