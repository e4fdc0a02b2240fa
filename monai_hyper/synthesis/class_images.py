"""Draw classification tasks from labelled images: some of the classes, some images of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.text import TEXT_DIM
from monai_hyper.synthesis.batch import ClassBatch
from monai_hyper.synthesis.geometry import centre_grid, random_affine, rotations, sample


@dataclass(frozen=True)
class ImageTaskSettings:
    """How tasks are drawn.

    Args:
        classes: fewest and most of a task; shots: fewest and most examples of a class; queries: of a class.
        tasks: in a batch.
        turned: whether images turned by a quarter, a half and three quarters are classes of their own.
        augment: whether every image is turned, scaled and moved a little.
    """

    classes: tuple[int, int] = (5, 5)
    shots: tuple[int, int] = (1, 5)
    queries: int = 5
    tasks: int = 1
    turned: bool = False
    augment: bool = False


class ImageTasks:
    """Endless tasks from labelled images; a batch depends on the seed and its number alone.

    Args:
        images: ``(n, 1, D, H, W)``, to be turned ones with ``D`` equal to ``H``; labels: ``(n,)``.
        settings: how they are drawn; seed: another seed, other tasks.

    Example:
        >>> batch = ImageTasks(torch.rand(50, 1, 8, 8, 1), torch.arange(50) % 5).batch(0)
        >>> batch.images.shape[1] == batch.examples + 25
        True
    """

    def __init__(
        self, images: Tensor, labels: Tensor, settings: ImageTaskSettings | None = None, seed: int = 0
    ) -> None:
        self.images, self.settings, self.seed = images, settings or ImageTaskSettings(), seed
        self.members = [torch.nonzero(labels == value)[:, 0].numpy() for value in labels.unique().tolist()]

    def batch(self, index: int) -> ClassBatch:
        """Batch number ``index``."""
        rng, settings = np.random.default_rng([self.seed, index]), self.settings
        classes = int(rng.integers(settings.classes[0], settings.classes[1] + 1))
        shots = int(rng.integers(settings.shots[0], settings.shots[1] + 1))
        drawn = [self._task(classes, shots, rng) for _ in range(settings.tasks)]
        images = torch.stack([images for images, _ in drawn])
        if settings.augment:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            images = jittered(images.flatten(0, 1), generator).view(images.shape)
        labels = torch.stack([labels for _, labels in drawn])
        texts = torch.zeros(settings.tasks, classes, TEXT_DIM)
        return ClassBatch(images, labels, shots, classes, texts, ("images",) * settings.tasks)

    def _task(self, classes: int, shots: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        count, queries = shots + self.settings.queries, self.settings.queries
        turns = 4 if self.settings.turned else 1
        chosen = rng.choice(len(self.members) * turns, classes, replace=False)
        drawn = torch.stack([self._class(int(number), count, turns, rng) for number in chosen])  # (N, k + q, ...)
        labels = torch.arange(classes)
        images = torch.cat([drawn[:, :shots].flatten(0, 1), drawn[:, shots:].flatten(0, 1)])
        return images, torch.cat([labels.repeat_interleave(shots), labels.repeat_interleave(queries)])

    def _class(self, number: int, count: int, turns: int, rng: np.random.Generator) -> Tensor:
        members = self.members[number // turns]
        return torch.rot90(self.images[rng.choice(members, count, replace=False)], number % turns, (2, 3))


def jittered(images: Tensor, generator: torch.Generator, degrees: float = 8.0, scale: float = 0.1) -> Tensor:
    """Turn, scale and move images at random, slices within their plane.

    Args:
        images: ``(B, 1, D, H, W)``; degrees: standard deviation of the angles; scale: of the logarithm of the size.
    """
    size, batch = list(images.shape[2:]), len(images)
    turn = random_affine(batch, degrees, scale, generator)
    if size[2] == 1:
        angle = math.radians(degrees) * torch.randn(batch, generator=generator)
        grown = (scale * torch.randn(batch, 3, generator=generator)).exp()
        zero = torch.zeros(batch)
        turn = rotations(torch.stack([zero, zero, angle], 1)) * grown[:, None]
    shift = 0.05 * torch.randn(batch, 1, 1, 1, 3, generator=generator) * torch.tensor(size)
    shift = shift * torch.tensor([n > 1 for n in size])
    return sample(images, centre_grid(size) @ turn.mT[:, None, None] + shift)
