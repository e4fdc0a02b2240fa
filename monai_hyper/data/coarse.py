"""Volumes on a coarser grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reduce(x: Tensor, factor: int) -> Tensor:
    """Average ``(B, C, D, H, W)`` over cubes of ``factor`` voxels a side, those at the far edge over what they hold.

    :func:`monai_hyper.networks.functional.enlarge` goes back.
    """
    if factor > 1:
        d, h, w = [max(0, factor - side) for side in x.shape[2:]]  # thinner than a cube: repeated until it fills one
        x = F.pad(x, [0, w, 0, h, 0, d], mode="replicate") if d + h + w > 0 else x
        x = F.avg_pool3d(x, factor, ceil_mode=True, count_include_pad=False)
    return x
