"""Where the time of meta-training goes: engine and step, volumes per second, share of the machine's peak, bottlenecks.

python benchmarks/training.py --device cuda --precision bfloat16 --sizes 48 64 96 --tasks 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from monai_hyper.networks.model import HyperModel
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.pack import training_data
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.training.loop import TrainConfig, parameter_groups, train_step
from monai_hyper.training.loss import episode_loss

CASES = 4
"""Volumes of a task, about."""


def seconds_of(work: Callable[[], object], device: str, repeats: int) -> float:
    """Median seconds of a call, after one that warms up."""
    found = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peaks(device: str, precision: str, repeats: int) -> dict[str, float]:
    """FLOP/s of a large matrix product, and of a 3x3x3 convolution of 48 channels."""
    dtype, large = getattr(torch, precision), device.startswith("cuda")
    side, grid = (8192, 96) if large else (1024, 24)
    a = torch.randn(side, side, device=device, dtype=dtype)
    x = torch.randn(4, 48, grid, grid, grid, device=device, dtype=dtype)
    weight = torch.randn(48, 48, 3, 3, 3, device=device, dtype=dtype)
    product = seconds_of(lambda: a @ a, device, repeats)
    convolution = seconds_of(lambda: F.conv3d(x, weight, padding=1), device, repeats)
    return {"matmul": 2 * side**3 / product, "conv3d": 2 * 27 * 48 * x.numel() / convolution}


def bottlenecks(work: Callable[[], object], device: str, count: int = 8) -> list[tuple[str, float]]:
    """The operators that take most of the time, and their shares."""
    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        work()
        _wait(device)
    attribute = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key: getattr(event, attribute) for event in profiler.key_averages()}
    total = sum(times.values())
    return [(name, times[name] / total) for name in sorted(times, key=times.get, reverse=True)[:count]]


def one_by_one(model: HyperModel, optimiser, batch: TaskBatch) -> None:
    """The step of one process that takes the tasks of a batch one after another, and aligns their volumes."""
    optimiser.zero_grad(set_to_none=True)
    for task in range(len(batch.kinds)):
        loss, _ = episode_loss(model, batch.episode(task))
        (loss / len(batch.kinds)).backward()
    optimiser.step()


def measure(side: int, tasks: int, arguments: argparse.Namespace, sources: Sources, peak: dict[str, float]) -> None:
    """Print what one size of volumes costs."""
    device, voxels = arguments.device, side**3
    settings = TaskSettings((voxels, voxels + 1), CASES * voxels, tasks=tasks)
    engine = TaskEngine(sources, settings, 0, device)
    config = TrainConfig(Path("unused"), device=device, precision=arguments.precision)
    torch.manual_seed(0)
    model = HyperModel().to(device, memory_format=torch.channels_last_3d).train()
    optimiser = torch.optim.AdamW(parameter_groups(model, config), lr=1e-4)
    numbers = iter(range(1_000_000))
    drawing = seconds_of(lambda: engine.batch(next(numbers)), device, arguments.repeats)
    batch = engine.batch(0)

    def step() -> None:
        train_step(model, optimiser, batch, 0, config)

    stepping = seconds_of(step, device, arguments.repeats)
    with FlopCounterMode(display=False) as counter:
        step()
    flops, volumes = counter.get_total_flops(), batch.images.shape[0] * batch.images.shape[1]
    shape = "x".join(str(n) for n in batch.images.shape[3:])
    print(f"\n{shape}, {tasks} tasks of {batch.shots} + {batch.images.shape[1] - batch.shots} volumes")
    print(f"engine {drawing:.3f} s, step {stepping:.3f} s, engine's share {drawing / (drawing + stepping):.0%}")
    print(f"{volumes / (drawing + stepping):.1f} volumes/s, {flops / 1e9:.1f} GFLOP a step")
    print(", ".join(f"{flops / stepping / value:.1%} of {name}" for name, value in peak.items()))
    if device.startswith("cuda"):
        print(f"most memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    for name, work in (("engine", lambda: engine.batch(0)), ("step", step)):
        found = ", ".join(f"{operator} {share:.0%}" for operator, share in bottlenecks(work, device))
        print(f"{name}: {found}")
    if arguments.against_episodes:
        alone = seconds_of(lambda: one_by_one(model, optimiser, batch), device, arguments.repeats)
        print(f"task by task with alignment {alone:.3f} s, {alone / stepping:.2f} times the step of all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="training data or its pack; default: none, shapes only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 64], help="sides of the volumes in voxels")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4], help="tasks of a step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against-episodes", action="store_true", help="time the tasks one after another, too")
    arguments = parser.parse_args()
    sources = Sources({}) if arguments.data is None else training_data(arguments.data)
    peak = peaks(arguments.device, arguments.precision, arguments.repeats)
    print(f"{arguments.device}, {arguments.precision}, {torch.get_num_threads()} threads")
    print(", ".join(f"{name} {value / 1e9:.1f} GFLOP/s" for name, value in peak.items()))
    for side in arguments.sizes:
        for tasks in arguments.tasks:
            measure(side, tasks, arguments, sources, peak)


if __name__ == "__main__":
    main()
