"""Laws of conditioning: what may and what may not change the network that a support set generates."""

import io
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.model import STEP_SIZES, HyperModel, leave_one_out
from monai_hyper.networks.unet import HeadlessNetwork, UNetBody
from monai_hyper.synthesis.tasks import Episode
from monai_hyper.training.loss import episode_loss


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def assert_same(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-3) -> None:
    """Equal up to ``relative`` of the largest value."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= relative * float(expected.abs().max())


def in_another_order(support: SupportSet) -> SupportSet:
    """The same volumes, none of them at its old place."""
    return support.subset([*range(1, support.shots), 0])


def test_support_order_does_not_matter_for_volumes_of_different_sizes(model, make_support, query):
    extents = torch.tensor([[32, 34, 33], [30, 34, 33], [32, 31, 33]])
    support = make_support(3, extents=extents)
    assert_same(model(query, in_another_order(support)), model(query, support))


def test_support_order_does_not_matter_for_volumes_of_one_size(model, make_support, query):
    support = make_support(3)
    assert_same(model(query, in_another_order(support)), model(query, support))


def test_support_order_does_not_matter_for_a_class_annotated_once(model, make_support, query):
    support = make_support(3, classes=2, annotated=torch.tensor([[True, True], [True, False], [True, False]]))
    assert_same(model(query, in_another_order(support)), model(query, support))


def test_renumbering_classes_permutes_the_channels_and_nothing_else(model, make_support, query):
    support = make_support(3, classes=3)
    logits = model(query, support)
    new = torch.tensor([0, 3, 1, 2])
    names = tuple(support.classes[old] for old in (1, 2, 0))
    renumbered = SupportSet(support.images, new[support.labels], names)
    assert_same(model(query, renumbered)[:, new], logits)


def test_conditioning_twice_gives_the_same_network(model, make_support, query):
    support = make_support(2)
    assert torch.equal(model(query, support), model(query, support))


def test_materialised_network_equals_conditioned_network(model, make_support, query):
    network = model.condition(make_support(2, classes=2))
    assert_same(network.materialise()(query), network(query), 1e-4)


def test_materialising_leaves_the_model_unchanged(model, make_support, query):
    before, support = deepcopy(model.state_dict()), make_support(2)
    network = model.condition(support)
    logits = network(query)
    plain = network.materialise()
    for parameter in plain.parameters():
        parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(network(query), logits)
    assert torch.equal(model(query, support), logits)


def test_materialised_network_scripts(model, make_support, query):
    plain = model.condition(make_support(2, classes=2)).materialise()
    stored = io.BytesIO()
    torch.jit.save(torch.jit.script(plain), stored)
    stored.seek(0)
    assert_same(torch.jit.load(stored)(query), plain(query), 1e-4)


def test_materialised_state_loads_without_pickled_objects(model, make_support, query):
    plain, stored = model.condition(make_support(2)).materialise(), io.BytesIO()
    torch.save(plain.state_dict(), stored)
    stored.seek(0)
    empty = deepcopy(plain)
    for parameter in empty.parameters():
        parameter.zero_()
    empty.load_state_dict(torch.load(stored, weights_only=True))
    assert torch.equal(empty(query), plain(query))


def test_an_inferer_that_does_nothing_changes_nothing(model, make_support, query):
    network = model.condition(make_support(2, classes=2))
    assert torch.equal(network(query, lambda prepared, apply: apply(prepared)), network(query))


def test_large_volumes_are_seen_on_a_coarser_grid(model, make_support, monkeypatch):
    support, query = make_support(2, classes=2, size=(40, 42, 44)), torch.randn(1, 1, 41, 43, 40)
    monkeypatch.setattr("monai_hyper.networks.model.WORKING_VOXELS", 10_000)
    network, own_logits = model.generate(support)
    assert network.factor == 2
    assert_same(network.materialise()(query), network(query), 1e-4)
    coarse, _ = model.generate(support.coarser(2))
    assert coarse.factor == 1, "the coarser volumes are small enough"
    small = coarse(torch.nn.functional.avg_pool3d(query, 2, ceil_mode=True, count_include_pad=False))
    expected = torch.nn.functional.interpolate(small, scale_factor=2.0, mode="trilinear")[..., :41, :43, :40]
    assert_same(network(query), expected, 1e-4)
    assert [tuple(logits.shape) for _, logits in own_logits()] == [(2, 3, 40, 42, 44)]


def test_a_batch_equals_its_images_one_by_one(model, make_support, query):
    network = model.condition(make_support(1))
    batch = torch.cat([query, torch.randn_like(query)])
    assert_same(network(batch), torch.cat([network(batch[:1]), network(batch[1:])]), 1e-4)


@pytest.mark.parametrize("shots", [1, 16])
def test_fewest_and_most_shots_give_finite_logits(model, make_support, query, shots):
    logits = model(query, make_support(shots))
    assert logits.shape == (1, 2, *query.shape[2:])
    assert bool(torch.isfinite(logits).all())
    assert float(logits[:, 1].std()) > 0


@pytest.mark.parametrize("shots", [1, 2, 3])
def test_what_lies_beyond_the_extents_never_matters(model, make_support, query, shots):
    extents = torch.tensor([[30, 32, 33], [32, 31, 28], [29, 33, 30]])[:shots]
    support = make_support(shots, classes=2, extents=extents)
    images, labels = torch.full_like(support.images, float("nan")), torch.full_like(support.labels, 2)
    for shot, (d, h, w) in enumerate(extents.tolist()):
        images[shot, :, :d, :h, :w] = support.images[shot, :, :d, :h, :w]
        labels[shot, :, :d, :h, :w] = support.labels[shot, :, :d, :h, :w]
    assert torch.equal(model(query, replace(support, images=images, labels=labels)), model(query, support))


def test_own_logits_cover_every_volume_once_and_on_its_own_grid(model, make_support):
    extents = torch.tensor([[32, 34, 33], [30, 34, 33], [32, 34, 33]])
    _, own_logits = model.generate(make_support(3, classes=2, extents=extents))
    found = {shot: tuple(own.shape[1:]) for shots, own in own_logits() for shot in shots}
    assert found == {shot: (3, *extents[shot].tolist()) for shot in range(3)}


def test_leave_one_out_ignores_what_does_not_count():
    values = torch.randn(3, 2, 4, 4, 4)
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])[:, :, None, None, None].expand_as(values)
    mean, others, known = leave_one_out(values, weight)
    assert_close(mean[0, 0], (values[0, 0] + values[1, 0]) / 2)
    assert_close(mean[0, 1], (values[0, 1] + values[2, 1]) / 2)
    assert_close(others[:, 0], torch.stack([values[1, 0], values[0, 0], (values[0, 0] + values[1, 0]) / 2]))
    assert bool(known.all())
    changed = values.clone()
    changed[1, 1], changed[2, 0] = 100, -100
    again, of_others, _ = leave_one_out(changed, weight)
    assert_close(again, mean)
    assert_close(of_others[:, 0], others[:, 0])
    assert_close(of_others[:, 1], others[:, 1])


def test_leave_one_out_tells_who_has_no_others():
    values, weight = torch.randn(2, 2, 3, 3, 3), torch.ones(2, 2, 3, 3, 3)
    weight[1, 1] = 0
    _, others, known = leave_one_out(values, weight)
    assert known.tolist() == [[True, False], [True, True]]
    assert_close(others[0, 0], values[1, 0])
    assert bool((others[0, 1] == 0).all()), "nobody else knows"


def test_a_class_of_some_volumes_only_gets_a_network(model, make_support, query):
    support = make_support(3, classes=2)
    labels = support.labels.clone()
    labels[2][labels[2] == 2] = 0
    annotated = torch.tensor([[True, True], [True, True], [True, False]])
    logits = model(query, replace(support, labels=labels, annotated=annotated))
    told_absent = model(query, replace(support, labels=labels))
    assert bool(torch.isfinite(logits).all())
    assert not torch.allclose(logits[:, 2], told_absent[:, 2])


def test_a_class_of_one_volume_only_may_be_the_only_one_annotated_there(model, make_support, query):
    annotated = torch.tensor([[True, False], [True, False], [False, True]])
    assert bool(torch.isfinite(model(query, make_support(3, classes=2, annotated=annotated))).all())


def test_a_volume_that_shows_nothing_is_a_support_volume_too(model, make_support, query):
    support = make_support(3)
    labels = support.labels.clone()
    labels[0] = 0
    network = model.condition(replace(support, labels=labels))
    assert bool(torch.isfinite(network(query)).all()) and 0 <= network.expected_dice <= 1


@pytest.mark.parametrize("shots", [1, 2])
def test_empty_masks_everywhere_still_give_a_network(model, make_support, query, shots):
    """As when polish leaves out the volumes that show the structure."""
    support = make_support(shots)
    network = model.condition(replace(support, labels=torch.zeros_like(support.labels)))
    logits = network(query)
    assert (
        network.expected_dice is None
        and logits.shape == (1, 2, *query.shape[2:])
        and bool(torch.isfinite(logits).all())
    )


@torch.enable_grad()
def test_every_parameter_receives_a_gradient_after_two_steps(make_support):
    model = HyperModel().train()
    support = make_support(3)
    episode = Episode(support.subset([0, 1]), support.images[2:], support.labels[2:], "made")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad(set_to_none=True)
        loss, _ = episode_loss(model, episode)
        loss.backward()
        optimiser.step()
    without = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    found = {name.partition(".")[0] for name in without}
    assert found == {"polish", "listen", "speaker"}, "which polishing and descriptions teach"
    assert all(bool(torch.isfinite(p.grad).all()) for n, p in model.named_parameters() if n not in without)


def test_more_than_16_volumes_are_no_other_task(model):
    tokens = torch.randn(16, 2, 5, 192)
    annotated = torch.ones(16, 2, dtype=torch.bool)
    once, twice = (model.encoder.aggregate(tokens.repeat(n, 1, 1, 1), annotated.repeat(n, 1)) for n in (1, 2))
    assert_close(once, twice)


def test_many_volumes_may_differ_in_extent(model, make_support, query):
    extents = torch.tensor([[16, 16, 16 - shot % 3] for shot in range(20)])
    support = make_support(20, size=(16, 16, 16), extents=extents)
    assert torch.isfinite(model(query, support)).all()


def test_every_generated_tensor_that_reads_has_a_step_size_within_bounds(make_support):
    bodies = [
        UNetBody(10, (4, 6, 8, 10), 3),
        HeadlessNetwork(BasicUNet(3, 10, 2, features=(4, 4, 4, 4, 4, 4)), "final_conv"),
    ]
    for body in bodies:
        model = HyperModel(body, 16).eval()
        names = {name for name in model.generate(make_support(2))[0].weights if name.startswith("reader.")}
        sizes = model.step_sizes()
        assert sizes.keys() == names and all(float(size) == 1 for size in sizes.values())
        for far, bound in zip((-100, 100), STEP_SIZES):
            model.polish.data.fill_(far)
            assert {float(size) for size in model.step_sizes().values()} == {float(torch.tensor(bound).exp())}
