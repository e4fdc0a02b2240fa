"""Folders of annotated volumes: pairing, classes, who annotates what."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from monai_hyper.data.classes import ClassTable, annotated_classes, class_table
from monai_hyper.data.folder import Case, list_cases, read_pair
from monai_hyper.types import InputError


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Cases a, b, c; values 2 and 7, the 7 in b only."""
    for name in "cab":
        label = np.zeros((6, 6, 6), np.uint8)
        label[1:3] = 2
        label[4] = 7 if name == "b" else 0
        write(tmp_path / "images" / f"{name}.nii.gz", np.ones((6, 6, 6), np.float32))
        write(tmp_path / "labels" / f"{name}.nii", label)
    return tmp_path


def describe(folder: Path, **entries) -> None:
    (folder / "dataset.json").write_text(json.dumps(entries))


def test_cases_are_paired_by_name_and_sorted(folder):
    cases = list_cases(folder)
    assert [case.name for case in cases] == ["a", "b", "c"]
    assert [case.patient for case in cases] == ["a", "b", "c"]
    assert cases[0].label == folder / "labels" / "a.nii"


def test_split_patients_and_annotated_come_from_the_description(folder):
    describe(folder, split={"select": ["c", "a"]}, patients={"a": "p", "c": "p"}, annotated={"a": ["liver", 7]})
    cases = list_cases(folder, split="select")
    assert [(case.name, case.patient, case.annotated) for case in cases] == [
        ("a", "p", ("liver", "7")),
        ("c", "p", None),
    ]


@pytest.mark.parametrize("emptied", ["images", "labels"])
def test_no_pairs(folder, emptied):
    for path in (folder / emptied).iterdir():
        path.unlink()
    with pytest.raises(InputError, match="expected pairs"):
        list_cases(folder)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="found 0 images and 0 labels"):
        list_cases(tmp_path / "nothing")


def test_image_without_label_and_the_reverse(folder):
    (folder / "labels" / "b.nii").unlink()
    with pytest.raises(InputError, match="label for case 'b', found only b.nii.gz"):
        list_cases(folder)
    assert [case.label is None for case in list_cases(folder, need_labels=False)] == [False, True, False]
    write(folder / "labels" / "b.nii", np.zeros((6, 6, 6), np.uint8))
    (folder / "images" / "b.nii.gz").unlink()
    with pytest.raises(InputError, match="image for case 'b', found label b.nii"):
        list_cases(folder)


def test_the_same_case_twice(folder):
    write(folder / "images" / "a.nii", np.ones((6, 6, 6), np.float32))
    with pytest.raises(InputError, match="case 'a' is there twice"):
        list_cases(folder)


def test_unknown_split_and_missing_case(folder):
    describe(folder, split={"select": ["a", "z"], "none": []})
    with pytest.raises(InputError, match="unknown split 'test'; dataset.json has select"):
        list_cases(folder, split="test")
    with pytest.raises(InputError, match="case 'z', found neither"):
        list_cases(folder, split="select")
    with pytest.raises(InputError, match="lists no case"):
        list_cases(folder, split="none")


@pytest.mark.parametrize("text", ["{", "[1]", '{"split": []}'])
def test_a_broken_description_is_named(folder, text):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(InputError, match="dataset.json: expected"):
        list_cases(folder)


@pytest.mark.parametrize(
    "labels",
    [
        {"2": "liver", "7": "tumour"},
        {"0": "background", "2": "liver", "7": "tumour"},
        {"background": 0, "liver": 2, "tumour": 7},
    ],
)
def test_classes_are_named_in_three_ways(folder, labels):
    describe(folder, labels=labels)
    assert class_table(folder, list_cases(folder)) == ClassTable((2, 7), ("liver", "tumour"))


@pytest.mark.parametrize("labels", [None, "see the paper", {"whole": [2, 7]}, {"2": ["liver", "left"]}])
def test_classes_without_usable_names_are_found_in_the_masks(folder, labels):
    describe(folder, labels=labels)
    assert class_table(folder, list_cases(folder)) == ClassTable((2, 7), ("class_2", "class_7"))


def test_classes_are_chosen_by_name_or_value_in_the_order_asked(folder):
    describe(folder, labels={"2": "liver", "7": "tumour"})
    assert class_table(folder, list_cases(folder), ["7", "liver"]).names == ("tumour", "liver")
    with pytest.raises(InputError, match="unknown class spleen; known are liver, tumour"):
        class_table(folder, list_cases(folder), ["spleen"])
    with pytest.raises(InputError, match="one to one"):
        class_table(folder, list_cases(folder), ["7", "tumour"])


def test_more_than_eight_classes_need_a_choice(folder):
    describe(folder, labels={str(value): f"organ {value}" for value in range(1, 12)})
    with pytest.raises(InputError, match="found 11 classes .*--classes"):
        class_table(folder, list_cases(folder))
    assert class_table(folder, list_cases(folder), ["organ 9"]).values == (9,)


def test_empty_masks_everywhere_have_no_class(folder):
    for path in (folder / "labels").iterdir():
        write(path, np.zeros((6, 6, 6), np.uint8))
    with pytest.raises(InputError, match="masks of all 3 cases are empty"):
        class_table(folder, list_cases(folder))


def test_read_pair_returns_one_grid(folder):
    image, label = read_pair(list_cases(folder)[0])
    assert image.shape == label.shape == (1, 6, 6, 6)
    assert torch.equal(image.affine, label.affine)


def test_shapes_that_disagree(folder):
    write(folder / "labels" / "a.nii", np.zeros((6, 5, 6), np.uint8))
    with pytest.raises(InputError, match=r"shape \(6, 5, 6\); expected that of a.nii.gz, \(6, 6, 6\)"):
        read_pair(list_cases(folder)[0])


@pytest.mark.parametrize("at", [(0, 3), (1, 1), (2, 0)])
def test_affines_that_disagree(folder, at):
    affine = np.eye(4)
    affine[at] += 0.1
    write(folder / "labels" / "a.nii", np.zeros((6, 6, 6), np.uint8), affine)
    with pytest.raises(InputError, match="its affine puts voxels up to"):
        read_pair(list_cases(folder)[0])


def test_affines_that_differ_by_rounding_agree(folder):
    affine = np.eye(4)
    affine[0, 3] = 1e-3
    write(folder / "labels" / "a.nii", np.zeros((6, 6, 6), np.uint8), affine)
    read_pair(list_cases(folder)[0])


def test_a_case_without_label_cannot_be_read_as_a_pair(folder):
    with pytest.raises(InputError, match="found none"):
        read_pair(Case("a", folder / "images" / "a.nii.gz", None, "a"))


def test_who_annotates_what():
    table = ClassTable((2, 7), ("liver", "tumour"))
    label = torch.tensor([0, 2])
    silent, telling = (Case("a", Path("a"), Path("a"), "a", told) for told in (None, ("tumour",)))
    assert annotated_classes(silent, label, table) == (True, False)
    assert annotated_classes(silent, label, table, "absent") == (True, True)
    assert annotated_classes(telling, label, table) == (False, True)
    assert annotated_classes(telling, label, table, "absent") == (False, True)
