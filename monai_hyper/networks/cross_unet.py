"""A network that reads the support together with every query: cross-convolutions in three dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.functional import enlarge, pad_small
from monai_hyper.networks.unet import ConvBlock

CHUNK = 4
"""Support volumes that pass through a block at a time: memory beyond the stored features does not grow with K."""


class CrossBlock(nn.Module):
    """Let query features and the features of every support volume meet.

    ``z_i = conv(u || v_i)``, then ``u' = A(conv(mean of z_i))`` and ``v_i' = A(conv(z_i))`` for query features ``u``
    and support features ``v_i``, where ``A`` normalises and activates. The convolution of a concatenation is the sum of
    two convolutions, and the mean of ``z_i`` is that of the mean of ``v_i``: the query's share is computed once,
    whatever K is.

    Args:
        query_channels, support_channels: of ``u`` and ``v_i``.
        out_channels: of ``u'`` and ``v_i'``.
        last: whether no block follows, so that ``v_i'`` is not needed.
    """

    def __init__(self, query_channels: int, support_channels: int, out_channels: int, last: bool = False) -> None:
        super().__init__()
        self.of_query = nn.Conv3d(query_channels, out_channels, 3, padding=1)
        self.of_support = nn.Conv3d(support_channels, out_channels, 3, padding=1, bias=False)
        self.to_query = ConvBlock(out_channels, out_channels)
        self.to_support = None if last else ConvBlock(out_channels, out_channels)

    def query(self, shared: Tensor, mean: Tensor) -> Tensor:
        """New query features from ``of_query(u)`` and the mean support features, ``(B, C, D, H, W)`` each."""
        return self.to_query(shared + self.of_support(mean))

    def support(self, shared: Tensor, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """New support features, some volumes at a time.

        Args:
            shared: ``of_query(u)``, ``(B, C, D, H, W)``; features: of the volumes beside every query in turn,
                ``(B * K, C', D, H, W)``.

        Yields:
            index of the query ``(k,)`` and features ``(k, C, D, H, W)``.
        """
        asked = torch.arange(len(features), device=shared.device) // (len(features) // len(shared))
        for index, part in zip(asked.split(CHUNK), features.split(CHUNK)):
            yield index, self.to_support(shared[index] + self.of_support(part))

    def forward(self, query: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            query: ``(B, C, D, H, W)``; support: volumes beside every query in turn, ``(B * K, C', D, H, W)``.

        Returns:
            new features of both, ``(B, C'', D, H, W)`` and ``(B * K, C'', D, H, W)``.
        """
        shared = self.of_query(query)
        parts = [features for _, features in self.support(shared, support)]
        return self.query(shared, _mean(support, len(query))), torch.cat(parts)


class CrossUNet(nn.Module):
    """UniverSeg in three dimensions: an encoder-decoder of cross-convolutions with skips.

    After Butoi et al., "UniverSeg: Universal Medical Image Segmentation", 2023, https://arxiv.org/abs/2304.06131,
    with 3x3x3 kernels and a width per level. Unlike there, features are normalised, for the sake of short training.
    The last block needs the mean of the support features alone, so none are kept per volume at full resolution.

    Args:
        channels: width of each level, the full grid first; every level halves the grid.

    Example:
        >>> network = CrossUNet((4, 8))
        >>> network(torch.randn(1, 1, 9, 10, 8), torch.randn(3, 2, 9, 10, 8)).shape
        torch.Size([1, 1, 9, 10, 8])
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 64)) -> None:
        super().__init__()
        inward = [(1, 2), *((width, width) for width in channels[:-1])]
        self.down = nn.ModuleList(CrossBlock(*pair, width) for pair, width in zip(inward, channels))
        pairs = list(zip(channels[:-1], channels[1:]))
        self.up = nn.ModuleList(
            CrossBlock(width + deeper, width + deeper, width, last=level == 0)
            for level, (width, deeper) in enumerate(pairs)
        )
        self.read = nn.Conv3d(channels[0], 1, 1)
        nn.init.constant_(self.read.bias, -2.0)  # foreground is rare

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """
        Args:
            query: images, ``(B, 1, D, H, W)``.
            support: image and mask of every support volume on the queries' grid, ``(K, 2, D, H, W)``.

        Returns:
            logits of the foreground, ``(B, 1, D, H, W)``.
        """
        size, smallest = query.shape[2:], 2 ** len(self.down)  # the coarsest level keeps more than one voxel
        query, support = pad_small(query, smallest), pad_small(support, smallest)
        outer, query, support = self._first(query, support.repeat(len(query), 1, 1, 1, 1))
        kept = []
        for block in self.down[1:]:
            if kept:
                query, support = _halved(query), _halved(support)
            query, support = block(query, support)
            kept.append((query, support))
        for block, (query_skip, support_skip) in zip(list(self.up)[:0:-1], kept[-2::-1]):
            query, support = block(_joined(query, query_skip), _joined(support, support_skip))
        query, mean = _joined(query, outer[0]), _joined(_mean(support, len(query)), outer[1])
        last = self.up[0]
        return self.read(last.query(last.of_query(query), mean))[:, :, : size[0], : size[1], : size[2]]

    def _first(self, query: Tensor, support: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """The block at full resolution: query and mean support features, and both at half resolution per volume."""
        block, halved = self.down[0], []
        shared = block.of_query(query)
        total = torch.zeros_like(shared)
        for index, features in block.support(shared, support):
            total = total.index_add(0, index, features)
            halved.append(_halved(features))
        mean = total * (len(query) / len(support))
        query = block.query(shared, _mean(support, len(query)))
        return (query, mean), _halved(query), torch.cat(halved)


def _mean(support: Tensor, queries: int) -> Tensor:
    """Mean over the volumes beside every query, ``(B * K, ...)`` to ``(B, ...)``."""
    return support.unflatten(0, (queries, -1)).mean(1)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool3d(x, 2, ceil_mode=True)


def _joined(coarse: Tensor, fine: Tensor) -> Tensor:
    """Coarse features upsampled beside fine ones."""
    return torch.cat([enlarge(coarse, 2, fine.shape[2:]), fine], 1)
