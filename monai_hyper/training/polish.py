"""The loss that a task reaches after a polish: where its weights are to start from, and how far each is to step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monai_hyper.methods.fitting import Budget
from monai_hyper.methods.polish import polished
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import ConditionedNetwork
from monai_hyper.networks.template import Template, frame_of
from monai_hyper.synthesis.batch import Episode, TaskBatch
from monai_hyper.training.loss import segmentation_loss, task_dice


def polished_objective(model: HyperModel, batch: TaskBatch, steps: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Like :func:`monai_hyper.training.loss.objective`, after a polish, one task after another, in float32.

    Args:
        steps: fewest and most gradient steps; how many is drawn for every task, so that what is learned serves short
            and long ones.
    """
    for task in range(len(batch.kinds)):
        drawn, episode = int(torch.randint(steps[0], steps[1] + 1, ())), batch.episode(task)
        loss, logits = polished_loss(model, episode, drawn, frame_of(batch, task), batch.local)
        yield loss / len(batch.kinds), task_dice(logits[None], episode.labels[None])


def polished_loss(
    model: HyperModel, episode: Episode, steps: int, template: Template | None = None, local: bool = False
) -> tuple[Tensor, Tensor]:
    """Dice and focal loss on the queries of a task after gradient steps on its support.

    Args:
        template, local: see :func:`monai_hyper.training.loss.episode_loss`.

    Returns:
        the loss, and the queries' logits ``(Q, N, D, H, W)``.
    """
    network, _ = model.generate(episode.support, template, local)
    reached = polished(model, network, episode.support, Budget(steps=steps))
    places = None if template is None else template.own[episode.support.shots :]
    logits = first_order(model, network, reached)(episode.images, places=places)
    return segmentation_loss(logits[None], episode.labels[None]), logits


def first_order(model: HyperModel, start: ConditionedNetwork, reached: ConditionedNetwork) -> ConditionedNetwork:
    """A polished network as a differentiable function of the weights that it started from and of the step sizes.

    What the steps added counts as a constant times the step size: first-order MAML (Finn et al., 2017,
    https://arxiv.org/abs/1703.03400), and for the step sizes Meta-SGD (Li et al., 2017,
    https://arxiv.org/abs/1707.09835) without its second derivatives.
    """
    weights = {}
    for name, size in model.step_sizes().items():
        added = (reached.weights[name] - start.weights[name]).detach()
        weights[name] = start.weights[name] + added * (size / size.detach())
    return start.replaced(weights)
