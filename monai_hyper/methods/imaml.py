"""Meta-learning with implicit gradients: the path of the inner optimiser does not matter, only where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.methods.maml import BinaryUNet, support_loss
from monai_hyper.methods.meta import (
    BACKGROUND,
    Examples,
    Loss,
    Network,
    binary_loss,
    examples_of,
)
from monai_hyper.networks.functional import bind
from monai_hyper.synthesis.batch import Episode
from monai_hyper.types import Weights


def implicit_gradient(
    gradient: Tensor, hessian_product: Callable[[Tensor], Tensor], strength: float, steps: int
) -> Tensor:
    """Gradient with respect to the initial weights, from the one at the solution of the inner problem.

    For ``phi = argmin L(phi) + strength / 2 |phi - theta|^2`` the derivative of ``phi`` by ``theta`` is the inverse of
    ``I + H / strength``, where ``H`` is the Hessian of ``L`` at ``phi`` (Rajeswaran et al. 2019, Lemma 1). The linear
    system is solved by conjugate gradients, which need products with ``H`` only.

    Args:
        gradient: of the outer loss at ``phi``, ``(P,)``.
        hessian_product: from ``(P,)`` to ``H`` times it.
        strength: of the proximal term, positive.
        steps: of conjugate gradients, at most; they end before where the curvature is not positive, since ``L`` need
            not be convex.

    Returns:
        gradient of the outer loss by ``theta``, ``(P,)``; with no step, ``gradient`` itself.
    """
    solution = torch.zeros_like(gradient)
    residual = direction = gradient
    size = residual @ residual
    smallest = 1e-20 * size
    for _ in range(steps):
        product = direction + hessian_product(direction) / strength
        curvature = direction @ product
        if size <= smallest or curvature <= 0:
            break
        solution = solution + size / curvature * direction
        residual = residual - size / curvature * product
        size, previous = residual @ residual, size
        direction = residual + size / previous * direction
    return solution if bool(solution.any()) else gradient


@torch.enable_grad()
def proximal_descent(
    network: nn.Module,
    initial: Weights,
    examples: Sequence[Examples],
    steps: int,
    rate: float,
    strength: float,
    loss: Loss = binary_loss,
) -> Weights:
    """Minimise the loss on examples plus ``strength / 2`` times the squared distance to the initial weights, by
    gradient descent from these.

    Args:
        initial: one tensor for every parameter of the network.
        examples: in batches; the steps take turns.
        rate: learning rate.

    Returns:
        the weights, without gradients.
    """
    start = {name: w.detach() for name, w in initial.items()}
    weights = start
    for step in range(steps):
        tracked = {name: w.detach().requires_grad_() for name, w in weights.items()}
        value = support_loss(network, tracked, examples[step % len(examples)], loss)
        gradients = torch.autograd.grad(value, list(tracked.values()))
        weights = {
            name: w - rate * (g + strength * (w - start[name])) for (name, w), g in zip(weights.items(), gradients)
        }
    return weights


def with_implicit_gradient(
    network: nn.Module,
    initial: Weights,
    weights: Weights,
    outer: Tensor,
    examples: Examples,
    strength: float,
    steps: int,
    loss: Loss = binary_loss,
) -> Tensor:
    """The value of an outer loss with the implicit gradient by the initial weights; not to be differentiated twice.

    Args:
        initial: tracked by autograd.
        weights: of :func:`proximal_descent`, to be tracked by autograd; outer: a loss of these.
        examples: one batch, over which the Hessian is taken, since it needs much memory.
        strength, steps: see :func:`implicit_gradient`.
    """
    values = list(weights.values())
    gradient = _flat(torch.autograd.grad(outer, values))
    slope = _flat(torch.autograd.grad(support_loss(network, weights, examples, loss), values, create_graph=True))

    def hessian_product(vector: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(slope, values, vector, retain_graph=True))

    gradient = implicit_gradient(gradient, hessian_product, strength, steps)
    start = _flat(list(initial.values()))
    return outer.detach() + (start - start.detach()) @ gradient


class IMamlLearner(nn.Module):
    """Weights that serve as centre of a regularised fit to the support.

    After Rajeswaran et al., "Meta-Learning with Implicit Gradients", 2019, https://arxiv.org/abs/1909.04630: the
    inner problem has a proximal term, gradient descent solves it to approximation, and conjugate gradients give
    the gradient by the initial weights without passing through the descent.

    Args:
        channels, thin: of the U-Net.
        inner_steps: gradient steps on the support in training; test_steps: when it is used.
        inner_rate: their learning rate.
        strength: of the proximal term.
        solver_steps: of conjugate gradients.
    """

    method = "imaml"

    def __init__(
        self,
        channels: Sequence[int] = (20, 40, 80, 160),
        thin: int = 4,
        inner_steps: int = 8,
        test_steps: int = 20,
        inner_rate: float = 0.2,
        strength: float = 0.5,
        solver_steps: int = 5,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": list(channels), "thin": thin, "inner_steps": inner_steps, "test_steps": test_steps,
            "inner_rate": inner_rate, "strength": strength, "solver_steps": solver_steps,
        }  # fmt: skip
        self.inner_steps, self.test_steps, self.inner_rate = inner_steps, test_steps, inner_rate
        self.strength, self.solver_steps = strength, solver_steps
        self.body = BinaryUNet(channels, thin)

    def solve(self, examples: Sequence[Examples], steps: int) -> Weights:
        """Minimise the loss on examples plus the proximal term, from the initial weights."""
        initial = dict(self.body.named_parameters())
        return proximal_descent(self.body, initial, examples, steps, self.inner_rate, self.strength)

    def episode_loss(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The loss on the queries of one class after adaptation, with its implicit gradient, and their logits
        ``(Q, 2, D, H, W)``."""
        examples = examples_of(episode.support, 0)
        weights = {n: w.requires_grad_() for n, w in self.solve(examples, self.inner_steps).items()}
        logits = bind(self.body, weights)(episode.images)
        outer = binary_loss(logits, (episode.labels > 0).float())
        initial = dict(self.body.named_parameters())
        loss = with_implicit_gradient(self.body, initial, weights, outer, examples[0], self.strength, self.solver_steps)
        return loss, F.pad(logits.detach(), BACKGROUND)

    def network(self, examples: Sequence[Examples]) -> Network:
        """The binary network of a class after ``test_steps`` steps on its examples."""
        return bind(self.body, self.solve(examples, self.test_steps))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
