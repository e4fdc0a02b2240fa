"""Names shared by every part of the package."""

from torch import Tensor

Weights = dict[str, Tensor]
"""One tensor per parameter name of a target network."""

Shapes = dict[str, tuple[int, ...]]
"""One shape per parameter name of a target network."""

MAX_SHOTS = 16
"""Largest number of support volumes that a user may give, and that are read together."""

MOST_VOLUMES = 64
"""Largest number of support volumes in memory; evaluations ask how methods compare beyond ``MAX_SHOTS``."""

MAX_CLASSES = 8
"""Largest number of foreground classes that one condition call serves."""


class InputError(ValueError):
    """What a user gave cannot be used. The message names file, expected, found and remedy."""


class SomeFailed(Exception):
    """The work is done but for some cases, which the message names with their reasons."""
