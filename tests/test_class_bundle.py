"""The bundle that classifies is a MONAI bundle, and says what the package says."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import create_workflow

from monai_hyper.commands import classify, train
from monai_hyper.data.examples import list_examples
from monai_hyper.data.tensors import load_tensors
from monai_hyper.evaluation.class_folder import draw_examples
from monai_hyper.export.bundle_weights import blank_classifier
from monai_hyper.export.verify import CHECKS, monai_onnx_export, onnx, verify_bundle
from monai_hyper.inference.few_shot_classifier import FewShotClassifier
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.released import RELEASED_CLASSIFIER, load_classifier
from monai_hyper.synthesis.pack import write_pack
from monai_hyper.synthesis.sources import Cohort, Sources, subject
from monai_hyper.training.loop import WEIGHTS
from monai_hyper.types import InputError
from tests.export.test_deploy_classifier import rows, volume

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "hyper_fewshot_classification"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A copy of the bundle with its weights, examples in ``support`` and images in ``query``."""
    folder = tmp_path_factory.mktemp("bundle") / BUNDLE.name
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models"))
    command = [sys.executable, "-m", "monai_hyper.export.bundle_weights", RELEASED_CLASSIFIER, folder / "models"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    for number in range(4):
        volume(folder / "support" / "normal" / f"{number}.nii.gz", 0, number)
        volume(folder / "support" / "tumour" / f"{number}.nii.gz", 150, 10 + number)
    for name, lump in (("a", 150), ("b", 0), ("between", 40)):
        volume(folder / "query" / f"{name}.nii.gz", lump, 20)
    return folder


def workflow_of(bundle: Path, kind: str = "inference", **overrides):
    """A workflow, as ``python -m monai.bundle run`` makes it."""
    return create_workflow(
        config_file=str(bundle / "configs" / f"{kind}.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type=kind,
        bundle_root=str(bundle),
        device="$torch.device('cpu')",
        **overrides,
    )


def check_workflow(workflow) -> None:
    """What a unit test of the model zoo does with a bundle."""
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()


def test_the_models_are_bare_state_dicts(bundle):
    model = HyperClassifier()
    model.load_state_dict(torch.load(bundle / "models" / "hypernetwork.pt", weights_only=True))
    for name, tensor in load_classifier().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    blank = blank_classifier(load_classifier()).eval()
    blank.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        assert not blank(torch.rand(1, 1, 16, 16, 16)).any(), "without a support set it tells nothing apart"


def test_a_reviewer_finds_nothing_wrong(bundle):
    found = {row["check"]: row["result"] for row in verify_bundle(bundle)}
    assert {found.pop(name) for name in ("torchscript", "onnx")} == {"skipped"} and set(found.values()) == {"ok"}, found


@pytest.mark.parametrize("reliable", [0.9, 0])
def test_the_bundle_classifies_as_the_command_line_does(bundle, tmp_path, reliable):
    check_workflow(workflow_of(bundle, output_dir=str(tmp_path / "eval"), reliable=reliable))
    found = rows(tmp_path / "eval" / "classes.csv")
    expected = classify(bundle / "support", bundle / "query", tmp_path / "own", reliable)
    assert found == rows(tmp_path / "own" / "classes.csv") and len(found) == len(expected) == 3
    answer = FewShotClassifier(reliable=reliable).fit(bundle / "support").predict(bundle / "query" / "a.nii.gz")
    assert found[0]["class"] == (answer.name or "")
    assert {name: float(found[0][name]) for name in ("normal", "tumour")} == answer.probabilities


def test_generate_writes_a_bundle_that_says_the_same(bundle, tmp_path):
    made, config = tmp_path / "made", str(bundle / "configs" / "generate.json")
    create_workflow(config_file=config, bundle_root=str(bundle), output_dir=str(made), onnx=False).run()
    quick = [check for check in CHECKS if check not in (monai_onnx_export, onnx)]
    assert {row["result"] for row in verify_bundle(made, quick)} == {"ok"}
    image = torch.rand(1, 1, 20, 19, 20)
    expected = FewShotClassifier().fit(bundle / "support").network_(image)
    torch.testing.assert_close(torch.jit.load(str(made / "models" / "model.ts"))(image), expected)


def test_evaluate_draws_examples_and_queries_from_one_folder(bundle, tmp_path):
    config, folders = str(bundle / "configs" / "evaluate.json"), {"output_dir": str(tmp_path / "scores")}
    folders["dataset_dir"] = str(bundle / "support")
    create_workflow(config_file=config, bundle_root=str(bundle), shots=[1, 2], draws=2, queries=2, **folders).run()
    with (tmp_path / "scores" / "results.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["shots"], row["draw"]) for row in found] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    mean = sum(float(row["accuracy"]) for row in found[:2]) / 2
    assert summary["1"]["accuracy"][0] == pytest.approx(mean) and 0 <= mean <= 1
    for row in found:
        assert float(row["answered_rightly"]) <= min(float(row["answered"]), float(row["accuracy"]))


def test_queries_stay_the_same_and_more_shots_extend_fewer(bundle):
    found = list_examples(bundle / "support")
    few, asked = draw_examples(found, shots=1, queries=2, draw=0, seed=0)
    more, others = draw_examples(found, shots=2, queries=2, draw=0, seed=0)
    assert asked == others == draw_examples(found, 1, 2, draw=1, seed=0)[1]
    assert set(few) < set(more) and not set(more) & set(asked) and len(more) == 4
    with pytest.raises(InputError, match="'normal' has 4 images"):
        draw_examples(found, shots=3, queries=2, draw=0, seed=0)


def test_the_bundle_trains_what_the_command_line_trains(bundle, tmp_path):
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[4:26, 4:26, 4:26], labels[8:20, 8:18, 8:18] = 1, 2
    bodies = [subject(np.roll(labels, shift, 0), (2.0, 2.0, 2.0)) for shift in range(3)]
    write_pack(Sources({"brain_labels": Cohort("brain_labels", bodies, (2,))}), tmp_path / "train.pack")
    folders = {"dataset_dir": str(tmp_path / "train.pack"), "output_dir": str(tmp_path / "bundle")}
    check_workflow(workflow_of(bundle, "train", max_epochs=1, epoch_length=2, tasks=1, **folders))
    tensors, facts = load_tensors(tmp_path / "bundle" / WEIGHTS)
    fields = json.loads((ROOT / "monai_hyper" / "configs" / "classifier.json").read_text(encoding="utf-8"))
    (tmp_path / "train.json").write_text(json.dumps(fields | {"steps": 2, "tasks": 1}))
    expected, _ = load_tensors(train(tmp_path / "train.json", tmp_path / "train.pack", tmp_path / "line"))
    assert facts["step"] == 2 and facts["method"] == "hyper-classifier"
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_the_training_has_the_fields_of_the_command_line():
    own = json.loads((BUNDLE / "configs" / "train.json").read_text(encoding="utf-8"))
    line = json.loads((ROOT / "monai_hyper" / "configs" / "classifier.json").read_text(encoding="utf-8"))
    assert own["max_epochs"] * own["epoch_length"] == line["steps"] and own["epoch_length"] == line["every"]
    for name in ("decay", "warm_up", "body_rate", "generator_rate", "average", "tasks", "seed"):
        assert own[name] == line[name], name
    assert own["train"]["settings"]["method"] == line["method"]


def test_metadata_requires_what_the_tests_ran_with():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    own = metadata["required_packages_version"].pop("monai_hyper")
    assert own == metadata["version"]
    for name, version in metadata["required_packages_version"].items():
        assert pinned[name] == version, name
