"""A DICOM series is one volume, or it is said why not."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from monai_hyper.data.dicom import find_series, read_series
from monai_hyper.data.volumes import read_header, read_image
from monai_hyper.types import InputError

ACROSS, DOWN = (0.8, 0.6, 0.0), (-0.6, 0.8, 0.0)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(np.int16)


def slice_of(array: np.ndarray, index: int, **changes) -> Dataset:
    """One slice of a rotated volume whose voxels measure 0.7 x 0.8 x 2.5 mm; changes of its header by keyword."""
    data, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.file_meta, data.SOPClassUID, data.SeriesInstanceUID, data.StudyInstanceUID = (
        meta,
        CTImageStorage,
        "1.2.3",
        "1.2",
    )
    data.Modality, data.PatientName, data.SeriesNumber = "CT", "Doe^Jane", 3
    data.ImageOrientationPatient, data.PixelSpacing = [*ACROSS, *DOWN], [0.8, 0.7]
    data.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2.5 * index]
    data.Columns, data.Rows, _ = array.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.RescaleSlope, data.RescaleIntercept = 16, 16, 15, 2, -1000
    data.PixelData = np.ascontiguousarray(array[:, :, index].T).tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def write(folder: Path, *slices: Dataset) -> Path:
    """Slices in the wrong order of file names."""
    folder.mkdir(exist_ok=True)
    there = len(list(folder.iterdir()))
    for number, data in enumerate(slices):
        data.save_as(folder / f"{99 - there - number:03d}", enforce_file_format=True)
    return folder


def stack(array: np.ndarray, leave_out: tuple[int, ...] = (), **changes) -> list[Dataset]:
    return [slice_of(array, index, **changes) for index in range(array.shape[2]) if index not in leave_out]


def refused(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_header(folder)
    assert "Doe" not in str(error.value)


def test_every_voxel_lies_where_its_slice_says(tmp_path, array):
    volume = read_image(write(tmp_path / "a", *stack(array)))
    np.testing.assert_array_equal(volume[0], 2.0 * array - 1000)
    np.testing.assert_allclose(read_header(tmp_path / "a").spacing, (0.7, 0.8, 2.5))
    place = np.array([-10, -20, 30]) + 2 * 0.7 * np.array(ACROSS) + 3 * 0.8 * np.array(DOWN) + 4 * np.array([0, 0, 2.5])
    np.testing.assert_allclose(
        volume.affine.numpy() @ np.array([2.0, 3, 4, 1]), [-place[0], -place[1], place[2], 1], atol=1e-6
    )


def recompress(path: Path, compressor: str) -> str:
    """Write a slice again, compressed by ITK; returns its transfer syntax."""
    image, writer = sitk.ReadImage(str(path), sitk.sitkInt16), sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)
    return pydicom.dcmread(path).file_meta.TransferSyntaxUID.name


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices_read_alike(tmp_path, compressor):
    array = np.random.default_rng(0).integers(0, 200, (16, 18, 3)).astype(np.int16)
    folder = write(tmp_path / "a", *stack(array))
    assert all(recompress(path, compressor).startswith("JPEG") for path in folder.iterdir())
    np.testing.assert_array_equal(read_image(folder)[0], 2.0 * array - 1000)


def test_run_length_encoded_slices_read_alike(tmp_path):
    array = np.random.default_rng(0).integers(0, 200, (16, 18, 3)).astype(np.int16)
    slices = stack(array)
    for data in slices:
        data.compress(RLELossless)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a", *slices))[0], 2.0 * array - 1000)


def test_annotations_and_other_files_beside_the_slices_do_not_count(tmp_path, array):
    segmentation = slice_of(array, 0, Modality="SEG", SeriesInstanceUID="1.2.4")
    folder = write(tmp_path / "a", *stack(array), segmentation)
    (folder / "notes.txt").write_text("no DICOM")
    np.testing.assert_array_equal(read_image(folder)[0], 2.0 * array - 1000)


def test_copies_of_a_slice_count_once_and_different_ones_are_refused(tmp_path, array):
    folder = write(tmp_path / "a", *stack(array), slice_of(array, 3))
    assert read_image(folder).shape == (1, 5, 6, 7)
    refused(write(folder, slice_of(array[..., ::-1], 2, ImagePositionPatient=[-10, -20, 35.0])), "one slice at a place")


def test_a_gap_is_named(tmp_path, array):
    refused(
        write(tmp_path / "a", *stack(array, (3, 4))), r"every 2\.50 mm, found 7\.50 mm between 097 and 096: 2 missing"
    )


def test_uneven_slices_are_refused(tmp_path, array):
    slices = stack(array)
    slices[2].ImagePositionPatient = [-10, -20, 35.4]
    refused(write(tmp_path / "a", *slices), "every 2.50 mm")


def test_a_tilted_gantry_is_refused(tmp_path, array):
    slices = stack(array)
    for index, data in enumerate(slices):
        data.ImagePositionPatient = [-10, -20 + 0.5 * index, 30 + 2.5 * index]
    refused(write(tmp_path / "a", *slices), r"shifted by 11\.3 degrees: the gantry was tilted")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1]),
        ("PixelSpacing", [0.8, 0.8]),
        ("SamplesPerPixel", 3),
        ("ImagePositionPatient", None),
    ],
)
def test_slices_that_are_no_part_of_a_volume_are_refused(tmp_path, array, name, value):
    slices = stack(array)
    setattr(slices[-1], name, value)
    refused(
        write(tmp_path / "a", *slices),
        {"SamplesPerPixel": "one number", "ImagePositionPatient": "position"}.get(name, name),
    )


def test_several_series_are_named(tmp_path, array):
    other = stack(array, SeriesInstanceUID="1.2.4", SeriesNumber=4, Modality="MR")
    refused(
        write(tmp_path / "a", *stack(array), *other), r"found 2: number 4 \(MR, 7 files\), number 3 \(CT, 7 files\)"
    )


def pet(array: np.ndarray, **changes) -> list[Dataset]:
    """70 kg, 200 MBq of a tracer that lost half of its activity in the 110 minutes over midnight to the scan."""
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 2e8, 6600.0
    tracer.RadiopharmaceuticalStartTime = "231000"
    facts = {
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "PatientWeight": 70.0,
        "SeriesTime": "010000",
    }
    facts["RadiopharmaceuticalInformationSequence"] = [tracer]
    return stack(array, **facts | changes)


def test_pet_is_given_in_suv(tmp_path, array):
    volume = read_image(write(tmp_path / "a", *pet(array)))
    np.testing.assert_allclose(volume[0], (2.0 * array - 1000) * 70_000 / 1e8, rtol=1e-6)
    volume = read_image(write(tmp_path / "b", *pet(array, Units="GML", PatientWeight=None)))
    np.testing.assert_array_equal(volume[0], 2.0 * array - 1000)


@pytest.mark.parametrize("changes", [{"PatientWeight": None}, {"Units": "CNTS"}, {"DecayCorrection": "NONE"},
                                     {"RadiopharmaceuticalInformationSequence": []}])  # fmt: skip
def test_pet_that_tells_too_little_for_suv_is_refused(tmp_path, array, changes):
    refused(write(tmp_path / "a", *pet(array, **changes)), "to give SUV")


def test_a_lone_slice_is_as_thick_as_it_says(tmp_path, array):
    slices = [slice_of(array, 2, SliceThickness=5.0)]
    np.testing.assert_allclose(read_header(write(tmp_path / "a", *slices)).spacing, (0.7, 0.8, 5.0))


def test_a_truncated_slice_is_refused(tmp_path, array):
    folder = write(tmp_path / "a", *stack(array))
    path = sorted(folder.iterdir())[2]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="corrupt or truncated"):
        read_image(folder)


@pytest.mark.shared_data
@pytest.mark.parametrize("scan", ["CT", "PET", "MR_T1"])
def test_real_series_equal_their_nifti_references(shared_data, scan):
    folder = shared_data / "dicom" / "rtstruct" / "STS_001"
    series, reference = find_series(folder / scan / "image"), nibabel.load(folder / f"{scan}_image_reference.nii.gz")
    turn = ornt_transform(io_orientation(series.affine), io_orientation(reference.affine))
    np.testing.assert_allclose(apply_orientation(read_series(series), turn), reference.get_fdata(), atol=1e-5)
    np.testing.assert_allclose(series.affine, reference.affine, atol=1e-2)


@pytest.mark.shared_data
def test_all_real_series_read(shared_data):
    folders = {path.parent for path in (shared_data / "dicom").rglob("*.dcm")}
    images = [
        f
        for f in folders
        if {pydicom.dcmread(p, stop_before_pixels=True).Modality for p in f.glob("*.dcm")} <= {"CT", "MR", "PT"}
    ]
    assert len(images) >= 6
    for folder in images:
        assert read_image(folder).ndim == 4


def test_a_volume_that_is_changed_leaves_what_is_read_next(tmp_path, array):
    folder = write(tmp_path, *stack(array))
    first = read_image(folder)
    first.affine[0, 3] += 7
    first += 1
    again = read_image(folder)
    assert float(first.affine[0, 3] - again.affine[0, 3]) == 7 and float((first - again).min()) == 1
