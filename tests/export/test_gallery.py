"""The gallery shows the tasks that training would see."""

import re

import numpy as np
import pytest
from PIL import Image

from monai_hyper.cli import main
from monai_hyper.export.gallery import MOST_CASES, facts_of, task_picture, write_gallery
from monai_hyper.synthesis.sources import Cohort, Sources, subject
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings


@pytest.fixture(scope="module")
def engine() -> TaskEngine:
    return TaskEngine(Sources({}), TaskSettings((8000, 9000), 80_000), seed=4)


def test_the_page_holds_a_row_and_a_picture_per_task(engine, tmp_path):
    page = write_gallery(engine, 3, tmp_path / "gallery").read_text(encoding="utf-8")
    assert page.count("<img") == 3 and page.count("<tr>") == 4
    assert sorted(path.name for path in (tmp_path / "gallery").iterdir()) == [
        "index.html", "task_000.png", "task_001.png", "task_002.png"
    ]  # fmt: skip


def test_families_are_shown_in_turn(tmp_path):
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[5:25, 5:25, 5:25], labels[10:20, 8:22, 9:21] = 1, 2
    cohort = Cohort("brain_labels", [subject(labels, (1.0, 1.0, 1.0))], (1, 2), body_is_labelled=True)
    engine = TaskEngine(Sources({"brain_labels": cohort}), TaskSettings((8000, 9000), 20_000), seed=4)
    page = write_gallery(engine, 8, tmp_path / "gallery").read_text(encoding="utf-8")
    shown = re.findall(r"family ([a-z_]+)", page)  # of every picture twice
    assert len(engine.families) == 4 and shown[::2] == 2 * engine.families


def test_facts_are_those_of_the_task(engine):
    episode = engine.episode(1)
    facts = facts_of(episode)
    assert facts["K"] == episode.support.shots and facts["family"] == "shapes"
    shares = [float(text) for text in re.findall(r"[\d.e+-]+", facts["foreground of the queries, %"])]
    assert len(shares) == len(episode.support.classes)
    assert shares[0] == pytest.approx(100 * float((episode.labels == 1).float().mean()), rel=0.05)


def test_pictures_are_as_wide_as_the_cases_shown(engine, tmp_path):
    for index in range(4):
        episode = engine.episode(index)
        cases = min(MOST_CASES, min(episode.support.shots, MOST_CASES - 1) + len(episode.images))
        with Image.open(task_picture(episode, tmp_path / "task.png")) as picture:
            assert picture.width == pytest.approx(2.2 * 80 * cases, abs=2)


def test_the_command_needs_training_data(tmp_path, capsys):
    assert main(["synth", "--data", str(tmp_path), "--output", str(tmp_path / "new")]) == 2
    assert "no training data found" in capsys.readouterr().err and not (tmp_path / "new").exists()
