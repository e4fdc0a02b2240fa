"""Label maps that nobody drew: random shapes, and supervoxels of real images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from monai_hyper.synthesis.geometry import centre_grid
from monai_hyper.synthesis.operators import chance, smooth_noise, uniform
from monai_hyper.synthesis.sources import Cohort, Subject, boxes_of, subject

SHAPE_SIDE = 56
"""Voxels of a map of shapes along each axis."""

LONGEST = 72
"""A part of an image that is divided into supervoxels has at most so many voxels along an axis."""

TIGHTNESS = 0.6
"""Weight of the distance in space against that of the intensities, in deviations."""

ROUNDS = 3

EMPTY = 0.15
"""Parts darker than this share of the range of intensities are empty space."""


def random_shapes(rng: np.random.Generator) -> Cohort:
    """One map of smooth regions, with tubes, balls and hollow balls inside some of them."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    size, regions = [SHAPE_SIDE] * 3, int(rng.integers(4, 17))
    knots = torch.tensor([int(rng.integers(3, 9))])
    labels = smooth_noise(knots, size, regions, generator)[0].argmax(0) + 1
    bend = smooth_noise(torch.tensor([4]), size, 3, generator)[0].permute(1, 2, 3, 0)
    axes = centre_grid(size) / (SHAPE_SIDE / 2) + 0.1 * bend
    for extra in range(int(rng.integers(0, 6))):
        centre, radii = uniform(-0.7, 0.7, generator, 3), uniform(0.08, 0.4, generator, 3)
        if rng.random() < 0.3:
            radii[int(rng.integers(3))] = 3  # a tube
        distance = ((axes - centre) / radii).square().sum(-1)
        labels[distance < 1] = regions + 1 + extra
        if chance(0.4, generator):  # a shell
            labels[distance < 0.4] = regions + 10 + extra
    held = subject(labels.numpy().astype(np.uint8), (2.0, 2.0, 2.0))
    return Cohort("shapes", [held], tuple(held.boxes), body_is_labelled=True)


def supervoxel_cohort(held: Subject, is_ct: bool, rng: np.random.Generator) -> Cohort | None:
    """Supervoxels in a random part of a real image as a cohort of one; None where there is hardly any contrast.

    After Ouyang et al., "Self-Supervision with Superpixels", 2020, https://arxiv.org/abs/2007.09886.
    """
    box = _part(held, rng)
    image = held.image[box].numpy()
    low, high = np.percentile(image, [1, 99])
    if not high - low > 1e-3 * (abs(low) + abs(high)):
        return None
    parts = supervoxels(image / image.std(), int(rng.integers(30, 90)), rng)
    numbers = range(1, int(parts.max()) + 1)
    seen = np.array([0, *ndimage.mean(image, parts, numbers)]) > low + EMPTY * (high - low)
    labels = np.zeros(held.labels.shape, dtype=np.uint8)
    labels[box] = parts
    found = replace(held, labels=torch.from_numpy(labels), boxes=boxes_of(labels, held.spacing.numpy()))
    foregrounds = tuple(v for v in found.boxes if seen[v] and _is_whole(parts == v))
    return Cohort("supervoxels", [found], foregrounds, is_ct=is_ct) if foregrounds else None


def _part(held: Subject, rng: np.random.Generator) -> tuple[slice, slice, slice]:
    """A random box of 50 to 160 mm a side, around a labelled structure."""
    middle = held.boxes[int(rng.choice(list(held.boxes)))][0]
    spacing, size = held.spacing.numpy().astype(float), np.array(held.labels.shape)
    sides = np.exp(rng.uniform(np.log(50), np.log(160))) * np.exp(rng.uniform(-0.2, 0.2, 3))
    count = np.clip(np.round(sides / spacing), 8, np.minimum(size, LONGEST)).astype(int)
    start = np.clip(np.round(middle / spacing - count / 2), 0, size - count).astype(int)
    return tuple(slice(a, a + n) for a, n in zip(start, count))


def supervoxels(image: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Divide a volume into compact parts of like intensity, ``(D, H, W)`` uint8 from 1 on.

    After Achanta et al., "SLIC Superpixels", 2012, with distances to all centres: there are few of them.

    Args:
        image: intensities of about unit deviation, ``(D, H, W)``; count: of parts, about.
    """
    size = np.array(image.shape)
    smooth = ndimage.gaussian_filter(image, 1.0)
    step = (size.prod() / count) ** (1 / 3)
    places = np.stack(np.indices(image.shape), -1) * (TIGHTNESS / step)
    features = torch.from_numpy(np.concatenate([places, smooth[..., None]], -1).reshape(-1, 4)).float()
    seeds = torch.from_numpy(rng.choice(len(features), min(count, 250, len(features)), replace=False))
    centres, few = features[seeds], features[:: max(1, len(features) // 20_000)]
    for _ in range(ROUNDS):
        nearest = torch.cdist(few, centres).argmin(1)
        total = torch.zeros_like(centres).index_add_(0, nearest, few)
        number = torch.bincount(nearest, minlength=len(centres))[:, None]
        centres = torch.where(number > 0, total / number.clamp(min=1), centres)
    nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in features.split(50_000)])
    return (nearest + 1).to(torch.uint8).numpy().reshape(image.shape)


def _is_whole(part: np.ndarray) -> bool:
    """Whether a part does not reach the border of its box, and is not nearly as long."""
    inside = ndimage.find_objects(part.astype(np.uint8))[0]
    return all(0 < s.start and s.stop < n and s.stop - s.start < 0.6 * n for s, n in zip(inside, part.shape))
