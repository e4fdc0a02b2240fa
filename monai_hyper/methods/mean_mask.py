"""The baseline that looks at no image: the mean of the support masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.functional import fit_field


class MeanMask:
    """Mean of the support masks over the normalised field of view.

    Every in-context method must beat it, or it has learned where things lie and nothing else.
    """

    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """
        Returns:
            a network that gives the same logits ``(B, N, D, H, W)`` for every image ``(B, 1, D, H, W)`` of a size;
            softmax of them is the mean mask, so the class with the largest share wins.
        """
        largest = [int(side) for side in support.extents.amax(0)]
        annotated = support.annotated.to(support.labels.device)
        total = torch.zeros(1, len(support.classes), *largest, device=annotated.device)
        for shots, _, labels in support.volumes():
            one_hot = F.one_hot(labels[:, 0], len(support.classes) + 1).movedim(-1, 1)[:, 1:].float()
            seen = annotated[shots][:, :, None, None, None]
            total += (fit_field(one_hot, largest) * seen).sum(0, keepdim=True)
        mean = total / annotated.sum(0).view(1, -1, 1, 1, 1)

        def network(query: Tensor) -> Tensor:
            share = fit_field(mean, list(query.shape[2:])).expand(query.shape[0], -1, -1, -1, -1)
            background = (1 - share.sum(1, keepdim=True)).clamp(min=0)
            return torch.cat([background, share], 1).clamp(min=1e-6).log()

        return network
