"""Fit the read-out of a generated body to its support set, weighed as the support set speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.functional import enlarge
from monai_hyper.networks.head import Regions, RidgeHead
from monai_hyper.networks.reading import Reading

Logits = list[tuple[list[int], Tensor]]
"""Shots and the logits of their volumes, ``(k, N, d, h, w)``, for every size of volume."""


EQUAL, SIZES = 0.0, (0.75, 0.0, 1.0)
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

    def heads(self, used: Tensor, sizes: Sequence[float]) -> tuple[list[Tensor], Tensor]:
        """Read-outs for several choices of volumes.

        Args:
            used: volumes per choice and class, ``(S, K, n)``; sizes: of every class, see :meth:`Regions.weighed`.

        Returns:
            weights per feature scale and for the masks, ``(S, n, C_i)`` each, and biases ``(S, n)``.
        """
        found = {size: self._solved(used, size) for size in set(sizes)}
        heads, biases = zip(*(found[size] for size in sizes))
        each = [torch.stack([scale[:, c] for c, scale in enumerate(scales)], 1) for scales in zip(*heads)]
        return each, torch.stack([bias[:, c] for c, bias in enumerate(biases)], 1)

    def _solved(self, used: Tensor, size: float) -> tuple[list[Tensor], Tensor]:
        gram, moment = self.regions.weighed(size)
        solution = self.head.solve(gram, moment, used, size)
        return self.head.logits(solution, self.reading.context, self.reading.fraction, self.support.shots, size)

    def of_all(self, sizes: Sequence[float]) -> tuple[list[Tensor], Tensor]:
        """The read-out from all volumes, weights ``(n, C_i)`` each and biases ``(n,)``."""
        heads, biases = self.heads(self._annotated()[None], sizes)
        return [head[0] for head in heads], biases[0]

    def own_logits(self, sizes: Sequence[float]) -> Logits:
        """What is said of every volume by the others; a lone one, and a class that no other shows, by itself."""
        annotated = self._annotated()
        others = annotated[None] * (1 - torch.eye(self.support.shots, device=annotated.device))[:, :, None]
        heads, biases = self.heads(torch.where(others.sum(1, keepdim=True) > 0, others, annotated[None]), sizes)
        found = []
        for one in self.seen:
            grid, logits = list(one.labels.shape[2:]), biases[one.shots][:, :, None, None, None]
            for head, feature, factor in zip(heads, one.maps, [*self.factors, 1]):
                logits = logits + enlarge(torch.einsum("knc,kcdhw->kndhw", head[one.shots], feature), factor, grid)
            found.append((one.shots, F.pad(logits, [0, 0, 0, 0, 0, 0, 1, 0])))
        return found

    def equal_sizes(self) -> list[float]:
        """Regions weigh alike for every class, whatever they measure."""
        return [EQUAL] * len(self.support.classes)

    def best_sizes(self) -> list[float]:
        """How much the size of regions should count for every class, see :data:`SIZES`; what no volume shows has no
        choice either."""
        if self.support.shots == 1:
            return self.equal_sizes()
        count = len(self.support.classes)
        dice = [own_dice(self.own_logits([s] * count), self.support, self.support).nanmean(0) for s in SIZES]
        each = torch.stack(dice, 1)
        return [EQUAL if bool(one.isnan().any()) else SIZES[int(one.argmax())] for one in each]

    def _annotated(self) -> Tensor:
        return self.support.annotated.to(self.regions.gram)


def own_dice(own_logits: list[tuple[list[int], Tensor]], support: SupportSet, whole: SupportSet) -> Tensor:
    """How well the volumes of a support set are segmented by the others, ``(K, n)``; not a number for a class that a
    volume does not show.

    Args:
        own_logits: shots and leave-one-out logits of their volumes, ``(k, N, d, h, w)``.
        support: the volumes that the logits belong to.
        whole: those they were cut out of, or the same: foreground beyond the window is missed.
    """
    scores = torch.full((support.shots, len(support.classes)), torch.nan)
    for (shots, logits), (_, _, labels) in zip(own_logits, support.volumes()):
        predicted = logits.argmax(1, keepdim=True)
        for i, shot in enumerate(shots):
            d, h, w = whole.extents[shot].tolist()
            true = whole.labels[shot, :, :d, :h, :w]
            for c in whole.annotated[shot].nonzero()[:, 0].tolist():
                found, there = predicted[i] == c + 1, true == c + 1
                if bool(there.any()):
                    both = float((found & (labels[i] == c + 1)).sum())
                    scores[shot, c] = 2 * both / float(found.sum() + there.sum())
    return scores
