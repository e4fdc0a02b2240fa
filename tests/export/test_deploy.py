"""A generated network leaves home: the bundle runs without the package and says what the package says."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import create_workflow, verify_net_in_out

from monai_hyper.cli import main
from monai_hyper.export import deploy
from monai_hyper.export.deploy import IGNITE, PACKAGE, SCRIPTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def support(tmp_path_factory) -> Path:
    """Two annotated volumes, whose names must not leave the folder."""
    folder = tmp_path_factory.mktemp("deploy") / "support"
    for index in range(2):
        label = np.zeros((32, 34, 33), np.uint8)
        label[8 + index : 20, 10:22, 8:20], label[22:29, 20:30, 20:30] = 1, 5
        image = label * 40 + np.random.default_rng(index).normal(100, 5, label.shape)
        for part, array in (("images", image.astype(np.float32)), ("labels", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1.5, 1, 1, 1])), folder / part / f"John_Doe_{index}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"modality": "MR", "labels": {"1": "liver", "5": "spleen"}}))
    return folder


def adapt(support: Path, output: Path, *more: str) -> int:
    return main(["adapt", "--support", str(support), "--output", str(output), "--polish", "0", "--no-onnx", *more])


@pytest.fixture(scope="module")
def bundle(support) -> Path:
    assert adapt(support, support.parent / "bundle", "--name", "Liver and spleen") == 0
    return support.parent / "bundle"


def workflow_of(bundle: Path, **overrides):
    workflow = create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type="inference",
        bundle_root=str(bundle),
        device="$torch.device('cpu')",
        **overrides,
    )
    return workflow


@pytest.fixture(scope="module")
def segmented(support) -> np.ndarray:
    """What the package itself says of a volume."""
    output, query = support.parent / "segmented", support / "images" / "John_Doe_1.nii.gz"
    command = ["segment", "--support", str(support), "--query", str(query), "--output", str(output)]
    assert main([*command, "--polish-seconds", "0"]) == 0
    return np.asarray(nib.load(output / "John_Doe_1.nii.gz").dataobj)


def test_the_bundle_runs_where_the_package_is_not_installed_and_says_the_same(bundle, support, segmented, tmp_path):
    site = next(path for path in sys.path if path.endswith("site-packages"))
    bare = {"PYTHONPATH": site, "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}  # no editable install is seen there
    python = Path(sys.base_prefix) / "bin" / "python3"
    there = "import importlib.util as u; print(u.find_spec('monai_hyper'))"
    found = subprocess.run([python, "-c", there], env=bare, cwd=bundle, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "None"
    configs = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    where = ["--dataset_dir", support / "images", "--output_dir", tmp_path / "results"]
    command = [python, "-m", "monai.bundle", "run", *configs, *where]
    run = subprocess.run(command, env=bare, cwd=bundle, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    written = nib.load(tmp_path / "results" / "John_Doe_1_seg.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), segmented) and set(np.unique(segmented)) == {0, 1, 5}
    assert np.allclose(written.affine, nib.load(support / "images" / "John_Doe_1.nii.gz").affine)
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_what_is_copied_imports_nothing_else_of_the_package():
    modules = {f"monai_hyper.{module.replace('/', '.')}" for module in SCRIPTS}
    for module in SCRIPTS:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("monai_hyper"):
                assert node.module in modules, f"{module} imports {node.module}"


def test_torchscript_and_state_dict_are_the_same_network(bundle, monkeypatch):
    monkeypatch.syspath_prepend(bundle)  # as MONAI does when it runs a bundle
    workflow = workflow_of(bundle)
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 1, 34, 33, 48)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(bundle / "models" / "model.ts"))(image), network(image))


def test_it_has_what_monai_asks_of_a_bundle(bundle, monkeypatch):
    monkeypatch.syspath_prepend(bundle)
    workflow = workflow_of(bundle)
    workflow.initialize()
    assert workflow.check_properties() == []
    configs = {"config_file": str(bundle / "configs" / "inference.json")}
    verify_net_in_out("network_def", meta_file=str(bundle / "configs" / "metadata.json"), **configs)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"pytorch-ignite=={IGNITE}" in pinned


@pytest.mark.parametrize("override", [{"roi_size": [24, 24, 24]}, {"amp": True}])
def test_windows_and_low_precision_change_little(bundle, support, segmented, tmp_path, override):
    workflow_of(bundle, dataset_dir=str(support / "images"), output_dir=str(tmp_path), **override).run()
    written = np.asarray(nib.load(tmp_path / "John_Doe_1_seg.nii.gz").dataobj)
    for value in (1, 5):
        both = 2 * ((written == value) & (segmented == value)).sum()
        assert both / ((written == value).sum() + (segmented == value).sum()) > 0.8


def test_it_says_where_it_came_from_and_names_nobody(bundle, support):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    origin = metadata["provenance"]
    hashes = [
        {part[:-1]: hashlib.sha256(path.read_bytes()).hexdigest() for part in ("images", "labels")
         for path in [support / part / f"John_Doe_{index}.nii.gz"]} for index in range(2)
    ]  # fmt: skip
    assert origin["support"] == hashes and origin["polish"] is None and 0 < origin["expected_dice"] <= 1
    assert metadata["name"] == "Liver and spleen" and metadata["pred_classes"] == {
        "0": "background", "1": "liver", "5": "spleen"
    }  # fmt: skip
    for path in bundle.rglob("*"):
        assert path.is_dir() or b"Doe" not in path.read_bytes(), path
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"{origin['expected_dice']:.2f}" in card and not re.search(r"\{\w*[:}]", card)


def test_a_bundle_that_is_there_stays_as_it_is(bundle, support, capsys):
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    assert adapt(support, bundle) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_what_is_cut_off_leaves_nothing(support, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "write_network", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt(support, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [["--polish-seconds", "1"], ["--polish-seconds", "-1"]])
def test_a_polish_that_cannot_be_is_refused(support, tmp_path, capsys, more):
    assert adapt(support, tmp_path / "bundle", *more) == 2
    assert "--polish" in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_two_classes_of_one_name_are_refused(support, tmp_path, capsys):
    twin = tmp_path / "support"
    twin.mkdir()
    for part in ("images", "labels"):
        (twin / part).symlink_to(support / part)
    (twin / "dataset.json").write_text(json.dumps({"labels": {"1": "liver", "5": "liver"}}))
    assert adapt(twin, tmp_path / "bundle") == 2
    assert "the values 1, 5 are all called 'liver'" in capsys.readouterr().err and not (tmp_path / "bundle").exists()
