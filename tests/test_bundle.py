"""The bundle is a MONAI bundle, and says what the package says."""

import json
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
from monai_hyper.data.folder import list_cases
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.volumes import read_image
from monai_hyper.export.bundle_weights import blank_target
from monai_hyper.export.verify import verify_bundle
from monai_hyper.inference.pipeline import preprocess, read_support
from monai_hyper.networks.released import RELEASED

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
    recipe = re.search(r"^bundles:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M).group(1)
    assert "monai_hyper.export.bundle_weights monai_hyper/weights/" + RELEASED.name in recipe
    assert "bundles/*/" in recipe and "models ||" in recipe


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
    assert found.pop("torchscript") == "skipped" and set(found.values()) == {"ok"}, found


def test_all_properties_of_a_bundle_are_there(bundle):
    workflow = workflow_of(bundle)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_bundle_segments_as_the_segmenter_does(bundle, tmp_path):
    classes = ["ventricles", "cerebellum"]
    workflow = workflow_of(bundle, output_dir=str(tmp_path / "eval"), classes=classes)
    workflow.run()
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
    create_workflow(config_file=config, bundle_root=str(bundle), output_dir=str(made), classes=["cerebellum"]).run()
    assert {row["result"] for row in verify_bundle(made)} == {"ok"}
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


def test_metadata_requires_what_the_tests_ran_with():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    own = metadata["required_packages_version"].pop("monai_hyper")
    assert own == metadata["version"]
    for name, version in metadata["required_packages_version"].items():
        assert pinned[name] == version, name
