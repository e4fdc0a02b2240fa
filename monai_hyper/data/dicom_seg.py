"""Segments of a DICOM Segmentation object (SEG), as masks on the grid of an image."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import iter_pixels
from scipy.ndimage import affine_transform
from torch import Tensor

from monai_hyper.types import InputError

ON_A_SLICE = 0.1
"""How far a frame may lie from where it is expected, in slices or pixels."""

_PARALLEL = 0.9999
_TIE = 1e-3  # voxels: midway between two, rounding errors must not take now one and now the other
_TO_RAS = np.array([-1.0, -1.0, 1.0])  # the patient's left and back are positive in DICOM
_BROKEN = (OSError, EOFError, ValueError, AttributeError, NotImplementedError, RuntimeError, BytesLengthException)


@dataclass(frozen=True)
class Frames:
    """Where the frames of a Segmentation lie.

    Args:
        segments: number of the segment of every frame; None where a frame holds all of them (LABELMAP).
        slices: index along the third axis of every frame, from 0.
        affine: ``(4, 4)`` of the grid (columns, rows, slices), RAS+ mm.
    """

    segments: tuple[int | None, ...]
    slices: np.ndarray
    affine: np.ndarray


def segment_names(path: Path) -> tuple[str, ...]:
    """Labels of the segments in the order of the file; those of one label count once, background does not.

    Raises:
        InputError: if the file cannot be read, or lists no segment.
    """
    with whole(path):
        return tuple(_numbers(path, _read(path, ["SegmentSequence", "SegmentationType"], pixels=False)))


def read_segments(path: Path, image: MetaTensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Masks of segments, brought to the grid of an image by nearest neighbour.

    Args:
        path: BINARY, FRACTIONAL (from half of the largest value upward) or LABELMAP.
        image: ``(1, D, H, W)`` with its affine, RAS+ mm.
        names: labels of the segments to read; None takes all.

    Returns:
        a boolean mask ``(D, H, W)`` by label; segments without frames are empty.

    Raises:
        InputError: if the file is corrupt or truncated, lists no segment, does not tell where its frames lie, or
            all masks lie outside of the image.
    """
    with whole(path):
        data = _read(path)
        wanted = {name: numbers for name, numbers in _numbers(path, data).items() if names is None or name in names}
        frames = _frames(path, data, image)
    masks, found = {}, False
    for name, numbers in wanted.items():
        chosen = [index for index, segment in enumerate(frames.segments) if segment is None or segment in numbers]
        mask, first = _stacked(path, data, frames.slices, chosen, numbers)
        affine = frames.affine.copy()
        affine[:3, 3] += first * affine[:3, 2]
        found |= bool(mask.any())
        masks[name] = torch.from_numpy(onto_grid(mask, affine, image))
    refuse_outside(path, masks, found)
    return masks


def refuse_outside(path: Path, masks: dict[str, Tensor], found: bool) -> None:
    """Something was drawn (``found``), but nothing of it lies in the image.

    Raises:
        InputError: then.
    """
    if found and not any(mask.any() for mask in masks.values()):
        raise InputError(
            f"{path}: expected structures that lie in the image, found {', '.join(masks)} outside of it. "
            "Give the image that was annotated."
        )


def onto_grid(mask: np.ndarray, affine: np.ndarray, image: MetaTensor) -> np.ndarray:
    """A mask on the grid of an image, by nearest neighbour; exact where the grids agree but for a crop.

    Args:
        mask: ``(d, h, w)``, boolean.
        affine: ``(4, 4)`` of ``mask``, RAS+ mm.
        image: ``(1, D, H, W)`` with its affine.

    Returns:
        ``(D, H, W)``, boolean.
    """
    result = np.zeros(image.shape[1:], bool)
    if not mask.any():
        return result
    axes = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low, high = (np.array([axis[end] for axis in axes]) for end in (0, -1))
    to_mask = np.linalg.inv(affine) @ image.affine.cpu().double().numpy()
    corners = np.array([*itertools.product(*zip(low - 1, high + 1)), low]) + 0.0
    inside = (corners - to_mask[:3, 3]) @ np.linalg.inv(to_mask[:3, :3]).T
    start = np.clip(np.floor(inside.min(0)), 0, result.shape).astype(int)
    stop = np.clip(np.ceil(inside.max(0)) + 1, 0, result.shape).astype(int)
    if (stop <= start).any():
        return result
    crop = mask[tuple(slice(a, b + 1) for a, b in zip(low, high))].astype(np.uint8)
    offset = to_mask[:3, :3] @ start + to_mask[:3, 3] - low - _TIE
    result[tuple(slice(a, b) for a, b in zip(start, stop))] = affine_transform(
        crop, to_mask[:3, :3], offset, tuple(stop - start), order=0, mode="grid-constant"
    )
    return result


def _read(path: Path, tags: list[str] | None = None, pixels: bool = True) -> Dataset:
    data = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags)
    if not data.get("SegmentSequence"):
        raise InputError(f"{path}: expected a DICOM Segmentation with segments, found none. Export it again.")
    return data


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Reading a header, parts of which are looked at only when they are needed.

    Raises:
        InputError: if it ends early.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, EOFError, ValueError, AttributeError, struct.error, InvalidDicomError,
            BytesLengthException) as error:  # fmt: skip
        raise truncated(path, type(error).__name__) from error


def truncated(path: Path, found: str) -> InputError:
    """The error that tells of a file that cannot be read."""
    return InputError(
        f"{path}: expected a DICOM object that can be read, found a corrupt or truncated one ({found}). "
        "Copy or export it again."
    )


def _numbers(path: Path, data: Dataset) -> dict[str, tuple[int, ...]]:
    """Numbers of the segments by label; 0 is the background of a LABELMAP."""
    found: dict[str, tuple[int, ...]] = {}
    for segment in data.SegmentSequence:
        if segment.get("SegmentNumber") is None:
            raise truncated(path, "a segment without number")
        number = int(segment.SegmentNumber)
        if number or data.get("SegmentationType") != "LABELMAP":
            name = str(segment.get("SegmentLabel") or "").strip() or f"segment {number}"
            found[name] = (*found.get(name, ()), number)
    if not found:
        raise InputError(f"{path}: expected a segment, found background only. Export it again with a structure.")
    return found


def _frames(path: Path, data: Dataset, image: MetaTensor) -> Frames:
    count = int(data.get("NumberOfFrames") or 1)
    groups = data.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * count
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if len(groups) != count:
        raise truncated(path, f"{count} frames, descriptions of {len(groups)}")

    def value(sequence: str, name: str) -> list:
        items = [(group.get(sequence) or shared.get(sequence) or [Dataset()])[0].get(name) for group in groups]
        if any(item is None for item in items):
            raise InputError(f"{path}: expected {name} of every frame, found none. Export the segmentation again.")
        return items

    across = np.array(value("PlaneOrientationSequence", "ImageOrientationPatient"), dtype=float)
    spacing = np.array(value("PixelMeasuresSequence", "PixelSpacing"), dtype=float)
    places = np.array(value("PlanePositionSequence", "ImagePositionPatient"), dtype=float) * _TO_RAS
    if np.ptp(across, 0).max() > 1e-3 or np.ptp(spacing, 0).max() > 1e-3:
        raise InputError(f"{path}: expected frames of one orientation and spacing, found several. Save each by itself.")
    axes = across[0].reshape(2, 3) * _TO_RAS
    normal = np.cross(across[0, :3], across[0, 3:]) * _TO_RAS
    affine = np.eye(4)
    affine[:3, :2] = (axes * spacing[0][::-1, None]).T
    slices, step = _slices(path, data, shared, affine[:3, :2], normal, places, image)
    affine[:3, 2], affine[:3, 3] = normal * step, places[slices.argmin()]
    if np.abs((places - affine[:3, 3]) @ axes.T).max() > ON_A_SLICE * spacing.min():
        raise InputError(
            f"{path}: expected frames that lie behind each other, found them shifted: the gantry was tilted, or they "
            "are tiles. Resample image and segmentation together."
        )
    return Frames(_segments(path, data, groups, shared), slices, affine)


def _segments(path: Path, data: Dataset, groups: Sequence[Dataset], shared: Dataset) -> tuple[int | None, ...]:
    """Number of the segment of every frame, None of a LABELMAP."""
    if data.get("SegmentationType") == "LABELMAP":
        return (None,) * len(groups)
    only = int(data.SegmentSequence[0].SegmentNumber) if len(data.SegmentSequence) == 1 else None
    found = []
    for group in groups:
        item = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        number = item[0].get("ReferencedSegmentNumber", only) if item else only
        if number is None:
            raise InputError(f"{path}: expected the segment of every frame, found none. Export the segmentation again.")
        found.append(int(number))
    return tuple(found)


def _slices(
    path: Path,
    data: Dataset,
    shared: Dataset,
    plane: np.ndarray,
    normal: np.ndarray,
    places: np.ndarray,
    image: MetaTensor,
) -> tuple[np.ndarray, float]:
    """Index of the slice of every frame, and the distance of slices, mm; frames may be few and far between.

    The distance is the one the file tells if all frames fit it, else the image's if frames lie on its slices, else
    the smallest between two frames.
    """
    along = places @ normal
    along = along - along.min()
    measures = (shared.get("PixelMeasuresSequence") or [Dataset()])[0]
    told, thickness = measures.get("SpacingBetweenSlices"), measures.get("SliceThickness")
    gaps = np.diff(np.unique(along))
    gaps = gaps[gaps > 0.01]
    candidates = [
        float(told or 0),
        _image_step(plane, normal, places, image),
        float(gaps.min()) if len(gaps) else float(thickness or 0),
        float(thickness or 0),
    ]
    for step in candidates:
        if step > 0:
            last = round(along.max() / step)
            step = along.max() / last if last else step
            slices = np.rint(along / step)
            if np.abs(along / step - slices).max() <= ON_A_SLICE:
                return slices.astype(int), float(step)
    raise InputError(
        f"{path}: expected frames at equal distances, found distances from {gaps.min() if len(gaps) else 0:.2f} mm on "
        "that fit no grid. Resample the segmentation to its image."
    )


def _image_step(plane: np.ndarray, normal: np.ndarray, places: np.ndarray, image: MetaTensor) -> float:
    """Distance of the image's slices, mm, if frames are taken from them, else 0."""
    affine = image.affine.cpu().double().numpy()
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(normal @ affine[:3, :3] / sides)
    axis = int(cosines.argmax())
    others = sorted(sides[[each for each in range(3) if each != axis]])
    alike = np.allclose(sorted(np.linalg.norm(plane, axis=0)), others, rtol=0.01)
    index = (np.linalg.inv(affine)[axis, :3] @ places.T) + np.linalg.inv(affine)[axis, 3]
    on_slices = np.abs(index - np.rint(index)).max() <= ON_A_SLICE
    return float(sides[axis]) if cosines[axis] > _PARALLEL and alike and on_slices else 0.0


def _stacked(
    path: Path, data: Dataset, slices: np.ndarray, chosen: Sequence[int], numbers: Collection[int]
) -> tuple[np.ndarray, int]:
    """Mask ``(columns, rows, slices)`` of some frames, and the index of its first slice."""
    if not chosen:
        return np.zeros((1, 1, 1), bool), 0
    first, last = int(slices[chosen].min()), int(slices[chosen].max())
    mask = np.zeros((int(data.Columns), int(data.Rows), last - first + 1), bool)
    kind, largest = data.get("SegmentationType"), int(data.get("MaximumFractionalValue") or 1)
    try:
        for index, pixels in zip(chosen, _pixels(data, chosen)):
            inside = np.isin(pixels, tuple(numbers)) if kind == "LABELMAP" else 2 * pixels.astype(int) >= largest
            mask[..., slices[index] - first] |= inside.T
    except _BROKEN as error:
        raise truncated(path, type(error).__name__) from error
    return mask, first


def _pixels(data: Dataset, chosen: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames as they are stored, ``(rows, columns)``, one after the other."""
    if data.BitsAllocated != 1 or data.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(data, indices=list(chosen), raw=True)
        return
    size = data.Rows * data.Columns
    for index in chosen:  # frames of single bits follow each other within a byte
        start = index * size
        stored = np.frombuffer(data.PixelData[start // 8 : -(-(start + size) // 8)], np.uint8)
        bits = np.unpackbits(stored, bitorder="little")[start % 8 : start % 8 + size]
        yield bits.reshape(data.Rows, data.Columns)
