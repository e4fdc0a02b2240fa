"""Images of many kinds of files are one kind of tensor."""

import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from monai_hyper.data.pictures import is_picture, read_array, read_picture, series_of, to_grey
from monai_hyper.types import InputError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns
COLOUR = np.stack([GREY, GREY + 50, GREY + 100], -1)


def dicom(path: Path, pixels: np.ndarray = GREY, placed: bool = False, **changes) -> Path:
    """One file, an X-ray without position or a slice of CT; values are twice the stored ones minus 10."""
    data, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage if placed else ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.file_meta, data.SeriesInstanceUID, data.Modality = meta, generate_uid(), "CT" if placed else "CR"
    if placed:
        data.ImagePositionPatient, data.ImageOrientationPatient = [-10.0, -20.0, 30.0], [1, 0, 0, 0, 1, 0]
        data.SliceThickness = 2.5
    data.PixelSpacing = [0.8, 0.7]
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation, data.PixelRepresentation = "RGB" if pixels.ndim == 3 else "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PlanarConfiguration = 7, 0
    if pixels.ndim == 2:
        data.RescaleSlope, data.RescaleIntercept = 2, -10
    data.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_a_grey_picture_is_a_slice_whose_first_axis_is_the_column(tmp_path, suffix):
    Image.fromarray(GREY).save(tmp_path / f"a{suffix}")
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.shape == (1, 4, 3, 1) and picture.dtype == torch.float32
    assert picture[0, 3, 1, 0] == GREY[1, 3]
    assert torch.equal(picture.affine, torch.eye(4, dtype=torch.float64))


def test_colours_are_channels(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (3, 4, 3, 1)
    assert picture[:, 2, 1, 0].tolist() == COLOUR[1, 2].tolist()


def test_jpeg_keeps_its_colours_nearly(tmp_path):
    flat = np.full((8, 16, 3), (200, 30, 90), np.uint8)
    for suffix in (".jpg", ".JPEG"):
        Image.fromarray(flat).save(tmp_path / f"a{suffix}", quality=95)
        picture = read_picture(tmp_path / f"a{suffix}")
        assert picture.shape == (3, 16, 8, 1)
        assert (picture - torch.tensor([200.0, 30, 90]).view(3, 1, 1, 1)).abs().max() < 5


def test_a_turned_photograph_is_read_as_its_viewers_show_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (1, 3, 4, 1)


def test_sixteen_bits_of_grey_are_kept(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 5000).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").max() == 11 * 5000


@pytest.mark.parametrize("mode", ["RGBA", "P", "PA", "LA", "1", "CMYK"])
def test_every_mode_is_grey_or_colour_without_transparency(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    image = Image.fromarray(COLOUR).convert("P" if mode == "PA" else mode)
    if mode == "RGBA":
        image.putalpha(0)
    if mode == "PA":
        image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / f"a{suffix}")
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.shape[0] == (1 if mode in ("LA", "1") else 3)
    if mode in ("RGBA", "P", "PA"):
        assert (picture[:, 2, 1, 0] - torch.from_numpy(COLOUR[1, 2].astype(np.float32))).abs().max() < 30


def test_equal_channels_are_grey(tmp_path):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").shape[0] == 1


def test_picture_and_array_of_the_same_image_are_equal(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", COLOUR)
    np.savez(tmp_path / "a.npz", COLOUR)
    np.savez(tmp_path / "b.npz", label=np.ones(2), image=COLOUR)
    expected = read_picture(tmp_path / "a.png")
    for name in ("a.npy", "a.npz", "b.npz"):
        assert torch.equal(read_picture(tmp_path / name), expected)


@pytest.mark.parametrize(
    "shape, expected", [((5, 3, 4), (1, 4, 3, 1)), ((5, 3, 4, 3), (3, 4, 3, 1)), ((5, 3, 4, 6), (1, 3, 4, 6))]
)
def test_one_image_of_a_stack(tmp_path, shape, expected):
    stack = np.random.default_rng(0).random(shape)
    np.savez(tmp_path / "a.npz", images=stack, others=np.ones(2))
    np.save(tmp_path / "one.npy", stack[2])
    picture = read_picture(tmp_path / "a.npz", 2)
    assert picture.shape == expected
    assert torch.equal(picture, read_picture(tmp_path / "one.npy"))


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_that_is_not_there(tmp_path, index):
    np.save(tmp_path / "a.npy", np.ones((5, 3, 4)))
    with pytest.raises(InputError, match=f"a.npy: expected a stack with an image number {index}"):
        read_picture(tmp_path / "a.npy", index)


def test_an_index_needs_a_stack(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    with pytest.raises(InputError, match="expected a stack"):
        read_picture(tmp_path / "a.npy", 0)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="expected .npz or .npy for image number 0"):
        read_picture(tmp_path / "a.png", 0)


def test_a_stack_needs_an_index(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 3, 4, 3)))
    with pytest.raises(InputError, match="give the index"):
        read_picture(tmp_path / "a.npy")


def test_arrays_without_a_known_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=GREY, y=GREY)
    with pytest.raises(InputError, match="expected an array called image or images or data, found x, y"):
        read_picture(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(InputError, match="found none"):
        read_picture(tmp_path / "b.npz")
    assert read_array(tmp_path / "a.npz", "y").shape == (3, 4)
    with pytest.raises(InputError, match="called z, found x, y"):
        read_array(tmp_path / "a.npz", "z")
    np.save(tmp_path / "a.npy", GREY)
    with pytest.raises(InputError, match="array called z, found one without names"):
        read_array(tmp_path / "a.npy", "z")
    with pytest.raises(InputError, match="expected a file of arrays, found nothing"):
        read_array(tmp_path / "b.npy")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_pickled_objects_are_not_loaded(tmp_path, name):
    array = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "a.npz", array)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=f"{name}: expected arrays of numbers without pickled objects"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("array", [np.array([["a"]]), np.ones((2, 2), complex)])
def test_arrays_of_something_else(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match="expected real numbers"):
        read_picture(tmp_path / "a.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(tmp_path, value):
    np.save(tmp_path / "a.npy", np.array([[1, value]]))
    with pytest.raises(InputError, match="expected finite intensities, found 1 NaN"):
        read_picture(tmp_path / "a.npy")


def test_empty_images(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((0, 3)))
    with pytest.raises(InputError, match="found an empty image"):
        read_picture(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.npz", "a.npy", "a.dcm"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_truncated_files(tmp_path, name, kept):
    path, noise = tmp_path / name, np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    if name.endswith(".npz"):
        np.savez(path, noise)
    elif name.endswith(".npy"):
        np.save(path, noise)
    elif name.endswith(".dcm"):
        dicom(path, noise)
    else:
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept in (0, 10) else int(kept * len(content))])
    with pytest.raises(InputError, match=name):
        read_picture(path)


def test_files_of_another_kind(tmp_path):
    for name in ("a.png", "a.npz", "a.npy", "a.dcm", "a.nii.gz", "a.txt", "a"):
        (tmp_path / name).write_text("no image, but long enough to have a header of DICOM's length" * 9)
        with pytest.raises(InputError, match=f"{name}: expected"):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match="found nothing"):
        read_picture(tmp_path / "b.png")


def test_a_volume_is_read_as_a_volume(tmp_path):
    array = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 3, 4, 1])), tmp_path / "a.nii.gz")
    picture = read_picture(tmp_path / "a.nii.gz")
    assert torch.equal(picture[0].as_tensor(), torch.from_numpy(array))
    assert picture.affine.diagonal().tolist() == [2, 3, 4, 1]


def test_an_x_ray_without_position(tmp_path):
    expected = torch.from_numpy(GREY.T.astype(np.float32) * 2 - 10)[None, ..., None]
    for path in (dicom(tmp_path / "a.dcm"), dicom(tmp_path / "folder" / "b.dcm").parent, dicom(tmp_path / "c")):
        picture = read_picture(path)
        assert torch.equal(picture.as_tensor(), expected)
        assert picture.affine.diagonal().tolist() == [0.7, 0.8, 1, 1]


def test_bright_is_large_in_every_x_ray(tmp_path):
    dicom(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    picture = read_picture(tmp_path / "a.dcm")
    assert torch.equal(picture[0, :, :, 0].as_tensor(), torch.from_numpy((255 - GREY.T.astype(np.float32)) * 2 - 10))


def test_dicom_in_colour(tmp_path):
    picture = read_picture(dicom(tmp_path / "a.dcm", COLOUR))
    assert picture.shape == (3, 4, 3, 1)
    assert picture[:, 2, 1, 0].tolist() == COLOUR[1, 2].tolist()


def test_one_slice_is_the_same_as_a_file_and_as_a_series(tmp_path):
    path = dicom(tmp_path / "folder" / "a.dcm", placed=True)
    file, folder = read_picture(path), read_picture(path.parent)
    assert torch.equal(file, folder)
    assert torch.allclose(file.affine, folder.affine)
    assert file.affine[:3, 3].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"Modality": "SEG"}, "found an annotation"),
        ({"Modality": "PT"}, "to give SUV"),
        ({"PixelSpacing": [0, 1]}, "expected positive spacings"),
    ],
)
def test_dicom_files_that_are_no_image(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_picture(dicom(tmp_path / "a.dcm", **changes))


def test_series_and_kinds_of_files_are_known_without_pixels(tmp_path):
    assert series_of(dicom(tmp_path / "a", SeriesInstanceUID="1.2.3")) == "1.2.3"
    assert is_picture(tmp_path / "a") and not is_picture(tmp_path / "b")


def test_grey_is_luminance_and_keeps_the_grid():
    colour = MetaTensor(torch.rand(3, 4, 5, 1), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    grey = to_grey(colour)
    assert grey.shape == (1, 4, 5, 1) and torch.equal(grey.affine, colour.affine)
    pillow = Image.fromarray((colour[..., 0].permute(2, 1, 0) * 255).byte().numpy()).convert("L")
    assert (grey[0, ..., 0].T * 255 - torch.from_numpy(np.array(pillow))).abs().max() < 2
    assert to_grey(grey) is grey


def test_other_channels_have_no_luminance():
    with pytest.raises(InputError, match="expected 1 or 3 channels, found 2"):
        to_grey(MetaTensor(torch.zeros(2, 4, 4, 1)))


def test_nothing_of_the_patient_travels_on(tmp_path):
    picture = read_picture(dicom(tmp_path / "a.dcm", PatientName="Doe^Jane"))
    stream = io.StringIO()
    print(picture.meta, file=stream)
    assert "Doe" not in stream.getvalue()
