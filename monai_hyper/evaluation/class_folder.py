"""How well classifiers do on labelled images of one's own: draws of examples and queries from one folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.examples import Example, LabelledExamples, list_examples
from monai_hyper.data.pictures import read_picture
from monai_hyper.evaluation.classification import auc, expected_calibration_error, mean_interval
from monai_hyper.inference.few_shot_classifier import RELIABLE, FewShotClassifier
from monai_hyper.types import InputError


def draw_examples(found: LabelledExamples, shots: int, queries: int, draw: int, seed: int) -> tuple[list[Example], ...]:
    """Examples and queries of a draw, the same for the same arguments.

    The queries are the same in every draw and for every number of shots; more shots extend the examples of fewer.

    Args:
        shots, queries: images of every class.

    Raises:
        InputError: if a class has not so many images.
    """
    support, asked = [], []
    for number, name in enumerate(found.classes):
        own = [example for example in found.examples if example.label == name]
        if len(own) < shots + queries or min(shots, queries) < 1:
            raise InputError(
                f"class '{name}' has {len(own)} images; expected {shots} examples and {queries} queries, one of each "
                "at least. Ask for fewer, or give more images."
            )
        order = np.random.default_rng([seed, number]).permutation(len(own))
        rest = np.random.default_rng([seed, number, draw]).permutation(order[queries:])
        asked += [own[i] for i in order[:queries]]
        support += [own[i] for i in rest[:shots]]
    return support, asked


def evaluate_classifier(
    dataset: str | Path, output: str | Path, shots: Sequence[int], draws: int, queries: int, seed: int = 0,
    reliable: float = RELIABLE, weights: Path | None = None, device: str = "cpu",
) -> dict:  # fmt: skip
    """Generate classifiers from examples that are drawn from a folder, and ask them for other images of it.

    Writes ``results.csv``, a row for every draw, and ``summary.json``; descriptions of classes are given, too.

    Args:
        dataset: see :func:`list_examples`; nothing tells which images are of one patient.
        shots: numbers of examples of a class; queries: images of a class, the same in every draw.
        draws: of the examples, for every number of shots; reliable, weights, device: see :class:`FewShotClassifier`.

    Returns:
        of every number of shots and measure the mean over the draws, and half of its 95% interval.

    Raises:
        InputError: for defects of the folder, too few images, and nothing to draw.
    """
    found, classifier, rows = list_examples(dataset), FewShotClassifier(weights, device, reliable), []
    drawn = [(k, draw, *draw_examples(found, k, queries, draw, seed)) for k in shots for draw in range(draws)]
    if not drawn:
        raise InputError(f"found shots={list(shots)} and draws={draws}; expected at least one of each.")
    for k, draw, support, asked in drawn:
        classifier.fit(replace(found, examples=tuple(support)))
        given = torch.stack([classifier.probabilities(read_picture(each.image, each.index)) for each in asked])
        labels = torch.tensor([found.classes.index(each.label) for each in asked])
        rows.append({"shots": k, "draw": draw, **scores(given, labels, classifier.threshold_)})
    summary = {
        k: {name: mean_interval(row[name] for row in rows if row["shots"] == k) for name in list(rows[0])[2:]}
        for k in shots
    }
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (output / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def scores(probabilities: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """Scores of probabilities ``(n, N)`` for classes ``(n,)``; answers are given from the threshold on.

    Example:
        >>> scores(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 1]), 0.7)["answered_rightly"]
        0.5
    """
    confidence, answer = probabilities.max(1)
    right, answered = answer == labels, confidence >= threshold
    return {
        "accuracy": float(right.float().mean()),
        "auc": auc(probabilities, labels),
        "calibration_error": expected_calibration_error(probabilities, labels),
        "answered": float(answered.float().mean()),
        "answered_rightly": float((right & answered).float().mean()),
    }
