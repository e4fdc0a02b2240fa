"""What the tests of methods share: a model with random weights, and a task that brightness solves."""

import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel


@pytest.fixture(scope="session")
def model() -> HyperModel:
    """A model with random parameters, none of them zero; tests must not change it."""
    torch.manual_seed(1)
    made = HyperModel()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made.eval()


def make_task(shots: int, classes: int = 1, extents: torch.Tensor | None = None) -> SupportSet:
    """Cuboids, every class brighter than the one before, at places of their own."""
    generator = torch.Generator().manual_seed(shots)
    labels = torch.zeros(shots, 1, 24, 26, 25, dtype=torch.long)
    for shot in range(shots):
        for value in range(classes):
            x, y, z = (2 + torch.randint(4, (3,), generator=generator)).tolist()
            labels[shot, 0, x + 9 * value : x + 9 * value + 7, y : y + 12, z : z + 11] = value + 1
    images = 2.0 * labels + 0.3 * torch.randn(labels.shape, generator=generator)
    return SupportSet(images, labels, tuple(f"class_{v + 1}" for v in range(classes)), extents=extents)


@pytest.fixture(scope="session")
def task():
    """Function of shots, classes and extents that gives a support set."""
    return make_task
