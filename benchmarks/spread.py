"""How much the weights that are generated differ between tasks, and how far they are from the body's own.

python benchmarks/spread.py --pack train.pack
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.networks.batched import read_tasks
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.released import load_classifier, load_model
from monai_hyper.synthesis.class_tasks import ClassTaskEngine, ClassTaskSettings
from monai_hyper.synthesis.pack import training_data
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.types import Weights

SEED = 9
"""Of tasks that nothing was trained on."""


def of_segmentation(model: HyperModel, sources: Sources, tasks: int) -> list[Weights]:
    """Weights of the body in so many tasks."""
    engine, found = TaskEngine(sources, TaskSettings((12_000, 20_000), 50_000), SEED), []
    plain = torch.autocast("cpu", enabled=False)
    for number in range(tasks):
        batch = engine.batch(number)
        masks = torch.stack([(batch.labels[:, : batch.shots, 0] == c + 1).float() for c in range(batch.classes)], 2)
        context, _ = read_tasks(model, batch, masks, plain)
        found.append(model.hypernetwork(context[0], dict(model.body.named_parameters())))
    return found


def of_classification(model: HyperClassifier, sources: Sources, tasks: int) -> list[Weights]:
    """The same of classifiers, without descriptions."""
    engine, found = ClassTaskEngine(sources, ClassTaskSettings(tasks=1), SEED), []
    for number in range(tasks):
        support = engine.batch(number).support(0)
        shown = F.one_hot(support.labels, len(support.classes)).float()[None]
        context = model.read(support.images[None], shown, torch.zeros_like(support.texts)[None])
        found.append(model.hypernetwork(context[0], dict(model.body.named_parameters())))
    return found


def spread(weights: list[Tensor], own: Tensor) -> tuple[float, float]:
    """Distance of the mean over tasks from the body's own weights, and of the tasks from their mean, both relative."""
    stacked = torch.stack(weights)
    mean = stacked.mean(0)
    return (
        float((mean - own).norm() / own.norm()),
        float((stacked - mean).flatten(1).norm(dim=1).mean() / mean.norm()),
    )


@torch.no_grad()
def show(name: str, model: HyperModel | HyperClassifier, found: list[Weights]) -> None:
    """Medians and extremes over the convolutions, as Markdown."""
    own = dict(model.body.named_parameters())
    rows = [spread([weights[n] for weights in found], own[n]) for n in model.hypernetwork.convolutions]
    cells = []
    for values in torch.tensor(rows).T:
        low, middle, high = values.quantile(torch.tensor([0.0, 0.5, 1.0])).tolist()
        cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Parse, call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True, help="training data, see 'monai-hyper pack'")
    parser.add_argument("--model", type=Path, help="weights of a model that segments; default: the released ones")
    parser.add_argument("--classifier", type=Path, help="weights of one that classifies; default: the released ones")
    parser.add_argument("--tasks", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = training_data(arguments.pack)
    print("| weights | mean over tasks, from the body's own | tasks, from their mean |\n|---|---|---|")
    with torch.no_grad():
        model, classifier = load_model(arguments.model), load_classifier(arguments.classifier)
        show("segmentation", model, of_segmentation(model, sources, arguments.tasks))
        show("classification", classifier, of_classification(classifier, sources, arguments.tasks))


if __name__ == "__main__":
    main()
