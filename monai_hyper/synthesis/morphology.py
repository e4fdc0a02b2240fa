"""Masks made larger, smaller, smoother or hollow; cubes of voxels as structuring elements, batched."""

from __future__ import annotations

from torch import Tensor


def dilate(mask: Tensor, radius: int) -> Tensor:
    """All voxels at most ``radius`` voxels away from the mask along every axis.

    Args:
        mask: bool, ``(..., D, H, W)``.
    """
    for axis in (-3, -2, -1):
        n = mask.shape[axis]
        grown = mask.clone()
        for step in range(1, min(radius, n - 1) + 1):
            grown.narrow(axis, step, n - step).logical_or_(mask.narrow(axis, 0, n - step))
            grown.narrow(axis, 0, n - step).logical_or_(mask.narrow(axis, step, n - step))
        mask = grown
    return mask


def erode(mask: Tensor, radius: int) -> Tensor:
    """All voxels of the mask that are more than ``radius`` voxels away from what is not mask; the border is no end."""
    return ~dilate(~mask, radius)


def opened(mask: Tensor, radius: int) -> Tensor:
    """The mask without its parts thinner than the cube."""
    return dilate(erode(mask, radius), radius) & mask  # at the border a cube may reach beyond the volume


def closed(mask: Tensor, radius: int) -> Tensor:
    """The mask with its gaps narrower than the cube filled."""
    return erode(dilate(mask, radius), radius) | mask


def shell(mask: Tensor, radius: int) -> Tensor:
    """The outer layer of the mask, inside it."""
    return mask & ~erode(mask, radius)


def rim(mask: Tensor, radius: int) -> Tensor:
    """The layer around the mask, outside it."""
    return dilate(mask, radius) & ~mask


CHANGES = {"eroded": erode, "dilated": dilate, "opened": opened, "closed": closed}
"""What may happen to the structures of an organ cohort, by name."""

LAYERS = {"shell": shell, "rim": rim}
"""What of a structure a task may ask for instead of the whole, by name."""
