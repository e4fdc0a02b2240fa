"""Two hospitals, four local cases each: what the network of one is worth at the other.

    python benchmarks/two_sites.py --data ../shared/data/hippocampus_mr --shift kspace-8x
    python benchmarks/two_sites.py --data ../shared/data/sarcoma/CT --other ../shared/data/sarcoma/MR_T1 --values 1

One site has the scans as they are, the other as another scanner would show them, see
``monai_hyper/evaluation/shifts.py``, or as another folder does. Each adapts to four of its own cases; both networks,
and one of two cases of either site, segment the same patients at both sites.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from support_is_used import binary_pair

from monai_hyper.data.classes import ClassTable
from monai_hyper.data.episodes import Episode, draw_episodes
from monai_hyper.data.folder import Case, list_cases, read_description
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.evaluation.protocol import shifted
from monai_hyper.evaluation.shifts import SHIFTS
from monai_hyper.evaluation.statistics import two_level_bootstrap
from monai_hyper.inference.pipeline import Pair, make_plan, postprocess, preprocess, support_from_pairs
from monai_hyper.methods.hyper import Hyper
from monai_hyper.networks.released import load_model

HERE = "as they are"

LOCAL = 4
"""Annotated cases of a site."""


Site = Callable[[Case], Pair]
"""A case as the scanner of a site shows it."""


def sites_of(shift: str | None, other: Path | None, values: tuple[int, ...]) -> dict[str, Site]:
    """The site of the scans as they are, and another one: a simulated scanner, or a folder of the same cases."""
    sites = {HERE: lambda case: binary_pair(case, values)}
    if shift:
        return sites | {shift: lambda case: shifted(binary_pair(case, values), shift, case)}
    there = {case.name: case for case in list_cases(other)}
    return sites | {other.name: lambda case: binary_pair(there[case.name], values)}


def episodes_of(cases: list[Case], queries: int, draws: int) -> list[Episode]:
    """Every draw takes other patients; where one is left beside the local cases, each is asked for once."""
    if len(cases) > LOCAL + 1:
        return [draw_episodes(cases, LOCAL, queries, 1, draw)[0] for draw in range(draws)]
    return [Episode(tuple(c for c in cases if c is not case), (case,)) for case in cases]


def two_sites(cases: list[Case], sites: dict[str, Site], episodes: list[Episode]) -> dict[tuple[str, str], np.ndarray]:
    """Dice by where the network comes from and where the scan does, ``(draws, patients)``; not a number for patients
    that were not drawn."""
    method, places = Hyper(load_model()), {case.name: i for i, case in enumerate(cases)}
    _, there = sites
    found = {key: np.full((len(episodes), len(cases)), np.nan) for key in product((*sites, "both"), sites)}
    for draw, episode in enumerate(episodes):
        local = {site: [show(case) for case in episode.support] for site, show in sites.items()}
        local["both"] = local[HERE][: LOCAL // 2] + local[there][LOCAL // 2 :]
        for origin, pairs in local.items():
            plan = make_plan(pairs, ClassTable((1,), ("foreground",)))
            network = method.fit(support_from_pairs(pairs, plan))
            for case, (site, show) in product(episode.query, sites.items()):
                image, label = show(case)
                with torch.no_grad():
                    predicted = postprocess(network(preprocess(image, plan).as_tensor()[None])[0], plan, image)
                found[origin, site][draw, places[case.name]] = dice_per_class(predicted, label, (1,))[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--shift", choices=SHIFTS)
    where.add_argument("--other", type=Path, help="folder that shows the same cases otherwise")
    parser.add_argument("--values", type=int, nargs="+", default=[1, 2], help="label values that make the foreground")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--queries", type=int, default=8)
    arguments = parser.parse_args()
    split = "select" if "select" in read_description(arguments.data).get("split", {}) else None
    cases = list_cases(arguments.data, split)
    sites = sites_of(arguments.shift, arguments.other, tuple(arguments.values))
    found = two_sites(cases, sites, episodes_of(cases, arguments.queries, arguments.draws))
    print(f"| adapted to {LOCAL} cases | " + " | ".join(f"scans: {site}" for site in sites) + " |\n" + "|---" * 3 + "|")
    for origin in (*sites, "both"):
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*two_level_bootstrap(found[origin, site])) for site in sites]
        print(f"| {origin} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
