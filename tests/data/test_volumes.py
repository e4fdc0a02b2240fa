"""Reading volumes: every format gives the same, every defect its own message."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_hyper.data import volumes
from monai_hyper.data.labels import label_values
from monai_hyper.data.volumes import read_header, read_image, read_label, volume_name
from monai_hyper.types import InputError

AFFINE = np.array([[0.0, 0.0, 3.0, -20.0], [-1.5, 0.0, 0.0, 31.0], [0.0, 2.0, 0.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def edit_header(path: Path, change) -> Path:
    """Change the header of a .nii file behind nibabel's back."""
    raw = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    change(header)
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(np.int16)


def write_series(folder: Path, array: np.ndarray, uid: str = "1.2.3", spacing: float = 2.5) -> Path:
    """One DICOM series, slices along the last axis, stored in the wrong order of file names."""
    folder.mkdir(exist_ok=True)
    for index in range(array.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[:, :, index].T)[None])
        image.SetSpacing((0.7, 0.8, spacing))
        image.SetOrigin((-10.0, -20.0, 30.0 + spacing * index))
        tags = {"0020|000e": uid, "0020|000d": "1.2.9", "0008|0060": "CT", "0010|0010": "Doe^Jane"}
        position = f"-10\\-20\\{30.0 + spacing * index}"
        tags |= {"0020|0032": position, "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(index)}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}_{99 - index}.dcm"))
        writer.Execute(image)
    return folder


def test_every_format_reads_to_the_same_voxels_and_affine(tmp_path, array):
    reference = read_image(save(tmp_path / "a.nii", array))
    assert reference.shape == (1, 5, 6, 7) and reference.dtype == torch.float32
    assert torch.equal(reference[0].as_tensor(), torch.from_numpy(array.astype(np.float32)))
    np.testing.assert_allclose(reference.affine, AFFINE)
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        sitk.WriteImage(image, str(tmp_path / f"b{suffix}"))
        other = read_image(tmp_path / f"b{suffix}")
        assert torch.equal(other.as_tensor(), reference.as_tensor())
        np.testing.assert_allclose(other.affine, AFFINE, atol=1e-5)


def test_a_dicom_series_is_ordered_by_position_and_lies_in_ras(tmp_path, array):
    volume = read_image(write_series(tmp_path / "series", array))
    assert torch.equal(volume[0].as_tensor(), torch.from_numpy(array.astype(np.float32)))
    np.testing.assert_allclose(volume.affine[:3, 3], [10, 20, 30], atol=1e-4)
    np.testing.assert_allclose(volume.affine.diag(), [-0.7, -0.8, 2.5, 1], atol=1e-4)


def test_a_series_of_one_slice_is_a_volume(tmp_path, array):
    assert read_image(write_series(tmp_path / "series", array[..., :1])).shape == (1, 5, 6, 1)


def test_nothing_of_the_patient_travels_on(tmp_path, array):
    volume = read_image(write_series(tmp_path / "series", array))
    assert "Doe" not in str(volume.meta)


def test_several_series_in_one_folder_are_refused(tmp_path, array):
    write_series(tmp_path / "series", array, "1.2.3")
    write_series(tmp_path / "series", array, "1.2.4")
    with pytest.raises(InputError, match="expected one DICOM series of images, found 2"):
        read_image(tmp_path / "series")


def test_a_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected one DICOM series of images, found none"):
        read_image(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_every_number_type_is_read(tmp_path, array, dtype, suffix):
    image = sitk.GetImageFromArray(array.T.astype(dtype))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert torch.equal(read_image(tmp_path / f"a{suffix}")[0].as_tensor(), torch.from_numpy(array).float())
    assert torch.equal(read_label(tmp_path / f"a{suffix}")[0].as_tensor(), torch.from_numpy(array).long())


def test_single_slice_and_thick_slices_are_read(tmp_path):
    affine = np.diag([1.0, 1.0, 10.0, 1.0])
    for depth in (1, 4):
        volume = read_image(save(tmp_path / f"{depth}.nii", np.ones((8, 8, depth), np.uint16), affine))
        assert volume.shape == (1, 8, 8, depth)


def test_a_fourth_axis_of_one_is_dropped(tmp_path, array):
    assert read_image(save(tmp_path / "a.nii", array[..., None])).shape == (1, 5, 6, 7)


def test_scale_and_intercept_are_applied(tmp_path, array):
    path = save(tmp_path / "a.nii", array)

    def rescale(header):
        header["scl_slope"], header["scl_inter"] = 2.0, -1000.0

    volume = read_image(edit_header(path, rescale))
    assert torch.equal(volume[0].as_tensor(), torch.from_numpy(array).float() * 2 - 1000)


def test_whole_numbers_stored_as_floats_are_labels(tmp_path, array):
    label = read_label(save(tmp_path / "a.nii.gz", array.astype(np.float64)))
    assert label.dtype == torch.int64 and torch.equal(label[0].as_tensor(), torch.from_numpy(array).long())


@pytest.mark.parametrize(
    ("value", "message"), [(0.5, "whole numbers as labels, found 1 voxels such as 0.5"), (np.nan, "whole"), (-1, "-1")]
)
def test_labels_are_whole_numbers_from_zero(tmp_path, value, message):
    array = np.zeros((4, 4, 4), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(InputError, match=message):
        read_label(save(tmp_path / "a.nii", array))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_are_finite(tmp_path, value):
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, :2] = value
    with pytest.raises(InputError, match="a.nii: expected finite intensities, found 2"):
        read_image(save(tmp_path / "a.nii", array))


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(InputError, match="found nothing"):
        read_image(tmp_path / "a.nii")
    (tmp_path / "a.txt").write_text("no volume")
    with pytest.raises(InputError, match="expected .nii.gz"):
        read_image(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0, 40, 0.6])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept in (0, 40) else int(len(whole) * kept)])
    with pytest.raises(InputError, match="corrupt or truncated|expected a spacing"):
        read_image(path)


def test_a_corrupt_gzip_is_refused(tmp_path, array):
    path = save(tmp_path / "a.nii.gz", array)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="a.nii.gz: expected a volume that can be read"):
        read_image(path)


def test_text_in_a_gzip_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"these are no voxels" * 100))
    with pytest.raises(InputError, match="corrupt or truncated"):
        read_image(tmp_path / "a.nii.gz")


def test_a_header_larger_than_memory_is_refused_before_loading(tmp_path, array):
    def announce(header):
        header["dim"][1:4] = 30000

    path = edit_header(save(tmp_path / "a.nii", array), announce)
    with pytest.raises(InputError, match=r"announces \(30000, 30000, 30000\) voxels"):
        read_image(path)


def test_memory_is_asked_before_a_metaimage_is_loaded(tmp_path, array, monkeypatch):
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.mha"))
    monkeypatch.setattr(volumes, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match="GiB are free"):
        read_header(tmp_path / "a.mha")


@pytest.mark.parametrize(("shape", "found"), [((8, 8), r"\(8, 8\)"), ((4, 4, 4, 2), r"\(4, 4, 4, 2\)")])
def test_other_than_three_axes_are_refused(tmp_path, shape, found):
    with pytest.raises(InputError, match=f"expected a volume of 3 axes, found shape {found}"):
        read_image(save(tmp_path / "a.nii", np.zeros(shape, np.uint8)))


def test_two_axes_in_a_metaimage_are_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8), np.uint8)), str(tmp_path / "a.mha"))
    with pytest.raises(InputError, match="expected a volume of 3 axes"):
        read_image(tmp_path / "a.mha")


def test_colours_are_refused(tmp_path):
    rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match="colours"):
        read_image(save(tmp_path / "a.nii", rgb))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True), str(tmp_path / "a.mha"))
    with pytest.raises(InputError, match="one number a voxel, found 3"):
        read_image(tmp_path / "a.mha")


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, np.inf])
def test_a_spacing_that_is_not_positive_is_refused(tmp_path, array, spacing):
    def respace(header):
        header["pixdim"][2] = spacing

    path = edit_header(save(tmp_path / "a.nii", array), respace)
    with pytest.raises(InputError, match="a.nii: expected a positive spacing"):
        read_image(path)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0, 0.0], [np.nan, 0.0, 0.0, 0.0]])
def test_an_affine_that_loses_an_axis_is_refused(tmp_path, array, row):
    def flatten(header):
        header["srow_x"] = row

    path = edit_header(save(tmp_path / "a.nii", array), flatten)
    with pytest.raises(InputError, match="affine"):
        read_image(path)


@pytest.mark.parametrize(("suffix", "word"), [(".mha", b"ElementSpacing"), (".nrrd", b"space directions")])
def test_a_spacing_that_is_missing_is_refused(tmp_path, array, suffix, word):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    head, tail = path.read_bytes().split(word, 1)
    path.write_bytes(head + tail.split(b"\n", 1)[1])
    with pytest.raises(InputError, match="expected a spacing in mm, found none"):
        read_image(path)


@pytest.mark.parametrize("spacing", [b"0 1 1", b"-1 1 1"])
def test_a_metaimage_with_a_spacing_that_is_not_positive_is_refused(tmp_path, array, spacing):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = " + spacing))
    with pytest.raises(InputError):
        read_image(path)


def test_an_empty_volume_is_refused(tmp_path, array):
    def empty(header):
        header["dim"][3] = 0

    path = edit_header(save(tmp_path / "a.nii", array), empty)
    with pytest.raises(InputError, match="a.nii"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.b.nii.gz", "a.b.nii", "a.b.nrrd", "a.b.MHA"])
def test_names_lose_only_the_suffix(name):
    assert volume_name(name) == "a.b"


@pytest.mark.parametrize("values", [[0], [3, 9], [0, 1, 70_000, 2**40]])
def test_the_values_of_a_label_map_are_found(values):
    assert label_values(torch.tensor(values * 2)) == values
