"""What the support set says: tokens for the generator and a spatial prior."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.functional import SMALLEST_SIDE, fit_field, pad_small
from monai_hyper.networks.unet import ConvBlock
from monai_hyper.types import MAX_SHOTS

REGIONS = 5
"""Foreground, inner rim, outer rim, far background, everything."""

GEOMETRY = 8
"""Numbers that describe the place and size of a mask."""


def regions_of(mask: Tensor) -> Tensor:
    """Soft regions around a soft mask, at the mask's own resolution.

    Args:
        mask: occupancy in [0, 1], ``(B, 1, D, H, W)``.

    Returns:
        foreground, inner rim, outer rim, far background, everything, ``(B, 5, D, H, W)``.
    """
    dilated, eroded = F.max_pool3d(mask, 3, 1, 1), -F.max_pool3d(-mask, 3, 1, 1)
    return torch.cat([mask, mask - eroded, dilated - mask, 1 - dilated, torch.ones_like(mask)], 1)


def pooled_statistics(features: Tensor, regions: Tensor) -> Tensor:
    """Mean and standard deviation of features over soft regions.

    Args:
        features: ``(B, C, D, H, W)``; regions: ``(B, R, D, H, W)``.

    Returns:
        ``(B, R, 2 C)``; zero where a region is empty.
    """
    weight = regions.flatten(2)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-3)
    flat = features.flatten(2).float()
    mean = torch.einsum("brv,bcv->brc", weight, flat)
    square = torch.einsum("brv,bcv->brc", weight, flat * flat)
    return torch.cat([mean, (square - mean * mean).clamp(min=1e-6).sqrt()], -1)


def coordinates(size: list[int], like: Tensor) -> Tensor:
    """Normalised coordinates of voxel centres over the field of view, -1 to 1, ``(1, 3, *size)``."""
    axes = [(torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def geometry_of(mask: Tensor) -> Tensor:
    """Place, spread and log volume fraction of soft masks ``(B, 1, D, H, W)``, ``(B, 8)``."""
    grid = coordinates(list(mask.shape[2:]), mask)
    weight = mask.flatten(2) / (mask.flatten(2).sum(-1, keepdim=True) + 1e-3)
    centre = (weight * grid.flatten(2)).sum(-1)
    spread = ((weight * grid.flatten(2) ** 2).sum(-1) - centre**2).clamp(min=1e-6).sqrt()
    fraction = mask.flatten(1).mean(1, keepdim=True)
    return torch.cat([centre, spread, (fraction + 1e-6).log() / 5, fraction], 1)


class ContextEncoder(nn.Module):
    """Read annotated volumes; tokens describe the task, maps tell where things lie.

    Region statistics of convolutional features follow masked average pooling (Zhang et al., "SG-One", 2018,
    https://arxiv.org/abs/1810.09091), with rims added and masks pooled from full resolution, so that small
    structures survive. Shots are averaged, so their order cannot matter; so are classes.

    Args:
        embedding_dim: length ``E`` of a token.
        prior_channels: channels of the spatial prior; None: nothing is marked in the volumes, and there is no prior.
        channels: width at 1/2, 1/4, 1/8 and 1/16 of the grid.
        smallest: shorter sides are padded by repetition.
    """

    def __init__(
        self,
        embedding_dim: int,
        prior_channels: int | None,
        channels: tuple[int, ...] = (24, 48, 96, 128),
        smallest: int = SMALLEST_SIDE,
    ) -> None:
        super().__init__()
        a, b, c, d = channels
        self.smallest = smallest
        self.down1 = ConvBlock(5, a, 2)
        self.down2 = nn.Sequential(ConvBlock(a, b, 2), ConvBlock(b, b))
        self.down3 = nn.Sequential(ConvBlock(b, c, 2), ConvBlock(c, c))
        self.down4 = nn.Sequential(ConvBlock(c, d, 2), ConvBlock(d, d))
        if prior_channels is not None:
            self.lateral = nn.ModuleList([nn.Conv3d(b, b, 1), nn.Conv3d(c, b, 1), nn.Conv3d(d, b, 1)])
            self.to_prior = nn.Sequential(ConvBlock(b, b), nn.Conv3d(b, prior_channels, 1))
        self.embed = nn.ModuleList(nn.Linear(2 * width, embedding_dim) for width in (1, a, b, c, d))
        if prior_channels is not None:
            self.embed_geometry = nn.Linear(GEOMETRY, embedding_dim)
        self.place = nn.Parameter(0.02 * torch.randn(len(self.embed) * REGIONS + 1, embedding_dim))
        self.mix = nn.Sequential(
            nn.LayerNorm(embedding_dim), nn.Linear(embedding_dim, embedding_dim), nn.GELU(),
            nn.Linear(embedding_dim, embedding_dim),
        )  # fmt: skip
        self.shots = nn.Linear(1, embedding_dim)

    def maps(self, images: Tensor, masks: Tensor) -> list[Tensor]:
        """Image and feature maps of ``k`` volumes at 1/2 to 1/16 of the grid.

        Args:
            images: ``(k, 1, D, H, W)``; masks: foreground of any class, ``(k, 1, D, H, W)``.
        """
        size, batch = list(images.shape[2:]), images.shape[0]
        x = torch.cat([images, masks, coordinates(size, images).expand(batch, -1, -1, -1, -1)], 1)
        found = [self.down1(pad_small(x, self.smallest, slices=True))]
        for level in (self.down2, self.down3, self.down4):
            found.append(level(found[-1]))
        cropped = [
            f[:, :, : -(-size[0] // s), : -(-size[1] // s), : -(-size[2] // s)] for f, s in zip(found, (2, 4, 8, 16))
        ]
        return [images, *cropped]

    def prior(self, maps: list[Tensor]) -> Tensor:
        """Prior channels of every volume at a quarter of the grid, ``(k, P, d, h, w)``."""
        quarter = maps[2].shape[2:]
        return self.to_prior(sum(fit_field(lateral(m), quarter) for lateral, m in zip(self.lateral, maps[2:])))

    def tokens(self, maps: list[Tensor], mask: Tensor) -> Tensor:
        """Tokens of ``k`` volumes for every class.

        Args:
            maps: from :meth:`maps`; mask: of every class, ``(k, n, D, H, W)``.

        Returns:
            ``(k, n, M, E)``.
        """
        found, count = [], mask.shape[:2]
        for embed, features in zip(self.embed, maps):
            pooled = F.adaptive_avg_pool3d(mask, list(features.shape[2:])).flatten(0, 1)[:, None]
            regions = regions_of(pooled).unflatten(0, count).flatten(1, 2)
            found.append(embed(pooled_statistics(features, regions)).unflatten(1, (-1, REGIONS)))
        each = F.avg_pool3d(mask, [min(2, side) for side in mask.shape[2:]], ceil_mode=True).flatten(0, 1)[:, None]
        found.append(self.embed_geometry(geometry_of(each)).unflatten(0, count)[:, :, None])
        return self.mix(torch.cat(found, 2) + self.place)

    def tokens_of_whole(self, maps: list[Tensor]) -> Tensor:
        """Tokens of ``k`` volumes in which nothing is marked, one for every scale, ``(k, 5, E)``; see :meth:`maps`."""
        found = []
        for number, (embed, features) in enumerate(zip(self.embed, maps)):
            flat = features.flatten(2).float()
            statistics = torch.cat([flat.mean(2), flat.var(2, unbiased=False).clamp(min=1e-6).sqrt()], 1)
            found.append(embed(statistics) + self.place[number * REGIONS + REGIONS - 1])
        return self.mix(torch.stack(found, 1))

    def aggregate(self, tokens: Tensor, annotated: Tensor, scale: Tensor | None = None) -> Tensor:
        """Average over the volumes that annotate a class, then over classes; add how many volumes there are, of more
        than 16 as for 16.

        Args:
            tokens: ``(..., K, n, M, E)``; annotated: ``(K, n)`` bool.
            scale: what tells whole volumes from windows, ``(E,)``.

        Returns:
            the task's tokens, ``(..., M + 1, E)``.
        """
        weight = annotated.to(tokens).div(annotated.sum(0).clamp(min=1) * annotated.shape[1])
        mean = torch.einsum("kn,...knme->...me", weight, tokens)
        count = self.shots(tokens.new_tensor([[math.log(min(annotated.shape[0], MAX_SHOTS))]]))
        count = count if scale is None else count + scale
        return torch.cat([mean, count.expand(*mean.shape[:-2], -1, -1)], -2)
