"""Images as classifiers see them, and files in, classes out."""

import csv
import json

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_hyper.cli import main
from monai_hyper.data.examples import list_examples
from monai_hyper.inference.class_pipeline import make_class_plan, read_class_support
from monai_hyper.inference.few_shot_classifier import FewShotClassifier
from monai_hyper.transforms.pictures import ClassPlan, prepare
from monai_hyper.types import InputError


def _volume(path, bright: bool, shape=(12, 14, 10), spacing=(1.0, 1.0, 2.0), seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(100, 10, shape).astype(np.float32)
    if bright:
        data[3:8, 3:8, 3:8] += 300
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([*spacing, 1.0])), path)


def _picture(path, bright: bool, size=(20, 24), seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 60, size).astype(np.uint8)
    if bright:
        data[5:12, 5:12] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path)


@pytest.fixture
def volumes(tmp_path):
    for number in range(3):
        _volume(tmp_path / "examples" / "normal" / f"{number}.nii.gz", False, seed=number)
        _volume(tmp_path / "examples" / "tumour" / f"{number}.nii.gz", True, seed=10 + number)
    _volume(tmp_path / "queries" / "a.nii.gz", True, seed=20)
    _volume(tmp_path / "queries" / "b.nii.gz", False, seed=21)
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    for number in range(2):
        _picture(tmp_path / "examples" / "plain" / f"{number}.png", False, seed=number)
        _picture(tmp_path / "examples" / "square" / f"{number}.png", True, size=(24, 30), seed=10 + number)
    return tmp_path


def test_volumes_come_to_one_grid_of_equal_voxels(volumes):
    support, plan = read_class_support(volumes / "examples")
    assert plan.grid == (12, 14, 20) and plan.spacing == 1.0 and plan.scale == "MR"
    assert support.images.shape == (6, 1, 12, 14, 20) and support.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert support.classifies and support.classes == ("normal", "tumour")


def test_an_image_and_its_turned_copy_are_prepared_alike(volumes):
    _, plan = read_class_support(volumes / "examples")
    image = MetaTensor(torch.randn(1, 12, 14, 10), affine=torch.diag(torch.tensor([1.0, 1, 2, 1])))
    affine = torch.tensor([[0.0, -1, 0, 11], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    turned = MetaTensor(image.as_tensor().flip(1).movedim(2, 1), affine=affine)  # axes: posterior to anterior, R to L
    torch.testing.assert_close(prepare(turned, plan), prepare(image, plan), atol=1e-4, rtol=1e-4)


def test_pictures_of_several_sizes_fill_the_grid(pictures):
    support, plan = read_class_support(pictures / "examples")
    assert plan.grid == (30, 30, 1) and plan.spacing is None and plan.scale == "picture"
    assert support.images.shape == (4, 1, 30, 30, 1)
    assert float(support.images.min()) == pytest.approx(-1.7) and float(support.images.max()) == pytest.approx(1.7)
    assert ClassPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_large_image_is_made_smaller_without_losing_its_mean():
    image = MetaTensor(torch.rand(1, 300, 200, 1), affine=torch.eye(4))
    plan = make_class_plan([image], ("a", "b"), ("", ""), drawn=True)
    assert plan.grid == (64, 43, 1) and plan.spacing == pytest.approx(300 / 64, abs=1e-3)
    assert prepare(image, plan).shape == (1, 64, 43, 1)


def test_hounsfield_units_get_a_window():
    air, tissue = torch.full((1, 8, 8, 4), -1000.0), 40 + 20 * torch.randn(1, 8, 8, 4)
    image = MetaTensor(torch.cat([air, tissue], 3), affine=torch.eye(4))
    plan = make_class_plan([image], ("a", "b"), ("", ""), drawn=False)
    assert plan.scale == "CT" and -200 < plan.window[0] < plan.window[1] < 400
    assert float(prepare(image, plan).min()) == pytest.approx(-1.7)


def test_masks_are_scaled_from_their_least_to_their_greatest_value():
    mask = torch.zeros(1, 10, 10, 10)
    mask[:, 4:6, 4:6, 4:6] = 255
    plan = make_class_plan([MetaTensor(mask)], ("a", "b"), ("", ""), drawn=False)
    assert plan.scale == "picture" and prepare(MetaTensor(mask), plan).unique().tolist() == pytest.approx([-1.7, 1.7])


def test_other_kinds_of_images_than_the_examples_are_refused(volumes):
    _, plan = read_class_support(volumes / "examples")
    for wrong in (torch.zeros(3, 12, 14, 10), torch.zeros(1, 12, 14, 1)):
        with pytest.raises(InputError, match="expected 1 channels and several slices"):
            prepare(MetaTensor(wrong), plan)


def test_a_query_before_the_examples_is_an_error():
    from monai_hyper.data.tensors import save_tensors  # noqa: F401

    with pytest.raises(TypeError, match="without its plan"):
        _classifier().fit(_tiny_support())


def _tiny_support():
    from monai_hyper.data.support import SupportSet

    return SupportSet(torch.randn(4, 1, 16, 16, 1), torch.tensor([0, 0, 1, 1]), ("a", "b"))


def _classifier() -> FewShotClassifier:
    return FewShotClassifier()


def test_files_in_classes_out(volumes):
    classifier = _classifier().fit(volumes / "examples")
    answer = classifier.predict(volumes / "queries" / "a.nii.gz")
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert classifier.expected_accuracy_ is not None and 0 < classifier.threshold_ <= 1
    assert answer.abstains == (max(answer.probabilities.values()) < classifier.threshold_ - 1e-4)
    sure = FewShotClassifier(reliable=0).fit(list_examples(volumes / "examples"))
    assert sure.predict(volumes / "queries" / "a.nii.gz").name == "tumour"
    assert sure.predict(volumes / "queries" / "b.nii.gz").name == "normal"


def test_the_command_line_classifies_a_folder(volumes, capsys):
    output = volumes / "results"
    arguments = ["classify", "--support", str(volumes / "examples"), "--query", str(volumes / "queries")]
    assert main([*arguments, "--output", str(output), "--reliable", "0"]) == 0
    rows = list(csv.DictReader((output / "classes.csv").open()))
    assert [(row["query"], row["class"]) for row in rows] == [("a.nii.gz", "tumour"), ("b.nii.gz", "normal")]
    assert json.loads((output / "classifier.json").read_text())["preparation"]["classes"] == ["normal", "tumour"]
    assert main([*arguments, "--output", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: [p.unlink() for p in (f / "examples" / "tumour").iterdir()], "tumour"),
        (lambda f: _picture(f / "examples" / "tumour" / "flat.png", True), "flat.png"),
        (lambda f: (f / "queries" / "a.nii.gz").write_bytes(b"nothing"), "a.nii.gz"),
    ],
)
def test_bad_input_writes_nothing(volumes, capsys, change, message):
    change(volumes)
    output = volumes / "results"
    arguments = ["classify", "--support", str(volumes / "examples"), "--query", str(volumes / "queries")]
    assert main([*arguments, "--output", str(output)]) == 2
    assert message in capsys.readouterr().err and not output.exists()
