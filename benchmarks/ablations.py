"""What each part of the model is worth, on real held-out data; writes a fragment of a page.

    python benchmarks/ablations.py --data ../shared/data --pack train.pack --minutes 4 --output runs/ablations
    python benchmarks/ablations.py --output runs/ablations --only    # only write the page from the rows there are

Two kinds of variants: the released weights with a part changed, and small models that are trained from random weights
for the same processor time of one thread. What a run that was cut off has finished is not done again, nor what was
prepared and aligned for it: after a change of the package choose another folder. Only the lists ``select`` are used,
never ``report``.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from ablation_page import write_page
from ablation_variants import RELEASED, TRAINED, Held, Variant
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_hyper.data.coarse import reduce
from monai_hyper.data.folder import read_description
from monai_hyper.data.support import SupportSet
from monai_hyper.data.tensors import load_tensors, save_tensors
from monai_hyper.evaluation.tasks import Reader, binary_tasks, catalogue, draws_of
from monai_hyper.inference.pipeline import make_plan, modality_of_text, preprocess_pair, support_from_pairs
from monai_hyper.networks.alignment import align
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel, working_factor
from monai_hyper.networks.released import load_model
from monai_hyper.networks.template import Template, frame_of, make_template
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.pack import training_data
from monai_hyper.synthesis.plans import FAMILIES
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.training.loop import TrainConfig, parameter_groups
from monai_hyper.training.loss import episode_loss, task_dice
from monai_hyper.transforms.decision import best_threshold

TASKS = {
    "hippocampus": ("hippocampus_mr", "whole=1+2"),
    "anterior": ("hippocampus_mr", "1"),
    "posterior": ("hippocampus_mr", "2"),
    "left ventricle": ("cardiac_cine_mr", "1"),
    "larynx": ("headneck_ct", "larynx"),
    "mandible": ("headneck_ct", "mandible"),
}
"""Folder and classes of every task."""

SHOTS, DRAWS, QUERIES = (1, 4), 2, 5
COLUMNS = ("variant", "task", "shots", "draw", "query", "dice")

CHANNELS, EMBEDDING = (16, 32, 64, 96), 96
"""Widths of the body and length of a token where models are trained: about a quarter of the released model."""

VOXELS, BUDGET = (6_000, 16_000), 30_000
"""Of training volumes and episodes, see :class:`TaskSettings`. Volumes are padded to 32 voxels a side in any case."""

AVERAGE, WARM_UP, DECAY = 0.98, 30, 0.25
"""Decay of the averaged weights a step, steps of rising rate, share of the time in which the rate falls to zero."""


def held_sets(task: str, data: Path | None, folder: Path) -> Iterator[Held]:
    """Support sets and queries of a task, prepared once and kept in ``folder``."""
    paths = [folder / f"{task} {shots} {draw}.safetensors" for shots in SHOTS for draw in range(1, DRAWS + 1)]
    if not all(path.exists() for path in paths):
        hold(task, data, folder)
    return (load_held(path) for path in paths)


def hold(task: str, data: Path, folder: Path) -> None:
    """Draw, prepare and align what a task is evaluated on."""
    place, term = TASKS[task]
    found = catalogue(data / place, "select")
    wanted = binary_tasks(found.table, [term])[0]
    modality = modality_of_text(read_description(data / place).get("modality"))
    reader = Reader()
    for shots, drawn in draws_of(found, wanted, SHOTS, QUERIES, DRAWS, 0)[0].items():
        for draw, episode in enumerate(drawn, 1):
            pairs = [reader(case, wanted) for case in episode.support]
            plan = make_plan(pairs, wanted.table, modality)
            asked = [preprocess_pair(*reader(case, wanted), plan) for case in episode.query]
            facts = {"task": task, "shots": shots, "draw": draw, "names": [case.name for case in episode.query]}
            tensors = aligned(support_from_pairs(pairs, plan), asked)
            save_tensors(tensors, folder / f"{task} {shots} {draw}.safetensors", facts)


def aligned(support: SupportSet, asked: list) -> dict[str, Tensor]:
    """All tensors of a :class:`Held`: images in half precision, which the template is made of, too."""
    images, factor = support.images.half(), working_factor(support)
    support = SupportSet(images.float(), support.labels, support.classes, extents=support.extents)
    template = make_template(support.coarser(factor))
    found = {"images": images, "labels": support.labels.to(torch.uint8), "extents": support.extents}
    found |= {"template": template.image, "sizes": torch.tensor(template.sizes)}
    for k in range(support.shots):
        found |= {f"theirs.{k}": template.theirs[k], f"own.{k}": template.own[k].clone()}
    for i, (image, label) in enumerate(asked):
        image = image.as_tensor()[None].half()
        places = align(reduce(image.float(), factor), template.image)
        found |= {f"image.{i}": image, f"label.{i}": label.as_tensor()[None].to(torch.uint8), f"places.{i}": places}
    return found


def load_held(path: Path) -> Held:
    tensors, facts = load_tensors(path)
    support = SupportSet(tensors["images"].float(), tensors["labels"].long(), extents=tensors["extents"])
    theirs, own = ([tensors[f"{side}.{k}"] for k in range(support.shots)] for side in ("theirs", "own"))
    template = Template(tensors["template"], theirs, own, tensors["sizes"].tolist())
    asked = range(len(facts["names"]))
    return Held(
        facts["task"], facts["shots"], facts["draw"], tuple(facts["names"]), support, template,
        [tensors[f"image.{i}"].float() for i in asked], [tensors[f"label.{i}"].long() for i in asked],
        [tensors[f"places.{i}"] for i in asked],
    )  # fmt: skip


def dice(logits: Tensor, truth: Tensor) -> float:
    """Of one class, cut as users see it: where the highest Dice is to be expected.

    Args:
        logits: ``(1, 2, D, H, W)``; truth: ``(1, 1, D, H, W)``.
    """
    probability = logits.softmax(1)[:, 1:]
    predicted, truth = probability > best_threshold(probability), truth > 0
    return 2 * float((predicted & truth).sum()) / max(1, int(predicted.sum() + truth.sum()))


@torch.no_grad()
def rows_of(name: str, variant: Variant, model: HyperModel, held: Held) -> Iterator[dict]:
    """Dice of every query of a support set, for every result of a variant."""
    torch.manual_seed(variant.seed)
    for result, apply in zip(variant.results, variant.fit(model, held)):
        for i, query in enumerate(held.names):
            facts = {"variant": name + result, "task": held.task, "shots": held.shots, "draw": held.draw}
            yield facts | {"query": query, "dice": round(dice(apply(i), held.labels[i]), 6)}


def small_model(variant: Variant) -> HyperModel:
    """What is trained, with random weights that are the same for all variants where they have them."""
    torch.manual_seed(variant.seed)
    return variant.change(HyperModel(UNetBody(1 + PRIOR_CHANNELS + 1, CHANNELS), EMBEDDING))


def task_loss(model: HyperModel, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """What the package's batched loss is for a batch of one task, but by way of ``generate``, whose parts the variants
    replace; returns the loss and the Dice of the queries."""
    episode = batch.episode(0)
    loss, logits = episode_loss(model, episode, frame_of(batch), batch.local)
    return loss, task_dice(logits[None], episode.labels[None])


def learn(model: HyperModel, optimiser: torch.optim.Optimizer, batch: TaskBatch, clip: float) -> tuple[float, float]:
    """One update; returns loss and Dice."""
    optimiser.zero_grad(set_to_none=True)
    loss, score = task_loss(model, batch)
    loss.backward()
    if torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), clip)):
        optimiser.step()
    return float(loss.detach()), float(score)


def train(variant: Variant, sources: Sources, minutes: float, path: Path) -> None:
    """Train for so many minutes of this process's time, and write last and averaged weights."""
    model, config = small_model(variant).train(), TrainConfig(path.parent, seed=variant.seed)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    optimiser = torch.optim.AdamW(parameter_groups(model, config), lr=config.generator_rate)
    families = {family: odds for family, odds in FAMILIES.items() if family != variant.without}
    engine = TaskEngine(variant.sources(sources), TaskSettings(VOXELS, BUDGET, families), variant.seed)
    begun, step, found = time.process_time(), 0, []
    while (spent := (time.process_time() - begun) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * min(1.0, (step + 1) / WARM_UP, (1 - spent) / DECAY)
        torch.manual_seed(config.seed * 1_000_003 + step)
        found.append(learn(model, optimiser, engine.batch(step), config.clip))
        average.update_parameters(model)
        step += 1
    loss, score = torch.tensor(found[-100:]).mean(0).tolist()
    tensors = {f"last.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"average.{name}": t for name, t in average.module.state_dict().items()}
    size = sum(parameter.numel() for parameter in model.parameters())
    save_tensors(tensors, path, {"steps": step, "loss": loss, "dice": score, "parameters": size, "minutes": minutes})


def trained_model(name: str, variant: Variant, folder: Path, pack: Path, minutes: float) -> HyperModel:
    """The model of a variant, trained first if it is not there."""
    of = variant.average or name
    path = folder / f"{of}.safetensors"
    if not path.exists():
        train(TRAINED[of], training_data(pack), minutes, path)
    tensors, facts = load_tensors(path)
    print(name, json.dumps(facts), flush=True)
    prefix, model = "average." if variant.average else "last.", small_model(variant)
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    return model.eval()


def run(name: str, arguments: argparse.Namespace) -> None:
    """Evaluate one variant on all tasks that it has not been evaluated on."""
    variant, output = (RELEASED | TRAINED)[name], arguments.output
    done = {(row["variant"], row["task"]) for row in read_rows(output)}
    waiting = [task for task in TASKS if (name + variant.results[-1], task) not in done]
    if not waiting:
        return
    if name in TRAINED:
        model = trained_model(name, variant, output / "weights", arguments.pack, arguments.minutes)
    else:
        model = variant.change(load_model()).eval()
    for task in waiting:
        begun = time.perf_counter()
        held = held_sets(task, arguments.data, output / "held")
        rows = [row for one in held for row in rows_of(name, variant, model, one)]
        add_rows(output, rows)
        mean = sum(row["dice"] for row in rows) / len(rows)
        print(f"{name}, {task}: {mean:.3f} in {time.perf_counter() - begun:.0f} s", flush=True)


def read_rows(output: Path) -> list[dict[str, str]]:
    path = output / "rows.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_rows(output: Path, rows: list[dict]) -> None:
    """Append the rows of one variant and task."""
    path = output / "rows.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--pack", type=Path, help="training data, see 'monai-hyper pack'")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, processor time of one thread")
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="*", choices=[*RELEASED, *TRAINED], metavar="NAME",
                        help="these variants; without a name none, the page is written only. Known: "
                        + ", ".join([*RELEASED, *TRAINED]))  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [*RELEASED, *TRAINED] if arguments.only is None else arguments.only:
        run(name, arguments)
        write_page(read_rows(arguments.output), arguments.output)
    write_page(read_rows(arguments.output), arguments.output)


if __name__ == "__main__":
    main()
