"""What is written as DICOM Structure Set fills again to the same voxels, also by others, and tells no patient."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from matplotlib.path import Path as Outline
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from monai_hyper.data.structures import read_structures, structure_names
from monai_hyper.data.volumes import read_image
from monai_hyper.export.rtstruct import outlines, save_rtstruct
from monai_hyper.types import InputError
from tests.export.test_dicom_seg import CLASSES, IDENTIFIERS, VALUES, random_label, series

pytest.importorskip("skimage")


@pytest.fixture
def folder(tmp_path) -> Path:
    return series(tmp_path / "series")


def blobs(folder: Path) -> MetaTensor:
    """Structures with holes and islands in them."""
    image = read_image(folder)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(tuple(image.shape[1:])), (2, 2, 0.5))
    classes = np.array([0, *VALUES])[np.digitize(noise, np.quantile(noise, [0.4, 0.6, 0.8]))]
    return MetaTensor(torch.from_numpy(classes)[None], affine=image.affine)


def masks_of(label: MetaTensor) -> dict[str, torch.Tensor]:
    return {name: label[0].as_tensor() == value for name, value in zip(CLASSES, VALUES)}


def same(read: dict, expected: dict) -> bool:
    return read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in read)


def test_saved_equals_read(folder, tmp_path):
    for label in (random_label(folder), random_label(folder, seed=1)):
        path = save_rtstruct(label, CLASSES, VALUES, folder, tmp_path / "rs.dcm", overwrite=True)
        assert structure_names(path) == CLASSES
        assert same(read_structures(path, label), masks_of(label))


def test_blobs_with_holes_read_alike(tmp_path):
    folder = series(tmp_path / "series", (40, 36, 4))
    label = blobs(folder)
    path = save_rtstruct(label, CLASSES, VALUES, folder, tmp_path / "rs.dcm")
    assert same(read_structures(path, label), masks_of(label))


def test_plastimatch_reads_the_same_voxels(tmp_path):
    program = Path(sys.executable).with_name("plastimatch")
    if not program.exists():
        pytest.skip("plastimatch is absent")
    folder = series(tmp_path / "series", (40, 36, 4))
    for each in folder.iterdir():  # it takes no rotated series
        data = pydicom.dcmread(each)
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.save_as(each)
    label = blobs(folder)
    path = save_rtstruct(label, ("a", "b", "c"), VALUES, folder, tmp_path / "rs.dcm")
    command = [program, "convert", "--input", path, "--referenced-ct", folder, "--output-prefix", tmp_path / "out"]
    subprocess.run([*command, "--prefix-format", "nrrd"], check=True, capture_output=True)
    for name, value in zip("abc", VALUES):
        read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{name}.nrrd")))
        np.testing.assert_array_equal(read.T > 0, label[0] == value)


def test_outlines_enclose_the_pixels_for_any_even_odd_rule():
    mask = np.zeros((12, 12), bool)
    mask[1:11, 1:11] = True
    mask[3:9, 3:9] = False  # a hole with an island, and two holes in a row behind it
    mask[5:7, 5:7] = True
    mask[4, 10] = mask[9, 9] = False
    found = outlines(mask)
    assert len(found) == 2
    centres = np.argwhere(np.ones_like(mask))
    inside = sum(Outline(np.r_[each, each[:1]]).contains_points(centres).astype(int) for each in found)
    np.testing.assert_array_equal(inside.reshape(mask.shape) == 1, mask)


def test_patients_stay_unnamed_unless_asked(folder, tmp_path):
    label = random_label(folder)
    path = save_rtstruct(label, CLASSES, VALUES, folder, tmp_path / "rs.dcm")
    data = pydicom.dcmread(path)
    assert not any(text.encode() in path.read_bytes() for text in IDENTIFIERS)
    assert (data.PatientName, data.PatientID, data.StudyDate) == ("", "", "")
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == ("1.2", "1.2.4")
    save_rtstruct(label, CLASSES, VALUES, folder, path, keep_identifiers=True, overwrite=True)
    assert pydicom.dcmread(path).PatientID == "P-4711-X"


def test_it_says_what_made_it_and_where_it_was_drawn(folder, tmp_path):
    data = pydicom.dcmread(save_rtstruct(random_label(folder), CLASSES, VALUES, folder, tmp_path / "rs.dcm"))
    assert data.SeriesDescription == "AI-generated, research only"
    assert {roi.ROIGenerationAlgorithm for roi in data.StructureSetROISequence} == {"AUTOMATIC"}
    places = {pydicom.dcmread(each).SOPInstanceUID: each for each in folder.iterdir()}
    contour = data.ROIContourSequence[0].ContourSequence[0]
    image = pydicom.dcmread(places[contour.ContourImageSequence[0].ReferencedSOPInstanceUID])
    assert float(contour.ContourData[2]) == float(image.ImagePositionPatient[2])
    assert len({tuple(roi.ROIDisplayColor) for roi in data.ROIContourSequence}) == 3
    assert data.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0].CodeMeaning == "Kidney"


def test_a_class_without_voxels_has_no_contours(folder, tmp_path):
    label = random_label(folder)
    label[label == VALUES[1]] = 0
    path = save_rtstruct(label, CLASSES, VALUES, folder, tmp_path / "rs.dcm")
    assert structure_names(path) == (CLASSES[0], CLASSES[2])
    assert len(pydicom.dcmread(path).StructureSetROISequence) == 3


def test_existing_files_need_leave_and_other_grids_are_refused(folder, tmp_path):
    label = random_label(folder)
    path = save_rtstruct(label, CLASSES, VALUES, folder, tmp_path / "rs.dcm")
    with pytest.raises(InputError, match="exists already"):
        save_rtstruct(label, CLASSES, VALUES, folder, path)
    with pytest.raises(InputError, match="labels on the grid of"):
        save_rtstruct(label[:, 1:], CLASSES, VALUES, folder, path, overwrite=True)


@pytest.mark.shared_data
def test_a_real_tumour_reads_alike(shared_data, tmp_path):
    place = shared_data / "dicom" / "rtstruct" / "STS_001" / "PET"
    image = read_image(place / "image")
    (mask,) = read_structures(place / "mask", image).values()
    label = MetaTensor(mask[None].long(), affine=image.affine)
    path = save_rtstruct(label, ("tumour",), (1,), place / "image", tmp_path / "rs.dcm")
    assert torch.equal(read_structures(path, image)["tumour"], mask)
