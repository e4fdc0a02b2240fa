"""What an annotation object says: which image series it is about, and which structures it outlines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from monai_hyper.types import InputError

KINDS = ("SEG", "RTSTRUCT")
"""Modalities of annotation objects."""

_TAGS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ReferencedSeriesSequence",
         "SegmentSequence", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence")  # fmt: skip


@dataclass(frozen=True)
class Annotation:
    """One SEG or RTSTRUCT object.

    Args:
        path: file.
        series, study: SeriesInstanceUID and StudyInstanceUID of the object.
        images: SeriesInstanceUID of the images it is about; empty where it does not tell.
        structures: names of segments or regions, as they are written.
    """

    path: Path
    series: str
    study: str
    images: tuple[str, ...]
    structures: tuple[str, ...]


def read_annotation(path: Path) -> Annotation:
    """Header of an annotation object; voxels and contours stay unread.

    Raises:
        InputError: if the file is no DICOM file, or another object.
    """
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except InvalidDicomError as error:
        raise InputError(f"{path}: expected a DICOM file, found something else. Fetch it again.") from error
    kind = data.get("Modality")
    if kind not in KINDS:
        raise InputError(f"{path}: expected {' or '.join(KINDS)}, found {kind}. Fetch another series.")
    images = _images_of_seg(data) if kind == "SEG" else _images_of_rtstruct(data)
    names = _names_of_seg(data) if kind == "SEG" else _names_of_rtstruct(data)
    return Annotation(
        path,
        str(data.get("SeriesInstanceUID", "")),
        str(data.get("StudyInstanceUID", "")),
        tuple(dict.fromkeys(str(uid) for uid in images if uid)),
        tuple(dict.fromkeys(str(name) for name in names if name)),
    )


def _images_of_seg(data: pydicom.Dataset) -> Iterator[str]:
    for item in data.get("ReferencedSeriesSequence") or ():
        yield item.get("SeriesInstanceUID")


def _images_of_rtstruct(data: pydicom.Dataset) -> Iterator[str]:
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                yield item.get("SeriesInstanceUID")


def _names_of_seg(data: pydicom.Dataset) -> Iterator[str]:
    for item in data.get("SegmentSequence") or ():
        codes = item.get("SegmentedPropertyTypeCodeSequence") or ()
        yield item.get("SegmentLabel") or next((code.get("CodeMeaning") for code in codes), None)


def _names_of_rtstruct(data: pydicom.Dataset) -> Iterator[str]:
    for item in data.get("StructureSetROISequence") or ():
        yield item.get("ROIName")
