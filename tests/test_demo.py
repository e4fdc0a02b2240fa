"""The demonstration on a folder, on a tree of folders, and by name of a public set."""

import json

import pytest

from monai_hyper import demo
from monai_hyper.cli import main
from monai_hyper.data.phantom import write_phantom
from monai_hyper.types import InputError


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom"), "head_mr")


def test_demo_shows_every_query_with_scores_and_pictures(phantom, tmp_path, capsys):
    output = tmp_path / "demo"
    assert main(["demo", "--data", str(phantom), "--output", str(output), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    cases = {row["case"] for row in rows} - {"mean"}
    assert len(cases) == demo.QUERIES and len(rows) == 5 * (demo.QUERIES + 1)
    page = (output / "index.html").read_text(encoding="utf-8")
    assert all((output / f"{case}.png").exists() and case in page for case in cases)
    assert json.loads((output / "results.json").read_text(encoding="utf-8"))["rows"] == rows
    assert main(["demo", "--data", str(phantom), "--output", str(output)]) == 2


def test_the_generated_network_beats_the_mean_mask_on_the_phantom(phantom, tmp_path):
    rows, _ = demo.run_demo(tmp_path / "demo", str(phantom), progress=lambda text: None)
    means = [row for row in rows if row["case"] == "mean"]
    assert sum(r["dice"] for r in means) > sum(r["mean_mask_dice"] for r in means)


def test_folders_of_known_sets_are_found(tmp_path):
    (tmp_path / "hippocampus_mr" / "images").mkdir(parents=True)
    assert list(demo.demo_folders(str(tmp_path), tmp_path)) == ["hippocampus_mr"]


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="images/ and labels/"):
        demo.demo_folders(str(tmp_path), tmp_path)


def test_public_set_is_downloaded_through_monai_and_linked(tmp_path, monkeypatch):
    def download(root, task, *args, **kwargs):
        write_phantom(root / task, "head_mr", cases=2)
        (root / task / "images").rename(root / task / "imagesTr")
        (root / task / "labels").rename(root / task / "labelsTr")

    download.resource = {"Task04_Hippocampus": "address"}
    monkeypatch.setattr("monai.apps.DecathlonDataset", download)
    ((folder, split, classes),) = demo.demo_folders("msd:Task04_Hippocampus", tmp_path).values()
    assert len(list((folder / "images").iterdir())) == 2 and split is None and classes is None
    with pytest.raises(InputError, match="Task04_Hippocampus"):
        demo.demo_folders("msd:Task99_Nothing", tmp_path)
