"""The analytic output head: class-balanced ridge regression on the generated network's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.functional import fit_field
from monai_hyper.types import MAX_SHOTS

FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS = 512, 512, 768
"""Voxels read per volume: of every class, next to the foreground, and elsewhere."""

OTHERS = 0.2
"""Share of the other classes in what a class is told from."""


def pick(region: Tensor, jitter: Tensor) -> Tensor:
    """Choose ``M`` voxels of a flat boolean region evenly, with repetition if it is smaller.

    Args:
        jitter: places within the ``M`` equal parts of the region, ``(M,)`` in [0, 1).

    Returns:
        flat indices ``(M,)``, none if the region is empty.
    """
    inside = region.nonzero()[:, 0]
    count = len(jitter)
    steps = (torch.arange(count, device=region.device) + jitter) / count
    return inside[(steps * len(inside)).long().clamp(max=len(inside) - 1)] if len(inside) else inside


def sample_regions(label: Tensor, classes: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Voxels that stand for the regions of one annotated volume.

    Args:
        label: ``(D, H, W)``, 0 to ``classes``.

    Returns:
        positions in voxels ``(M_r, 3)`` of every class, of the rim around them, and of the far background; none for
        an empty region.
    """
    foreground = (label > 0).float()[None, None]
    rim = (F.max_pool3d(foreground, 5, 1, 2) > foreground).flatten()
    far = (label.flatten() == 0) & ~rim
    regions = [((label == c + 1).flatten(), FOREGROUND_POINTS) for c in range(classes)]
    jitter = torch.rand(max(FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS), generator=generator).to(label.device)
    picked = [pick(region, jitter[:count]) for region, count in [*regions, (rim, RIM_POINTS), (far, FAR_POINTS)]]
    _, h, w = label.shape
    return [torch.stack([index // (h * w), index // w % h, index % w], 1).float() for index in picked]


def region_weights(present: Tensor) -> Tensor:
    """What each region weighs when one class is told from everything else.

    The class itself has half of the weight, whatever its size; the other half goes to rim and far background, and to
    the other classes where there are any.

    Args:
        present: which classes occur in a volume, ``(n,)`` bool.

    Returns:
        weight of every class, rim and far background for every class, ``(n, n + 2)``.

    Example:
        >>> region_weights(torch.tensor([True]))
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    others = present.float().expand(len(present), -1) * (1 - torch.eye(len(present), device=present.device))
    count = others.sum(1, keepdim=True)
    background = torch.where(count > 0, (1 - OTHERS) / 2, 0.5) / 2
    weights = 0.5 * torch.eye(len(present), device=present.device) + OTHERS / 2 * others / count.clamp(min=1)
    return torch.cat([weights, background, background], 1)


def features_at(features: list[Tensor], factors: list[int], where: Tensor) -> Tensor:
    """Features of all scales at voxels of one volume, as :func:`enlarge` would show them there.

    Args:
        features: ``(1, C_i, ...)`` at ``1 / factors[i]`` of the grid; where: ``(M, 3)`` in voxels.

    Returns:
        ``(M, sum of C_i)``.
    """
    found = []
    for feature, factor in zip(features, factors):
        size = where.new_tensor(feature.shape[2:])
        grid = (((where + 0.5) / factor) * 2 / size - 1).flip(-1)
        values = F.grid_sample(feature, grid[None, :, None, None], "bilinear", "border", align_corners=False)
        found.append(values[0, :, :, 0, 0].T)
    return torch.cat(found, 1)


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

    def statistics(
        self,
        features: list[Tensor],
        factors: list[int],
        masks: Tensor,
        labels: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Gram matrix and moments of every volume and class.

        Args:
            features: ``(k, C_i, ...)``; masks: mean masks over the field of view, ``(k, n, ...)``.
            labels: ``(k, 1, D, H, W)``.

        Returns:
            ``(k, n, F, F)`` and ``(k, n, F)``; the last feature is the constant 1.
        """
        grams, moments = [], []
        classes = masks.shape[1]
        fields = fit_field(masks, list(labels.shape[2:]))
        for shot in range(labels.shape[0]):
            if generator is not None:
                generator.manual_seed(0)  # the same places in every volume: their order cannot matter
            regions = sample_regions(labels[shot, 0], classes, generator)
            sizes = [len(region) for region in regions]
            inputs = [f[shot : shot + 1].float() for f in features] + [fields[shot : shot + 1]]
            rows = F.pad(features_at(inputs, [*factors, 1], torch.cat(regions)), [0, 1], value=1.0)
            parts = [part / max(1, len(part)) ** 0.5 for part in rows.split(sizes)]
            gram = torch.stack([part.T @ part for part in parts])
            present = torch.tensor([size > 0 for size in sizes[:classes]], device=rows.device)
            grams.append(torch.einsum("nr,rfg->nfg", region_weights(present), gram))
            moments.append(0.5 * gram[:classes, :, -1])  # the mean over the class itself, since the last feature is 1
        return torch.stack(grams), torch.stack(moments)

    def solve(self, gram: Tensor, moment: Tensor, used: Tensor) -> Tensor:
        """Ridge solutions for several choices of volumes.

        Args:
            gram: ``(K, n, F, F)``; moment: ``(K, n, F)``; used: volumes per choice and class, ``(S, K, n)``.

        Returns:
            ``(S, n, F)``.
        """
        share = used / used.sum(1, keepdim=True).clamp(min=1)
        left = torch.einsum("skn,knfg->snfg", share, gram)
        right = torch.einsum("skn,knf->snf", share, moment)
        penalty = self.log_penalty.exp()
        sizes = [*self.widths, moment.shape[1]]
        diagonal = torch.cat([p.expand(size) for p, size in zip(penalty, sizes)] + [penalty.new_tensor([1e-5])])
        factor = torch.linalg.cholesky(left + torch.diag(diagonal))
        return torch.cholesky_solve(right[..., None], factor)[..., 0]

    def logits(self, solution: Tensor, context: Tensor, fraction: Tensor, shots: int) -> tuple[list[Tensor], Tensor]:
        """Calibrated read-out weights.

        Args:
            solution: ``(S, n, F)``; context: the task's tokens, ``(M, E)``; fraction: of foreground, ``(n,)``.

        Returns:
            weights per feature scale and for the masks, ``(S, n, C_i)`` each, and biases ``(S, n)``.
        """
        volumes = torch.full_like(fraction, min(shots, MAX_SHOTS))
        facts = torch.stack([(fraction + 1e-6).log() / 5, fraction, volumes.log()], 1)
        task = context.mean(0).expand(len(fraction), -1)
        log_scale, threshold = self.calibrate(torch.cat([task, facts], 1)).T
        scale = log_scale.clamp(0, 5).exp()
        weights = (scale[:, None] * solution).split([*self.widths, len(fraction), 1], -1)
        return list(weights[:-1]), weights[-1][..., 0] - scale * threshold
