"""What is written as DICOM Segmentation reads back voxel for voxel, also by others, and tells no patient."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from monai_hyper.data.structures import read_structures, structure_names
from monai_hyper.data.volumes import read_image
from monai_hyper.export.dicom_seg import save_dicom_seg
from monai_hyper.types import InputError

highdicom = pytest.importorskip("highdicom")

CLASSES, VALUES = ("left kidney", "liver tumour", "Größe"), (1, 2, 5)
IDENTIFIERS = ("Doe^Jane", "P-4711-X", "19600102", "A-33-777", "House^Gregory", "St. Nowhere")


def series(folder: Path, shape: tuple[int, int, int] = (9, 7, 5)) -> Path:
    """A rotated CT series whose voxels measure 0.7 x 0.8 x 2.5 mm, with a patient's identifiers."""
    folder.mkdir(parents=True)
    for index in range(shape[2]):
        data, meta = Dataset(), FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.file_meta, data.SOPClassUID = meta, CTImageStorage
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2", "1.2.3", "1.2.4"
        data.PatientName, data.PatientID, data.PatientBirthDate, data.AccessionNumber = IDENTIFIERS[:4]
        data.ReferringPhysicianName, data.InstitutionName = IDENTIFIERS[4:]
        data.Modality, data.SeriesNumber, data.StudyDate, data.StudyTime = "CT", 3, "20200101", "101010"
        data.ImageOrientationPatient, data.PixelSpacing = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0], [0.8, 0.7]
        data.ImagePositionPatient, data.SliceThickness = [-10.0, -20.0, 30.0 + 2.5 * index], 2.5
        data.Columns, data.Rows, _ = shape
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.zeros(shape[:2], np.int16).tobytes()
        data.save_as(folder / f"{9 - index}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return series(tmp_path / "series")


def random_label(folder: Path, seed: int = 0) -> MetaTensor:
    image = read_image(folder)
    array = np.random.default_rng(seed).choice([0, *VALUES], tuple(image.shape))
    array[..., 0] = 0
    return MetaTensor(torch.from_numpy(array), affine=image.affine)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_saved_equals_read(folder, tmp_path, kind):
    label = random_label(folder)
    path = save_dicom_seg(label, CLASSES, VALUES, folder, tmp_path / "new" / "seg.dcm", kind=kind)
    assert structure_names(path) == CLASSES
    for (name, mask), value in zip(read_structures(path, label).items(), VALUES):
        assert torch.equal(mask, label[0].as_tensor() == value), name


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_dcmqi_reads_the_same_voxels(folder, tmp_path, kind):
    program = Path(sys.executable).with_name("segimage2itkimage")
    if not program.exists():
        pytest.skip("dcmqi is absent")
    label = random_label(folder)
    path = save_dicom_seg(label, CLASSES, VALUES, folder, tmp_path / "seg.dcm", kind=kind)
    command = [program, "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd", "--prefix", "q"]
    subprocess.run(command, check=True, capture_output=True)
    for number, value in enumerate(VALUES, 1):
        read = sitk.ReadImage(str(tmp_path / f"q-{number if kind == 'BINARY' else 1}.nrrd"))
        found = np.zeros(label.shape[1:], bool)
        for at in np.argwhere(sitk.GetArrayFromImage(read) == number):
            place = np.array(read.TransformIndexToPhysicalPoint([int(each) for each in at[::-1]])) * [-1, -1, 1]
            voxel = np.linalg.inv(label.affine.numpy()) @ [*place, 1]
            found[tuple(np.rint(voxel[:3]).astype(int))] = True
        np.testing.assert_array_equal(found, label[0] == value)


def test_highdicom_reads_the_same_voxels(folder, tmp_path):
    label = random_label(folder)
    path = save_dicom_seg(label, CLASSES, VALUES, folder, tmp_path / "seg.dcm")
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    expected = sum((label[0, ..., 1:].numpy() == value) * number for number, value in enumerate(VALUES, 1))
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0)[..., ::-1], expected)  # slices run downward there


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_patients_stay_unnamed_unless_asked(folder, tmp_path, kind):
    label = random_label(folder)
    path = save_dicom_seg(label, CLASSES, VALUES, folder, tmp_path / "seg.dcm", kind=kind)
    data = pydicom.dcmread(path)
    assert not any(text.encode() in path.read_bytes() for text in IDENTIFIERS)
    assert (data.PatientName, data.PatientID, data.StudyDate) == ("", "", "")
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == ("1.2", "1.2.4")
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"
    save_dicom_seg(label, CLASSES, VALUES, folder, path, kind=kind, keep_identifiers=True, overwrite=True)
    assert pydicom.dcmread(path).PatientID == "P-4711-X"


def test_it_says_what_made_it_and_what_is_what(folder, tmp_path):
    data = pydicom.dcmread(save_dicom_seg(random_label(folder), CLASSES, VALUES, folder, tmp_path / "seg.dcm"))
    assert data.SeriesDescription == data.ContentDescription == "AI-generated, research only"
    kidney, tumour, _ = data.SegmentSequence
    assert (kidney.SegmentAlgorithmType, kidney.SegmentAlgorithmName) == ("AUTOMATIC", "monai_hyper")
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeMeaning, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == ("Kidney", "Left")
    assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert len({tuple(each.RecommendedDisplayCIELabValue) for each in data.SegmentSequence}) == 3


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_nothing_found_is_a_valid_answer(folder, tmp_path, kind):
    label = random_label(folder) * 0
    path = save_dicom_seg(label, ("liver",), (1,), folder, tmp_path / "seg.dcm", kind=kind)
    assert not read_structures(path, label)["liver"].any()


def test_existing_files_need_leave_and_nothing_is_half_written(folder, tmp_path, monkeypatch):
    label, path = random_label(folder), tmp_path / "seg.dcm"
    path.write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        save_dicom_seg(label, CLASSES, VALUES, folder, path)

    def fails(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fails)
    with pytest.raises(OSError, match="disk full"):
        save_dicom_seg(label, CLASSES, VALUES, folder, path, overwrite=True)
    assert path.read_text() == "kept"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["seg.dcm", "series"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label": "moved"}, "labels on the grid of"),
        ({"label": "cropped"}, "labels on the grid of"),
        ({"values": (1, 2, 3)}, "found 5 too"),
        ({"values": (1, 2)}, "a positive value of its own"),
        ({"path": "seg.nii"}, "ends in .dcm"),
    ],
)
def test_what_does_not_fit_is_refused(folder, tmp_path, change, match):
    label = random_label(folder)
    if change.get("label") == "moved":
        label.affine[0, 3] += 0.1
    if change.get("label") == "cropped":
        label = label[..., :-1]
    with pytest.raises(InputError, match=match):
        path = tmp_path / change.get("path", "seg.dcm")
        save_dicom_seg(label, CLASSES, change.get("values", VALUES), folder, path)


def test_without_highdicom_it_is_said_how_to_get_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install monai_hyper\[dicom\]"):
        save_dicom_seg(random_label(folder), CLASSES, VALUES, folder, tmp_path / "seg.dcm")


@pytest.mark.shared_data
@pytest.mark.parametrize("place", ["24x38x3/image", "24x38x3/multiframe", "ct-3slice"])
def test_real_series_are_referred_to(shared_data, tmp_path, place):
    folder = shared_data / "dicom" / "dcmqi" / place
    label = random_label(folder)
    path = save_dicom_seg(label, CLASSES, VALUES, folder, tmp_path / "seg.dcm")
    masks = read_structures(path, label)
    assert all(torch.equal(masks[name], label[0].as_tensor() == value) for name, value in zip(CLASSES, VALUES))
    source = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    assert source[0].ReferencedSOPInstanceUID in {pydicom.dcmread(each).SOPInstanceUID for each in folder.iterdir()}
