"""Draw training tasks: what to find, several anatomies, one image model; many volumes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from monai_hyper.synthesis.batch import Episode, TaskBatch
from monai_hyper.synthesis.blocks import Shelf
from monai_hyper.synthesis.frames import Frame, grid_size, make_frame, positions, sides_kept
from monai_hyper.synthesis.imaging import images_of
from monai_hyper.synthesis.plans import (
    FAMILIES,
    LESION,
    Plan,
    draw_plan,
    most_classes,
    possible_families,
)  # fmt: skip
from monai_hyper.synthesis.scenes import class_labels, layered, scene, with_walls
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.words import descriptions_of

TRIES = 12
"""Draws of one family before another is chosen, so that a family whose draws often fail is not lost."""

ROUNDS = 16
"""Draws of tasks until another layout is chosen."""

FEWEST_VOXELS = 15
"""A support volume shows at least so many voxels of every class."""

LOCAL = 0.4
"""Share of the batches whose volumes are windows around the foreground."""

SHOTS = {1: 0.24, 2: 0.18, 3: 0.18, 4: 0.18, 5: 0.1, 6: 0.07, 8: 0.05}
CLASSES = {1: 0.77, 2: 0.1, 3: 0.06, 4: 0.04, 6: 0.02, 8: 0.01}
"""How often tasks have so many shots, and classes; fewer where a family has no more, or volumes are small."""


@dataclass(frozen=True)
class TaskSettings:
    """How tasks are drawn.

    Args:
        voxels: volumes have between ``voxels[0]`` and ``voxels[1]`` voxels, about, smaller ones more often.
        budget: voxels of all volumes of a task together, about.
        families: how often each family is drawn; default: see ``FAMILIES``.
        tasks: in a batch.
    """

    voxels: tuple[int, int] = (20_000, 90_000)
    budget: int = 200_000
    families: dict[str, float] | None = None
    tasks: int = 1


@dataclass(frozen=True)
class Layout:
    """What the tasks of a batch share: voxels of a volume, about; shots; cases, support and queries; classes."""

    voxels: float
    shots: int
    cases: int
    classes: int
    local: bool


class TaskEngine:
    """Endless tasks from :class:`Sources`; a batch depends on the seed and its number alone.

    Args:
        sources: what tasks are made of.
        settings: how they are drawn.
        seed: another seed, other tasks.
        device: where tasks are drawn and stay; another kind of device, other tasks.
    """

    def __init__(
        self,
        sources: Sources,
        settings: TaskSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sources, self.settings, self.seed = sources, settings or TaskSettings(), seed
        self.shelf = Shelf(sources, device)
        weights = self.settings.families or FAMILIES
        self.families = possible_families(sources, weights)
        self.odds = np.array([weights[f] for f in self.families]) / sum(weights[f] for f in self.families)
        self._most = np.array([most_classes(f, sources) for f in self.families])

    def of_family(self, family: str) -> TaskEngine:
        """Like this one, for tasks of one family alone."""
        settings = replace(self.settings, families={family: 1.0})
        return TaskEngine(self.sources, settings, self.seed, self.shelf.device)

    def episode(self, index: int) -> Episode:
        """Task number ``index``: that of a batch of one."""
        return self._draw(index, 1).episode(0)

    def batch(self, index: int) -> TaskBatch:
        """Batch number ``index``, of as many tasks as the settings tell."""
        return self._draw(index, self.settings.tasks)

    @torch.no_grad()
    def _draw(self, index: int, tasks: int) -> TaskBatch:
        rng = np.random.default_rng([self.seed, index])
        generator = torch.Generator(self.shelf.device).manual_seed(int(rng.integers(2**62)))
        rngs, found = [np.random.default_rng([self.seed, index, 1 + task]) for task in range(tasks)], None
        while found is None:
            layout, family = self._layout(rng)
            found = _Drawer(self, layout, rngs, family).all_shown(generator)
        plans, frames, values, labels, points = found
        images = images_of(plans, values, labels, points, layout.shots, self.shelf, rng, generator)
        images, labels = _padded(images, labels, plans, layout, rng)
        shape = (tasks, layout.cases, *images.shape[1:])
        offsets = torch.from_numpy(np.stack([frame.offsets for frame in frames])).float().to(images.device)
        kinds = tuple(plan.family for plan in plans)
        words = np.random.default_rng([self.seed, index, 1 + tasks])
        texts = descriptions_of(plans, layout.classes, words).to(images.device)
        return TaskBatch(
            images.view(shape), labels.view(shape).long(), offsets, layout.shots, layout.classes, layout.local, kinds,
            texts,
        )  # fmt: skip

    def _layout(self, rng: np.random.Generator) -> tuple[Layout, str]:
        """What the tasks share, and the family of the first of them."""
        low, high = self.settings.voxels
        voxels = float(np.exp(rng.uniform(np.log(low), np.log(high)) if rng.random() < 0.8 else np.log(low * 1.7)))
        voxels = min(voxels, high)
        shots = int(rng.choice(list(SHOTS), p=list(SHOTS.values())))
        cases = max(shots + 1, min(shots + 3, round(self.settings.budget / voxels)))
        family = str(rng.choice(self.families, p=self.odds))
        classes = int(rng.choice(list(CLASSES), p=list(CLASSES.values())))
        classes = min(classes, int(self._most[self.families.index(family)]), max(1, int(voxels ** (1 / 3) / 8)))
        return Layout(voxels, shots, cases, classes, bool(rng.random() < LOCAL)), family

    def family(self, classes: int, rng: np.random.Generator) -> str:
        """A family whose tasks may have so many classes."""
        odds = self.odds * (self._most >= classes)
        return str(rng.choice(self.families, p=odds / odds.sum()))


class _Drawer:
    """Draws the tasks of a batch until each shows what it asks for.

    Args:
        engine: whose families and sources to draw from; rngs: one for every task; family: of the first task.
    """

    def __init__(self, engine: TaskEngine, layout: Layout, rngs: list[np.random.Generator], family: str) -> None:
        self.engine, self.layout, self.rngs = engine, layout, rngs
        self.families = [family] + [engine.family(layout.classes, rng) for rng in rngs[1:]]
        self.tries = [0] * len(rngs)
        self.size: list[int] | None = None

    def _plan(self, task: int) -> tuple[Plan, Frame]:
        """A task and where it looks; the first one drawn tells the size of all grids."""
        layout, rng = self.layout, self.rngs[task]
        while True:
            if self.tries[task] == TRIES:
                self.families[task], self.tries[task] = self.engine.family(layout.classes, rng), 0
            self.tries[task] += 1
            sources = self.engine.sources
            plan = draw_plan(self.families[task], sources, layout.classes, layout.shots, layout.cases, rng)
            if plan is not None:
                self.size = self.size or grid_size(plan, layout.voxels, layout.local, rng)
                return plan, make_frame(plan, self.size, layout.local, rng)

    def all_shown(self, generator: torch.Generator) -> tuple[list[Plan], list[Frame], Tensor, Tensor, Tensor] | None:
        """Plans, frames, scenes, labels and positions of all tasks; what shows too little is drawn again.

        None where the layout does not seem to allow for tasks that show enough.
        """
        drawn = [self._plan(task) for task in range(len(self.rngs))]
        held = self._volumes(drawn, list(range(len(drawn))), generator)
        cases = self.layout.cases
        for _ in range(ROUNDS):
            missing = self._missing([plan for plan, _ in drawn], held[1])
            if not missing:
                return [plan for plan, _ in drawn], [frame for _, frame in drawn], *held
            for task in missing:
                drawn[task] = self._plan(task)
            found = self._volumes([drawn[task] for task in missing], missing, generator)
            rows = [task * cases + case for task in missing for case in range(cases)]
            for volumes, others in zip(held, found):
                volumes[rows] = others
        return None

    def _volumes(
        self, drawn: Sequence[tuple[Plan, Frame]], tasks: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scenes, labels and positions of the cases of some tasks."""
        plans = [plan for plan, _ in drawn]
        points = positions([frame for _, frame in drawn], self.size, generator)
        values = scene(plans, points, self.engine.shelf, generator)
        labels = class_labels(values, [[[LESION]] if plan.lesions else plan.classes for plan in plans])
        normals = np.stack([_plane(self.rngs[task]) for task in tasks])
        labels = layered(labels, points, plans, torch.from_numpy(normals).to(points))
        walls = [
            plan.layer == "shell" and not plan.real and self.rngs[t].random() < 0.6 for plan, t in zip(plans, tasks)
        ]
        return with_walls(values, labels, walls), labels, points

    def _missing(self, plans: Sequence[Plan], labels: Tensor) -> list[int]:
        """Tasks that do not show what they ask for."""
        enough = shown(labels, self.layout.classes, self.layout.cases)
        sparse = [plan.lesions is not None for plan in plans]
        return [t for t, counts in enumerate(enough) if not _sufficient(counts, self.layout.shots, sparse[t])]


def _plane(rng: np.random.Generator) -> np.ndarray:
    """Normal of a plane that splits a structure, mostly across its second axis, and where it lies."""
    normal = rng.standard_normal(3) * [0.6, 1, 0.8]
    return np.append(normal / np.linalg.norm(normal), rng.uniform(-0.15, 0.15))


def shown(labels: Tensor, classes: int, cases: int) -> Tensor:
    """Voxels of background and of every class, ``(T, C, N)``, on the CPU."""
    counts = [(labels == value).flatten(1).float().sum(1) for value in range(classes + 1)]  # faster than to count
    return torch.stack(counts, 1).view(-1, cases, classes + 1).long().cpu()


def _sufficient(counts: Tensor, shots: int, sparse: bool) -> bool:
    """Whether a task can be learned from: its support shows every class, and some query something.

    Args:
        counts: see :func:`shown`, ``(C, N)``; sparse: whether one volume of the support that shows it is enough.
    """
    support, asked = counts[:shots, 1:], counts[shots:, 1:]
    found = support.amax(0) if sparse else support.amin(0)
    return bool((found >= FEWEST_VOXELS).all() and (asked > 0).any() and (counts[:, 0] > 0).all())


def _padded(
    images: Tensor, labels: Tensor, plans: Sequence[Plan], layout: Layout, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blank some sides of the volumes of some tasks; tasks that would lose what they ask for stay whole."""
    cases = layout.cases
    for task, plan in enumerate(plans):
        if layout.local or not plan.elsewhere or rng.random() < 0.7:
            continue
        rows = slice(task * cases, (task + 1) * cases)
        kept = sides_kept(cases, list(images.shape[2:]), rng).to(images.device)
        cut = labels[rows] * kept
        if _sufficient(shown(cut, layout.classes, cases)[0], layout.shots, plan.lesions is not None):
            images[rows] = torch.where(kept, images[rows], images[rows].amin((1, 2, 3, 4), True))
            labels[rows] = cut
    return images, labels
