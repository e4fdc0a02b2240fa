"""What every method shares that is trained on one task's support set: patches, augmentation, loss, budget, descent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
)
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.synthesis.geometry import centre_grid, random_field, rotations, sample

PATCH = 64
"""Longest side of what one update sees, in voxels; larger volumes are cut into patches."""

FOREGROUND_SHARE = 0.5
"""Share of the patches that are centred on foreground; the others lie anywhere."""

ROTATION = 30.0
"""Largest angle about each axis, in degrees."""

SCALE = (0.7, 1.4)
BEND = 0.02
"""Standard deviation of the elastic displacement at 4 x 4 x 4 knots, as a fraction of each side."""

WARM_UP = 10
"""Updates in which the learning rate rises: Adam's first ones are too bold for weights that already know something."""

CLIP = 12.0
PROGRESS = 0.005
"""What the mean loss must fall by to count as falling."""

CUTS = 3
"""A loss that has stopped falling cuts the learning rate to a fifth; the third time ends the training."""


@dataclass(frozen=True)
class Budget:
    """How long to train; the first limit that is reached ends it.

    Without ``patience`` the learning rate falls to zero over steps or seconds, as in nnU-Net (Isensee et al., 2021,
    https://doi.org/10.1038/s41592-020-01008-z). With it the rate is constant until the mean loss no longer falls, is
    then cut to a fifth, and training ends after the third time, much like the first nnU-Net (Isensee et al.,
    "nnU-Net: Self-adapting Framework for U-Net-Based Medical Image Segmentation", 2018,
    https://arxiv.org/abs/1809.10486).

    Args:
        steps: largest number of updates.
        seconds: longest time, s, by :func:`clock`.
        patience: number of updates whose mean loss is compared with the best such mean so far.

    Raises:
        ValueError: if nothing limits it, or a limit is not positive.

    Example:
        >>> Budget(steps=100).spent(step=25, elapsed=3.0)
        0.25
    """

    steps: int | None = None
    seconds: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.steps, self.seconds, self.patience) if limit is not None]
        if not limits or min(limits) <= 0:
            raise ValueError(f"found {self}; expected at least one limit, and all of them above 0.")

    def part(self, share: float) -> Budget:
        """A share of the budget; of steps at least one.

        Example:
            >>> Budget(steps=100, seconds=20.0).part(0.5)
            Budget(steps=50, seconds=10.0, patience=None)
        """
        return Budget(
            None if self.steps is None else max(1, round(share * self.steps)),
            None if self.seconds is None else share * self.seconds,
            self.patience,
        )

    def spent(self, step: int, elapsed: float) -> float:
        """Fraction of the budget that ``step`` updates in ``elapsed`` seconds use up."""
        return max(step / (self.steps or math.inf), elapsed / (self.seconds or math.inf))


def clock(device: torch.device | str) -> float:
    """Seconds that what runs here has computed, from any beginning.

    On a CPU its processor time over the number of threads, which is wall-clock time on a machine that does nothing
    else, and no less on one that does: a budget buys the same training on both. Elsewhere wall-clock time.
    """
    if torch.device(device).type == "cpu":
        return time.process_time() / torch.get_num_threads()
    return time.perf_counter()


@dataclass
class Plateau:
    """Counts how often the mean loss of ``patience`` updates was no lower than the best such mean before.

    Example:
        >>> plateau = Plateau(patience=2)
        >>> for loss in (1.0, 0.8, 0.7, 0.5, 0.6, 0.6):
        ...     plateau.see(loss)
        >>> plateau.cuts
        1
    """

    patience: int
    cuts: int = 0
    best: float = math.inf
    losses: list[float] = field(default_factory=list)

    def see(self, loss: float) -> None:
        """Take note of the loss of one update."""
        self.losses.append(loss)
        if len(self.losses) == self.patience:
            mean = sum(self.losses) / self.patience
            self.cuts += mean > self.best - PROGRESS
            self.best = min(self.best, mean)
            self.losses.clear()


def descend(
    parameters: Iterable[Tensor] | Iterable[dict], loss: Callable[[], Tensor], budget: Budget, rate: float
) -> Iterator[float]:
    """Minimise ``loss`` by AdamW, one update at a time.

    Args:
        parameters: tensors to change, in place; or groups of them with their own ``lr``, as torch's optimisers take.
        loss: draws examples and returns their loss; called once per update, with gradients enabled.
        budget: when to end.
        rate: learning rate at the start.

    Yields:
        after every update, the fraction of the budget that is used up; whoever iterates may look at the parameters, or
        stop.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> len(list(descend([x], lambda: (x - 1).square().sum(), Budget(steps=200), rate=0.1)))
        200
        >>> bool((x - 1).abs() < 0.1)
        True
    """
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2)
    groups = [(group, group["lr"]) for group in optimiser.param_groups]
    device = groups[0][0]["params"][0].device
    plateau = Plateau(budget.patience) if budget.patience else None
    begun, step = clock(device), 0
    while (spent := budget.spent(step, clock(device) - begun)) < 1 and (plateau is None or plateau.cuts < CUTS):
        decay = (1 - spent) ** 0.9 if plateau is None else 0.2**plateau.cuts
        for group, initial in groups:
            group["lr"] = initial * decay * min(1.0, (step + 1) / WARM_UP)
        optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            value = loss()
            value.backward()
        nn.utils.clip_grad_norm_([p for group, _ in groups for p in group["params"]], CLIP)
        optimiser.step()
        if plateau is not None:
            plateau.see(value.item())
        step += 1
        yield budget.spent(step, clock(device) - begun)


_dice_and_cross_entropy = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


def annotated_loss(logits: Tensor, labels: Tensor, annotated: Tensor) -> Tensor:
    """Dice and cross-entropy over the classes that a volume annotates.

    Channels of other classes take no part in the softmax, and voxels that show them none in the sums. Dice counts the
    whole batch as one volume, without the background, as nnU-Net does (Isensee et al., 2021,
    https://doi.org/10.1038/s41592-020-01008-z).

    Args:
        logits: background first, ``(B, N, D, H, W)``; labels: ``(B, 1, D, H, W)``, 0 to ``N - 1``.
        annotated: which of the ``N - 1`` classes, bool.

    Returns:
        a number; 0 where no voxel is annotated.
    """
    shown = torch.cat([annotated.new_ones(1), annotated]).to(logits.device)
    seen = shown[labels[:, 0]]
    if not seen.any():
        return 0 * logits.sum()
    channel = shown.cumsum(0) - 1
    kept = logits[:, shown].movedim(1, 0)[:, seen]
    return _dice_and_cross_entropy(kept[None], channel[labels[:, 0][seen]][None, None])


def random_patch(images: Tensor, label: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a volume, turned, scaled and bent at random; its border continues outside of the volume.

    No mirroring: left and right may be different classes. The draws follow torch's generator.

    Args:
        images: the image and any fields that move with it, ``(1, C, D, H, W)``.
        label: ``(1, 1, D, H, W)``.
        strength: share of the full change, 0 to 1. The full one turns by up to 30 degrees about every axis, scales by
            0.7 to 1.4 as nnU-Net does, and bends lightly.

    Returns:
        patches of both, of at most ``PATCH`` voxels a side.
    """
    size = torch.tensor(label.shape[2:])
    patch, device = size.clamp(max=PATCH), label.device
    angles = strength * math.radians(ROTATION) * (2 * torch.rand(1, 3) - 1)
    low, high = (math.log(edge) for edge in SCALE)
    scale = (strength * (low + (high - low) * torch.rand(()))).exp()
    turned = centre_grid(patch.tolist(), device) @ (scale * rotations(angles)[0]).to(device)
    bend = random_field(1, patch.tolist(), 4, device=device) * (strength * BEND * patch).to(device)
    room = (size - patch) / 2
    centre = torch.maximum(torch.minimum(_random_centre(label, size), room), -room)
    points = turned + bend + centre.to(device)
    return sample(images, points), sample(label.float(), points, "nearest").long()


def _random_centre(label: Tensor, size: Tensor) -> Tensor:
    """A random place in a volume, on foreground in half of the cases, in voxels from the middle, ``(3,)``."""
    found = label[0, 0].nonzero() if torch.rand(()) < FOREGROUND_SHARE else label.new_zeros(0, 3)
    voxel = found[torch.randint(len(found), ())].cpu() if len(found) else torch.rand(3) * (size - 1)
    return voxel - (size - 1) / 2


class Augment:
    """Random patches of annotated volumes, changed as nnU-Net changes them, but for mirroring.

    The shape changes as in :func:`random_patch`, always; noise, blur, brightness, contrast, resolution and gamma
    change with nnU-Net's probabilities and ranges (Isensee et al., 2021, https://doi.org/10.1038/s41592-020-01008-z).

    Example:
        >>> image, label = Augment()(torch.randn(1, 1, 80, 32, 32), torch.ones(1, 1, 80, 32, 32).long())
        >>> tuple(image.shape), label.dtype
        ((1, 1, 64, 32, 32), torch.int64)
    """

    def __init__(self) -> None:
        transforms = [
            RandGaussianNoise(prob=0.1, std=0.1),
            RandGaussianSmooth((0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.2),
            RandScaleIntensity(0.25, prob=0.15),
            RandScaleIntensityFixedMean(prob=0.15, factors=0.25, preserve_range=True),
            RandSimulateLowResolution(prob=0.25, zoom_range=(0.5, 1.0)),
            RandAdjustContrast(prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
        self.intensity = Compose(transforms)
        self.intensity.set_random_state(seed=int(torch.randint(2**31, ())))  # follows torch's generator, too

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            image, label: ``(1, 1, D, H, W)``.

        Returns:
            patches of both, of at most ``PATCH`` voxels a side.
        """
        image, label = random_patch(image, label)
        return self.intensity(image[0]).as_tensor()[None], label


def random_shot(support: SupportSet) -> tuple[int, Tensor, Tensor]:
    """Draw a support volume that annotates anything, cut to what it covers.

    Returns:
        its number, its image and its labels, ``(1, 1, D, H, W)``.
    """
    usable = support.annotated.any(1).nonzero()[:, 0]
    shot = int(usable[torch.randint(len(usable), ())])
    d, h, w = support.extents[shot].tolist()
    return shot, support.images[shot : shot + 1, :, :d, :h, :w], support.labels[shot : shot + 1, :, :d, :h, :w]


def in_windows(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A network that has learned from patches, for images of any size.

    Images no larger than a patch are seen whole, others by half overlapping windows with Gaussian weights.
    """

    def whole(query: Tensor) -> Tensor:
        window = [min(side, PATCH) for side in query.shape[2:]]
        if window == list(query.shape[2:]):
            return network(query)
        return sliding_window_inference(query, window, 1, network, overlap=0.5, mode="gaussian")

    return whole


def fit_by_gradient(network: nn.Module, support: SupportSet, budget: Budget, rate: float) -> Callable[[Tensor], Tensor]:
    """Train a network on augmented patches of a support set, one volume an update.

    Args:
        network: images ``(1, 1, d, h, w)`` to logits ``(1, N, d, h, w)``; those of its parameters that require
            gradients are changed.
        budget: how long to train.
        rate: learning rate at the start.

    Returns:
        the network for images of any size.
    """
    augment = Augment()

    def loss() -> Tensor:
        shot, image, label = random_shot(support)
        image, label = augment(image, label)
        return annotated_loss(network(image), label, support.annotated[shot])

    network.to(support.images.device).train()
    for _ in descend([p for p in network.parameters() if p.requires_grad], loss, budget, rate):
        pass
    return in_windows(network.eval().requires_grad_(False))
