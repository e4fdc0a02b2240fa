"""Masks and textures that tell classes apart: shapes made thicker, knobbly or with masses on them; torch, batched."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_hyper.synthesis.blocks import REACH, SIDE, put
from monai_hyper.synthesis.class_catalogue import Catalogue
from monai_hyper.synthesis.class_frames import SLAB
from monai_hyper.synthesis.class_shape_plans import Shapes
from monai_hyper.synthesis.frames import Frame, positions
from monai_hyper.synthesis.geometry import centre_grid, sample
from monai_hyper.synthesis.morphology import erode
from monai_hyper.synthesis.operators import along_axes, gaussian, knot_shape, noise, smooth_noise, splines
from monai_hyper.synthesis.plans import Lesions

HALO = 1.7
"""Blur of the zone that a mask is made thicker and thinner in, and that knobs grow in; in voxels."""

FEWEST, MOST = 0.004, 0.5
"""A mask fills at least and at most such a share of the image."""

PROTRUDING = 0.05
"""Masses make a mask larger by at least this share."""


def masks(shapes: Shapes, frame: Frame, size: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
    """Masks of all cases, ``(C, 1, D, H, W)`` bool; slices show shadows. None where they do not show what they should.

    Args:
        frame: from voxels to the coordinates of the shapes, in units of ``lengths``.
    """
    field = _soft(shapes, frame, size, generator)
    plain = _changed(field, shapes, generator)
    voxels = plain.flatten(1).sum(1)
    if bool(((voxels < FEWEST * field[0].numel()) | (voxels > MOST * field[0].numel())).any()):
        return None
    grown = with_masses(plain, shapes.masses, shapes.radius, generator)
    more = grown.flatten(1).sum(1) - voxels
    due = torch.from_numpy(shapes.masses > 0).to(more.device)
    return None if bool((more < PROTRUDING * voxels)[due].any()) else grown


def _soft(shapes: Shapes, frame: Frame, size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Blocks at the places of the voxels, 0 to 1; a slice shows the greatest of all planes of a slab."""
    flat = size[2] == 1
    matrix = frame.matrix.copy()
    if flat:
        across = np.linalg.norm(shapes.lengths, axis=1) / np.linalg.norm(matrix[:, :, 2], axis=1)
        matrix[:, :, 2] *= (across / SLAB)[:, None]
    looked = Frame(matrix, frame.centre, frame.offsets, frame.bend, frame.knots)
    points = positions([looked], [size[0], size[1], SLAB if flat else size[2]], generator)
    scale = torch.from_numpy(SIDE / (REACH * shapes.lengths)).to(points)
    blocks = torch.stack(shapes.blocks)[:, None].float()
    found = sample(blocks, points.permute(0, 2, 3, 4, 1) * scale[:, None, None, None])
    return found.amax(-1, keepdim=True) if flat else found


def _changed(field: Tensor, shapes: Shapes, generator: torch.Generator) -> Tensor:
    """Masks of the volumes that are wanted, knobbly where they should be."""
    volume, uneven = (torch.from_numpy(x).to(field).view(-1, 1) for x in (shapes.volume, shapes.uneven))
    wanted = (field > 0.5).flatten(1).sum(1, keepdim=True) * volume
    wide = blurred(field, HALO)
    side = max(field.shape[2:])
    knots = torch.full((len(field),), round(side / 3.2), device=field.device)
    knobs = smooth_noise(knots, list(field.shape[2:]), 1, generator)
    soft = field + wide * (0.6 + 0.6 * uneven.view(-1, 1, 1, 1, 1) * knobs)
    some = soft.flatten(1)[:, ::5]
    ordered = some.sort(1, descending=True).values
    place = (wanted / 5).long().clamp(1, some.shape[1] - 1)
    return soft > ordered.gather(1, place).clamp(min=0.02).view(-1, 1, 1, 1, 1)


def blurred(field: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of volumes ``(B, 1, D, H, W)``; sigma in voxels."""
    width = torch.full((1,), sigma, device=field.device)
    return along_axes(field, [gaussian(width, n).expand(len(field), -1, -1) for n in field.shape[2:]])


def with_masses(plain: Tensor, counts: np.ndarray, radius: np.ndarray, generator: torch.Generator) -> Tensor:
    """Put uneven balls on the surfaces of masks ``(C, 1, D, H, W)``; radius in shares of the longest side."""
    size, device = list(plain.shape[2:]), plain.device
    surface = plain & ~erode(plain, 1)
    found, grid = plain.clone(), centre_grid(size, device)
    for number in range(int(counts.max(initial=0))):
        rows = torch.from_numpy(np.flatnonzero(counts > number)).to(device)
        chance = torch.rand((len(rows), plain[0].numel()), generator=generator, device=device)
        at = (chance * surface[rows].flatten(1)).argmax(1)
        away = grid - grid.view(-1, 3)[at].view(-1, 1, 1, 1, 3)
        uneven = smooth_noise(torch.full((len(rows),), 6, device=device), size, 1, generator)[:, 0]
        wide = torch.from_numpy(radius).to(away)[rows].view(-1, 1, 1, 1) * max(size)
        found[rows] |= (away.norm(dim=-1) < wide * (1 + 0.15 * uneven))[:, None]
    return found


def lesions(
    drawn: Lesions, organ: Tensor, body: Tensor, points: Tensor, catalogue: Catalogue, generator: torch.Generator
) -> Tensor:
    """Lesions about random places of the organ of every case, ``(C, 1, D, H, W)`` bool.

    Args:
        organ, body: where they may be, and where they may reach if the organ is no end of them, like the result.
        points: in mm, ``(C, 3, D, H, W)``.
    """
    found = torch.zeros_like(organ)
    likely = (organ + 2.0 * erode(organ, 1)).flatten(1)  # rather inside than at the border
    for number in range(int(drawn.counts.max(initial=0))):
        rows = np.flatnonzero(drawn.counts > number)
        here = points[rows]
        chance = torch.rand((len(rows), organ[0].numel()), generator=generator, device=organ.device)
        at = (chance * likely[rows]).argmax(1)
        middle = here.flatten(2).gather(2, at.view(-1, 1, 1).expand(-1, 3, 1))
        matrix = torch.from_numpy(drawn.matrix[rows, number]).to(here)
        blocks = [_lesion_block(int(kind), catalogue) for kind in drawn.numbers[rows, number]]
        shown = put(torch.stack(blocks)[:, None].bool(), matrix, -(matrix @ middle)[..., 0], here)
        found[rows] |= shown
    return found & (organ if drawn.inside else body | organ)


def _lesion_block(number: int, catalogue: Catalogue) -> Tensor:
    """A mask of the sources, or a blob where the number is below zero."""
    return catalogue.shelf.lesion(number) if number >= 0 else catalogue.blob(-1 - number)[0]


def textured(images: Tensor, inside: Tensor, textures: np.ndarray, generator: torch.Generator) -> Tensor:
    """Add to images a texture of every case's own grain, direction and strength, within a mask.

    Args:
        images, inside: ``(C, 1, D, H, W)``; textures: knots along the three axes and strength, ``(C, 4)``.
    """
    knots = torch.from_numpy(textures[:, :3]).to(images)
    axes = [splines(knots[:, axis].clamp(2, 40), n) for axis, n in enumerate(images.shape[2:])]
    field = along_axes(noise(knot_shape(axes, 1), generator), axes)
    return images + torch.from_numpy(textures[:, 3]).to(images).view(-1, 1, 1, 1, 1) * field * inside
