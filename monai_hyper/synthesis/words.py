"""What the classes of planned tasks are called."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.text import TEXT_DIM
from monai_hyper.data.vocabulary import description, names_of
from monai_hyper.synthesis.plans import LESION, Plan

_description = lru_cache(maxsize=4096)(description)


def descriptions_of(plans: Sequence[Plan], classes: int, rng: np.random.Generator) -> Tensor:
    """Vectors of the classes of every task, one of several names drawn by chance; zero for what has no name.

    Parts, layers and unions of structures have none, nor have shapes and structures put together.

    Returns:
        ``(T, n, 384)``.
    """
    found = torch.zeros(len(plans), classes, TEXT_DIM)
    for task, plan in enumerate(plans):
        for number, names in enumerate(_names(plan)):
            if names:
                found[task, number] = _description(str(rng.choice(names)))
    return found


def _names(plan: Plan) -> list[tuple[str, ...]]:
    if plan.lesions is not None:
        return [names_of("lesions").get(LESION, ())]
    if plan.layer:
        return []
    return [plan.cohort.names.get(values[0], ()) if len(values) == 1 else () for values in plan.classes]
