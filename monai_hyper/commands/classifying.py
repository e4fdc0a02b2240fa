"""The verb that generates classifiers: classify."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_hyper.commands.common import Report, refuse_existing, versions
from monai_hyper.data.pictures import is_picture
from monai_hyper.export.dicom_seg import NOTICE
from monai_hyper.inference.few_shot_classifier import RELIABLE, ClassAnswer, FewShotClassifier
from monai_hyper.types import InputError

TABLE, DESCRIPTION = "classes.csv", "classifier.json"


def find_images(path: Path) -> list[Path]:
    """Images to classify: a file, a folder of them, a folder of one DICOM series, or of such.

    Raises:
        InputError: if there is nothing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such query; expected an image or a folder of images. Check the path.")
    if path.is_file():
        return [path]
    found = sorted(f for f in path.iterdir() if not f.name.startswith("."))
    files = [f for f in found if f.is_file() and is_picture(f)]
    if files and all(f.suffix.lower() in (".dcm", "") for f in files):
        return [path]
    images = files + [f for f in found if f.is_dir()]
    if not images:
        raise InputError(f"{path}: expected images, found none. Check the path and the files' suffixes.")
    return images


def classify(
    support: Path,
    query: Path,
    output: Path,
    reliable: float = RELIABLE,
    weights: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Report = print,
) -> list[dict]:
    """Classify images after a few examples of each class, or after its description.

    Writes ``classes.csv``, a row for every image: its class, empty where no class is probable enough, and the
    probability of every class; and ``classifier.json``. Nothing is written unless every query succeeds.

    Args:
        support: folder with a sub-folder for every class, or CSV file with columns path, class and perhaps text.
        reliable: share of the answers that shall be right where one is given; 0: always answer.

    Returns:
        the rows.

    Raises:
        InputError: for defects of the files, and if a result exists already.
    """
    if not 0 <= reliable <= 1:
        raise InputError(f"--reliable is {reliable}; expected a share from 0 to 1.")
    queries = find_images(query)
    refuse_existing([output / TABLE, output / DESCRIPTION], overwrite)
    classifier = FewShotClassifier(weights, device, reliable).fit(support)
    shots = f"{', '.join(classifier.classes_)}: {classifier.fit_seconds_:.2f} s"
    progress(f"classifier for {shots}")
    if classifier.expected_accuracy_ is not None:
        progress(f"expected accuracy, of the examples by each other: {classifier.expected_accuracy_:.2f}")
    rows = [row_of(path, classifier.predict(path)) for path in queries]
    _write(output, rows, describe(classifier))
    return rows


def row_of(path: Path, answer: ClassAnswer) -> dict:
    """A row of the table."""
    return {"query": path.name, "class": answer.name or "", **answer.probabilities}


def describe(classifier: FewShotClassifier) -> dict:
    """What ``classifier.json`` says."""
    return {
        "note": NOTICE,
        "preparation": classifier.plan_.to_dict(),
        "temperature": classifier.temperature_,
        "threshold": classifier.threshold_,
        "expected_accuracy": classifier.expected_accuracy_,
        "seconds": {"generate_network": classifier.fit_seconds_},
        "versions": versions(),
    }


def _write(output: Path, rows: Sequence[dict], description: dict) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".classify-") as beside:
        with (Path(beside) / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (Path(beside) / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
        output.mkdir(exist_ok=True)
        for name in (TABLE, DESCRIPTION):
            os.replace(Path(beside) / name, output / name)
