"""The state of a training run on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from monai_hyper.data.tensors import load_parameters, load_tensors, save_tensors


def save_training(
    path: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, facts: dict
) -> None:
    """Everything needed to go on at the next step."""
    tensors = {f"model.{n}": t for n, t in model.state_dict().items()}
    tensors |= {f"average.{n}": t for n, t in average.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    save_tensors(tensors, path, facts)


def load_training(path: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> dict:
    """Restore what :func:`save_training` wrote; returns its facts."""
    tensors, facts = load_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor
    load_parameters(model, parts["model"], path)
    load_parameters(average, parts["average"], path)
    state = optimiser.state_dict()
    for name, tensor in parts["optimiser"].items():
        index, key = name.split(".", 1)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(state)
    return facts
