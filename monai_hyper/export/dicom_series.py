"""Write a volume as a DICOM series, one file for every slice, for servers and viewers that take nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from monai.data import MetaTensor
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from monai_hyper.types import InputError

CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}

_LARGEST = 32767


def save_series(image: MetaTensor, folder: Path, modality: Literal["CT", "MR"], patient: str) -> str:
    """Write a volume as a new series of a new study.

    CT is rounded to whole HU. MR is scaled to 0 to 32767, which leaves its contrast.

    Args:
        image: ``(1, D, H, W)`` with its affine, RAS+ mm; its axes are taken as columns, rows and slices.
        folder: to write to, which must not exist or be empty.
        modality: of the series; patient: name and number of the patient.

    Returns:
        UID of the series.

    Raises:
        InputError: if there is something in the folder, or the axes are not at right angles.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: expected an empty folder, found files. Choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine.cpu().double().numpy()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise InputError(f"{folder}: expected axes at right angles to write DICOM, found a sheared grid. Resample it.")
    voxels, slope = _whole(image[0].cpu().numpy().astype(np.float64), modality)
    common = _common(modality, patient, voxels.shape, spacing, axes, slope)
    for index in range(voxels.shape[2]):
        one = _slice(common, index, affine[:3, 3] + axes[:, 2] * spacing[2] * index)
        one.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        pydicom.dcmwrite(folder / f"{index:04d}.dcm", one, enforce_file_format=True)
    return str(common.SeriesInstanceUID)


def _whole(voxels: np.ndarray, modality: str) -> tuple[np.ndarray, float]:
    """Whole numbers, and what they are multiplied by to be read."""
    slope = 1.0 if modality == "CT" else max(float(np.abs(voxels).max()) / _LARGEST, 1e-12)
    return np.rint(voxels / slope).clip(-_LARGEST - 1, _LARGEST).astype("<i2"), slope


def _common(
    modality: str, patient: str, shape: tuple[int, ...], spacing: np.ndarray, axes: np.ndarray, slope: float
) -> Dataset:
    """What all slices share."""
    data = Dataset()
    data.SOPClassUID, data.Modality = CLASSES[modality], modality
    data.PatientName = data.PatientID = patient
    data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.AccessionNumber = ""
    data.StudyID, data.SeriesNumber, data.ReferringPhysicianName = "1", 1, ""
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.Columns, data.Rows = shape[0], shape[1]
    data.PixelSpacing = [round(float(spacing[1]), 8), round(float(spacing[0]), 8)]
    data.SliceThickness = round(float(spacing[2]), 8)
    data.ImageOrientationPatient = [round(float(each), 10) for each in (*axes[:, 0], *axes[:, 1])]
    data.ImageType, data.PositionReferenceIndicator = ["DERIVED", "SECONDARY", "AXIAL"], ""
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.RescaleIntercept, data.RescaleSlope = 0, f"{slope:.10g}"[:16]
    if modality == "CT":
        data.RescaleType = "HU"
    return data


def _slice(common: Dataset, index: int, place: np.ndarray) -> Dataset:
    one, meta = Dataset(), FileMetaDataset()
    one.update(common)
    one.SOPInstanceUID, one.InstanceNumber = generate_uid(), index + 1
    one.ImagePositionPatient = [round(float(each), 6) for each in place]
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, one.SOPClassUID
    meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.file_meta = meta
    return one
