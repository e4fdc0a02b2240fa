"""The results of an evaluation as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import json
import math
import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from monai_hyper.evaluation.criteria import calibration, data_efficiency
from monai_hyper.evaluation.figures import (
    Style,
    box_figure,
    prediction_means,
    reliability_curve,
    reliability_figure,
    shots_figure,
    styles_of,
    svg_uri,
)
from monai_hyper.evaluation.overlay import overlay_file
from monai_hyper.evaluation.records import RELIABILITY, RELIABILITY_COLUMNS, RESULTS, SETTINGS
from monai_hyper.evaluation.statistics import METRICS, Result, read_results, read_table, rows_by
from monai_hyper.methods.registry import METHODS
from monai_hyper.types import InputError

SUMMARY, REPORT = "summary.json", "report.html"

_SHOWN_APART = ("notes", "bad_cases", "empty_rule", "patients")
_METRIC_NAMES = {"nsd": "NSD", "hd95_mm": "HD95, mm", "ece": "ECE", "brier": "Brier"}

_STYLE = """
:root { color-scheme: light; --ink: #1c2530; --soft: #5d6b7a; --line: #dde3ea; --paper: #fff; --back: #f4f6f9;
        --mark: #0b5cad; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { max-width: 46rem; margin: .3rem 0 .8rem; } p, li { overflow-wrap: anywhere; }
.soft, small, figcaption { color: var(--soft); } small, figcaption { font-size: .82em; }
.wide { overflow-x: auto; background: var(--paper); border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top; border-top: 1px solid var(--line);
         font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-size: .8rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; } td small { display: block; }
td.best { color: var(--mark); font-weight: 700; } td.best small { font-weight: 400; }
.grid { display: flex; flex-wrap: wrap; gap: .8rem; } .grid figure { flex: 1 1 28rem; max-width: 38rem; }
.grid.small figure { flex-basis: 14rem; max-width: 18rem; } .grid.three figure { flex-basis: 17rem; max-width: 25rem; }
figure { margin: 0; box-sizing: border-box; min-width: 0; padding: .4rem; background: var(--paper);
         border: 1px solid var(--line); border-radius: .5rem; }
img { width: 100%; display: block; } figcaption { margin-top: .2rem; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--paper); border: 1px solid var(--line);
      border-radius: .5rem; padding: .6rem .8rem; font-size: .85rem; }
@media print { body { background: none; font-size: 10pt; } main { padding: 0; max-width: none; }
  figure, tr { break-inside: avoid; } h2, h3, summary { break-after: avoid; } .wide { overflow: visible; }
  th, td { padding: .2rem .35rem; white-space: normal; } table { font-size: 8pt; } th:first-child { position: static; }
  .grid figure { flex: 0 1 45%; } .grid.small figure, .grid.three figure { flex: 0 1 30%; } }
"""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: text, a second line in small print, and whether it is the best of its column."""

    text: str
    small: str = ""
    best: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What the folder of an evaluation holds.

    Args:
        rows: of ``results.csv``.
        bins: rows of ``reliability.csv``.
        settings, summary: content of ``settings.json`` and ``summary.json``.
    """

    folder: Path
    rows: list[Result]
    bins: list[dict[str, str]]
    settings: dict
    summary: dict

    @classmethod
    def read(cls, folder: Path) -> Evaluation:
        """Read what :mod:`monai_hyper.evaluation.protocol` wrote.

        Raises:
            InputError: if a file is missing or broken.
        """
        bins = read_table(folder / RELIABILITY, RELIABILITY_COLUMNS)
        return cls(folder, read_results(folder / RESULTS), bins, _json(folder / SETTINGS), _json(folder / SUMMARY))

    @property
    def scores(self) -> dict[str, dict[str, dict]]:
        return self.summary["scores"]

    @cached_property
    def methods(self) -> list[str]:
        """Methods by Dice at their largest number of shots, the best first."""
        return sorted(self.scores, key=lambda m: self.scores[m][self.last(m)]["mean"]["dice"]["mean"], reverse=True)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Every method of the package keeps its style in all reports; others follow."""
        return styles_of(dict.fromkeys([*METHODS, *self.scores]), self.summary["against"])

    def last(self, method: str) -> str:
        """The largest number of shots of a method."""
        return max(self.scores[method], key=int)

    def entry(self, method: str, shots: int | str, name: str | None) -> dict | None:
        """Summary of a class, or (None) of the mean over the classes; None if there is none."""
        found = self.scores[method].get(str(shots))
        return found and (found["mean"] if name is None else found["classes"].get(name))


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON, but it cannot be read ({error}). Evaluate first.") from error


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` from the results in the folder of an evaluation.

    Needs ``results.csv``, ``reliability.csv``, ``settings.json`` and ``summary.json``; of the last, the keys
    ``groups`` (:func:`~monai_hyper.evaluation.criteria.bias`), ``generalisation_gap`` and ``robustness`` are shown if
    they are there, and pictures below ``overlays/`` too. Names of patients are not shown, only those of cases.

    Returns:
        the page.

    Raises:
        InputError: if a file is missing or broken.
    """
    folder = Path(folder)
    found = Evaluation.read(folder)
    sections = (
        _head, _dice_tables, _other_metrics, _efficiency, _boxes, _reliability, _calibration, _generalisation,
        _robustness, _groups, _cost, _overlays, _failures, _notes, _environment,
    )  # fmt: skip
    body = "\n".join(text for section in sections if (text := section(found)))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(found))}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )
    beside = folder / (REPORT + ".part")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, folder / REPORT)
    return folder / REPORT


def _title(found: Evaluation) -> str:
    name = found.settings.get("protocol", {}).get("dataset") or found.folder.resolve().name
    return f"Few-shot segmentation of {name}"


def _head(found: Evaluation) -> str:
    draws, queries = ({getattr(row, key) for row in found.rows} for key in ("draw", "query"))
    classes = found.summary["classes"]
    text = (
        f"{_count(len(found.scores), 'method')}, {_count(len(classes), 'class', 'classes')} ({', '.join(classes)}), "
        f"K = {', '.join(map(str, found.summary['shots']))}, {_count(len(draws), 'draw')} of the support, "
        f"{_count(len(queries), 'query case')}."
    )
    return f'<h1>{escape(_title(found))}</h1>\n<p class="soft">{escape(text)}</p>'


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _dice_tables(found: Evaluation) -> str:
    against = found.summary["against"]
    text = (
        "Mean Dice, with a 95% interval from a bootstrap over draws and subjects. A failed prediction counts as 0. "
        f"Second line: difference to {against}, and p of Wilcoxon's signed-rank test on the means of the subjects, "
        "corrected after Holm over the methods at that K. The best mean of a column is blue."
    )
    parts = [f"<h2>Dice</h2>\n<p>{escape(text)}</p>", _dice_table(found, None)]
    classes = found.summary["classes"]
    for name in classes if len(classes) > 1 else ():
        parts.append(f"<details open><summary>{escape(name)}</summary>{_dice_table(found, name)}</details>")
    return "\n".join(parts)


def _dice_table(found: Evaluation, name: str | None) -> str:
    shots = found.summary["shots"]
    entries = {m: [found.entry(m, k, name) for k in shots] for m in found.methods}
    means = [[e["dice"]["mean"] for e in column if e] for column in zip(*entries.values())]
    rows = {
        method: [_dice_cell(e, max(best)) if e else None for e, best in zip(mine, means)]
        for method, mine in entries.items()
    }
    return _table(["method", *(f"K = {k}" for k in shots)], rows)


def _dice_cell(entry: Mapping, best: float) -> Cell:
    dice, small = entry["dice"], ""
    if (difference := entry.get("difference")) and difference["mean"] is not None:
        small = f"{difference['mean']:+.3f}" + (f", {_p(entry['p_holm'])}" if entry["p_holm"] is not None else "")
    return Cell(_interval(dice), small, dice["mean"] == best)


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _interval(found: Mapping, sign: str = "") -> str:
    if found["mean"] is None:
        return "–"
    ends = "" if found["low"] is None else f" [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
    return f"{found['mean']:{sign}.3f}{ends}"


def _other_metrics(found: Evaluation) -> str:
    rows = {}
    for method in found.methods:
        shots = found.last(method)
        entry = found.entry(method, shots, None)
        cells = [
            Cell(_number(entry[metric]["mean"]), f"n = {entry[metric]['n']}" if entry[metric]["n"] else "")
            for metric in METRICS
        ]
        rows[method] = [shots, entry["predictions"], *cells]
    text = (
        "Means at the largest K, over the n predictions that have the number. A failed one counts as NSD 0 and has no "
        "other."
    )
    head = ["method", "K", "predictions", *(_METRIC_NAMES[metric] for metric in METRICS)]
    return f"<h2>Surface distance and calibration</h2>\n<p>{escape(text)}</p>\n{_table(head, rows)}"


def _efficiency(found: Evaluation) -> str:
    classes = found.summary["classes"]
    titles = {None: "mean over classes"} if len(classes) > 1 else {}
    figures = []
    for name, title in (titles | {name: name for name in classes}).items():
        curves = {
            method: {int(k): entry["dice"] for k in found.scores[method] if (entry := found.entry(method, k, name))}
            for method in found.methods
        }
        figure = shots_figure({m: c for m, c in curves.items() if c}, found.styles, title)
        figures.append(_figure(svg_uri(figure), f"Dice over shots, {title}"))
    rows = {}
    for method, curve in data_efficiency(found.summary).items():
        curve, reached = curve["mean"], curve["mean"]["shots_to_90"]
        text = "–" if reached is None else f"{'≤ ' if curve['at_most'] else ''}{reached:.1f}"
        rows[method] = [
            Cell(_number(curve["area"])), Cell(text), " to ".join(map(str, curve["shots"])),
            Cell(curve["note"], wraps=True),
        ]  # fmt: skip
    ordered = {method: rows[method] for method in found.methods}
    head = ["method", "area, 0 to 1", "K for 90% of Dice at K = 8", "K from", ""]
    text = (
        "The curves of Dice over log2 of the shots; bars are 95% intervals, drawn side by side. The table sums up the "
        "mean over classes: area under the curve divided by its width, and where the curve first reaches 90%."
    )
    grid = f'<div class="grid">{"".join(figures)}</div>'
    return f"<h2>Data efficiency</h2>\n<p>{escape(text)}</p>\n{grid}\n<h3>Area</h3>\n{_table(head, ordered)}"


def _boxes(found: Evaluation) -> str:
    by_shots: dict[int, dict[str, list[float]]] = defaultdict(dict)
    for method, groups in rows_by(found.rows).items():
        for shots, rows in groups.items():
            by_shots[shots][method] = prediction_means(rows)
    figures = [
        _figure(svg_uri(box_figure(scores, found.styles, f"K = {shots}")), f"Dice of single predictions, K = {shots}")
        for shots, scores in sorted(by_shots.items())
    ]
    text = "Box: quartiles; whiskers: up to 1.5 times their distance; diamond: mean; dots: predictions beyond."
    return f'<h2>Spread</h2>\n<p>{escape(text)}</p>\n<div class="grid">{"".join(figures)}</div>'


def _reliability(found: Evaluation) -> str:
    bins: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    for row in found.bins:
        bins[row["method"]][int(row["shots"])].append(row)
    figures = []
    for method in found.methods:
        curves = {shots: curve for shots, rows in bins[method].items() if (curve := reliability_curve(rows))}
        if curves:
            figure = reliability_figure(curves, found.styles[method], method)
            figures.append(_figure(svg_uri(figure), f"Reliability of {method}"))
    if not figures:
        return ""
    text = (
        "Observed frequency over confidence, weighted by voxels, over all classes, draws and queries. On the dotted "
        "line probabilities are right; below it the method is too sure."
    )
    return f'<h2>Reliability</h2>\n<p>{escape(text)}</p>\n<div class="grid small">{"".join(figures)}</div>'


def _calibration(found: Evaluation) -> str:
    rows = {
        f"{method}, K = {shots}": [
            cell for m in ("ece", "brier")
            for cell in (_number(entry[m]["before"]), _number(entry[m]["after"]), _interval(entry[m]["change"], "+"))
        ]
        for method, by_shots in calibration(found.rows, found.settings.get("patients")).items()
        for shots, entry in by_shots.items()
    }  # fmt: skip
    head = ["method", *(f"{m} {what}" for m in ("ECE", "Brier") for what in ("before", "after", "change"))]
    return rows and f"<h2>Calibration before and after leave-one-out temperature</h2>\n{_table(head, rows)}"


def _generalisation(found: Evaluation) -> str:
    rows = {
        f"{method}, K = {shots}": [_number(entry["seen"]), _number(entry["unseen"]), _interval(entry["gap"], "+")]
        for method, by_shots in (found.summary.get("generalisation_gap") or {}).items()
        for shots, entry in by_shots.items()
    }
    text = "Dice on held-out cases of the tasks of meta-training, minus Dice on these unseen tasks."
    head = ["method", "seen tasks", "unseen tasks", "gap"]
    return rows and f"<h2>Generalisation gap</h2>\n<p>{escape(text)}</p>\n{_table(head, rows)}"


def _robustness(found: Evaluation) -> str:
    shifts = found.summary.get("robustness") or {}
    rows = {}
    for method in found.methods:
        for shots in found.scores[method]:
            entries = [by_method.get(method, {}).get(shots) for by_method in shifts.values()]
            if any(entries):
                rows[f"{method}, K = {shots}"] = [entry and _interval(entry["drop"], "+") for entry in entries]
    text = "Dice lost on the same queries when they are changed as another scanner would show them."
    return rows and f"<h2>Robustness</h2>\n<p>{escape(text)}</p>\n{_table(['method', *shifts], rows)}"


def _groups(found: Evaluation) -> str:
    groups = found.summary.get("groups")
    if not groups:
        return ""
    parts = []
    for method in sorted(groups["scores"], key=found.methods.index):
        shots = max(groups["scores"][method], key=int)
        rows = {
            entry["group"]: [
                entry["n"], _interval(entry["dice"]), _interval(entry["gap"], "+"),
                Cell("differs", best=True) if entry["flagged"] else "",
            ]
            for entry in groups["scores"][method][shots]
        }  # fmt: skip
        parts.append(f"<h3>{escape(method)}, K = {escape(shots)}</h3>")
        parts.append(_table([groups["column"], "subjects", "Dice", "gap to all others", ""], rows))
    text = (
        f"Dice by {groups['column']}, with {100 * (1 - groups['alpha']):g}% intervals over draws and subjects, not "
        "corrected for the number of groups and too narrow for groups of a few subjects. A gap is marked if its "
        "interval excludes zero; groups of one subject never are."
    )
    if groups["unmatched"]:
        text += f" Left out, since their group is not known: {', '.join(groups['unmatched'])}."
    return "\n".join([f"<h2>Groups</h2>\n<p>{escape(text)}</p>", *parts])


def _cost(found: Evaluation) -> str:
    shots = [str(k) for k in found.summary["shots"]]
    rows = {}
    for method in found.methods:
        costs = [found.scores[method].get(k, {}).get("cost", {}) for k in shots]
        cells = [_number(cost.get(key)) for key in ("fit_seconds", "query_seconds") for cost in costs]
        rows[method] = [*cells, _number(found.scores[method][found.last(method)]["cost"]["peak_mb"])]
    head = ["method", *(f"{what}, K = {k}, s" for what in ("fit", "query") for k in shots), "peak at the largest K, MB"]
    return f"<h2>Cost</h2>\n<p>Medians over the predictions that did not fail.</p>\n{_table(head, rows)}"


def _overlays(found: Evaluation) -> str:
    parts = []
    for name in found.summary["classes"]:
        lines = [line for method in found.methods if (line := _overlay_line(found, method, name))]
        if lines:
            parts.append(f"<details open><summary>{escape(name)}</summary>{''.join(lines)}</details>")
    text = "Prediction filled in orange, truth outlined in blue; from the first draw at the largest K."
    return "\n".join([f"<h2>Best, median and worst prediction</h2>\n<p>{escape(text)}</p>", *parts]) if parts else ""


def _overlay_line(found: Evaluation, method: str, name: str) -> str:
    shots = int(found.last(method))
    pictured = [
        (row, path)
        for row in found.rows
        if (row.method, row.class_name, row.shots, row.draw) == (method, name, shots, 1)
        and (path := overlay_file(found.folder, name, method, row.query)).is_file()
    ]
    pictured.sort(key=lambda pair: pair[0].score("dice"), reverse=True)
    chosen = {0: "best", len(pictured) - 1: "worst", (len(pictured) - 1) // 2: "median"} if len(pictured) > 2 else {}
    figures = [
        _figure(
            f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}",
            f"{chosen.get(i, '')} {row.query}, Dice {row.score('dice'):.3f}".strip(),
            shown=True,
        )
        for i, (row, path) in enumerate(pictured)
        if i in chosen or not chosen
    ]
    return figures and f'<h3>{escape(method)}</h3>\n<div class="grid three">{"".join(figures)}</div>'


def _failures(found: Evaluation) -> str:
    failed: dict[tuple[str, int, str], set[tuple[int, str]]] = defaultdict(set)
    for row in found.rows:
        if row.error:
            failed[row.method, row.shots, row.error].add((row.draw, row.query))
    lines = [
        f"{method}, K = {shots}, {_count(len(where), 'prediction')} "
        f"({', '.join(f'draw {draw}: {query}' for draw, query in sorted(where)[:3])}"
        f"{', …' if len(where) > 3 else ''}): {error}"
        for (method, shots, error), where in failed.items()
    ]
    bad = found.settings.get("bad_cases", [])
    text = "" if lines else "<p>No prediction failed.</p>"
    return f"<h2>Failures</h2>\n{text}{_list(lines)}" + (f"<h3>Cases left out</h3>\n{_list(bad)}" if bad else "")


def _notes(found: Evaluation) -> str:
    notes = list(found.settings.get("notes", []))
    if rule := found.settings.get("empty_rule"):
        notes.append(f"Empty predictions: {rule}")
    return f"<h2>Notes</h2>\n{_list(notes)}" if notes else ""


def _environment(found: Evaluation) -> str:
    terms = {}
    for key, value in found.settings.items():
        if key not in _SHOWN_APART:
            terms |= value if isinstance(value, dict) else {key: value}
    command = terms.pop("command", "")
    shown = f"<pre>{escape(command if isinstance(command, str) else shlex.join(command))}</pre>" if command else ""
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(_flat(value))}</dd>" for key, value in terms.items())
    return f"<h2>Settings and environment</h2>\n{shown}\n<dl>{items}</dl>"


def _flat(value: object) -> str:
    """Nested settings as one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(f"({_flat(item)})" if isinstance(item, (dict, list)) else _flat(item) for item in value)
    return "–" if value is None else str(value)


def _number(value: float | None) -> str:
    """Three digits, or three decimals below 1."""
    if value is None:
        return "–"
    return f"{value:.{3 if abs(value) < 1 else max(0, 2 - int(math.log10(abs(value))))}f}"


def _table(head: Sequence[str], rows: Mapping[str, Sequence[Cell | str | int | None]]) -> str:
    """A table whose first column is the keys of ``rows``; everything is escaped."""
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, cells))}</tr>' for name, cells in rows.items()
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(value: Cell | str | int | None) -> str:
    cell = value if isinstance(value, Cell) else Cell("–" if value is None else str(value))
    marks = " ".join(name for name, on in (("best", cell.best), ("text", cell.wraps)) if on)
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return f"<td{f' class={chr(34)}{marks}{chr(34)}' if marks else ''}>{escape(cell.text)}{small}</td>"


def _figure(address: str, text: str, shown: bool = False) -> str:
    """A picture held by its address; its text is read aloud, and shown below if it says more than the picture."""
    caption = f"<figcaption>{escape(text)}</figcaption>" if shown else ""
    return f'<figure><img alt="{escape(text)}" src="{address}">{caption}</figure>'


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(str(line))}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
