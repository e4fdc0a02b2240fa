"""Score generated networks on the labelled volumes of a folder, beside the mean support mask."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor

from monai_hyper.data.classes import ClassTable, annotated_classes, class_table, resolved
from monai_hyper.data.episodes import draw_episodes
from monai_hyper.data.folder import Case, list_cases, read_pair
from monai_hyper.data.labels import label_values
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.inference.pipeline import postprocess, preprocess, read_support
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.types import InputError


@dataclass(frozen=True)
class Scored:
    """One query and what was found in it; label maps in the values of the folder, on the query's own grid.

    Args:
        dice, mean_mask_dice: of the generated network and of the mean support mask, by class; only classes that are
            annotated in the query.
        seconds: for the query, reading not counted.
    """

    case: str
    image: MetaTensor
    predicted: MetaTensor
    truth: MetaTensor
    dice: dict[str, float]
    mean_mask_dice: dict[str, float]
    seconds: float


def split_cases(
    folder: Path, split: str | None, shots: int, queries: int, seed: int, classes: Sequence[str] | None
) -> tuple[list[Case], list[Case]]:
    """Support and query cases, drawn by chance from those that show every class and differ in patient.

    Raises:
        InputError: for defects of the folder, and if too few cases show every class.
    """
    cases = list_cases(folder, split)
    table = class_table(folder, cases, classes)
    cases, values = resolved(cases, table), table.values
    usable = {case.name for case in cases if set(values) <= set(label_values(read_pair(case)[1]))}
    if len(usable) <= shots:
        raise InputError(
            f"{folder}: {len(usable)} of {len(cases)} cases show every class; expected more than {shots}, the number "
            "of support volumes. Ask for fewer --shots, or choose --classes that occur together."
        )
    episode = draw_episodes(cases, shots, min(queries, len(usable) - shots), 1, seed, usable)[0]
    return list(episode.support), list(episode.query)


def score_folder(
    segmenter: Segmenter, folder: Path, support: Sequence[Case], query: Sequence[Case], classes: Sequence[str] | None
) -> Iterator[Scored]:
    """Fit ``segmenter`` to the support cases of a folder, then score it on the query cases one after another."""
    support_set, plan = read_support(folder, cases=support, classes=classes)
    segmenter.fit(support_set, plan)
    mean_mask = MeanMask().fit(support_set)
    table = ClassTable(plan.values, plan.classes)
    for case in query:
        image, truth = read_pair(case)
        begun = time.perf_counter()
        predicted = segmenter.predict(image)
        seconds = time.perf_counter() - begun
        with torch.no_grad():
            baseline = postprocess(mean_mask(preprocess(image, plan).as_tensor()[None])[0], plan, image)
        known = dict(zip(plan.classes, annotated_classes(case, truth, table)))
        found = [
            {name: dice for name, dice in zip(plan.classes, dice_per_class(p, truth, plan.values)) if known[name]}
            for p in (predicted, baseline)
        ]
        yield Scored(case.name, image, predicted, truth, *found, seconds)


def table_rows(scored: Sequence[Scored]) -> list[dict[str, object]]:
    """One row per case and class, and the mean over them per class."""
    rows: list[dict[str, object]] = [
        {"case": s.case, "class": name, "dice": s.dice[name], "mean_mask_dice": s.mean_mask_dice[name]}
        for s in scored
        for name in s.dice
    ]
    for name in dict.fromkeys(row["class"] for row in rows):
        mine = [row for row in rows if row["class"] == name]
        means = {key: sum(row[key] for row in mine) / len(mine) for key in ("dice", "mean_mask_dice")}
        rows.append({"case": "mean", "class": name, **means})
    return rows
