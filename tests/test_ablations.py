"""The variants of the ablations: each is a working model, and differs from none but itself by nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_hyper.data.support import SupportSet
from monai_hyper.networks import readout
from monai_hyper.networks.alignment import voxels
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel
from monai_hyper.networks.template import Template
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.training.loss import batch_loss, task_dice

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablation_variants  # noqa: E402
from ablation_page import results_of, signed, spread, table  # noqa: E402
from ablation_variants import (  # noqa: E402
    RELEASED,
    TRAINED,
    Blind,
    Held,
    PlainPooling,
    RegionMeans,
    other_encoder,
    truncated,
)
from ablations import learn, rows_of, small_model, task_loss  # noqa: E402

AS_IT_IS = TRAINED["reference"].change
CHANGES = {name: v.change for name, v in (RELEASED | TRAINED).items() if v.change is not AS_IT_IS}
TO_BE_TRAINED = {name: change for name, change in CHANGES.items() if name in TRAINED}


@pytest.fixture(scope="module")
def held() -> Held:
    """Two support volumes and a query of 16 voxels a side, which lie one over the other."""
    torch.manual_seed(0)
    labels = torch.zeros(3, 1, 16, 16, 16, dtype=torch.long)
    labels[:, :, 4:11, 5:12, 3:9] = 1
    images = labels + 0.3 * torch.randn(labels.shape)
    there = voxels([16] * 3, images)
    template = Template(images[:1], [there] * 2, [there] * 2, [[16] * 3] * 2)
    support = SupportSet(images[:2], labels[:2])
    return Held("t", 2, 1, ("q",), support, template, [images[2:]], [labels[2:]], [there])


@pytest.fixture(scope="module")
def batch() -> TaskBatch:
    """A task of two support volumes, one query and two classes, whose volumes are shifted."""
    torch.manual_seed(0)
    labels = torch.zeros(1, 3, 1, 16, 14, 18, dtype=torch.long)
    labels[..., 4:11, 5:12, 3:9], labels[..., 4:11, 5:12, 10:14] = 1, 2
    offsets = 4 * torch.rand(1, 3, 3) - 2
    return TaskBatch(labels + 0.3 * torch.randn(labels.shape), labels, offsets, 2, 2, True, ("made",))


def small() -> HyperModel:
    torch.manual_seed(0)
    return HyperModel(UNetBody(1 + PRIOR_CHANNELS + 1, (4, 6, 8, 10), 3), 16)


def moved(model: HyperModel) -> HyperModel:
    """Far from where it began, where nothing is generated."""
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def logits_of(model: HyperModel, held: Held) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().generate(held.support, held.template)[0](held.images[0], places=held.places)


@pytest.mark.parametrize("name", [name for name in CHANGES if name in RELEASED])
def test_every_variant_of_the_released_model_segments_otherwise(name, held, monkeypatch):
    monkeypatch.setattr(readout, "SIZES", (readout.EQUAL,))  # what the learned calibration, a part of it, belongs to
    plain, changed = moved(small()), CHANGES[name](moved(small()))
    for name in plain.younger:
        kept, own = changed.get_parameter(name), plain.get_parameter(name)
        assert own.any() and torch.equal(kept, own), "what it learned may not be lost"
    plain, found = logits_of(plain, held), logits_of(changed, held)
    assert found.shape == (1, 2, 16, 16, 16) and bool(torch.isfinite(found).all())
    assert not torch.allclose(plain, found, atol=1e-4)


def learned(model: HyperModel, batch: TaskBatch) -> tuple[float, set[str]]:
    """Loss of a model in its first update, and which of its parts were changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    torch.manual_seed(1)
    loss, score = learn(model.train(), torch.optim.SGD(model.parameters(), lr=0.01), batch, clip=0.5)
    assert 0 <= score <= 1
    return loss, {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.fixture(scope="module")
def reference(batch) -> tuple[float, set[str]]:
    return learned(moved(small()), batch)


@pytest.mark.parametrize("name", TO_BE_TRAINED)
def test_every_variant_that_is_to_be_trained_learns_otherwise(name, batch, reference):
    loss, parts = learned(TO_BE_TRAINED[name](moved(small())), batch)
    as_before = loss == pytest.approx(reference[0], rel=1e-5)
    assert np.isfinite(loss) and as_before == (name == "depthwise"), "only those kernels begin at zero"
    assert parts == reference[1] - ({"hypernetwork"} if name == "nothing-generated" else set())
    assert parts >= {"body", "encoder", "head", "scale"}


@pytest.mark.parametrize("local", [False, True])
def test_the_loss_of_a_task_is_that_of_the_batched_way(local, batch):
    model, batch, found = moved(small()).train(), replace(batch, local=local), []
    for loss_of in (task_loss, batch_loss):
        torch.manual_seed(0)
        found.append(loss_of(model, batch))
    (loss, score), (expected, logits) = found
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(score) == pytest.approx(float(task_dice(logits, batch.labels[:, 2:])), abs=1e-3)


@pytest.mark.parametrize("name", TO_BE_TRAINED)
def test_first_weights_are_those_of_the_reference_where_both_have_them(name):
    reference, own = (small_model(TRAINED[each]).state_dict() for each in ("reference", name))
    common = [key for key in own if key in reference and own[key].shape == reference[key].shape]
    assert [key for key in common if not torch.equal(own[key], reference[key])] == []
    assert {key.split(".")[0] for key in common} >= {"body", "encoder", "scale"}


def test_layers_keep_their_learned_tokens_in_another_generator():
    for name in ("rank-0", "query-attention"):
        plain, other = small().hypernetwork, CHANGES[name](small()).hypernetwork
        known = dict(zip(plain.convolutions + plain.norms, plain.layers))
        rows = dict(zip(other.convolutions + other.norms, other.layers))
        assert len(plain.layers) != len(other.layers)
        assert all(torch.equal(rows[layer], known[layer]) for layer in rows.keys() & known.keys()), name


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, v in RELEASED.items() if v.fit is not RELEASED["released"].fit])
def test_every_way_to_use_the_model_segments(name, held, monkeypatch):
    monkeypatch.setattr(ablation_variants, "STEPS", (1, 2, 4))
    rows = list(rows_of(name, RELEASED[name], small().eval(), held))
    assert [row["variant"] for row in rows] == [name + result for result in RELEASED[name].results]
    assert all(0 <= row["dice"] <= 1 for row in rows)


def test_a_model_that_forgets_places_shows_them_to_nobody(held):
    for prior, masks in ((True, False), (False, True), (True, True)):
        reading = Blind(moved(small()), prior, masks).eval().read(held.support, held.template, None, True)
        shown = [bool(reading.prior.any()), bool(reading.masks.any())]
        assert shown == [not prior, not masks]
        for own in reading.others:
            assert [bool(own[:, :PRIOR_CHANNELS].any()), bool(own[:, PRIOR_CHANNELS:].any())] == shown


def test_new_parts_receive_a_gradient(held):
    for name, parts in (
        ("depthwise", ("kernels",)),
        ("query-attention", ("pairs", "slots", "query")),
        ("generated-head", ("emit",)),
    ):
        model = moved(CHANGES[name](small())).train()
        model.generate(held.support, held.template)[0](held.images[0], places=held.places).square().sum().backward()
        for part in parts:
            assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if part in n), part


def test_full_rank_cut_to_full_rank_changes_nothing(held):
    plain = logits_of(moved(small()), held)
    whole, cut = (logits_of(truncated(moved(small()), rank), held) for rank in (8, 1))
    assert torch.allclose(plain, whole, atol=1e-4)
    assert not torch.allclose(plain, cut, atol=1e-4)


def test_region_means_are_equal_within_a_scale():
    model = other_encoder(small(), RegionMeans)
    mask = torch.rand(1, 2, 16, 16, 16).round()
    maps = model.encoder.maps(torch.randn(1, 1, 16, 16, 16), mask.amax(1, keepdim=True))
    tokens, plain = model.encoder.tokens(maps, mask), small().encoder.tokens(maps, mask)
    assert tokens.shape == plain.shape and torch.equal(tokens[:, :, -1], plain[:, :, -1])
    assert torch.equal(tokens[:, :, 0], tokens[:, :, 4]) and not torch.equal(tokens[:, :, 0], tokens[:, :, 5])
    assert torch.allclose(tokens[:, :, :5].mean(2), plain[:, :, :5].mean(2), atol=1e-5)


def test_plain_pooling_tells_classes_apart_by_their_geometry_alone():
    model = other_encoder(small(), PlainPooling)
    mask = torch.rand(2, 3, 16, 16, 16).round()
    maps = model.encoder.maps(torch.randn(2, 1, 16, 16, 16), mask.amax(1, keepdim=True))
    tokens = model.encoder.tokens(maps, mask)
    assert torch.equal(tokens[:, 0, :-1], tokens[:, 2, :-1]) and not torch.equal(tokens[:, 0, -1], tokens[:, 2, -1])
    assert torch.equal(tokens[:, 0, -1], small().encoder.tokens(maps, mask)[:, 0, -1])


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
