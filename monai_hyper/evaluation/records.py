"""Tables that grow while an evaluation runs, and survive it being cut off."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from monai_hyper.types import InputError

RESULTS, RELIABILITY, SETTINGS = "results.csv", "reliability.csv", "settings.json"

RESULT_COLUMNS = (
    "method", "shots", "draw", "query", "class", "dice", "nsd", "hd95_mm", "ece", "brier", "fit_seconds",
    "query_seconds", "peak_mb", "expected_dice", "error",
)  # fmt: skip
RELIABILITY_COLUMNS = ("method", "shots", "class", "draw", "query", "bin", "confidence", "frequency", "voxels")

Key = tuple[str, int, int, str, str]
"""Method, shots, draw, query and class of one row."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; a last line that was cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    """Write a CSV file beside its place, then rename it."""
    beside = path.with_suffix(".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(beside, path)


def append_rows(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    """Add rows in one piece."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns).writerows(rows)
        file.flush()


class Records:
    """Rows of one evaluation in a folder; an unbroken run and one that was killed and resumed leave the same rows.

    A prediction counts as done when rows of a later one follow it: the last one of a run that was cut off may lack
    classes, and is made again. Methods may join later: what one method scores does not depend on the others.

    Args:
        folder: where ``results.csv``, ``reliability.csv`` and ``settings.json`` lie.
        settings: what the rows depend on.
        part: of several that one process each writes, a number from 1, as ``results.1.csv``; what the whole table holds
            counts as done there too. 0: the whole.

    Raises:
        InputError: if the folder holds results of other settings.
    """

    def __init__(self, folder: Path, settings: dict, part: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        if (folder / SETTINGS).exists():
            self._compare(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        whole = read_rows(folder / RESULTS) if part else []
        ending = f".{part}.csv" if part else ".csv"
        self.results, self.reliability = (folder / (Path(n).stem + ending) for n in (RESULTS, RELIABILITY))
        rows = self._without_last(read_rows(self.results))
        self.done = {_key(row) for row in rows}
        write_rows(self.results, RESULT_COLUMNS, rows)
        bins = [row for row in read_rows(self.reliability) if _key(row) in self.done]
        write_rows(self.reliability, RELIABILITY_COLUMNS, bins)
        self.done |= {_key(row) for row in whole}

    def _without_last(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        last = _key(rows[-1])[:4] if rows else None
        if last is None or last[0] not in self.settings.get("methods", [last[0]]):
            return rows  # another method's would not be made again
        return [row for row in rows if _key(row)[:4] != last]

    def _compare(self, before: dict) -> None:
        found = before.get("protocol", {})
        different = [n for n, value in self.settings.items() if n != "methods" and found.get(n) != value]
        if different:
            name = different[0]
            raise InputError(
                f"{self.folder / SETTINGS}: results of an evaluation with {name} = "
                f"{before.get('protocol', {}).get(name)!r}; expected {self.settings[name]!r}. Choose another --output, "
                "or replace them with --overwrite."
            )

    def describe(self, facts: dict) -> None:
        """Write ``settings.json``: the settings under ``protocol``, and what else is to be known."""
        beside = self.folder / (SETTINGS + ".part")
        beside.write_text(json.dumps({"protocol": self.settings, **facts}, indent=1), encoding="utf-8")
        os.replace(beside, self.folder / SETTINGS)

    def add(self, rows: Sequence[dict], bins: Sequence[dict]) -> None:
        """Add what one prediction gave; ``bins`` first, since ``rows`` say that it is done."""
        append_rows(self.reliability, RELIABILITY_COLUMNS, bins)
        append_rows(self.results, RESULT_COLUMNS, rows)
        self.done |= {_key(row) for row in rows}

    def gather(self, cut_off: bool) -> None:
        """Take in the parts; cut_off: whether the processes that wrote them may not have come to an end."""
        for path in sorted(self.folder.glob(f"{Path(RESULTS).stem}.*.csv")):
            rows = self._without_last(read_rows(path)) if cut_off else read_rows(path)
            bins = self.folder / path.name.replace(Path(RESULTS).stem, Path(RELIABILITY).stem, 1)
            kept = {_key(row) for row in rows} - self.done
            self.add(*([row for row in each if _key(row) in kept] for each in (rows, read_rows(bins))))
            path.unlink()
            bins.unlink()

    def has(self, method: str, shots: int, draw: int, query: str, classes: Sequence[str]) -> bool:
        """Whether a prediction is there, for any of the classes of its task."""
        return any((method, shots, draw, query, name) in self.done for name in classes)


def _key(row: dict) -> Key:
    return row["method"], int(row["shots"]), int(row["draw"]), row["query"], row["class"]
