"""Structures that are cut out and put elsewhere keep their form."""

import torch

from monai_hyper.synthesis.blocks import REACH, SIDE, Shelf, bent, blobs, changed, cut_block, put
from monai_hyper.synthesis.geometry import centre_grid
from monai_hyper.synthesis.morphology import dilate
from monai_hyper.synthesis.scenes import gather


def _put_back(held, value: int, points: torch.Tensor) -> torch.Tensor:
    middle, length = (torch.from_numpy(x).float() for x in held.boxes[value])
    matrix = torch.diag(2 / (REACH * length))[None]
    return put(cut_block(held, value)[None, None].bool(), matrix, -(matrix @ middle), points)


def test_a_block_put_back_is_the_structure(brain, sources):
    held = brain(1)
    points = (centre_grid([30, 31, 32]) * 2.1 + 40).permute(3, 0, 1, 2)[None]
    for value in (2, 3, 4):
        structure = gather([held], points, Shelf(sources)) == value
        found = _put_back(held, value, points)
        assert not (found & ~dilate(structure, 1)).any() and not (structure & ~dilate(found, 1)).any()


def test_blocks_show_nothing_of_other_values(brain):
    block = cut_block(brain(0), 1)  # the structures inside are holes in it
    assert 0 < int(block.sum()) < SIDE**3 / REACH**3


def test_nothing_lies_beyond_a_block():
    full = torch.ones(1, 1, SIDE, SIDE, SIDE, dtype=torch.bool)
    points = (centre_grid([12, 12, 12]) * 0.5).permute(3, 0, 1, 2)[None]
    shown = put(full, torch.eye(3)[None], torch.zeros(1, 3), points)
    assert torch.equal(shown[0, 0], (points[0].abs() < 1).all(0))


def test_bending_moves_a_block_a_little_and_not_at_all_without_strength(brain):
    block = cut_block(brain(0), 3)[None, None].bool().expand(2, -1, -1, -1, -1)
    moved = bent(block, torch.tensor([0.0, 2.0]), torch.Generator().manual_seed(0))
    assert torch.equal(moved[0], block[0]) and not torch.equal(moved[1], block[1])
    share = moved[1].sum() / block[1].sum()
    assert 0.7 < float(share) < 1.4


def test_changes_are_those_that_are_named(brain):
    block = cut_block(brain(0), 3)[None, None].bool()
    names = ["", "eroded", "dilated", "opened", "closed"]
    found = changed(block.expand(5, -1, -1, -1, -1), [(name, 2) for name in names])
    size = dict(zip(names, found.flatten(1).sum(1).tolist()))
    assert size["eroded"] < size[""] < size["dilated"] and size["opened"] <= size[""] <= size["closed"]
    assert torch.equal(found[0], block[0])


def test_no_change_makes_a_structure_vanish():
    thin = torch.zeros(1, 1, SIDE, SIDE, SIDE, dtype=torch.bool)
    thin[..., 10:30, 20, 20] = True
    assert torch.equal(changed(thin, [("eroded", 3)]), thin) and torch.equal(changed(thin, [("opened", 1)]), thin)


def test_blobs_are_round_about_the_middle_and_differ():
    found = blobs(4, torch.Generator().manual_seed(0))
    assert found.shape == (4, 1, SIDE, SIDE, SIDE) and found[:, 0, SIDE // 2, SIDE // 2, SIDE // 2].float().mean() > 0.7
    assert not found[:, :, 0, 0, 0].any() and not torch.equal(found[0], found[1])


def test_the_shelf_keeps_what_lasts(sources):
    shelf = Shelf(sources, "meta")  # any device but that of the sources
    held = sources.cohorts["headneck_ct"].subjects[0]
    assert shelf.here(held.labels) is shelf.here(held.labels) and shelf.here(held.labels).device.type == "meta"
    passing = torch.zeros(3)
    assert shelf.here(passing) is not shelf.here(passing)
    assert shelf.lesion(0) is shelf.lesion(0) and shelf.block(held, 2) is shelf.block(held, 2)
