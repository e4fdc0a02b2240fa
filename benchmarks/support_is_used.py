"""Does the network read its support? Dice with the support's masks moved, and with noise for its images.

python benchmarks/support_is_used.py --data ../shared/data/hippocampus_mr
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.classes import ClassTable
from monai_hyper.data.episodes import draw_episodes
from monai_hyper.data.folder import Case, list_cases, read_pair
from monai_hyper.data.support import SupportSet
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.inference.pipeline import Pair, make_plan, postprocess, preprocess, support_from_pairs
from monai_hyper.methods.hyper import Hyper
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.networks.released import load_model


def binary_pair(case: Case, values: tuple[int, ...]) -> Pair:
    """Image and label map of a case, the values merged to 1."""
    image, label = read_pair(case)
    return image, torch.isin(label, torch.tensor(values)).long().copy_meta_from(label, copy_attr=False)


def moved(support: SupportSet) -> Tensor:
    """Labels shifted by half of each volume's field of view along every axis, around its edges."""
    labels = support.labels.clone()
    for label, (d, h, w) in zip(labels, support.extents.tolist()):
        label[:, :d, :h, :w] = label[:, :d, :h, :w].roll((d // 2, h // 2, w // 2), (1, 2, 3))
    return labels


def support_is_used(data: Path, values: tuple[int, ...]) -> dict[str, float]:
    """Mean Dice with the support as it is, with moved masks, with noise for images, and of the mean mask.

    Args:
        data: folder with a list ``select``; values: of the label maps that make the foreground.
    """
    episode = draw_episodes(list_cases(data, "select"), 4, 40, 1, 0)[0]
    pairs = [binary_pair(case, values) for case in episode.support]
    plan = make_plan(pairs, ClassTable((1,), ("foreground",)))
    support = support_from_pairs(pairs, plan)
    torch.manual_seed(0)
    method = Hyper(load_model())
    networks = {
        "support as it is": method.fit(support),
        "masks moved by half": method.fit(replace(support, labels=moved(support))),
        "noise for images": method.fit(replace(support, images=torch.randn_like(support.images))),
        "mean mask": MeanMask().fit(support),
    }
    scores: dict[str, list[float]] = {name: [] for name in networks}
    for case in episode.query:
        image, label = binary_pair(case, values)
        prepared = preprocess(image, plan).as_tensor()[None]
        for name, network in networks.items():
            with torch.no_grad():
                scores[name] += dice_per_class(postprocess(network(prepared)[0], plan, image), label, (1,))
    return {name: float(np.mean(found)) for name, found in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--values", type=int, nargs="+", default=[1, 2], help="label values that make the foreground")
    arguments = parser.parse_args()
    for name, score in support_is_used(arguments.data, tuple(arguments.values)).items():
        print(f"{name:20} {score:.3f}")


if __name__ == "__main__":
    main()
