"""A table that was cut off and resumed holds what an unbroken one would hold."""

import pytest

from monai_hyper.evaluation.records import RELIABILITY, RESULT_COLUMNS, RESULTS, Records, read_rows
from monai_hyper.types import InputError

SETTINGS = {"dataset": "liver", "shots": (1, 2)}
PLAN = [("hyper", k, 1, query) for k in (1, 2) for query in "abc"]


def prediction(method, shots, draw, query):
    facts = {"method": method, "shots": shots, "draw": draw, "query": query}
    rows = [{**facts, "class": name, "dice": 0.5, "error": ""} for name in ("liver", "tumour")]
    return rows, [{**facts, "class": name, "bin": 0, "voxels": 9} for name in ("liver", "tumour")]


def run(folder):
    records = Records(folder, SETTINGS)
    records.describe({"notes": []})
    for key in PLAN:
        if not records.has(*key, ("liver", "tumour")):
            records.add(*prediction(*key))


@pytest.mark.parametrize("kept", [0, 1, 150, 351, -1, -20, -75])
def test_cut_off_at_any_byte_and_resumed(tmp_path, kept):
    run(tmp_path / "whole")
    whole = (tmp_path / "whole" / RESULTS).read_bytes()
    run(tmp_path / "cut")
    (tmp_path / "cut" / RESULTS).write_bytes(whole[:kept])
    run(tmp_path / "cut")
    assert (tmp_path / "cut" / RESULTS).read_bytes() == whole
    bins = [{k: row[k] for k in row} for row in read_rows(tmp_path / "cut" / RELIABILITY)]
    assert sorted(map(str, bins)) == sorted(map(str, read_rows(tmp_path / "whole" / RELIABILITY)))


def test_a_finished_prediction_is_not_asked_for_again(tmp_path):
    run(tmp_path)
    records = Records(tmp_path, SETTINGS)
    waiting = [key for key in PLAN if not records.has(*key, ("liver", "tumour"))]
    assert waiting == PLAN[-1:], "only the last may be incomplete"


def test_columns_are_those_promised(tmp_path):
    run(tmp_path)
    assert (tmp_path / RESULTS).read_text().splitlines()[0] == ",".join(RESULT_COLUMNS)


def test_results_of_other_settings_are_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match=r"shots = \[1, 2\]; expected \[4\]"):
        Records(tmp_path, SETTINGS | {"shots": (4,)})
