"""Our method with calibrated probabilities: one temperature, learned from the support set alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import CascadeNetwork

_REGION = 7
"""Side of the cube by which the foreground is dilated to where the probabilities are judged, voxels."""

_BOUNDS = (-2.0, 3.0)
"""Of the logarithm of the temperature."""


class Temperature:
    """Generated weights, and logits divided by a temperature.

    After Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599; the logits
    that the temperature is fitted to are those of each support volume by the others. A single volume stands for itself
    by a warped copy, which is too easy: expect too little correction at K = 1.

    Args:
        model: the trained model.
    """

    def __init__(self, model: HyperModel) -> None:
        self.model = model

    @torch.no_grad()
    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """Generate the network of a support set and its temperature."""
        network = self.model.condition(support)
        local = isinstance(network, CascadeNetwork)
        support, generated = (network.support, network.local) if local else (support, network)
        _, own_logits = self.model.generate(support, generated.reading.template, local)
        samples = []
        for (shots, logits), (_, _, labels) in zip(own_logits(), support.volumes()):
            samples += [judged(logits[i], labels[i], support.annotated[shot]) for i, shot in enumerate(shots)]
        temperature = best_temperature([sample for sample in samples if len(sample[1])])
        return lambda query: network(query) / temperature


def judged(logits: Tensor, labels: Tensor, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(M, N)`` and classes ``(M,)`` of the voxels near the foreground of one volume.

    Args:
        logits: ``(N, D, H, W)``; labels: ``(1, D, H, W)``; annotated: ``(N - 1,)``, other classes are ruled out.
    """
    near = F.max_pool3d((labels > 0).float()[None], _REGION, 1, _REGION // 2)[0, 0] > 0
    closed = ~torch.cat([torch.ones(1, dtype=torch.bool), annotated.cpu()]).to(logits.device)
    return logits.float().masked_fill(closed[:, None, None, None], -1e4)[:, near].T, labels[0][near]


def best_temperature(samples: list[tuple[Tensor, Tensor]]) -> float:
    """The temperature of least cross-entropy, every volume weighing the same.

    Args:
        samples: logits ``(M, N)`` and classes ``(M,)`` of every volume.

    Example:
        >>> logits = torch.tensor([[0.0, 8.0], [0.0, 8.0], [0.0, 8.0], [0.0, 8.0]])
        >>> round(best_temperature([(logits, torch.tensor([1, 1, 1, 0]))]), 1)  # right in three cases of four
        7.3
    """

    def mean_loss(log_temperature: float) -> float:
        scale = torch.tensor(log_temperature).exp()
        return float(torch.stack([F.cross_entropy(logits / scale.to(logits), c) for logits, c in samples]).mean())

    found = minimize_scalar(mean_loss, bounds=_BOUNDS, method="bounded", options={"xatol": 0.01})
    return float(torch.tensor(found.x).exp())
