"""The analytic output head: class-balanced ridge regression on the generated network's features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.functional import fit_field
from monai_hyper.types import MAX_SHOTS

FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS = 512, 512, 768
"""Voxels read per volume: of every class, next to the foreground, and elsewhere."""

OTHERS = 0.2
"""Share of the other classes in what a class is told from."""

SIZED_PENALTY, SIZED_SCALE = 1 / 20, 8.0
"""Where the size of regions counts: factor of the learned regularisers, since the foreground weighs little, and how
much a logit rises with a score, whose threshold is 1/2."""


def pick(regions: Tensor, jitter: Tensor) -> Tensor:
    """Choose ``M`` voxels of flat boolean regions evenly, with repetition if one is smaller.

    Args:
        regions: ``(..., V)``; jitter: places within the ``M`` equal parts of a region, ``(M,)`` in [0, 1).

    Returns:
        flat indices ``(..., M)``, 0 for an empty region.

    Example:
        >>> pick(torch.tensor([True, False, True, True]), torch.zeros(3))
        tensor([0, 2, 3])
    """
    upto = regions.cumsum(-1, dtype=torch.int32)
    count = upto[..., -1:].contiguous()
    steps = (torch.arange(len(jitter), device=regions.device) + jitter) / len(jitter)
    number = torch.minimum((steps * count).int() + 1, count)
    return torch.searchsorted(upto, number)


def sample_regions(labels: Tensor, classes: int, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Voxels that stand for the regions of annotated volumes: every class, the rim around them, the far background.

    Args:
        labels: 0 to ``classes``, ``(B, 1, D, H, W)``.
        jitter: see :func:`pick`, as many as the most points of a region.

    Returns:
        positions in voxels, region after region, ``(B, M, 3)``; and the share of the volume that each region has,
        ``(B, n + 2)``.
    """
    foreground = (labels > 0).float()
    near = foreground
    for window in ((5, 1, 1), (1, 5, 1), (1, 1, 5)):
        near = F.max_pool3d(near, window, 1, [side // 2 for side in window])
    values = torch.arange(1, classes + 1, device=labels.device).view(1, -1, 1, 1, 1)
    regions = torch.cat([labels == values, near > foreground, near == 0], 1).flatten(2)
    each, rim, far = regions.split([classes, 1, 1], 1)
    found = [(each, FOREGROUND_POINTS), (rim, RIM_POINTS), (far, FAR_POINTS)]
    index = torch.cat([pick(region, jitter[:count]).flatten(1) for region, count in found], 1)
    _, h, w = labels.shape[2:]
    return torch.stack([index // (h * w), index // w % h, index % w], -1).float(), regions.float().mean(-1)


def draw_jitter(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Jitter for :func:`sample_regions`; always alike where there is a generator."""
    count = max(FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS)
    return torch.rand(count, generator=None if generator is None else generator.manual_seed(0)).to(device)


def region_weights(present: Tensor) -> Tensor:
    """What each region weighs when one class is told from everything else.

    The class itself has half of the weight, whatever its size; the other half goes to rim and far background, and to
    the other classes where there are any.

    Args:
        present: which classes occur in a volume, ``(..., n)`` bool.

    Returns:
        weight of every class, rim and far background for every class, ``(..., n, n + 2)``.

    Example:
        >>> region_weights(torch.tensor([True]))
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    one = torch.eye(present.shape[-1], device=present.device)
    others = present.float()[..., None, :] * (1 - one)
    count = others.sum(-1, keepdim=True)
    background = torch.where(count > 0, (1 - OTHERS) / 2, 0.5) / 2
    weights = 0.5 * one + OTHERS / 2 * others / count.clamp(min=1)
    return torch.cat([weights, background, background], -1)


def features_at(features: list[Tensor], factors: list[int], where: Tensor) -> Tensor:
    """Features of all scales at voxels of volumes, as :func:`enlarge` would show them there.

    Args:
        features: ``(B, C_i, ...)`` at ``1 / factors[i]`` of the grid; where: ``(B, M, 3)`` in voxels.

    Returns:
        ``(B, M, sum of C_i)``.
    """
    found = []
    for feature, factor in zip(features, factors):
        size = where.new_tensor(feature.shape[2:])
        grid = (((where + 0.5) / factor) * 2 / size - 1).flip(-1)
        values = F.grid_sample(feature, grid[:, :, None, None], "bilinear", "border", align_corners=False)
        found.append(values[..., 0, 0].mT)
    return torch.cat(found, -1)


def gram_of(rows: Tensor, share: Tensor) -> Tensor:
    """Mean of the outer products of rows ``(..., M, F)``, ``(..., F, F)``; zero where ``share``, ``(...)``, is."""
    return rows.mT @ rows * ((share > 0) / rows.shape[-2])[..., None, None]


class Regions(NamedTuple):
    """What a regression must know of volumes: Gram matrices of the features of every region, ``(k, n + 2, F, F)``, the
    last feature being the constant 1, and the share of its volume that every region has, ``(k, n + 2)``."""

    gram: Tensor
    share: Tensor

    def weighed(self, size: float = 0.0) -> tuple[Tensor, Tensor]:
        """Gram matrix and moments of every volume and class, ``(k, n, F, F)`` and ``(k, n, F)``.

        Args:
            size: how much the size of regions counts: at 0 they weigh as :func:`region_weights` has it, at 1 as much as
                they measure, and in between by the geometric mean of both, with this exponent.
        """
        classes = self.share.shape[1] - 2
        weights = region_weights(self.share[:, :classes] > 0)
        if size > 0:
            weights = weights ** (1 - size) * self.share[:, None] ** size
            weights = weights / weights.sum(-1, keepdim=True)
        own = weights[:, :, :classes].diagonal(dim1=1, dim2=2)
        # the last feature is 1, so the moment is the mean over the class itself
        return torch.einsum("bnr,brfg->bnfg", weights, self.gram), own[..., None] * self.gram[:, :classes, :, -1]


class RidgeHead(nn.Module):
    """Closed-form linear read-out, differentiable, with learned regularisers and a learned calibration.

    After Bertinetto et al., "Meta-learning with differentiable closed-form solvers", 2019,
    https://arxiv.org/abs/1805.08136. Every class is regressed, against all that is not it, on all features and on
    the mean masks, from the volumes that annotate it. Because balanced weights pretend that half of the volume is
    foreground, the logit is ``s (score - t)`` with ``s`` and ``t`` from the task and the foreground fraction.

    Args:
        widths: channels of the feature scales.
        embedding_dim: length ``E`` of a token.
    """

    def __init__(self, widths: tuple[int, ...], embedding_dim: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.log_penalty = nn.Parameter(torch.full((len(widths) + 1,), -4.0))
        self.calibrate = nn.Sequential(nn.Linear(embedding_dim + 3, 64), nn.GELU(), nn.Linear(64, 2))
        nn.init.zeros_(self.calibrate[-1].weight)
        self.calibrate[-1].bias.data.copy_(torch.tensor([2.0, 0.5]))

    def regions(
        self,
        features: list[Tensor],
        factors: list[int],
        masks: Tensor,
        labels: Tensor,
        generator: torch.Generator | None,
    ) -> Regions:
        """Read features at the same places of every volume's regions.

        Args:
            features: ``(k, C_i, ...)``; masks: mean masks over the field of view, ``(k, n, ...)``.
            labels: ``(k, 1, D, H, W)``.
        """
        classes = masks.shape[1]
        where, share = sample_regions(labels, classes, draw_jitter(generator, labels.device))
        inputs = [*(f.float() for f in features), fit_field(masks, list(labels.shape[2:]))]
        rows = F.pad(features_at(inputs, [*factors, 1], where), [0, 1], value=1.0)
        parts = rows.split([classes * FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS], 1)
        each = [parts[0].unflatten(1, (classes, -1)), parts[1][:, None], parts[2][:, None]]
        return Regions(torch.cat([gram_of(*part) for part in zip(each, share.split([classes, 1, 1], 1))], 1), share)

    def solve(self, gram: Tensor, moment: Tensor, used: Tensor, size: float = 0.0) -> Tensor:
        """Ridge solutions for several choices of volumes.

        Args:
            gram: ``(..., K, n, F, F)``; moment: ``(..., K, n, F)``; used: volumes per choice and class, ``(S, K, n)``.
            size: see :meth:`Regions.weighed`.

        Returns:
            ``(..., S, n, F)``.
        """
        share = used / used.sum(1, keepdim=True).clamp(min=1)
        left = torch.einsum("skn,...knfg->...snfg", share, gram)
        right = torch.einsum("skn,...knf->...snf", share, moment)
        penalty = self.log_penalty.exp() * (SIZED_PENALTY if size > 0 else 1)
        sizes = [*self.widths, moment.shape[-2]]
        diagonal = torch.cat([p.expand(size) for p, size in zip(penalty, sizes)] + [penalty.new_tensor([1e-5])])
        factor = torch.linalg.cholesky(left + torch.diag(diagonal))
        return torch.cholesky_solve(right[..., None], factor)[..., 0]

    def logits(
        self, solution: Tensor, context: Tensor, fraction: Tensor, shots: int, size: float = 0.0
    ) -> tuple[list[Tensor], Tensor]:
        """Calibrated read-out weights.

        Args:
            solution: ``(..., S, n, F)``; context: the task's tokens, ``(..., M, E)``; fraction: of foreground,
                ``(..., n)``.
            size: see :meth:`Regions.weighed`; above 0 a score is nearly a probability, and the calibration is fixed.

        Returns:
            weights per feature scale and for the masks, ``(..., S, n, C_i)`` each, and biases ``(..., S, n)``.
        """
        if size > 0:
            return self._split(SIZED_SCALE * solution, fraction, 0.5 * SIZED_SCALE)
        volumes = torch.full_like(fraction, min(shots, MAX_SHOTS))
        facts = torch.stack([(fraction + 1e-6).log() / 5, fraction, volumes.log()], -1)
        task = context.mean(-2, keepdim=True).expand(*fraction.shape, -1)
        log_scale, threshold = self.calibrate(torch.cat([task, facts], -1))[..., None, :, :].unbind(-1)
        scale = log_scale.clamp(0, 5).exp()
        return self._split(scale[..., None] * solution, fraction, scale * threshold)

    def _split(self, weights: Tensor, fraction: Tensor, below: Tensor | float) -> tuple[list[Tensor], Tensor]:
        *parts, constant = weights.split([*self.widths, fraction.shape[-1], 1], -1)
        return parts, constant[..., 0] - below
