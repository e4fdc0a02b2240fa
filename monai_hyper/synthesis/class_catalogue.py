"""What classes may show: structures with their names, pairs of sides, hosts of lesions, shapes that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.phrases import phrased, said_of, without_side
from monai_hyper.data.vocabulary import side_of
from monai_hyper.synthesis.blocks import REACH, SIDE, Shelf, blobs, cut_block
from monai_hyper.synthesis.geometry import centre_grid, rotations
from monai_hyper.synthesis.operators import uniform
from monai_hyper.synthesis.scenes import VALUES
from monai_hyper.synthesis.sources import Cohort, Sources, Subject, subject

WITHHELD = ("adrenal", "suprarenal")
"""Structures with these words in their names are shown by no task: a benchmark asks for them."""

BRAINS = ("macaque_mr", "fetal_brain_mr", "colin27_mr")
"""Cohorts whose structures make up a brain."""

SHORTEST = 4
"""Structures are at least so many voxels of their label map long, along their second longest side."""

ROOM = 8
"""Hosts of lesions and textures are at least so many voxels of their label map long, along their shortest side."""

LIMBS, BLOBS = 128, 32
"""How many slender shapes, and uneven balls, are made up."""

LIMB_SIDE = 40
"""Voxels of the grid that slender shapes are made up on."""


GRADES = {
    2: (("small", "large"), ("normal", "large"), ("small", "normal")),
    3: (("small", "normal", "large"),),
    4: (("very small", "small", "large", "very large"),),
    5: (("very small", "small", "normal", "large", "very large"),),
}
"""Grades of size that the classes of a task show, by their number."""


@dataclass(frozen=True)
class Structure:
    """What a class may show.

    Args:
        values: of the label maps; subjects: who have it; names: what it is called, without any where nobody knows.
    """

    cohort: Cohort
    values: tuple[int, ...]
    subjects: list[Subject]
    names: tuple[str, ...]

    def box(self, held: Subject) -> np.ndarray:
        """Middle and lengths of the box around it in mm, ``(2, 3)``."""
        boxes = np.stack([held.boxes[value] for value in self.values if value in held.boxes])
        low = (boxes[:, 0] - boxes[:, 1] / 2).min(0)
        high = (boxes[:, 0] + boxes[:, 1] / 2).max(0)
        return np.stack([(low + high) / 2, high - low])

    @property
    def kin(self) -> str | int:
        """What it is called without its side, or its value where it has no name."""
        return without_side(self.names[0]) if self.names else self.values[0]


class Catalogue:
    """Structures of the sources, found once.

    Args:
        sources: what tasks are made of; shelf: their blocks on the device that draws.
    """

    def __init__(self, sources: Sources, shelf: Shelf) -> None:
        self.sources, self.shelf = sources, shelf
        found = {name: structures_of(cohort) for name, cohort in sources.cohorts.items()}
        self.cohorts: dict[str, list[Structure]] = {name: all_ for name, all_ in found.items() if all_}
        self._cores: dict[tuple[int, int], np.ndarray] = {}
        self._made: dict[tuple[str, int], tuple[Tensor, np.ndarray]] = {}

    @cached_property
    def pairs(self) -> list[tuple[Structure, Structure]]:
        """Left and right of the same."""
        every = [one for structures in self.cohorts.values() for one in structures if one.names]
        right = {(id(s.cohort), s.kin): s for s in every if side_of(s.names[0]) == "right"}
        left = [s for s in every if side_of(s.names[0]) == "left"]
        return [(s, right[id(s.cohort), s.kin]) for s in left if (id(s.cohort), s.kin) in right]

    def alike(self, cohort: Cohort) -> Tensor:
        """Table that gives the right one of every pair of a cohort the value of the left one, ``(1, VALUES)`` uint8."""
        table = torch.arange(VALUES, dtype=torch.uint8)
        for left, right in self.pairs:
            if left.cohort is cohort:
                table[list(right.values)] = left.values[0]
        return table[None].to(self.shelf.device)

    @cached_property
    def hosts(self) -> list[Structure]:
        """Structures that fill their box so far that there is room in them; brains as a whole."""
        every = [one for structures in self.cohorts.values() for one in structures]
        found = [one for one in every if _roomy(one)]
        for name in BRAINS:
            if name in self.cohorts:
                cohort = self.sources.cohorts[name]
                found += [Structure(cohort, cohort.foregrounds, cohort.subjects, ("brain",))] * 4
        return found or every

    @cached_property
    def slender(self) -> list[Structure]:
        """Structures that are long or curved, and yet not too thin to be seen."""
        every = [one for structures in self.cohorts.values() for one in structures]
        return [one for one in every if _fill(one) < 0.35 or _sides(one)[2] > 2 * _sides(one)[0]]

    def core(self, held: Subject, structure: Structure) -> np.ndarray:
        """The place of a structure that is nearest to its middle, in mm, ``(3,)``; of a union, the middle."""
        middle, length = structure.box(held)
        if len(structure.values) > 1:
            return middle
        key = id(held), structure.values[0]
        if key not in self._cores:
            where = torch.nonzero(self.shelf.block(held, structure.values[0])).float().cpu()
            nearest = (where - where.mean(0)).norm(dim=1).argmin() if len(where) else None
            place = np.zeros(3) if nearest is None else where[nearest].numpy() / (SIDE - 1) - 0.5
            self._cores[key] = middle + place * length * REACH
        return self._cores[key]

    def limb(self, number: int) -> tuple[Tensor, np.ndarray]:
        """A slender shape made up, see :func:`limb`, and the lengths of its box; of the number alone."""
        return self._kept("limb", number, limb)

    def blob(self, number: int) -> tuple[Tensor, np.ndarray]:
        """An uneven ball, see :func:`monai_hyper.synthesis.blocks.blobs`, and lengths; of the number alone."""
        return self._kept("blob", number, lambda generator: cropped(blobs(1, generator)[0, 0]))

    def _kept(self, kind: str, number: int, make) -> tuple[Tensor, np.ndarray]:
        if (kind, number) not in self._made:
            block, lengths = make(torch.Generator().manual_seed(7000 + number))
            self._made[kind, number] = block.to(self.shelf.device), lengths
        return self._made[kind, number]


def structures_of(cohort: Cohort) -> list[Structure]:
    """What of a cohort is large enough to be shown."""
    found = []
    for value in cohort.foregrounds:
        names = tuple(cohort.names.get(value, ()))
        if any(word in name for word in WITHHELD for name in names):
            continue
        fit = [held for held in cohort.subjects if value in held.boxes and _large(held, value)]
        if fit:
            found.append(Structure(cohort, (value,), fit, names))
    return found


def _large(held: Subject, value: int) -> bool:
    sides = np.sort(held.boxes[value][1] / held.spacing.numpy())
    return bool(sides[1] >= SHORTEST and sides[2] >= 2 * SHORTEST)


def _sides(structure: Structure) -> np.ndarray:
    """Lengths of the box of the first subject, the shortest first."""
    return np.sort(structure.box(structure.subjects[0])[1])


def _roomy(structure: Structure) -> bool:
    held, sides = structure.subjects[0], _sides(structure)
    voxels = structure.box(held)[1] / held.spacing.numpy()
    return bool(voxels.min() >= ROOM and sides[0] > 0.3 * sides[2] and _fill(structure) > 0.2)


def _fill(structure: Structure) -> float:
    """Share of its box that a structure fills in the first subject."""
    return float(cut_block(structure.subjects[0], structure.values[0]).float().mean()) * REACH**3


def limb(generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """One to three curved branches from one place, round or flat: a block, and the lengths of its box in voxels."""
    axes = (centre_grid([LIMB_SIDE] * 3) / (LIMB_SIDE / 2)).view(-1, 3)
    axes = axes @ rotations(uniform(-3.1, 3.1, generator, 1, 3))[0]
    nearest = torch.full((len(axes),), 9.0)
    flat = torch.tensor([1, 1, 1 + 4 * float(torch.rand((), generator=generator))])
    along = torch.linspace(0, 1, 12)[:, None]
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        radius, taper = uniform(0.06, 0.13, generator), uniform(-0.6, 0.3, generator)
        ends = uniform(-0.8, 0.8, generator, 2, 3) * torch.tensor([1, 1, 0.3])
        curve = 2 * along * (1 - along) * ends[:1] + along**2 * ends[1:]
        scale = radius * (1 + taper * along) * flat  # (12, 3)
        away = (axes / flat).square().sum(1)
        found = away[:, None] - 2 * (axes / flat) @ (curve / flat).T + (curve / flat).square().sum(1)
        nearest = torch.minimum(nearest, (found / scale[:, 0].square()).amin(1))
    return cropped((nearest < 1).view([LIMB_SIDE] * 3))


def cropped(shown: Tensor) -> tuple[Tensor, np.ndarray]:
    """The block of a mask, and the lengths of its box in voxels."""
    held = subject(shown.cpu().numpy().astype(np.uint8), (1.0, 1.0, 1.0))
    return cut_block(held, 1), held.boxes[1][1]


def choose(items: Sequence, rng: np.random.Generator, odds: Sequence[float] | None = None):
    """One of several things, each as likely as the next or by their odds."""
    weights = None if odds is None else np.asarray(odds, dtype=float) / np.sum(odds)
    return items[int(rng.choice(len(items), p=weights))]


def said(states: Sequence[str], structure: Structure | str, rng: np.random.Generator) -> list[str]:
    """A phrase for every class: a structure in a state; of no name in particular where phrases do not know it."""
    name = structure if isinstance(structure, str) else phrased(structure.names) or "structure"
    return [str(choose(said_of(state, name), rng)) for state in states]
