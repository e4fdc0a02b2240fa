"""What a classification task is: which class shows what, of whom, seen from where. Few numbers, no voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from monai_hyper.data.phrases import phrased
from monai_hyper.synthesis.blocks import REACH
from monai_hyper.synthesis.class_catalogue import BLOBS, GRADES, Catalogue, Structure, choose, said
from monai_hyper.synthesis.class_frames import ClassLayout, View, looked_at, turns
from monai_hyper.synthesis.class_shape_plans import Shapes, draw_shapes
from monai_hyper.synthesis.frames import Frame
from monai_hyper.synthesis.plans import MOST_LESIONS, Lesions, Plan

FAMILIES = {"structure": 0.24, "side": 0.07, "lesion": 0.16, "grade": 0.12, "shape": 0.3, "texture": 0.11}
"""How often each family of tasks is drawn, relative to the others."""

CLASSES = {
    "structure": range(2, 100), "side": (2,), "lesion": (2, 3), "grade": range(2, 6), "shape": range(2, 9),
    "texture": range(2, 9),
}  # fmt: skip
"""How many classes the tasks of a family may have."""

DESCRIBED = {"structure": 0.9, "side": 0.9, "lesion": 0.85, "grade": 0.85, "shape": 0.4, "texture": 0.0}
"""How often tasks of a family that can be described in words are."""

REAL = 0.85
"""How often images of a cohort that has some are shown rather than rendered ones."""


SMALLEST = 5.0
"""Lesions are at least about so many voxels long."""


@dataclass(frozen=True)
class ClassPlan:
    """One task before any voxel is drawn.

    Args:
        plan: what is put together and how it is rendered; its classes are the values that must be seen.
        frame: where the cases look; texts: what describes each class, or None.
        growth: factor by which what is in the middle grows, ``(C,)``; extent: of that, in mm, ``(C, 3)``.
        lesions: numbers of their blobs are below zero.
        size: of the lesions of the cases, as they should be ordered, ``(C,)``.
        textures: knots along the axes and strength of the texture of every case, ``(C, 4)``.
    """

    family: str
    plan: Plan
    frame: Frame
    texts: list[str] | None
    growth: np.ndarray | None = None
    extent: np.ndarray | None = None
    size: np.ndarray | None = None
    lesions: Lesions | None = None
    shapes: Shapes | None = None
    textures: np.ndarray | None = None


def possible(family: str, classes: int, told: bool, catalogue: Catalogue) -> bool:
    """Whether the sources have what tasks of a family with so many classes, described or not, are made of."""
    if classes not in CLASSES[family] or (told and not DESCRIBED[family]):
        return False
    if family == "structure":
        return bool(_nameable(catalogue, classes, told))
    if family == "side":
        return bool(catalogue.pairs)
    if family == "shape":
        return not told or classes <= 5
    return bool(catalogue.cohorts) and (family != "grade" or classes in GRADES)


def draw_class_plan(
    family: str, told: bool, catalogue: Catalogue, layout: ClassLayout, rng: np.random.Generator
) -> ClassPlan | None:
    """Draw a task of a family, described in words or not; None where the draw does not give one."""
    drawn = {"structure": _structures, "side": _sides, "lesion": _lesions, "grade": _grades, "texture": _textures}
    if family in drawn:
        return drawn[family](catalogue, layout, told, rng)
    found = draw_shapes(catalogue, layout, told, rng)
    return found and ClassPlan("shape", found[0], found[1], found[2], shapes=found[3])


def _nameable(catalogue: Catalogue, classes: int, told: bool) -> list[list[Structure]]:
    """The structures of every cohort that has enough of different names."""
    found = [[s for s in structures if s.names or not told] for structures in catalogue.cohorts.values()]
    return [structures for structures in found if len({s.kin for s in structures}) >= classes]


def _structures(catalogue: Catalogue, layout: ClassLayout, told: bool, rng: np.random.Generator) -> ClassPlan | None:
    """Which of several structures of one cohort is in the middle; in half of the tasks they are neighbours."""
    cohorts = _nameable(catalogue, layout.classes, told)
    odds = [(len(c) * len(c[0].subjects)) ** 0.5 * (1.5 if _pictured(c[0]) else 1) for c in cohorts]
    among = choose(cohorts, rng, odds)
    anchor = choose(among, rng)
    kin = {anchor.kin: anchor}
    if rng.random() < 0.5:
        held = anchor.subjects[0]
        near = [s for s in among if all(value in held.boxes for value in s.values)]
        near.sort(key=lambda s: np.linalg.norm(s.box(held)[0] - anchor.box(held)[0]))
        among = near[: 3 * layout.classes]
    for number in rng.permutation(len(among)):
        kin.setdefault(among[number].kin, among[number])
    chosen = list(kin.values())[: layout.classes]
    if len(chosen) < layout.classes:
        return None
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    texts = [str(choose(s.names, rng)) for s in chosen] if told else None
    view = View((1.3, 3.7), free=not any(s.names for s in chosen))
    return _shown("structure", chosen, view, texts, catalogue, layout, rng)


def _sides(catalogue: Catalogue, layout: ClassLayout, told: bool, rng: np.random.Generator) -> ClassPlan:
    """Left against right of one structure, never mirrored; sagittal slices would not tell."""
    cohorts = list({id(pair[0].cohort): pair[0].cohort for pair in catalogue.pairs}.values())
    among = [[pair for pair in catalogue.pairs if pair[0].cohort is cohort] for cohort in cohorts]
    chosen = choose(choose(among, rng, [(len(a) * len(c.subjects)) ** 0.5 for a, c in zip(among, cohorts)]), rng)
    chosen = [chosen[i] for i in rng.permutation(2)]
    texts = [str(choose(s.names, rng)) for s in chosen] if told else None
    view = View((1.5, 4), free=False, turned=7, planes=(0, 1))
    return _shown("side", chosen, view, texts, catalogue, layout, rng)


def _shown(family: str, chosen, view: View, texts, catalogue: Catalogue, layout, rng) -> ClassPlan:
    """A task whose classes show structures as they are."""
    plan = _whole_plan(family, chosen, catalogue, layout, rng)
    frame = looked_at(view, plan.middle, plan.extent, plan.total, layout, rng)
    return ClassPlan(family, plan, frame, texts)


def _whole_plan(family: str, chosen: Sequence[Structure], catalogue: Catalogue, layout, rng) -> Plan:
    """Label maps or images about the structure of every class, of different subjects where there are some."""
    subjects, boxes = [None] * layout.cases, np.zeros((layout.cases, 2, 3))
    for number, structure in enumerate(chosen):
        rows = np.flatnonzero(layout.numbers == number)
        fit = structure.subjects
        order = np.concatenate([rng.permutation(len(fit)) for _ in range(-(-len(rows) // len(fit)))])
        for row, held in zip(rows, (fit[i] for i in order)):
            subjects[row], boxes[row] = held, structure.box(held)
            if layout.flat:
                boxes[row, 0] = catalogue.core(held, structure)
    cohort = chosen[0].cohort
    total = np.array(subjects[0].labels.shape) * subjects[0].spacing.numpy()
    real = all(held.image is not None for held in subjects) and bool(rng.random() < REAL)
    classes = [list(structure.values) for structure in chosen]
    return Plan(family, cohort, subjects, classes, boxes[:, 0], boxes[:, 1], total, real)


def _pictured(structure: Structure) -> bool:
    return structure.subjects[0].image is not None


def _host(catalogue: Catalogue, rng: np.random.Generator) -> Structure:
    """A structure that has room for lesions and textures, its cohort chosen first."""
    cohorts = list({id(s.cohort): s.cohort for s in catalogue.hosts}.values())
    among = [[one for one in catalogue.hosts if one.cohort is cohort] for cohort in cohorts]
    odds = [(len(a) * len(a[0].subjects)) ** 0.4 * (1.5 if _pictured(a[0]) else 1) for a in among]
    return choose(choose(among, rng, odds), rng)


def _lesions(catalogue: Catalogue, layout: ClassLayout, told: bool, rng: np.random.Generator) -> ClassPlan:
    """None, one or several lesions in a structure, or small and large ones."""
    host = _host(catalogue, rng)
    plan = _whole_plan("lesion", [host] * layout.classes, catalogue, layout, rng)
    view = View((0.95, 1.7), moved=0.03)
    frame = looked_at(view, plan.middle, plan.extent, plan.total, layout, rng)
    kinds = [("no lesion", "lesion"), ("small lesion", "large lesion"), ("one lesion", "several lesions")]
    if layout.classes == 3:
        kinds = [("no lesion", "one lesion", "several lesions"), ("no lesion", "small lesion", "large lesion")]
    states = choose(kinds, rng, [3, 1, 1][: len(kinds)])
    states = [states[i] for i in rng.permutation(layout.classes)]
    fewest = SMALLEST * np.linalg.norm(frame.matrix[:, :, 0], axis=1)
    lesions = _drawn_lesions([states[n] for n in layout.numbers], plan.extent, fewest, catalogue, rng)
    sized = {"small lesion": 1.0, "large lesion": 2.0}
    size = np.array([sized.get(states[n], 0.0) for n in layout.numbers])
    plan = replace(plan, classes=[list(host.values)])
    texts = said(states, host, rng) if told else None
    return ClassPlan("lesion", plan, frame, texts, lesions=lesions, size=size)


def _drawn_lesions(
    states: Sequence[str], extent: np.ndarray, least: np.ndarray, catalogue: Catalogue, rng: np.random.Generator
) -> Lesions:
    """Lesions of the cases, sized by the structure that they lie in, and at least so many mm long, ``(C,)``."""
    cases, masks = len(states), catalogue.sources.lesions
    share = {"small lesion": 0.24, "large lesion": 0.33, "several lesions": 0.27, "one lesion": 0.32}
    usual = rng.uniform(0.27, 0.6)
    side = np.array([share.get(state, usual) for state in states])[:, None]
    side = np.maximum(side * (extent.min(1) * extent.mean(1))[:, None] ** 0.5, least[:, None])
    side = side * np.array([1.9 if state == "large lesion" else 1.0 for state in states])[:, None]
    side = side * np.exp(0.12 * rng.standard_normal((cases, MOST_LESIONS)).clip(-2, 2))
    ratio = np.exp(0.15 * rng.standard_normal((cases, MOST_LESIONS, 3)))
    turn = turns(rng.uniform(-180, 180, (cases * MOST_LESIONS, 3))).reshape(cases, MOST_LESIONS, 3, 3)
    matrix = turn * (2 / (REACH * side[..., None] * ratio))[..., None]
    fewest = {"no lesion": 0, "several lesions": 3}
    counts = np.array([fewest.get(state, 1) for state in states])
    counts = np.minimum(counts + (counts == 3) * (rng.random(cases) < 0.5), MOST_LESIONS)
    drawn = rng.integers(max(1, len(masks)), size=(cases, MOST_LESIONS))
    made_up = rng.random(drawn.shape) < rng.choice([0.1, 0.9]) if masks else np.ones(drawn.shape, bool)
    drawn = np.where(made_up, -1 - rng.integers(BLOBS, size=drawn.shape), drawn)
    return Lesions(drawn, matrix, counts, bool(rng.random() < 0.7))


def _grades(catalogue: Catalogue, layout: ClassLayout, told: bool, rng: np.random.Generator) -> ClassPlan:
    """How large a structure is beside what surrounds it, from small to large."""
    structures = choose(list(catalogue.cohorts.values()), rng, [len(c) ** 0.5 for c in catalogue.cohorts.values()])
    known = [s for s in structures if phrased(s.names)]
    chosen = choose(known if known and rng.random() < 0.8 else structures, rng)
    states = choose(GRADES[layout.classes], rng)
    sizes = np.linspace(-1, 1, layout.classes) * rng.uniform(0.5, 0.75) * (0.7 if layout.classes == 2 else 1)
    middle = {("normal", "large"): 1.0, ("small", "normal"): -1.0}.get(states, 0.0)
    sizes = sizes + middle * sizes[-1] * 0.9
    order = rng.permutation(layout.classes)
    states, sizes = [states[i] for i in order], sizes[order]
    plan = _whole_plan("grade", [chosen] * layout.classes, catalogue, layout, rng)
    frame = looked_at(View((1.6, 2.8), scaled=0.08, moved=0.04), plan.middle, plan.extent, plan.total, layout, rng)
    step = np.ptp(sizes) / (layout.classes - 1)
    growth = np.exp(sizes[layout.numbers] + 0.12 * step * rng.standard_normal(layout.cases)).clip(0.4, 2.6)
    texts = said(states, chosen, rng) if told else None
    return ClassPlan("grade", plan, frame, texts, growth=growth, extent=plan.extent)


def _textures(catalogue: Catalogue, layout: ClassLayout, told: bool, rng: np.random.Generator) -> ClassPlan:
    """Grain, direction or strength of a texture inside of a structure."""
    host = _host(catalogue, rng)
    plan = replace(_whole_plan("texture", [host] * layout.classes, catalogue, layout, rng), real=False)
    frame = looked_at(View((0.7, 1.2), moved=0.03), plan.middle, plan.extent, plan.total, layout, rng)
    own = _texture_classes(layout, rng)[layout.numbers]
    own = own * np.exp(0.06 * rng.standard_normal((layout.cases, 4)))
    return ClassPlan("texture", replace(plan, classes=[list(host.values)]), frame, None, textures=own)


def _texture_classes(layout: ClassLayout, rng: np.random.Generator) -> np.ndarray:
    """Knots along the three axes, and strength, of every class, ``(N, 4)``."""
    n, finest = layout.classes, 0.45 * min(layout.size[:2])
    axes = 2 if layout.flat else 3
    kind = choose(["grain", "strength", "direction", "mixed"], rng, [1, 1, n <= axes, 1])
    grain = np.geomspace(rng.uniform(3, 4.5), finest * rng.uniform(0.8, 1), n)
    strength = np.geomspace(rng.uniform(0.15, 0.3), rng.uniform(0.9, 1.4), n)
    found = np.full((n, 4), [rng.uniform(5, finest)] * 3 + [rng.uniform(0.5, 1.0)])
    if kind in ("grain", "mixed"):
        found[:, :3] = grain[:, None]
    if kind in ("strength", "mixed"):
        found[:, 3] = rng.permutation(strength)
    if kind == "direction":
        found[:, :3] = finest * rng.uniform(0.6, 1)
        found[range(n), range(n)] = rng.uniform(2.5, 4)
    return rng.permutation(found)
