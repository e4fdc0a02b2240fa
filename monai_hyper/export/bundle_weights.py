"""Write released weights as the ``models/*.pt`` that a MONAI bundle expects."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from monai_hyper.data.tensors import halved, load_tensors
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.classifier import Classifier
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel
from monai_hyper.networks.released import load_classifier, load_model
from monai_hyper.networks.unet import Target


def blank_target(model: HyperModel) -> Target:
    """The network that weights are generated for, before a support set is read: the body's own weights, a template of
    one voxel, and read-outs of zero. It finds nothing; it shows what goes in and comes out."""
    target = Target(model.body, 1, (1, 1, 1), (PRIOR_CHANNELS, 1, 1, 1))
    for head in [*target.reader.head, target.reader.mask_head]:
        for weight in head.parameters():
            nn.init.zeros_(weight)
    return target


def blank_classifier(model: HyperClassifier) -> Classifier:
    """The classifier that weights are generated for, before a support set is read: the body's own weights, two classes,
    and a head of zeros."""
    target = Classifier(model.body, 2)
    nn.init.zeros_(target.head.weight)
    return target


def write_models(weights: Path, folder: Path) -> list[Path]:
    """Write ``hypernetwork.pt``, the model, and ``model.pt``, the target network as it is without a support set.

    Both are bare ``state_dict``s that ``torch.load(..., weights_only=True)`` reads; the model in half precision, as it
    is released, which keeps it below 25 MB.

    Args:
        weights: safetensors file, of a model that segments or of one that classifies; folder: of the files, made if
            it is not there.

    Raises:
        InputError: if ``weights`` are weights of neither.
    """
    if load_tensors(weights)[1].get("method") == HyperClassifier.method:
        model = load_classifier(weights)
        blank = blank_classifier(model).state_dict()
    else:
        model = load_model(weights)
        blank = blank_target(model).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in (("hypernetwork.pt", halved(model)), ("model.pt", blank)):
        torch.save({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
    return [folder / "hypernetwork.pt", folder / "model.pt"]


def main() -> None:
    """Command line: ``python -m monai_hyper.export.bundle_weights WEIGHTS FOLDER``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(*write_models(arguments.weights, arguments.folder), sep="\n")


if __name__ == "__main__":
    main()
