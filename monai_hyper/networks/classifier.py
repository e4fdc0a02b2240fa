"""The plain 3D network that classifies: a residual network, and a linear layer on the directions of its features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.convolution import Conv3d

GROUPS = 8
"""Groups of channels that are normalised together: small images have too few voxels for a channel by itself."""


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with group normalisation beside a short cut, after He et al., "Deep Residual Learning for
    Image Recognition", 2016, https://arxiv.org/abs/1512.03385."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3d(in_channels, out_channels, 3, stride, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = Conv3d(out_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.stride = stride
        self.short = nn.Identity() if in_channels == out_channels else Conv3d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:  # as ResNet-D does: the mean rather than every other voxel
            x = F.adaptive_avg_pool3d(x, y.shape[2:])
        return F.relu(y + self.short(x))


class ClassifierBody(nn.Module):
    """Features of an image: a residual network of four levels, then means over the image.

    Args:
        channels: width of the levels.
        stride: of the first convolution.

    Attributes:
        width: number of features.

    Example:
        >>> ClassifierBody((8, 16, 16, 24))(torch.randn(2, 1, 32, 32, 1)).shape
        torch.Size([2, 40])
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 96, 128), stride: int = 2) -> None:
        super().__init__()
        a, b, c, d = channels
        self.channels, self.stride, self.width = tuple(channels), stride, c + d
        self.stem = nn.Sequential(Conv3d(1, a, 3, stride, bias=False), nn.GroupNorm(GROUPS, a), nn.ReLU())
        self.levels = nn.ModuleList(
            [ResidualBlock(a, a, 1), ResidualBlock(a, b, 2), ResidualBlock(b, c, 2), ResidualBlock(c, d, 2)]
        )

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(B, width)`` of images ``(B, 1, D, H, W)``."""
        x = self.stem(image)
        found: list[Tensor] = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return torch.cat([found[2].mean((2, 3, 4)), found[3].mean((2, 3, 4))], 1)


class Directions(nn.Module):
    """Where features lie from a centre, in units of their distance: what a linear layer reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, width)`` of features ``(B, width)``."""
        return F.normalize(features - self.centre, dim=1)


class Classifier(nn.Module):
    """A plain classifier: image in, logits out. It needs no hypernetwork and no support set.

    Args:
        body: features of images, such as :class:`ClassifierBody`.
        classes: number ``N`` of classes.

    Example:
        >>> Classifier(ClassifierBody((8, 16, 16, 24)), 3)(torch.randn(2, 1, 32, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body = body
        self.directions = Directions(body.width)
        self.head = nn.Linear(body.width, classes, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, N)`` of harmonised images ``(B, 1, D, H, W)``."""
        return self.head(self.directions(self.body(image)))
