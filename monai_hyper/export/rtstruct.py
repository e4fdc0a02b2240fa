"""Write a label map as DICOM Structure Set (RTSTRUCT) that refers to the series it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from monai_hyper import __version__
from monai_hyper.export.codes import coding, colour
from monai_hyper.export.dicom_seg import (
    MAKER,
    NOTICE,
    Reference,
    checked_path,
    numbered,
    read_reference,
    replaced,
    series_number,
)
from monai_hyper.types import InputError

_COPIED = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
           "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
           "PositionReferenceIndicator")  # fmt: skip
_CONTOUR_DATA = Tag("ContourData")
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"


def save_rtstruct(
    label: MetaTensor,
    classes: Sequence[str],
    values: Sequence[int],
    series: str | Path,
    path: str | Path,
    *,
    keep_identifiers: bool = False,
    overwrite: bool = False,
) -> Path:
    """Save a label map as DICOM Structure Set; the file appears under its name only when it is complete.

    It says that it was made by an algorithm, for research only. Contours run midway between the centres of voxels
    inside and outside, so that filling them gives the label map back; a hole is joined to the contour around it by a
    seam (keyhole). A class without voxels becomes a region without contours.

    Args:
        label: ``(1, D, H, W)`` of whole numbers on the grid of the series.
        classes: names of the regions.
        values: which value of ``label`` each of them has.
        series: folder of the series that was segmented, see :func:`read_image`.
        path: ends in .dcm; its folder is made.
        keep_identifiers: whether to copy what tells the patient and the study (name, number, dates); otherwise this
            is left empty, and only the UIDs link the file to its images.
        overwrite: whether an existing file may be replaced.

    Returns:
        ``path``.

    Raises:
        InputError: if scikit-image is not installed; if the file exists and may not be replaced; for another suffix;
            labels on another grid; values that no class has; or a series that lacks what links to it.
    """
    path = checked_path(path, overwrite)
    array = numbered(label, classes, values, path)
    reference = read_reference(series, label, path, keep_identifiers)
    data = _header(reference)
    data.ReferencedFrameOfReferenceSequence = [_referenced(reference)]
    data.StructureSetROISequence, data.ROIContourSequence, data.RTROIObservationsSequence = [], [], []
    for index, name in enumerate(classes):
        roi = _item(ROINumber=index + 1, ReferencedFrameOfReferenceUID=data.FrameOfReferenceUID, ROIName=name[:64])
        roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription = "AUTOMATIC", f"{MAKER} {__version__}: {NOTICE}"
        data.StructureSetROISequence.append(roi)
        drawn = _item(ROIDisplayColor=list(colour(index)), ReferencedROINumber=index + 1)
        contours = _contours(array == index + 1, reference)
        if contours:
            drawn.ContourSequence = contours
        data.ROIContourSequence.append(drawn)
        data.RTROIObservationsSequence.append(_observation(index + 1, name))
    return replaced(data, path)


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons around the pixels of a plane, holes joined to their surroundings by a seam.

    Args:
        mask: ``(H, W)``, boolean.

    Returns:
        corners ``(P, 2)`` of each polygon, in pixels; they lie midway between centres of pixels.

    Raises:
        InputError: if scikit-image is not installed.

    Example:
        >>> outlines(np.eye(1, dtype=bool))[0].tolist()
        [[0.5, 0.0], [0.0, -0.5], [-0.5, 0.0], [0.0, 0.5]]
    """
    try:
        from skimage.measure import find_contours
    except ImportError as error:
        raise InputError(
            "RTSTRUCT: expected the package scikit-image to draw contours, found none. "
            "Try: pip install monai_hyper[dicom]"
        ) from error
    polygons = [[tuple(point) for point in each[:-1] - 1] for each in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    holes = [index for index, each in enumerate(polygons) if _is_hole(each, mask)]
    owner = {point: index for index, each in enumerate(polygons) for point in each}
    for index in sorted(holes, key=lambda index: min(polygons[index])):
        row, column = min(polygons[index])
        while row > 0 and mask[int(row - 0.5), int(column)]:
            row -= 1  # from the hole through what encloses it, to the next border
        outer, inner = owner[row, column], polygons[index]
        start, end = polygons[outer].index((row, column)), inner.index(min(inner))
        around = [*inner[end:], *inner[: end + 1]]
        polygons[outer] = [*polygons[outer][: start + 1], *around, *polygons[outer][start:]]
        owner.update(dict.fromkeys(inner, outer))
    return [_corners(np.array(each)) for index, each in enumerate(polygons) if index not in holes]


def _is_hole(polygon: Sequence[tuple[float, float]], mask: np.ndarray) -> bool:
    """Whether the pixel before the first border is inside."""
    row, column = min(polygon)
    return row > 0 and bool(mask[int(row - 0.5), int(column)])


def _corners(points: np.ndarray) -> np.ndarray:
    """Points without those on the straight way between their neighbours."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return points[(turn != 0) | ((before * after).sum(1) < 0)]


def _contours(mask: np.ndarray, reference: Reference) -> list[Dataset]:
    found: list[Dataset] = []
    for index in np.flatnonzero(mask.any(axis=(0, 1))):
        for corners in outlines(mask[:, :, index]):
            voxels = np.c_[corners, np.full(len(corners), index), np.ones(len(corners))]
            points = (voxels @ reference.affine.T)[:, :3]
            contour = _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points))
            contour.ContourNumber = len(found) + 1
            text = "\\".join(f"{value:.8g}" for value in points.flatten()).encode()
            text += b" " * (len(text) % 2)
            contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, True, True)
            if len(reference.headers) == mask.shape[2]:
                contour.ContourImageSequence = [_image(reference.headers[index])]
            found.append(contour)
    return found


def _header(reference: Reference) -> Dataset:
    """Everything but the regions."""
    data, now, source = Dataset(), datetime.now(), reference.headers[0]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit values may not exceed 64 kB
    data.SpecificCharacterSet = "ISO_IR 192"
    for name in _COPIED:
        if name in source:
            setattr(data, name, source[name].value)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = (
        RTStructureSetStorage,
        generate_uid(),
        generate_uid(),
    )
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
    )
    data.Modality, data.SeriesNumber, data.SeriesDescription = "RTSTRUCT", series_number(reference), NOTICE
    data.InstanceNumber, data.OperatorsName = 1, ""
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = MAKER, MAKER, __version__
    data.StructureSetLabel, data.StructureSetName, data.StructureSetDescription = "AI_RESEARCH", NOTICE, NOTICE
    data.StructureSetDate, data.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.InstanceCreationDate, data.InstanceCreationTime = data.StructureSetDate, data.StructureSetTime
    data.ApprovalStatus = "UNAPPROVED"
    return data


def _referenced(reference: Reference) -> Dataset:
    first = reference.headers[0]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID)
    series.ContourImageSequence = [_image(header) for header in reference.headers]
    study = _item(ReferencedSOPClassUID=_DETACHED_STUDY, ReferencedSOPInstanceUID=first.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _observation(number: int, name: str) -> Dataset:
    known = coding(name)
    item = _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
    item.ROIObservationLabel = name[:16]
    code = _code(known.type)
    if known.side:
        code.SegmentedPropertyTypeModifierCodeSequence = [_code(known.side)]
    item.RTROIIdentificationCodeSequence = [code]
    item.SegmentedPropertyCategoryCodeSequence = [_code(known.category)]
    return item


def _code(code: Code) -> Dataset:
    return _item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)


def _image(header: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _item(**values) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item
