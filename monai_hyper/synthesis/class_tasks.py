"""Draw classification tasks from label maps and images: what is in the middle, how large, how shaped, how ill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.phrases import vector_of
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.synthesis.batch import ClassBatch
from monai_hyper.synthesis.blocks import Shelf
from monai_hyper.synthesis.class_catalogue import Catalogue, choose
from monai_hyper.synthesis.class_frames import ClassLayout, magnified
from monai_hyper.synthesis.class_plans import DESCRIBED, FAMILIES, ClassPlan, draw_class_plan, possible
from monai_hyper.synthesis.class_shapes import blurred, lesions, masks, textured
from monai_hyper.synthesis.frames import positions
from monai_hyper.synthesis.imaging import images_of
from monai_hyper.synthesis.morphology import dilate
from monai_hyper.synthesis.operators import uniform
from monai_hyper.synthesis.plans import BODY, LESION
from monai_hyper.synthesis.scenes import class_labels, gather, look_up
from monai_hyper.synthesis.sources import Sources
from monai_hyper.transforms.intensity import harmonise_ct, harmonise_mr
from monai_hyper.types import InputError

TRIES = 16
"""Draws of one family before another is chosen."""

FEWEST_VOXELS = {"structure": 14, "side": 14, "grade": 15, "lesion": 10}
"""A volume shows at least so many voxels of what its class shows; a slice two thirds of that."""

FEWEST_TEXTURED = 0.06
"""Share of an image that has the texture of its class, at least."""

LAYOUTS = 30
"""Layouts of which tasks are drawn until they are given up."""

LEAST_CONTRAST = {"structure": 0.25, "side": 0.25, "grade": 0.4, "lesion": 0.7, "shape": 0.6, "texture": 0.0}
"""Least difference between what is shown and what surrounds it, in deviations; see :func:`contrast`."""

MODELS = 3
"""Image models that are drawn until there is as much."""

FADED = 0.7
"""Blur of lesions that are put into real images, in voxels."""


@dataclass(frozen=True)
class ClassTaskSettings:
    """How tasks are drawn.

    Args:
        classes: fewest and most of a task, few more often; shots: fewest and most examples of a class.
        queries: of a class; tasks: in a batch.
        families: how often each family is drawn; default: see ``FAMILIES``.
        voxels: shortest and longest side of volumes; pixels: of slices.
        flat: share of the batches that show slices.
        budget: voxels of all images of a batch together, about; there are fewer shots where it does not last.
    """

    classes: tuple[int, int] = (2, 5)
    shots: tuple[int, int] = (1, 8)
    queries: int = 3
    tasks: int = 2
    families: dict[str, float] | None = None
    voxels: tuple[int, int] = (28, 40)
    pixels: tuple[int, int] = (48, 64)
    flat: float = 0.35
    budget: int = 1_500_000


@dataclass(frozen=True)
class _Drawn:
    """The scenes of a task, ``(C, 1, D, H, W)`` each.

    Args:
        values: of label maps; near: where windows are fitted to; shown: what every case shows; points: see
            :func:`monai_hyper.synthesis.frames.positions`.
    """

    plan: ClassPlan
    values: Tensor
    near: Tensor
    shown: Tensor
    points: Tensor


class ClassTaskEngine:
    """Endless classification tasks from :class:`Sources`; a batch depends on the seed and its number alone.

    Args:
        sources: what tasks are made of.
        settings: how they are drawn.
        seed: another seed, other tasks.
        device: where tasks are drawn and stay; another kind of device, other tasks.

    Raises:
        InputError: if no family can be drawn from the sources with so many classes.
    """

    def __init__(
        self,
        sources: Sources,
        settings: ClassTaskSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.seed = settings or ClassTaskSettings(), seed
        self.shelf = Shelf(sources, device)
        self.catalogue = Catalogue(sources, self.shelf)
        low, high = self.settings.classes
        self.weights = self.settings.families or FAMILIES
        self.able = {
            (family, n, told)
            for family in self.weights
            for n in range(low, high + 1)
            for told in (False, True)
            if possible(family, n, told, self.catalogue)
        }
        if not self.able:
            raise InputError(
                f"families {sorted(self.weights)}: none can be drawn with {low} to {high} classes from the cohorts "
                f"{sorted(sources.cohorts)}. Allow for other families, or for 2 classes."
            )

    @property
    def families(self) -> list[str]:
        """The families that can be drawn."""
        return [family for family in self.weights if any(family == able[0] for able in self.able)]

    def of_family(self, family: str) -> ClassTaskEngine:
        """Like this one, for tasks of one family alone."""
        settings = replace(self.settings, families={family: 1.0})
        engine = ClassTaskEngine(self.catalogue.sources, settings, self.seed, self.shelf.device)
        engine.catalogue, engine.shelf = self.catalogue, self.shelf
        return engine

    @torch.no_grad()
    def batch(self, index: int) -> ClassBatch:
        """Batch number ``index``: its tasks are all described in words, or none is."""
        rng = np.random.default_rng([self.seed, index])
        generator = torch.Generator(self.shelf.device).manual_seed(int(rng.integers(2**62)))
        layout, drawn = self._drawn(rng, generator)
        images = torch.stack([images for _, images in drawn])
        labels = torch.from_numpy(layout.numbers).to(images.device).repeat(len(drawn), 1)
        texts = torch.stack([_vectors(task.plan.texts, layout.classes) for task, _ in drawn]).to(images.device)
        kinds = tuple(task.plan.family for task, _ in drawn)
        return ClassBatch(images, labels, layout.shots, layout.classes, texts, kinds)

    def _drawn(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[ClassLayout, list]:
        """What the tasks of a batch share, and the tasks with their images; of another layout where one gives none."""
        for _ in range(LAYOUTS):
            layout, family, told = self._layout(rng)
            drawn: list[tuple[_Drawn, Tensor]] = []
            while len(drawn) < self.settings.tasks:
                found = self._task(layout, family, told, rng, generator)
                if found is None:
                    break
                drawn.append(found)
                family = self._family(layout.classes, told, rng)
            else:
                return layout, drawn
        raise InputError(
            f"families {self.families}: {LAYOUTS} batches of tasks were drawn, and none showed what it should. Allow "
            "for other families, or for larger images."
        )

    def _layout(self, rng: np.random.Generator) -> tuple[ClassLayout, str, bool]:
        """What the tasks share: the form, and whether they are described; and the family of the first of them."""
        settings = self.settings
        family = choose(self.families, rng, [self.weights[family] for family in self.families])
        able = sorted((n, told) for other, n, told in self.able if other == family)
        told = any(t for _, t in able) and (not any(not t for _, t in able) or rng.random() < DESCRIBED[family])
        numbers = [n for n, t in able if t == told]
        classes = int(choose(numbers, rng, [1 / n for n in numbers]))
        size = self._size(rng)
        shots = int(choose(range(settings.shots[0], settings.shots[1] + 1), rng))
        most = settings.budget // (settings.tasks * classes * int(np.prod(size))) - settings.queries
        return ClassLayout(size, classes, max(settings.shots[0], min(shots, most)), settings.queries), family, told

    def _size(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Voxels along the axes; all alike in most batches."""
        flat = rng.random() < self.settings.flat
        low, high = self.settings.pixels if flat else self.settings.voxels
        sides = rng.integers(low, high + 1, 3)
        if rng.random() < 0.6:
            sides[:] = sides[0]
        return int(sides[0]), int(sides[1]), 1 if flat else int(sides[2])

    def _family(self, classes: int, told: bool, rng: np.random.Generator) -> str:
        """A family whose tasks may have so many classes, and be described or not."""
        among = [family for family in self.families if (family, classes, told) in self.able]
        share = [DESCRIBED[family] if told else 1 - DESCRIBED[family] for family in among]
        return choose(among, rng, [self.weights[family] * part for family, part in zip(among, share)])

    def _task(
        self, layout: ClassLayout, family: str, told: bool, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[_Drawn, Tensor] | None:
        """Draw a task and its images until they show what they should, at last of another family."""
        for tries in range(2 * TRIES):
            if tries == TRIES:
                family = self._family(layout.classes, told, rng)
            plan = draw_class_plan(family, told, self.catalogue, layout, rng)
            drawn = plan and self._scene(plan, layout, generator)
            images = self._images(drawn, layout, rng, generator) if drawn and _visible(drawn, layout) else None
            if images is not None:
                return drawn, images
        return None

    def _scene(self, plan: ClassPlan, layout: ClassLayout, generator: torch.Generator) -> _Drawn | None:
        """What lies where in the cases of a task; None where shapes do not show what they should."""
        if plan.shapes is not None:
            found = masks(plan.shapes, plan.frame, layout.size, generator)
            if found is None:
                return None
            values = torch.where(found, LESION, BODY).to(torch.uint8)
            return _Drawn(plan, values, found, found, torch.zeros_like(values).expand(-1, 3, -1, -1, -1))
        points = positions([plan.frame], list(layout.size), generator)
        if plan.growth is not None:
            points = magnified(points, plan.plan.middle, plan.extent, plan.growth)
        values = gather(plan.plan.subjects, points, self.shelf)
        if plan.lesions is not None:
            near = class_labels(values, [plan.plan.classes]) > 0
            shown = lesions(plan.lesions, near, values > 0, points, self.catalogue, generator)
            values = values.masked_fill(shown, LESION)
        else:
            classes = class_labels(values, [plan.plan.classes])
            own = torch.from_numpy(layout.numbers + 1).to(classes.device).view(-1, 1, 1, 1, 1)
            near = classes > 0
            shown = classes == own if plan.family in ("structure", "side") else near
            if plan.family == "side":  # no rendered contrast tells left from right
                values = look_up(values, self.catalogue.alike(plan.plan.cohort))
        return _Drawn(plan, values, near, shown, points)

    def _images(
        self, task: _Drawn, layout: ClassLayout, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor | None:
        """Harmonised images of a task ``(C, 1, D, H, W)``; bare masks are -1.7 outside and 1.7 inside.

        None where several image models hardly tell what is shown from what surrounds it.
        """
        if task.plan.shapes is not None and task.plan.shapes.bare:
            return harmonise_ct(task.shown.float(), 0.0, 1.0)
        scene_of = task.values, task.near.to(torch.uint8), task.points
        for _ in range(MODELS):
            images = images_of([task.plan.plan], *scene_of, layout.examples, self.shelf, rng, generator)
            images = _finished(task, images, generator)
            if contrast(images, task.shown) >= _least_contrast(task.plan):
                return images
        return None


def _finished(task: _Drawn, images: Tensor, generator: torch.Generator) -> Tensor:
    """Images of a task with its textures, or with lesions where real ones have none yet."""
    if task.plan.textures is not None:
        return harmonise_mr(textured(images, task.shown, task.plan.textures, generator))
    if task.plan.family == "lesion" and task.plan.plan.real:
        strength = uniform(0.9, 2.5, generator) * (1 if uniform(0, 1, generator) < 0.5 else -1)
        own = strength * uniform(0.8, 1.2, generator, len(images), 1, 1, 1, 1)
        return images + own * blurred(task.shown.float(), FADED)
    return images


def contrast(images: Tensor, shown: Tensor) -> float:
    """How far what is shown differs from what lies around it in units of the deviation, the median of all cases.

    Args:
        images: ``(C, 1, D, H, W)``; shown: of the same shape, bool; cases where there is nothing do not count.
    """
    images, inside = images.flatten(1), shown.flatten(1)
    around = (dilate(shown, 2) & ~shown).flatten(1)
    rows = torch.nonzero(inside.any(1) & around.any(1)).flatten()
    if not len(rows):
        return 0.0
    (mean, spread), (other, wide) = (_moments(images[rows], mask[rows]) for mask in (inside, around))
    return float(((mean - other).abs() / (0.5 * (spread + wide)).sqrt().clamp(min=1e-3)).median())


def _moments(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance within masks, ``(C, n)`` to ``(C,)``."""
    count = mask.sum(1)
    mean = (images * mask).sum(1) / count
    return mean, ((images - mean[:, None]).square() * mask).sum(1) / count


def _least_contrast(plan: ClassPlan) -> float:
    return 0.0 if plan.plan.real and plan.family != "lesion" else LEAST_CONTRAST[plan.family]


def _visible(task: _Drawn, layout: ClassLayout) -> bool:
    """Whether every case shows what its class shows."""
    plan, family = task.plan, task.plan.family
    if family == "shape":
        return True
    counts = task.shown.flatten(1).sum(1).cpu().numpy()
    if family == "texture":
        return bool((counts > FEWEST_TEXTURED * task.shown[0].numel()).all())
    fewest = FEWEST_VOXELS[family] * (2 / 3 if layout.flat else 1)
    if family == "lesion":
        small, large = (counts[plan.size == size] for size in (1, 2))
        ordered = not small.size or (np.subtract.outer(large, 1.5 * small) > 0).mean() > 0.9
        ill = plan.lesions.counts > 0
        return ordered and bool((counts[ill] >= fewest).all()) and not counts[~ill].any()
    return bool((counts >= fewest).all())


def _vectors(texts: Sequence[str] | None, classes: int) -> Tensor:
    """What describes the classes, ``(N, 384)``, zero where nothing does."""
    return torch.zeros(classes, TEXT_DIM) if texts is None else torch.stack([vector_of(text) for text in texts])
