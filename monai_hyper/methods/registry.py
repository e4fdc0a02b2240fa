"""Every method by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from monai_hyper.methods.fine_tune import FineTune
from monai_hyper.methods.fitting import Budget
from monai_hyper.methods.hyper import Hyper
from monai_hyper.methods.imaml import IMamlLearner
from monai_hyper.methods.maml import MamlLearner
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.methods.meta import MetaTrained
from monai_hyper.methods.method import Method
from monai_hyper.methods.polish import Polish, polish_seconds
from monai_hyper.methods.prototype import Prototype
from monai_hyper.methods.registration import Registration
from monai_hyper.methods.ridge import Ridge
from monai_hyper.methods.scratch import Scratch
from monai_hyper.methods.temperature import Temperature
from monai_hyper.methods.universeg import UniverSegLearner
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.released import load_model
from monai_hyper.types import InputError


class Shelf:
    """What methods are made from; the model is read once, when the first method asks for it.

    Args:
        weights: of the model; None: the released ones.
        device: where the networks run.
    """

    def __init__(self, weights: Path | None = None, device: str = "cpu") -> None:
        self.weights, self.device = weights, device

    @cached_property
    def model(self) -> HyperModel:
        """The trained model."""
        return load_model(self.weights).to(self.device)


METHODS: dict[str, Callable[[Shelf], Method]] = {
    "hyper": lambda shelf: Hyper(shelf.model),
    "hyper+temperature": lambda shelf: Temperature(shelf.model),
    "hyper+polish": lambda shelf: Polish(shelf.model, Budget(seconds=polish_seconds(shelf.device))),
    "mean-mask": lambda shelf: MeanMask(),
    "registration": lambda shelf: Registration(),
    "prototype": lambda shelf: Prototype(shelf.model),
    "ridge": lambda shelf: Ridge(shelf.model),
    "scratch": lambda shelf: Scratch(Budget(seconds=110)),
    "scratch-plateau": lambda shelf: Scratch(Budget(patience=100)),
    "fine-tune": lambda shelf: FineTune(shelf.model, Budget(seconds=110)),
    "fine-tune-head": lambda shelf: FineTune(shelf.model, Budget(seconds=110), head_only=True),
    "maml": lambda shelf: MetaTrained(MamlLearner),
    "imaml": lambda shelf: MetaTrained(IMamlLearner),
    "universeg": lambda shelf: MetaTrained(UniverSegLearner),
}

CALIBRATED = ("hyper", "hyper+polish", "mean-mask")
"""Methods whose probabilities of a single class are cut for the highest expected Dice; the others' labels are the most
probable classes, as published. Of ``hyper+temperature`` only the probabilities matter."""

FAST = ("hyper", "hyper+temperature", "mean-mask", "prototype", "ridge")
"""Methods that neither train on a task nor register volumes."""


def make_methods(names: Sequence[str], weights: Path | None = None, device: str = "cpu") -> dict[str, Method]:
    """Methods by name, in the order given.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> list(make_methods(["mean-mask"]))
        ['mean-mask']
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InputError(f"unknown method '{unknown[0]}'; known are {', '.join(METHODS)}.")
    shelf = Shelf(weights, device)
    return {name: METHODS[name](shelf) for name in names}
