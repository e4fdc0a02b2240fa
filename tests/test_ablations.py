"""The variants of the ablations: each is a working model, and differs from none but itself by nothing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel
from monai_hyper.networks.template import Template
from monai_hyper.networks.unet import UNetBody

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from ablation_page import results_of, signed, spread, table  # noqa: E402
from ablation_variants import (  # noqa: E402
    RELEASED,
    TRAINED,
    Held,
    RegionMeans,
    other_encoder,
    stretched_places,
    truncated,
)

AS_IT_IS = TRAINED["reference"].change
CHANGES = {name: v.change for name, v in (RELEASED | TRAINED).items() if v.change is not AS_IT_IS}


@pytest.fixture(scope="module")
def held() -> Held:
    """Two support volumes and a query of 16 voxels a side, which lie one over the other."""
    torch.manual_seed(0)
    labels = torch.zeros(3, 1, 16, 16, 16, dtype=torch.long)
    labels[:, :, 4:11, 5:12, 3:9] = 1
    images = labels + 0.3 * torch.randn(labels.shape)
    there = stretched_places([16] * 3, [16] * 3)
    template = Template(images[:1], [there] * 2, [there] * 2, [[16] * 3] * 2)
    support = SupportSet(images[:2], labels[:2])
    return Held("t", 2, 1, ("q",), support, template, [images[2:]], [labels[2:]], [there])


def small() -> HyperModel:
    torch.manual_seed(0)
    return HyperModel(UNetBody(1 + PRIOR_CHANNELS + 1, (4, 6, 8, 10), 3), 16)


@pytest.mark.parametrize("name", CHANGES)
def test_every_variant_segments_and_those_to_be_trained_learn(name, held):
    model = CHANGES[name](small()).train()
    network, own = model.generate(held.support, held.template)
    logits = network(held.images[0], places=held.places)
    assert logits.shape == (1, 2, 16, 16, 16)
    if name in RELEASED:  # not for training
        return
    (logits.square().mean() + sum(each.square().mean() for _, each in own())).backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert torch.isfinite(torch.stack(norms)).all() and torch.stack(norms).max() > 0


def test_new_parts_receive_a_gradient(held):
    for name, parts in (
        ("depthwise", ("kernels",)),
        ("query-attention", ("pairs", "slots", "query")),
        ("generated-head", ("emit",)),
    ):
        model = CHANGES[name](small()).train()
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        model.generate(held.support, held.template)[0](held.images[0], places=held.places).square().sum().backward()
        for part in parts:
            assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if part in n), part


def test_full_rank_cut_to_full_rank_changes_nothing(held):
    def logits(model):
        return model.eval().generate(held.support, held.template)[0](held.images[0], places=held.places)

    def moved():
        model = small()
        for parameter in model.hypernetwork.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        return model

    with torch.no_grad():
        plain = logits(moved())
        assert torch.allclose(plain, logits(truncated(moved(), 8)), atol=1e-4)
        assert not torch.allclose(plain, logits(truncated(moved(), 1)), atol=1e-4)


def test_region_means_are_equal_within_a_scale():
    model = other_encoder(small(), RegionMeans)
    maps = model.encoder.maps(torch.randn(1, 1, 16, 16, 16), torch.ones(1, 1, 16, 16, 16))
    tokens = model.encoder.tokens(maps, torch.rand(1, 1, 16, 16, 16).round())
    assert torch.equal(tokens[:, 0], tokens[:, 4]) and not torch.equal(tokens[:, 0], tokens[:, 5])


def rows(name: str, shift: float) -> list[dict[str, str]]:
    return [
        {"variant": name, "task": task, "shots": str(k), "draw": str(d), "query": q,
         "dice": str(0.5 + 0.1 * d + 0.02 * i + shift)}
        for task in ("a", "b") for k in (1, 4) for d in (1, 2) for i, q in enumerate("xyz")
    ]  # fmt: skip


def test_a_variant_differs_from_itself_by_nothing():
    found = table(rows("plain", 0.0) + rows("better", 0.1), {"plain": "", "better": ""}, ["plain"])
    assert "| plain |  | 0.670 | 0.670 | +0.000 [+0.000, +0.000] |" in found
    assert "| better |  | 0.770 | 0.770 | +0.100 [+0.100, +0.100] |" in found


def test_spread_of_references_is_that_of_their_means():
    found = rows("reference", 0.0) + rows("reference-seed-1", 0.02) + rows("reference-seed-2", -0.02)
    assert "0.670, 0.690, 0.650; standard deviation 0.020" in "\n".join(spread(found))
    assert len(results_of(found)["reference"]) == 24
    assert signed(np.full((1, 2, 3), np.nan)) == ""
