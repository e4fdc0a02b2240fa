"""Fields of view lie where they are said to lie."""

import numpy as np
import pytest
import torch

from monai_hyper.synthesis import frames
from monai_hyper.synthesis.frames import grid_size, make_frame, positions, sides_kept
from monai_hyper.synthesis.plans import Plan, draw_plan


def _plans(sources, family: str = "brain_labels", count: int = 20) -> list[Plan]:
    rng = np.random.default_rng(0)
    drawn = [draw_plan(family, sources, 1, 2, 4, rng) for _ in range(2 * count)]
    return [plan for plan in drawn if plan is not None][:count]


def _places(points: torch.Tensor, wanted: np.ndarray) -> torch.Tensor:
    """Grid positions, from the first voxel, of the voxels nearest to what is wanted in every case, ``(C, 3)``."""
    distance = (points - torch.from_numpy(wanted).float().view(-1, 3, 1, 1, 1)).square().sum(1)
    flat = distance.flatten(1).argmin(1)
    return torch.stack([torch.stack(torch.unravel_index(at, distance.shape[1:])) for at in flat]).float()


@pytest.mark.parametrize("local", [False, True])
def test_offsets_lead_from_one_case_to_the_same_place_in_another(sources, local, monkeypatch):
    """The middle of what is wanted lies in all cases at one place of the common frame, plus the offset."""
    monkeypatch.setattr(frames, "ALIGNMENT_ERROR", 0.0)
    moved, rng = [], np.random.default_rng(1)
    for plan in _plans(sources):
        size = grid_size(plan, 8000, local, rng)
        frame = make_frame(plan, size, local, rng)
        frame = frames.Frame(frame.matrix, frame.centre, frame.offsets, 0.0, frame.knots)
        points = positions([frame], size, torch.Generator().manual_seed(0))
        at = _places(points, plan.middle)
        common = at - torch.from_numpy(frame.offsets)
        inside = ((at > 0) & (at < torch.tensor(size) - 1)).all(1)
        if inside.any():
            assert float((common[inside] - common[inside].mean(0)).abs().max()) < 1.01
        moved.append(float(np.abs(frame.offsets).max()))
    assert max(moved) > (1 if local else 5)


def test_offsets_have_the_error_of_an_alignment(sources, monkeypatch):
    plan, found = _plans(sources, count=1)[0], {}
    for error in (0.0, 1.0):
        monkeypatch.setattr(frames, "ALIGNMENT_ERROR", error)
        made = [make_frame(plan, [20, 20, 20], False, np.random.default_rng(seed)) for seed in range(100)]
        found[error] = np.stack([frame.offsets for frame in made])
    difference = found[1.0] - found[0.0]
    assert not difference[:, 0].any() and difference[:, 1:].std() == pytest.approx(1, abs=0.1)


def test_fields_of_view_lie_elsewhere_by_a_third_of_a_side_at_most(sources):
    rng, shares = np.random.default_rng(2), []
    for plan in _plans(sources):
        frame = make_frame(plan, [20, 22, 24], False, rng)
        shares.append(np.abs(frame.offsets / [20, 22, 24]).max() if plan.elsewhere else 0)
    assert 0.25 < max(shares) < 0.75, "turned and scaled by some per cent about the middle"


def test_windows_are_as_the_cascade_cuts_them(sources):
    rng = np.random.default_rng(3)
    for plan in _plans(sources, "organs"):
        size = np.array(grid_size(plan, 30_000, True, rng))
        frame = make_frame(plan, size.tolist(), True, rng)
        spacing = np.cbrt(np.abs(np.linalg.det(frame.matrix))).mean()
        window = frames.MARGIN * plan.extent.max(0) / spacing + frames.RIM
        assert (window < size * 1.4).all() and (window / size).max() > 0.75
        assert size.prod() == pytest.approx(30_000, rel=0.15)


@pytest.mark.parametrize("voxels", [6000, 30_000])
def test_grids_have_about_as_many_voxels_as_asked_for(sources, voxels):
    rng = np.random.default_rng(4)
    for plan in _plans(sources, count=8):
        for local in (False, True):
            assert np.prod(grid_size(plan, voxels, local, rng)) == pytest.approx(voxels, rel=0.3)


def test_a_grid_shows_all_that_is_wanted_unless_it_lies_elsewhere(sources):
    rng = np.random.default_rng(5)
    for plan in _plans(sources):
        size = grid_size(plan, 8000, False, rng)
        frame = make_frame(plan, size, False, rng)
        sides = np.array(size) * np.cbrt(np.abs(np.linalg.det(frame.matrix))).min()
        assert (sides > 0.75 * plan.extent.mean(0)).all()


def test_padding_leaves_one_box_of_every_case():
    kept = sides_kept(40, [20, 21, 22], np.random.default_rng(0))
    assert kept.shape == (40, 1, 20, 21, 22) and 0.5 < float(kept.float().mean()) < 1
    for case in kept[:, 0]:
        sides = [(case.any(i).any(j - 1)).sum() for i, j in ((1, 2), (0, 2), (0, 1))]
        assert int(case.sum()) == int(torch.stack(sides).prod())
        assert all(float(side) >= 0.75 * n for side, n in zip(sides, case.shape))
