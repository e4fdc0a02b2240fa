"""Our method: a network generated in one forward pass."""

from __future__ import annotations

import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork


class Hyper:
    """Generated weights, no gradient step.

    Args:
        model: the trained model.
    """

    def __init__(self, model: HyperModel) -> None:
        self.model = model

    @torch.no_grad()
    def fit(self, support: SupportSet) -> ConditionedNetwork | CascadeNetwork:
        """Generate the network of a support set."""
        return self.model.condition(support)
