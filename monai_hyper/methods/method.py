"""What all methods have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from monai_hyper.data.support import SupportSet


class Method(Protocol):
    """A few-shot method."""

    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """
        Returns:
            a network: harmonised images ``(B, 1, D, H, W)`` of the whole field of view to logits
            ``(B, N, D, H, W)``.
        """
