"""What the scores of an evaluation say: means with intervals, and who differs from whom."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy.stats import wilcoxon

from monai_hyper.evaluation.records import RESULT_COLUMNS
from monai_hyper.types import InputError

RESAMPLES = 2000
"""Replicates of a bootstrap interval."""

METRICS = ("nsd", "hd95_mm", "ece", "brier")
"""Columns of ``results.csv`` that are summarised beside Dice."""

COSTS = ("fit_seconds", "query_seconds", "peak_mb")

_TEXTS = ("method", "query", "class", "error")
_COUNTS = ("shots", "draw")


@dataclass(frozen=True)
class Result:
    """Scores of one prediction for one class: a row of ``results.csv``; NaN where a number is not known."""

    method: str
    shots: int
    draw: int
    query: str
    class_name: str
    dice: float
    nsd: float = math.nan
    hd95_mm: float = math.nan
    ece: float = math.nan
    brier: float = math.nan
    fit_seconds: float = math.nan
    query_seconds: float = math.nan
    peak_mb: float = math.nan
    expected_dice: float = math.nan
    error: str = ""

    def score(self, metric: str) -> float:
        """The number of a metric, NaN if it is not defined here.

        A failed prediction has Dice and NSD 0, and so has a Dice that is not known: leaving them out would flatter.

        Example:
            >>> Result("hyper", 4, 1, "ct_7", "liver", dice=math.nan, error="out of memory").score("dice")
            0.0
        """
        value = float(getattr(self, metric))
        if (metric == "dice" and math.isnan(value)) or (metric == "nsd" and self.error):
            return 0.0
        return value if math.isfinite(value) else math.nan


def read_results(path: str | Path) -> list[Result]:
    """Rows of a ``results.csv``, in its order.

    Raises:
        InputError: if the file cannot be read, lacks a column or holds something else than a number.
    """
    rows = read_table(path, [column for column in RESULT_COLUMNS if column != "expected_dice"])  # older tables lack it
    return [_result(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


def read_table(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that has at least the given columns.

    Raises:
        InputError: if the file cannot be read or lacks a column.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: expected a column '{missing[0]}', found {', '.join(reader.fieldnames or ()) or 'none'}. "
                    "Add it, or name another file."
                )
            return list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a CSV table, but it cannot be read ({error}). Check the name.") from error


def _result(where: str, row: Mapping[str, str]) -> Result:
    values: dict[str, object] = {}
    for column in RESULT_COLUMNS:
        text, kind = row.get(column) or "", int if column in _COUNTS else float
        try:
            values[column] = text if column in _TEXTS else math.nan if text == "" and kind is float else kind(text)
        except ValueError as error:
            raise InputError(
                f"{where}: expected a number under '{column}', found '{text}'. Evaluate again into a new folder."
            ) from error
    return Result(class_name=str(values.pop("class")), **values)


@dataclass(frozen=True)
class Design:
    """Axes shared by all arrays of scores of an evaluation, so that they can be compared cell by cell.

    Args:
        classes, draws, subjects: what the three axes stand for. Subjects are patients, or cases where those are not
            known.
        patients: patient by query; queries that are not in it count as patients.

    Example:
        >>> rows = [Result("a", 1, 1, "x", "liver", 0.5), Result("a", 1, 1, "y", "liver", 0.7)]
        >>> Design.of(rows).array(rows, "dice")
        array([[[0.5, 0.7]]])
        >>> Design.of(rows, {"x": "Ann", "y": "Ann"}).array(rows, "dice")
        array([[[0.6]]])
    """

    classes: tuple[str, ...]
    draws: tuple[int, ...]
    subjects: tuple[str, ...]
    patients: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Result], patients: Mapping[str, str | None] | None = None) -> Design:
        """The axes that the rows span: classes in the order of the rows, the others sorted."""
        rows, patients = list(rows), patients or {}
        return cls(
            tuple(dict.fromkeys(row.class_name for row in rows)),
            tuple(sorted({row.draw for row in rows})),
            tuple(sorted({patients.get(row.query) or row.query for row in rows})),
            patients,
        )

    def array(self, rows: Iterable[Result], metric: str) -> np.ndarray:
        """Scores of one method at one number of shots, ``(classes, draws, subjects)``, NaN where there are none.

        Several queries of a subject in a draw are averaged.
        """
        places = [{key: i for i, key in enumerate(axis)} for axis in (self.classes, self.draws, self.subjects)]
        total, count = np.zeros((2, *map(len, places)))
        for row in rows:
            value = row.score(metric)
            if not math.isnan(value):
                keys = row.class_name, row.draw, self.patients.get(row.query) or row.query
                cell = tuple(place[key] for place, key in zip(places, keys))
                total[cell] += value
                count[cell] += 1
        return _ratio(total, count)


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``total / count``, NaN where ``count`` is 0."""
    return np.divide(total, count, out=np.full(np.broadcast(total, count).shape, np.nan), where=count > 0)


def mean_of(scores: np.ndarray) -> float:
    """Mean of ``(..., draws, subjects)``: of the cells that are known, then over the leading axes."""
    known = ~np.isnan(scores)
    means = _ratio(np.where(known, scores, 0).sum((-2, -1)), known.sum((-2, -1)))
    return float(np.nanmean(means)) if known.any() else math.nan


def times_drawn(generator: Generator, count: int, resamples: int) -> np.ndarray:
    """How often each of ``count`` items comes up in a draw of ``count`` with replacement, ``(resamples, count)``."""
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples)


def resampled_means(scores: np.ndarray, draws: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Means over resampled draws and subjects.

    Args:
        scores: ``(..., draws, subjects)``, NaN where missing; leading axes, such as classes, are averaged at the end
            and share the resampling.
        draws, subjects: how often each is taken in a replicate, ``(resamples, draws)`` and ``(resamples, subjects)``.

    Returns:
        ``(resamples,)``, NaN where a replicate takes no cell that is known of one of the leading entries.
    """
    flat = scores.reshape(-1, *scores.shape[-2:])
    known = ~np.isnan(flat)
    flat, known = flat[known.any((-2, -1))], known[known.any((-2, -1))]
    if len(flat) == 0:
        return np.full(len(draws), np.nan)
    total, count = (
        np.einsum("rd,cds,rs->cr", draws.astype(float), cells, subjects.astype(float), optimize=True)
        for cells in (np.where(known, flat, 0.0), known.astype(float))
    )
    return _ratio(total, count).mean(0)


def interval(replicates: np.ndarray, alpha: float = 0.05) -> tuple[float, float]:
    """Percentile interval at the level ``1 - alpha``; NaN replicates are left out."""
    known = replicates[~np.isnan(replicates)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def two_level_bootstrap(
    scores: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Mean with a percentile interval over draws and subjects.

    Draws of the support and subjects are crossed, so each is resampled by itself, with replacement: the pigeonhole
    bootstrap of Owen, "The pigeonhole bootstrap", 2007, https://arxiv.org/abs/0712.1111. For scores that are a sum of
    an effect of the draw (variance ``v``) and one of the subject (variance ``w``) the variance of the mean is
    ``v / draws + w / subjects``; noise of single cells is counted up to three times, on the safe side. As with every
    bootstrap, intervals from a handful of draws or subjects are somewhat too narrow.

    Args:
        scores: ``(draws, subjects)``, NaN where missing; with leading axes, such as classes, the mean over them of
            each one's mean.
        alpha: one minus the level of the interval.

    Returns:
        mean, lower and upper end; NaN ends for fewer than two subjects, who tell nothing of others.

    Example:
        >>> two_level_bootstrap(np.full((3, 5), 0.5))
        (0.5, 0.5, 0.5)
    """
    scores = np.asarray(scores, dtype=float)
    if _subjects(scores) < 2:
        return mean_of(scores), math.nan, math.nan
    generator = np.random.default_rng(seed)
    counts = [times_drawn(generator, n, resamples) for n in scores.shape[-2:]]
    return mean_of(scores), *interval(resampled_means(scores, *counts), alpha)


def _subjects(scores: np.ndarray) -> int:
    """How many subjects have a score."""
    return int((~np.isnan(scores)).reshape(-1, scores.shape[-1]).any(0).sum()) if scores.size else 0


def per_subject(scores: np.ndarray) -> np.ndarray:
    """Mean over draws, then over the leading axes, of every subject, ``(subjects,)``; NaN where there are none."""
    flat = scores.reshape(-1, *scores.shape[-2:])
    known = ~np.isnan(flat)
    means = _ratio(np.where(known, flat, 0).sum(1), known.sum(1))
    return _ratio(np.nansum(means, 0), (~np.isnan(means)).sum(0))


def paired_wilcoxon(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test on the differences of every subject's mean.

    Subjects are the units, not predictions: draws of the support repeat the same subjects.

    Args:
        a, b: ``(..., draws, subjects)``; only cells known in both count.

    Returns:
        p; 1 if all differences are zero, NaN if no subject is in both.

    Example:
        >>> a = np.linspace(0.5, 0.9, 6)[None]
        >>> paired_wilcoxon(a, a - 0.1), paired_wilcoxon(a, a)
        (0.03125, 1.0)
    """
    differences = per_subject(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).round(12)
    differences = differences[~np.isnan(differences)]
    if len(differences) == 0:
        return math.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values; NaN stays and does not count as a comparison.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979,
    https://www.jstor.org/stable/4615733.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    steps = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return values.tolist()


def rows_by(rows: Iterable[Result]) -> dict[str, dict[int, list[Result]]]:
    """Rows by method, in the order of the rows, and number of shots, ascending."""
    found: dict[str, dict[int, list[Result]]] = {}
    for row in rows:
        found.setdefault(row.method, {}).setdefault(row.shots, []).append(row)
    return {method: dict(sorted(by_shots.items())) for method, by_shots in found.items()}


def estimate(mean: float, low: float, high: float) -> dict[str, float | None]:
    """Mean and interval as JSON knows them."""
    return {"mean": plain(mean), "low": plain(low), "high": plain(high)}


def plain(value: float) -> float | None:
    """A number for JSON, which knows no NaN: None instead."""
    return float(value) if math.isfinite(value) else None


def summarise(
    rows: Sequence[Result],
    against: str = "hyper",
    patients: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Means, intervals and comparisons of an evaluation, ready for JSON.

    Args:
        rows: of one data set, see :func:`read_results`.
        against: method that all others are compared to, cell by cell.
        patients: patient by query, where known.

    Returns:
        ``methods``, ``shots``, ``classes``, ``against``, ``resamples``, ``seed`` and ``scores``, which is by method and
        by number of shots (as text) ``mean`` over the classes, ``classes`` by name, and ``cost``: medians of
        ``fit_seconds``, ``query_seconds`` and ``peak_mb`` where nothing failed. The mean and every class hold ``dice``
        (mean, low, high), ``nsd``, ``hd95_mm``, ``ece`` and ``brier`` (mean, n: predictions that have it),
        ``subjects``, ``predictions``, ``failures``, and, save for ``against``, ``difference`` of Dice to it (mean, low,
        high), ``p`` and ``p_holm``, which is corrected over the methods at that number of shots. What is not known is
        None.

    Raises:
        InputError: if there are no rows.
    """
    if not rows:
        raise InputError("found no results to summarise; expected at least one row. Evaluate first.")
    design, groups = Design.of(rows, patients), rows_by(rows)
    bootstrap = partial(two_level_bootstrap, seed=seed, resamples=resamples)
    scores = {
        method: {str(shots): _summary(mine, design, bootstrap) for shots, mine in by_shots.items()}
        for method, by_shots in groups.items()
    }
    shots = sorted({row.shots for row in rows})
    for k in shots:
        dice = {method: design.array(mine[k], "dice") for method, mine in groups.items() if k in mine}
        for method, found in _comparisons(dice, against, bootstrap).items():
            scores[method][str(k)]["mean"] |= found
        for index, name in enumerate(design.classes):
            one = {m: array[[index]] for m, array in dice.items() if name in scores[m][str(k)]["classes"]}
            for method, found in _comparisons(one, against, bootstrap).items():
                scores[method][str(k)]["classes"][name] |= found
    return {
        "methods": list(groups), "shots": shots, "classes": list(design.classes), "against": against,
        "resamples": resamples, "seed": seed, "scores": scores,
    }  # fmt: skip


Bootstrap = Callable[[np.ndarray], tuple[float, float, float]]


def _summary(rows: list[Result], design: Design, bootstrap: Bootstrap) -> dict:
    """Everything about one method at one number of shots, save comparisons."""
    by_class = {name: [row for row in rows if row.class_name == name] for name in design.classes}
    return {
        "mean": _entry(rows, design, bootstrap),
        "classes": {name: _entry(mine, design, bootstrap) for name, mine in by_class.items() if mine},
        "cost": {key: _median(getattr(row, key) for row in rows if not row.error) for key in COSTS},
    }


def _median(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else None


def _entry(rows: list[Result], design: Design, bootstrap: Bootstrap) -> dict:
    dice = design.array(rows, "dice")
    entry: dict[str, object] = {
        "dice": estimate(*bootstrap(dice)),
        "subjects": _subjects(dice),
        "predictions": len({(row.draw, row.query) for row in rows}),
        "failures": len({(row.draw, row.query) for row in rows if row.error}),
    }
    for metric in METRICS:
        known = {(row.draw, row.query) for row in rows if not math.isnan(row.score(metric))}
        entry[metric] = {"mean": plain(mean_of(design.array(rows, metric))), "n": len(known)}
    return entry


def _comparisons(dice: Mapping[str, np.ndarray], against: str, bootstrap: Bootstrap) -> dict[str, dict]:
    """Difference of every method's Dice to that of ``against``, by method; none where that has not been run."""
    if against not in dice:
        return {}
    others = {method: found for method, found in dice.items() if method != against}
    p_values = [paired_wilcoxon(found, dice[against]) for found in others.values()]
    return {
        method: {"difference": estimate(*bootstrap(found - dice[against])), "p": plain(p), "p_holm": plain(corrected)}
        for (method, found), p, corrected in zip(others.items(), p_values, holm(p_values))
    }
