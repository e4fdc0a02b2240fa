"""Every method that classifies, by its name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.classify.gradient import FineTuneClassifier, LinearProbe, ScratchClassifier
from monai_hyper.methods.classify.learners import CLASS_LEARNERS, Classify
from monai_hyper.methods.fitting import Budget
from monai_hyper.methods.meta import BASELINES, load_learner
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.released import load_classifier
from monai_hyper.types import InputError


class ClassMethod(Protocol):
    """A few-shot method that classifies."""

    def fit(self, support: SupportSet) -> Classify:
        """
        Returns:
            a network: harmonised images ``(B, 1, D, H, W)`` to logits ``(B, N)``.
        """


class HyperClassification:
    """Our method: a classifier generated in one forward pass.

    Args:
        model: the trained model.
    """

    def __init__(self, model: HyperClassifier) -> None:
        self.model = model

    @torch.no_grad()
    def fit(self, support: SupportSet) -> Classify:
        """Generate the classifier of a support set."""
        return self.model.condition(support)


class ClassShelf:
    """What methods are made from; weights are read when a method first asks for them.

    Args:
        weights: of the model; None: the released ones. baselines: folder of those of the meta-trained baselines.
    """

    def __init__(self, weights: Path | None = None, baselines: Path = BASELINES) -> None:
        self.weights, self.baselines = weights, baselines

    @cached_property
    def model(self) -> HyperClassifier:
        """The trained model."""
        return load_classifier(self.weights)

    def body(self) -> nn.Module:
        """A copy of the body that the model's generator starts from."""
        return copy.deepcopy(self.model.body)

    def learner(self, name: str) -> nn.Module:
        """A meta-trained baseline."""
        return load_learner(CLASS_LEARNERS[name], self.baselines / f"{name}.safetensors")


CLASS_METHODS: dict[str, Callable[[ClassShelf], ClassMethod]] = {
    "hyper": lambda shelf: HyperClassification(shelf.model),
    "prototype": lambda shelf: shelf.learner("prototype-classifier"),
    "maml": lambda shelf: shelf.learner("maml-classifier"),
    "imaml": lambda shelf: shelf.learner("imaml-classifier"),
    "linear-probe": lambda shelf: LinearProbe(shelf.model),
    "fine-tune": lambda shelf: FineTuneClassifier(shelf.body, Budget(steps=100)),
    "scratch": lambda shelf: ScratchClassifier(Budget(steps=200)),
}


def make_class_methods(
    names: Sequence[str], weights: Path | None = None, baselines: Path = BASELINES
) -> dict[str, ClassMethod]:
    """Methods that classify by name, in the order given.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> list(make_class_methods(["scratch"]))
        ['scratch']
    """
    unknown = [name for name in names if name not in CLASS_METHODS]
    if unknown:
        raise InputError(f"unknown method '{unknown[0]}'; known are {', '.join(CLASS_METHODS)}.")
    shelf = ClassShelf(weights, baselines)
    return {name: CLASS_METHODS[name](shelf) for name in names}
