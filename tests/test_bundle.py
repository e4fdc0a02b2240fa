"""The bundle is a MONAI bundle, and says what the package says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import create_workflow

from monai_hyper import HyperModel, Segmenter, load_model
from monai_hyper.commands import evaluate, train
from monai_hyper.data.folder import list_cases
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.tensors import load_tensors
from monai_hyper.data.volumes import read_image
from monai_hyper.evaluation.statistics import read_results
from monai_hyper.export.bundle_weights import blank_target
from monai_hyper.export.verify import CHECKS, monai_onnx_export, onnx, verify_bundle
from monai_hyper.inference.pipeline import preprocess, read_support
from monai_hyper.networks.released import RELEASED, RELEASED_CLASSIFIER
from monai_hyper.synthesis.pack import write_pack
from monai_hyper.synthesis.sources import Cohort, Sources, subject
from monai_hyper.training.loop import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "hyper_ctmr_fewshot_segmentation"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A copy of the bundle with its weights, examples in ``support`` and one scan in ``query``."""
    folder = tmp_path_factory.mktemp("bundle") / BUNDLE.name
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models"))
    command = [sys.executable, "-m", "monai_hyper.export.bundle_weights", RELEASED, folder / "models"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    phantom = write_phantom(folder / "phantom", "head_mr", cases=3)
    (folder / "query").mkdir()
    shutil.move(phantom / "images" / "head_mr_02.nii.gz", folder / "query" / "scan.nii.gz")
    shutil.move(phantom / "labels" / "head_mr_02.nii.gz", folder / "truth.nii.gz")
    shutil.move(phantom, folder / "support")
    return folder


def workflow_of(bundle: Path, **overrides):
    """The inference workflow, as ``python -m monai.bundle run`` makes it."""
    return create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type="inference",
        bundle_root=str(bundle),
        device="$torch.device('cpu')",
        **overrides,
    )


def test_make_bundles_calls_the_script_for_every_bundle():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    recipe = re.search(r"^bundles:.*\n((?:\t.*\n)+)", text, re.M).group(1)
    calls = re.findall(r"monai_hyper\.export\.bundle_weights\s+(\S+)\s+(\S+)", recipe)
    weights = {"hyper_ctmr_fewshot_segmentation": RELEASED, "hyper_fewshot_classification": RELEASED_CLASSIFIER}
    assert {folder.name for folder in (ROOT / "bundles").iterdir() if folder.is_dir()} == set(weights)
    expected = {(path.relative_to(ROOT).as_posix(), f"bundles/{name}/models") for name, path in weights.items()}
    assert set(calls) == expected and len(calls) == len(weights)


def test_the_models_are_bare_state_dicts(bundle):
    state = torch.load(bundle / "models" / "hypernetwork.pt", weights_only=True)
    model = HyperModel()
    model.load_state_dict(state)
    for name, tensor in load_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    blank = blank_target(load_model()).eval()
    blank.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        assert not blank(torch.rand(1, 1, 16, 16, 16)).any(), "without a support set it finds nothing"


def test_a_reviewer_finds_nothing_wrong(bundle):
    found = {row["check"]: row["result"] for row in verify_bundle(bundle)}
    assert {found.pop(name) for name in ("torchscript", "onnx")} == {"skipped"} and set(found.values()) == {"ok"}, found


def check_workflow(workflow) -> None:
    """What a unit test of the model zoo does with a bundle."""
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()


def test_the_bundle_segments_as_the_segmenter_does(bundle, tmp_path):
    classes = ["ventricles", "cerebellum"]
    workflow = workflow_of(bundle, output_dir=str(tmp_path / "eval"), classes=classes)
    check_workflow(workflow)
    written, query = nibabel.load(tmp_path / "eval" / "scan_seg.nii.gz"), nibabel.load(bundle / "query" / "scan.nii.gz")
    np.testing.assert_allclose(written.affine, query.affine, atol=1e-4)
    support, plan = workflow.parser.get_parsed_content("support_and_plan")
    expected = Segmenter().fit(support, plan).predict(bundle / "query" / "scan.nii.gz")
    differ = np.count_nonzero(np.asarray(written.dataobj) != expected[0].numpy())
    assert plan.classes == tuple(classes) and expected.any()
    assert differ <= expected.numel() * 1e-4  # up to rounding


@pytest.mark.parametrize("override", [{"roi_size": [24, 24, 24]}, {"amp": True}, {"listed": True}])
def test_what_a_user_overrides_works(bundle, tmp_path, override):
    if override.pop("listed", False):
        cases = list_cases(bundle / "support")
        override["support"] = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    workflow_of(bundle, output_dir=str(tmp_path), **override).run()
    label = np.asarray(nibabel.load(tmp_path / "scan_seg.nii.gz").dataobj)
    truth = np.asarray(nibabel.load(bundle / "truth.nii.gz").dataobj)
    overlap = 2 * ((label > 0) & (truth > 0)).sum() / ((label > 0).sum() + (truth > 0).sum())
    assert overlap > 0.8


def test_generate_writes_a_bundle_that_says_the_same(bundle, tmp_path):
    made, config = tmp_path / "made", str(bundle / "configs" / "generate.json")
    asked = {"output_dir": str(made), "classes": ["cerebellum"], "onnx": False}
    create_workflow(config_file=config, bundle_root=str(bundle), **asked).run()
    quick = [check for check in CHECKS if check not in (monai_onnx_export, onnx)]
    assert {row["result"] for row in verify_bundle(made, quick)} == {"ok"}
    support, plan = read_support(bundle / "support", classes=["cerebellum"])
    network = torch.jit.load(str(made / "models" / "model.ts"))
    image = preprocess(read_image(bundle / "query" / "scan.nii.gz"), plan).as_tensor()[None]
    expected = load_model().condition(support)(image)
    with torch.no_grad():
        torch.testing.assert_close(network(image), expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


def test_evaluate_draws_support_sets_and_queries_from_one_folder(bundle, tmp_path):
    config, folder = str(bundle / "configs" / "evaluate.json"), bundle / "support"
    overrides = {"dataset_dir": str(folder), "output_dir": str(tmp_path / "scores"), "classes": ["cerebellum"]}
    create_workflow(config_file=config, bundle_root=str(bundle), shots=[1], draws=1, queries=1, **overrides).run()
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["scores"]) == {"hyper", "mean-mask"}
    assert (tmp_path / "scores" / "report.html").exists()


def torchrun(bundle: Path, configs: list[str], **overrides) -> None:
    """Two processes, as the bundle's README starts them."""
    files = str([str(bundle / "configs" / name) for name in configs])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle", "run"]
    options = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    command += ["--config_file", files, "--bundle_root", str(bundle), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr


def test_two_processes_evaluate_what_one_does(bundle, tmp_path):
    asked = {"methods": ["mean-mask"], "shots": [1], "draws": 3, "queries": 1, "classes": ["cerebellum"]}
    evaluate(bundle / "support", tmp_path / "one", **asked)
    folders = {"dataset_dir": bundle / "support", "output_dir": tmp_path / "two"}
    torchrun(bundle, ["evaluate.json", "multi_gpu_evaluate.json"], **folders, **asked)
    (one, other) = (read_results(tmp_path / name / "results.csv") for name in ("one", "two"))
    assert len(one) == len(other) == 3 and {(row.draw, row.query, row.score("dice")) for row in other} == {
        (row.draw, row.query, row.score("dice")) for row in one
    }
    assert (tmp_path / "two" / "report.html").exists() and not list((tmp_path / "two").glob("*.1.csv"))


SHORT = {"max_epochs": 1, "epoch_length": 2, "tasks": 1, "voxels": [8000, 9000], "budget": 20_000, "decay": 1}


@pytest.fixture(scope="module")
def training_pack(tmp_path_factory) -> Path:
    """A pack of a few boxes."""
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[4:26, 4:26, 4:26], labels[8:20, 8:18, 8:18] = 1, 2
    bodies = [subject(np.roll(labels, shift, 0), (2.0, 2.0, 2.0)) for shift in range(3)]
    path = tmp_path_factory.mktemp("pack") / "train.pack"
    write_pack(Sources({"brain_labels": Cohort("brain_labels", bodies, (2,))}), path)
    return path


def test_the_bundle_trains_what_the_command_line_trains_and_goes_on(bundle, training_pack, tmp_path):
    def run(epochs: int) -> dict:
        workflow = create_workflow(
            config_file=str(bundle / "configs" / "train.json"), meta_file=str(bundle / "configs" / "metadata.json"),
            workflow_type="train", bundle_root=str(bundle), device="$torch.device('cpu')",
            dataset_dir=str(training_pack), output_dir=str(tmp_path / "bundle"), **SHORT | {"max_epochs": epochs},
        )  # fmt: skip
        check_workflow(workflow)
        return load_tensors(tmp_path / "bundle" / WEIGHTS)

    tensors, facts = run(1)
    fields = {name: SHORT[name] for name in ("tasks", "voxels", "budget", "decay")}
    (tmp_path / "train.json").write_text(json.dumps({"steps": 2, **fields}))
    expected, _ = load_tensors(train(tmp_path / "train.json", training_pack, tmp_path / "line"))
    assert facts["step"] == 2 and all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert run(2)[1]["step"] == 4


def test_two_processes_train_one_model(bundle, training_pack, tmp_path):
    folders = {"dataset_dir": training_pack, "output_dir": tmp_path / "out"}
    torchrun(bundle, ["train.json", "multi_gpu_train.json"], **folders, **SHORT)
    assert load_tensors(tmp_path / "out" / WEIGHTS)[1]["step"] == 2
    assert len(list((tmp_path / "out").glob("events*"))) == 1, "only the first process writes"


def test_metadata_requires_what_the_tests_ran_with():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    own = metadata["required_packages_version"].pop("monai_hyper")
    assert own == metadata["version"]
    for name, version in metadata["required_packages_version"].items():
        assert pinned[name] == version, name


def test_the_tables_of_its_readme_are_those_of_the_harness(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from bundle_page import PAGE, README, tables, with_tables

    page, readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    assert with_tables(readme, page) == readme, "python benchmarks/bundle_page.py"
    assert tables(page).count("| hyper |") == 8, "the mean and seven data sets"
