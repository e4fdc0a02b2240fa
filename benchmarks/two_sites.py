"""Two hospitals, four local cases each: what the network of one is worth at the other.

python benchmarks/two_sites.py --data ../shared/data/hippocampus_mr --shift kspace-8x

One site has the scans as they are, the other as another scanner would show them, see
``monai_hyper/evaluation/shifts.py``. Each adapts to four of its own cases; both networks, and one of two cases of
either site, segment the same patients at both sites.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch
from support_is_used import binary_pair

from monai_hyper.data.episodes import draw_episodes
from monai_hyper.data.folder import Case, ClassTable, list_cases
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.evaluation.protocol import shifted
from monai_hyper.evaluation.shifts import SHIFTS
from monai_hyper.evaluation.statistics import two_level_bootstrap
from monai_hyper.inference.pipeline import Pair, make_plan, postprocess, preprocess, support_from_pairs
from monai_hyper.methods.hyper import Hyper
from monai_hyper.networks.released import load_model

LOCAL = 4
"""Annotated cases of a site."""


def at(site: str, case: Case, values: tuple[int, ...]) -> Pair:
    """A case as the scanner of a site shows it."""
    return shifted(binary_pair(case, values), None if site == "as it is" else site, case)


def two_sites(
    data: Path, shift: str, values: tuple[int, ...], draws: int, queries: int
) -> dict[tuple[str, str], np.ndarray]:
    """Dice by where the network comes from and where the scan does, ``(draws, patients)``; not a number for patients
    that were not drawn."""
    cases, method = list_cases(data, "select"), Hyper(load_model())
    places = {case.name: i for i, case in enumerate(cases)}
    sites = ("as it is", shift)
    found = {key: np.full((draws, len(cases)), np.nan) for key in product((*sites, "both"), sites)}
    for draw, episode in enumerate(draw_episodes(cases, LOCAL, queries, draws, 0)):
        local = {site: [at(site, case, values) for case in episode.support] for site in sites}
        local["both"] = local["as it is"][: LOCAL // 2] + local[shift][LOCAL // 2 :]
        for origin, pairs in local.items():
            plan = make_plan(pairs, ClassTable((1,), ("foreground",)))
            network = method.fit(support_from_pairs(pairs, plan))
            for case, site in product(episode.query, sites):
                image, label = at(site, case, values)
                with torch.no_grad():
                    predicted = postprocess(network(preprocess(image, plan).as_tensor()[None])[0], plan, image)
                found[origin, site][draw, places[case.name]] = dice_per_class(predicted, label, (1,))[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shift", choices=SHIFTS, required=True)
    parser.add_argument("--values", type=int, nargs="+", default=[1, 2], help="label values that make the foreground")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--queries", type=int, default=8)
    arguments = parser.parse_args()
    found = two_sites(arguments.data, arguments.shift, tuple(arguments.values), arguments.draws, arguments.queries)
    print(f"| adapted to 4 cases | scans as they are | {arguments.shift} |\n|---|---|---|")
    for origin in ("as it is", arguments.shift, "both"):
        cells = []
        for site in ("as it is", arguments.shift):
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(*two_level_bootstrap(found[origin, site])))
        print(f"| {origin} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
