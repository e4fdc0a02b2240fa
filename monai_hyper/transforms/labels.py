"""From the logits of a network to a label map on the query's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from monai_hyper.transforms.decision import best_threshold
from monai_hyper.transforms.grid import InvertToGrid


class LogitsToLabels(Transform):
    """Label map on the query's own grid, in the values of the dataset.

    Calibrated probabilities of a single class are cut for the highest expected Dice, see
    :mod:`monai_hyper.transforms.decision`; else the most probable class is taken.

    Args:
        spacing: side of a voxel of the task grid, mm.
        values: of the foreground classes, in the order of the network's channels 1, 2, ...
        calibrated: whether the probabilities may be believed.

    Example:
        >>> query = MetaTensor(torch.rand(1, 8, 8, 4), affine=torch.diag(torch.tensor([-1.0, 1.0, 2.0, 1.0])))
        >>> logits = torch.stack([torch.zeros(8, 8, 8), torch.ones(8, 8, 8)])
        >>> LogitsToLabels(1.0, [7])(logits, query).unique()
        metatensor([7])
    """

    def __init__(self, spacing: float, values: Sequence[int], calibrated: bool = True) -> None:
        self.invert, self.values, self.calibrated = InvertToGrid(spacing), tuple(values), calibrated

    def __call__(self, logits: Tensor, query: MetaTensor) -> MetaTensor:
        """
        Args:
            logits: ``(N, d, h, w)`` on the task grid of the query, background first.
            query: as read, ``(1, D, H, W)``; only its grid is used.

        Returns:
            ``(1, D, H, W)`` int64 with the affine of the query.

        Raises:
            InputError: if the logits do not lie on the task grid of the query.
        """
        probabilities = (logits.as_tensor() if isinstance(logits, MetaTensor) else logits).float().softmax(0)
        if self.calibrated and len(probabilities) == 2:
            threshold = best_threshold(probabilities[1])
            probabilities[1] *= (1 - threshold) / threshold  # the odds at which it wins over the background
        background, *others = probabilities
        best = self.invert(background[None], query).as_tensor()
        result = torch.zeros(best.shape, dtype=torch.int64, device=best.device)
        for value, score in zip(self.values, others):  # class by class: all at once would fill the memory
            on_grid = self.invert(score[None], query).as_tensor()
            result.masked_fill_(on_grid > best, value)
            torch.maximum(best, on_grid, out=best)
        return MetaTensor(result, affine=query.affine.clone())


class LogitsToLabelsd(MapTransform):
    """Dictionary version of :class:`LogitsToLabels`; the query lies beside the logits, as read.

    The label maps get the query's metadata, which names the file that it was read from.

    Example:
        >>> data = {"pred": torch.rand(2, 4, 4, 4), "query": MetaTensor(torch.rand(1, 4, 4, 4))}
        >>> LogitsToLabelsd("pred", "query", 1.0, [1])(data)["pred"].shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        query: str,
        spacing: float,
        values: Sequence[int],
        calibrated: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.query, self.to_labels = query, LogitsToLabels(spacing, values, calibrated)

    def __call__(self, data: Mapping) -> dict:
        query = data[self.query]
        found = {key: self.to_labels(data[key], query) for key in self.key_iterator(data)}
        return {**data, **{key: label.copy_meta_from(query) for key, label in found.items()}}
