"""One DICOM series as a volume: which files of a folder it has, in which order, and what forbids to stack them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from monai_hyper.types import InputError

DERIVED = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "DOC")
"""Modalities that annotate images and are none."""

SAME_PLACE = 0.01
"""Slices closer than this lie at one place, mm."""

UNEVEN = 0.02
"""How much distances of slices may differ, relative to the median one."""

TILT = 0.5
"""Largest angle between the line of slices and their normal, degrees."""

_FACTOR_TAGS = ("Units", "DecayCorrection", "PatientWeight", "SeriesTime",
                "RadiopharmaceuticalInformationSequence")  # fmt: skip

_TAGS = ("SeriesInstanceUID", "SeriesNumber", "Modality", "ImagePositionPatient",
         "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
         "SliceThickness",
         *_FACTOR_TAGS)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Slices of one volume in the order of their positions.

    Args:
        files: one for every slice; or the only one, of a series with several slices in a file.
        shape: voxels along rows' direction, columns' direction and slices; None for several slices in a file.
        affine: ``(4, 4)``, RAS+ mm; None for several slices in a file.
        factor: what values are multiplied by: 1, or of PET from Bq/ml to SUV by body weight.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int] | None
    affine: np.ndarray | None
    factor: float = 1.0


def find_series(folder: Path, among: Collection[str] = ()) -> Series:
    """The only image series of a folder; annotations (SEG, RTSTRUCT and others) may lie beside it.

    Args:
        among: UIDs; of several series one of these is meant.

    Raises:
        InputError: if there is none or several; for slices of different orientation or size, several images at one
            place, missing slices, a tilted gantry, colours, or PET that tells too little for SUV.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    states = [path.stat() for path in files]
    return _found(folder, frozenset(among), tuple((p, s.st_mtime_ns, s.st_size) for p, s in zip(files, states)))


@lru_cache(maxsize=4)  # of one volume the grid is asked for first, then the voxels
def _found(folder: Path, among: frozenset[str], files: tuple[tuple[Path, int, int], ...]) -> Series:
    groups: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    for path, *_ in files:
        header = _header(path)
        if header is not None and header.get("Modality") not in DERIVED:
            groups[header.get("SeriesInstanceUID", "")].append((path, header))
    if len(groups) > 1 and among:
        groups = {uid: found for uid, found in groups.items() if uid in among} or groups
    if len(groups) != 1:
        each = [f"number {h[0][1].get('SeriesNumber', '?')} ({h[0][1].get('Modality')}, {len(h)} files)"
                for h in groups.values()]  # fmt: skip
        raise InputError(
            f"{folder}: expected one DICOM series of images, found {len(groups) or 'none'}"
            f"{': ' * bool(each)}{', '.join(each)}. Put every series in a folder of its own."
        )
    return _stacked(folder, next(iter(groups.values())))


def read_series(series: Series) -> np.ndarray:
    """Voxels ``(D, H, W)`` float32, in HU for CT and SUV for PET; compressed files are fine."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in series.files])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # every slice has a slope of its own in PET
    return sitk.GetArrayFromImage(reader.Execute()).T * np.float32(series.factor)


def _header(path: Path) -> pydicom.Dataset | None:
    """What is needed of a file's header; None if it is no DICOM file."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except InvalidDicomError:
        return None


def _stacked(folder: Path, found: Sequence[tuple[Path, pydicom.Dataset]]) -> Series:
    """The volume of a series' files."""
    first = found[0][1]
    if len(found) == 1 and int(first.get("NumberOfFrames", 1) or 1) > 1:
        return Series((found[0][0],), None, None, _factor(folder, first))
    for path, header in found:
        if any(header.get(tag) is None for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")):
            raise InputError(
                f"{path}: expected position, orientation and spacing of a slice, found none. Export it again."
            )
    _refuse_unlike(folder, [header for _, header in found])
    across, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(across, down)
    places = {path: np.array(header.ImagePositionPatient, dtype=float) for path, header in found}
    files = sorted(places, key=lambda path: (places[path] @ normal, path.name))
    files = _without_copies(folder, files, {path: places[path] @ normal for path in files})
    thickness = float(first.get("SliceThickness") or 1)
    step = _step(folder, files, [places[path] for path in files], normal) if len(files) > 1 else thickness
    row, column = (float(each) for each in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack([across * column, down * row, normal * step, places[files[0]]], 1)
    affine[:2] *= -1  # the patient's left and back are positive in DICOM
    shape = (int(first.Columns), int(first.Rows), len(files))
    return Series(tuple(files), shape, affine, _factor(folder, first))


def _refuse_unlike(folder: Path, headers: Sequence[pydicom.Dataset]) -> None:
    """Slices of one volume share orientation, size and spacing, and hold one number a voxel."""
    first = headers[0]
    if int(first.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{folder}: expected one number a voxel, found {first.SamplesPerPixel}. Take colours out.")
    for name, unit in (("ImageOrientationPatient", 1e-3), ("PixelSpacing", 1e-3), ("Rows", 0), ("Columns", 0)):
        values = [np.atleast_1d(np.array(header.get(name), dtype=float)) for header in headers]
        unlike = sum(np.abs(value - values[0]).max() > unit for value in values)
        if unlike:
            raise InputError(
                f"{folder}: expected slices that share {name}, found {unlike} of {len(headers)} that differ from "
                f"{np.array(first.get(name)).tolist()}. Take localizers out, put every stack in a folder of its own."
            )


def _without_copies(folder: Path, files: Sequence[Path], along: dict[Path, float]) -> list[Path]:
    """One file for every place.

    Raises:
        InputError: if files at one place show different things.
    """
    kept = [files[0]]
    for path in files[1:]:
        if along[path] - along[kept[-1]] > SAME_PLACE:
            kept.append(path)
        elif not np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (kept[-1], path))):
            raise InputError(
                f"{folder}: expected one slice at a place, found {kept[-1].name} and {path.name} at "
                f"{along[path]:.2f} mm, which differ: times, echoes or phases of one scan. "
                "Put each in a folder of its own."
            )
    return kept


def _step(folder: Path, files: Sequence[Path], places: Sequence[np.ndarray], normal: np.ndarray) -> float:
    """Distance of two or more slices in mm.

    Raises:
        InputError: if slices are missing, or the gantry was tilted.
    """
    line = places[-1] - places[0]
    angle = np.degrees(np.arccos(min(1.0, float(line @ normal / np.linalg.norm(line)))))
    if angle > TILT:
        raise InputError(
            f"{folder}: expected slices that lie behind each other, found them shifted by {angle:.1f} degrees: the "
            "gantry was tilted. Resample the series, for instance with dcm2niix."
        )
    distances = np.diff([place @ normal for place in places])
    step = float(np.median(distances))
    worst = int(np.abs(distances - step).argmax())
    if abs(distances[worst] - step) > max(UNEVEN * step, 2 * SAME_PLACE):
        missing = round(distances[worst] / step) - 1
        raise InputError(
            f"{folder}: expected a slice every {step:.2f} mm, found {distances[worst]:.2f} mm between "
            f"{files[worst].name} and {files[worst + 1].name}"
            f"{f': {missing} missing' if missing > 0 else ''}. Fetch the series again, or resample it."
        )
    return float(distances.mean())


def _factor(folder: Path, header: pydicom.Dataset) -> float:
    """From stored values to SUV by body weight in PET, else 1.

    Raises:
        InputError: if PET tells too little.
    """
    if header.get("Modality") != "PT" or header.get("Units") == "GML":
        return 1.0
    try:
        tracer = header.RadiopharmaceuticalInformationSequence[0]
        dose, half_life = float(tracer.RadionuclideTotalDose), float(tracer.RadionuclideHalfLife)
        weight = float(header.PatientWeight)
        if (
            header.Units != "BQML"
            or header.DecayCorrection != "START"
            or not (dose > 0 and half_life > 0 and weight > 0)
        ):
            raise ValueError
        passed = _seconds(tracer.RadiopharmaceuticalStartTime, header.SeriesTime)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: expected PET in Bq/ml, corrected for decay to the start of the scan, with weight, dose, "
            "half-life and times, to give SUV; found something else. Convert it to SUV, and give that as NIfTI."
        ) from error
    return weight * 1000 / (dose * 0.5 ** (passed / half_life))


def _seconds(injected: str, scanned: str) -> float:
    """Time from one time of day to the next other one, DICOM's HHMMSS.

    Example:
        >>> _seconds("235000", "001000.00")
        1200.0
    """
    first, second = (datetime.strptime(str(text).partition(".")[0], "%H%M%S") for text in (injected, scanned))
    return ((second - first) % timedelta(days=1)).total_seconds()
