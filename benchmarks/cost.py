"""Seconds to condition and per query for K = 1, 2, 4, 8, 16: a query must cost the same whatever K is.

    python benchmarks/cost.py [--side 96] [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.released import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=96, help="voxels a side, of support and query")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, side = load_model(), arguments.side
    distance = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, side)] * 3, indexing="ij")).norm(dim=0)
    ball = (distance < 0.4).long().view(1, 1, side, side, side)
    networks, seconds = {}, {}
    query = torch.randn(1, 1, side, side, side)
    with torch.no_grad():
        for shots in arguments.shots:
            support = SupportSet(torch.randn(shots, 1, side, side, side) + ball, ball.repeat(shots, 1, 1, 1, 1))
            begun = time.perf_counter()
            networks[shots] = model.condition(support)
            seconds[shots] = time.perf_counter() - begun
            networks[shots](query)
        times: dict[int, list[float]] = {shots: [] for shots in networks}
        for _ in range(arguments.repeats):  # taken in turns, so that a slow moment of the machine hits all alike
            for shots, network in networks.items():
                begun = time.perf_counter()
                network(query)
                times[shots].append(time.perf_counter() - begun)
    medians = {shots: sorted(found)[len(found) // 2] for shots, found in times.items()}
    print(f"volumes of {side}^3 voxels, {arguments.threads} threads, median of {arguments.repeats}")
    print(f"{'K':>3} {'condition s':>12} {'query s':>9}")
    for shots, median in medians.items():
        print(f"{shots:3d} {seconds[shots]:12.2f} {median:9.3f}")
    print(f"query, slowest over fastest: {max(medians.values()) / min(medians.values()):.3f}")


if __name__ == "__main__":
    main()
