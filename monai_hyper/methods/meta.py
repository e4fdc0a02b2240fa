"""What the meta-trained baselines share: examples of one class, a grid of bounded size, and weights on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.data.tensors import load_parameters, load_tensors
from monai_hyper.networks.functional import fit_field
from monai_hyper.synthesis.batch import Episode
from monai_hyper.types import InputError

BASELINES = Path(__file__).parents[1] / "weights" / "baselines"
"""Where the weights of the meta-trained baselines are expected."""

WORKING_VOXELS = 64**3
"""Larger volumes are worked on at a coarser grid, nearer to the sizes of meta-training; their logits are enlarged."""

Examples = tuple[Tensor, Tensor]
"""Images and masks of one class of volumes of one size, ``(k, 1, D, H, W)`` each, both float; to classify, images and
the numbers of their classes, ``(k,)``."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits against what is wanted."""

TOGETHER = 2
"""At most so many volumes are in one batch of examples."""

Network = Callable[[Tensor], Tensor]
"""Images ``(B, 1, D, H, W)`` in, logits ``(B, N, D, H, W)`` out; a binary one gives ``(B, 1, D, H, W)``."""

binary_loss = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1e-3, smooth_dr=1e-3)
"""Dice and cross-entropy of logits ``(B, 1, D, H, W)`` against masks."""


class Learner(Protocol):
    """A module that learns from episodes of one class how to segment after examples.

    Its arguments are plain numbers and are kept in ``settings``, so that weights on disk tell how to rebuild it.
    """

    method: ClassVar[str]
    settings: dict

    def episode_loss(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The loss of an episode of one class, and the queries' logits ``(Q, 2, D, H, W)``."""
        ...

    def network(self, examples: Sequence[Examples]) -> Network:
        """The binary network of a class from its examples."""
        ...


L = TypeVar("L", bound=nn.Module)


def load_learner(kind: type[L], path: Path) -> L:
    """A learner with the weights of a training run, ready to be fitted.

    Args:
        kind: class of the learner; path: safetensors that ``monai-hyper train`` wrote.

    Raises:
        InputError: if the file is missing, damaged, or of another method.
    """
    if not path.exists():
        command = f"monai-hyper train --method {kind.method} --config monai_hyper/configs/{kind.method}.json"
        raise InputError(
            f"{path}: no weights of '{kind.method}'; expected what '{command} --data DIR --output DIR' writes. "
            "Train them and put DIR/weights.safetensors there."
        )
    tensors, facts = load_tensors(path)
    if facts.get("method") != kind.method:
        raise InputError(f"{path}: weights of '{facts.get('method')}'; expected those of '{kind.method}'.")
    learner = kind(**facts["learner"])
    load_parameters(learner, {name: tensor.float() for name, tensor in tensors.items()}, path)
    return learner.eval().requires_grad_(False)


def examples_of(support: SupportSet, index: int) -> list[Examples]:
    """What a support set shows of its class number ``index``, in batches of at most ``TOGETHER`` volumes.

    Volumes that do not annotate it are left out; larger ones than ``WORKING_VOXELS`` are brought to a coarser grid.
    """
    found = []
    for shots, images, labels in support.volumes():
        shown = support.annotated[shots, index].to(images.device)
        size = working_size(images.shape[2:])
        masks = fit_field((labels[shown] == index + 1).float(), size)
        found += zip(fit_field(images[shown], size).split(TOGETHER), masks.split(TOGETHER))
    return [(images, masks) for images, masks in found if len(images)]


def working_size(size: Sequence[int]) -> list[int]:
    """The grid that a volume is worked on at: its own if it has at most ``WORKING_VOXELS``, else a coarser one.

    Example:
        >>> working_size((40, 50, 40)), working_size((128, 128, 128))
        ([40, 50, 40], [64, 64, 64])
    """
    scale = min(1.0, (WORKING_VOXELS / torch.Size(size).numel()) ** (1 / 3))
    return [max(1, round(scale * side)) for side in size]


def fit_by_class(learner: Learner, support: SupportSet) -> Network:
    """Fit a binary method to every class by itself.

    Returns:
        a network of all classes; the background's logit is zero.
    """
    home = support.images.device
    networks = [learner.network(examples_of(support, index)) for index in range(len(support.classes))]

    def network(query: Tensor) -> Tensor:
        size = list(query.shape[2:])
        seen = fit_field(query.to(home), working_size(size))
        return F.pad(torch.cat([fit_field(binary(seen), size) for binary in networks], 1), BACKGROUND).to(query.device)

    return network


class MetaTrained:
    """A baseline that was meta-trained on the synthetic tasks; every class by itself.

    Args:
        kind: class of its learner.
        weights: what ``monai-hyper train --method`` wrote; default: those of the project.
    """

    def __init__(self, kind: type[nn.Module], weights: Path | None = None) -> None:
        self.kind = kind
        self.weights = BASELINES / f"{kind.method}.safetensors" if weights is None else weights

    @cached_property
    def _learner(self) -> nn.Module:
        return load_learner(self.kind, self.weights)

    def fit(self, support: SupportSet) -> Network:
        """
        Returns:
            a network from images ``(B, 1, D, H, W)`` to logits ``(B, N, D, H, W)``.

        Raises:
            InputError: if there are no weights.
        """
        return fit_by_class(self._learner.to(support.images.device), support)


BACKGROUND = [0, 0, 0, 0, 0, 0, 1, 0]
"""Padding that puts a background of zeros before the foreground's logit."""
