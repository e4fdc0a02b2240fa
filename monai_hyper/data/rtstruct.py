"""Regions of a DICOM Structure Set (RTSTRUCT), filled on the slices of an image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from monai_hyper.data.dicom_seg import ON_A_SLICE, refuse_outside, truncated, whole
from monai_hyper.types import InputError

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contours that enclose something; points and open lines do not."""

FLAT = 0.25
"""How far a contour may leave its plane, in slices of the image."""

_TO_RAS = np.array([-1.0, -1.0, 1.0])  # the patient's left and back are positive in DICOM
_WITHIN = 0.95  # a hole may touch what it is cut from, and rounding then puts a few of its pixels outside
_TIE = 1e-4  # pixels: rounding errors must not decide about centres that lie on a contour


def roi_names(path: Path) -> tuple[str, ...]:
    """Names of the regions with a closed contour, in the order of the file; those of one name count once.

    Raises:
        InputError: if the file cannot be read, or no region has a closed contour.
    """
    with whole(path):
        return tuple(_regions(path))


def read_rois(path: Path, image: MetaTensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Masks of regions: a voxel belongs to one if its centre lies within the contours of its slice.

    Contours belong to the nearest slice; of several planes in one slice the nearest counts. Between contours that
    were drawn on every other slice, or rarer, shapes are interpolated. Contours inside another are holes (islands in
    holes again are none), those that only overlap are united, copies count once.

    Args:
        path: a Structure Set.
        image: ``(1, D, H, W)`` with its affine, RAS+ mm; its slices may be any axis of the tensor.
        names: regions to read; None takes all that have a closed contour.

    Returns:
        a boolean mask ``(D, H, W)`` by name.

    Raises:
        InputError: if the file is corrupt or truncated; for an unknown or empty region; if contours are not parallel
            to slices of the image, or all lie outside of it.
    """
    with whole(path):
        regions = _regions(path)
    empty = sorted(set(names or ()) - set(regions))
    if empty:
        raise InputError(
            f"{path}: expected closed contours of {', '.join(empty)}, found none; there are some of "
            f"{', '.join(regions)}. Choose among these."
        )
    masks = {}
    for name, each in regions.items():
        if names is None or name in names:
            drawn = [_filled(path, name, contours, image) for contours in each]
            masks[name] = torch.from_numpy(np.logical_or.reduce(drawn))
    refuse_outside(path, masks, found=True)
    return masks


def fill(contours: Sequence[np.ndarray], shape: tuple[int, int], union: bool = True) -> np.ndarray:
    """Pixels whose centres lie within the contours of one plane.

    Args:
        contours: corners ``(P, 2)`` of each, in pixels (centres are whole numbers), closed by themselves.
        shape: pixels of both axes.
        union: unite contours that overlap and take those inside another as holes; otherwise a pixel counts
            that an odd number of them encloses.

    Returns:
        ``shape``, boolean.

    Example:
        >>> square = np.array([[0.5, 0.5], [0.5, 3.5], [3.5, 3.5], [3.5, 0.5]])
        >>> fill([square, square / 2 + 1], (5, 5)).astype(int).tolist()
        [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """
    pieces = [piece for piece in (_polygon(points - _TIE, shape) for points in contours) if piece.mask.any()]
    pieces = list({(*piece.low, piece.mask.shape, piece.mask.tobytes()): piece for piece in pieces}.values())
    pieces.sort(key=lambda piece: np.count_nonzero(piece.mask), reverse=True)
    result = np.zeros(shape, bool)
    for index, piece in enumerate(pieces):
        part = result[piece.place]
        if not union:
            part ^= piece.mask
        elif sum(_encloses(other, piece) for other in pieces[:index]) % 2:
            part &= ~piece.mask
        else:
            part |= piece.mask
    return result


@dataclass(frozen=True)
class _Piece:
    """What one contour encloses: a mask of the smallest rectangle around it, which begins at ``low``."""

    low: tuple[int, int]
    mask: np.ndarray

    @property
    def place(self) -> tuple[slice, slice]:
        return tuple(slice(low, low + size) for low, size in zip(self.low, self.mask.shape))


def _encloses(outer: _Piece, inner: _Piece) -> bool:
    """Whether one piece lies within another, but for a few pixels."""
    (top, left), (height, width) = outer.low, outer.mask.shape
    (row, column), (rows, columns) = inner.low, inner.mask.shape
    if row >= top + height or row + rows <= top or column >= left + width or column + columns <= left:
        return False
    first, last = max(row, top), min(row + rows, top + height)
    start, end = max(column, left), min(column + columns, left + width)
    shared = (
        outer.mask[first - top : last - top, start - left : end - left]
        & inner.mask[first - row : last - row, start - column : end - column]
    )
    return np.count_nonzero(shared) >= _WITHIN * np.count_nonzero(inner.mask)


def _polygon(points: np.ndarray, shape: tuple[int, int]) -> _Piece:
    """Even-odd rule: along every row, inside begins and ends where an edge crosses."""
    lowest = np.clip(np.ceil(points.min(0)), 0, shape).astype(int)
    rows, columns = np.clip(np.ceil(points.max(0)), 0, shape).astype(int) - lowest
    start, end = points - lowest, np.roll(points - lowest, -1, axis=0)
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    first = np.clip(np.ceil(low), 0, rows).astype(int)  # rows from the lower end on, short of the upper end
    count = np.clip(np.ceil(high), 0, rows).astype(int) - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + first[edge]
    part = (row - start[edge, 0]) / (end[edge, 0] - start[edge, 0])
    column = start[edge, 1] + part * (end[edge, 1] - start[edge, 1])
    crossings = np.zeros((rows, columns + 1), np.int64)
    np.add.at(crossings, (row, np.clip(np.ceil(column), 0, columns).astype(int)), 1)
    return _Piece((int(lowest[0]), int(lowest[1])), crossings.cumsum(1)[:, :-1] % 2 == 1)


def _regions(path: Path) -> dict[str, list[list[Dataset]]]:
    """Closed contours of every region, by name."""
    data = _read(path)
    names = {}
    for roi in data.StructureSetROISequence:
        names[roi.get("ROINumber")] = str(roi.get("ROIName") or "").strip() or f"region {roi.get('ROINumber')}"
    found: dict[str, list[list[Dataset]]] = {name: [] for name in names.values()}
    for roi in data.ROIContourSequence or ():
        contours = [contour for contour in roi.get("ContourSequence") or () if _is_closed(contour)]
        if contours and roi.get("ReferencedROINumber") in names:
            found[names[roi.ReferencedROINumber]].append(contours)
    found = {name: regions for name, regions in found.items() if regions}
    if not found:
        raise InputError(
            f"{path}: expected regions with closed contours, found {len(names)} regions without. Draw a structure, or "
            "leave the file out."
        )
    return found


def _is_closed(contour: Dataset) -> bool:
    return contour.get("ContourGeometricType") in CLOSED and int(contour.get("NumberOfContourPoints") or 3) > 2


def _read(path: Path) -> Dataset:
    data = pydicom.dcmread(path, specific_tags=["StructureSetROISequence", "ROIContourSequence"])
    if not data.get("StructureSetROISequence") or "ROIContourSequence" not in data:
        raise InputError(
            f"{path}: expected a DICOM Structure Set with regions and contours, found none. Export it again."
        )
    return data


def _points(path: Path, contour: Dataset) -> np.ndarray:
    try:
        element = contour.get_item("ContourData")
        value = element.value if element is not None else b""
        # Numbers in text, straight from the file: pydicom would take a hundred times longer.
        values = value.split(b"\\") if isinstance(value, bytes) else value
        points = np.array(values or [], dtype=float).reshape(-1, 3)
    except ValueError as error:
        raise truncated(path, "a contour that is no list of points") from error
    told = contour.get("NumberOfContourPoints")
    if len(points) < 3 or (told is not None and int(told) != len(points)) or not np.isfinite(points).all():
        raise truncated(path, f"a contour of {told} points with {len(points)}")
    return points


def _filled(path: Path, name: str, contours: Sequence[Dataset], image: MetaTensor) -> np.ndarray:
    """Mask of one region."""
    to_voxels = np.linalg.inv(image.affine.cpu().double().numpy())
    points = [_points(path, contour) * _TO_RAS @ to_voxels[:3, :3].T + to_voxels[:3, 3] for contour in contours]
    axis = _slice_axis(path, name, points)
    planes = _planes([float(each[:, axis].mean()) for each in points])
    mask = np.zeros(image.shape[1:], bool)
    slices = np.moveaxis(mask, axis, 0)
    nearest: dict[int, float] = {}
    for place in planes:
        index = int(np.ceil(place - 0.5))
        if 0 <= index < len(slices) and abs(place - index) < abs(nearest.get(index, np.inf) - index):
            nearest[index] = place
    union = all(contour.ContourGeometricType == "CLOSED_PLANAR" for contour in contours)
    for index, place in nearest.items():
        drawn = [np.delete(points[each], axis, axis=1) for each in planes[place]]
        slices[index] = fill(drawn, slices.shape[1:], union)
    _bridge(slices, {index: place for index, place in nearest.items() if slices[index].any()})
    return mask


def _slice_axis(path: Path, name: str, voxels: Sequence[np.ndarray]) -> int:
    """Axis of the image along which contours do not extend."""
    extents = np.max([np.ptp(points, axis=0) for points in voxels], axis=0)
    axis = int(extents.argmin())
    if extents[axis] > FLAT:
        raise InputError(
            f"{path}: expected contours parallel to slices of the image, found those of {name} to extend over "
            f"{extents[axis]:.1f} of them. Give the series on which they were drawn."
        )
    return axis


def _planes(places: Sequence[float]) -> dict[float, list[int]]:
    """Which contours lie in which plane, by its place in slices."""
    planes: dict[float, list[int]] = {}
    last = -np.inf
    for index in np.argsort(places, kind="stable"):
        if places[index] - last > ON_A_SLICE:
            last = places[index]
        planes.setdefault(last, []).append(int(index))
    return planes


def _bridge(slices: np.ndarray, places: dict[int, float]) -> None:
    """Where a structure was drawn on every other slice, or rarer, fill those between, halfway from shape to shape.

    Shapes are interpolated by their signed distances (Raya and Udupa, "Shape-based interpolation of multidimensional
    objects", 1990). A gap wider than the usual one stays: there the structure ends and begins again.

    Args:
        slices: mask, slices first; filled in place.
        places: of the planes that were drawn, by slice.
    """
    drawn = sorted(places)
    gaps = np.diff([places[index] for index in drawn])
    if len(gaps) == 0 or np.median(gaps) <= 1.5:
        return
    for gap, first, last in zip(gaps, drawn, drawn[1:]):
        if gap > 1.5 * np.median(gaps):
            continue
        ends = [_signed_distance(slices[index]) for index in (first, last)]
        for index in range(first + 1, last):
            part = (index - first) / (last - first)
            slices[index] = (1 - part) * ends[0] + part * ends[1] > 0


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the border of a mask, in pixels, positive inside."""
    return distance_transform_edt(mask) - distance_transform_edt(~mask)
