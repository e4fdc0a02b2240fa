"""Every tutorial runs from its first to its last line and keeps what it promises."""

import json
import runpy
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


def run(name: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Variables that a tutorial leaves behind, written to ``output``."""
    monkeypatch.setattr(sys, "argv", [name, "--output", str(output)])
    return runpy.run_path(str(TUTORIALS / name))


def test_every_tutorial_is_tested():
    found = {path.name for path in TUTORIALS.iterdir() if path.suffix in (".py", ".ipynb")}
    assert found == {"first_segmentation.py", "two_hospitals.py", "adapt_and_deploy.ipynb", "classify_and_deploy.py"}


def test_first_segmentation(tmp_path, monkeypatch):
    found = run("first_segmentation.py", tmp_path, monkeypatch)
    written, query = nibabel.load(tmp_path / "segmented.nii.gz"), nibabel.load(found["queries"][0].image)
    assert written.shape == query.shape
    np.testing.assert_allclose(written.affine, query.affine, atol=1e-4)
    assert set(found["scores"]) == {"ventricles", "cerebellum"}
    assert (tmp_path / "segmented.png").stat().st_size > 10_000
    differ = int((found["again"] != found["label"]).sum())
    assert differ <= found["label"].numel() * 1e-4  # the stand-alone network gives the same, up to rounding


def test_two_hospitals(tmp_path, monkeypatch):
    table = run("two_hospitals.py", tmp_path, monkeypatch)["table"]
    assert table["north", "north"] > table["south", "north"] and table["south", "south"] > table["north", "south"]
    assert table["both", "south"] > table["north", "south"] and min(table.values()) > 0.4
    assert (tmp_path / "south_at_south.png").stat().st_size > 10_000


def test_classify_and_deploy(tmp_path, monkeypatch):
    found = run("classify_and_deploy.py", tmp_path, monkeypatch)
    assert found["accuracy"] > 0.8 and 0 <= found["classifier"].expected_accuracy_ <= 1
    assert found["table"].keys() == found["answers"].keys() and len(found["answers"]) == 9
    for file, answer in found["answers"].items():
        said = {name: float(found["table"][file][name]) for name in answer.probabilities}
        assert said == answer.probabilities and found["table"][file]["class"] == (answer.name or "")


def test_adapt_and_deploy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((TUTORIALS / "adapt_and_deploy.ipynb").read_text(encoding="utf-8"))
    found: dict = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not kept: they would be of another version"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "adapt_and_deploy.ipynb", "exec"), found)
    assert min(found["dice"].values()) > 0.6 and 0 < found["segmenter"].expected_dice_ <= 1
    assert (tmp_path / "runs/adapt_and_deploy/scan.png").stat().st_size > 10_000
    one, other = found["found"], found["label"] == found["liver"]
    assert 2 * int((one & other).sum()) / int(one.sum() + other.sum()) > 0.9  # alone or among five classes
