"""The weights that travel with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import nn

from monai_hyper.data.tensors import load_parameters, load_tensors
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.model import HyperModel

RELEASED = Path(__file__).parents[1] / "weights" / "hyper_ctmr.safetensors"
RELEASED_CLASSIFIER = Path(__file__).parents[1] / "weights" / "hyper_classifier.safetensors"


M = TypeVar("M", bound=nn.Module)


def load_model(path: Path | None = None) -> HyperModel:
    """A model ready to condition, for networks that segment.

    Args:
        path: weights in safetensors form; default: the released ones.

    Raises:
        InputError: if the file is missing, damaged, or of another model.
    """
    return _filled(HyperModel(), RELEASED if path is None else Path(path))


def load_classifier(path: Path | None = None) -> HyperClassifier:
    """A model ready to condition, for classifiers; see :func:`load_model`."""
    return _filled(HyperClassifier(), RELEASED_CLASSIFIER if path is None else Path(path))


def _filled(model: M, path: Path) -> M:
    tensors, _ = load_tensors(path)
    load_parameters(model, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, path)
    return model.eval()
