"""In-context segmentation: one trained network reads the support again with every query."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.meta import (
    BACKGROUND,
    BASELINES,
    Examples,
    Network,
    binary_loss,
    examples_of,
    fit_by_class,
    load_learner,
)
from monai_hyper.networks.cross_unet import CrossUNet
from monai_hyper.networks.functional import fit_field
from monai_hyper.synthesis.tasks import Episode


class UniverSegLearner(nn.Module):
    """UniverSeg in three dimensions, see :class:`CrossUNet`; support volumes are stretched over the query's grid.

    Args:
        channels: of the network, see :class:`CrossUNet`.
    """

    method = "universeg"

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 64)) -> None:
        super().__init__()
        self.settings = {"channels": list(channels)}
        self.body = CrossUNet(tuple(channels))

    def forward(self, images: Tensor, examples: Sequence[Examples]) -> Tensor:
        """Logits ``(B, 1, D, H, W)`` of images ``(B, 1, D, H, W)``."""
        size = list(images.shape[2:])
        return self.body(images, torch.cat([fit_field(torch.cat(pair, 1), size) for pair in examples]))

    def episode_loss(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The loss on the queries of one class, and their logits ``(Q, 2, D, H, W)``."""
        logits = self(episode.images, examples_of(episode.support, 0))
        return binary_loss(logits, (episode.labels > 0).float()), F.pad(logits, BACKGROUND)

    def network(self, examples: Sequence[Examples]) -> Network:
        """The binary network of a class: this one, with its examples."""
        return lambda query: torch.cat([self(image[None], examples) for image in query])  # to bound the memory


class UniverSeg:
    """UniverSeg, meta-trained on synthetic tasks; every class by itself.

    Butoi et al., "UniverSeg: Universal Medical Image Segmentation", 2023, https://arxiv.org/abs/2304.06131.
    The time of a query grows with the number of support volumes. See :class:`UniverSegLearner`.

    Args:
        weights: what ``monai-hyper train --method universeg`` wrote.
    """

    def __init__(self, weights: Path = BASELINES / "universeg.safetensors") -> None:
        self.weights = weights

    @cached_property
    def _learner(self) -> UniverSegLearner:
        return load_learner(UniverSegLearner, self.weights)

    def fit(self, support: SupportSet) -> Network:
        """
        Returns:
            a network from images ``(B, 1, D, H, W)`` to logits ``(B, N, D, H, W)``.

        Raises:
            InputError: if there are no weights.
        """
        return fit_by_class(self._learner.to(support.images.device), support)
