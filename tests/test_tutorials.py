"""Every tutorial runs from its first to its last line and keeps what it promises."""

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
    assert {path.name for path in TUTORIALS.iterdir() if path.suffix in (".py", ".ipynb")} == {"first_segmentation.py"}


def test_first_segmentation(tmp_path, monkeypatch):
    found = run("first_segmentation.py", tmp_path, monkeypatch)
    written, query = nibabel.load(tmp_path / "segmented.nii.gz"), nibabel.load(found["queries"][0].image)
    assert written.shape == query.shape
    np.testing.assert_allclose(written.affine, query.affine, atol=1e-4)
    assert set(found["scores"]) == {"ventricles", "cerebellum"}
    assert (tmp_path / "segmented.png").stat().st_size > 10_000
    differ = int((found["again"] != found["label"]).sum())
    assert differ <= found["label"].numel() * 1e-4  # the stand-alone network gives the same, up to rounding
