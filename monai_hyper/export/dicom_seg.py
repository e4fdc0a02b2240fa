"""Write a label map as DICOM Segmentation (SEG) that refers to the series it belongs to."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from monai_hyper import __version__
from monai_hyper.data.dicom import find_series
from monai_hyper.data.volumes import read_header, read_image
from monai_hyper.export.codes import coding, colour
from monai_hyper.types import InputError

NOTICE = "AI-generated, research only"
"""Description of every object that is written."""

MAKER = "monai_hyper"
"""Manufacturer and algorithm in every object that is written."""

_CORNER_TOLERANCE = 0.01  # mm
_TO_LPS = np.array([-1.0, -1.0, 1.0, 1.0])[:, None]  # the patient's left and back are positive in DICOM
_BLANK = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
          "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator")  # fmt: skip
_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
          "SeriesNumber", "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient",
          "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "PatientPosition",
          "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
          "DimensionOrganizationSequence", "DimensionIndexSequence")  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The series that a label map belongs to.

    Args:
        headers: of its files in the order of slices; one only of a series with several slices in a file.
        affine: ``(4, 4)``, LPS+ mm, of voxels along rows' direction, columns' direction and slices.
    """

    headers: tuple[Dataset, ...]
    affine: np.ndarray


def save_dicom_seg(
    label: MetaTensor,
    classes: Sequence[str],
    values: Sequence[int],
    series: str | Path,
    path: str | Path,
    *,
    kind: Literal["BINARY", "LABELMAP"] = "BINARY",
    codes: Mapping[str, Code] | None = None,
    keep_identifiers: bool = False,
    overwrite: bool = False,
) -> Path:
    """Save a label map as DICOM Segmentation; the file appears under its name only when it is complete.

    It says that it was made by an algorithm, for research only. Segments have the numbers 1, 2, ... in the order of
    ``classes``; slices without any are left out.

    Args:
        label: ``(1, D, H, W)`` of whole numbers on the grid of the series.
        classes: names of the segments.
        values: which value of ``label`` each of them has.
        series: folder of the series that was segmented, see :func:`read_image`.
        path: ends in .dcm; its folder is made.
        kind: one mask for every class, which every reader takes, or one label map.
        codes: what certain classes are, where :func:`coding` does not know their names.
        keep_identifiers: whether to copy what tells the patient and the study (name, number, dates); otherwise this
            is left empty, and only the UIDs link the file to its images.
        overwrite: whether an existing file may be replaced.

    Returns:
        ``path``.

    Raises:
        InputError: if highdicom is not installed; if the file exists and may not be replaced; for another suffix;
            labels on another grid; values that no class has; or a series that lacks what links to it.
    """
    try:
        import highdicom
    except ImportError as error:
        raise InputError(
            f"{path}: expected the package highdicom to write DICOM, found none. Try: pip install monai_hyper[dicom]"
        ) from error
    path = checked_path(path, overwrite)
    array = numbered(label, classes, values, path)
    reference = read_reference(series, label, path, keep_identifiers)
    volume = highdicom.Volume(
        np.ascontiguousarray(array.transpose(2, 1, 0)),
        reference.affine[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=reference.headers[0].FrameOfReferenceUID,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote names of patients
        written = highdicom.seg.Segmentation(
            source_images=reference.headers,
            pixel_array=volume,
            segmentation_type=kind,
            segment_descriptions=[_described(index, name, codes) for index, name in enumerate(classes)],
            series_instance_uid=generate_uid(),
            series_number=series_number(reference),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=__version__,
            device_serial_number="0",
            content_description=NOTICE,
            content_label="AI_RESEARCH",
            series_description=NOTICE,
            specific_character_set="ISO_IR 192",
            omit_empty_frames=bool(array.any()),
        )
    return replaced(written, path)


def checked_path(path: str | Path, overwrite: bool) -> Path:
    """The path of a DICOM file to write.

    Raises:
        InputError: for another suffix, or if the file exists and may not be replaced.
    """
    path = Path(path)
    if path.suffix.lower() != ".dcm":
        raise InputError(f"{path}: expected a name that ends in .dcm, found '{path.name}'. Choose such a name.")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: the file exists already. Choose another output or allow it with --overwrite.")
    return path


def numbered(label: MetaTensor, classes: Sequence[str], values: Sequence[int], path: Path) -> np.ndarray:
    """Labels ``(D, H, W)`` with 1, 2, ... in place of ``values``.

    Raises:
        InputError: if classes and values do not match one to one, or voxels have another value than these and 0.
    """
    if not classes or len(classes) != len(values) or len(set(values)) != len(values) or min(values) < 1:
        raise InputError(
            f"{path}: expected a positive value of its own for each class, found {tuple(classes)} and "
            f"{tuple(values)}. Correct the list."
        )
    if label.ndim != 4 or label.shape[0] != 1:
        raise InputError(f"{path}: expected labels (1, D, H, W), found {tuple(label.shape)}. Save one volume a file.")
    array = label[0].cpu().numpy()
    result = np.zeros(array.shape, np.min_scalar_type(len(values)))
    for number, value in enumerate(values, 1):
        result[array == value] = number
    nameless = np.unique(array[(array != 0) & (result == 0)])
    if nameless.size:
        raise InputError(
            f"{path}: expected labels 0, {', '.join(map(str, values))}, found {nameless[0]:g} too. Name its class."
        )
    return result


def read_reference(series: str | Path, label: MetaTensor, path: Path, keep_identifiers: bool = False) -> Reference:
    """Headers of the series that a label map lies on.

    Args:
        series: folder of one series.
        label: ``(1, D, H, W)`` with its affine, RAS+ mm.
        path: what shall be written, for messages.
        keep_identifiers: whether the headers hold more than what links to the images.

    Raises:
        InputError: if there is no such series, its grid is another one, or it lacks what links to it.
    """
    series = Path(series)
    header = read_header(series)  # refuses all that is no series
    found = find_series(series)
    affine = found.affine if found.affine is not None else read_image(series).affine.numpy()
    corners = np.array([*itertools.product(*((0, n - 1) for n in header.shape)), (0, 0, 0)], float)
    moved = (affine - label.affine.cpu().double().numpy()) @ np.c_[corners, np.ones(len(corners))].T
    apart = float(np.linalg.norm(moved[:3], axis=0).max())
    if tuple(label.shape[1:]) != tuple(header.shape) or apart > _CORNER_TOLERANCE:
        raise InputError(
            f"{path}: expected labels on the grid of {series}, {tuple(header.shape)} voxels, found "
            f"{tuple(label.shape[1:])}, up to {apart:.3g} mm away. Resample them to the series, or give their own one."
        )
    tags = None if keep_identifiers else list(_LINKS)
    headers = [pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags) for file in found.files]
    for each in headers:
        for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if not each.get(name):
                raise InputError(f"{series}: expected a {name} to refer to, found none. Export the series again.")
        for name in _BLANK:
            if name not in each or not keep_identifiers:
                setattr(each, name, "")
    return Reference(tuple(headers), affine * _TO_LPS)


def series_number(reference: Reference) -> int:
    """A number that sorts beside that of the images."""
    return int(reference.headers[0].get("SeriesNumber") or 0) % 1_000_000 * 100 + 1


def replaced(data: Dataset, path: Path) -> Path:
    """Write a file beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        data.save_as(beside, enforce_file_format=True)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _described(index: int, name: str, codes: Mapping[str, Code] | None) -> Dataset:
    """What one segment is and how it came about."""
    import highdicom
    from pydicom.sr.codedict import codes as dictionary

    known = coding(name, codes)
    algorithm = highdicom.AlgorithmIdentificationSequence(MAKER, dictionary.DCM.ArtificialIntelligence, __version__)
    segment = highdicom.seg.SegmentDescription(
        segment_number=index + 1,
        segment_label=name[:64],
        segmented_property_category=known.category,
        segmented_property_type=known.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=[known.site] if known.site else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*colour(index)),
    )
    segment.SegmentDescription = NOTICE
    if known.side:
        side = [highdicom.sr.CodedConcept.from_code(known.side)]
        if known.site:
            segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = side
        else:
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = side
    return segment
