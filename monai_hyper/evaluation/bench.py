"""What methods cost: seconds to fit and per query, in one process and on the same volumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.evaluation.memory import Peak
from monai_hyper.methods.method import Method


def ball_task(shots: int, side: int) -> SupportSet:
    """Noise with a brighter ball, which is to be found, on grids of ``side`` voxels a side."""
    distance = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, side)] * 3, indexing="ij")).norm(dim=0)
    ball = (distance < 0.4).long().expand(shots, 1, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    return SupportSet(torch.randn(ball.shape, generator=generator) + ball, ball.contiguous())


@torch.no_grad()
def bench(
    methods: dict[str, Method], shots: Sequence[int], side: int, repeats: int, device: str = "cpu"
) -> list[dict[str, object]]:
    """Time every method at every number of shots.

    Queries take turns over the numbers of shots, so that a slow moment of the machine hits all alike.

    Args:
        side: voxels a side, of support and query.
        repeats: of every query, and of every fit that takes less than 10 seconds.

    Returns:
        a row per method and number of shots: medians, the ratio of the query's time to that at the fewest shots, and
        the peak of memory, MB.
    """
    query = ball_task(1, side).images.to(device)
    rows = []
    for name, method in methods.items():
        networks, fits, peaks = {}, {}, {}
        for k in sorted(shots):
            networks[k], fits[k], peaks[k] = _fitted(method, ball_task(k, side).to(device), query, repeats, device)
        times: dict[int, list[float]] = {k: [] for k in networks}
        for _ in range(repeats):
            for k, network in networks.items():
                times[k].append(seconds_of(partial(network, query), device))
        fewest = median(times[min(times)])
        rows += [
            {"method": name, "shots": k, "fit_seconds": fits[k], "query_seconds": median(times[k]),
             "query_ratio": median(times[k]) / fewest, "peak_mb": peaks[k]}
            for k in times
        ]  # fmt: skip
    return rows


def _fitted(method: Method, support: SupportSet, query: Tensor, repeats: int, device: str):
    """Network that has seen the query once, median of the seconds to fit, and peak of memory, MB."""
    peak, found, times = Peak(device), [], []
    while not times or (times[0] < 10 and len(times) < repeats):
        torch.manual_seed(0)
        times.append(seconds_of(lambda: found.append(method.fit(support)), device))
    found[-1](query)
    return found[-1], median(times), peak.megabytes()


def seconds_of(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock of a piece of work, s."""
    begun = time.perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
