"""What classification tasks of shapes are: structures, limbs and balls, thick or thin, even or uneven, with masses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from monai_hyper.data.phrases import phrased
from monai_hyper.synthesis.class_catalogue import BLOBS, GRADES, LIMBS, Catalogue, Structure, choose, said
from monai_hyper.synthesis.class_frames import ClassLayout, View, around, looked_at, turns
from monai_hyper.synthesis.frames import Frame
from monai_hyper.synthesis.plans import BODY, LESION, Plan
from monai_hyper.synthesis.sources import Cohort


@dataclass(frozen=True)
class Shapes:
    """Masks of the cases of a task, made of blocks.

    Args:
        blocks: one for every case, ``(SIDE, SIDE, SIDE)`` uint8; lengths: of the boxes they are blocks of, ``(C, 3)``.
        volume: factor of their volumes, ``(C,)``; uneven: how knobbly, ``(C,)``.
        masses: how many grow on each, ``(C,)``; radius: of these, in shares of a side, ``(C,)``.
        bare: whether the image is the mask.
    """

    blocks: list[Tensor]
    lengths: np.ndarray
    volume: np.ndarray
    uneven: np.ndarray
    masses: np.ndarray
    radius: np.ndarray
    bare: bool


def draw_shapes(
    catalogue: Catalogue, layout: ClassLayout, told: bool, rng: np.random.Generator
) -> tuple[Plan, Frame, list[str] | None, Shapes] | None:
    """Shapes by themselves: with or without masses, thick or thin, knobbly or smooth, or of different structures."""
    n = layout.classes
    kind = choose(["mass", "thick", "knobs", "kinds"], rng, [4 * (n <= 3), 2.5 * (n in GRADES), 1.2 * (n <= 3), 2.5])
    mixed = kind != "kinds" and rng.random() < 0.3  # whatever grows, on whatever structure
    bases = [_base(catalogue, rng, named=told and kind == "kinds") for _ in range(n if kind == "kinds" else 6)]
    if kind == "kinds":
        rows = layout.numbers
        if any(base is None for base in bases) or len({base.key for base in bases}) < n:
            return None
        texts = [str(choose(base.structure.names, rng)) for base in bases] if told else None
        changes = _changes(["plain"] * n, layout, rng)
    else:
        rows = rng.integers(6, size=layout.cases) if mixed else np.zeros(layout.cases, dtype=int)
        states = _shape_states(kind, n, rng)
        texts = said(states, bases[0].called if not mixed else "structure", rng) if told else None
        changes = _changes(states, layout, rng)
    found = [bases[row].draw(catalogue, rng) for row in rows]
    shapes = Shapes([block for block, _ in found], np.stack([x for _, x in found]), *changes, bool(rng.random() < 0.55))
    nobody = Cohort("shape", [], (LESION,), body_is_labelled=True)
    frame = _shape_frame(shapes, kind, layout, rng)
    none = np.zeros((layout.cases, 3))
    plan = Plan("shape", nobody, [], [[BODY], [LESION]], none, shapes.lengths, np.full(3, 1e3))
    return plan, frame, texts, shapes


@dataclass(frozen=True)
class _Base:
    """What shapes are made of: a structure, or else a lesion, limb or blob of some number."""

    key: tuple
    called: str
    structure: Structure | None = None

    def draw(self, catalogue: Catalogue, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """A block, and the lengths of the box it is a block of."""
        kind, number = self.key[:2]
        if self.structure is not None:
            held = choose(self.structure.subjects, rng)
            return catalogue.shelf.block(held, self.structure.values[0]), self.structure.box(held)[1]
        if kind == "lesion":
            return catalogue.shelf.lesion(number), np.ones(3)
        return catalogue.limb(number) if kind == "limb" else catalogue.blob(number)


def _base(catalogue: Catalogue, rng: np.random.Generator, named: bool) -> _Base | None:
    """Something to make shapes of, mostly slender."""
    if not named and rng.random() < 0.45:
        kind = choose(["limb", "blob", "lesion"], rng, [7, 1, 2 if catalogue.sources.lesions else 0])
        most = {"limb": LIMBS, "blob": BLOBS, "lesion": len(catalogue.sources.lesions)}[kind]
        return _Base((kind, int(rng.integers(most))), str(choose(["organ", "gland", "vessel"], rng)))
    every = [one for structures in catalogue.cohorts.values() for one in structures]
    among = catalogue.slender if rng.random() < 0.7 and catalogue.slender else every
    among = [one for one in among if one.names or not named]
    if not among:
        return None if named else _Base(("limb", int(rng.integers(LIMBS))), "organ")
    chosen = choose(among, rng)
    return _Base((chosen.cohort.name, chosen.kin), phrased(chosen.names) or "organ", chosen)


def _shape_states(kind: str, n: int, rng: np.random.Generator) -> list[str]:
    """What the classes show, in words."""
    known = {
        "mass": [("no mass", "mass"), ("no mass", "mass", "several masses")],
        "thick": [("thin", "thick"), ("thin", "normal", "thick"), *(GRADES[k][0] for k in (4, 5))],
        "knobs": [("smooth", "knobbly"), ("smooth", "knobbly", "mass")],
    }
    states = next(found for found in known[kind] if len(found) == n)
    return [states[i] for i in rng.permutation(n)]


def _changes(states: Sequence[str], layout: ClassLayout, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Volume, unevenness, number of masses and their radius for every case, see :class:`Shapes`."""
    spread = rng.uniform(0.35, 0.6) * (1.3 if layout.classes > 2 else 1)
    thickness = {"thin": -1, "thick": 1, "very small": -1.4, "small": -0.5, "large": 0.5, "very large": 1.4}
    mine = [states[n] for n in layout.numbers]
    cases = layout.cases
    volume = np.exp(spread * np.array([thickness.get(state, 0) for state in mine]))
    volume = volume * np.exp(0.12 * rng.standard_normal(cases))
    uneven = np.array([state == "knobbly" for state in mine]) * rng.uniform(0.7, 1.3) + 0.12 * rng.random(cases)
    number = {"mass": 1, "several masses": 3}
    masses = np.array([number.get(state, 0) for state in mine])
    radius = rng.uniform(0.1, 0.19) * np.exp(0.2 * rng.standard_normal(cases)).clip(0.7, 1.4)
    return volume, uneven, masses, np.where(masses > 1, 0.75, 1.0) * radius


def _shape_frame(shapes: Shapes, kind: str, layout: ClassLayout, rng: np.random.Generator) -> Frame:
    """Grids around shapes, which are turned at random, alike in all cases of most tasks but for chance."""
    cases = len(shapes.lengths)
    common = turns(rng.uniform(-180, 180, (1, 3))) if rng.random() < 0.6 else np.eye(3)[None]
    turn = turns(rng.uniform(-180, 180, (cases, 3))) if rng.random() < 0.2 else np.repeat(common, cases, 0)
    turn = turn @ turns(12 * rng.standard_normal((cases, 3)).clip(-2, 2))
    if rng.random() < 0.35:  # left and right ones
        turn = turn * np.where(rng.random((cases, 1, 1)) < 0.5, np.array([-1.0, 1, 1]), 1.0)
    extent = around(shapes.lengths, np.swapaxes(turn, 1, 2))
    extent = np.maximum(extent, 0.25 * extent.max(1, keepdims=True))
    nearest = 1.3 if kind == "mass" else 1.1
    view = View((nearest, nearest + 0.5), turned=0, scaled=0.09, moved=0.03, bend=(0.025, 0.06))
    frame = looked_at(view, np.zeros((cases, 3)), extent, np.full(3, 1e3), layout, rng)
    return Frame(turn @ frame.matrix, (turn @ frame.centre[..., None])[..., 0], frame.offsets, frame.bend, 4)
