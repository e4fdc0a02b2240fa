"""What a description says where there is no example: where to look, and a read-out for every class."""

from __future__ import annotations

from torch import Tensor, nn

from monai_hyper.data.text import TEXT_DIM

PLACES = 5
"""Knots along each side of a prior that was made from words."""


class Speaker(nn.Module):
    """Prior and read-outs from vectors of descriptions, linear, zero at first.

    Args:
        prior_channels: ``P``; widths: channels of the feature scales.
    """

    def __init__(self, prior_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.prior_channels, self.widths = prior_channels, tuple(widths)
        self.to_prior = nn.Linear(TEXT_DIM, prior_channels * PLACES**3)
        self.to_head = nn.Linear(TEXT_DIM, sum(widths) + 1)
        for layer in (self.to_prior, self.to_head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, texts: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """
        Args:
            texts: of the classes, ``(..., n, 384)``.

        Returns:
            prior over the field of view, ``(..., P, s, s, s)``; weights of every feature scale, ``(..., n, C_i)`` each,
            and biases ``(..., n)``.
        """
        prior = self.to_prior(texts).mean(-2).unflatten(-1, (self.prior_channels, PLACES, PLACES, PLACES))
        *heads, bias = self.to_head(texts).split([*self.widths, 1], -1)
        return prior, heads, bias[..., 0]


def told(texts: Tensor) -> Tensor:
    """Mean of the vectors of the described classes, zero where none is; ``(..., n, 384)`` to ``(..., 384)``."""
    known = (texts.abs().sum(-1, keepdim=True) > 0).to(texts)
    return (texts * known).sum(-2) / known.sum(-2).clamp(min=1)
