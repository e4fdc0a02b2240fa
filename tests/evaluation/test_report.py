"""The page says what the tables say, holds everything it shows, and lets nothing through unescaped."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from monai_hyper.evaluation.criteria import bias, generalisation_gap, robustness
from monai_hyper.evaluation.overlay import overlay, overlay_file
from monai_hyper.evaluation.records import RELIABILITY_COLUMNS, RESULT_COLUMNS, write_rows
from monai_hyper.evaluation.report import write_report
from monai_hyper.evaluation.statistics import read_results, summarise
from monai_hyper.types import InputError

CASES = ["a_1", "a_2", "b_1", "b_2", "b_3"]
METHODS = {"hyper": 0.7, "hyper+temperature": 0.7, "scratch<b>": 0.5}
SETTINGS = {
    "protocol": {"dataset": "heart<&>", "draws": 2, "classes": None},
    "tasks": [{"names": ["left<i>"], "members": [[1]]}],
    "notes": ["K was clipped to <4>."],
    "bad_cases": ["c_9: no label <u>."],
    "patients": {case: f"Patient Zero {case}" for case in CASES},
    "empty_rule": "Dice is 1 where both are empty.",
    "environment": {"torch": "2.8", "command": "monai-hyper evaluate --dataset 'my <data>'"},
}


def _dice(method, shots, case):
    return METHODS[method] + 0.03 * shots - 0.02 * CASES.index(case) - (0.2 if case.startswith("a") else 0)


def _folder(folder, methods=tuple(METHODS), shots=(1, 4), classes=("left<i>", "right"), cases=CASES, broken=True):
    """Results with a failed prediction, and what is made of them."""
    rows, bins, rng = [], [], np.random.default_rng(0)
    for method, k, draw, case, name in (
        (m, k, d, c, n) for m in methods for k in shots for d in (1, 2) for c in cases for n in classes
    ):
        key = {"method": method, "shots": k, "draw": draw, "query": case, "class": name}
        costs = {"fit_seconds": 12.5, "query_seconds": 0.25, "peak_mb": 321}
        if broken and (method, draw, case) == (methods[-1], 2, "b_3"):
            rows.append(key | costs | {"dice": 0, "nsd": 0, "error": "RuntimeError: <out> of memory"})
            continue
        scores = {"dice": _dice(method, k, case) + rng.normal(0, 0.01), "nsd": 0.9, "hd95_mm": 2, "ece": 0.1}
        rows.append(key | costs | scores | {"brier": 0.2})
        bins += [key | {"bin": b, "confidence": (b + 0.5) / 10, "frequency": b / 10, "voxels": 9} for b in range(10)]
    write_rows(folder / "results.csv", RESULT_COLUMNS, rows)
    write_rows(folder / "reliability.csv", RELIABILITY_COLUMNS, bins)
    (folder / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    found = read_results(folder / "results.csv")
    _write_summary(folder, summarise(found, patients=SETTINGS["patients"], resamples=100))
    return found


def _write_summary(folder, summary):
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    rows = _folder(folder)
    participants = folder / "participants.csv"
    participants.write_text("case,scanner\n" + "".join(f"{c},<{c[0]}>\n" for c in CASES), encoding="utf-8")
    summary = _summary(folder)
    summary["groups"] = bias(rows, participants, "scanner", resamples=100)
    summary["robustness"] = robustness(rows, {"noise": [replace(r, dice=r.dice / 2) for r in rows]}, resamples=100)
    summary["generalisation_gap"] = generalisation_gap(rows, rows, resamples=100)
    _write_summary(folder, summary)
    block = torch.zeros(1, 16, 16, 16)
    block[:, 4:10, 4:10, 4:10] = 1
    for method in METHODS:
        for case in CASES[:4]:
            overlay(torch.rand(1, 16, 16, 16), block, block, overlay_file(folder, "right", method, case), case)
    return write_report(folder)


class _Reader(HTMLParser):
    """Text, attributes, and whether tags close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.attributes = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def _section(text, title):
    """From the heading to the next one."""
    return re.search(rf"<h2>{title}</h2>(.*?)(<h2>|</main>)", text, re.S)[1]


def test_the_page_is_whole_and_self_contained(page):
    text = page.read_text(encoding="utf-8")
    found = _Reader(text)
    assert found.open == []
    assert "<script" not in text and "@import" not in text and "url(" not in text and "http" not in found.text
    addresses = [value for _, name, value in found.attributes if name in ("src", "href")]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert all(dict((n, v) for t, n, v in found.attributes if t == "img").values())
    assert [p.name for p in page.parent.iterdir() if ".part" in p.name] == []


def test_every_part_is_there(page):
    headings = re.findall("<h2>(.*?)</h2>", page.read_text(encoding="utf-8"))
    assert headings == [
        "Dice", "Surface distance and calibration", "Data efficiency", "Spread", "Reliability",
        "Calibration before and after leave-one-out temperature", "Generalisation gap", "Robustness", "Groups", "Cost",
        "Best, median and worst prediction", "Failures", "Notes", "Settings and environment",
    ]  # fmt: skip


def test_everything_is_escaped(page):
    text, found = page.read_text(encoding="utf-8"), _Reader(page.read_text(encoding="utf-8"))
    for written in ("heart<&>", "scratch<b>", "left<i>", "<out>", "<4>", "<u>", "<a>", "my <data>"):
        assert written not in text and written in found.text


def test_patients_are_not_named(page):
    assert "Patient Zero" not in page.read_text(encoding="utf-8")


def test_the_table_holds_the_means_of_the_summary(page):
    text, summary = page.read_text(encoding="utf-8"), _summary(page.parent)
    for by_shots in summary["scores"].values():
        for entry in by_shots.values():
            dice = entry["mean"]["dice"]
            assert f"{dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]" in _section(text, "Dice")
    difference = summary["scores"]["scratch<b>"]["4"]["mean"]["difference"]["mean"]
    assert f"{difference:+.3f}, p = " in _section(text, "Dice")


def test_methods_stand_in_the_order_of_their_dice(page):
    names = re.findall(r'<th scope="row">(.*?)</th>', _section(page.read_text(encoding="utf-8"), "Cost"))
    assert names[-1] == "scratch&lt;b&gt;" and len(names) == 3


def test_cost_failures_notes_and_command(page):
    text = page.read_text(encoding="utf-8")
    assert "12.5" in _section(text, "Cost") and "0.250" in _section(text, "Cost") and "321" in _section(text, "Cost")
    assert "K = 4, 1 prediction (draw 2: b_3): RuntimeError: &lt;out&gt; of memory" in _section(text, "Failures")
    assert "c_9: no label" in _section(text, "Failures")
    assert "Empty predictions: Dice is 1 where both are empty." in _section(text, "Notes")
    assert "<pre>monai-hyper evaluate --dataset" in _section(text, "Settings and environment")


def test_groups_that_differ_are_marked(page):
    section = _section(page.read_text(encoding="utf-8"), "Groups")
    flagged = [e["flagged"] for m in _summary(page.parent)["groups"]["scores"].values() for e in m["4"]]
    assert section.count(">differs<") == sum(flagged) > 0


def test_best_median_and_worst_are_those_of_the_scores(page):
    section = _section(page.read_text(encoding="utf-8"), "Best, median and worst prediction")
    rows = [r for r in read_results(page.parent / "results.csv") if (r.method, r.shots, r.draw) == ("hyper", 4, 1)]
    rows = sorted((r for r in rows if r.class_name == "right" and r.query != "b_3"), key=lambda r: -r.dice)
    for title, row in (("best", rows[0]), ("median", rows[1]), ("worst", rows[3])):
        assert f"{title} {row.query}, Dice {row.dice:.3f}" in section
    picture = overlay_file(page.parent, "right", "hyper", rows[0].query).read_bytes()
    assert base64.b64encode(picture).decode() in section
    assert section.count("<img") == 3 * len(METHODS)


def test_writing_again_gives_the_same_page(page):
    before = page.read_bytes()
    assert write_report(page.parent).read_bytes() == before


def test_the_smallest_evaluation_gives_a_page(tmp_path):
    _folder(tmp_path, ("scratch<b>",), (1,), ("right",), CASES[:1], broken=False)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "One K only: no curve." in text and "No prediction failed." in text
    assert "<h2>Groups</h2>" not in text and "<h2>Best" not in text


def test_an_evaluation_where_everything_failed_gives_a_page(tmp_path):
    _folder(tmp_path, ("hyper",), (1, 4), ("right",), ["b_3"])
    rows = [row for row in read_results(tmp_path / "results.csv") if row.error]
    table = [{**vars(r), "class": r.class_name} for r in rows]
    write_rows(tmp_path / "results.csv", RESULT_COLUMNS, [{c: row[c] for c in RESULT_COLUMNS} for row in table])
    write_rows(tmp_path / "reliability.csv", RELIABILITY_COLUMNS, [])
    _write_summary(tmp_path, summarise(rows, resamples=20))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<h2>Reliability</h2>" not in text and "of memory" in text


def test_missing_files_are_named(tmp_path):
    _folder(tmp_path, ("hyper",), (1,), ("right",))
    (tmp_path / "summary.json").unlink()
    with pytest.raises(InputError, match="summary.json: expected JSON"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
