"""The verbs that measure: evaluate, bench."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from monai_hyper.commands.common import Report, versions
from monai_hyper.evaluation.bench import bench as time_methods
from monai_hyper.evaluation.protocol import Protocol
from monai_hyper.evaluation.run import clear, evaluate_folder, table_of
from monai_hyper.methods.registry import FAST, make_methods
from monai_hyper.types import SomeFailed


def evaluate(
    dataset: Path,
    output: Path,
    methods: Sequence[str] = ("hyper", "mean-mask"),
    shots: Sequence[int] | None = None,
    draws: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    binary: Sequence[str] | None = None,
    perturb_fov: bool = False,
    shift: str | None = None,
    support_dataset: Path | None = None,
    tolerance_mm: float | None = None,
    group: str | None = None,
    quick: bool = False,
    weights: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Report = print,
) -> list[dict]:
    """Evaluate methods on an annotated folder, see :func:`monai_hyper.evaluation.run.evaluate_folder`.

    Args:
        quick: shots 1 and 4, 2 draws, 8 queries, where they are not given.

    Returns:
        mean Dice of every method, number of shots and class.

    Raises:
        SomeFailed: when cases could not be read; the others are evaluated.
    """
    usual = ((1, 4), 2, 8) if quick else ((1, 2, 4, 8), 5, 20)
    shots, draws, queries = (given or default for given, default in zip((shots, draws, queries), usual))
    protocol = Protocol(
        dataset, tuple(methods), tuple(shots), draws, queries, seed, device, split,
        tuple(classes) if classes else None, None if binary is None else tuple(binary), perturb_fov, shift,
        support_dataset, tolerance_mm,
    )  # fmt: skip
    if overwrite:
        clear(output)
    environment = {**versions(), "command": " ".join(["monai-hyper", *sys.argv[1:]])}
    summary = evaluate_folder(protocol, output, weights, group, environment)
    progress(f"report: {output / 'report.html'}")
    if summary["bad_cases"]:
        raise SomeFailed("left out, the others are evaluated:\n" + "\n".join(summary["bad_cases"]))
    return table_of(summary)


def bench(
    methods: Sequence[str] = FAST,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    side: int = 64,
    repeats: int = 5,
    weights: Path | None = None,
    device: str = "cpu",
    progress: Report = print,
) -> list[dict]:
    """Seconds to fit and per query of methods, on volumes of ``side`` voxels a side."""
    progress(f"volumes of {side}^3 voxels, {torch.get_num_threads()} threads, median of {repeats}")
    return time_methods(make_methods(methods, weights, device), shots, side, repeats, device)
