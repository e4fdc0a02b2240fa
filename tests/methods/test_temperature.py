"""Calibration changes confidence, never the segmentation."""

import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.temperature import Temperature, best_temperature, judged
from monai_hyper.networks.model import HyperModel


@pytest.fixture(scope="module")
def model() -> HyperModel:
    torch.manual_seed(0)
    return HyperModel().eval()


@pytest.mark.parametrize("shots", [1, 3])
def test_the_segmentation_stays(model, shots):
    images, labels = torch.randn(shots, 1, 32, 32, 32), torch.zeros(shots, 1, 32, 32, 32).long()
    labels[:, :, 8:20, 8:20, 8:20] = 1
    support, query = SupportSet(images, labels), torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        plain, calibrated = model.condition(support)(query), Temperature(model).fit(support)(query)
    ratio = (plain[:, 1] / calibrated[:, 1]).flatten()
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3) and float(ratio[0]) > 0
    assert torch.equal(plain.argmax(1), calibrated.argmax(1))


def test_a_known_temperature_is_found():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 3, generator=generator)
    classes = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert best_temperature([(4 * logits, classes)]) == pytest.approx(4, rel=0.05)


def test_an_unannotated_class_is_ruled_out():
    logits, labels = torch.zeros(3, 8, 8, 8), torch.zeros(1, 8, 8, 8).long()
    labels[0, 4, 4, 4] = 1
    found, classes = judged(logits, labels, torch.tensor([True, False]))
    assert len(found) == len(classes) == 5**3 + 7**3 - 5**3
    assert float(found.softmax(1)[:, 2].max()) == 0
