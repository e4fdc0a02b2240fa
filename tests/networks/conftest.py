"""What the tests of networks share: a model that is far from its starting point, and small support sets."""

from collections.abc import Callable

import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import HyperModel


def _perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Move all parameters, so that what starts at zero takes part."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def perturbed() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Function that moves the parameters of a model."""
    return _perturbed


@pytest.fixture(scope="session")
def model() -> HyperModel:
    """A model with random parameters, none of them zero; tests must not change it."""
    torch.manual_seed(1)
    return _perturbed(HyperModel())


def _make_support(shots: int, classes: int = 1, size: tuple[int, int, int] = (32, 34, 33), **facts) -> SupportSet:
    """Bright cuboids in noise; every volume shows every class, at a place of its own."""
    images, labels = 0.3 * torch.randn(shots, 1, *size), torch.zeros(shots, 1, *size, dtype=torch.long)
    for shot in range(shots):
        for value in range(1, classes + 1):
            low = [4 + (3 * shot + 7 * value + 5 * axis) % 12 for axis in range(3)]
            box = (shot, 0, *(slice(start, start + 9 - value) for start in low))
            labels[box] = value
    images = images + 0.6 * labels
    return SupportSet(images, labels, tuple(f"class_{value}" for value in range(1, classes + 1)), **facts)


@pytest.fixture(scope="session")
def make_support() -> Callable[..., SupportSet]:
    """Function of shots, classes and size that gives a small support set."""
    return _make_support


@pytest.fixture
def query() -> torch.Tensor:
    """One image whose sides differ from the support's."""
    return torch.randn(1, 1, 33, 32, 36)
