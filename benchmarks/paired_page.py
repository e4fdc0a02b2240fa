"""The part of the page of results in which polish meets training from random weights, query by query."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_hyper.evaluation.statistics import Result, mean_of, read_results, two_level_bootstrap

OURS = ("hyper", "hyper+polish")
AGAINST = {"scratch": "110 seconds", "scratch-plateau": "until its loss falls no more"}
"""Methods, and the time that they take."""

Scores = dict[tuple[str, str, int, str], float]
"""Dice by data set, class, draw and query."""


def scores_of(rows: dict[str, list[Result]], method: str, shots: int) -> Scores:
    """Dice of one method at one number of shots on all data sets."""
    return {
        (name, row.class_name, row.draw, row.query): row.score("dice")
        for name, found in rows.items()
        for row in found
        if row.method == method and row.shots == shots
    }


def as_array(scores: Scores, order: Scores) -> np.ndarray:
    """Scores as ``(tasks, draws, subjects)`` for the bootstrap; tasks and subjects as in ``order``."""
    tasks = sorted({key[:2] for key in order})
    draws = sorted({key[2] for key in order})
    subjects = sorted({(key[0], key[3]) for key in order})
    found = np.full((len(tasks), len(draws), len(subjects)), np.nan)
    for (name, title, draw, query), dice in scores.items():
        found[tasks.index((name, title)), draws.index(draw), subjects.index((name, query))] = dice
    return found


def paired_section(found: dict[str, Path]) -> list[str]:
    """A table against every way to train from scratch that there are rows of."""
    folders = {name.removeprefix("polish-"): folder for name, folder in found.items() if name.startswith("polish-")}
    rows = {name: read_results(folder / "results.csv") for name, folder in folders.items()}
    lines = [line for against, time in AGAINST.items() for line in paired_table(rows, against, time)]
    if not lines:
        return []
    return ["## Polish and training from scratch, the same queries", "",
            f"Tasks of {', '.join(folders)}, each weighing the same. Polish has 20 seconds of one core. Differences "
            "are paired, with 95% intervals over draws and subjects.", "", *lines]  # fmt: skip


def paired_table(rows: dict[str, list[Result]], against: str, time: str) -> list[str]:
    """A row for every number of shots: mean Dice of the methods over the tasks, and of the differences to one of them.

    Args:
        rows: of every data set; against: a method; time: that it takes, in words.
    """
    lines = []
    for shots in sorted({row.shots for part in rows.values() for row in part}):
        by_method = {method: scores_of(rows, method, shots) for method in (*OURS, against)}
        common = set.intersection(*(set(scores) for scores in by_method.values()))
        if not common:
            continue
        kept = {method: {key: scores[key] for key in common} for method, scores in by_method.items()}
        cells = [f"{mean_of(as_array(scores, kept[against])):.3f}" for scores in kept.values()]
        for method in OURS:
            gain = {key: kept[method][key] - kept[against][key] for key in common}
            cells.append("{:+.3f} [{:+.3f}, {:+.3f}]".format(*two_level_bootstrap(as_array(gain, gain))))
        lines.append(f"| {shots} | {len(common)} | " + " | ".join(cells) + " |")
    if not lines:
        return []
    return [f"| K | queries | zero-step | polish | {against}, {time} | zero-step minus that | polish minus that |",
            "|---" * 7 + "|", *lines, ""]  # fmt: skip
