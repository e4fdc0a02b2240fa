"""The page of the ablations, from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ablation_variants import RELEASED, TRAINED, Variant

from monai_hyper.data.tensors import load_tensors
from monai_hyper.evaluation.statistics import Design, Result, mean_of, two_level_bootstrap

REFERENCES = ("reference", "reference-seed-1", "reference-seed-2")

RELEASED_TEXT = """The released weights with one part changed and nothing trained again. Difference to the first row,
paired over queries, with 95% intervals over draws and cases."""

TRAINED_TEXT = """Small models, each trained from random weights for the same processor time. Difference to the mean of
the references, paired over queries, with 95% intervals over draws and cases. **The intervals do not cover the chance of
training itself**: for that, compare with the references' own rows, which differ in nothing but the seed."""


def results_of(rows: Sequence[dict[str, str]]) -> dict[str, list[Result]]:
    """Rows by variant; a task at a number of shots is a class of its own."""
    found: dict[str, list[Result]] = {}
    for row in rows:
        shots, name = int(row["shots"]), f"{row['task']}, K = {row['shots']}"
        result = Result(row["variant"], shots, int(row["draw"]), row["query"], name, float(row["dice"]))
        found.setdefault(row["variant"], []).append(result)
    return found


def named(variants: dict[str, Variant]) -> dict[str, str]:
    """What every result of the variants says."""
    return {
        name + result: variant.says + (f": {result[1:]}" if result else "")
        for name, variant in variants.items()
        for result in variant.results
    }


def signed(difference: np.ndarray) -> str:
    """Mean difference and its interval as text.

    Example:
        >>> signed(np.full((2, 2, 3), 0.1))
        '+0.100 [+0.100, +0.100]'
    """
    mean, low, high = two_level_bootstrap(difference)
    return "" if np.isnan(mean) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def table(rows: Sequence[dict[str, str]], says: dict[str, str], references: Sequence[str]) -> list[str]:
    """Lines of two tables: means and overall difference, and differences by task."""
    found = {name: own for name, own in results_of(rows).items() if name in says}
    references = [name for name in references if name in found]
    if not references:
        return ["Nothing to compare with yet."]
    design = Design.of([result for own in found.values() for result in own])
    scores = {name: design.array(found[name], "dice") for name in says if name in found}
    reference = np.mean([scores[name] for name in references], axis=0)
    tasks = list(dict.fromkeys(name.split(",")[0] for name in design.classes))
    at = {k: [i for i, name in enumerate(design.classes) if name.endswith(f"K = {k}")] for k in (1, 4)}
    of = {task: [i for i, name in enumerate(design.classes) if name.startswith(f"{task},")] for task in tasks}
    lines = ["| variant | what differs | K = 1 | K = 4 | difference |", "|---|---|---|---|---|"]
    for name, own in scores.items():
        one, four = (f"{mean_of(own[at[k]]):.3f}" for k in at)
        lines.append(f"| {name} | {says[name]} | {one} | {four} | {signed(own - reference)} |")
    lines += ["", "By task:", "", f"| variant | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, own in scores.items():
        cells = [signed(own[of[task]] - reference[of[task]]) for task in tasks]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = " | ".join(f"{mean_of(reference[of[task]]):.3f}" for task in tasks)
    return [*lines, f"| *Dice of the reference* | {means} |"]


def spread(rows: Sequence[dict[str, str]]) -> list[str]:
    """How far the references lie apart, which differ in the seed only."""
    found = results_of(rows)
    own = [found[name] for name in REFERENCES if name in found]
    if len(own) < 2:
        return []
    means = [np.mean([result.dice for result in one]) for one in own]
    sd = np.std(means, ddof=1)
    apart = 2 * sd * (1 + 1 / len(means)) ** 0.5
    return [
        "",
        f"Mean Dice of the references: {', '.join(f'{mean:.3f}' for mean in means)}; standard deviation {sd:.3f}.",
        f"A variant that was trained once must differ by about {apart:.3f} to say anything.",
    ]


def steps(folder: Path) -> list[str]:
    """Steps that fitted into the time."""
    lines = ["", "| trained | steps | parameters | Dice of the last 100 training tasks |", "|---|---|---|---|"]
    for name in TRAINED:
        path = folder / f"{name}.safetensors"
        if path.exists():
            facts = load_tensors(path)[1]
            size = f"{facts['parameters'] / 1e6:.2f} M"
            lines.append(f"| {name}, {facts['minutes']:g} min | {facts['steps']} | {size} | {facts['dice']:.3f} |")
    return lines if len(lines) > 3 else []


def write_page(rows: Sequence[dict[str, str]], output: Path) -> Path:
    """Write ``page.md``: what there is so far."""
    lines = ["## Released weights, changed without training", "", RELEASED_TEXT, ""]
    lines += table(rows, named(RELEASED), ["released"])
    lines += ["", "## Small models, trained alike", "", TRAINED_TEXT, ""]
    lines += table(rows, named(TRAINED), REFERENCES) + spread(rows) + steps(output / "weights")
    path = output / "page.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
