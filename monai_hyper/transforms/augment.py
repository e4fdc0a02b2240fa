"""Random changes of a support or query volume: its pose and shape, and its field of view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandAffineGrid, RandomizableTransform, Resample
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_hyper.synthesis.geometry import random_field
from monai_hyper.transforms.grid import Mode

ROTATION = math.radians(10)
SCALE = 0.15
SHIFT = 0.10
BEND = 0.02
"""Typical elastic displacement, as a fraction of the mean side."""

_KNOTS = 4


class RandSupportAugment(RandomizableTransform):
    """Turn by up to 10 degrees, scale by up to 15%, shift by up to 10% of a side and bend a volume.

    The bend is interpolated between displacements at 4 x 4 x 4 knots, of standard deviation 2% of the mean side;
    MONAI's ``Rand3DElastic``, which smooths noise at full resolution, takes half a minute for 128^3 on one core.

    Args:
        mode: "image" samples linearly and repeats the edge; "label" takes the nearest voxel and 0 beyond the edge.

    Example:
        >>> augment = RandSupportAugment().set_random_state(seed=0)
        >>> augment(torch.rand(1, 16, 16, 16)).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(self, mode: Mode = "image") -> None:
        super().__init__(prob=1.0)
        self.mode = mode
        self.seed = 0

    def randomize(self, data: None = None) -> None:
        """Draw the deformation that the calls with ``randomize=False`` repeat."""
        self.seed = int(self.R.randint(2**31))

    def __call__(self, volume: Tensor, mode: Mode | None = None, randomize: bool = True) -> Tensor:
        """
        Args:
            volume: ``(1, D, H, W)``, intensities or labels.
            mode: replaces the one given at construction, for this call.
            randomize: False repeats the last deformation, on a volume of the same shape.

        Returns:
            the same shape, dtype and affine.
        """
        if randomize:
            self.randomize()
        label = (mode or self.mode) == "label"
        warp = Resample(mode="nearest" if label else "bilinear", padding_mode="zeros" if label else "border")
        return warp(volume.float(), self._grid(volume.shape[1:])).to(volume.dtype)

    def _grid(self, shape: Sequence[int]) -> Tensor:
        """Where every voxel is read, in voxels from the middle, homogeneous ``(4, D, H, W)``."""
        affine = RandAffineGrid(
            rotate_range=(ROTATION,) * 3, translate_range=tuple(SHIFT * n for n in shape), scale_range=(SCALE,) * 3
        )
        grid = affine.set_random_state(seed=self.seed)(spatial_size=shape).clone()
        bend = random_field(1, list(shape), _KNOTS, torch.Generator().manual_seed(self.seed))[0]
        grid[:3] += BEND * float(np.mean(shape)) * bend.movedim(-1, 0)
        return grid


class RandSupportAugmentd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`RandSupportAugment`: all keys are deformed alike; one mode, or one a key.

    Example:
        >>> augment = RandSupportAugmentd(["image", "label"], ["image", "label"]).set_random_state(seed=0)
        >>> data = augment({"image": torch.rand(1, 8, 8, 8), "label": torch.ones(1, 8, 8, 8).long()})
        >>> data["label"].dtype
        torch.int64
    """

    def __init__(
        self, keys: KeysCollection, mode: Mode | Sequence[Mode] = "image", allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.augment = RandSupportAugment()

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None):
        """See MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.augment.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping) -> dict:
        self.augment.randomize()
        changed = {k: self.augment(data[k], mode, randomize=False) for k, mode in self.key_iterator(data, self.mode)}
        return {**data, **changed}


class RandFieldOfView(RandomizableTransform):
    """Crop or pad each of the six sides of a volume by 0 to ``fraction`` of that axis' length.

    Args:
        fraction: largest change of a side, from 0 to below 0.5.
        mode: "image" pads with the minimum of the volume, "label" with 0.

    Raises:
        ValueError: for a fraction outside of this range.

    Example:
        >>> change = RandFieldOfView(0.35).set_random_state(seed=3)
        >>> volume = change(torch.rand(1, 20, 20, 20))
        >>> all(6 <= side <= 34 for side in volume.shape[1:])
        True
    """

    def __init__(self, fraction: float = 0.35, mode: Mode = "image") -> None:
        super().__init__(prob=1.0)
        if not 0 <= fraction < 0.5:
            raise ValueError(f"fraction is {fraction}; expected 0 to below 0.5, so that a part of the volume is left.")
        self.fraction, self.mode = fraction, mode
        self.change = np.zeros((3, 2))

    def randomize(self, data: None = None) -> None:
        """Draw the six changes, as fractions of the axis; positive ones pad."""
        self.change = self.R.uniform(-self.fraction, self.fraction, (3, 2))

    def __call__(self, volume: Tensor, mode: Mode | None = None, randomize: bool = True) -> Tensor:
        """
        Args:
            volume: ``(1, D, H, W)``, intensities or labels.
            mode: replaces the one given at construction, for this call.
            randomize: False repeats the last change.

        Returns:
            ``(1, d, h, w)`` of the same dtype; the affine of a MetaTensor follows, so every voxel keeps its place.
        """
        if randomize:
            self.randomize()
        voxels = np.rint(self.change * np.array(volume.shape[1:])[:, None]).astype(int)
        fill = 0 if (mode or self.mode) == "label" else volume.min().item()
        data = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
        for axis, (low, high) in enumerate(voxels.tolist(), start=1):
            data = data.narrow(axis, max(-low, 0), data.shape[axis] - max(-low, 0) - max(-high, 0))
        sides = [max(v, 0) for low_high in voxels[::-1].tolist() for v in low_high]
        data = torch.nn.functional.pad(data, sides, value=fill).contiguous()
        if not isinstance(volume, MetaTensor):
            return data
        affine = volume.affine.clone()
        affine[:3, 3] -= affine[:3, :3] @ torch.as_tensor(voxels[:, 0]).to(affine)
        return MetaTensor(data, affine=affine)


class RandFieldOfViewd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`RandFieldOfView`: all keys change alike; one mode, or one a key.

    Example:
        >>> change = RandFieldOfViewd(["image", "label"], mode=["image", "label"]).set_random_state(seed=0)
        >>> data = change({"image": torch.rand(1, 8, 8, 8), "label": torch.ones(1, 8, 8, 8).long()})
        >>> data["image"].shape == data["label"].shape
        True
    """

    def __init__(
        self,
        keys: KeysCollection,
        fraction: float = 0.35,
        mode: Mode | Sequence[Mode] = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.change = RandFieldOfView(fraction)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None):
        """See MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.change.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping) -> dict:
        self.change.randomize()
        changed = {k: self.change(data[k], mode, randomize=False) for k, mode in self.key_iterator(data, self.mode)}
        return {**data, **changed}
