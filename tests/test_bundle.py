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
from monai_hyper.data.phantom import write_phantom
from monai_hyper.networks.released import RELEASED

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "hyper_ctmr_fewshot_segmentation"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A copy of the bundle with its weights, examples in ``support`` and one scan in ``query``."""
    folder = tmp_path_factory.mktemp("bundle") / BUNDLE.name
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models"))
    command = [sys.executable, "-m", "monai_hyper.export.bundle_weights", RELEASED, folder / "models" / "model.pt"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    phantom = write_phantom(folder / "phantom", "head_mr", cases=3)
    (folder / "query").mkdir()
    shutil.move(phantom / "images" / "head_mr_02.nii.gz", folder / "query" / "scan.nii.gz")
    (phantom / "labels" / "head_mr_02.nii.gz").unlink()
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
    assert "bundles/*/" in recipe and "models/model.pt" in recipe


def test_model_pt_is_the_released_model_as_a_bare_state_dict(bundle):
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    model = HyperModel()
    model.load_state_dict(state)
    for name, tensor in load_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


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


def test_metadata_requires_what_the_tests_ran_with():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    own = metadata["required_packages_version"].pop("monai_hyper")
    assert own == metadata["version"]
    for name, version in metadata["required_packages_version"].items():
        assert pinned[name] == version, name
