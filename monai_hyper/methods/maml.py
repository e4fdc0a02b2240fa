"""Model-agnostic meta-learning: weights from which few gradient steps on the support lead far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.methods.meta import (
    BACKGROUND,
    Examples,
    Loss,
    Network,
    binary_loss,
    examples_of,
)
from monai_hyper.networks.functional import bind, enlarge
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import Episode
from monai_hyper.types import Weights


class BinaryUNet(nn.Module):
    """The U-Net body with a linear read-out of one logit from all its feature scales.

    Args:
        channels, thin: see :class:`UNetBody`.

    Example:
        >>> BinaryUNet((4, 4, 4, 4), 2)(torch.randn(1, 1, 9, 34, 32)).shape
        torch.Size([1, 1, 9, 34, 32])
    """

    def __init__(self, channels: Sequence[int], thin: int) -> None:
        super().__init__()
        self.body = UNetBody(1, tuple(channels), thin)
        self.head = nn.ModuleList(nn.Conv3d(width, 1, 1, bias=i == 0) for i, width in enumerate(self.body.widths))
        nn.init.constant_(self.head[0].bias, -2.0)  # foreground is rare

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the foreground, ``(B, 1, D, H, W)``, of images ``(B, 1, D, H, W)``."""
        scales = zip(self.head, self.body(image), self.body.factors)
        return sum(enlarge(head(features), factor, image.shape[2:]) for head, features, factor in scales)


def support_loss(network: nn.Module, weights: Weights, examples: Examples, loss: Loss = binary_loss) -> Tensor:
    """Loss of ``network`` with ``weights`` on examples of one size."""
    images, wanted = examples
    return loss(bind(network, weights)(images), wanted)


def adapt(
    network: nn.Module,
    weights: Weights,
    rates: Sequence[Tensor],
    examples: Sequence[Examples],
    steps: int,
    second_order: bool = False,
    loss: Loss = binary_loss,
) -> Weights:
    """Gradient descent on examples, differentiable with respect to ``weights`` and ``rates``.

    Args:
        weights: where to start from, to be tracked by autograd.
        rates: learning rate of every weight, in the order of ``weights``.
        examples: in batches; the steps take turns, so that a step's cost is bounded whatever K is.
        second_order: whether derivatives pass through the gradients themselves; else these count as constants.
        loss: of what the network says of images against what is wanted.

    Returns:
        the adapted weights.
    """
    for step in range(steps):
        value = support_loss(network, weights, examples[step % len(examples)], loss)
        gradients = torch.autograd.grad(value, list(weights.values()), create_graph=second_order)
        weights = {n: w - rate * g for (n, w), rate, g in zip(weights.items(), rates, gradients)}
    return weights


class MamlLearner(nn.Module):
    """Initial weights and learning rates that make few gradient steps worth much.

    After Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
    https://arxiv.org/abs/1703.03400, by default in its first-order form. A learning rate per weight tensor is learned
    too, after Li et al., "Meta-SGD", 2017, https://arxiv.org/abs/1707.09835.

    Args:
        channels, thin: of the U-Net.
        inner_steps: gradient steps on the support in training; test_steps: when it is used.
        inner_rate: learning rate at first, the same everywhere.
        second_order: differentiate through the gradient steps: exact, and several times the memory and time.
    """

    method = "maml"

    def __init__(
        self,
        channels: Sequence[int] = (20, 40, 80, 160),
        thin: int = 4,
        inner_steps: int = 5,
        test_steps: int = 30,
        inner_rate: float = 0.1,
        second_order: bool = False,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": list(channels), "thin": thin, "inner_steps": inner_steps, "test_steps": test_steps,
            "inner_rate": inner_rate, "second_order": second_order,
        }  # fmt: skip
        self.inner_steps, self.test_steps, self.second_order = inner_steps, test_steps, second_order
        self.body = BinaryUNet(channels, thin)
        self.log_rates = nn.Parameter(torch.full((len(list(self.body.parameters())),), math.log(inner_rate)))

    def episode_loss(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The loss on the queries of one class after adaptation, and their logits ``(Q, 2, D, H, W)``."""
        examples, rates = examples_of(episode.support, 0), self.log_rates.exp()
        weights = dict(self.body.named_parameters())
        weights = adapt(self.body, weights, rates, examples, self.inner_steps, self.second_order)
        logits = bind(self.body, weights)(episode.images)
        return binary_loss(logits, (episode.labels > 0).float()), F.pad(logits, BACKGROUND)

    @torch.enable_grad()
    def network(self, examples: Sequence[Examples]) -> Network:
        """The binary network of a class after ``test_steps`` steps on its examples."""
        weights = {name: p.detach().requires_grad_() for name, p in self.body.named_parameters()}
        rates = self.log_rates.detach().exp()
        weights = adapt(self.body, weights, rates, examples, self.test_steps)
        return bind(self.body, {name: weight.detach() for name, weight in weights.items()})
