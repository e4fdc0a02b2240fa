"""Several processes that share work, as torchrun starts them; every function serves a lone process, too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(days=1)
"""How long processes wait for each other: shares of an evaluation differ in length."""


@dataclass(frozen=True)
class Worker:
    """One of ``world`` processes.

    Args:
        rank: its number; device: where it computes.
    """

    rank: int
    world: int
    device: str

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


ALONE = Worker(0, 1, "cpu")


@contextmanager
def joined(device: str) -> Iterator[Worker]:
    """Join the processes that torchrun started, through NCCL on GPUs, one for each, else through Gloo.

    Args:
        device: "cpu", "cuda", or "cuda:1" for a lone process.

    Example:
        >>> with joined("cpu") as worker:
        ...     worker
        Worker(rank=0, world=1, device='cpu')
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1 or dist.is_initialized():
        yield this_worker(device)
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield this_worker(device)
    finally:
        dist.destroy_process_group()


def this_worker(device: str) -> Worker:
    """This process, among those that have joined; device: where it computes."""
    if not dist.is_initialized():
        return Worker(0, 1, device)
    return Worker(dist.get_rank(), dist.get_world_size(), device)


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if dist.is_initialized():
        dist.barrier()


@torch.no_grad()
def mean_over_workers(tensors: Sequence[Tensor]) -> None:
    """Put the mean over all processes in the place of every tensor, by one message."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts):
        tensor.copy_(part.view_as(tensor))


def average_gradients(model: nn.Module) -> None:
    """Let all processes descend the mean of their losses."""
    if not dist.is_initialized():
        return
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    used = torch.tensor([parameter.grad is not None for parameter in learning], device=learning[0].device).double()
    mean_over_workers([used])
    learning = [parameter for parameter, share in zip(learning, used.tolist()) if share]  # none: no gradient alone, too
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    mean_over_workers([parameter.grad for parameter in learning])


def average_statistics(model: nn.Module) -> None:
    """Let all processes hold the mean of what their modules have seen, as moving means in buffers are."""
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if statistics:
        mean_over_workers(statistics)
