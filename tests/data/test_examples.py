"""Images with class names: folders and CSV files, and what is wrong with them."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_hyper.data.examples import Example, list_examples, natural, read_examples
from monai_hyper.data.pictures import read_picture
from monai_hyper.types import InputError
from tests.data.test_pictures import dicom


def picture(path: Path, seed: int, colour: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (4, 5, 3) if colour else (4, 5)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    return path


def volume(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).random((4, 5, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two grades with two pictures each."""
    for seed, name in enumerate(("grade 10/b.png", "grade 10/a.png", "grade 2/x 10.png", "grade 2/x 9.png")):
        picture(tmp_path / name, seed)
    return tmp_path


def table(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_sub_folders_are_classes_in_natural_order(folder):
    (folder / ".hidden").mkdir()
    (folder / "grade 2" / ".DS_Store").write_text("")
    (folder / "README.txt").write_text("about")
    found = list_examples(folder)
    assert found.classes == ("grade 2", "grade 10")
    assert [example.name for example in found.examples] == ["x 9.png", "x 10.png", "a.png", "b.png"]
    assert found.examples[0] == Example("x 9.png", folder / "grade 2" / "x 9.png", "grade 2")
    assert found.texts == {}


@pytest.mark.parametrize("names", [["a", "a1", "a2", "a10", "B"], ["1", "2", "10", "a"], ["A", "a"]])
def test_natural_order(names):
    assert sorted(reversed(names), key=natural) == names


def test_folder_and_csv_of_the_same_images_show_the_same(folder):
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in folder.rglob("*.png")]
    found, listed = list_examples(folder), list_examples(table(folder, "path,class", *lines))
    assert listed.classes == found.classes and listed.texts == found.texts
    assert [example.image for example in listed.examples] == [example.image for example in found.examples]
    for one, other in zip(read_examples(found), read_examples(listed)):
        assert torch.equal(one, other)


def test_texts_of_a_folder(folder):
    (folder / "grade 3").mkdir()
    (folder / "dataset.json").write_text(json.dumps({"texts": {"grade 3": "in between"}}))
    found = list_examples(folder)
    assert found.classes == ("grade 2", "grade 3", "grade 10") and found.texts == {"grade 3": "in between"}
    assert len(found.examples) == 4


@pytest.mark.parametrize(
    "description, message",
    [
        ({"texts": {"grad 10": "x"}}, "found a text for class 'grad 10'; expected 'grade 10'"),
        ({"texts": ["x"]}, "expected 'texts' as"),
        ({"texts": {"grade 2": ""}}, "expected 'texts' as"),
        ({"texts": {"grade 2": 3}}, "expected 'texts' as"),
        ([], "expected a JSON object"),
    ],
)
def test_a_wrong_description_is_named(folder, description, message):
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=f"dataset.json: .*{message}"):
        list_examples(folder)


def test_a_class_without_example_and_text(folder):
    (folder / "grade 3").mkdir()
    with pytest.raises(InputError, match="expected an example or a text for class 'grade 3'"):
        list_examples(folder)
    with pytest.raises(InputError, match="expected an example or a text for class 'none'"):
        list_examples(table(folder, "path,class", "grade 2/x 9.png,two", ",none"))


def test_one_class_is_no_task(tmp_path):
    with pytest.raises(InputError, match="expected two classes or more, found none"):
        list_examples(tmp_path)
    picture(tmp_path / "only" / "a.png", 0)
    with pytest.raises(InputError, match="expected two classes or more, found only"):
        list_examples(tmp_path)
    with pytest.raises(InputError, match="expected two classes or more, found x"):
        list_examples(table(tmp_path, "path,class", "only/a.png,x"))


def test_a_class_cannot_be_called_as_a_column_of_the_results(folder):
    (folder / "query").mkdir()
    with pytest.raises(InputError, match="a class is called 'query', which is a column"):
        list_examples(folder)


@pytest.mark.parametrize("name", ["nothing", "nothing.csv", "list.tsv"])
def test_neither_folder_nor_csv(tmp_path, name):
    (tmp_path / "list.tsv").write_text("path\tclass\n")
    with pytest.raises(InputError, match="expected a folder with one sub-folder per class, or a .csv file"):
        list_examples(tmp_path / name)


def test_an_image_beside_the_classes(folder):
    picture(folder / "a.png", 9)
    with pytest.raises(InputError, match="a.png: expected images in sub-folders"):
        list_examples(folder)


def test_other_files_in_a_class(folder):
    (folder / "grade 2" / "a.tif").write_text("")
    with pytest.raises(InputError, match="a.tif: expected images of class 'grade 2'"):
        list_examples(folder)


def test_folders_in_a_class_are_series(folder):
    (folder / "grade 2" / "deeper").mkdir()
    with pytest.raises(InputError, match="expected a folder of one DICOM series, found an empty one"):
        list_examples(folder)
    picture(folder / "grade 2" / "deeper" / "z.png", 9)
    with pytest.raises(InputError, match="expected a folder of one DICOM series, found 'z.png'"):
        list_examples(folder)


def test_a_blank_class_folder(folder):
    (folder / " ").mkdir()
    with pytest.raises(InputError, match="found a blank one"):
        list_examples(folder)


def test_loose_dicom_files_are_images_if_each_is_a_series(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (4, 4, 5)).astype(np.uint8)
    for index, name in enumerate(("ill/1.dcm", "ill/2.dcm", "well/1.dcm", "well/series/1.dcm")):
        dicom(tmp_path / name, noise[index])
    found = list_examples(tmp_path)
    assert [example.name for example in found.examples] == ["1.dcm", "2.dcm", "1.dcm", "series"]
    assert {image.shape for image in read_examples(found)} == {(1, 5, 4, 1)}
    for name in ("ill/1.dcm", "ill/2.dcm"):
        dicom(tmp_path / name, noise[len(name) % 4], SeriesInstanceUID="1.2.3")
    with pytest.raises(InputError, match="found 1.dcm and 2.dcm of one series. Make one folder per series"):
        list_examples(tmp_path)


def copied(folder: Path, source: str, target: str) -> None:
    (folder / target).write_bytes((folder / source).read_bytes())


def test_the_same_image_in_two_classes(folder):
    copied(folder, "grade 2/x 9.png", "grade 10/c.png")
    with pytest.raises(
        InputError, match=r"c.png in class 'grade 10' is the same .*x 9.png in class 'grade 2'; .*one class"
    ):
        list_examples(folder)
    path = table(folder, "path,class", "grade 2/x 9.png,a", "./grade 2/../grade 2/x 9.png,b")
    with pytest.raises(InputError, match="expected one class for an image"):
        list_examples(path)


def test_the_same_image_twice_in_a_class(folder):
    copied(folder, "grade 2/x 9.png", "grade 2/y.png")
    with pytest.raises(InputError, match="y.png is the same image as .*x 9.png, both in class 'grade 2'"):
        list_examples(folder)
    path = table(folder, "path,class", "grade 2/x 9.png,a", "grade 2/x 9.png,a", "grade 10/a.png,b")
    with pytest.raises(InputError, match="expected every image once"):
        list_examples(path)


def test_the_same_series_in_two_classes(tmp_path):
    for name, file in (("ill", "a"), ("well", "b")):
        dicom(tmp_path / name / "series" / file, SeriesInstanceUID="1.2", SOPInstanceUID="1.2.3").with_name(file)
    content = (tmp_path / "ill" / "series" / "a").read_bytes()
    (tmp_path / "well" / "series" / "b").write_bytes(content)
    with pytest.raises(InputError, match="expected one class for an image"):
        list_examples(tmp_path)


@pytest.fixture
def stack(tmp_path) -> Path:
    """Six images in one file, of which the last two are equal."""
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 5)).astype(np.uint8)
    images[5] = images[4]
    np.savez(tmp_path / "stack.npz", images=images)
    return tmp_path


def test_images_of_a_stack(stack):
    path = table(stack, "path,class,index", "stack.npz,b,0", "stack.npz,a,3", "stack.npz,a,2")
    found = list_examples(path)
    assert [(e.name, e.label, e.index) for e in found.examples] == [
        ("stack.npz[2]", "a", 2), ("stack.npz[3]", "a", 3), ("stack.npz[0]", "b", 0)
    ]  # fmt: skip
    assert torch.equal(read_examples(found)[1], read_picture(stack / "stack.npz", 3))


@pytest.mark.parametrize(
    "rows, message",
    [
        (["stack.npz,a,4", "stack.npz,b,5"], "expected one class for an image"),
        (["stack.npz,a,1", "stack.npz,b,1"], "expected one class for an image"),
        (["stack.npz,a,4", "stack.npz,a,5", "stack.npz,b,0"], "expected every image once"),
        (["stack.npz,a,1", "stack.npz,b,6"], "expected a stack with an image number 6"),
        (["stack.npz,a,1", "stack.npz,b,-1"], "line 3: expected a whole number from 0 upward as index, found '-1'"),
        (["stack.npz,a,1", "stack.npz,b,1.0"], "line 3: expected a whole number"),
        (["stack.npz,a,1", ",b,1"], "line 3: expected a path for index 1"),
    ],
)
def test_wrong_indices(stack, rows, message):
    with pytest.raises(InputError, match=message):
        list_examples(table(stack, "path,class,index", *rows))


def test_texts_of_a_csv_file(folder):
    path = table(
        folder,
        "class,path, text,,",
        'b,grade 2/x 9.png,"round, bright",,',
        "b,grade 2/x 10.png",
        "",
        ",,,,",
        'b,grade 10/a.png,"round, bright"',
        "a,,Überall dunkel",
        encoding="utf-8-sig",
    )
    found = list_examples(path)
    assert found.classes == ("a", "b") and found.texts == {"a": "Überall dunkel", "b": "round, bright"}
    assert [example.label for example in found.examples] == ["b"] * 3


@pytest.mark.parametrize(
    "lines, message",
    [
        (["path,clas", "a,b"], "list.csv: found column 'clas'; expected 'class'"),
        (["path,class,txt", "grade 2/x 9.png,b,"], "found column 'txt'; expected 'text'"),
        (["path,class,weather", "grade 2/x 9.png,b,"], "found column 'weather'; expected path, class, text, index"),
        (["class,text", "a,b"], "found columns class, text; expected 'path'"),
        (["path;class", "a;b"], "found columns path;class; expected 'path'.*commas"),
        (["path,class,class", "a,b,b"], "expected 'class' once"),
        (["path,class,text,text", "a,b,c,c"], "expected 'text' once"),
        ([""], "found an empty file"),
        (["path,class"], "expected rows below"),
        (["path,class", "nothing.png,b"], "line 2: expected an image at .*nothing.png, found nothing"),
        (["path,class", "list.csv,b"], "line 2: expected an image, found list.csv"),
        (["path,class", "grade 2/x 9.png,"], "line 2: expected the name of a class"),
        (["path,class,text", "grade 2/x 9.png, ,told"], "line 2: expected the name of a class"),
        (["path,class,text", "grade 2/x 9.png,a,one", ",a,two"], "line 3: found a second text for class 'a', 'two'"),
        (["path,class,text", "grade 2/x 9.png,a,round, bright"], "line 2: expected 3 entries, found 4"),
        (["path,class", 'a.png,"b'], "expected a CSV file"),
    ],
)
def test_wrong_csv_files(folder, lines, message):
    with pytest.raises(InputError, match=message):
        list_examples(table(folder, *lines))


def test_csv_files_in_another_encoding(folder):
    with pytest.raises(InputError, match="Save it as UTF-8"):
        list_examples(table(folder, "path,class", "a.png,größer", encoding="latin-1"))


def test_grey_beside_colour(folder):
    picture(folder / "grade 10" / "c.png", 9, colour=True)
    with pytest.raises(InputError, match="c.png is in colour, .*x 9.png is grey; expected all images alike"):
        read_examples(list_examples(folder))


def test_slices_beside_volumes(folder):
    volume(folder / "grade 10" / "c.nii.gz", 9)
    with pytest.raises(InputError, match=r"c.nii.gz has shape \(4, 5, 6\), .*x 9.png has shape \(5, 4, 1\)"):
        read_examples(list_examples(folder))


def test_volumes_are_read_in_the_order_of_the_classes(tmp_path):
    for seed, name in enumerate(("b/one", "a/one", "a/two")):
        volume(tmp_path / f"{name}.nii.gz", seed)
    found = list_examples(tmp_path)
    expected = [read_picture(tmp_path / f"{name}.nii.gz") for name in ("a/one", "a/two", "b/one")]
    for one, other in zip(read_examples(found), expected):
        assert torch.equal(one, other)


def test_a_truncated_image_is_named(folder):
    path = folder / "grade 2" / "x 9.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="x 9.png: expected a picture"):
        read_examples(list_examples(folder))
