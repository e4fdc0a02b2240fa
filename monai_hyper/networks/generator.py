"""The hypernetwork: tokens of a task in, weights of a network out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_hyper.networks.functional import shapes_of
from monai_hyper.types import Shapes, Weights

Factors = tuple[Tensor, Tensor]


def mixed(base: Tensor, out_factors: tuple[Tensor, Tensor], in_factors: tuple[Tensor, Tensor]) -> Tensor:
    """Fold low-rank channel mixings into a convolution: ``(I + U V^T) base (I + P Q^T)``.

    Args:
        base: ``(O, I, *kernel)``.
        out_factors: ``U`` and ``V``, ``(O, r)`` each; in_factors: ``P`` and ``Q``, ``(I, r)`` each.

    Returns:
        the convolution that equals mixing, convolving and mixing again, ``(O, I, *kernel)``.
    """
    (u, v), (p, q) = out_factors, in_factors
    wide, inward = base.shape[:2]
    flat = base.reshape(wide, -1)
    within = p.T.expand(wide, -1, -1) @ flat.view(wide, inward, -1)  # (O, r, V), and with the other mixing:
    within = torch.addmm(within.flatten(1), u, v.T @ within.flatten(1)).view_as(within)
    mixed_out = torch.addmm(flat, u, v.T @ flat).view(wide, inward, -1)
    return mixed_out.baddbmm_(q.expand(wide, -1, -1), within).view(base.shape)


class FactorHead(nn.Module):
    """Two ``(width, rank)`` factors from a token: the first starts at zero, the second orthonormal.

    Args:
        reach: what the Frobenius norm of their product stays below; None: it is free.
    """

    def __init__(self, embedding_dim: int, width: int, rank: int, reach: float | None = None) -> None:
        super().__init__()
        self.width, self.scale, self.reach = width, 1 / math.sqrt(width), reach
        self.moving = nn.Linear(embedding_dim, width * rank)
        self.fixed = nn.Linear(embedding_dim, width * rank)
        nn.init.zeros_(self.moving.weight)
        nn.init.zeros_(self.moving.bias)
        nn.init.normal_(self.fixed.weight, std=0.02)
        basis = torch.empty(width, rank)
        nn.init.orthogonal_(basis)
        self.fixed.bias.data.copy_(basis.flatten() / self.scale)

    def forward(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Factors ``(..., width, rank)`` of tokens ``(..., E)``; their product is the change of the channel mixing."""
        moving, fixed = (self.scale * head(token).unflatten(-1, (self.width, -1)) for head in (self.moving, self.fixed))
        if self.reach is None:
            return moving, fixed
        square = ((moving.mT @ moving) * (fixed.mT @ fixed)).sum((-2, -1), keepdim=True)  # of the norm of the product
        return moving * torch.rsqrt(1 + square / self.reach**2), fixed


@dataclass(frozen=True)
class Changes:
    """What the tokens of ``T`` tasks change in a body.

    Args:
        mixings: of every convolution, by the name of its weight, ``(U, V)`` and ``(P, Q)`` of :func:`mixed`,
            ``(T, width, rank)`` each.
        affines: of every normalisation, by its name, what to add to 1 for a factor of its scale, and what to add to
            its shift, ``(T, width)`` each.
    """

    mixings: dict[str, tuple[Factors, Factors]]
    affines: dict[str, tuple[Tensor, Tensor]]


class Standard(nn.Module):
    """Tokens as deviations from what they usually are, in units of how much they usually differ between tasks.

    What is the same for all tasks is the body's to learn; here only what tells tasks apart goes on. Moments are moving
    means over tasks in training, and no gradient passes through them.

    Args:
        shape: of the tokens of a task.
    """

    PACE, MOST = 0.01, 4.0

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(T, *shape)`` of tokens ``(T, *shape)``, softly kept within ``MOST`` deviations."""
        if self.training:
            self._learn(tokens.detach())
        apart = (tokens - self.mean) * torch.rsqrt(self.variance + 1e-6)
        return self.MOST * torch.tanh(apart / self.MOST)

    @torch.no_grad()
    def _learn(self, tokens: Tensor) -> None:
        self.seen += 1
        pace = torch.clamp(1 / self.seen, min=self.PACE)
        before = tokens - self.mean
        self.mean += pace * before.mean(0)
        first = self.seen == 1  # what is far from zero then is no sign of what differs
        square = torch.where(first, (tokens - self.mean).square(), before.square()).mean(0)
        self.variance += torch.where(first, torch.ones_like(pace), pace) * (square - self.variance)


class HyperNetwork(nn.Module):
    """Generate the weights of a body from the tokens of a task, by changing what the body has learned.

    One token per layer meets the task's tokens in a small transformer. Convolutions are mixed by low-rank
    factors on their output and input channels (see :func:`mixed`), normalisations get scale and shift.
    Weight generation after Ha et al., "HyperNetworks", 2016, https://arxiv.org/abs/1609.09106; inputs of the
    weight heads have constant norm after Ortiz et al., "Magnitude Invariant Parametrizations Improve
    Hypernetwork Learning", 2024, https://arxiv.org/abs/2304.07645. At first the weights are the body's own.

    Args:
        shapes: name and shape of the body's parameters, see :func:`shapes_of`. Convolutions (5 axes) and
            normalisations (``weight`` and ``bias`` of one axis, of the same layer) are generated; all other
            parameters stay as learned.
        embedding_dim: length ``E`` of a token.
        rank: rank of the channel mixings.
        reach: of their factors, see :class:`FactorHead`; with one, tokens of layers are :class:`Standard`.

    Example:
        >>> body = nn.Sequential(nn.Conv3d(2, 8, 3), nn.InstanceNorm3d(8, affine=True))
        >>> hypernetwork = HyperNetwork(shapes_of(body), embedding_dim=16)
        >>> weights = hypernetwork(torch.zeros(5, 16), dict(body.named_parameters()))
        >>> bool((weights["0.weight"] == body[0].weight).all())
        True
    """

    def __init__(
        self, shapes: Shapes, embedding_dim: int, rank: int = 8, depth: int = 3, reach: float | None = None
    ) -> None:
        super().__init__()
        self.convolutions = [name for name, shape in shapes.items() if len(shape) == 5]
        self.norms = [
            name.removesuffix(".weight")
            for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) == 1 and f"{name.removesuffix('.weight')}.bias" in shapes
        ]
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.layers = nn.Parameter(torch.randn(len(self.convolutions) + len(self.norms), embedding_dim))
        self.transformer = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                embedding_dim, 4, 2 * embedding_dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            ),
            depth,
            norm=nn.LayerNorm(embedding_dim, elementwise_affine=False),
            enable_nested_tensor=False,
        )
        count = len(self.layers)
        self.standard = nn.Identity() if reach is None else Standard(count, embedding_dim)
        self.out_heads, self.in_heads = (
            nn.ModuleDict({str(w): FactorHead(embedding_dim, w, min(rank, w), reach) for w in sorted(widths)})
            for widths in map(set, zip(*(self.shapes[name][:2] for name in self.convolutions)))
        )
        widths = {self.shapes[f"{name}.weight"][0] for name in self.norms}
        self.norm_heads = nn.ModuleDict({str(w): nn.Linear(embedding_dim, 2 * w) for w in sorted(widths)})
        for head in self.norm_heads.values():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, context: Tensor, base: Weights) -> Weights:
        """
        Args:
            context: tokens of one task, ``(M, E)``.
            base: the body's own parameters by name.

        Returns:
            one tensor per name in ``base``, of exactly its shape.
        """
        changes, weights = self.changes(context[None]), dict(base)
        for name, ((u, v), (p, q)) in changes.mixings.items():
            weights[name] = mixed(base[name], (u[0], v[0]), (p[0], q[0]))
        for name, (scale, shift) in changes.affines.items():
            weights[f"{name}.weight"] = base[f"{name}.weight"] * (1 + scale[0])
            weights[f"{name}.bias"] = base[f"{name}.bias"] + shift[0]
        return weights

    def changes(self, context: Tensor) -> Changes:
        """What several tasks change in the body, all at once.

        Args:
            context: tokens of every task, ``(T, M, E)``.
        """
        layers = self.layers.expand(context.shape[0], -1, -1)
        tokens = self.standard(self.transformer(torch.cat([layers, context], 1))[:, : len(self.layers)])
        mixings, affines = {}, {}
        for i, name in enumerate(self.convolutions):
            out, inward = self.shapes[name][:2]
            token = tokens[:, i]
            mixings[name] = self.out_heads[str(out)](token), self.in_heads[str(inward)](token)
        for i, name in enumerate(self.norms, len(self.convolutions)):
            width = self.shapes[f"{name}.weight"][0]
            affines[name] = (0.3 * self.norm_heads[str(width)](tokens[:, i])).chunk(2, -1)
        return Changes(mixings, affines)


def generator_for(
    body: nn.Module, embedding_dim: int, rank: int = 8, depth: int = 3, reach: float | None = None
) -> HyperNetwork:
    """The hypernetwork that fits ``body``.

    Raises:
        ValueError: if ``body`` has no convolution with five axes.
    """
    shapes = shapes_of(body)
    if not any(len(shape) == 5 for shape in shapes.values()):
        raise ValueError(f"{type(body).__name__} has no 3D convolution; expected at least one to generate.")
    return HyperNetwork(shapes, embedding_dim, rank, depth, reach)
