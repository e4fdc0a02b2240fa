"""Laws of the digital phantom."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from monai_hyper.data.phantom import CLASSES, phantom_case, write_phantom
from monai_hyper.types import InputError

KINDS = tuple(CLASSES)
CASES = 8


@pytest.fixture(scope="module")
def cases():
    return {kind: [phantom_case(kind, index) for index in range(CASES)] for kind in KINDS}


def _upright(case):
    """Image and label in RAS+ order."""
    image, label, affine = case
    return [np.asanyarray(nib.as_closest_canonical(nib.Nifti1Image(a, affine)).dataobj) for a in (image, label)]


def _tissue(kind, image):
    return image > -300 if kind == "torso_ct" else image > 0.2 * np.percentile(image, 99)


@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_same_patient(kind, cases):
    for first, again in zip(cases[kind][3], phantom_case(kind, 3)):
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_patients_are_alike(kind, cases):
    all_of_them = [*cases[kind], phantom_case(kind, 0, seed=1)]
    assert len({hashlib.sha256(image.tobytes()).digest() for image, _, _ in all_of_them}) == CASES + 1
    assert len({hashlib.sha256(label.tobytes()).digest() for _, label, _ in all_of_them}) == CASES + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_in_every_case(kind, cases):
    for _, label, _ in cases[kind]:
        assert label.dtype == np.uint8
        volumes = np.bincount(label.ravel(), minlength=len(CLASSES[kind]) + 1)
        assert len(volumes) == len(CLASSES[kind]) + 1
        assert volumes.min() > 50


@pytest.mark.parametrize("kind", KINDS)
def test_labels_lie_inside_the_body(kind, cases):
    for case in cases[kind]:
        image, label = _upright(case)
        tissue = _tissue(kind, image)
        from_left = np.maximum.accumulate(tissue, axis=0)
        from_right = np.maximum.accumulate(tissue[::-1], axis=0)[::-1]
        assert (from_left & from_right)[label > 0].mean() > 0.999


def test_the_liver_is_right_and_the_spleen_left_below_the_lungs(cases):
    """Stored axes and affine belong together: anatomy stands as RAS+ says, whatever the storage order."""
    for _, label, affine in cases["torso_ct"]:
        middle = {}
        for value, name in enumerate(CLASSES["torso_ct"], start=1):
            middle[name] = nib.affines.apply_affine(affine, np.argwhere(label == value)).mean(axis=0)
        assert middle["liver"][0] > middle["spine"][0] > middle["spleen"][0]
        assert middle["lungs"][2] > middle["liver"][2] > middle["kidneys"][2]
        assert middle["spine"][1] < middle["liver"][1]


def test_the_lesion_is_not_always_at_the_same_place(cases):
    found = [(affine, np.argwhere(label == 5)) for _, label, affine in cases["head_mr"]]
    places = [nib.affines.apply_affine(affine, voxels).mean(axis=0) for affine, voxels in found]
    assert np.std(places, axis=0).max() > 15


@pytest.mark.parametrize("kind", KINDS)
def test_storage_differs_as_in_real_data(kind, cases):
    codes = {"".join(nib.aff2axcodes(affine)) for _, _, affine in cases[kind]}
    spacings = {tuple(np.round(nib.affines.voxel_sizes(affine), 2)) for _, _, affine in cases[kind]}
    assert len(codes) >= 4
    assert len(spacings) >= 4


def test_units_are_those_of_the_modality(cases):
    image, label, _ = cases["torso_ct"][0]
    assert image.dtype == np.int16
    assert -900 < np.median(image[label == 1]) < -700
    assert 85 < np.median(image[label == 2]) < 125
    assert cases["head_mr"][0][0].dtype == np.uint16


@pytest.mark.parametrize(("kind", "value"), [("torso_ct", 2), ("torso_ct", 3), ("head_mr", 3), ("head_mr", 5)])
def test_no_threshold_finds_the_organ(kind, value, cases):
    """Of the voxels whose intensity is typical of the organ, fewer than 7 in 10 belong to it."""
    image, label, _ = cases[kind][1]
    low, high = np.percentile(image[label == value], [10, 90])
    assert (label[(image >= low) & (image <= high)] == value).mean() < 0.7


def test_what_is_written_is_what_was_made(tmp_path):
    write_phantom(tmp_path, "head_mr", cases=3, seed=5)
    description = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert list(description["labels"].values()) == list(CLASSES["head_mr"])
    assert description["split"] == {"support": ["head_mr_00"], "query": ["head_mr_01", "head_mr_02"]}
    image, label, affine = phantom_case("head_mr", 1, seed=5)
    for part, expected in (("images", image), ("labels", label)):
        read = nib.load(tmp_path / part / "head_mr_01.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(read.dataobj), expected)
        np.testing.assert_allclose(read.affine, affine, atol=1e-4)
        assert read.get_data_dtype() == expected.dtype


def test_eight_cases_make_four_supports_and_four_queries(tmp_path):
    split = json.loads((write_phantom(tmp_path, "head_mr") / "dataset.json").read_text(encoding="utf-8"))["split"]
    assert [len(names) for names in split.values()] == [4, 4]
    assert not set(split["support"]) & set(split["query"])


def test_unknown_kind_and_too_few_cases_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown kind of phantom 'knee'"):
        phantom_case("knee", 0)
    with pytest.raises(InputError, match="at least 2"):
        write_phantom(tmp_path, "torso_ct", cases=1)
    assert not list(tmp_path.iterdir())
