"""Choose, merge and rename the classes of a label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor

from monai_hyper.types import InputError


class SelectClasses(Transform):
    """Map chosen label values to 1, 2, 3 ... in the order given, all others to 0.

    Args:
        values: one entry a class: a label value, or a sequence of values that together are the class.

    Raises:
        InputError: for no values, a value that is chosen twice, and 0, which is background.

    Example:
        >>> SelectClasses([(2, 7), 5])(torch.tensor([0, 2, 5, 7, 9]))
        tensor([0, 1, 2, 1, 0])
    """

    def __init__(self, values: Sequence[int | Sequence[int]]) -> None:
        self.values = tuple((v,) if isinstance(v, int) else tuple(v) for v in values)
        flat = [value for merged in self.values for value in merged]
        if not flat or len(set(flat)) != len(flat) or 0 in flat:
            raise InputError(f"the label values are {list(values)}; expected one or more, each once, none of them 0.")

    def __call__(self, label: Tensor) -> Tensor:
        """
        Args:
            label: label map of any shape.

        Returns:
            the same shape, dtype and affine.
        """
        result = torch.zeros_like(label)
        for index, merged in enumerate(self.values, start=1):
            for value in merged:
                result[label == value] = index
        return result


class SelectClassesd(MapTransform):
    """Dictionary version of :class:`SelectClasses`.

    Example:
        >>> SelectClassesd("label", [3])({"label": torch.tensor([0, 3])})["label"]
        tensor([0, 1])
    """

    def __init__(
        self, keys: KeysCollection, values: Sequence[int | Sequence[int]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.select = SelectClasses(values)

    def __call__(self, data: Mapping) -> dict:
        return {**data, **{key: self.select(data[key]) for key in self.key_iterator(data)}}


class RenameClasses(Transform):
    """Give classes other names; order and label values stay.

    Args:
        names: new name by old name.

    Raises:
        InputError: when applied, for an old name that is not there and for names that would coincide.

    Example:
        >>> RenameClasses({"1": "liver"})(("1", "spleen"))
        ('liver', 'spleen')
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)

    def __call__(self, classes: Sequence[str]) -> tuple[str, ...]:
        unknown = sorted(set(self.names) - set(classes))
        renamed = tuple(self.names.get(name, name) for name in classes)
        if unknown:
            raise InputError(f"unknown class {', '.join(unknown)}; known are {', '.join(classes)}.")
        if len(set(renamed)) != len(renamed):
            raise InputError(f"the classes would be {renamed}; expected different names.")
        return renamed


class RenameClassesd(MapTransform):
    """Dictionary version of :class:`RenameClasses`.

    Example:
        >>> RenameClassesd("classes", {"1": "liver"})({"classes": ("1",)})["classes"]
        ('liver',)
    """

    def __init__(self, keys: KeysCollection, names: Mapping[str, str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.rename = RenameClasses(names)

    def __call__(self, data: Mapping) -> dict:
        return {**data, **{key: self.rename(data[key]) for key in self.key_iterator(data)}}
