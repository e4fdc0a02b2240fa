"""Bring CT and MR intensities to one scale, the same in training and in use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor

from monai_hyper.types import InputError

HALF_WIDTH = 1.7
"""Value of the upper edge of the CT window after harmonisation: a uniform spread then has about unit deviation."""

_SAMPLES = 100_000


def harmonise_ct(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Clip Hounsfield units to a window and map that window linearly to -1.7 .. 1.7.

    Args:
        x: Hounsfield units, any shape, for instance ``(B, 1, D, H, W)``.
        low, high: edges of the window in HU; numbers, or tensors that broadcast over ``x``.

    Example:
        >>> harmonise_ct(torch.tensor([-1000.0, 40.0, 400.0]), -160.0, 240.0)
        tensor([-1.7000,  0.0000,  1.7000])
    """
    low, high = (torch.as_tensor(edge, dtype=x.dtype, device=x.device) for edge in (low, high))
    clipped = torch.minimum(torch.maximum(x, low), high)
    return (clipped - (low + high) / 2) * (2 * HALF_WIDTH / (high - low))


def harmonise_mr(x: Tensor) -> Tensor:
    """Clip every volume to its own 0.5 to 99.5 percentile, then z-score it by the voxels of its body.

    The body is what lies above the 1st percentile by more than 2% of the clipped range, so that an empty
    background decides nothing; a volume without such voxels is scored by all of them. Percentiles are taken
    from at most about 100 000 evenly strided voxels.

    Args:
        x: intensities, ``(1, D, H, W)`` for one volume or ``(B, 1, D, H, W)`` for several, each on its own.

    Example:
        >>> scored = harmonise_mr(torch.rand(2, 1, 16, 16, 16) * torch.tensor([1.0, 900.0]).view(2, 1, 1, 1, 1))
        >>> scored.mean(dim=(1, 2, 3, 4)).abs().max() < 0.1
        tensor(True)
    """
    volumes = x.reshape(-1, 1, *x.shape[-3:])
    flat = volumes.flatten(1)
    # A stride that shares no factor with the size of the grid's lines reaches every line and column.
    stride = -(-flat.shape[1] // _SAMPLES)
    while any(stride > 1 and math.gcd(stride, s) > 1 for s in x.shape[-2:] if s > 1):
        stride += 1
    sample = flat[:, ::stride].float()
    points = torch.tensor([0.005, 0.01, 0.995], device=x.device)
    low, first, high = torch.quantile(sample, points, dim=1).unsqueeze(-1).to(x.dtype)
    clipped = torch.minimum(torch.maximum(flat, low), high)
    body = clipped > first + 0.02 * (high - low)
    body = body | ~body.any(1, keepdim=True)
    count = body.sum(1, keepdim=True)
    mean = (clipped * body).sum(1, keepdim=True) / count
    variance = ((clipped - mean).square() * body).sum(1, keepdim=True) / count
    scored = (clipped - mean) / variance.sqrt().clamp_min(1e-6)
    return scored.reshape(x.shape)


def harmonise_picture(x: Tensor) -> Tensor:
    """Map every image from its least to its greatest value to -1.7 .. 1.7; one that is the same everywhere is 0.

    For images whose background is the most of them, such as drawings and masks, where percentiles say nothing.

    Args:
        x: intensities, ``(..., 1, D, H, W)``.

    Example:
        >>> harmonise_picture(torch.tensor([0.0, 0.0, 255.0]).view(1, 1, 3, 1, 1)).flatten()
        tensor([-1.7000, -1.7000,  1.7000])
    """
    low, high = x.amin((-3, -2, -1), True), x.amax((-3, -2, -1), True)
    return torch.where(high > low, (2 * (x - low) / (high - low).clamp(min=1e-6) - 1) * HALF_WIDTH, 0.0)


class HarmoniseIntensity(Transform):
    """Map the intensities of a volume to the common scale of its modality.

    Args:
        modality: "CT" for Hounsfield units, "MR" for anything without a unit.
        window: lower and upper edge in HU, needed for CT, see :func:`harmonise_ct`.

    Raises:
        InputError: for an unknown modality, or CT without a window that rises.

    Example:
        >>> HarmoniseIntensity("CT", (-160, 240))(torch.full((1, 4, 4, 4), 40.0)).unique()
        tensor([0.])
    """

    def __init__(self, modality: Literal["CT", "MR"], window: tuple[float, float] | None = None) -> None:
        if modality not in ("CT", "MR"):
            raise InputError(f"modality is '{modality}'; expected 'CT' or 'MR'.")
        if modality == "CT" and (window is None or not window[0] < window[1]):
            raise InputError(f"the CT window is {window}; expected lower and upper edge in HU, for instance -160, 240.")
        self.modality, self.window = modality, window

    def __call__(self, image: Tensor) -> Tensor:
        """
        Args:
            image: ``(1, D, H, W)``, HU for CT.

        Returns:
            float32 of the same shape; a MetaTensor keeps its affine.
        """
        image = image.to(torch.float32)
        return harmonise_ct(image, *self.window) if self.modality == "CT" else harmonise_mr(image)


class HarmoniseIntensityd(MapTransform):
    """Dictionary version of :class:`HarmoniseIntensity`.

    Example:
        >>> HarmoniseIntensityd("image", "MR")({"image": torch.rand(1, 4, 4, 4)})["image"].shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: Literal["CT", "MR"],
        window: tuple[float, float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.harmonise = HarmoniseIntensity(modality, window)

    def __call__(self, data: Mapping) -> dict:
        return {**data, **{key: self.harmonise(data[key]) for key in self.key_iterator(data)}}
