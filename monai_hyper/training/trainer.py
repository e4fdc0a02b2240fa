"""Meta-training as a MONAI trainer, for bundles and for handlers of MONAI and ignite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import Trainer
from torch import nn

from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.tasks import TaskEngine
from monai_hyper.training.inferer import TaskInferer
from monai_hyper.training.loop import MetaTraining, TrainConfig
from monai_hyper.workers import this_worker


class MetaTrainer(Trainer):
    """What ``monai-hyper train`` does, step by step, with epochs between which handlers may act.

    After every iteration ``state.output`` and ``state.metrics`` hold the loss and the mean Dice of its tasks. There is
    a checkpoint after every epoch, and a run that was cut off goes on from the last one.

    Args:
        settings: how to train; their ``steps`` and ``every`` follow from the epochs.
        network: what to train, see :func:`monai_hyper.training.loop.make_model`.
        dataset: what draws the tasks.
        inferer: what a step does with them; precision and polish of the settings do not count beside it.
        max_epochs: in all, those of a run that is resumed too; epoch_length: steps in each.
        train_handlers: of MONAI or ignite.
    """

    def __init__(
        self,
        settings: TrainConfig,
        network: nn.Module,
        dataset: TaskEngine,
        inferer: TaskInferer,
        max_epochs: int,
        epoch_length: int,
        train_handlers: Sequence | None = None,
    ) -> None:
        settings = replace(settings, steps=max_epochs * epoch_length, every=epoch_length)
        worker = this_worker(settings.device)
        self.training = MetaTraining(settings, network, dataset, worker, inferer)
        device = torch.device(worker.device)
        super().__init__(device, max_epochs, self.training, epoch_length, decollate=False, handlers=train_handlers)
        self.network, self.optimizer = self.training.model, self.training.optimiser
        self.state.iteration = self.training.step
        self.state.epoch = self.training.step // epoch_length

    def run(self) -> None:
        """Train until the last epoch has ended; nothing where it has ended before."""
        if self.training.step < self.training.last:
            super().run()
        self.training.close()

    def _iteration(self, engine: Engine, batchdata: TaskBatch) -> dict[str, Any]:
        found = self.training.learn(batchdata)
        engine.state.metrics = dict(found)
        return found
