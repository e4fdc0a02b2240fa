"""Sets of few-shot papers come out grey, upright, from 0 to 1, with the labels they have on disk."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_hyper.data.image_sets import (
    SKIN_LESIONS,
    ImageSet,
    chexpert,
    isic2018,
    medmnist,
    mini_imagenet,
    omniglot,
    wbc,
)
from monai_hyper.types import InputError


def picture(path: Path, value: int = 0, colour: bool = False) -> Path:
    """4 rows, 6 columns; the upper right corner is white, the rest has the value."""
    pixels = np.full((4, 6, 3) if colour else (4, 6), value, np.uint8)
    pixels[0, 5] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


def is_upright(image: torch.Tensor) -> bool:
    return image.shape == (1, 6, 4, 1) and image.dtype == torch.float32 and int(image.argmax()) == 5 * 4


# --- ImageSet


@pytest.mark.parametrize(
    "labels, groups, message",
    [
        ([0], None, r"labels are \(1,\); expected \(2,\)"),
        ([0, 2], None, "labels reach from 0 to 2; expected 0 to 1"),
        ([0, -1], None, "labels reach from -1 to 0"),
        ([0, 1], ("x",), "groups are 1; expected 2"),
    ],
)
def test_labels_and_groups_fit(labels, groups, message):
    with pytest.raises(InputError, match=message):
        ImageSet(torch.zeros(2, 1, 4, 4, 1), torch.tensor(labels), ("a", "b"), groups)


def test_a_set_without_images():
    with pytest.raises(InputError, match="1 image or more"):
        ImageSet([], torch.zeros(0, dtype=torch.int64), ("a",))


# --- MedMNIST


def medmnist_file(path: Path, images: np.ndarray, labels: np.ndarray | None = None) -> Path:
    """Three images a split; in the training split the classes 0 and 1 only, in the test split also 2."""
    given = {split: np.array([[0], [1], [last]], np.uint8) for split, last in (("train", 1), ("val", 0), ("test", 2))}
    if labels is not None:
        given["train"] = labels
    arrays = {f"{split}_images": images for split in given} | {f"{split}_labels": given[split] for split in given}
    np.savez(path, **arrays)
    return path


def test_medmnist_of_flat_images(tmp_path):
    images = np.zeros((3, 4, 6), np.uint8)
    images[:, 0, 5] = 255
    path = medmnist_file(tmp_path / "a.npz", images)
    for split, labels in (("train", [0, 1, 1]), ("test", [0, 1, 2])):
        found = medmnist(path, split)
        assert found.labels.tolist() == labels and found.classes == ("0", "1", "2") and len(found.images) == 3
        assert is_upright(found.images[2]) and found.images[0].max() == 1
    colour = medmnist(medmnist_file(tmp_path / "b.npz", np.stack([images] * 3, -1)), "val")
    assert torch.allclose(colour.images[1], found.images[1])


def test_medmnist_of_volumes_keeps_the_axes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 6)).astype(np.uint8)
    found = medmnist(medmnist_file(tmp_path / "a.npz", images), "train")
    assert torch.allclose(found.images[1], torch.from_numpy(images[1:2]) / 255)


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.ones((3, 2), np.uint8), "expected one label per image, found 2"),
        (np.ones((2, 1), np.uint8), "expected one 8 bit image for each of 2 labels"),
        (np.ones((3, 1)), "expected train_labels as whole numbers"),
        (-np.ones((3, 1), int), "expected train_labels as whole numbers"),
    ],
)
def test_medmnist_with_wrong_labels(tmp_path, labels, message):
    path = medmnist_file(tmp_path / "a.npz", np.zeros((3, 4, 6), np.uint8), labels)
    with pytest.raises(InputError, match=message):
        medmnist(path, "train")


def test_medmnist_with_wrong_images_or_splits(tmp_path):
    path = medmnist_file(tmp_path / "a.npz", np.zeros((3, 4, 6), np.float32))
    with pytest.raises(InputError, match="found float32"):
        medmnist(path, "train")
    with pytest.raises(InputError, match="unknown split 'valid'; expected train, val, test"):
        medmnist(path, "valid")
    np.savez(tmp_path / "b.npz", train_images=np.zeros((3, 4, 6), np.uint8), train_labels=np.zeros(3, np.uint8))
    assert medmnist(tmp_path / "b.npz", "train").classes == ("0",)
    with pytest.raises(InputError, match="array called test_images, found train_images, train_labels"):
        medmnist(tmp_path / "b.npz", "test")
    with pytest.raises(InputError, match="found nothing"):
        medmnist(tmp_path / "c.npz", "test")


@pytest.mark.shared_data
def test_medmnist_as_it_is_handed_out(shared_data):
    found = medmnist(shared_data / "benchmarks" / "adrenalmnist3d.npz", "test")
    assert torch.bincount(found.labels).tolist() == [229, 69] and found.images[0].shape == (1, 28, 28, 28)


# --- Omniglot


def drawing(path: Path, seed: int) -> None:
    """Black strokes on white, one bit, as Omniglot has them; the upper right corner is a stroke."""
    pixels = np.random.default_rng(seed).random((4, 6)) < 0.5
    pixels[0] = [True] * 5 + [False]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def alphabets(tmp_path) -> Path:
    names = [f"{place}/character{n:02d}/{n}_{k}.png" for place in ("x/Latin", "y/Greek", "z/Latin")
             for n in (1, 2) for k in (1, 2)]  # fmt: skip
    for name in names:
        drawing(tmp_path / name, names.index(name) % 4)
    (tmp_path / "x" / "Latin" / "character01" / "._1_1.png").write_text("")
    picture(tmp_path / "x" / "other" / "1.png")
    return tmp_path


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*")):
            file.write(each, Path("images") / each.relative_to(folder))
        file.writestr("__MACOSX/images/Latin/character01/1_9.png", b"")
    return path


def test_omniglot_counts_a_drawing_once(alphabets):
    found = omniglot([alphabets / "x", alphabets / "y", alphabets / "z"])
    assert found.classes == tuple(f"{name}/character0{n}" for name in ("Greek", "Latin") for n in (1, 2))
    assert found.groups == ("Greek", "Greek", "Latin", "Latin")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_omniglot_is_white_on_black_and_upright(alphabets):
    image = omniglot(alphabets / "x").images[0]
    assert image[0, :, 0, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert image.shape == (1, 6, 4, 1) and set(image.unique().tolist()) == {0, 1}


def test_omniglot_of_folder_and_zip_is_the_same(alphabets):
    one, other = omniglot([alphabets / "x", alphabets / "y"]), omniglot([packed(alphabets / "y"), alphabets / "z"])
    assert one.classes == other.classes and torch.equal(one.labels, other.labels)
    assert all(torch.equal(one.images[i], other.images[i]) for i in range(8))


def test_omniglot_with_two_drawings_of_one_name(alphabets):
    drawing(alphabets / "z" / "Latin" / "character01" / "1_1.png", 99)
    with pytest.raises(InputError, match="expected Latin/character01/1_1.png as in .*x, found another drawing"):
        omniglot([alphabets / "x", alphabets / "z"])


def test_omniglot_without_drawings(alphabets):
    with pytest.raises(InputError, match="other: expected ALPHABET/characterNN/.*png, found none"):
        omniglot([alphabets / "x", alphabets / "x" / "other"])
    with pytest.raises(InputError, match="nothing.zip: expected a folder or a ZIP file"):
        omniglot(alphabets / "nothing.zip")
    path = packed(alphabets / "x")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="x.zip: expected a folder or a ZIP file"):
        omniglot(path)


def test_a_broken_drawing_is_named_when_it_is_read(alphabets):
    (alphabets / "y" / "Greek" / "character01" / "1_1.png").write_text("")
    found = omniglot(alphabets / "y")
    with pytest.raises(InputError, match="y: Greek/character01/1_1.png: expected a picture"):
        found.images[0]


@pytest.mark.shared_data
def test_omniglot_as_it_is_handed_out(shared_data):
    files = [shared_data / "benchmarks" / f"omniglot_images_background_small{n}.zip" for n in (1, 2)]
    found = omniglot(files)
    assert len(set(found.groups)) == 8 and len(found.classes) == 242
    assert torch.bincount(found.labels).tolist() == [20] * 242
    assert found.images[0].shape == (1, 105, 105, 1) and 0 < found.images[0].mean() < 0.3


# --- mini-ImageNet


def test_mini_imagenet_of_tables_and_of_folders_is_the_same(tmp_path):
    for index, name in enumerate(("n02/b.jpg", "n02/a.jpg", "n10/c.jpg")):
        picture(tmp_path / "folders" / "train" / name, 10 * index, colour=True)
        picture(tmp_path / "tables" / "images" / name[4:], 10 * index, colour=True)
    (tmp_path / "tables" / "train.csv").write_text("filename,label\nc.jpg,n10\nb.jpg,n02\na.jpg,n02\n")
    one, other = (mini_imagenet(tmp_path / name, "train") for name in ("folders", "tables"))
    assert one.classes == other.classes == ("n02", "n10") and one.labels.tolist() == other.labels.tolist() == [0, 0, 1]
    assert all(torch.equal(one.images[i], other.images[i]) and is_upright(one.images[i]) for i in range(3))
    assert 0.9 < one.images[0].max() <= 1


def test_mini_imagenet_with_missing_parts(tmp_path):
    with pytest.raises(InputError, match="expected val.csv beside images/, or val/CLASS"):
        mini_imagenet(tmp_path, "val")
    with pytest.raises(InputError, match="unknown split 'x'"):
        mini_imagenet(tmp_path, "x")
    (tmp_path / "val.csv").write_text("filename,label\na.jpg,n01\n")
    with pytest.raises(InputError, match="val.csv: expected an image at .*a.jpg, found nothing"):
        mini_imagenet(tmp_path, "val")
    (tmp_path / "val.csv").write_text("filename,labels\na.jpg,n01\n")
    with pytest.raises(InputError, match="found column 'labels'; expected 'label'"):
        mini_imagenet(tmp_path, "val")


def test_pictures_of_more_than_8_bits_have_no_known_scale(tmp_path):
    for index, name in enumerate(("n01", "n02")):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 6), index, np.uint16)).save(tmp_path / "test" / name / "a.png")
    found = mini_imagenet(tmp_path, "test")
    with pytest.raises(InputError, match="expected a picture of 8 bits, found uint16"):
        found.images[0]


# --- ISIC 2018


def lesions(folder: Path, *rows: str) -> Path:
    for name in "ab":
        picture(folder / "ISIC_Input" / f"ISIC_{name}.jpg", 20, colour=True)
    table = folder / "ISIC_GroundTruth" / "ISIC_GroundTruth.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join([",".join(("image", *SKIN_LESIONS)), *rows]) + "\n")
    return folder


def test_isic2018(tmp_path):
    found = isic2018(lesions(tmp_path, "ISIC_a,0.0,1.0,0.0,0.0,0.0,0.0,0.0", "ISIC_b,0,0,0,0,0,0,1"))
    assert found.labels.tolist() == [1, 6] and found.classes == SKIN_LESIONS and is_upright(found.images[0])


@pytest.mark.parametrize(
    "row, message",
    [
        ("ISIC_a,0,0,0,0,0,0,0", "line 2: expected 1 for one class"),
        ("ISIC_a,1,1,0,0,0,0,0", "line 2: expected 1 for one class"),
        ("ISIC_a,1,0.5,0,0,0,0,0", "line 2: expected 1 for one class"),
        ("ISIC_c,1,0,0,0,0,0,0", "line 2: expected image ISIC_c.jpg, found none"),
    ],
)
def test_isic2018_with_wrong_rows(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        isic2018(lesions(tmp_path, row))


def test_isic2018_with_another_number_of_tables(tmp_path):
    with pytest.raises(InputError, match="expected one .*GroundTruth.csv, found none"):
        isic2018(tmp_path)
    lesions(tmp_path, "ISIC_a,1,0,0,0,0,0,0")
    (tmp_path / "Test_GroundTruth.csv").write_text("")
    with pytest.raises(InputError, match="found ISIC_GroundTruth.csv, Test_GroundTruth.csv"):
        isic2018(tmp_path)


# --- CheXpert


@pytest.fixture
def chest(tmp_path) -> Path:
    """Edema: present, uncertain, not mentioned, absent."""
    folder, lines = tmp_path / "small", ["Path,Sex,Frontal/Lateral,Edema"]
    for index, value in enumerate(("1.0", "-1.0", "", "0.0")):
        picture(folder / "train" / f"patient{index}" / "view1_frontal.jpg", 10 * index)
        lines.append(f"CheXpert-v1.0-small/train/patient{index}/view1_frontal.jpg,Male,Frontal,{value}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_chexpert_leaves_out_what_is_uncertain(chest):
    found = chexpert(chest, "Edema", "train")
    assert found.labels.tolist() == [1, 0] and found.classes == ("no Edema", "Edema")
    assert is_upright(found.images[0]) and found.images[0].mean() < found.images[1].mean()


def test_chexpert_is_found_by_its_folder_or_its_parent(chest):
    folder = chest.rename(chest.with_name("CheXpert-v1.0-small"))
    assert chexpert(folder, "Edema", "train").labels.tolist() == [1, 0]
    assert chexpert(folder.parent, "Edema", "train").labels.tolist() == [1, 0]


def test_chexpert_with_wrong_words(chest):
    with pytest.raises(InputError, match="found column 'Edema'; expected 'Oedema'"):
        chexpert(chest, "Oedema", "train")
    with pytest.raises(InputError, match="unknown split 'test'"):
        chexpert(chest, "Edema", "test")
    with pytest.raises(InputError, match="valid.csv: expected a CSV file"):
        chexpert(chest, "Edema", "valid")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("patient3", "patient9", "expected an image at .*patient9.view1_frontal.jpg, found nothing"),
        ("Frontal,0.0", "Frontal,2", "line 5: expected 1, 0, -1 or nothing for Edema, found 2"),
        ("Frontal,0.0", "Frontal,1.0", "expected images with and without Edema, found one kind"),
    ],
)
def test_chexpert_with_wrong_rows(chest, old, new, message):
    table = chest / "train.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        chexpert(chest, "Edema", "train")


# --- WBC


def cells(path: Path, labels: np.ndarray | None = None, dtype: type = np.uint8) -> Path:
    images, drawn = np.zeros((2, 4, 6, 3), dtype), np.zeros((2, 4, 6), np.uint8)
    images[:, 0, 5], drawn[:, 0, 5], drawn[:, 1, 5] = 255, 255, 128
    np.savez(path, images=images, labels=drawn if labels is None else labels)
    return path


def test_wbc_images_lie_on_their_labels(tmp_path):
    images, labels = wbc(cells(tmp_path / "a.npz"))
    assert images.shape == labels.shape == (2, 1, 6, 4, 1) and labels.dtype == torch.int64
    assert is_upright(images[1]) and torch.allclose(images, (labels == 2).float())
    assert labels[0, 0, 5, :, 0].tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize(
    "labels, dtype, message",
    [
        (np.full((2, 4, 6), 127), np.uint8, r"expected labels 0, 128 and 255, found \[127\]"),
        (np.zeros((2, 6, 4)), np.uint8, r"found uint8 \(2, 4, 6, 3\) and \(2, 6, 4\)"),
        (None, np.float32, "expected 8 bit images"),
    ],
)
def test_wbc_of_another_kind(tmp_path, labels, dtype, message):
    with pytest.raises(InputError, match=message):
        wbc(cells(tmp_path / "a.npz", labels, dtype))


@pytest.mark.shared_data
def test_wbc_as_it_is_handed_out(shared_data):
    images, labels = wbc(shared_data / "benchmarks" / "wbc_dataset1.npz")
    assert images.shape == labels.shape == (300, 1, 120, 120, 1) and labels.unique().tolist() == [0, 1, 2]
    background, cytoplasm, nucleus = (images[labels == value].mean() for value in range(3))
    assert nucleus < cytoplasm < background <= 1
