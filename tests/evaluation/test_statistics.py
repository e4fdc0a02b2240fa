"""Intervals against closed forms, tests against planted differences."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from monai_hyper.evaluation.records import RESULT_COLUMNS
from monai_hyper.evaluation.statistics import (
    Design,
    Result,
    holm,
    paired_wilcoxon,
    read_results,
    resampled_means,
    summarise,
    times_drawn,
    two_level_bootstrap,
)
from monai_hyper.types import InputError

RESAMPLES = 20_000


def _replicates(scores, seed=0):
    generator = np.random.default_rng(seed)
    return resampled_means(scores, *(times_drawn(generator, n, RESAMPLES) for n in scores.shape[-2:]))


def test_one_draw_gives_the_variance_of_the_mean_of_independent_values():
    scores = np.random.default_rng(1).random((1, 24))
    assert _replicates(scores).var() == pytest.approx(scores.var() / 24, rel=0.04)


def test_effects_of_draw_and_subject_add_up():
    rng = np.random.default_rng(2)
    draws, subjects = rng.normal(0.6, 0.1, 5), rng.normal(0, 0.15, 20)
    expected = draws.var() / 5 + subjects.var() / 20
    assert _replicates(draws[:, None] + subjects).var() == pytest.approx(expected, rel=0.04)


def test_noise_of_single_cells_is_counted_three_times():
    """Owen 2007, theorem 3: on the safe side."""
    rng = np.random.default_rng(3)
    found = [_replicates(rng.normal(size=(12, 40)))[:4000].var() for _ in range(12)]
    assert np.mean(found) == pytest.approx(3 / (12 * 40), rel=0.25)


def test_one_draw_agrees_with_the_bootstrap_of_scipy():
    scores = np.random.default_rng(4).beta(5, 2, (1, 30))
    mean, low, high = two_level_bootstrap(scores, resamples=RESAMPLES)
    oracle = scipy.stats.bootstrap(
        (scores[0],), np.mean, method="percentile", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    ).confidence_interval
    assert mean == pytest.approx(scores.mean())
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.003)


def test_intervals_cover_the_truth():
    rng, covered = np.random.default_rng(5), 0
    for _ in range(200):
        scores = 0.7 + rng.normal(0, 0.05, (8, 1)) + rng.normal(0, 0.1, 25)
        _, low, high = two_level_bootstrap(scores, resamples=400)
        covered += low <= 0.7 <= high
    assert 0.86 <= covered / 200 <= 0.99


def test_missing_cells_are_left_out():
    scores = np.array([[0.2, np.nan, 0.4], [np.nan, np.nan, 0.9]])
    mean, low, high = two_level_bootstrap(scores)
    assert mean == pytest.approx(0.5)
    assert 0.2 <= low <= mean <= high <= 0.9
    full = np.random.default_rng(6).random((3, 8))
    padded = np.concatenate([full, np.full((3, 1), np.nan)], axis=1)
    assert _replicates(padded).mean() == pytest.approx(full.mean(), abs=0.01)


def test_classes_are_averaged_after_their_means():
    scores = np.stack([np.full((2, 4), 0.9), np.full((2, 4), 0.5)])
    scores[0, :, 1:] = np.nan
    assert two_level_bootstrap(scores)[0] == pytest.approx(0.7)


def test_one_subject_has_no_interval():
    mean, low, high = two_level_bootstrap(np.array([[0.4], [0.6]]))
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    assert math.isnan(two_level_bootstrap(np.full((2, 3), np.nan))[0])


def test_wilcoxon_is_that_of_scipy_on_means_of_subjects():
    a, b = np.random.default_rng(7).random((2, 4, 15))
    assert paired_wilcoxon(a, b) == pytest.approx(scipy.stats.wilcoxon(a.mean(0), b.mean(0)).pvalue)


def test_wilcoxon_pairs_only_what_both_have():
    a, b = np.random.default_rng(8).random((2, 1, 12))
    a[0, 3], b[0, 7] = np.nan, np.nan
    kept = [i for i in range(12) if i not in (3, 7)]
    assert paired_wilcoxon(a, b) == pytest.approx(paired_wilcoxon(a[:, kept], b[:, kept]))
    assert math.isnan(paired_wilcoxon(a * np.nan, b))


def test_holm_on_a_known_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    with_gap = holm([0.01, math.nan, 0.03])
    assert with_gap[0] == pytest.approx(0.02) and math.isnan(with_gap[1]) and with_gap[2] == pytest.approx(0.03)
    assert holm([]) == []


def _rows(method, shift=0.0, shots=4, draws=3, subjects=12, classes=("head", "tail"), seed=0):
    """Dice with effects of draw and subject that are the same for all methods, and a little noise of each one's own."""
    shared, own = np.random.default_rng(9), np.random.default_rng([seed, *method.encode()])
    effects = 0.6 + shared.normal(0, 0.05, (draws, 1)) + shared.normal(0, 0.1, subjects)
    return [
        Result(method, shots, draw + 1, f"case{s:02}", name, float(effects[draw, s] + shift + own.normal(0, 0.01)),
               nsd=0.5, hd95_mm=3.0, ece=0.1, brier=0.2, fit_seconds=1.5, query_seconds=0.5, peak_mb=100)
        for draw in range(draws)
        for s in range(subjects)
        for name in classes
    ]  # fmt: skip


def test_a_planted_better_method_is_found_better_and_an_equal_one_is_not():
    rows = _rows("hyper") + _rows("better", 0.05) + _rows("equal") + _rows("worse", -0.05)
    scores = summarise(rows, resamples=500)["scores"]
    for place in (lambda e: e["mean"], lambda e: e["classes"]["tail"]):
        better, equal, worse = (place(scores[m]["4"]) for m in ("better", "equal", "worse"))
        assert better["difference"]["low"] > 0 and better["p_holm"] < 0.01
        assert better["difference"]["mean"] == pytest.approx(0.05, abs=0.01)
        assert equal["difference"]["low"] < 0 < equal["difference"]["high"] and equal["p_holm"] > 0.05
        assert worse["difference"]["high"] < 0 and worse["p_holm"] < 0.01
    assert "p" not in scores["hyper"]["4"]["mean"]


def test_equal_methods_are_seldom_called_different():
    called = 0
    for seed in range(40):
        scores = summarise(_rows("hyper", seed=seed) + _rows("equal", seed=seed), resamples=20)["scores"]
        called += scores["equal"]["4"]["mean"]["p_holm"] < 0.05
    assert called <= 6


def test_failed_predictions_count_as_dice_zero():
    rows = _rows("hyper", draws=1, subjects=4, classes=("head",))
    failed = [replace(rows[0], dice=math.nan, nsd=math.nan, ece=math.nan, error="out of memory"), *rows[1:]]
    entry = summarise(failed, resamples=50)["scores"]["hyper"]["4"]["mean"]
    assert entry["dice"]["mean"] == pytest.approx(sum(row.dice for row in rows[1:]) / 4)
    assert entry["nsd"] == {"mean": pytest.approx(0.375), "n": 4}
    assert entry["ece"] == {"mean": pytest.approx(0.1), "n": 3}
    assert entry["failures"] == 1 and entry["predictions"] == 4


def test_distances_that_are_not_finite_are_left_out_and_counted():
    rows = _rows("hyper", draws=1, subjects=4, classes=("head",))
    rows[0] = replace(rows[0], hd95_mm=math.inf)
    assert summarise(rows, resamples=50)["scores"]["hyper"]["4"]["mean"]["hd95_mm"] == {"mean": 3.0, "n": 3}


def test_the_order_of_rows_changes_nothing():
    rows = _rows("hyper") + _rows("other", 0.01)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    one, two = (summarise(r, resamples=200)["scores"]["other"]["4"]["mean"] for r in (rows, shuffled))
    assert one["dice"]["mean"] == pytest.approx(two["dice"]["mean"])
    assert one["p"] == pytest.approx(two["p"])


def test_volumes_of_a_patient_are_one_subject():
    rows = _rows("hyper", subjects=4)
    patients = {"case00": "A", "case01": "A", "case02": "B", "case03": None}
    assert Design.of(rows, patients).subjects == ("A", "B", "case03")
    assert summarise(rows, patients=patients, resamples=50)["scores"]["hyper"]["4"]["mean"]["subjects"] == 3
    mean = Design.of(rows, patients).array(rows, "dice")[0, 0, 0]
    assert mean == pytest.approx(np.mean([row.dice for row in rows[:4:2]]))


def test_methods_and_shots_that_cannot_be_compared_are_not():
    rows = _rows("hyper", shots=1) + _rows("other", shots=2)
    entry = summarise(rows, resamples=50)["scores"]["other"]["2"]["mean"]
    assert "difference" not in entry
    assert "p" not in summarise(_rows("a") + _rows("b"), resamples=50)["scores"]["b"]["4"]["mean"]


def test_a_summary_is_json():
    rows = [replace(row, nsd=math.nan, peak_mb=math.nan) for row in _rows("hyper", subjects=1) + _rows("b", subjects=1)]
    summary = summarise(rows, resamples=50)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["scores"]["b"]["4"]["mean"]["dice"]["low"] is None
    assert summary["scores"]["b"]["4"]["cost"] == {"fit_seconds": 1.5, "query_seconds": 0.5, "peak_mb": None}


def _table(path, line, columns=RESULT_COLUMNS):
    path.write_text(",".join(columns) + "\n" + line + "\n", encoding="utf-8")
    return path


def test_results_are_read_as_written(tmp_path):
    rows = read_results(_table(tmp_path / "r.csv", 'hyper,4,1,ct_7,1+2,0.5,0.25,,,,1,2,3,0.75,"bad, very bad"'))
    assert (
        len(rows) == 1
        and rows[0].class_name == "1+2"
        and rows[0].error == "bad, very bad"
        and rows[0].expected_dice == 0.75
    )
    assert (rows[0].shots, rows[0].draw, rows[0].dice, rows[0].peak_mb) == (4, 1, 0.5, 3)
    assert math.isnan(rows[0].hd95_mm)


def test_defects_of_a_table_are_named(tmp_path):
    with pytest.raises(InputError, match="row 1: expected a number under 'dice', found 'good'"):
        read_results(_table(tmp_path / "r.csv", "hyper,4,1,ct_7,liver,good,,,,,,,,"))
    with pytest.raises(InputError, match="row 1: expected a number under 'shots', found ''"):
        read_results(_table(tmp_path / "r.csv", "hyper,,1,ct_7,liver,0.5,,,,,,,,"))
    with pytest.raises(InputError, match="expected a column 'error'"):
        read_results(_table(tmp_path / "r.csv", "", RESULT_COLUMNS[:-1]))
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="no results"):
        summarise([])


def test_tables_from_before_there_was_an_expected_dice_are_read(tmp_path):
    path = _table(tmp_path / "r.csv", 'hyper,4,1,ct_7,1+2,0.5,0.25,,,,1,2,3,0.75,""')
    older = path.read_text().replace("expected_dice,", "").replace(",0.75,", ",")
    path.write_text(older)
    row = read_results(path)[0]
    assert math.isnan(row.expected_dice) and row.peak_mb == 3 and row.error == ""
