"""Implicit against explicit gradients: MAML and iMAML for segmentation, meta-trained on one family of tasks and on all.

python benchmarks/implicit_gradients.py train --method imaml --families lesions --pack train.pack --minutes 25 \
    --output runs/implicit/imaml-lesions
python benchmarks/implicit_gradients.py compare --runs runs/implicit --pack train.pack --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monai_hyper.data.folder import list_cases
from monai_hyper.data.image_sets import wbc
from monai_hyper.data.support import SupportSet
from monai_hyper.evaluation.classification import mean_interval
from monai_hyper.inference.pipeline import read_support
from monai_hyper.methods.imaml import IMamlLearner
from monai_hyper.methods.maml import MamlLearner
from monai_hyper.methods.meta import MetaTrained
from monai_hyper.methods.registry import Method, make_methods
from monai_hyper.synthesis.pack import training_data
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.training.loop import MetaTraining, TrainConfig, engine_of, make_model
from monai_hyper.transforms.intensity import harmonise_picture
from monai_hyper.workers import joined

LEARNERS = {"maml": MamlLearner, "imaml": IMamlLearner}

LEARNER = {"channels": [12, 24, 48, 96], "thin": 4}

FAMILIES = {"lesions": {"lesions": 1.0}, "mixed": None}
"""What is meta-trained on; None: all families as the model has them."""

VOXELS, BUDGET = (8_000, 20_000), 60_000

HELD_OUT = 5
"""One of so many lesion masks is not trained on."""

SHOTS = (1, 5)

DRAWS, QUERIES = 20, 10


class Task(NamedTuple):
    """What is shown and asked: of the data set ``name``, draw number ``draw``; images and labels of the queries."""

    name: str
    draw: int
    support: SupportSet
    images: Tensor
    labels: Tensor


def lesions_of(sources: Sources, held_out: bool) -> Sources:
    """The sources with the lesion masks that are held out, or with the others."""
    chosen = [mask for i, mask in enumerate(sources.lesions) if (i % HELD_OUT == 0) == held_out]
    return replace(sources, lesions=chosen)


def train(arguments: argparse.Namespace) -> None:
    """Meta-train one method on one choice of families."""
    rate = 1e-2 if arguments.method == "maml" else 3e-4
    config = TrainConfig(
        arguments.output, arguments.method, LEARNER, steps=100_000, minutes=arguments.minutes, decay=40, warm_up=20,
        every=20, body_rate=1e-3, generator_rate=rate, average=0.98, voxels=VOXELS, budget=BUDGET,
        families=FAMILIES[arguments.families],
    )  # fmt: skip
    with joined("cpu") as worker:
        engine = engine_of(config, lesions_of(training_data(arguments.pack), False), worker.device)
        training = MetaTraining(config, make_model(config), engine, worker)
        for batch in training:
            training.learn(batch)
        training.close()


def blood_cells(data: Path, shots: int) -> Iterator[Task]:
    """White blood cells, other images for every draw."""
    images, labels = wbc(data / "benchmarks" / "wbc_dataset1.npz")
    images = harmonise_picture(images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for draw, mine in enumerate(order.split(max(SHOTS) + QUERIES)[:DRAWS]):
        shown, asked = mine[:shots], mine[max(SHOTS) :]
        for value, name in enumerate(("cytoplasm", "nucleus"), start=1):
            support = SupportSet(images[shown], (labels[shown] == value).long(), (name,))
            yield Task(f"WBC, {name}", draw, support, images[asked], (labels[asked] == value).long())


def made_lesions(pack: Path, shots: int) -> Iterator[Task]:
    """Rendered bodies with lesions whose masks are not trained on."""
    engine = TaskEngine(lesions_of(training_data(pack), True), TaskSettings(VOXELS, BUDGET, FAMILIES["lesions"]), 1)
    draw, number = 0, 0
    while draw < DRAWS:
        episode = engine.batch(number).episode(0)
        number += 1
        if episode.support.shots >= shots:
            yield Task(
                "3D lesions, rendered", draw, episode.support.subset(range(shots)), episode.images, episode.labels
            )
            draw += 1


def sclerosis(data: Path, shots: int) -> Iterator[Task]:
    """FLAIR images of multiple sclerosis, each in turn after one of the others, or after both."""
    folder = data / "ms_lesion_mr"
    cases = list_cases(folder)
    for asked in range(len(cases)):
        others = [case for i, case in enumerate(cases) if i != asked]
        for draw, shown in enumerate([[case] for case in others] if shots == 1 else [others]):
            support, plan = read_support(folder, cases=shown)
            query, _ = read_support(folder, plan, cases=[cases[asked]])
            yield Task("multiple sclerosis", 2 * asked + draw, support, query.images, query.labels)


def dice(network, task: Task) -> list[float]:
    """Of the lone class, of every query that shows it."""
    found = []
    with torch.no_grad():
        for image, label in zip(task.images, task.labels):
            if label.any():
                answer, truth = network(image[None]).argmax(1) == 1, label == 1
                found.append(2 * float((answer & truth).sum()) / float(answer.sum() + truth.sum()))
    return found


def rows_of(methods: Mapping[str, Method], tasks: Iterator[Task], shots: int) -> Iterator[dict]:
    """Mean Dice of every method in every task."""
    for task in tasks:
        for name, method in methods.items():
            scores = dice(method.fit(task.support), task)
            if scores:
                yield {
                    "method": name, "set": task.name, "shots": shots, "draw": task.draw,
                    "dice": sum(scores) / len(scores),
                }  # fmt: skip


def compare(arguments: argparse.Namespace) -> None:
    """Run all that was trained, and the model, on the same tasks; rows are appended, and show the table."""
    runs = [folder for folder in sorted(arguments.runs.iterdir()) if (folder / "weights.safetensors").exists()]
    methods = {
        f.name: MetaTrained(LEARNERS[f.name.partition("-")[0]], f / "weights.safetensors") for f in runs
    } | make_methods(["hyper"])
    rows = []
    for shots in SHOTS:
        for tasks in (
            blood_cells(arguments.data, shots),
            made_lesions(arguments.pack, min(shots, 3)),
            sclerosis(arguments.data, shots),
        ):
            rows += rows_of(methods, tasks, shots)
    (arguments.runs / "rows.json").write_text(json.dumps(rows))
    show(rows)


def show(rows: list[dict]) -> None:
    """Dice of every method, and what implicit gradients gain over explicit ones, with 95% intervals over draws."""
    kinds = dict.fromkeys((row["set"], row["shots"]) for row in rows)
    names = dict.fromkeys(row["method"] for row in rows)
    print("| set | shots | draws | " + " | ".join([*names, *(f"imaml - maml, {kind}" for kind in FAMILIES)]) + " |")
    print("|" + "---|" * (3 + len(names) + len(FAMILIES)))
    for kind in kinds:
        found = {
            n: {r["draw"]: r["dice"] for r in rows if (r["set"], r["shots"], r["method"]) == (*kind, n)} for n in names
        }
        cells = ["{:.3f} ± {:.3f}".format(*mean_interval(scores.values())) for scores in found.values()]
        for families in FAMILIES:
            one, other = (found.get(f"{method}-{families}", {}) for method in ("imaml", "maml"))
            differences = [one[draw] - other[draw] for draw in one if draw in other]
            cells.append("{:+.3f} ± {:.3f}".format(*mean_interval(differences)) if differences else "")
        print(f"| {kind[0]} | {kind[1]} | {len(next(iter(found.values())))} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Parse, call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("train")
    one.add_argument("--method", choices=list(LEARNERS), required=True)
    one.add_argument("--families", choices=list(FAMILIES), required=True)
    one.add_argument("--minutes", type=float, default=25)
    one.add_argument("--output", type=Path, required=True)
    one.set_defaults(run=train)
    two = verbs.add_parser("compare")
    two.add_argument("--runs", type=Path, required=True)
    two.add_argument("--data", type=Path, default=Path("../shared/data"))
    two.set_defaults(run=compare)
    for verb in (one, two):
        verb.add_argument("--pack", type=Path, required=True, help="training data, see 'monai-hyper pack'")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
