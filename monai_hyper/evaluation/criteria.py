"""The criteria by which the literature judges few-shot methods, computed from the results of evaluations.

All results are ready for JSON: what is not known is None. Where they are by method and number of shots, shots are text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.integrate import trapezoid

from monai_hyper.evaluation.statistics import (
    RESAMPLES,
    Design,
    Result,
    estimate,
    interval,
    mean_of,
    plain,
    read_table,
    resampled_means,
    rows_by,
    times_drawn,
    two_level_bootstrap,
)
from monai_hyper.types import InputError

TEMPERED = "+temperature"
"""Ends the name of a method whose probabilities are calibrated."""

REFERENCE_SHOTS = 8


def generalisation_gap(
    seen_rows: Sequence[Result],
    unseen_rows: Sequence[Result],
    patients: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, dict]]:
    """Dice on held-out cases of the tasks of meta-training, minus Dice on unseen tasks.

    The two are independent data, so draws and subjects are resampled apart. The interval is for these tasks: it does
    not say what other tasks would give.

    Args:
        seen_rows, unseen_rows: of the same methods; the classes of each are averaged.
        patients: patient by query, where known.

    Returns:
        ``seen``, ``unseen`` (means) and ``gap`` (mean, low, high) by method and number of shots, where both have them.

    Example:
        >>> seen, unseen = ([Result("hyper", 1, 1, q, "a", dice) for q in "xyz"] for dice in (0.9, 0.7))
        >>> round(generalisation_gap(seen, unseen)["hyper"]["1"]["gap"]["mean"], 6)
        0.2
    """
    found: dict[str, dict[str, dict]] = {}
    for method, shots, seen, unseen in _both(seen_rows, unseen_rows):
        a, b = (Design.of(rows, patients).array(rows, "dice") for rows in (seen, unseen))
        generators = np.random.default_rng(seed).spawn(2)
        gaps = np.subtract(*(_replicates(scores, g, resamples) for scores, g in zip((a, b), generators)))
        gap = (math.nan, math.nan) if min(a.shape[-1], b.shape[-1]) < 2 else interval(gaps)
        found.setdefault(method, {})[str(shots)] = {
            "seen": plain(mean_of(a)),
            "unseen": plain(mean_of(b)),
            "gap": estimate(mean_of(a) - mean_of(b), *gap),
        }
    return found


def _both(first: Sequence[Result], second: Sequence[Result]) -> Iterator[tuple[str, int, list[Result], list[Result]]]:
    """Method, shots and rows of each, where both have rows."""
    others = rows_by(second)
    for method, by_shots in rows_by(first).items():
        for shots, rows in by_shots.items():
            if shots in others.get(method, {}):
                yield method, shots, rows, others[method][shots]


def _replicates(scores: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    return resampled_means(scores, *(times_drawn(generator, n, resamples) for n in scores.shape[-2:]))


def data_efficiency(summary: Mapping) -> dict[str, dict]:
    """How soon a method is good: from its curve of Dice over log2 of the shots, linear between the points.

    Args:
        summary: see :func:`monai_hyper.evaluation.statistics.summarise`.

    Returns:
        by method ``mean`` (over the classes) and ``classes`` by name, of each ``shots`` (first and last of the curve),
        ``area`` under the curve divided by its width, so from 0 to 1, ``shots_to_90``, where it first reaches 90% of
        its Dice at ``reference`` shots, ``at_most``, whether it is there at the first point already, and ``note``.
        Areas compare between methods with the same first and last number of shots only.
    """
    found = {}
    for method, by_shots in summary["scores"].items():
        curve = {int(k): entry["mean"]["dice"]["mean"] for k, entry in by_shots.items()}
        classes = {
            name: {int(k): e["classes"][name]["dice"]["mean"] for k, e in by_shots.items() if name in e["classes"]}
            for name in summary["classes"]
        }
        found[method] = {"mean": shots_curve(curve), "classes": {n: shots_curve(c) for n, c in classes.items() if c}}
    return found


def shots_curve(curve: Mapping[int, float]) -> dict:
    """Area and shots to 90% of one curve of Dice by shots; see :func:`data_efficiency`.

    Example:
        >>> found = shots_curve({1: 0.4, 2: 0.6, 4: 0.8, 8: 0.8})
        >>> round(found["area"], 4), round(found["shots_to_90"], 3)
        (0.6667, 3.031)
    """
    shots = sorted(curve)
    x, dice = np.log2(shots), np.array([curve[k] for k in shots])
    reference = REFERENCE_SHOTS if REFERENCE_SHOTS in curve else shots[-1]
    notes = [] if reference == REFERENCE_SHOTS else [f"K = {REFERENCE_SHOTS} was not run: 90% of K = {reference}."]
    if len(shots) == 1:
        notes.append("One K only: no curve.")
    if not curve[reference]:
        notes.append("Dice is 0 there.")
    usable = len(shots) > 1 and curve[reference] > 0
    target = 0.9 * curve[reference]
    return {
        "shots": [shots[0], shots[-1]],
        "area": float(trapezoid(dice, x) / (x[-1] - x[0])) if len(shots) > 1 else None,
        "shots_to_90": _first_reached(x, dice, target) if usable else None,
        "at_most": bool(usable and dice[0] >= target),
        "reference": reference,
        "note": " ".join(notes),
    }


def _first_reached(x: np.ndarray, dice: np.ndarray, target: float) -> float:
    """Shots at which a curve over log2 of the shots first reaches ``target``, which one of its points does."""
    last = int(np.argmax(dice >= target))
    if last == 0:
        return float(2 ** x[0])
    share = (target - dice[last - 1]) / (dice[last] - dice[last - 1])
    return float(2 ** (x[last - 1] + share * (x[last] - x[last - 1])))


def robustness(
    plain_rows: Sequence[Result],
    shifted_rows_by_name: Mapping[str, Sequence[Result]],
    patients: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, dict[str, dict]]]:
    """How much Dice is lost when the same queries come as another scanner would show them.

    Args:
        plain_rows: results on the queries as they are.
        shifted_rows_by_name: results on the changed queries, by the name of the change.
        patients: patient by query, where known.

    Returns:
        ``plain`` and ``shifted`` (means), ``drop`` (mean, low, high) and ``pairs``, by name, method and number of
        shots; over the cells that both have, means over the classes.

    Raises:
        InputError: if a change has no prediction in common with the plain results.
    """
    return {
        name: _drops(name, plain_rows, rows, patients, seed, resamples) for name, rows in shifted_rows_by_name.items()
    }


def _drops(
    name: str,
    plain_rows: Sequence[Result],
    shifted: Sequence[Result],
    patients: Mapping[str, str | None] | None,
    seed: int,
    resamples: int,
) -> dict[str, dict[str, dict]]:
    design, found = Design.of([*plain_rows, *shifted], patients), {}
    for method, shots, before, after in _both(plain_rows, shifted):
        keys = [{(row.draw, row.query, row.class_name) for row in rows} for rows in (before, after)]
        common = keys[0] & keys[1]
        a, b = (
            design.array([row for row in rows if (row.draw, row.query, row.class_name) in common], "dice")
            for rows in (before, after)
        )
        if common:
            found.setdefault(method, {})[str(shots)] = {
                "plain": plain(mean_of(a)),
                "shifted": plain(mean_of(b)),
                "drop": estimate(*two_level_bootstrap(a - b, seed, resamples)),
                "pairs": len({key[:2] for key in common}),
            }
    if not found:
        raise InputError(
            f"results under '{name}' share no prediction (method, shots, draw, query, class) with the plain ones; "
            "expected the same queries. Evaluate both with the same --seed, --shots, --draws and --split."
        )
    return found


def calibration(
    rows: Sequence[Result],
    patients: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, dict]]:
    """Calibration before and after the temperature that was chosen by leave-one-out over the support.

    Args:
        rows: of methods such as ``hyper`` and, with the temperature, ``hyper+temperature``.
        patients: patient by query, where known.

    Returns:
        ``ece`` and ``brier``, of each ``before``, ``after`` (means) and ``change`` (mean, low, high), by method and
        number of shots; over the cells that both have. Empty if no method comes with and without temperature.
    """
    design, groups, found = Design.of(rows, patients), rows_by(rows), {}
    for method, by_shots in groups.items():
        for shots, before in by_shots.items():
            if after := groups.get(method + TEMPERED, {}).get(shots):
                found.setdefault(method, {})[str(shots)] = {
                    metric: _change(*(design.array(r, metric) for r in (before, after)), seed, resamples)
                    for metric in ("ece", "brier")
                }
    return found


def _change(before: np.ndarray, after: np.ndarray, seed: int, resamples: int) -> dict:
    change = after - before
    both = ~np.isnan(change)
    return {
        "before": plain(mean_of(np.where(both, before, np.nan))),
        "after": plain(mean_of(np.where(both, after, np.nan))),
        "change": estimate(*two_level_bootstrap(change, seed, resamples)),
    }


def bias(
    rows: Sequence[Result],
    participants_csv: str | Path,
    column: str,
    alpha: float = 0.05,
    patients: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Dice by group of subjects, and whether a group differs from all others.

    Participants are found by the file's first column: it is the query's or its patient's name, or the longest name
    that the query's begins with, such as ``sub-01`` for ``sub-01_T1w``. Intervals are not corrected for the number of
    groups.

    Args:
        participants_csv: one row a participant; the names in the first column.
        column: what to group by.
        alpha: one minus the level of the intervals.
        patients: patient by query, where known.

    Returns:
        ``column``, ``alpha``, ``unmatched`` (queries left out, since the file does not tell their group) and ``scores``
        by method and number of shots: for every group ``group``, ``n`` (subjects), ``dice`` (mean, low, high), ``gap``
        to the mean of all others (mean, low, high) and ``flagged``, whether the gap's interval excludes zero. A group
        of one subject has no interval and is never flagged.

    Raises:
        InputError: if the file or the column is missing, or no query is in it.
    """
    group_of = _groups({row.query for row in rows}, Path(participants_csv), column, patients or {})
    kept = [row for row in rows if row.query in group_of]
    members = {query: f"{(patients or {}).get(query) or query}: {group}" for query, group in group_of.items()}
    design = Design.of(kept, members)  # a patient whose volumes are of several groups is a subject in each
    labels_of = {members[query]: group for query, group in group_of.items()}
    labels = np.array([labels_of[subject] for subject in design.subjects])
    return {
        "column": column,
        "alpha": alpha,
        "unmatched": sorted({row.query for row in rows} - set(group_of)),
        "scores": {
            method: {
                str(shots): _group_table(design.array(mine, "dice"), labels, alpha, seed, resamples)
                for shots, mine in by_shots.items()
            }
            for method, by_shots in rows_by(kept).items()
        },
    }


def _groups(queries: set[str], path: Path, column: str, patients: Mapping[str, str | None]) -> dict[str, str]:
    """Group by query, where the file tells it."""
    table = read_table(path, [column])
    identifier = next(iter(table[0]), "") if table else ""
    if identifier == column:
        raise InputError(f"{path}: '{column}' is the first column, which names the participants; expected another one.")
    known = {row[identifier].strip(): (row[column] or "").strip() for row in table}
    matched = {query: _participant(query, patients.get(query), known) for query in sorted(queries)}
    found = {query: known[name] for query, name in matched.items() if name is not None and known[name]}
    if not found:
        raise InputError(
            f"{path}: no query is in the column '{identifier}', for instance '{min(queries, default='')}'; found "
            f"{', '.join(list(known)[:3]) or 'no rows'}. Name the participants as their image files."
        )
    return found


def _participant(query: str, patient: str | None, known: Mapping[str, str]) -> str | None:
    """The participant of a query: by its own name, its patient's, or the longest name that it begins with."""
    for name in (query, patient):
        if name in known:
            return name
    begins = [name for name in known if name and query.startswith(name) and not query[len(name)].isalnum()]
    return max(begins, key=len, default=None)


def _group_table(scores: np.ndarray, labels: np.ndarray, alpha: float, seed: int, resamples: int) -> list[dict]:
    """One entry a group; draws are resampled together, subjects within the group and within the others."""
    table = []
    present = (~np.isnan(scores)).any((0, 1))
    scores, labels = scores[..., present], labels[present]
    for group in sorted(set(labels.tolist())):
        inside, outside = scores[..., labels == group], scores[..., labels != group]
        n, others = inside.shape[-1], outside.shape[-1]
        ends = (math.nan, math.nan)
        if min(n, others) > 1:
            generator = np.random.default_rng(seed)
            draws = times_drawn(generator, scores.shape[-2], resamples)
            means = [
                resampled_means(s, draws, times_drawn(generator, s.shape[-1], resamples)) for s in (inside, outside)
            ]
            ends = interval(means[0] - means[1], alpha)
        gap = mean_of(inside) - (mean_of(outside) if others else math.nan)
        table.append(
            {
                "group": group,
                "n": n,
                "dice": estimate(*two_level_bootstrap(inside, seed, resamples, alpha)),
                "gap": estimate(gap, *ends),
                "flagged": bool(ends[0] > 0 or ends[1] < 0),
            }
        )
    return table
