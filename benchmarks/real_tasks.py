"""Zero-step Dice on real held-out tasks, beside the mean support mask on the same draws.

    python benchmarks/real_tasks.py --data ../shared/data/hippocampus_mr --task whole=1+2 anterior=1 posterior=2

Binary tasks; labels are merged before conditioning. With --perturb every volume is cropped or padded by 0 to 35% a
side at random, the same for all methods.
"""

from __future__ import annotations

import argparse
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from monai_hyper.data.episodes import draw_episodes
from monai_hyper.data.folder import ClassTable, list_cases, read_description, read_pair
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.inference.pipeline import make_plan, modality_of_text, postprocess, preprocess, support_from_pairs
from monai_hyper.methods.hyper import Hyper
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.networks.released import load_model
from monai_hyper.transforms.augment import RandFieldOfViewd


@lru_cache(maxsize=300)
def pair_of(case, values: tuple[int, ...], perturb: bool):
    """Image and binary label of a case, its field of view perturbed or not."""
    image, label = read_pair(case)
    label = (torch.isin(label, torch.tensor(values))).long().copy_meta_from(label, copy_attr=False)
    if perturb:
        change = RandFieldOfViewd(["image", "label"], mode=["image", "label"])
        changed = change.set_random_state(seed=zlib.crc32(case.name.encode()))({"image": image, "label": label})
        return changed["image"], changed["label"]
    return image, label


def scores_of(episode, values, methods: dict, perturb: bool, modality: str | None) -> dict[str, list[float]]:
    """Dice of every method on every query of an episode, on the query's own grid."""
    pairs = [pair_of(case, values, perturb) for case in episode.support]
    plan = make_plan(pairs, ClassTable((1,), ("foreground",)), modality)
    support = support_from_pairs(pairs, plan)
    networks = {name: method.fit(support) for name, method in methods.items()}
    found: dict[str, list[float]] = {name: [] for name in methods}
    for case in episode.query:
        image, label = pair_of(case, values, perturb)
        prepared = preprocess(image, plan).as_tensor()[None]
        for name, network in networks.items():
            with torch.no_grad():
                predicted = postprocess(network(prepared)[0], plan, image)
            found[name] += dice_per_class(predicted, label, (1,))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="select")
    parser.add_argument("--task", nargs="+", required=True, help="NAME=VALUE+VALUE")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--perturb", action="store_true")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    methods = {"hyper": Hyper(load_model(arguments.weights)), "mean-mask": MeanMask()}
    cases = list_cases(arguments.data, arguments.split)
    modality = modality_of_text(read_description(arguments.data).get("modality"))
    print(f"{'task':12} {'K':>2} {'queries':>7}  " + "  ".join(f"{name:>16}" for name in methods))
    for task in arguments.task:
        name, _, text = task.partition("=")
        values = tuple(int(value) for value in text.split("+"))
        usable = {case.name for case in cases if pair_of(case, values, False)[1].any()}
        for shots in arguments.shots:
            queries = min(arguments.queries, len(usable) - max(arguments.shots))
            episodes = draw_episodes(cases, shots, queries, arguments.draws, arguments.seed, usable)
            scores = [scores_of(episode, values, methods, arguments.perturb, modality) for episode in episodes]
            means = {m: np.array([np.mean(s[m]) for s in scores]) for m in methods}
            row = "  ".join(f"{v.mean():7.3f} ± {v.std():6.3f}" for v in means.values())
            print(f"{name:12} {shots:2d} {queries:7d}  {row}", flush=True)


if __name__ == "__main__":
    main()
