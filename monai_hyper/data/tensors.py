"""Weights on disk as safetensors: tensors and JSON, nothing that runs when it is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from monai_hyper.types import InputError


def save_tensors(tensors: dict[str, Tensor], path: Path, facts: dict) -> None:
    """Write tensors with a JSON header, beside the target first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    plain = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    save_file(plain, beside, {"facts": json.dumps(facts)})
    os.replace(beside, path)


def halved(model: nn.Module) -> dict[str, Tensor]:
    """What a module holds, its parameters in half precision, as they are released.

    Buffers keep their digits: they hold statistics, whose differences count.

    Example:
        >>> [tensor.dtype for tensor in halved(nn.BatchNorm1d(2)).values()][::2]
        [torch.float16, torch.float32, torch.int64]
    """
    learned = dict(model.named_parameters())
    return {name: t.half() if name in learned else t for name, t in model.state_dict().items()}


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        InputError: if the file is missing, truncated or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads((file.metadata() or {})["facts"])
    except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected weights that monai-hyper wrote as safetensors; found {error}.") from error


def load_parameters(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors into a module; names in its ``younger``, if it has that, may be missing, and the module fills them.

    Raises:
        InputError: if a name or shape differs or a value is not finite.
    """
    missing = set(getattr(model, "younger", ())) - tensors.keys()
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in missing}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    differing = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if differing:
        name = differing[0]
        raise InputError(
            f"{path}: weight '{name}' is {found.get(name, 'missing')}; expected {expected.get(name, 'no such weight')} "
            f"({len(differing)} differ). Use weights of this version."
        )
    broken = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if broken:
        raise InputError(f"{path}: weight '{broken[0]}' holds NaN or infinity. Use an intact copy of the weights.")
    model.load_state_dict(tensors)
