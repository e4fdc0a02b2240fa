"""The verbs that generate classifiers: classify, and adapt where it is asked for one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_hyper.commands.common import Report, refuse_existing, versions
from monai_hyper.data.examples import LabelledExamples, list_examples
from monai_hyper.data.pictures import find_images
from monai_hyper.export.deploy import refuse_folder
from monai_hyper.export.deploy_classifier import class_provenance, write_classifier
from monai_hyper.export.dicom_seg import NOTICE
from monai_hyper.export.onnx import wants_onnx
from monai_hyper.inference.class_answer import TABLE, row_of, write_table
from monai_hyper.inference.few_shot_classifier import RELIABLE, FewShotClassifier
from monai_hyper.networks.released import RELEASED_CLASSIFIER
from monai_hyper.types import InputError

DESCRIPTION = "classifier.json"


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
    queries = find_images(query)
    refuse_existing([output / TABLE, output / DESCRIPTION], overwrite)
    classifier = fitted(list_examples(support), reliable, weights, device, progress)
    rows = [row_of(path.name, classifier.predict(path)) for path in queries]
    _write(output, rows, describe(classifier))
    return rows


def fitted(
    examples: LabelledExamples, reliable: float, weights: Path | None, device: str, progress: Report
) -> FewShotClassifier:
    """Generate the classifier of examples, and say how well it went.

    Raises:
        InputError: for defects of the examples, and if ``reliable`` is no share.
    """
    if not 0 <= reliable <= 1:
        raise InputError(f"--reliable is {reliable}; expected a share from 0 to 1.")
    classifier = FewShotClassifier(weights, device, reliable).fit(examples)
    progress(f"classifier for {', '.join(classifier.classes_)}: {classifier.fit_seconds_:.2f} s")
    if classifier.expected_accuracy_ is not None:
        progress(f"expected accuracy, of the examples by each other: {classifier.expected_accuracy_:.2f}")
    return classifier


def adapt_classifier(
    support: Path,
    output: Path,
    name: str | None = None,
    reliable: float = RELIABLE,
    weights: Path | None = None,
    device: str = "cpu",
    onnx: bool | None = None,
    progress: Report = print,
) -> dict:
    """Generate a classifier and write it as a MONAI bundle, see :func:`write_classifier`.

    Args:
        support, reliable: see :func:`classify`.
        output: folder of the bundle, which must not exist.
        name: of the bundle, for people; default: what it tells apart.
        onnx: whether to write the network as ONNX, too; default: if the extra is installed.

    Returns:
        folder, classes and expected accuracy.

    Raises:
        InputError: for defects of the examples, and if the folder exists.
    """
    refuse_folder(output)
    onnx = wants_onnx(onnx)
    examples = list_examples(support)
    classifier = fitted(examples, reliable, weights, device, progress)
    origin = class_provenance(classifier, examples.examples, weights or RELEASED_CLASSIFIER)
    write_classifier(classifier, output, name or " or ".join(examples.classes), origin, versions(), onnx)
    expected = classifier.expected_accuracy_
    return {"bundle": str(output), "classes": list(examples.classes), "expected_accuracy": expected}


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
        write_table(rows, Path(beside))
        (Path(beside) / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
        output.mkdir(exist_ok=True)
        for name in (TABLE, DESCRIPTION):
            os.replace(Path(beside) / name, output / name)
