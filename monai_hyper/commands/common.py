"""What several verbs share, and the verb that tells versions."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

import monai_hyper
from monai_hyper.data.tensors import load_tensors
from monai_hyper.methods.polish import default_seconds
from monai_hyper.networks.released import RELEASED
from monai_hyper.types import InputError

Report = Callable[[str], None]


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {name: version(name) for name in ("monai", "torch", "numpy", "nibabel")}
    return {"monai_hyper": monai_hyper.__version__, "python": platform.python_version(), **found}


def info() -> dict:
    """Versions, device, and the released weights with what they were trained on."""
    tensors, facts = load_tensors(RELEASED)
    return {
        "versions": versions(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": {
            "file": RELEASED.name,
            "megabytes": round(RELEASED.stat().st_size / 1e6, 1),
            "parameters": sum(t.numel() for t in tensors.values()),
            "steps": facts.get("step"),
            "hours": round(facts.get("seconds", 0) / 3600, 2),
        },
    }


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """
    Raises:
        InputError: if a result exists already and may not be replaced.
    """
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]}: exists already. Choose another --output or allow it with --overwrite.")


def check_polish(steps: int | None, seconds: float | None) -> None:
    """
    Raises:
        InputError: if there is no such polish, or both are given.
    """
    if seconds is not None and not 0 <= seconds < math.inf:
        raise InputError(f"--polish-seconds is {seconds}; expected a number of seconds, or 0 for no polish.")
    if steps is not None and steps < 0:
        raise InputError(f"--polish is {steps}; expected a number of gradient steps, or 0 for no polish.")
    if steps is not None and seconds is not None:
        raise InputError(f"found both --polish {steps} and --polish-seconds {seconds}; expected one of them.")


def polish_time(steps: int | None, seconds: float | None, device: str, shots: int) -> float:
    """Seconds of a polish: as asked for, by default see :func:`default_seconds`; 0 where steps are counted."""
    if steps is not None:
        return 0.0
    return default_seconds(device, shots) if seconds is None else seconds
