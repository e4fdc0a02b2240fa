"""The literature's criteria on results whose answer is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from monai_hyper.evaluation.criteria import (
    bias,
    calibration,
    data_efficiency,
    generalisation_gap,
    robustness,
    shots_curve,
)
from monai_hyper.evaluation.statistics import Result, summarise
from monai_hyper.types import InputError

CASES = [f"SC-{kind}-{number:02}_phase0{number}" for kind in ("HF", "N", "HYP") for number in range(1, 7)]


def _rows(dice=0.7, method="hyper", shots=(1, 8), cases=CASES, seed=0, **scores):
    """Two draws of every case, around ``dice``, which may depend on the case."""
    rng = np.random.default_rng(seed)
    of = dice if callable(dice) else lambda case: dice
    return [
        Result(method, k, draw, case, "ventricle", of(case) + rng.normal(0, 0.01), **scores)
        for k in shots
        for draw in (1, 2)
        for case in cases
    ]


def test_generalisation_gap_is_the_difference_of_the_means():
    seen, unseen = _rows(0.9), _rows(0.7, cases=["a", "b", "c", "d"], seed=1)
    found = generalisation_gap(seen, unseen, resamples=500)["hyper"]["8"]
    gap = found["gap"]
    assert gap["mean"] == pytest.approx(found["seen"] - found["unseen"])
    assert 0.15 < gap["low"] < gap["mean"] < gap["high"] < 0.25


def test_generalisation_gap_needs_the_method_and_shots_on_both_sides():
    assert list(generalisation_gap(_rows(), _rows(shots=(8,)), resamples=20)["hyper"]) == ["8"]
    assert generalisation_gap(_rows(), _rows(method="ridge"), resamples=20) == {}


def test_a_gap_from_one_subject_has_no_interval():
    gap = generalisation_gap(_rows(0.9), _rows(cases=["a"]), resamples=20)["hyper"]["1"]["gap"]
    assert gap["mean"] == pytest.approx(0.2, abs=0.03) and gap["low"] is None


def test_area_of_a_flat_curve_is_its_height_whatever_the_shots():
    for shots in ((1, 8), (1, 2, 4, 8), (1, 2, 16)):
        found = shots_curve(dict.fromkeys(shots, 0.6))
        assert found["area"] == pytest.approx(0.6)
        assert found["shots_to_90"] == 1 and found["at_most"]


def test_shots_to_90_lies_on_the_line_between_two_points():
    found = shots_curve({1: 0.0, 2: 0.5, 8: 1.0})
    assert found["shots_to_90"] == pytest.approx(2 ** (1 + 2 * 0.8))
    assert found["area"] == pytest.approx((0.25 * 1 + 0.75 * 2) / 3)
    assert not found["at_most"] and found["note"] == ""


def test_shots_to_90_refers_to_eight_shots_or_says_what_else():
    assert shots_curve({1: 0.1, 8: 0.5, 16: 0.9})["reference"] == 8
    without = shots_curve({1: 0.1, 4: 0.5})
    assert without["reference"] == 4 and "K = 8 was not run" in without["note"]
    single = shots_curve({8: 0.5})
    assert single["area"] is None and single["shots_to_90"] is None and "no curve" in single["note"]
    assert shots_curve({1: 0.0, 8: 0.0})["shots_to_90"] is None


def test_data_efficiency_reads_a_summary():
    rows = _rows(0.4, shots=(1,)) + _rows(0.8, shots=(8,))
    found = data_efficiency(summarise(rows, resamples=20))["hyper"]
    assert found["mean"] == found["classes"]["ventricle"]
    assert found["mean"]["area"] == pytest.approx(0.6, abs=0.01)


def test_robustness_is_paired():
    """The drop is the same for every query, so its interval is narrow although queries differ much."""
    before = _rows(lambda case: 0.3 + 0.03 * CASES.index(case))
    after = [replace(row, dice=row.dice - 0.1) for row in before[1:]]
    found = robustness(before, {"noise": after}, resamples=200)["noise"]["hyper"]["1"]
    assert found["drop"] == {"mean": pytest.approx(0.1), "low": pytest.approx(0.1), "high": pytest.approx(0.1)}
    assert found["pairs"] == 2 * len(CASES) - 1
    assert found["plain"] - found["shifted"] == pytest.approx(0.1)


def test_changes_of_other_queries_are_refused():
    with pytest.raises(InputError, match="'noise' share no prediction"):
        robustness(_rows(), {"noise": _rows(cases=["other"])})


def test_calibration_compares_with_and_without_temperature():
    rows = _rows(ece=0.2, brier=0.3) + _rows(method="hyper+temperature", ece=0.05, brier=0.28) + _rows(method="ridge")
    found = calibration(rows, resamples=50)
    assert list(found) == ["hyper"]
    assert found["hyper"]["8"]["ece"]["before"] == pytest.approx(0.2)
    assert found["hyper"]["8"]["ece"]["after"] == pytest.approx(0.05)
    assert found["hyper"]["8"]["brier"]["change"]["mean"] == pytest.approx(-0.02)


def test_calibration_pairs_what_both_have():
    before = _rows(ece=0.2, brier=0.3)
    before[0] = replace(before[0], ece=0.9)
    after = _rows(method="hyper+temperature", ece=0.05, brier=0.28)
    after[0] = replace(after[0], ece=math.nan)
    assert calibration(before + after, resamples=20)["hyper"]["1"]["ece"]["before"] == pytest.approx(0.2)


def _participants(path, rows=None, head="case,group"):
    groups = {"HF": '"heart failure, ischaemic"', "N": "normal", "HYP": "hypertrophy"}
    rows = rows or [f"{case},{groups[case.split('-')[1]]}" for case in CASES]
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def _by_group(found, shots="8"):
    return {entry["group"]: entry for entry in found["scores"]["hyper"][shots]}


def test_a_planted_disadvantage_is_flagged_and_equal_groups_are_not(tmp_path):
    path = _participants(tmp_path / "participants.csv")
    planted = _by_group(bias(_rows(lambda case: 0.5 if "HYP" in case else 0.7), path, "group"))
    assert planted["hypertrophy"]["flagged"] and planted["hypertrophy"]["gap"]["high"] < 0
    assert planted["hypertrophy"]["gap"]["mean"] == pytest.approx(-0.2, abs=0.02)
    assert planted["hypertrophy"]["n"] == 6
    assert "heart failure, ischaemic" in planted
    rng = np.random.default_rng(3)
    effects = {case: 0.7 + effect for case, effect in zip(CASES, rng.permutation(np.tile([-0.1, 0, 0.1], 6)))}
    for group in "HF", "N", "HYP":  # every group has the same mean
        mine = [case for case in CASES if case.split("-")[1] == group]
        shift = 0.7 - np.mean([effects[case] for case in mine])
        effects |= {case: effects[case] + shift for case in mine}
    assert not any(entry["flagged"] for entry in _by_group(bias(_rows(effects.get), path, "group")).values())


def test_groups_of_one_subject_are_shown_but_never_flagged(tmp_path):
    lines = [f"{case},{'alone' if case == CASES[0] else 'others'}" for case in CASES]
    path = _participants(tmp_path / "p.csv", lines)
    found = _by_group(bias(_rows(lambda case: 0.1 if case == CASES[0] else 0.7), path, "group"))
    assert found["alone"]["n"] == 1 and found["alone"]["gap"]["mean"] == pytest.approx(-0.6, abs=0.03)
    assert found["alone"]["gap"]["low"] is None and not found["alone"]["flagged"] and not found["others"]["flagged"]


def test_one_group_has_no_gap(tmp_path):
    found = _by_group(bias(_rows(), _participants(tmp_path / "p.csv", [f"{c},all" for c in CASES]), "group"))
    assert found["all"]["gap"] == {"mean": None, "low": None, "high": None} and not found["all"]["flagged"]


def test_participants_are_found_by_name_patient_and_longest_beginning(tmp_path):
    path = _participants(tmp_path / "p.csv", ["sub-1,f", "sub-10,m", "Ann,f", "nobody,"], "participant_id,sex")
    rows = _rows(cases=["sub-1_T1w", "sub-10_T1w", "scan7", "sub-100", "nobody"])
    found = bias(rows, path, "sex", patients={"scan7": "Ann"}, resamples=20)
    assert {entry["group"]: entry["n"] for entry in found["scores"]["hyper"]["1"]} == {"f": 2, "m": 1}
    assert found["unmatched"] == ["nobody", "sub-100"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_volumes_of_a_patient_count_once_in_a_group(tmp_path):
    path = _participants(tmp_path / "p.csv", ["a1,left", "a2,left", "b1,right", "b2,right"])
    patients = {"a1": "A", "a2": "A", "b1": "B", "b2": "B"}
    found = bias(_rows(cases=list(patients)), path, "group", patients=patients, resamples=20)
    assert [entry["n"] for entry in found["scores"]["hyper"]["1"]] == [1, 1]


def test_defects_of_participants_are_named(tmp_path):
    path = _participants(tmp_path / "participants.csv")
    with pytest.raises(InputError, match="participants.csv: expected a column 'age', found case, group"):
        bias(_rows(), path, "age")
    with pytest.raises(InputError, match="absent.csv: .* cannot be read"):
        bias(_rows(), tmp_path / "absent.csv", "group")
    with pytest.raises(InputError, match="'case' is the first column"):
        bias(_rows(), path, "case")
    with pytest.raises(InputError, match="no query is in the column 'case', for instance 'x'"):
        bias(_rows(cases=["x"]), path, "group")
