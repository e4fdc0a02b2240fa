"""Bodies that the meta-trained baselines may have, by name."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.classifier import ClassifierBody
from monai_hyper.networks.convolution import Conv3d


class Conv4(nn.Module):
    """Four convolutions of 64 channels, each with batch normalisation, ReLU and pooling: the usual few-shot network.

    After Vinyals et al., "Matching Networks for One Shot Learning", 2016, https://arxiv.org/abs/1606.04080. As usual
    the statistics are those of the images that are seen together, the queries of an episode among them.

    Attributes:
        width: number of features.

    Example:
        >>> import torch
        >>> Conv4()(torch.randn(2, 1, 28, 28, 1)).shape
        torch.Size([2, 64])
    """

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Conv3d(1 if i == 0 else 64, 64, 3) for i in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm3d(64, track_running_stats=False) for _ in range(4))

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(B, 64)`` of images ``(B, 1, D, H, W)``."""
        x = image
        for convolution, norm in zip(self.convolutions, self.norms):
            x = F.relu(norm(convolution(x)))
            x = F.max_pool3d(x, [min(2, side) for side in x.shape[2:]])
        return x.mean((2, 3, 4))


BODIES = {"resnet": ClassifierBody, "conv4": Conv4}
