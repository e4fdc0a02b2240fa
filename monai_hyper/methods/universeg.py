"""In-context segmentation: one trained network reads the support again with every query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.methods.meta import (
    BACKGROUND,
    Examples,
    Network,
    binary_loss,
    examples_of,
)
from monai_hyper.networks.cross_unet import CrossUNet
from monai_hyper.networks.functional import fit_field
from monai_hyper.synthesis.batch import Episode


class UniverSegLearner(nn.Module):
    """UniverSeg in three dimensions, see :class:`CrossUNet`; support volumes are stretched over the query's grid.

    After Butoi et al., "UniverSeg: Universal Medical Image Segmentation", 2023, https://arxiv.org/abs/2304.06131.
    The time of a query grows with the number of support volumes.

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
