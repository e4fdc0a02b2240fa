"""What a step of meta-training does with a batch of tasks, up to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.training.loss import HEARD, objective
from monai_hyper.training.polish import polished_objective

Infer = Callable[[TaskBatch, nn.Module], Iterator[tuple[Tensor, Tensor]]]


class TaskInferer(Inferer):
    """Generate the networks of a batch of tasks and hold what they say of its queries against the truth.

    Args:
        precision: of the convolutions, "float32" or "bfloat16"; all else is float32.
        polish_steps: fewest and most gradient steps on a task's support before its queries are asked for, float32
            throughout; None: the networks as generated.
        heard: see :data:`monai_hyper.training.loss.HEARD`.
    """

    def __init__(
        self,
        precision: str = "float32",
        polish_steps: tuple[int, int] | None = None,
        heard: tuple[float, float] = HEARD,
    ) -> None:
        super().__init__()
        self.precision, self.polish_steps, self.heard = precision, polish_steps, tuple(heard)

    def __call__(
        self, inputs: TaskBatch, network: nn.Module, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """
        Args:
            inputs: tasks; network: what is trained, see :func:`monai_hyper.training.loss.objective`.

        Returns:
            parts of the loss, to be summed, and the Dice of the queries of every part's tasks.
        """
        if self.polish_steps is not None:
            return polished_objective(network, inputs, self.polish_steps)
        low = torch.autocast(inputs.images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        return objective(network, inputs, low, self.heard)
