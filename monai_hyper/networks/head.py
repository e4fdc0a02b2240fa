"""The analytic output head: class-balanced ridge regression on the generated network's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.functional import fit_field

FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS = 512, 512, 768
"""Voxels read per volume: of every class, next to the foreground, and elsewhere."""


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


def sample_points(
    label: Tensor, classes: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels that stand for one annotated volume, weighted so that no region outweighs another.

    Foreground classes share half of the weight; the rim around them and the far background have a quarter each.

    Args:
        label: ``(D, H, W)``, 0 to ``classes``.

    Returns:
        positions in voxels ``(M, 3)``, weights ``(M,)``, one-hot targets without background ``(M, classes)``.
    """
    foreground = (label > 0).float()[None, None]
    rim = (F.max_pool3d(foreground, 5, 1, 2) > foreground).flatten()
    regions = [((label == c + 1).flatten(), FOREGROUND_POINTS, 0.5) for c in range(classes)]
    present = max(1, sum(int(region.any()) for region, _, _ in regions))
    regions = [(region, count, weight / present) for region, count, weight in regions]
    far = (label.flatten() == 0) & ~rim
    regions += [(rim, RIM_POINTS, 0.25), (far, FAR_POINTS, 0.25)]
    jitter = torch.rand(max(FOREGROUND_POINTS, RIM_POINTS, FAR_POINTS), generator=generator).to(label.device)
    picked = [(pick(region, jitter[:count]), weight) for region, count, weight in regions]
    index = torch.cat([found for found, _ in picked])
    weights = torch.cat([torch.full(found.shape, w / max(1, len(found)), device=label.device) for found, w in picked])
    size = label.shape
    where = torch.stack([index // (size[1] * size[2]), index // size[2] % size[1], index % size[2]], 1)
    return where.float(), weights, F.one_hot(label.flatten()[index].long(), classes + 1)[:, 1:].float()


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
    https://arxiv.org/abs/1805.08136. Every class is regressed on all features and on the mean masks from the
    volumes that annotate it. Because balanced weights pretend that half of the volume is foreground, the logit is
    ``s (score - t)`` with ``s`` and ``t`` from the task and the foreground fraction.

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
        """Gram matrix and moments of every volume.

        Args:
            features: ``(k, C_i, ...)``; masks: mean masks over the field of view, ``(k, n, ...)``.
            labels: ``(k, 1, D, H, W)``.

        Returns:
            ``(k, F, F)`` and ``(k, F, n)``; the last feature is the constant 1.
        """
        grams, moments = [], []
        fields = fit_field(masks, list(labels.shape[2:]))
        for shot in range(labels.shape[0]):
            where, weight, target = sample_points(labels[shot, 0], masks.shape[1], generator)
            inputs = [f[shot : shot + 1].float() for f in features] + [fields[shot : shot + 1]]
            rows = F.pad(features_at(inputs, [*factors, 1], where), [0, 1], value=1.0)
            grams.append(rows.T @ (weight[:, None] * rows))
            moments.append(rows.T @ (weight[:, None] * target))
        return torch.stack(grams), torch.stack(moments)

    def solve(self, gram: Tensor, moment: Tensor, used: Tensor) -> Tensor:
        """Ridge solutions for several choices of volumes.

        Args:
            gram: ``(K, F, F)``; moment: ``(K, F, n)``; used: volumes per choice and class, ``(S, K, n)``.

        Returns:
            ``(S, n, F)``.
        """
        share = used / used.sum(1, keepdim=True).clamp(min=1)
        left = torch.einsum("skn,kfg->snfg", share, gram)
        right = torch.einsum("skn,kfn->snf", share, moment)
        penalty = self.log_penalty.exp()
        sizes = [*self.widths, moment.shape[2]]
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
        facts = torch.stack([(fraction + 1e-6).log() / 5, fraction, torch.full_like(fraction, shots).log()], 1)
        task = context.mean(0).expand(len(fraction), -1)
        log_scale, threshold = self.calibrate(torch.cat([task, facts], 1)).T
        scale = log_scale.clamp(0, 5).exp()
        weights = (scale[:, None] * solution).split([*self.widths, len(fraction), 1], -1)
        return list(weights[:-1]), weights[-1][..., 0] - scale * threshold
