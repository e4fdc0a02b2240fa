"""Convolutions that see an image of one slice as what it is: a plane."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.functional import exporting


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` of 1 or 3 voxels a side, the same numbers; where the last axis is one voxel long only the middle
    of its kernel meets anything but padding, so that a plane takes a third of the work.

    Example:
        >>> import torch
        >>> conv = Conv3d(1, 2, 3)
        >>> image = torch.randn(1, 1, 6, 5, 1)
        >>> torch.allclose(conv(image), nn.functional.conv3d(image, conv.weight, conv.bias, padding=1), atol=1e-6)
        True
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, side, stride=stride, padding=side // 2, bias=bias)
        self.step, self.middle = stride, side // 2

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.shape[4] == 1 and not exporting():
            plane = F.conv2d(input[:, :, :, :, 0], weight[:, :, :, :, self.middle], bias, self.step, self.middle)
            return plane[:, :, :, :, None]
        return F.conv3d(input, weight, bias, self.step, self.middle)
