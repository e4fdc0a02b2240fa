"""The baseline that only fits a linear read-out: closed-form ridge regression on unconditioned features."""

from __future__ import annotations

import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel, working_factor
from monai_hyper.networks.network import ConditionedNetwork, assemble

SCALE, THRESHOLD = 8.0, 0.5


class Ridge:
    """Ridge regression of every class on what the released body sees without prior, masks and generated weights.

    After Bertinetto et al., "Meta-learning with differentiable closed-form solvers", 2019,
    https://arxiv.org/abs/1805.08136. Voxels are sampled, weighted and regularised as in
    :class:`monai_hyper.networks.head.RidgeHead`, with its learned penalties; a class begins at the score 1/2.

    Args:
        model: the trained model, left as it is.
    """

    def __init__(self, model: HyperModel) -> None:
        self.model = model

    @torch.no_grad()
    def fit(self, support: SupportSet) -> ConditionedNetwork:
        """Solve for the read-out of a support set."""
        factor = working_factor(support)
        support = support.coarser(factor)
        body, head, classes = self.model.body, self.model.head, len(support.classes)
        found = {}
        for shots, images, labels in support.volumes():
            masks = images.new_zeros(len(shots), classes, *images.shape[2:])
            features = self.model.unconditioned(images)
            regions = head.regions(features, body.factors, masks, labels, torch.Generator().manual_seed(0))
            found.update(zip(shots, zip(*regions.weighed())))
        gram, moment = (torch.stack(each) for each in zip(*(found[shot] for shot in range(support.shots))))
        solution = head.solve(gram, moment, support.annotated.to(gram)[None])[0]
        fields = {"template": 1, "prior": PRIOR_CHANNELS, "masks": classes}
        *heads, constant = solution.split([*head.widths, classes, 1], -1)
        return assemble(
            body,
            support.classes,
            {n: solution.new_zeros(1, c, 1, 1, 1) for n, c in fields.items()},
            dict(body.named_parameters()),
            [SCALE * weights for weights in heads],
            SCALE * (constant[:, 0] - THRESHOLD),
            factor,
        )
