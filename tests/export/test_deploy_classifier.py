"""A generated classifier leaves home: the bundle runs without the package and says what the package says."""

import ast
import csv
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
from monai.bundle import ConfigParser, create_workflow
from PIL import Image

from monai_hyper.cli import main
from monai_hyper.export import deploy
from monai_hyper.export.deploy import PACKAGE, refuse_code
from monai_hyper.export.deploy_classifier import SCRIPTS
from monai_hyper.export.onnx import run_onnx, write_classifier_onnx
from monai_hyper.export.verify import CHECKS, found_first, verify_bundle
from monai_hyper.inference.few_shot_classifier import FewShotClassifier
from monai_hyper.networks.classifier import Classifier, ClassifierBody
from monai_hyper.types import InputError
from tests.data.test_pictures import dicom


def volume(path: Path, lump: float, seed: int) -> None:
    """Noise of 20 voxels a side, with a lump of some brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(100, 10, (20, 19, 16)).astype(np.float32)
    array[6:13, 6:13, 5:11] += lump
    nib.save(nib.Nifti1Image(array, np.diag([-1, 1, 1.25, 1])), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Examples of two classes, whose files' names must not leave their folder, and queries, one of them in between."""
    folder = tmp_path_factory.mktemp("deploy")
    for number in range(3):
        volume(folder / "kinds" / "normal" / f"John_Doe_{number}.nii.gz", 0, number)
        volume(folder / "kinds" / "tumour" / f"John_Doe_{number + 3}.nii.gz", 150, 10 + number)
    for name, lump in (("a", 150), ("b", 0), ("between", 40)):
        volume(folder / "scans" / f"{name}.nii.gz", lump, 20)
    return folder


def adapt(support: Path, output: Path, *more: str) -> int:
    return main(["adapt", "--classifier", "--support", str(support), "--output", str(output), "--no-onnx", *more])


@pytest.fixture(scope="module")
def bundle(folder) -> Path:
    assert adapt(folder / "kinds", folder / "bundle", "--name", "Tumour or not") == 0
    return folder / "bundle"


def rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def classified(support: Path, query: Path, output: Path, *more: str) -> list[dict]:
    """What the package itself says."""
    command = ["classify", "--support", str(support), "--query", str(query), "--output", str(output), *more]
    assert main(command) == 0
    return rows(output / "classes.csv")


def ran(bundle: Path, query: Path, output: Path, **overrides) -> list[dict]:
    """What the bundle says, in this process."""
    with found_first(bundle):
        create_workflow(
            config_file=str(bundle / "configs" / "inference.json"), meta_file=str(bundle / "configs" / "metadata.json"),
            workflow_type="inference", bundle_root=str(bundle), device="$torch.device('cpu')", dataset_dir=str(query),
            output_dir=str(output), **overrides,
        ).run()  # fmt: skip
    return rows(output / "classes.csv")


def test_the_bundle_runs_where_the_package_is_not_installed_and_says_the_same(bundle, folder, tmp_path):
    expected = classified(folder / "kinds", folder / "scans", tmp_path / "own")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    bare = {"PYTHONPATH": site, "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}  # no editable install is seen there
    python = Path(sys.base_prefix) / "bin" / "python3"
    there = "import importlib.util as u; print(u.find_spec('monai_hyper'))"
    found = subprocess.run([python, "-c", there], env=bare, cwd=bundle, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "None"
    configs = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    where = ["--dataset_dir", folder / "scans", "--output_dir", tmp_path / "results"]
    command = [python, "-m", "monai.bundle", "run", *configs, *where]
    run = subprocess.run(command, env=bare, cwd=bundle, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["classes.csv"]
    assert rows(tmp_path / "results" / "classes.csv") == expected
    assert [row["query"] for row in expected] == ["a.nii.gz", "b.nii.gz", "between.nii.gz"]


def test_what_is_copied_imports_nothing_else_of_the_package():
    modules = {f"monai_hyper.{module.replace('/', '.')}" for module in SCRIPTS}
    for module in SCRIPTS:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("monai_hyper"):
                assert node.module in modules, f"{module} imports {node.module}"


@pytest.mark.parametrize("reliable", ["0", "1"])
def test_it_abstains_where_the_package_does(folder, tmp_path, reliable):
    assert adapt(folder / "kinds", tmp_path / "bundle", "--reliable", reliable) == 0
    expected = classified(folder / "kinds", folder / "scans", tmp_path / "own", "--reliable", reliable)
    assert ran(tmp_path / "bundle", folder / "scans", tmp_path / "results") == expected
    assert all(row["class"] for row in expected) == (reliable == "0")
    assert all(row["class"] for row in ran(tmp_path / "bundle", folder / "scans", tmp_path / "all", threshold=0))


def pictures(folder: Path) -> tuple[Path, Path]:
    """Coloured pictures of several sizes."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(["plain", "square", "plain", "square", "query"]):
        array = generator.integers(0, 60, (20 + number, 26, 3)).astype(np.uint8)
        array[4:12, 6:14, 1] += 150 if name != "plain" else 0
        path = folder / ("query" if name == "query" else f"kinds/{name}") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return folder / "kinds", folder / "query"


def series(folder: Path) -> tuple[Path, Path]:
    """Volumes, and as query a folder of one DICOM series."""
    for number in range(4):
        volume(folder / "kinds" / ("plain", "lump")[number % 2] / f"{number}.nii.gz", 150 * (number % 2), number)
    for number in range(12):
        values = np.random.default_rng(number).integers(50, 60, (18, 20)).astype(np.uint8)
        place = {"ImagePositionPatient": [0, 0, 1.5 * number], "SeriesInstanceUID": "1.2.3"}
        dicom(folder / "query" / f"{number}.dcm", values, True, **place)
    return folder / "kinds", folder / "query"


@pytest.mark.parametrize("make", [pictures, series])
def test_whatever_classify_reads_the_bundle_reads_alike(make, tmp_path):
    support, query = make(tmp_path)
    assert adapt(support, tmp_path / "bundle") == 0
    assert ran(tmp_path / "bundle", query, tmp_path / "results") == classified(support, query, tmp_path / "own")


def test_torchscript_state_dict_and_classifier_are_the_same_network(bundle, folder):
    network = Classifier(ClassifierBody(), 2).eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 1, 20, 19, 20)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(bundle / "models" / "model.ts"))(image), network(image))
        expected = FewShotClassifier().fit(folder / "kinds").network_(image)
        torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize("grid", [(21, 18, 26), (26, 23, 1)])
def test_onnx_says_the_same_whatever_the_sides(tmp_path, grid):
    network = Classifier(ClassifierBody((8, 8, 16, 16)), 3).eval()
    write_classifier_onnx(network, tmp_path / "model.onnx", grid)
    image = torch.rand(1, 1, *grid)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", image), network(image), atol=1e-5, rtol=1e-4)


def test_a_reviewer_finds_nothing_wrong(folder, tmp_path):
    command = ["adapt", "--classifier", "--support", str(folder / "kinds"), "--output", str(tmp_path / "bundle")]
    assert main([*command, "--onnx"]) == 0
    found = verify_bundle(tmp_path / "bundle")
    assert {row["result"] for row in found} == {"ok"} and len(found) == len(CHECKS), found


def test_it_says_where_it_came_from_and_names_nobody(bundle, folder):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    files = sorted((folder / "kinds").rglob("*.nii.gz"))
    origin = metadata["provenance"]
    hashes = [{"image": hashlib.sha256(f.read_bytes()).hexdigest(), "class": f.parent.name} for f in files]
    assert origin["support"] == hashes and 0 <= origin["expected_accuracy"] <= 1 and origin["reliable"] == 0.9
    assert metadata["name"] == "Tumour or not" and metadata["pred_classes"] == {"0": "normal", "1": "tumour"}
    for path in bundle.rglob("*"):
        assert path.is_dir() or b"Doe" not in path.read_bytes(), path
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"{origin['expected_accuracy']:.0%}" in card and "3 normal, 3 tumour" in card
    assert not re.search(r"\{\w*[:}]", card)


def test_descriptions_are_told(folder, tmp_path, monkeypatch):
    described = "monai_hyper.inference.class_pipeline.description"
    monkeypatch.setattr(described, lambda text: torch.nn.functional.normalize(torch.ones(384), dim=0))
    lines = [f"{f},{f.parent.name}," for f in sorted((folder / "kinds").rglob("*.nii.gz"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,class,text", *lines, ",tumour,a bright lump"]))
    assert adapt(tmp_path / "list.csv", tmp_path / "bundle") == 0
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["preparation"]["texts"] == ["", "a bright lump"] and len(metadata["provenance"]["support"]) == 6
    assert "a bright lump" in (tmp_path / "bundle" / "docs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["grade 2", "a@b.org", "5% fat", "cost $5", "a::b", "x @y %z"])
def test_a_configuration_leaves_alone_what_is_let_through(text):
    refuse_code([text], read=True)
    parser = ConfigParser({"own": {"name": text}})
    parser.parse()
    assert parser.get_parsed_content("own") == {"name": text}


@pytest.mark.parametrize("text", ["$1 + 1", "@own", "%own", "x @##y", "x %#y", "x @::y"])
def test_what_a_configuration_would_run_is_refused(text):
    with pytest.raises(InputError, match="take for code"):
        refuse_code(["grade 2", text])


def test_what_a_configuration_would_change_is_refused_where_it_is_read():
    refuse_code(["grade #2"])
    with pytest.raises(InputError, match="without #"):
        refuse_code(["grade #2"], read=True)


def test_a_name_that_a_configuration_would_run_is_refused(folder, tmp_path, capsys):
    (tmp_path / "kinds").mkdir()
    for name, own in (("$print(1)", "normal"), ("tumour", "tumour")):
        (tmp_path / "kinds" / name).symlink_to(folder / "kinds" / own)
    assert adapt(tmp_path / "kinds", tmp_path / "bundle") == 2
    assert "take for code" in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_a_bundle_that_is_there_stays_as_it_is(bundle, folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    assert adapt(folder / "kinds", bundle) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_what_is_cut_off_leaves_nothing(folder, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "write_network", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt(folder / "kinds", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [["--polish", "0"], ["--polish-seconds", "1"], ["--classes", "normal"], ["--text", "liver"],
     ["--absent-means", "unannotated"], ["--reliable", "2"]],
)  # fmt: skip
def test_options_that_do_not_belong_to_a_classifier_are_refused(folder, tmp_path, capsys, more):
    assert adapt(folder / "kinds", tmp_path / "bundle", *more) == 2
    assert more[0] in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_options_of_a_classifier_are_refused_without_it(folder, tmp_path, capsys):
    command = ["adapt", "--support", str(folder / "kinds"), "--output", str(tmp_path / "bundle"), "--reliable", "0.9"]
    assert main(command) == 2
    assert "--reliable" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_query_that_is_not_there_is_named(bundle, tmp_path):
    with pytest.raises(Exception) as told:
        ran(bundle, tmp_path / "none", tmp_path / "results")
    assert "no such query" in f"{told.value}{told.value.__cause__}" and not (tmp_path / "results").exists()
