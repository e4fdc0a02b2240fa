"""The baseline that goes on from what the released model has learned, by gradient steps on the support set."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.fitting import Budget, fit_by_gradient
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel
from monai_hyper.networks.unet import Target

RATE = 1e-3
HEAD_RATE = 1e-2


class FineTune:
    """The body's learned weights ``w0``, before any generation, with a fresh linear head, trained on the support.

    Transfer learning as in Tajbakhsh et al., "Convolutional Neural Networks for Medical Image Analysis: Full Training
    or Fine Tuning?", 2016, https://arxiv.org/abs/1706.00712. Prior and mean masks are zero.

    Args:
        model: the trained model, left as it is.
        budget: how long to train.
        head_only: keep the body's weights.
    """

    def __init__(self, model: HyperModel, budget: Budget, head_only: bool = False) -> None:
        self.model, self.budget, self.head_only = model, budget, head_only

    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """Train a network on a support set."""
        network = Target(copy.deepcopy(self.model.body), len(support.classes), (1, 1, 1), (PRIOR_CHANNELS, 1, 1, 1))
        network.requires_grad_(False)
        trained = network.reader.head if self.head_only else network.reader
        trained.requires_grad_(True)
        network.reader.mask_head.requires_grad_(True)
        return fit_by_gradient(network, support, self.budget, HEAD_RATE if self.head_only else RATE)
