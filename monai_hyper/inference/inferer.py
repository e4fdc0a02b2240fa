"""A MONAI inferer that generates its network from a support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.inference.windowed import finite, over_windows
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork


class HyperInferer(Inferer):
    """Condition the model on a support set once, then let ``inferer`` apply the generated network.

    The spatial prior spans the whole field of view: it is put beside the image before ``inferer`` cuts windows, so
    any MONAI inferer that calls its network with windows of the inputs works.

    Args:
        support: the task.
        inferer: how to run over the volume; default: the whole of it at once.
        amp: whether the generated network may run in low precision; alignment and generation never do.

    Example:
        >>> from monai.inferers import SlidingWindowInferer
        >>> support = SupportSet(torch.randn(1, 1, 32, 32, 32), torch.randint(0, 2, (1, 1, 32, 32, 32)))
        >>> inferer = HyperInferer(support, SlidingWindowInferer(roi_size=(32, 32, 32)))
        >>> inferer(torch.randn(1, 1, 40, 32, 32), HyperModel().eval()).shape
        torch.Size([1, 2, 40, 32, 32])
    """

    def __init__(self, support: SupportSet, inferer: Inferer | None = None, amp: bool = False) -> None:
        super().__init__()
        self.support, self.amp = support, amp
        self.inferer = SimpleInferer() if inferer is None else inferer
        self._network: ConditionedNetwork | CascadeNetwork | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: HyperModel, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: harmonised images of the whole field of view on the task's grid, ``(B, 1, D, H, W)``.
            network: the model; it is conditioned at the first call and never again.

        Returns:
            logits ``(B, N, D, H, W)``.

        Raises:
            InputError: see :func:`monai_hyper.inference.windowed.finite`.
        """
        if self._network is None:  # here, because the checkpoint is loaded by now; once, a query must not pay for K
            self._network = network.condition(self.support.to(inputs.device))
        return finite(self._network(inputs, self._run))

    def _run(self, prepared: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(prepared.device.type, enabled=self.amp):
            return over_windows(self.inferer, apply, prepared).float()
