"""From a protocol to a folder of results: predictions, summary, report."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from monai_hyper.evaluation.criteria import bias
from monai_hyper.evaluation.protocol import Protocol, run_protocol
from monai_hyper.evaluation.records import RELIABILITY, RESULTS, SETTINGS
from monai_hyper.evaluation.report import REPORT, SUMMARY, write_report
from monai_hyper.evaluation.statistics import read_results, summarise
from monai_hyper.methods.registry import make_methods
from monai_hyper.types import InputError
from monai_hyper.workers import joined, wait_for_all

PARTICIPANTS = "participants.csv"


def evaluate_folder(
    protocol: Protocol,
    output: Path,
    weights: Path | None = None,
    group: str | None = None,
    environment: dict | None = None,
) -> dict:
    """Evaluate methods on a folder; what is there from a run that was cut off is not done again.

    Args:
        output: gets ``results.csv``, ``reliability.csv``, ``settings.json``, ``summary.json``, ``report.html`` and
            ``overlays/``.
        weights: of the model; None: the released ones.
        group: column of the folder's ``participants.csv`` to compare groups by.
        environment: versions and command line for the report.

    Under torchrun the processes share the support sets.

    Returns:
        the summary, and under ``bad_cases`` what could not be read.

    Raises:
        InputError: for defects of the folder as a whole, unknown methods, and results of other settings.
    """
    participants = protocol.dataset / PARTICIPANTS
    if group and not participants.exists():
        raise InputError(f"{participants}: not found; expected it for --group {group}. Add it, or leave --group out.")
    with joined(protocol.device) as worker:
        protocol = replace(protocol, device=worker.device)
        methods = make_methods(protocol.methods, weights, protocol.device)
        bad = run_protocol(protocol, methods, output, environment or {}, worker)
        if worker.leads:
            _write_summary(output, participants, group)
        wait_for_all()
    return json.loads((output / SUMMARY).read_text(encoding="utf-8")) | {"bad_cases": bad}


def _write_summary(output: Path, participants: Path, group: str | None) -> None:
    """Write ``summary.json``, then the report."""
    rows = read_results(output / RESULTS)
    patients = json.loads((output / SETTINGS).read_text(encoding="utf-8"))["patients"]
    summary = summarise(rows, patients=patients)
    if group:
        summary["groups"] = bias(rows, participants, group, patients=patients)
    beside = output / (SUMMARY + ".part")
    beside.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    os.replace(beside, output / SUMMARY)
    write_report(output)


def clear(output: Path) -> None:
    """Remove the results of an earlier evaluation, and nothing else."""
    for name in (RESULTS, RELIABILITY, SETTINGS, SUMMARY, REPORT):
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / "overlays", ignore_errors=True)


def table_of(summary: dict) -> list[dict[str, object]]:
    """Mean Dice and its 95% interval of every method and number of shots, by class and over the classes."""
    rows = []
    for method, by_shots in summary["scores"].items():
        for shots, found in by_shots.items():
            entries = found["classes"] | ({"mean": found["mean"]} if len(found["classes"]) > 1 else {})
            for name, entry in entries.items():
                dice = entry["dice"]
                rows.append({"method": method, "shots": int(shots), "class": name, "dice": dice["mean"],
                             "low": dice["low"], "high": dice["high"], "failures": entry["failures"]})  # fmt: skip
    return rows
