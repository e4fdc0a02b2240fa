"""Figures show every method, sorted, in a style of its own."""

import base64
import math

import pytest

from monai_hyper.evaluation.figures import (
    COLOURS,
    box_figure,
    prediction_means,
    reliability_curve,
    reliability_figure,
    shots_figure,
    styles_of,
    svg_uri,
)
from monai_hyper.evaluation.statistics import Result

METHODS = [f"method{i}" for i in range(20)]


def _curve(*means):
    return {2**i: {"mean": mean, "low": mean - 0.05, "high": mean + 0.05} for i, mean in enumerate(means)}


def test_methods_have_styles_of_their_own_that_do_not_depend_on_who_else_is_shown():
    styles = styles_of(METHODS, METHODS[3])
    assert len({(s.colour, s.marker, s.dashes) for s in styles.values()}) == len(METHODS)
    assert len({styles[method].colour for method in METHODS[: len(COLOURS)]}) == len(COLOURS)
    assert max(styles, key=lambda method: styles[method].weight) == METHODS[3]
    assert styles_of(METHODS[:5], METHODS[3])[METHODS[4]] == styles[METHODS[4]]


def test_the_legend_follows_the_last_points():
    curves = {"low": _curve(0.9, 0.2), "high": _curve(0.1, 0.8), "short": _curve(0.99), "mid": _curve(0.5, 0.5)}
    figure = shots_figure(curves, styles_of(list(curves), "mid"), "liver")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["high", "mid", "low", "short"]


def test_shots_are_the_ticks_of_a_logarithmic_axis():
    axes = shots_figure({"a": _curve(0.1, 0.5, 0.6)}, styles_of(["a"], "a"), "liver").axes[0]
    assert list(axes.get_xticks()) == [1, 2, 4]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] >= 0 and axes.get_ylim()[1] <= 1


def test_points_without_interval_are_drawn():
    curve = {1: {"mean": 0.4, "low": None, "high": None}}
    assert svg_uri(shots_figure({"a": curve}, styles_of(["a"], "a"), "one subject"))


def test_boxes_are_sorted_by_median_with_the_best_on_top():
    scores = {"bad": [0.1, 0.2], "best": [0.8, 0.9, 0.9], "good": [0.7]}
    axes = box_figure(scores, styles_of(list(scores), "bad"), "K = 1").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bad", "good", "best"]


def test_predictions_are_means_over_their_classes():
    rows = [Result("a", 1, 1, "x", "head", 0.4), Result("a", 1, 1, "x", "tail", 0.8),
            Result("a", 1, 2, "x", "head", math.nan, error="bad")]  # fmt: skip
    assert prediction_means(rows) == pytest.approx([0.6, 0.0])


def test_bins_without_voxels_are_left_out():
    rows = [{"bin": "0", "confidence": "", "frequency": "", "voxels": "0"},
            {"bin": "10", "confidence": "1", "frequency": "0.9", "voxels": "5"},
            {"bin": "9", "confidence": "0.9", "frequency": "0.5", "voxels": "5"}]  # fmt: skip
    assert sum(reliability_curve(rows), ()) == pytest.approx((0.9, 0.5, 1, 0.9))
    assert reliability_curve([]) == []


def test_pictures_are_the_same_each_time_and_hold_everything():
    style = styles_of(["a"], "a")["a"]
    uri, again = (svg_uri(reliability_figure({1: [(0.1, 0.2), (0.9, 0.8)]}, style, "a < b")) for _ in range(2))
    assert uri == again
    kind, _, data = uri.partition(",")
    svg = base64.b64decode(data).decode("utf-8")
    assert kind == "data:image/svg+xml;base64" and "<script" not in svg and 'href="http' not in svg
