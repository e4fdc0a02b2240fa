"""The gates that a release of the model should pass, one after the other, from the development benchmark.

python benchmarks/gates.py --results runs/benchmark                                   # gates 2 to 4
python benchmarks/gates.py --results runs/benchmark --data ../shared/data/hippocampus_mr  # gate 1, too
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from support_is_used import support_is_used

SIMPLE = ("mean-mask", "prototype", "ridge")
OURS, POLISHED, SCRATCH = "hyper", "hyper+polish", "scratch"

Scores = dict[str, dict[str, dict]]
"""Per method and number of shots, what ``summary.json`` says."""


def dice(scores: Scores, method: str, shots: str) -> float | None:
    """Mean Dice, None where the benchmark has none."""
    found = scores.get(method, {}).get(shots)
    return None if found is None else found["mean"]["dice"]["mean"]


def used(data: Path) -> list[tuple[str, bool]]:
    """Gate 1: masks moved by half halve the Dice; noise for images brings it down to the mean mask's."""
    plain, moved, noise, mean = support_is_used(data, (1, 2)).values()
    line = f"{data.name}: as it is {plain:.3f}, masks moved {moved:.3f}, noise images {noise:.3f}, mean mask {mean:.3f}"
    return [(line, moved <= plain / 2 and noise <= mean + 0.02)]


def beats_simple(name: str, scores: Scores) -> list[tuple[str, bool]]:
    """Gate 2: zero-step is above the best simple method at the fewest shots, fields of view perturbed."""
    if not name.endswith("-perturbed") or name.startswith("full-"):
        return []
    shots = min(scores.get(OURS, {}), key=int, default="")
    ours, others = dice(scores, OURS, shots), {m: dice(scores, m, shots) for m in SIMPLE}
    if ours is None or None in others.values():
        return []
    best = max(others, key=others.get)
    return [(f"{name}: K = {shots}: {ours:.3f}, {best} {others[best]:.3f}", ours > others[best])]


def beats_scratch(name: str, scores: Scores) -> list[tuple[str, bool]]:
    """Gate 3: zero-step is above a network trained from scratch up to four shots, polish at every number."""
    found = []
    for shots in scores.get(SCRATCH, {}):
        theirs = dice(scores, SCRATCH, shots)
        for method in (OURS, POLISHED):
            ours = dice(scores, method, shots)
            if ours is not None and (method == POLISHED or int(shots) <= 4):
                found.append((f"{name}: K = {shots}: {method} {ours:.3f}, scratch {theirs:.3f}", ours > theirs))
    return found


def rises(name: str, scores: Scores) -> list[tuple[str, bool]]:
    """Gate 4: Dice rises with the shots, the seconds of a query do not."""
    rows = sorted(scores.get(OURS, {}).items(), key=lambda row: int(row[0]))
    if len(rows) < 3:
        return []
    curve = [row["mean"]["dice"]["mean"] for _, row in rows]
    seconds = [row["cost"]["query_seconds"] for _, row in rows]
    table = ", ".join(f"K = {k}: {d:.3f} in {s:.2f} s" for (k, _), d, s in zip(rows, curve, seconds))
    grows = all(b >= a - 0.01 for a, b in zip(curve, curve[1:])) and curve[-1] > curve[0]
    return [(f"{name}: {table}", grows and max(seconds[1:]) < 1.25 * min(seconds[1:]))]


GATES: dict[str, Callable[[str, Scores], list[tuple[str, bool]]]] = {
    "2. zero-step above mean mask, prototype and ridge, few shots, perturbed fields of view": beats_simple,
    "3. zero-step (K up to 4) and polish (every K) above scratch": beats_scratch,
    "4. Dice rises with K, seconds a query stay flat from K = 2 on": rises,
}


def show(title: str, lines: list[tuple[str, bool]]) -> None:
    passed = sum(ok for _, ok in lines)
    print(f"\n{title}: {passed} of {len(lines)}")
    for line, ok in lines:
        print(f"  {'pass' if ok else 'FAIL'}  {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the development benchmark")
    parser.add_argument("--data", type=Path, help="hippocampus_mr, for gate 1")
    arguments = parser.parse_args()
    if arguments.data:
        show("1. the support is used", used(arguments.data))
    parts = {path.parent.name: json.loads(path.read_text())["scores"] for path in
             sorted(arguments.results.glob("*/summary.json"))}  # fmt: skip
    for title, gate in GATES.items():
        show(title, [line for name, scores in parts.items() for line in gate(name, scores)])


if __name__ == "__main__":
    main()
