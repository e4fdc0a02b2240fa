"""The weights that travel with the package."""

from __future__ import annotations

from pathlib import Path

from monai_hyper.data.tensors import load_parameters, load_tensors
from monai_hyper.networks.model import HyperModel

RELEASED = Path(__file__).parents[1] / "weights" / "hyper_ctmr.safetensors"


def load_model(path: Path | None = None) -> HyperModel:
    """A model ready to condition.

    Args:
        path: weights in safetensors form; default: the released ones.

    Raises:
        InputError: if the file is missing, damaged, or of another model.
    """
    path = RELEASED if path is None else Path(path)
    tensors, _ = load_tensors(path)
    model = HyperModel()
    load_parameters(model, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, path)
    return model.eval()
