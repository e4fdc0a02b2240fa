"""From label maps to images, and from images to other images of the same scene; all cases of all tasks at once."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_hyper.synthesis.morphology import dilate
from monai_hyper.synthesis.operators import (
    along_axes,
    chance,
    gaussian,
    knot_shape,
    low_pass,
    noise,
    octaves,
    slices,
    smooth_noise,
    spline_axes,
    uniform,
)  # fmt: skip
from monai_hyper.synthesis.plans import LESION, WALL
from monai_hyper.synthesis.scenes import VALUES, look_up
from monai_hyper.transforms.intensity import harmonise_ct

BACKGROUND_PARTS = 240
"""First of the values that divide unlabelled tissue."""


def subdivide(values: Tensor, tissue: Tensor, generator: torch.Generator) -> Tensor:
    """Divide a value into up to six smooth regions; in half of the tasks alike in all cases, but for chance.

    Args:
        values: ``(T * C, 1, D, H, W)`` uint8; tissue: the value of each task, -1 to leave it whole, ``(T,)``.

    Returns:
        like ``values``, with values from ``BACKGROUND_PARTS`` on in those regions.
    """
    tasks, cases, size, device = len(tissue), len(values) // len(tissue), list(values.shape[2:]), values.device
    knots = torch.randint(3, 8, (tasks,), generator=generator, device=device)
    axes = spline_axes(knots.repeat_interleave(cases), size)
    own = noise(knot_shape(axes, 2), generator)
    common = noise([tasks, *own.shape[1:]], generator).repeat_interleave(cases, 0)
    alike = 0.9 * chance(0.5, generator, tasks).repeat_interleave(cases).float().view(-1, 1, 1, 1, 1)
    fields = along_axes(alike * common + (1 - alike.square()).sqrt() * own, axes)
    edges = uniform(-1.5, 1.5, generator, tasks, 3).repeat_interleave(cases, 0).view(-1, 3, 1, 1, 1)
    parts = (fields[:, :1] > edges[:, :1]).to(torch.uint8) + (fields[:, :1] > edges[:, 1:2])
    parts = BACKGROUND_PARTS + parts + 3 * (fields[:, 1:] > edges[:, 2:])
    divided = values == tissue.repeat_interleave(cases).view(-1, 1, 1, 1, 1)
    return torch.where(divided, parts, values).to(torch.uint8)


def tissue_tables(hosts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, deviation and patchiness of every label value, ``(T, VALUES)`` each.

    A Gaussian mixture, after Billot et al., "SynthSeg", 2023, https://arxiv.org/abs/2107.09559; labels share a few
    tissue classes in half of the tasks, since otherwise contrast gives every boundary away.

    Args:
        hosts: value that lesions and walls lie in, which they differ from, ``(T,)``.
    """
    tasks, device = len(hosts), hosts.device
    count = torch.randint(3, 9, (tasks, 1), generator=generator, device=device)
    shared = (uniform(0, 1, generator, tasks, VALUES) * count).long()
    own = torch.arange(VALUES, device=device).expand(tasks, -1)
    tissue = torch.where(chance(0.5, generator, tasks, 1), shared, own)
    mean = uniform(0, 1, generator, tasks, VALUES).gather(1, tissue) + 0.03 * noise((tasks, VALUES), generator)
    for value in (LESION, WALL):
        mean[:, value] = (mean.gather(1, hosts[:, None])[:, 0] + uniform(0.2, 0.8, generator, tasks)) % 1
    deviation = uniform(0.005, 0.1, generator, tasks, VALUES).gather(1, tissue)
    return mean, deviation, uniform(0, 0.12, generator, tasks, VALUES).gather(1, tissue)


def render(values: Tensor, shots: int, hosts: Tensor, empty: Tensor, generator: torch.Generator) -> Tensor:
    """One random image model for all cases of a task, with jitter; in 20% of the tasks another for the queries.

    Args:
        values: ``(T * C, 1, D, H, W)`` uint8; shots: that many of the cases are support.
        hosts: see :func:`tissue_tables`; empty: whether value 0 is black, ``(T,)``.

    Returns:
        intensities of about 0 to 1, ``(T * C, 1, D, H, W)``.
    """
    volumes, tasks = len(values), len(hosts)
    cases, size = volumes // tasks, list(values.shape[2:])
    task = torch.arange(tasks, device=values.device).repeat_interleave(cases)
    asked = torch.arange(volumes, device=values.device) % cases >= shots
    model = task + tasks * (asked & chance(0.2, generator, tasks)[task])
    mean, deviation, patchiness = (table[model] for table in tissue_tables(hosts.repeat(2), generator))
    empty = empty[task]
    mean[empty, 0] = 0
    mean = mean + uniform(0, 0.06, generator, tasks, 1)[task] * noise((volumes, VALUES), generator)
    sigma = uniform(0, 0.8, generator, tasks)[task]
    grain = along_axes(noise(values.shape, generator), [gaussian(sigma, n) for n in size])
    knots = torch.randint(3, 9, (tasks,), generator=generator, device=values.device)[task]
    patches = octaves(knots, size, uniform(0.3, 0.9, generator, tasks)[task], generator)
    image = look_up(values, mean) + look_up(values, deviation) * grain + look_up(values, patchiness) * patches
    black = empty.view(-1, 1, 1, 1, 1) & (values == 0)
    return torch.where(black, image.abs() * 0.3, image)


def remap(image: Tensor, tasks: int, generator: torch.Generator) -> Tensor:
    """One random smooth intensity curve for all cases of a task: gamma, inverse or, at times, no monotone one.

    Args:
        image: ``(T * C, 1, D, H, W)``; every case is brought to 0 to 1 first.
    """
    cases = len(image) // tasks
    low, high = image.amin((1, 2, 3, 4), True), image.amax((1, 2, 3, 4), True)
    x = (image - low) / (high - low + 1e-6)
    kind = uniform(0, 1, generator, tasks, 1)
    falling = torch.linspace(1, 0, 5, device=image.device)
    curve = torch.where(kind < 0.25, uniform(0, 1, generator, tasks, 5), falling).repeat_interleave(cases, 0)
    bent = torch.nonzero(((kind < 0.25) | (kind > 0.85)).repeat_interleave(cases)).flatten()
    x = x.index_copy(0, bent, _curved(x[bent], curve[bent]))
    gamma = uniform(-0.6, 0.6, generator, tasks).exp().repeat_interleave(cases)
    return x.clamp_(min=0).pow_(gamma.view(-1, 1, 1, 1, 1))


def _curved(x: Tensor, curve: Tensor) -> Tensor:
    """Values from 0 to 1 ``(B, 1, D, H, W)`` on curves of straight lines between even knots, ``(B, knots)``."""
    last, steps = curve.shape[1] - 1, curve.diff(dim=1)
    mapped = curve[:, 0].view(-1, 1, 1, 1, 1).expand_as(x).clone()
    for knot in range(last):
        mapped.addcmul_(steps[:, knot].view(-1, 1, 1, 1, 1), (x * last - knot).clamp_(0, 1))
    return mapped


def degrade(image: Tensor, tasks: int, generator: torch.Generator) -> Tensor:
    """What scanners do, alike for all cases of a task but for chance: bias field, optics and noise.

    Args:
        image: intensities of about 0 to 1, ``(T * C, 1, D, H, W)``.
    """
    volumes, size = len(image), list(image.shape[2:])
    task = torch.arange(tasks, device=image.device).repeat_interleave(volumes // tasks)
    strength = uniform(0, 0.4, generator, tasks) * chance(0.6, generator, tasks)
    bias = smooth_noise(torch.full((volumes,), 3, device=image.device), size, 1, generator)
    image = image * (strength[task].view(-1, 1, 1, 1, 1) * bias).exp()
    image = along_axes(image, [matrix[task] for matrix in optics(tasks, size, generator)])
    strength = 0.08 * uniform(0, 1, generator, tasks) ** 2 * chance(0.8, generator, tasks)  # mostly weak
    return noisy(image, strength[task], chance(0.2, generator, tasks)[task], generator)


def optics(tasks: int, size: list[int], generator: torch.Generator) -> list[Tensor]:
    """Blur along all axes, slices that are thicker than voxels, ringing: matrices ``(T, n, n)`` for the three axes."""
    sigma = uniform(0, 1.0, generator, tasks) * chance(0.6, generator, tasks)
    thickness = 1 + uniform(0.5, 4, generator, tasks) * chance(0.25, generator, tasks)
    kept = 1 - uniform(0.1, 0.5, generator, tasks) * chance(0.1, generator, tasks)
    axes = torch.randint(0, 3, (2, tasks), generator=generator, device=generator.device)
    found = []
    for axis, n in enumerate(size):
        thick = slices(torch.where(axes[0] == axis, thickness, 1.0), n)
        found.append(low_pass(torch.where(axes[1] == axis, kept, 1.0), n) @ thick @ gaussian(sigma, n))
    return found


def noisy(image: Tensor, strength: Tensor, rician: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise: Gaussian, or that of the magnitude of a complex signal.

    After Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995.

    Args:
        image: ``(B, 1, D, H, W)``; strength: standard deviation, ``(B,)``; rician: which kind, ``(B,)`` bool.
    """
    strength = strength.view(-1, 1, 1, 1, 1)
    shown = image + strength * noise(image.shape, generator)
    rows = torch.nonzero(rician).flatten()
    other = strength[rows] * noise(shown[rows].shape, generator)
    return shown.index_copy(0, rows, (shown[rows].square() + other.square()).sqrt())


def windowed(images: Tensor, labels: Tensor, shots: int, narrowest: float) -> Tensor:
    """Window all cases of a task by the intensities in and around the support's foreground, as for CT.

    Args:
        images, labels: ``(C, 1, D, H, W)``; narrowest: width of the window.
    """
    seen = images[:shots][dilate(labels[:shots] > 0, 3)]
    ends = torch.tensor([0.005, 0.995], device=images.device)
    low, high = torch.quantile(seen[:: max(1, len(seen) // 50_000)], ends).tolist()
    margin = max(0.1 * (high - low), (narrowest - (high - low)) / 2)
    return harmonise_ct(images, low - margin, high + margin)
