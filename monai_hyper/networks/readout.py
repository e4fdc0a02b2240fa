"""Fit the read-out of a generated body to its support set, weighed as the support set speaks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.confidence import own_dice
from monai_hyper.networks.functional import enlarge
from monai_hyper.networks.head import Regions, RidgeHead
from monai_hyper.networks.reading import Reading

Logits = list[tuple[list[int], Tensor]]
"""Shots and the logits of their volumes, ``(k, N, d, h, w)``, for every size of volume."""


SIZES, LONE = (0.75, 0.0, 1.0), 0.0
"""How much the size of regions may count, see :meth:`Regions.weighed`. If it counts little, small structures are found;
if it counts much, less is found where there is nothing. The support volumes tell by how well they segment each other; a
lone one cannot."""


@dataclass(frozen=True)
class Seen:
    """The support volumes of one size, as the generated body sees them.

    Args:
        shots: their numbers; labels: ``(k, 1, D, H, W)``.
        maps: features of every scale and, last, the mean masks of the others, ``(k, C_i, ...)``.
    """

    shots: list[int]
    labels: Tensor
    maps: list[Tensor]


class ReadOut:
    """The regression of the classes of a support set on the features of a generated body.

    Args:
        head: how to solve it.
        factors: what the grid of every feature scale is coarser by.
        reading: of the support set.
        seen: all its volumes.
        regions: of all its volumes, by their numbers.
    """

    def __init__(
        self,
        head: RidgeHead,
        factors: tuple[int, ...],
        support: SupportSet,
        reading: Reading,
        seen: list[Seen],
        generator: torch.Generator | None,
    ) -> None:
        self.head, self.factors, self.support, self.reading, self.seen = head, factors, support, reading, seen
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for one in seen:
            *features, masks = one.maps
            regions = head.regions(features, factors, masks, one.labels, generator)
            found.update(zip(one.shots, zip(*regions)))
        grams, shares = zip(*(found[shot] for shot in range(support.shots)))
        self.regions = Regions(torch.stack(grams), torch.stack(shares))

    def heads(self, used: Tensor, size: float) -> tuple[list[Tensor], Tensor]:
        """Read-outs for several choices of volumes.

        Args:
            used: volumes per choice and class, ``(S, K, n)``; size: see :meth:`Regions.weighed`.

        Returns:
            weights per feature scale and for the masks, ``(S, n, C_i)`` each, and biases ``(S, n)``.
        """
        gram, moment = self.regions.weighed(size)
        solution = self.head.solve(gram, moment, used, size)
        facts = self.reading.context, self.reading.fraction, self.support.shots
        return self.head.logits(solution, *facts, size)

    def of_all(self, size: float) -> tuple[list[Tensor], Tensor]:
        """The read-out from all volumes, weights ``(n, C_i)`` each and biases ``(n,)``."""
        heads, biases = self.heads(self._annotated()[None], size)
        return [head[0] for head in heads], biases[0]

    def own_logits(self, size: float) -> Logits:
        """What is said of every volume by the others; a lone one, and a class that no other shows, by itself."""
        annotated = self._annotated()
        others = annotated[None] * (1 - torch.eye(self.support.shots, device=annotated.device))[:, :, None]
        heads, biases = self.heads(torch.where(others.sum(1, keepdim=True) > 0, others, annotated[None]), size)
        found = []
        for one in self.seen:
            logits = biases[one.shots][:, :, None, None, None]
            for head, feature, factor in zip(heads, one.maps, [*self.factors, 1]):
                logits = logits + enlarge(
                    torch.einsum("knc,kcdhw->kndhw", head[one.shots], feature), factor, list(one.labels.shape[2:])
                )
            found.append((one.shots, F.pad(logits, [0, 0, 0, 0, 0, 0, 1, 0])))
        return found

    def best_size(self) -> float:
        """How much the size of regions should count, see :data:`SIZES`."""
        if self.support.shots == 1:
            return LONE
        dice = [float(own_dice(self.own_logits(size), self.support, self.support).nanmean()) for size in SIZES]
        return SIZES[dice.index(max(dice))]

    def _annotated(self) -> Tensor:
        return self.support.annotated.to(self.regions.gram)
