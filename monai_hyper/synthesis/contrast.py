"""From label maps to images, and from images to other images of the same scene; torch, batched."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.synthesis.geometry import random_field

VALUES = 256
"""Label values that the renderer tells apart."""


def uniform(low: float, high: float, generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def chance(probability: float, generator: torch.Generator) -> bool:
    """True with that probability."""
    return bool(torch.rand((), generator=generator) < probability)


def smooth_noise(batch: int, channels: int, size: list[int], knots: int, generator: torch.Generator) -> Tensor:
    """Smooth random fields of about unit deviation, ``(B, C, D, H, W)``."""
    coarse = torch.randn(batch, channels, knots, knots, knots, generator=generator)
    return F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``(B, 1, D, H, W)``, sigma in voxels."""
    if sigma < 0.2:
        return x
    radius = math.ceil(2 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = -1
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        x = F.conv3d(F.pad(x, pad, mode="replicate"), kernel.view(shape))
    return x


def thick_slices(x: Tensor, axis: int, thickness: float) -> Tensor:
    """Average over slices ``thickness`` voxels thick along a spatial axis, shown on the old grid."""
    size = list(x.shape[2:])
    coarse = [max(2, round(n / thickness)) if i == axis else n for i, n in enumerate(size)]
    return F.interpolate(F.adaptive_avg_pool3d(x, coarse), size=size, mode="trilinear", align_corners=False)


def subdivide(labels: Tensor, parts: int, first: int, generator: torch.Generator) -> Tensor:
    """Divide value 0 into ``parts`` random smooth regions with values from ``first`` on."""
    batch, _, *size = labels.shape
    knots = int(torch.randint(3, 9, (), generator=generator))
    regions = smooth_noise(batch, parts, size, knots, generator).argmax(1, keepdim=True) + first
    return torch.where(labels == 0, regions, labels)


def render(labels: Tensor, generator: torch.Generator, empty_background: bool) -> Tensor:
    """One random image model for all cases of a task, with jitter from case to case.

    A Gaussian mixture per label, after Billot et al., "SynthSeg", 2023, https://arxiv.org/abs/2107.09559; labels
    share a few tissue classes in half of the tasks, since otherwise contrast gives every boundary away.

    Args:
        labels: ``(B, 1, D, H, W)``, values below 256.
        empty_background: whether value 0 is black.

    Returns:
        intensities of about 0 to 1, ``(B, 1, D, H, W)``.
    """
    batch, _, *size = labels.shape
    tissues = int(torch.randint(3, 9, (), generator=generator)) if chance(0.5, generator) else VALUES
    tissue = torch.randint(0, tissues, (VALUES,), generator=generator)
    mean, deviation = torch.rand(tissues, generator=generator), uniform(0.005, 0.1, generator, tissues)
    patchiness = uniform(0, 0.08, generator, tissues)
    mean_of = mean[tissue] + 0.03 * torch.randn(VALUES, generator=generator)
    if empty_background:
        mean_of[0] = 0
    jittered = mean_of + uniform(0, 0.06, generator, 1) * torch.randn(batch, VALUES, generator=generator)
    index = labels[:, 0].long()
    image = torch.gather(jittered, 1, index.flatten(1)).view(batch, 1, *size)
    grain = blur(torch.randn(batch, 1, *size, generator=generator), float(uniform(0, 0.8, generator, 1)))
    patches = smooth_noise(batch, 1, size, int(torch.randint(5, 14, (), generator=generator)), generator)
    image = image + deviation[tissue][index][:, None] * grain + patchiness[tissue][index][:, None] * patches
    return torch.where(labels == 0, image.abs() * 0.3, image) if empty_background else image


def remap(image: Tensor, generator: torch.Generator) -> Tensor:
    """One random smooth intensity curve for all cases: gamma, and for some tasks a curve that is not monotone.

    Args:
        image: ``(B, 1, D, H, W)``; every case is brought to 0 to 1 first.
    """
    low, high = image.amin((1, 2, 3, 4), True), image.amax((1, 2, 3, 4), True)
    x = (image - low) / (high - low + 1e-6)
    if chance(0.25, generator):
        knots = torch.rand(5, generator=generator)
        position = x * (len(knots) - 1)
        left = position.floor().clamp(max=len(knots) - 2).long()
        x = knots[left] + (knots[left + 1] - knots[left]) * (position - left)
    elif chance(0.15, generator):
        x = 1 - x
    return x.clamp(min=0) ** float(uniform(-0.6, 0.6, generator, 1).exp())


def degrade(image: Tensor, generator: torch.Generator) -> Tensor:
    """What scanners do, alike for all cases but for chance: bias field, blur, thick slices, noise, ringing.

    Args:
        image: intensities of about 0 to 1, ``(B, 1, D, H, W)``.
    """
    batch, _, *size = image.shape
    if chance(0.6, generator):
        strength = float(uniform(0, 0.4, generator, 1))
        image = image * (strength * smooth_noise(batch, 1, size, 3, generator)).exp()
    if chance(0.6, generator):
        image = blur(image, float(uniform(0, 1.0, generator, 1)))
    if chance(0.2, generator):
        axis = int(torch.randint(0, 3, (), generator=generator))
        image = thick_slices(image, axis, float(uniform(1.5, 5, generator, 1)))
    if chance(0.1, generator):
        image = ringing(image, float(uniform(0.5, 0.9, generator, 1)))
    if chance(0.8, generator):
        strength = 0.08 * float(uniform(0, 1, generator, 1)) ** 2  # strong noise is the exception
        image = image + strength * torch.randn(image.shape, generator=generator)
    return image


def ringing(image: Tensor, kept: float) -> Tensor:
    """Gibbs ringing: drop the highest spatial frequencies along one axis, keeping the fraction ``kept``."""
    spectrum = torch.fft.rfft(image, dim=-1)
    spectrum[..., max(2, int(kept * spectrum.shape[-1])) :] = 0
    return torch.fft.irfft(spectrum, n=image.shape[-1], dim=-1)


def random_shapes(size: list[int], generator: torch.Generator) -> Tensor:
    """A label map of random regions: argmax of smooth noise, some with tubes or balls inside, ``(D, H, W)`` uint8."""
    regions = int(torch.randint(4, 17, (), generator=generator))
    fields = smooth_noise(1, regions, size, int(torch.randint(3, 9, (), generator=generator)), generator)
    labels = fields[0].argmax(0) + 1
    where = random_field(1, size, 4, generator)[0]
    axes = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij"), -1) + 0.15 * where
    for extra in range(int(torch.randint(0, 5, (), generator=generator))):
        centre, radii = uniform(-0.7, 0.7, generator, 3), uniform(0.08, 0.4, generator, 3)
        if chance(0.3, generator):
            radii[int(torch.randint(0, 3, (), generator=generator))] = 3  # a tube
        distance = ((axes - centre) / radii).square().sum(-1)
        labels[distance < 1] = regions + 1 + extra
        if chance(0.3, generator):  # a shell
            labels[distance < 0.4] = regions + 10 + extra
    return labels.to(torch.uint8)
