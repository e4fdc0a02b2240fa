"""How many training volumes a second are drawn: ``python benchmarks/engine.py --data train.pack``."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch

from monai_hyper.synthesis.pack import training_data
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings


def throughput(engine: TaskEngine, batches: int, first: int = 0) -> dict:
    """Volumes a second of wall-clock and of processor time, over batches from number ``first`` on."""
    volumes, families = 0, Counter()
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(first, first + batches):
        batch = engine.batch(index)
        volumes += batch.images.shape[0] * batch.images.shape[1]
        families.update(batch.kinds)
    if engine.shelf.device.type == "cuda":
        torch.cuda.synchronize()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "batches": batches,
        "volumes": volumes,
        "volumes_per_second": round(volumes / wall, 2),
        "volumes_per_processor_second": round(volumes / processor, 2),
        "families": dict(families),
    }


def main() -> None:
    """Measure after a few batches that fill the engine's shelf."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data, or its pack")
    parser.add_argument("--side", type=int, default=64, help="volumes have this number of voxels cubed")
    parser.add_argument("--tasks", type=int, default=4, help="tasks in a batch")
    parser.add_argument("--cases", type=int, default=6, help="volumes of a task, about")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    voxels = given.side**3
    settings = TaskSettings((voxels, voxels), given.cases * voxels, tasks=given.tasks)
    engine = TaskEngine(training_data(given.data), settings, device=given.device)
    throughput(engine, 3, first=10_000)
    asked = {"side": given.side, "tasks": given.tasks, "device": given.device, "threads": given.threads}
    print(json.dumps(asked | throughput(engine, given.batches)))


if __name__ == "__main__":
    main()
