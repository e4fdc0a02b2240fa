"""Few-shot classification on the sets of the literature: meta-train there, and compare on the same episodes.

python benchmarks/classification.py train --method hyper-classifier --minutes 20 --output runs/omniglot/hyper
python benchmarks/classification.py episodes --runs runs/omniglot --episodes 600
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.image_sets import ImageSet, medmnist, omniglot
from monai_hyper.data.support import SupportSet
from monai_hyper.data.tensors import load_parameters, load_tensors
from monai_hyper.evaluation.classification import (
    auc,
    expected_calibration_error,
    mean_interval,
    risk_coverage,
    run_episodes,
)
from monai_hyper.inference.few_shot_classifier import RELIABLE
from monai_hyper.methods.classify.gradient import LinearProbe
from monai_hyper.methods.classify.registry import CLASS_METHODS, ClassMethod, HyperClassification, make_class_methods
from monai_hyper.networks.classification import ConditionedClassifier, HyperClassifier
from monai_hyper.networks.doubt import fit_temperature, fit_threshold, judged
from monai_hyper.synthesis.class_images import ImageTasks, ImageTaskSettings
from monai_hyper.training.loop import CLASSIFIERS, MetaTraining, TrainConfig, make_model
from monai_hyper.transforms.intensity import harmonise_picture
from monai_hyper.workers import joined

HELD_OUT = ("Korean", "Sanskrit")
CHOSEN_BY = ("Tagalog",)
"""Alphabets that nothing is trained on; the first are looked at in the end only."""

SIDE = 64

COVERAGES = tuple(round(0.05 * i, 2) for i in range(2, 21))
"""Shares of the images that are answered, the most confident ones first, at which the share of errors is kept."""


def alphabets(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Drawings ``(n, 1, SIDE, SIDE, 1)`` and their characters, of the alphabets of a part."""
    found = omniglot(sorted(data.glob("omniglot_images_background_small*.zip")))
    parts = ["test" if g in HELD_OUT else "dev" if g in CHOSEN_BY else "train" for g in found.groups]
    chosen = [i for i, label in enumerate(found.labels.tolist()) if parts[label] == part]
    images = torch.cat([F.adaptive_avg_pool3d(found.images[i][None], (SIDE, SIDE, 1)) for i in chosen])
    return harmonise_picture(images), found.labels[chosen]


def train(arguments: argparse.Namespace) -> None:
    """Meta-train a method on the training alphabets, turned drawings as characters of their own."""
    settings = ImageTaskSettings((5, 8), (1, 5), 3, arguments.tasks, turned=True, augment=True)
    learner = {} if arguments.body is None else {"body": arguments.body}
    config = TrainConfig(
        arguments.output, arguments.method, learner, steps=100_000, minutes=arguments.minutes,
        decay=arguments.decay, warm_up=50, every=50, body_rate=1e-3, generator_rate=arguments.rate, average=0.98,
        tasks=arguments.tasks,
    )  # fmt: skip
    with joined("cpu") as worker:
        training = MetaTraining(
            config, make_model(config), ImageTasks(*alphabets(arguments.data, "train"), settings), worker
        )
        for batch in training:
            training.learn(batch)
        training.close()


def trained(folder: Path) -> nn.Module:
    """What a run has left."""
    tensors, facts = load_tensors(folder / "weights.safetensors")
    model = CLASSIFIERS[facts["method"]](**facts["learner"])
    load_parameters(model, {name: tensor.float() for name, tensor in tensors.items()}, folder)
    return model.eval().requires_grad_(False)


def episodes(arguments: argparse.Namespace) -> None:
    """Accuracy and milliseconds of all runs on the same episodes, as Markdown and JSON."""
    models = {folder.name: trained(folder) for folder in sorted(arguments.runs.iterdir()) if folder.is_dir()}
    methods = {name: HyperClassification(m) if isinstance(m, HyperClassifier) else m for name, m in models.items()}
    methods |= {f"{n}, linear probe": LinearProbe(m) for n, m in models.items() if isinstance(m, HyperClassifier)}
    images = alphabets(arguments.data, arguments.part)
    results = {}
    for shots in (1, 5):
        tasks = ImageTasks(*images, ImageTaskSettings((5, 5), (shots, shots), 5), seed=1)
        for name, score in run_episodes(methods, tasks.batch, arguments.episodes).items():
            mean, half = mean_interval(score.accuracies)
            milliseconds = float(torch.tensor(score.milliseconds).median())
            results[f"{name} {shots}"] = {**vars(score), "mean": mean, "half": half, "ms": milliseconds}
            print(f"| {name} | {shots} | {100 * mean:.2f} ± {100 * half:.2f} | {milliseconds:.1f} |", flush=True)
    (arguments.runs / f"{arguments.part}.json").write_text(json.dumps(results))


def draws(arguments: argparse.Namespace) -> None:
    """AUC, accuracy and calibration of methods on a file of MedMNIST: examples from its training split, all of its test
    split asked; rows are appended, and a run that was cut off goes on."""
    known, asked = (medmnist(arguments.file, split) for split in ("train", "test"))
    queries = harmonise_picture(torch.stack([asked.images[i] for i in range(len(asked.labels))]))
    methods = make_class_methods(arguments.methods, arguments.weights)
    path = arguments.output / f"{arguments.file.stem}.jsonl"
    arguments.output.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["method"], row["shots"], row["draw"]) for row in done}
    for shots in arguments.shots:
        for draw in range(arguments.draws):
            support = drawn(known, shots, draw)
            for name, method in methods.items():
                if (name, shots, draw) not in done:
                    row = {"method": name, "shots": shots, "draw": draw} | scored(
                        method, support, queries, asked.labels
                    )
                    with path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    show_draws(rows)
    if arguments.picture:
        draw_risk(rows, arguments.picture)


def drawn(known: ImageSet, shots: int, draw: int) -> SupportSet:
    """So many images of every class, another choice for every draw."""
    generator = torch.Generator().manual_seed(1000 * shots + draw)
    chosen = []
    for value in range(len(known.classes)):
        members = torch.nonzero(known.labels == value)[:, 0]
        chosen += members[torch.randperm(len(members), generator=generator)[:shots]].tolist()
    images = harmonise_picture(torch.stack([known.images[i] for i in chosen]))
    return SupportSet(images, known.labels[chosen], known.classes)


def scored(method: ClassMethod, support: SupportSet, queries: Tensor, labels: Tensor) -> dict:
    """What a method reaches from one support set."""
    begun = time.perf_counter()
    network = method.fit(support)
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        logits = torch.cat([network(part) for part in queries.split(32)])
    raw = logits.softmax(1)
    row = {
        "auc": auc(raw, labels),
        "accuracy": float((raw.argmax(1) == labels).float().mean()),
        "ece": expected_calibration_error(raw, labels),
        "risk_at": risk_at(raw, labels),
        "fit_seconds": seconds,
    }
    if isinstance(network, ConditionedClassifier):
        row |= doubts(network, support, logits, labels)
    return row


def risk_at(probabilities: Tensor, labels: Tensor) -> list[float]:
    """Share of errors at every coverage of ``COVERAGES``."""
    _, risk = risk_coverage(probabilities, labels)
    return [float(risk[max(1, round(share * len(risk))) - 1]) for share in COVERAGES]


def doubts(network: ConditionedClassifier, support: SupportSet, logits: Tensor, labels: Tensor) -> dict:
    """Calibration by the examples, and what abstaining buys."""
    known = judged(support.labels, len(support.classes))
    own, shown = network.own[known], support.labels[known]
    temperature = fit_temperature(own, shown)
    calibrated = (logits / temperature).softmax(1)
    threshold = fit_threshold(own / temperature, shown, RELIABLE)
    answered = calibrated.max(1).values >= threshold
    right = calibrated.argmax(1) == labels
    return {
        "ece_calibrated": expected_calibration_error(calibrated, labels),
        "temperature": temperature,
        "threshold": threshold,
        "answered": float(answered.float().mean()),
        "accuracy_answered": float(right[answered].float().mean()) if answered.any() else None,
        "expected_accuracy": float((own.argmax(1) == shown).float().mean()) if len(own) else None,
    }


def show_draws(rows: list[dict]) -> None:
    """The table."""
    measures = ("auc", "accuracy", "ece", "ece_calibrated", "answered", "accuracy_answered", "fit_seconds")
    print("| method | shots | draws | " + " | ".join(measures) + " |\n|" + "---|" * (3 + len(measures)))
    for name, shots in dict.fromkeys((row["method"], row["shots"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["shots"]) == (name, shots)]
        cells = []
        for measure in measures:
            values = [row[measure] for row in mine if row.get(measure) is not None]
            mean, half = mean_interval(values) if values else (float("nan"), 0.0)
            cells.append(f"{mean:.3f} ± {half:.3f}" if values else "")
        print(f"| {name} | {shots} | {len(mine)} | " + " | ".join(cells) + " |", flush=True)


def draw_risk(rows: list[dict], path: Path) -> None:
    """Risk against coverage of every method, a panel for every number of examples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shots = sorted({row["shots"] for row in rows})
    figure, panels = pyplot.subplots(1, len(shots), figsize=(4.2 * len(shots), 3.4), sharey=True, squeeze=False)
    for panel, number in zip(panels[0], shots):
        for name in dict.fromkeys(row["method"] for row in rows):
            mine = [row["risk_at"] for row in rows if (row["method"], row["shots"]) == (name, number)]
            if mine:
                width = 2.5 if name == "hyper" else 1
                panel.plot(COVERAGES, torch.tensor(mine).mean(0), label=name, linewidth=width)
        panel.set(title=f"{number} examples a class", xlabel="share answered", xlim=(0, 1), ylim=(0, None))
    panels[0][0].set_ylabel("share of errors among them")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse, call."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("train")
    one.add_argument("--method", choices=list(CLASSIFIERS), required=True)
    one.add_argument("--body", choices=["resnet", "conv4"])
    one.add_argument("--minutes", type=float, default=20)
    one.add_argument("--tasks", type=int, default=1)
    one.add_argument("--decay", type=int, default=300)
    one.add_argument("--rate", type=float, default=2e-4)
    one.add_argument("--output", type=Path, required=True)
    one.set_defaults(run=train)
    two = verbs.add_parser("episodes")
    two.add_argument("--runs", type=Path, required=True)
    two.add_argument("--part", choices=["dev", "test"], default="test")
    two.add_argument("--episodes", type=int, default=600)
    two.set_defaults(run=episodes)
    three = verbs.add_parser("draws")
    three.add_argument("--file", type=Path, required=True)
    three.add_argument("--weights", type=Path)
    three.add_argument("--methods", nargs="+", default=list(CLASS_METHODS))
    three.add_argument("--shots", type=int, nargs="+", default=[5, 20])
    three.add_argument("--draws", type=int, default=20)
    three.add_argument("--output", type=Path, required=True)
    three.add_argument("--picture", type=Path, help="of risk against coverage")
    three.set_defaults(run=draws)
    for verb in (one, two):
        verb.add_argument("--data", type=Path, default=Path("../shared/data/benchmarks"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
