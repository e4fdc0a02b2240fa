"""MONAI inferers that generate their network from a support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.inference.few_shot_classifier import RELIABLE, FewShotClassifier
from monai_hyper.inference.windowed import finite, over_windows
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork
from monai_hyper.transforms.pictures import ClassPlan


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


class ClassInferer(Inferer):
    """Generate a classifier from a support set once, then apply it.

    Args:
        support: the task; plan: how its images were prepared.
        reliable: share of the answers that shall be right where one is given, 0 to 1; 0: always answer.

    Example:
        >>> plan = ClassPlan("MR", None, (16, 16, 1), 1.0, ("even", "odd"), ("", ""), 1)
        >>> support = SupportSet(torch.randn(4, 1, 16, 16, 1), torch.tensor([0, 0, 1, 1]), plan.classes)
        >>> inferer = ClassInferer(support, plan, reliable=0)
        >>> inferer(torch.randn(3, 1, 16, 16, 1), HyperClassifier().eval()).shape, inferer.threshold()
        (torch.Size([3, 2]), 0.0)
    """

    def __init__(self, support: SupportSet, plan: ClassPlan, reliable: float = RELIABLE) -> None:
        super().__init__()
        self.support, self.plan, self.reliable = support, plan, reliable
        self._classifier: FewShotClassifier | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: HyperClassifier, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: prepared images, ``(B, 1, D, H, W)``.
            network: the model; it is conditioned at the first call and never again.

        Returns:
            calibrated logits ``(B, N)``.
        """
        if self._classifier is None:  # as in HyperInferer
            self._classifier = FewShotClassifier(network, inputs.device, self.reliable).fit(self.support, self.plan)
        return self._classifier.network_(inputs)

    def threshold(self) -> float:
        """Least probability of an answer, after the first image.

        Raises:
            RuntimeError: before the first image.
        """
        if self._classifier is None:
            raise RuntimeError("this ClassInferer has generated no classifier yet; let it see an image first.")
        return self._classifier.threshold_
