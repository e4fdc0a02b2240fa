"""Random smooth deformations, batched."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rotations(angles: Tensor) -> Tensor:
    """Rotation matrices from Euler angles in radians, ``(B, 3)`` to ``(B, 3, 3)``."""
    zero, one = torch.zeros_like(angles[:, 0]), torch.ones_like(angles[:, 0])
    (c0, c1, c2), (s0, s1, s2) = angles.cos().T, angles.sin().T
    x = torch.stack([one, zero, zero, zero, c0, -s0, zero, s0, c0], 1).view(-1, 3, 3)
    y = torch.stack([c1, zero, s1, zero, one, zero, -s1, zero, c1], 1).view(-1, 3, 3)
    z = torch.stack([c2, -s2, zero, s2, c2, zero, zero, zero, one], 1).view(-1, 3, 3)
    return x @ y @ z


def centre_grid(size: list[int], device: torch.device | str = "cpu") -> Tensor:
    """Voxel centres relative to the middle of the grid, in voxels, ``(D, H, W, 3)``."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def random_affine(
    batch: int, rotation: float, scale: float, generator: torch.Generator | None = None, device="cpu"
) -> Tensor:
    """Random rotations and axis scalings, ``(B, 3, 3)``.

    Args:
        rotation: standard deviation of every Euler angle, in degrees.
        scale: standard deviation of the log scale, common to the axes; a third of it per axis besides.
    """
    draw = torch.randn(batch, 7, generator=generator).to(device)
    turn = rotations(draw[:, :3].clamp(-2, 2) * math.radians(rotation))
    log_scale = draw[:, 3:4].clamp(-2, 2) * scale + draw[:, 4:].clamp(-2, 2) * scale / 3
    return turn @ torch.diag_embed(log_scale.exp())


def random_field(
    batch: int, size: list[int], knots: int, generator: torch.Generator | None = None, device="cpu"
) -> Tensor:
    """Smooth random displacements of unit standard deviation at the knots, ``(B, D, H, W, 3)``."""
    coarse = torch.randn(batch, 3, knots, knots, knots, generator=generator).to(device)
    smooth = F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)
    return F.avg_pool3d(F.pad(smooth, [1] * 6, mode="replicate"), 3, 1).permute(0, 2, 3, 4, 1)


def sample(volumes: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values at points given in voxels from the middle of each volume; the border continues outside.

    Args:
        volumes: ``(B, C, D, H, W)``; points: ``(B, d, h, w, 3)`` in tensor axis order.

    Returns:
        ``(B, C, d, h, w)``.
    """
    size = torch.tensor(volumes.shape[2:], device=points.device, dtype=points.dtype)
    return F.grid_sample(volumes, (points * 2 / size).flip(-1), mode, "border", align_corners=False)


def warped_copy(
    images: Tensor, masks: Tensor, generator: torch.Generator | None = None, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Rotate (10 degrees), scale (15%), shift (10% of a side) and bend volumes at random.

    Args:
        images: ``(B, 1, D, H, W)``; masks: ``(B, n, D, H, W)``.
        strength: of rotation, scale and shift.

    Returns:
        both, warped alike, masks sampled linearly.
    """
    size, device, batch = list(images.shape[2:]), images.device, images.shape[0]
    sides = torch.tensor(size, device=device, dtype=torch.float32)
    shift = (torch.rand(batch, 1, 1, 1, 3, generator=generator) * 2 - 1).to(device) * 0.1 * strength * sides
    bend = random_field(batch, size, 4, generator, device) * 0.03 * sides
    turn = random_affine(batch, 7 * strength, 0.1 * strength, generator, device)
    points = centre_grid(size, device) @ turn.mT[:, None, None]
    points = points + shift + bend
    return sample(images, points), sample(masks, points)
