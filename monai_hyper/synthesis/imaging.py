"""Images of planned tasks: rendered or real, degraded, on the scale that networks see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_hyper.synthesis.blocks import Shelf
from monai_hyper.synthesis.contrast import degrade, remap, render, subdivide, windowed
from monai_hyper.synthesis.operators import noise
from monai_hyper.synthesis.plans import BODY, OUTSIDE, Plan
from monai_hyper.synthesis.scenes import gather_images
from monai_hyper.transforms.intensity import harmonise_mr

NARROWEST_CT = 200.0
"""Least width of a window in HU."""

NARROWEST_RENDERED = 0.3
"""Least width of a window over rendered intensities, which reach from 0 to 1."""


def images_of(
    plans: Sequence[Plan],
    values: Tensor,
    labels: Tensor,
    points: Tensor,
    shots: int,
    shelf: Shelf,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Tensor:
    """Harmonised images of all cases, ``(T * C, 1, D, H, W)``.

    Args:
        values: scenes, see :func:`monai_hyper.synthesis.scenes.scene`; labels: classes; points: where cases look.
    """
    cases = len(values) // len(plans)
    images = torch.empty(values.shape, device=values.device)
    in_hu = [plan.real and plan.cohort.is_ct and rng.random() < 0.6 for plan in plans]
    ct_like = [not plan.real and rng.random() < 0.35 for plan in plans]
    real = _rows([plan.real for plan in plans], cases)
    if real:
        held = [held for plan in plans if plan.real for held in plan.subjects]
        images[real] = gather_images(held, points[real], shelf)
    drawn = _rows([not plan.real for plan in plans], cases)
    if drawn:
        images[drawn] = _rendered([plan for plan in plans if not plan.real], values[drawn], shots, rng, generator)
    return _harmonised(images, labels, shots, in_hu, ct_like, rng, generator)


def _rows(chosen: Sequence[bool], cases: int) -> list[int]:
    """Numbers of the volumes of the chosen tasks."""
    return [task * cases + case for task, yes in enumerate(chosen) if yes for case in range(cases)]


def _rendered(plans: Sequence[Plan], values: Tensor, shots: int, rng: np.random.Generator, generator) -> Tensor:
    """Intensities of about 0 to 1; what no label tells apart is divided at random."""
    device = values.device
    empty = [plan.cohort.body_is_labelled and rng.random() < (0.8 if plan.organs else 0.5) for plan in plans]
    tissue = [BODY if plan.organs and plan.organs.body else -1 if e else OUTSIDE for plan, e in zip(plans, empty)]
    hosts = torch.tensor([plan.classes[0][0] for plan in plans], device=device)
    values = subdivide(values, torch.tensor(tissue, device=device), generator)
    return render(values, shots, hosts, torch.tensor(empty, device=device), generator)


def _harmonised(images, labels, shots: int, in_hu: list[bool], ct_like: list[bool], rng, generator) -> Tensor:
    """Degrade what is not in Hounsfield units, and window or score every task's images."""
    cases = len(images) // len(in_hu)
    for task in np.flatnonzero(in_hu):
        rows = slice(task * cases, (task + 1) * cases)
        found = images[rows] + rng.uniform(0, 25) * noise(images[rows].shape, generator)
        images[rows] = windowed(found, labels[rows], shots, NARROWEST_CT)
    for chosen, scored in (([not h and not c for h, c in zip(in_hu, ct_like)], True), (ct_like, False)):
        rows = _rows(chosen, cases)
        if rows:
            images[rows] = _seen(images[rows], labels[rows], sum(chosen), shots, scored, generator)
    return images


def _seen(images: Tensor, labels: Tensor, tasks: int, shots: int, scored: bool, generator: torch.Generator) -> Tensor:
    """Images of some tasks as a scanner shows them: scored as MR, or windowed as CT."""
    if scored:
        return harmonise_mr(degrade(remap(images, tasks, generator), tasks, generator))
    images = degrade(images, tasks, generator)
    pairs = zip(images.chunk(tasks), labels.chunk(tasks))
    return torch.cat([windowed(image, label, shots, NARROWEST_RENDERED) for image, label in pairs])
