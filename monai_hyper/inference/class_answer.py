"""What a classifier says of images: the class of each, or none, and the table of all."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

TABLE = "classes.csv"


@dataclass(frozen=True)
class ClassAnswer:
    """What a classifier says of an image.

    Args:
        name: the most probable class, None where that is not probable enough.
        probabilities: of every class, calibrated on the examples.
        threshold: least probability of an answer.
    """

    name: str | None
    probabilities: dict[str, float]
    threshold: float

    @property
    def abstains(self) -> bool:
        """Whether no class is probable enough."""
        return self.name is None


def answer_of(probabilities: Tensor, classes: Sequence[str], threshold: float) -> ClassAnswer:
    """The answer of probabilities ``(N,)`` for the classes of these names.

    Example:
        >>> import torch
        >>> answer_of(torch.tensor([0.75, 0.25]), ("benign", "malignant"), threshold=0.9).abstains
        True
    """
    best = int(probabilities.argmax())
    name = classes[best] if float(probabilities[best]) >= threshold else None
    return ClassAnswer(name, {c: round(p, 4) for c, p in zip(classes, probabilities.tolist())}, threshold)


def row_of(query: str, answer: ClassAnswer) -> dict:
    """A row of the table: the image's name, its class, empty where there is none, and the probability of every one."""
    return {"query": query, "class": answer.name or "", **answer.probabilities}


def write_table(rows: Sequence[dict], folder: Path) -> Path:
    """Write ``classes.csv``, whole or not at all."""
    beside = folder / f".{TABLE}"
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(beside, folder / TABLE)
    return folder / TABLE


class LogitsToClassd(MapTransform):
    """Turn logits ``(N,)`` of an image into a :class:`ClassAnswer`.

    Args:
        classes: their names; threshold: least probability of an answer, or what gives it once the network is there.

    Example:
        >>> import torch
        >>> LogitsToClassd("pred", ("benign", "malignant"), 0.9)({"pred": torch.tensor([9.0, 0.0])})["pred"].name
        'benign'
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[str],
        threshold: float | Callable[[], float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes, self.threshold = tuple(classes), threshold

    def __call__(self, data: Mapping) -> dict:
        threshold = self.threshold() if callable(self.threshold) else self.threshold
        found = {key: data[key].softmax(-1).cpu() for key in self.key_iterator(data)}
        return {**data, **{key: answer_of(each, self.classes, threshold) for key, each in found.items()}}


class AnswerTable:
    """Handler of MONAI's evaluators: write ``classes.csv`` when all images are classified.

    It takes the name of an image from ``query`` of the batch, the :class:`ClassAnswer` from ``pred`` of the output.

    Args:
        output_dir: folder, made if it is not there; an older table is replaced.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.folder, self.rows = Path(output_dir), []

    def attach(self, engine: Any) -> None:
        """Let an engine of ignite call it."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, lambda engine: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def add(self, engine: Any) -> None:
        """Keep what is said of the images of a batch."""
        for image, found in zip(engine.state.batch, engine.state.output):
            self.rows.append(row_of(image["query"], found["pred"]))

    def write(self, engine: Any) -> None:
        """Write the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(self.rows, self.folder)
