"""The analytic head of classifiers: ridge regression of classes on features; a description is one more example."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.text import TEXT_DIM

BOUNDS = (2.0, 3.0), (-1.0, 4.0)
"""Logarithms of scale and of penalty at first, and how far they may move from there."""


class Solution(NamedTuple):
    """Linear layers of ``T`` tasks on directions of features, and what they say of the examples.

    Args:
        centre: that directions are taken from, ``(T, F)``; weight: ``(T, N, F)``.
        own: logits of the examples, each by the others, ``(T, K, N)``.
    """

    centre: Tensor
    weight: Tensor
    own: Tensor


class ClassHead(nn.Module):
    """Closed-form linear read-out of classes, differentiable, with a learned penalty and scale.

    After Bertinetto et al., "Meta-learning with differentiable closed-form solvers", 2019,
    https://arxiv.org/abs/1805.08136, on directions from the mean of the examples (Wang et al., "SimpleShot", 2019,
    https://arxiv.org/abs/1911.04623). Classes weigh the same, however many examples they have. What describes a class
    becomes a direction, too, and is one more example of it.

    Args:
        width: number of features ``F``.
        embedding_dim: length ``E`` of a token.
    """

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(width))  # of all images there are, counts as one example
        self.calm = nn.LayerNorm(embedding_dim, elementwise_affine=False)
        self.calibrate = nn.Sequential(nn.Linear(embedding_dim + 2, 64), nn.GELU(), nn.Linear(64, 2))
        nn.init.zeros_(self.calibrate[-1].weight)
        nn.init.zeros_(self.calibrate[-1].bias)
        self.speak = nn.Sequential(nn.Linear(TEXT_DIM, width), nn.GELU(), nn.Linear(width, width))
        self.log_trust = nn.Parameter(torch.zeros(()))  # what a description weighs against all images of a class

    def forward(self, features: Tensor, shown: Tensor, texts: Tensor, context: Tensor) -> Solution:
        """
        Args:
            features: of the examples, ``(T, K, F)``; shown: their classes, one-hot, ``(T, K, N)``.
            texts: what describes the classes, zero where nothing does, ``(T, N, 384)``.
            context: tokens of the tasks, ``(T, M, E)``.
        """
        number = shown.sum(1)
        weight = torch.einsum("tkn,tn->tk", shown, 1 / number.clamp(min=1))
        total = torch.einsum("tk,tkf->tf", weight, features) + self.centre
        centre = total / (weight.sum(1, keepdim=True) + 1)
        rows = torch.cat([F.normalize(features - centre[:, None], dim=-1), F.normalize(self.speak(texts), dim=-1)], 1)
        told = (texts.abs().sum(-1) > 0).to(features)
        trust = torch.cat([weight, self.log_trust.exp() * told], 1).clamp(min=1e-12).sqrt()  # of zero: no gradient
        scale, penalty = self.scale_and_penalty(number, context)
        each = torch.eye(shown.shape[2], device=shown.device).expand(len(shown), -1, -1)
        solution, own = ridge(rows, torch.cat([shown, each], 1) - 1 / shown.shape[2], trust, penalty)
        own = own[:, : features.shape[1]]
        return Solution(centre, scale[:, None, None] * solution, scale[:, None, None] * own)

    def scale_and_penalty(self, number: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Of every task, ``(T,)`` each, by its tokens and how many examples its classes have, ``(T, N)``."""
        shots = number.mean(1).clamp(min=0.5).log()
        facts = torch.stack([shots, torch.full_like(shots, number.shape[1]).log()], 1)
        found = self.calibrate(torch.cat([self.calm(context.mean(1)), facts], 1)).unbind(1)
        scale, penalty = ((middle + most * (x / most).tanh()).exp() for x, (middle, most) in zip(found, BOUNDS))
        return scale, penalty


def ridge(rows: Tensor, targets: Tensor, trust: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted ridge regression of several tasks in its dual form, and what it says of every row by the others.

    Leaving one out of a ridge regression needs no second one: the residual of the row that is left out is its dual
    coefficient over the diagonal of the inverse (Cawley and Talbot, "Fast exact leave-one-out cross-validation of
    sparse least-squares support vector machines", 2004).

    Args:
        rows: ``(T, R, F)``; targets: ``(T, R, N)``; trust: square roots of the rows' weights, ``(T, R)``, positive.
        penalty: ``(T,)``, positive.

    Returns:
        solutions ``(T, N, F)`` and values by the other rows ``(T, R, N)``, zero where a row has hardly any weight.

    Example:
        >>> solution, own = ridge(torch.eye(3)[None], torch.eye(3)[None], torch.ones(1, 3), torch.tensor([1e-4]))
        >>> solution[0].round(decimals=3).diag(), bool(own.abs().max() < 1e-6)
        (tensor([1., 1., 1.]), True)
    """
    weighed, wanted = trust[..., None] * rows, trust[..., None] * targets
    identity = torch.eye(rows.shape[1], device=rows.device, dtype=rows.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(weighed @ weighed.mT + penalty[:, None, None] * identity))
    dual = inverse @ wanted
    residual = dual / inverse.diagonal(dim1=1, dim2=2)[..., None]
    counts = (trust > 1e-5)[..., None]
    own = torch.where(counts, targets - residual / trust[..., None].clamp(min=1e-6), 0.0)
    return dual.mT @ weighed, own
