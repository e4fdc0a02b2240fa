"""The baseline that compares every voxel with mean features of the support: masked average pooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.coarse import reduce
from monai_hyper.data.support import SupportSet
from monai_hyper.networks.context import pooled_statistics
from monai_hyper.networks.functional import enlarge
from monai_hyper.networks.model import HyperModel, working_factor

SCALE = 20.0
"""Multiplier of the cosine similarity, as in PANet."""

RIM = 5
"""Side of the cube that dilates a mask to its rim, voxels."""


def parts_of(labels: Tensor, value: int) -> Tensor:
    """What a class has a prototype of: itself, the rim around it and all that is farther away.

    Args:
        labels: ``(k, 1, D, H, W)``.

    Returns:
        ``(k, 3, D, H, W)`` of zeros and ones.
    """
    mask = (labels == value).float()
    dilated = F.max_pool3d(mask, RIM, 1, RIM // 2)
    return torch.cat([mask, dilated - mask, 1 - dilated], 1)


class Prototype:
    """Cosine similarity to prototypes, on what the released body sees without prior, masks and generated weights.

    After Snell et al., "Prototypical Networks for Few-shot Learning", 2017, https://arxiv.org/abs/1703.05175, and
    Wang et al., "PANet: Few-Shot Image Semantic Segmentation with Prototype Alignment", 2019,
    https://arxiv.org/abs/1908.06391, in 3D on all scales of the body, each channel in units of its deviation over the
    support. Every class is told from what is not it, in the volumes that annotate it, by two prototypes: near and far.

    Args:
        model: the trained model, left as it is.
    """

    def __init__(self, model: HyperModel) -> None:
        self.model = model

    @torch.no_grad()
    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """Compute the prototypes of a support set."""
        coarse = working_factor(support)
        support = support.coarser(coarse)
        seen = [(shots, labels, self._features(images)) for shots, images, labels in support.volumes()]
        deviations = []
        for maps in zip(*(features for _, _, features in seen)):
            values = torch.cat([each.transpose(0, 1).flatten(1) for each in maps], 1)
            deviations.append(values.std(1)[:, None, None, None] + 1e-6)
        prototypes = [0.0] * len(deviations)
        for shots, labels, features in seen:
            parts = torch.stack([parts_of(labels, c + 1) for c in range(len(support.classes))], 1)
            parts = parts * support.annotated[shots].to(parts)[:, :, None, None, None, None]
            for i, factor in enumerate(self.model.body.factors):
                pooled = reduce(parts.flatten(1, 2), factor)
                means = pooled_statistics(features[i] / deviations[i], pooled).chunk(2, -1)[0]
                prototypes[i] = prototypes[i] + means.sum(0)
        length = sum(p.square().sum(-1, keepdim=True) for p in prototypes).sqrt().clamp(min=1e-6)
        prototypes = [p / length for p in prototypes]

        def network(query: Tensor) -> Tensor:
            return enlarge(self._logits(reduce(query, coarse), deviations, prototypes), coarse, list(query.shape[2:]))

        return network

    def _features(self, images: Tensor) -> list[Tensor]:
        """Features of every scale, cut to the image."""
        sizes = [[-(-side // factor) for side in images.shape[2:]] for factor in self.model.body.factors]
        return [enlarge(f, 1, size) for f, size in zip(self.model.unconditioned(images), sizes)]

    def _logits(self, query: Tensor, deviations: list[Tensor], prototypes: list[Tensor]) -> Tensor:
        size = list(query.shape[2:])
        similarity, square = 0.0, 0.0
        for feature, deviation, prototype, factor in zip(
            self._features(query), deviations, prototypes, self.model.body.factors
        ):
            feature = feature / deviation
            found = torch.einsum("rc,bcdhw->brdhw", prototype, feature)
            similarity = similarity + enlarge(found, factor, size)
            square = square + enlarge(feature.square().sum(1, keepdim=True), factor, size)
        cosine = (similarity / (square + 1e-6).sqrt()).unflatten(1, (-1, 3))
        logits = SCALE * (cosine[:, :, 0] - cosine[:, :, 1:].amax(2))
        return F.pad(logits, [0, 0, 0, 0, 0, 0, 1, 0])
