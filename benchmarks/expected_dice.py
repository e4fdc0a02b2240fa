"""How well the Dice that is told before any truth is seen agrees with the true one, over the development benchmark.

python benchmarks/expected_dice.py --results runs/benchmark --picture docs/pictures/expected_dice.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from monai_hyper.evaluation.records import RESULTS, read_rows

Points = dict[str, list[tuple[float, float]]]
"""Expected and true Dice of every answer, by task: data set, class where there is one, and number of shots."""


def points_of(results: Path, method: str) -> Points:
    """Answers of one method wherever it told what to expect; several classes of one answer are averaged."""
    found: Points = defaultdict(list)
    for path in sorted(results.glob(f"*/{RESULTS}")):
        answers = defaultdict(list)
        for row in read_rows(path):
            if row["method"] == method and row.get("expected_dice") and not row["error"]:
                answers[row["shots"], row["draw"], row["query"], _task(row, path)].append(row)
        for (shots, _, _, task), rows in answers.items():
            true = np.mean([float(row["dice"]) for row in rows])
            found[f"{path.parent.name} {task} K = {shots}"].append((float(rows[0]["expected_dice"]), true))
    return found


def _task(row: dict[str, str], path: Path) -> str:
    return "" if path.parent.name.startswith("full-headneck") else row["class"]  # its classes are one answer


def agreement(points: Points) -> dict[str, float]:
    """Mean absolute error and bias, Spearman's correlation over all answers and its mean within tasks of 8 or more."""
    expected, true = np.array([pair for pairs in points.values() for pair in pairs]).T
    within = [spearmanr(*np.array(pairs).T).statistic for pairs in points.values() if len(pairs) >= 8]
    within = [value for value in within if np.isfinite(value)]
    return {
        "answers": len(true),
        "mean absolute error": float(np.abs(expected - true).mean()),
        "bias": float((expected - true).mean()),
        "Spearman": float(spearmanr(expected, true).statistic),
        "Spearman within tasks": float(np.mean(within)) if within else float("nan"),
        "tasks": len(within),
        "tasks with a positive correlation": sum(value > 0 for value in within),
    }


def picture(points: Points, path: Path) -> None:
    """Expected against true Dice: every answer, and the mean of ten equal groups."""
    expected, true = np.array([pair for pairs in points.values() for pair in pairs]).T
    figure = Figure((5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#7f7f7f", linewidth=1)
    axes.scatter(expected, true, s=6, alpha=0.25, color="#56b4e9", linewidths=0)
    groups = np.array_split(np.argsort(expected), 10)
    means = np.array([(expected[group].mean(), true[group].mean()) for group in groups])
    axes.plot(*means.T, "o-", color="#0072b2", label="tenths of the answers, by expectation")
    axes.set(xlabel="expected Dice", ylabel="true Dice", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the development benchmark")
    parser.add_argument("--methods", nargs="+", default=["hyper", "hyper+polish"])
    parser.add_argument("--picture", type=Path, help="file for the plot of the first method")
    arguments = parser.parse_args()
    for number, method in enumerate(arguments.methods):
        points = points_of(arguments.results, method)
        if not points:
            print(f"{method}: no answer with an expected Dice")
            continue
        if arguments.picture and number == 0:
            picture(points, arguments.picture)
        for group, name in ((points, "all"), (_of_one(points), "K = 1"), (_of_more(points), "K > 1")):
            facts = agreement(group) if group else {}
            values = ", ".join(f"{n} {v:.3f}" if isinstance(v, float) else f"{n} {v}" for n, v in facts.items())
            print(f"{method}, {name}: {values}")


def _of_one(points: Points) -> Points:
    return {task: pairs for task, pairs in points.items() if task.endswith("K = 1")}


def _of_more(points: Points) -> Points:
    return {task: pairs for task, pairs in points.items() if not task.endswith("K = 1")}


if __name__ == "__main__":
    main()
