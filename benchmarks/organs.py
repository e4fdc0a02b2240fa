"""Which structure is in the middle: crops of head-and-neck CT that nothing was trained on; and what words add.

python benchmarks/organs.py classify --output runs/organs
python benchmarks/organs.py words --output runs/organs
python benchmarks/organs.py segment --output runs/organs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monai_hyper.data.folder import Case, list_cases, read_pair
from monai_hyper.data.support import SupportSet
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.data.vocabulary import description
from monai_hyper.evaluation.classification import expected_calibration_error, mean_interval
from monai_hyper.inference.pipeline import Plan, read_support
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.inference.words import plan_of_words
from monai_hyper.methods.classify.registry import CLASS_METHODS, HyperClassification, make_class_methods
from monai_hyper.networks.released import load_classifier
from monai_hyper.transforms.grid import ResampleToGrid
from monai_hyper.transforms.intensity import harmonise_ct

STRUCTURES = {
    1: "brainstem", 2: "spinal cord", 3: "right parotid gland", 4: "left parotid gland", 5: "oesophagus",
    6: "larynx", 7: "mandible",
}  # fmt: skip
"""Values of the label maps; the last two are in no meta-training, nor are their names."""

DESCRIBED = (1, 2, 3, 4, 5)
"""Structures whose names are in meta-training, of other patients."""

SPACING, SIDE, WINDOW = 4.0, 28, (-160.0, 240.0)
"""Crops: mm, voxels, HU."""

SPLIT, REPORTED = "evaluation", "report"
"""Cases of the crops; and of segmentation, whose model was chosen on the others."""

WAYS = ("images", "words", "both", "wrong words", "images, wrong words")


class Crops(NamedTuple):
    """Crops ``(n, 1, SIDE, SIDE, SIDE)``, the values of their structures ``(n,)``, and the numbers of their cases."""

    images: Tensor
    values: Tensor
    cases: Tensor


def crops_of(data: Path) -> Crops:
    """A crop around the middle of every structure of every case."""
    found: list[tuple[Tensor, int, int]] = []
    for number, case in enumerate(list_cases(data / "headneck_ct", SPLIT)):
        image, label = read_pair(case)
        image = ResampleToGrid(SPACING)(image).as_tensor()
        label = ResampleToGrid(SPACING, "label")(label).as_tensor()[0]
        for value in STRUCTURES:
            inside = torch.nonzero(label == value).float()
            if len(inside):
                crop = cut(image, inside.mean(0).round().long().tolist())
                found.append((harmonise_ct(crop, *WINDOW), value, number))
    images, values, cases = zip(*found)
    return Crops(torch.stack(images), torch.tensor(values), torch.tensor(cases))


def cut(image: Tensor, middle: list[int]) -> Tensor:
    """A cube of ``SIDE`` voxels around a voxel of an image ``(1, D, H, W)``; air beyond it."""
    half = SIDE // 2
    padded = torch.nn.functional.pad(image, [half] * 6, value=-1000.0)
    d, h, w = middle
    return padded[:, d : d + SIDE, h : h + SIDE, w : w + SIDE]


def drawn(crops: Crops, values: tuple[int, ...], shots: int, draw: int) -> tuple[SupportSet, Tensor, Tensor]:
    """Crops of so many cases that have all of the structures, to show, and those of all other cases to ask, with the
    numbers of their classes."""
    wanted = torch.tensor(values)
    known = torch.isin(crops.values, wanted)
    whole = torch.nonzero(torch.bincount(crops.cases[known]) == len(values))[:, 0]
    chosen = whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(draw))[:shots]]
    mine = torch.isin(crops.cases, chosen)
    shown, asked = (torch.nonzero(known & part)[:, 0] for part in (mine, ~mine))
    classes = torch.searchsorted(wanted, crops.values)
    names = tuple(STRUCTURES[value] for value in values)
    return SupportSet(crops.images[shown], classes[shown], names), crops.images[asked], classes[asked]


def score(fit: Callable, support: SupportSet, images: Tensor, labels: Tensor) -> dict:
    """Accuracy and calibration of what a method makes of a support set, and seconds to fit it."""
    begun = time.perf_counter()
    network = fit(support)
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        found = network(images).softmax(1)
    right = float((found.argmax(1) == labels).float().mean())
    return {"accuracy": right, "ece": expected_calibration_error(found, labels), "fit_seconds": seconds}


def classify(arguments: argparse.Namespace) -> list[dict]:
    """All methods on the seven structures, two of which are in no meta-training."""
    crops, rows = crops_of(arguments.data), []
    for name, method in make_class_methods(arguments.methods, arguments.weights).items():
        for shots in (1, 5):
            for draw in range(arguments.draws):
                task = drawn(crops, tuple(STRUCTURES), shots, draw)
                rows.append({"method": name, "shots": shots, "draw": draw, **score(method.fit, *task)})
    show(rows, "method", ("accuracy", "ece", "fit_seconds"))
    return rows


def words(arguments: argparse.Namespace) -> list[dict]:
    """What descriptions add to the classifier, right ones and wrong ones, with and without images."""
    crops, rows = crops_of(arguments.data), []
    method = HyperClassification(load_classifier(arguments.weights))
    for shots in (1, 5):
        for draw in range(arguments.draws):
            support, images, labels = drawn(crops, DESCRIBED, shots, draw)
            for way in WAYS:
                told = worded(support, way)
                rows.append({"way": way, "shots": shots, "draw": draw, **score(method.fit, told, images, labels)})
    show(rows, "way", ("accuracy", "ece"))
    return rows


def worded(support: SupportSet, way: str) -> SupportSet:
    """A support set with its images, descriptions or both; wrong ones are those of the next class."""
    right = torch.stack([description(name) for name in support.classes])
    texts = {"images": torch.zeros(len(right), TEXT_DIM), "words": right, "both": right}.get(way, right.roll(1, 0))
    if way in ("words", "wrong words"):
        return SupportSet(support.images[:0], support.labels[:0], support.classes, texts=texts)
    return replace(support, texts=texts)


def segment(arguments: argparse.Namespace) -> list[dict]:
    """What descriptions add to segmentation, one structure at a time."""
    folder, rows = arguments.data / "headneck_ct", []
    segmenter = Segmenter(arguments.weights)
    for draw in range(arguments.draws):
        cases = list_cases(folder, REPORTED)
        order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(draw)).tolist()
        shown, asked = [cases[order[0]]], [cases[i] for i in order[1 : 1 + arguments.queries]]
        for value in DESCRIBED:
            rows += segmented(segmenter, folder, shown, asked, value, draw)
    show(rows, "way", ("dice",))
    return rows


def segmented(
    segmenter: Segmenter, folder: Path, shown: list[Case], asked: list[Case], value: int, draw: int
) -> Iterator[dict]:
    """Dice of one structure in every case that is asked, by what it is shown and told."""
    name, wrong = STRUCTURES[value], STRUCTURES[DESCRIBED[value % len(DESCRIBED)]]
    support, plan = read_support(folder, cases=shown, classes=[str(value)])
    for way in WAYS:
        text = torch.zeros(TEXT_DIM) if way == "images" else description(wrong if "wrong" in way else name)
        for case, found in zip(asked, answers(segmenter, replace(support, texts=text[None]), plan, asked, way)):
            truth = read_pair(case)[1].as_tensor() == value
            if truth.any():
                both = 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())
                yield {"way": way, "shots": 1, "draw": draw, "structure": name, "query": case.name, "dice": both}


def answers(segmenter: Segmenter, support: SupportSet, plan: Plan, asked: Iterable[Case], way: str) -> Iterator[Tensor]:
    """Masks of the lone structure in every case, on its own grid."""
    alone = way in ("words", "wrong words")
    if not alone:
        segmenter.fit(support, plan)
    for case in asked:
        image = read_pair(case)[0]
        if alone:
            empty = torch.zeros(0, 1, 1, 1, 1)
            nothing = SupportSet(empty, empty.long(), support.classes, texts=support.texts)
            segmenter.fit(nothing, plan_of_words(image, support.classes, "CT"))
        yield segmenter.predict(image).as_tensor() > 0


def show(rows: list[dict], kind: str, measures: tuple[str, ...]) -> None:
    """Means with 95% intervals over draws."""
    print(f"| {kind} | shots | draws | " + " | ".join(measures) + " |\n|" + "---|" * (3 + len(measures)))
    for name, shots in dict.fromkeys((row[kind], row["shots"]) for row in rows):
        mine = [row for row in rows if (row[kind], row["shots"]) == (name, shots)]
        draws = sorted({row["draw"] for row in mine})
        cells = []
        for measure in measures:
            values = [[row[measure] for row in mine if row["draw"] == draw] for draw in draws]
            cells.append("{:.3f} ± {:.3f}".format(*mean_interval(sum(each) / len(each) for each in values)))
        print(f"| {name} | {shots} | {len(draws)} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Parse, call, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, dest="verb")
    for run in (classify, words, segment):
        verb = verbs.add_parser(run.__name__)
        verb.add_argument("--data", type=Path, default=Path("../shared/data"))
        verb.add_argument("--weights", type=Path)
        verb.add_argument("--draws", type=int, default=4 if run is segment else 20)
        verb.add_argument("--output", type=Path, required=True)
        verb.set_defaults(run=run)
        if run is classify:
            verb.add_argument("--methods", nargs="+", default=list(CLASS_METHODS))
        if run is segment:
            verb.add_argument("--queries", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = arguments.run(arguments)
    (arguments.output / f"{arguments.verb}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
