"""A small body of four labels that differs from subject to subject, and sources made of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from monai_hyper.synthesis.sources import Cohort, Sources, Subject, subject


def make_brain(shift: int, image: bool = False) -> Subject:
    """A body of four labels, somewhat different from subject to subject."""
    labels = np.zeros((40, 42, 38), dtype=np.uint8)
    labels[4:36, 4:38, 4:34] = 1
    labels[8 + shift : 18 + shift, 10:20, 10:20] = 2
    labels[22:32, 10 + shift : 24 + shift, 12:24] = 3
    labels[10:20, 26:36, 20 + shift : 28 + shift] = 4
    picture = labels * 100.0 + np.arange(38) if image else None
    return subject(labels, (2.0, 2.0, 2.0), picture)


@pytest.fixture(scope="session")
def brain() -> Callable[..., Subject]:
    return make_brain


@pytest.fixture(scope="session")
def sources() -> Sources:
    """Label maps, images and a lesion."""
    lesion = torch.zeros(12, 12, 12, dtype=torch.bool)
    lesion[3:9, 3:9, 3:9] = True
    cohorts = {
        "brain_labels": Cohort("brain_labels", [make_brain(s) for s in range(4)], (2, 3, 4), body_is_labelled=True),
        "headneck_ct": Cohort("headneck_ct", [make_brain(s, True) for s in range(4)], (2, 3), is_ct=True),
    }
    return Sources(cohorts, [lesion])
