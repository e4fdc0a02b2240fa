"""Scenes hold what subjects, structures and lesions are where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monai_hyper.synthesis.blocks import Shelf
from monai_hyper.synthesis.frames import grid_size, make_frame, positions
from monai_hyper.synthesis.morphology import erode
from monai_hyper.synthesis.plans import BODY, FIRST_ORGAN, LESION, WALL, draw_plan
from monai_hyper.synthesis.scenes import (
    class_labels,
    gather,
    gather_images,
    layered,
    look_up,
    scene,
    with_walls,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _own_grid(held, copies: int = 1) -> torch.Tensor:
    axes = [torch.arange(side) * 2.0 for side in held.labels.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].expand(copies, -1, -1, -1, -1)


def _planned(sources, family: str, seed: int = 0, cases: int = 4):
    """A plan that succeeds, and the points where its cases look."""
    rng = np.random.default_rng(seed)
    plan = None
    while plan is None:
        plan = draw_plan(family, sources, 1, cases - 1, cases, rng)
    size = grid_size(plan, 9000, False, rng)
    return plan, positions([make_frame(plan, size, False, rng)], size, torch.Generator().manual_seed(seed))


def test_gathering_on_the_own_grid_returns_image_and_labels(brain, sources):
    subjects, shelf = [brain(2, image=True), brain(0, image=True), brain(2, image=True)], Shelf(sources)
    points = _own_grid(subjects[0], 3)
    labels, images = gather(subjects, points, shelf), gather_images(subjects, points, shelf)
    for held, label, image in zip(subjects, labels, images):
        assert torch.equal(label[0], held.labels)
        torch.testing.assert_close(image[0], held.image, rtol=1e-4, atol=1e-2)


def test_labels_end_where_a_subject_ends_and_images_continue(brain, sources):
    held, shelf = brain(0, image=True), Shelf(sources)
    points = torch.tensor([-10.0, 20, 20]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 2, 2)
    assert not gather([held], points, shelf).any()
    expected = torch.full((1, 1, 2, 2, 2), float(held.image[0, 10, 10]))
    torch.testing.assert_close(gather_images([held], points, shelf), expected)


def test_looking_up_uses_every_volume_s_own_table():
    values = torch.randint(0, 256, (4, 1, 3, 4, 5), dtype=torch.uint8)
    tables = torch.rand(2, 256)
    found = look_up(values, tables)
    for volume, table in zip(range(4), (0, 0, 1, 1)):
        assert torch.equal(found[volume], tables[table][values[volume].long()])


def test_classes_are_numbered_and_all_else_is_background():
    values = torch.arange(8, dtype=torch.uint8).view(1, 1, 2, 2, 2).expand(2, -1, -1, -1, -1)
    labels = class_labels(values, [[[2], [5, 6]], [[7], [1]]])
    assert labels[0].flatten().tolist() == [0, 0, 1, 0, 0, 2, 2, 0]
    assert labels[1].flatten().tolist() == [0, 2, 0, 0, 0, 0, 0, 1]


def test_values_of_a_scene_come_from_its_sources_alone(sources, generator):
    for seed in range(4):
        plan, points = _planned(sources, "brain_labels", seed)
        assert set(scene([plan], points, Shelf(sources), generator).unique().tolist()) <= {0, 1, 2, 3, 4}
        plan, points = _planned(sources, "organs", seed)
        organs = range(FIRST_ORGAN, FIRST_ORGAN + len(plan.organs.values))
        assert set(scene([plan], points, Shelf(sources), generator).unique().tolist()) <= {0, BODY, *organs}


def test_nothing_of_a_body_lies_outside_of_it(sources, generator):
    """Values other than 0 are those inside the ellipsoid, all of them."""
    seen = 0
    for seed in range(8):
        plan, points = _planned(sources, "organs", seed)
        if plan.organs.body is None:
            continue
        matrix, shift = (torch.from_numpy(x).float() for x in plan.organs.body)
        radius = (torch.einsum("bij,bjdhw->bidhw", matrix, points) + shift.view(-1, 3, 1, 1, 1)).square().sum(1, True)
        assert torch.equal(scene([plan], points, Shelf(sources), generator) > 0, radius < 1)
        seen += 1
    assert seen >= 2


def test_lesions_lie_where_they_are_allowed(sources, generator):
    inside = 0
    for seed in range(8):
        plan, points = _planned(sources, "lesions", seed)
        host = scene(
            [replace(plan, lesions=None, organs=None)] if not plan.organs else [plan], points, Shelf(sources), generator
        )
        if plan.organs:  # its own bending is drawn anew
            continue
        ill = scene([plan], points, Shelf(sources), generator)
        lesions = ill == LESION
        assert torch.equal(ill[~lesions], host[~lesions])
        organ = class_labels(host, [plan.classes]) > 0
        assert not (lesions & ~(organ if plan.lesions.inside else host > 0)).any()
        assert not lesions[plan.lesions.counts == 0].any()
        inside += int(lesions.sum())
    assert inside > 0


def test_tasks_of_all_families_share_a_scene_without_mixing(sources, generator):
    """A task's scene is the same alone and beside others, where nothing is drawn at random."""
    drawn = [_planned(sources, "brain_labels", seed) for seed in (1, 2)]
    d, h, w = (min(sizes) for sizes in zip(*(points.shape[2:] for _, points in drawn)))
    organs, where = _planned(sources, "organs", 3)
    plans = [drawn[0][0], organs, drawn[1][0]]
    where = torch.nn.functional.interpolate(where, (d, h, w))
    points = [drawn[0][1][..., :d, :h, :w], where, drawn[1][1][..., :d, :h, :w]]
    both = scene(plans, torch.cat(points), Shelf(sources), generator)
    for task in (0, 2):
        alone = scene([plans[task]], points[task], Shelf(sources), generator)
        assert torch.equal(both[4 * task : 4 * task + 4], alone)


@pytest.mark.parametrize("layer", ["", "split", "shell", "rim"])
def test_layers_are_parts_of_the_structure_or_around_it(layer, sources, generator):
    plan, points = _planned(sources, "brain_labels", 2)
    whole = class_labels(scene([plan], points, Shelf(sources), generator), [plan.classes])
    plan = replace(plan, layer=layer, thickness=1)
    found = layered(whole.clone(), points, [plan], torch.tensor([[0.0, 1.0, 0.0, 0.0]])) > 0
    assert found.any()
    if layer == "rim":
        assert not (found & (whole > 0)).any()
    else:
        assert not (found & (whole == 0)).any() and torch.equal(found, whole > 0) == (layer == "")
    if layer == "shell":
        assert torch.equal(found, (whole > 0) & ~erode(whole > 0, 1))
    if layer == "split":
        share = found.flatten(1).sum(1) / (whole > 0).flatten(1).sum(1)
        assert bool(((share > 0.1) & (share < 0.9)).all()), "the plane cuts all of them alike"


def test_walls_are_seen_where_they_are_asked_for():
    values = torch.full((4, 1, 2, 2, 2), 3, dtype=torch.uint8)
    labels = torch.zeros_like(values)
    labels[:, :, 0] = 1
    found = with_walls(values, labels, [True, False])
    assert bool((found[:2, :, 0] == WALL).all()) and bool((found[:2, :, 1] == 3).all()) and bool((found[2:] == 3).all())
