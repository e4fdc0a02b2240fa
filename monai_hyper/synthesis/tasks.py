"""Draw one training task: what to find, several anatomies, one image model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.synthesis import contrast
from monai_hyper.synthesis.batch import Episode, TaskBatch
from monai_hyper.synthesis.geometry import centre_grid, random_affine, random_field, sample
from monai_hyper.synthesis.sources import Cohort, Sources, Subject, subject
from monai_hyper.transforms.intensity import harmonise_ct, harmonise_mr

LESION = 255
BACKGROUND_PARTS = 240
"""First of the values that divide unlabelled tissue."""

TRIES = 12
"""Draws of one family before another is chosen, so that a family whose draws often fail is not lost."""

FEWEST_VOXELS = 15
"""A support volume shows at least so many voxels of every class."""


@dataclass(frozen=True)
class TaskSettings:
    """How tasks are drawn.

    Args:
        voxels: volumes have between ``voxels[0]`` and ``voxels[1]`` voxels, smaller ones more often.
        budget: voxels of all volumes of an episode together, about.
        families: how often each family is drawn.
        tasks: in a batch.
    """

    voxels: tuple[int, int] = (20_000, 90_000)
    budget: int = 200_000
    families: dict[str, float] | None = None
    tasks: int = 1


FAMILIES = {
    "brain_labels": 0.24, "headneck_labels": 0.12, "abdomen": 0.06, "knee": 0.03, "shapes": 0.1, "lesions": 0.08,
    "headneck_ct": 0.12, "fetal_brain_mr": 0.08, "macaque_mr": 0.08, "colin27_mr": 0.09,
}  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Fields of view of the cases of a task, on grids of one size.

    Args:
        points: sampled positions in mm from the first voxel, ``(B, D, H, W, 3)``.
        spacing: of the grid, in mm.
    """

    points: Tensor
    spacing: float


class TaskEngine:
    """Endless tasks from :class:`Sources`; task ``i`` depends on the seed and ``i`` alone.

    Args:
        sources: what tasks are made of.
        settings: how they are drawn.
        seed: another seed, other tasks.
        device: where batches are wanted.
    """

    def __init__(
        self, sources: Sources, settings: TaskSettings | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.device = device
        self.sources, self.settings, self.seed = sources, settings or TaskSettings(), seed
        weights = self.settings.families or FAMILIES
        possible = {"shapes", *sources.cohorts}
        if sources.lesions and "brain_labels" in sources.cohorts:
            possible.add("lesions")
        self.families = [family for family in weights if family in possible]
        self.odds = np.array([weights[f] for f in self.families]) / sum(weights[f] for f in self.families)

    def episode(self, index: int) -> Episode:
        """Task number ``index``."""
        rng = np.random.default_rng([self.seed, index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        while True:
            family = str(rng.choice(self.families, p=self.odds))
            for _ in range(TRIES):  # a draw that shows too little of its foreground is drawn again
                found = self._draw(family, rng, generator)
                if found is not None:
                    return found

    def batch(self, index: int) -> TaskBatch:
        """Batch number ``index``: random shapes, each task one of their values, on cubes of the smallest size."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        side = round(self.settings.voxels[0] ** (1 / 3))
        cases = max(2, min(8, round(self.settings.budget / side**3)))
        shots = int(torch.randint(1, cases, (), generator=generator))
        images, labels = [], []
        for _ in range(self.settings.tasks):
            scene = contrast.random_shapes([side] * 3, generator)
            turn = random_affine(cases, 7, 0.09, generator)
            points = centre_grid([side] * 3) @ turn.mT[:, None, None]
            values = sample(scene[None, None].float().expand(cases, -1, -1, -1, -1), points, "nearest")
            images.append(harmonise_mr(contrast.render(values, generator, False)))
            labels.append((values == values.flatten().mode().values).long())
        stacked = (torch.stack(images).to(self.device), torch.stack(labels).to(self.device))
        offsets = torch.zeros(self.settings.tasks, cases, 3, device=self.device)
        return TaskBatch(*stacked, offsets, shots, 1, False, ("shapes",) * self.settings.tasks)

    def _draw(self, family: str, rng: np.random.Generator, generator: torch.Generator) -> Episode | None:
        low, high = self.settings.voxels
        voxels = float(np.exp(rng.uniform(np.log(low), np.log(high)) if rng.random() < 0.8 else np.log(low * 1.7)))
        shots = int(rng.choice([1, 2, 3, 4, 5, 6, 8], p=[0.24, 0.18, 0.18, 0.18, 0.1, 0.07, 0.05]))
        cases = max(shots + 1, min(shots + 3, round(self.settings.budget / voxels)))
        shots = min(shots, cases - 1)
        cohort = self._cohort(family, generator)
        classes = self._classes(cohort, rng)
        subjects = self._subjects(cohort, classes, cases, rng)
        if subjects is None:
            return None
        perturbed = rng.random() < 0.45
        frame = _frame(subjects, [v for c in classes for v in c], voxels, perturbed, rng, generator)
        values = gather(subjects, frame)
        if family == "lesions":
            values, classes = self._with_lesions(values, rng, generator), [[LESION]]
        labels = _class_labels(values, classes)
        if family != "lesions" and len(classes) == 1 and rng.random() < 0.15:
            labels = _split(labels, frame, subjects, classes[0], rng)
        if not _shown(labels, len(classes), shots):
            return None
        images = self._images(cohort, subjects, frame, values, labels, shots, rng, generator)
        if perturbed and rng.random() < 0.3:
            images, labels = _pad_sides(images, labels, rng)
            if not _shown(labels, len(classes), shots):
                return None
        images, labels = _flip(images, labels, rng)
        names = tuple(f"class_{c + 1}" for c in range(len(classes)))
        if perturbed and rng.random() < 0.6:
            return _cropped(images, labels, names, shots, family, rng)
        support = SupportSet(images[:shots], labels[:shots], names)
        return Episode(support, images[shots:], labels[shots:], family)

    def _cohort(self, family: str, generator: torch.Generator) -> Cohort:
        if family == "shapes":
            held = subject(contrast.random_shapes([48, 48, 48], generator).numpy(), (2.0, 2.0, 2.0))
            return Cohort("shapes", [held], tuple(held.boxes), body_is_labelled=True)
        return self.sources.cohorts["brain_labels" if family == "lesions" else family]

    @staticmethod
    def _classes(cohort: Cohort, rng: np.random.Generator) -> list[list[int]]:
        """Label values of every class: one anchor, and by chance neighbours merged with it or beside it."""
        shown = cohort.subjects[int(rng.integers(len(cohort.subjects)))].boxes
        present = [v for v in cohort.foregrounds if v in shown]
        anchor = int(rng.choice(present))
        centre = shown[anchor][0]
        near = sorted((v for v in present if v != anchor), key=lambda v: np.linalg.norm(shown[v][0] - centre))[:6]
        rng.shuffle(near)
        kind = rng.random()
        if kind < 0.25:
            return [[anchor, *near[: int(rng.integers(1, 4))]]]
        if kind < 0.45:
            return [[anchor], *([v] for v in near[: int(rng.integers(1, 4))])]
        return [[anchor]]

    @staticmethod
    def _subjects(
        cohort: Cohort, classes: list[list[int]], count: int, rng: np.random.Generator
    ) -> list[Subject] | None:
        fit = [s for s in cohort.subjects if all(any(v in s.boxes for v in values) for values in classes)]
        if not fit:
            return None
        order = np.concatenate([rng.permutation(len(fit)) for _ in range(-(-count // len(fit)))])
        return [fit[i] for i in order[:count]]

    def _with_lesions(self, values: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """Paste random lesion masks into the labelled body of every case."""
        values = values.clone()
        size = list(values.shape[2:])
        scale = rng.uniform(0.08, 0.3) * max(size)
        for case in values[:, 0]:
            inside = (case > 0).nonzero()
            for _ in range(int(rng.choice([1, 1, 1, 2, 3])) if len(inside) else 0):
                mask = self.sources.lesions[int(rng.integers(len(self.sources.lesions)))]
                centre = inside[int(rng.integers(len(inside)))].float() - (torch.tensor(size) - 1) / 2
                step = max(mask.shape) / (scale * float(rng.uniform(0.5, 1.5)))
                turned = (centre_grid(size) - centre) @ random_affine(1, 60, 0.15, generator)[0].T * step
                # outside of its box the mask is continued by its border, which is empty after padding
                padded = F.pad(mask[None, None].float(), [1] * 6)
                case[(sample(padded, turned[None])[0, 0] > 0.5) & (case > 0)] = LESION
        return values

    def _images(self, cohort, subjects, frame, values, labels, shots, rng, generator) -> Tensor:
        if subjects[0].image is not None and rng.random() < 0.85:
            images = gather(subjects, frame, image=True)
            if cohort.is_ct and rng.random() < 0.6:
                images = images + rng.uniform(0, 25) * torch.randn(images.shape, generator=generator)
                return _windowed(images, labels, shots, narrowest=200)
            images = contrast.degrade(contrast.remap(images, generator), generator)
            return harmonise_mr(images)
        empty = cohort.body_is_labelled and rng.random() < 0.5
        parts = int(rng.integers(1, 7))
        scene = values.long() if empty else contrast.subdivide(values.long(), parts, BACKGROUND_PARTS, generator)
        images = contrast.render(scene, generator, empty)
        if rng.random() < 0.1:  # queries from another scanner
            images[shots:] = contrast.render(scene[shots:], generator, empty)
        images = contrast.degrade(images, generator)
        if rng.random() < 0.35:
            return _windowed(images, labels, shots, narrowest=0.3)
        return harmonise_mr(contrast.remap(images, generator))


def _frame(subjects, wanted, voxels, perturbed, rng, generator) -> Frame:
    """Choose a field of view around what is wanted, and place it in every subject."""
    boxes = [np.stack([s.boxes[v] for v in wanted if v in s.boxes]) for s in subjects]
    low = np.stack([(b[:, 0] - b[:, 1] / 2).min(0) for b in boxes])
    high = np.stack([(b[:, 0] + b[:, 1] / 2).max(0) for b in boxes])
    extent = (high - low).mean(0)
    near = rng.random() < 0.65
    margin = np.exp(rng.uniform(np.log(1.15), np.log(4.5)) if near else rng.uniform(np.log(3), np.log(12)))
    sides = extent * margin * np.exp(rng.uniform(-0.35, 0.35, 3))
    sides = np.clip(sides, max(sides.max() * 0.4, 24), 500)
    sides = np.minimum(sides, np.array(subjects[0].labels.shape) * subjects[0].spacing.numpy() * 1.1)
    spacing = float((sides.prod() / voxels) ** (1 / 3))
    size = [int(n) for n in np.clip(np.round(sides / spacing), 20, 96)]
    sides = np.array(size) * spacing
    slack = np.clip(sides - extent, 0, None) / 2
    offset = rng.uniform(-0.7, 0.7, 3) * slack
    cases = (len(subjects), 3)
    spread = rng.uniform(-0.25, 0.25, cases) if perturbed else 0.035 * rng.standard_normal(cases)
    centre = torch.tensor((low + high) / 2 + offset + spread * sides, dtype=torch.float32)
    alone = len({id(s) for s in subjects}) < len(subjects)
    bend = random_field(len(subjects), size, int(rng.integers(3, 6)), generator)
    bend = bend * float(rng.uniform(0.02, 0.06) if alone else rng.uniform(0, 0.03)) * spacing * max(size)
    turn = random_affine(len(subjects), 12 if alone else 7, 0.14 if alone else 0.09, generator)
    points = (centre_grid(size) * spacing) @ turn.mT[:, None, None] + bend + centre[:, None, None, None]
    return Frame(points, spacing)


def gather(subjects: list[Subject], frame: Frame, image: bool = False) -> Tensor:
    """Labels (nearest) or images (linear) of the subjects in their fields of view, ``(B, 1, D, H, W)``.

    Labels are 0 outside of a subject; images continue.
    """
    found = []
    for held, points in zip(subjects, frame.points):
        at = points / held.spacing
        size = torch.tensor(held.labels.shape)
        if image:
            found.append(sample(held.image[None, None], (at - (size - 1) / 2)[None])[0])
            continue
        nearest = at.round().long()
        inside = ((nearest >= 0) & (nearest < size)).all(-1)
        nearest = torch.minimum(nearest.clamp(min=0), size - 1)
        flat = (nearest[..., 0] * size[1] + nearest[..., 1]) * size[2] + nearest[..., 2]
        found.append((held.labels.flatten()[flat] * inside)[None])
    return torch.stack(found)


def _class_labels(values: Tensor, classes: list[list[int]]) -> Tensor:
    table = torch.zeros(contrast.VALUES, dtype=torch.long)
    for index, members in enumerate(classes):
        table[members] = index + 1
    return table[values.long()]


def _split(labels, frame: Frame, subjects, members, rng) -> Tensor:
    """Keep the part of a structure on one side of a plane that cuts every subject's structure alike."""
    direction = rng.standard_normal(3) * [0.6, 1, 0.8]
    direction, offset = direction / np.linalg.norm(direction), rng.uniform(-0.15, 0.15)
    kept = []
    for held, points in zip(subjects, frame.points):
        boxes = np.stack([held.boxes[v] for v in members if v in held.boxes])
        low, high = (boxes[:, 0] - boxes[:, 1] / 2).min(0), (boxes[:, 0] + boxes[:, 1] / 2).max(0)
        relative = (points - torch.tensor((low + high) / 2).float()) / torch.tensor(high - low).float()
        kept.append((relative @ torch.tensor(direction).float() > offset)[None])
    return labels * torch.stack(kept)


def _shown(labels: Tensor, classes: int, shots: int) -> bool:
    counts = F.one_hot(labels.flatten(1), classes + 1).sum(1)[:, 1:]
    return bool((counts[:shots] >= FEWEST_VOXELS).all() and (counts[shots:] > 0).any() and (labels == 0).any())


def _windowed(images: Tensor, labels: Tensor, shots: int, narrowest: float) -> Tensor:
    """Window all cases by the intensities in and around the support's foreground, as for CT."""
    around = F.max_pool3d((labels[:shots] > 0).float(), 7, 1, 3) > 0
    seen = images[:shots][around]
    low, high = torch.quantile(seen[:: max(1, len(seen) // 50_000)], torch.tensor([0.005, 0.995])).tolist()
    margin = max(0.1 * (high - low), (narrowest - (high - low)) / 2)
    return harmonise_ct(images, low - margin, high + margin)


def _pad_sides(images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blank a slab at some sides of every case, as when volumes were padded."""
    images, labels = images.clone(), labels.clone()
    for image, label in zip(images[:, 0], labels[:, 0]):
        for axis in range(3):
            width = int(rng.uniform(0, 0.25) * image.shape[axis])
            if width and rng.random() < 0.4:
                start = 0 if rng.random() < 0.5 else image.shape[axis] - width
                image.narrow(axis, start, width).fill_(image.min())
                label.narrow(axis, start, width).zero_()
    return images, labels


def _cropped(images, labels, names, shots: int, family: str, rng: np.random.Generator) -> Episode | None:
    """The episode with some sides of every case cut off, queries to one size; None where too little is left."""
    grid = np.array(images.shape[2:])
    low, high = (_cuts(grid, (shots, 3), rng) for _ in range(2))
    extents = torch.tensor(grid - low - high)
    shown, masks = torch.zeros_like(images[:shots]), torch.zeros_like(labels[:shots])
    for shot, (start, size) in enumerate(zip(low, extents.tolist())):
        inside, box = tuple(slice(n) for n in size), tuple(slice(a, a + n) for a, n in zip(start, size))
        shown[shot, 0][inside], masks[shot, 0][inside] = images[shot, 0][box], labels[shot, 0][box]
    total = _cuts(grid, 3, rng) + _cuts(grid, 3, rng)
    starts = rng.integers(0, total + 1, (len(images) - shots, 3))
    boxes = [tuple(slice(a, a + n) for a, n in zip(start, grid - total)) for start in starts]
    asked = torch.stack([image[(slice(None), *box)] for image, box in zip(images[shots:], boxes)])
    truth = torch.stack([label[(slice(None), *box)] for label, box in zip(labels[shots:], boxes)])
    counts = F.one_hot(masks.flatten(1), len(names) + 1).sum(1)[:, 1:]
    if (counts < FEWEST_VOXELS).any() or not (truth > 0).flatten(1).any(1).all():
        return None
    return Episode(SupportSet(shown, masks, names, extents=extents), asked, truth, family)


def _cuts(grid: np.ndarray, shape: int | tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Voxels to cut off at one side of every axis: none in four cases of ten, else up to 35%; 14 voxels remain."""
    shares = rng.uniform(0, 0.35, shape) * (rng.random(shape) < 0.6)
    return np.minimum(shares * grid, (grid - 14) / 2).astype(int)


def _flip(images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    axes = [axis for axis, odds in ((2, 0.5), (3, 0.15), (4, 0.15)) if rng.random() < odds]
    return images.flip(axes).contiguous(), labels.flip(axes).contiguous()
