"""Volumes to the grid a task works on, and results back to the grid of the query.

Both grids are parallel (permuted, flipped and scaled against each other, never rotated), so resampling is one
small matrix product per axis. That samples where MONAI's ``SpatialResample`` samples, without a coordinate per
voxel, which for a large CT takes more memory than the CT, and it smooths on the way where voxels become larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_hyper.data.labels import label_values
from monai_hyper.types import InputError

Mode = Literal["image", "label"]

_SMOOTH_FROM = 1.5
"""Smallest growth of a voxel's side that is smoothed against aliasing."""


def task_grid(affine: Tensor, shape: Sequence[int], spacing: float) -> tuple[Tensor, tuple[int, ...]]:
    """The isotropic RAS grid over the field of view of a volume.

    The lower edges of both grids (not their first voxel centres) coincide; the upper ones to half a new voxel.
    An oblique volume keeps its own axes, in the order and direction nearest to R, A, S.

    Args:
        affine: voxel to RAS+ mm of the volume, ``(4, 4)``.
        shape: its voxels ``(D, H, W)``.
        spacing: side of a voxel of the grid, mm.

    Returns:
        affine ``(4, 4)`` float64 and shape of the grid.

    Example:
        >>> grid, shape = task_grid(torch.diag(torch.tensor([-1.0, 1.0, 4.0, 1.0])), (10, 10, 5), spacing=2.0)
        >>> shape, grid[:3, 3].tolist()
        ((5, 5, 10), [-8.5, 0.5, -1.0])
    """
    old = affine.detach().cpu().numpy().astype(np.float64)
    orientation = nibabel.io_orientation(old)
    canonical = old @ nibabel.orientations.inv_ornt_aff(orientation, tuple(shape))
    order = np.argsort(orientation[:, 0])
    sides = np.linalg.norm(canonical[:3, :3], axis=0)
    size = tuple(max(1, round(shape[axis] * side / spacing)) for axis, side in zip(order, sides))
    new = canonical.copy()
    new[:3, :3] *= spacing / sides
    new[:3, 3] += (new[:3, :3] - canonical[:3, :3]).sum(1) / 2
    return torch.from_numpy(new), size


def resample(volume: Tensor, source: Tensor, target: Tensor, shape: Sequence[int]) -> Tensor:
    """Sample a volume trilinearly on a parallel grid; beyond its edge the nearest voxel counts.

    Where voxels grow by more than half, a Gaussian of deviation ``sqrt(f^2 - 1) / 2`` old voxels along that axis
    comes first, ``f`` being the growth: it widens a voxel to about the new one's size.

    Args:
        volume: ``(C, D, H, W)``, float.
        source, target: affines ``(4, 4)`` of the volume and of the grid, RAS+ mm.
        shape: voxels of the grid.

    Returns:
        ``(C, *shape)``.

    Raises:
        InputError: if the axes of the grids are not parallel.
    """
    mapping = np.linalg.solve(source.cpu().double().numpy(), target.cpu().double().numpy())
    scale, offset = mapping[:3, :3], mapping[:3, 3]
    axes = np.abs(scale).argmax(0)  # for every axis of the target, its axis in the source
    rest = scale.copy()
    rest[axes, range(3)] = 0
    if len(set(axes.tolist())) != 3 or np.abs(rest * np.array(shape)).max() > 0.1:
        raise InputError(f"the grids are turned against each other by {mapping.round(4).tolist()}; expected parallel.")
    volume = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    # Axes that shrink come first: what follows has less to do.
    for new in sorted(range(3), key=lambda n: shape[n] / volume.shape[1 + axes[n]]):
        old = int(axes[new])
        matrix = _sampling_matrix(volume.shape[1 + old], shape[new], scale[old, new], offset[old]).to(volume)
        if not _is_identity(matrix):
            volume = torch.matmul(volume.movedim(1 + old, -1), matrix.T).movedim(-1, 1 + old)
    return volume.permute(0, *(1 + int(axis) for axis in axes)).contiguous()


def _is_identity(matrix: Tensor) -> bool:
    return matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix)).to(matrix))


def _sampling_matrix(old: int, new: int, step: float, start: float) -> Tensor:
    """``(new, old)`` weights that smooth a line of ``old`` voxels and read it at ``start + step * i``."""
    position = np.clip((start + step * np.arange(new)).round(6), 0, old - 1)
    low = np.minimum(position.astype(int), max(old - 2, 0))
    part = position - low
    matrix = np.zeros((new, old))
    matrix[range(new), low] = 1 - part
    matrix[range(new), np.minimum(low + 1, old - 1)] += part
    if abs(step) > _SMOOTH_FROM:
        distance = np.arange(old)[:, None] - np.arange(old)[None]
        smooth = np.exp(-2 * distance**2 / (step**2 - 1))
        matrix = matrix @ (smooth / smooth.sum(1, keepdims=True))
    return torch.from_numpy(matrix)


class ResampleToGrid(Transform):
    """Bring a volume to the isotropic RAS grid over its own field of view, see :func:`task_grid`.

    Args:
        spacing: side of a voxel, mm.
        mode: "image" samples as :func:`resample` does; "label" does so for every value and keeps the strongest,
            which leaves smoother outlines than nearest neighbour.

    Raises:
        InputError: for a spacing that is not positive.

    Example:
        >>> volume = MetaTensor(torch.rand(1, 8, 8, 4), affine=torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0])))
        >>> ResampleToGrid(spacing=1.0)(volume).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, spacing: float, mode: Mode = "image") -> None:
        if not spacing > 0:
            raise InputError(f"spacing is {spacing}; expected a positive number of mm.")
        self.spacing, self.mode = spacing, mode

    def __call__(self, volume: MetaTensor) -> MetaTensor:
        """
        Args:
            volume: ``(1, D, H, W)`` with its affine.

        Returns:
            ``(1, d, h, w)`` with the grid's affine, float32 for an image, the dtype given for a label.
        """
        affine, shape = task_grid(volume.affine, volume.shape[1:], self.spacing)
        if self.mode == "image":
            data = resample(volume.float(), volume.affine, affine, shape)
        else:
            data = _resample_label(volume.as_tensor(), volume.affine, affine, shape)
        return MetaTensor(data, affine=affine, meta={k: v for k, v in volume.meta.items() if k == "filename_or_obj"})


def _resample_label(label: Tensor, source: Tensor, target: Tensor, shape: Sequence[int]) -> Tensor:
    """The value that fills most of each new voxel; of equal ones the lowest."""
    best, result = None, None
    for value in label_values(label):
        share = resample((label == value).float(), source, target, shape)
        if best is None:
            best, result = share, torch.full(share.shape, value, dtype=label.dtype, device=label.device)
            continue
        wins = share > best
        best, result = torch.where(wins, share, best), torch.where(wins, torch.full_like(result, value), result)
    return result


class ResampleToGridd(MapTransform):
    """Dictionary version of :class:`ResampleToGrid`; one mode for all keys, or one a key.

    Example:
        >>> data = {"image": MetaTensor(torch.rand(1, 8, 8, 4)), "label": MetaTensor(torch.ones(1, 8, 8, 4).long())}
        >>> ResampleToGridd(["image", "label"], 2.0, ["image", "label"])(data)["label"].shape
        torch.Size([1, 4, 4, 2])
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float,
        mode: Mode | Sequence[Mode] = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resample = [ResampleToGrid(spacing, m) for m in ensure_tuple_rep(mode, len(self.keys))]

    def __call__(self, data: Mapping) -> dict:
        return {**data, **{key: to_grid(data[key]) for key, to_grid in self.key_iterator(data, self.resample)}}


class InvertToGrid(Transform):
    """Bring maps from the task grid of a query back to the query's own grid, the inverse of :class:`ResampleToGrid`.

    Args:
        spacing: side of a voxel of the task grid, mm.

    Example:
        >>> query = MetaTensor(torch.rand(1, 8, 8, 4), affine=torch.diag(torch.tensor([-1.0, 1.0, 2.0, 1.0])))
        >>> probabilities = ResampleToGrid(1.0)(query).expand(3, -1, -1, -1)
        >>> InvertToGrid(1.0)(probabilities, query).shape
        torch.Size([3, 8, 8, 4])
    """

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def __call__(self, maps: Tensor, query: MetaTensor) -> MetaTensor:
        """
        Args:
            maps: ``(N, d, h, w)`` on the task grid, for instance probabilities.
            query: the volume as it was read, ``(1, D, H, W)``; only its grid is used.

        Returns:
            ``(N, D, H, W)`` float32 with the affine of the query.

        Raises:
            InputError: if ``maps`` do not lie on the task grid of the query.
        """
        affine, shape = task_grid(query.affine, query.shape[1:], self.spacing)
        if tuple(maps.shape[1:]) != shape:
            raise InputError(f"the maps have shape {tuple(maps.shape[1:])}; the task grid of the query has {shape}.")
        data = resample(maps.float(), affine, query.affine, tuple(query.shape[1:]))
        return MetaTensor(data, affine=query.affine.clone())


class InvertToGridd(MapTransform):
    """Dictionary version of :class:`InvertToGrid`; the query lies beside the maps, as read.

    Example:
        >>> query = MetaTensor(torch.rand(1, 4, 4, 4))
        >>> data = {"logits": torch.rand(2, 4, 4, 4), "query": query}
        >>> InvertToGridd("logits", "query", spacing=1.0)(data)["logits"].shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(self, keys: KeysCollection, query: str, spacing: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.query, self.invert = query, InvertToGrid(spacing)

    def __call__(self, data: Mapping) -> dict:
        query = data[self.query]
        return {**data, **{key: self.invert(data[key], query) for key in self.key_iterator(data)}}
