"""Features that need no learning: brightness and texture, how sure the examples are of a place, and both together.

Ridge regression is linear in its features. With these beside the body's it can bend what the mean mask says, which
matters most where alignment is rough: a good cut is far from one half there, and brightness tells the border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.networks.alignment import smooth

PLAIN = 23
"""Number of plain features."""


def _deviation(x: Tensor, mean: Tensor, side: int) -> Tensor:
    return (smooth(x * x, side) - mean * mean).clamp(min=1e-6).sqrt()


def plain_features(inputs: Tensor, least: float = 0.02) -> Tensor:
    """Plain features of prepared images.

    Args:
        inputs: what the body sees: image first, union of the mean masks last, ``(B, C, D, H, W)``.
        least: of a mask and of its rest, so that its log-odds are finite.

    Returns:
        ``(B, PLAIN, D, H, W)``.
    """
    image, mask = inputs[:, :1], inputs[:, inputs.shape[1] - 1 :].clamp(0, 1)
    close, wide, near, far = smooth(image, 3), smooth(image, 7), smooth(mask, 3), smooth(mask, 7)
    rough, uneven = _deviation(image, close, 3), _deviation(image, wide, 7)
    odds = ((near + least) / (1 + least - near)).log() / 4
    of_place = [mask * mask, near, far, odds, odds * odds]
    of_image = [image, close, wide, image * image, close * close, wide * wide, close * wide, rough, uneven]
    of_both = [mask * close, far * close, far * close * close, far * wide, far * rough, far * uneven]
    by_odds = [odds * close, odds * close * close, odds * wide]
    return torch.cat(of_place + of_image + of_both + by_odds, 1)


def with_plain(features: list[Tensor], inputs: Tensor) -> list[Tensor]:
    """The body's features of all scales, the plain ones of its inputs beside those of the finest.

    Args:
        features: ``(B, C_i, ...)``, the first on the grid of ``inputs``, which may be padded at the high ends.
    """
    plain, first = plain_features(inputs.detach()), features[0]  # image and masks have nothing to learn
    d, h, w = (first.shape[2] - plain.shape[2], first.shape[3] - plain.shape[3], first.shape[4] - plain.shape[4])
    return [torch.cat([first, F.pad(plain, [0, w, 0, h, 0, d]).to(first.dtype)], 1)] + features[1:]


def with_plain_widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Channels of what :func:`with_plain` gives.

    Example:
        >>> with_plain_widths((16, 24))
        (39, 24)
    """
    return (widths[0] + PLAIN, *widths[1:])
