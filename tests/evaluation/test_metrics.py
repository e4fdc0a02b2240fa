"""Every metric against an oracle that shares no code with it, and what empty masks score."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import CalibrationErrorMetric
from scipy import ndimage

from monai_hyper.evaluation.metrics import BINS, Calibration, Scores, calibration, dice_per_class, score_case

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (5.0, 1.2, 0.9)]


def blobs(seed: int, shape=(12, 14, 10)) -> torch.Tensor:
    """A label map of values 0 to 2, ``(1, D, H, W)``."""
    noise = np.random.default_rng(seed).normal(size=(3, *shape))
    smooth = np.stack([ndimage.gaussian_filter(channel, 2) for channel in noise])
    return torch.from_numpy(smooth.argmax(0))[None]


def surface_by_hand(mask: np.ndarray) -> np.ndarray:
    """Indices of the voxels with a face neighbour outside of the mask or of the volume, ``(n, 3)``."""
    inside = {tuple(voxel) for voxel in np.argwhere(mask)}
    steps = [tuple(sign * unit) for unit in np.eye(3, dtype=int) for sign in (1, -1)]
    found = [v for v in sorted(inside) if any(tuple(np.add(v, step)) not in inside for step in steps)]
    return np.array(found)


def distances_by_hand(a: np.ndarray, b: np.ndarray, spacing) -> list[np.ndarray]:
    """From every point of either surface to the nearest of the other, mm, by all pairs."""
    first, second = (surface_by_hand(mask) * np.array(spacing) for mask in (a, b))
    pairs = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    return [pairs.min(1), pairs.min(0)]


def cubes(shift: int, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A cube of side 4 in a volume of side 16, and the same cube ``shift`` voxels on."""
    truth = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    truth[:, 4:8, 4:8, 4:8] = 1
    return truth.roll(shift, axis), truth


def test_dice_equals_its_definition():
    predicted, truth = torch.randint(0, 4, (1, 9, 8, 7)), torch.randint(0, 4, (1, 9, 8, 7))
    scores = score_case(predicted, truth, (1, 3), (1.0, 1.0, 1.0))
    for value, found, score in zip((1, 3), dice_per_class(predicted, truth, (1, 3)), scores):
        a, b = predicted == value, truth == value
        assert found == pytest.approx(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
        assert score.dice == found


def test_dice_does_not_depend_on_the_size_of_label_values():
    truth = torch.randint(0, 3, (1, 8, 8, 8))
    predicted = torch.randint(0, 3, (1, 8, 8, 8))
    large = torch.tensor([0, 200, 7])
    assert dice_per_class(large[predicted], large[truth], (200, 7)) == dice_per_class(predicted, truth, (1, 2))


def test_dice_of_empty_classes():
    nothing, something = torch.zeros(1, 4, 4, 4).long(), torch.ones(1, 4, 4, 4).long()
    assert dice_per_class(nothing, nothing, (1,)) == [1.0]
    assert dice_per_class(nothing, something, (1,)) == [0.0]
    assert dice_per_class(something, nothing, (1,)) == [0.0]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("tolerance", [None, 0.0, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_surface_metrics_equal_all_pairs_of_surface_points(spacing, tolerance, seed):
    predicted, truth = blobs(seed), blobs(seed + 10)
    threshold = math.sqrt(sum(side**2 for side in spacing)) if tolerance is None else tolerance
    for value, score in zip((1, 2), score_case(predicted, truth, (1, 2), spacing, tolerance)):
        there, back = distances_by_hand((predicted == value)[0].numpy(), (truth == value)[0].numpy(), spacing)
        near = (there <= threshold + 1e-9).sum() + (back <= threshold + 1e-9).sum()
        assert score.nsd == pytest.approx(near / (len(there) + len(back)), abs=1e-6)
        assert score.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_hd95_equals_distance_transforms(spacing):
    predicted, truth = blobs(4)[0].numpy() == 1, blobs(5)[0].numpy() == 1
    (score,) = score_case(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None], (True,), spacing)
    rims = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, truth)]
    away = [ndimage.distance_transform_edt(~rim, sampling=spacing) for rim in rims]
    expected = max(np.percentile(away[1][rims[0]], 95), np.percentile(away[0][rims[1]], 95))
    assert score.hd95_mm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("axis", "mm"), [(1, 1.0), (2, 2.0), (3, 5.0)])
def test_a_cube_moved_along_an_axis(axis, mm):
    (score,) = score_case(*cubes(2, axis), (1,), (1.0, 2.0, 5.0), tolerance_mm=2 * mm)
    assert score == Scores(dice=0.5, nsd=1.0, hd95_mm=2 * mm)
    (strict,) = score_case(*cubes(2, axis), (1,), (1.0, 2.0, 5.0), tolerance_mm=0.5)
    assert strict.nsd == pytest.approx(24 / 56)  # of 56 surface voxels two rims of 12 lie on the other surface


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.25), (0.3, 0.1, 0.9), (1 / 3, 0.977, 2.2)])
def test_a_point_one_voxel_diagonal_away_is_within_the_default_tolerance(spacing):
    for corner in itertools.product((3, 4, 9), repeat=3):
        truth = torch.zeros(1, 16, 16, 16, dtype=torch.long)
        truth[(0, *corner)] = 1
        near, far = truth.roll((1, 1, 1), (1, 2, 3)), truth.roll((2, 1, 1), (1, 2, 3))
        assert score_case(near, truth, (1,), spacing)[0].nsd == 1.0
        assert score_case(far, truth, (1,), spacing)[0].nsd == 0.0


def test_perfect_and_empty_masks():
    nothing, cube = torch.zeros(1, 16, 16, 16, dtype=torch.long), cubes(0, 1)[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the (ground truth|prediction)")
        assert score_case(cube, cube, (1, 2), (1.0, 2.0, 5.0)) == [Scores(1.0, 1.0, 0.0)] * 2
        assert score_case(nothing, nothing, (1,), (1.0, 2.0, 5.0)) == [Scores(1.0, 1.0, 0.0)]
        missed = Scores(0.0, 0.0, pytest.approx(16 * math.sqrt(30)))
        assert score_case(nothing, cube, (1,), (1.0, 2.0, 5.0)) == [missed]
        assert score_case(cube, nothing, (1,), (1.0, 2.0, 5.0)) == [missed]


def test_no_hit_scores_worse_than_a_miss():
    far, truth = torch.zeros(2, 1, 12, 12, 12, dtype=torch.long)
    far[0, -1, -1, -1], truth[0, 0, 0, 0] = 1, 1
    nothing = torch.zeros_like(truth)
    spacing = (1.0, 2.0, 3.0)
    assert score_case(far, truth, (1,), spacing)[0].hd95_mm < score_case(nothing, truth, (1,), spacing)[0].hd95_mm


def test_air_around_changes_nothing_and_both_ways_agree():
    predicted, truth = blobs(2), blobs(3)
    padded = [torch.nn.functional.pad(volume, (3, 0, 1, 5, 2, 2)) for volume in (predicted, truth)]
    expected = score_case(predicted, truth, (1, 2), (1.0, 2.0, 3.0))
    assert score_case(*padded, (1, 2), (1.0, 2.0, 3.0)) == expected
    assert score_case(truth, predicted, (1, 2), (1.0, 2.0, 3.0)) == expected
    as_read = [MetaTensor(volume, affine=torch.eye(4)) for volume in (predicted, truth)]
    assert score_case(*as_read, (1, 2), (1.0, 2.0, 3.0)) == expected


@pytest.mark.parametrize("score", [dice_per_class, lambda p, t, v: score_case(p, t, v, (1.0, 1.0, 1.0))])
def test_volumes_of_different_grids_are_refused(score):
    with pytest.raises(ValueError, match="expected one grid"):
        score(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 5), (1,))


def probabilities_of(foreground: torch.Tensor) -> torch.Tensor:
    return torch.stack([1 - foreground, foreground])


def test_calibration_equals_the_sums_by_hand():
    """1000 voxels: 600 at 0.25 of which 60 are foreground, 400 at 0.85 of which 380 are."""
    p, truth = torch.full((1000,), 0.25), torch.zeros(1000, dtype=torch.long)
    p[600:], truth[:60], truth[600:980] = 0.85, 1, 1
    (found,) = calibration(probabilities_of(p.view(10, 10, 10)), truth.view(1, 10, 10, 10), margin=10)
    assert found.ece == pytest.approx(0.6 * abs(0.25 - 0.1) + 0.4 * abs(0.85 - 0.95), abs=1e-6)
    squares = 60 * 0.75**2 + 540 * 0.25**2 + 380 * 0.15**2 + 20 * 0.85**2
    assert found.brier == pytest.approx(squares / 1000, abs=1e-6)
    assert found.voxels == (0, 0, 600, 0, 0, 0, 0, 0, 400, 0)
    assert found.confidence[2] == pytest.approx(0.25) and found.confidence[8] == pytest.approx(0.85)
    assert found.frequency[2] == pytest.approx(0.1) and found.frequency[8] == pytest.approx(0.95)
    assert found.confidence[0] == found.frequency[0] == 0.0


def test_calibration_of_many_classes_equals_numpy():
    probabilities = torch.rand(4, 9, 8, 7).softmax(0)
    truth = torch.randint(0, 4, (1, 9, 8, 7))
    for c, found in enumerate(calibration(probabilities, truth, margin=9), start=1):
        p, y = probabilities[c].numpy().ravel(), (truth == c).numpy().ravel()
        bins = np.minimum((p * BINS).astype(int), BINS - 1)
        expected = [abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
        assert found.ece == pytest.approx(sum(expected), abs=1e-5)
        assert found.brier == pytest.approx(((p - y) ** 2).mean(), abs=1e-5)
        assert found.voxels == tuple(np.bincount(bins, minlength=BINS))


def test_calibration_error_equals_monai_on_a_small_volume():
    probabilities, truth = torch.rand(3, 8, 8, 8).softmax(0), torch.randint(0, 3, (1, 8, 8, 8))
    one_hot = torch.nn.functional.one_hot(truth[0], 3).movedim(-1, 0)[None].float()
    expected = CalibrationErrorMetric(BINS, metric_reduction="none")(probabilities[None], one_hot)[0, 1:]
    found = [c.ece for c in calibration(probabilities, truth, margin=8)]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_calibration_error_does_not_grow_with_the_volume():
    truth = torch.ones(1, 64, 64, 64, dtype=torch.long)
    truth.view(-1)[::50] = 0
    (found,) = calibration(probabilities_of(torch.full((64, 64, 64), 0.98)), truth)
    assert found.ece < 1e-5


def test_voxels_that_carry_their_own_frequency_are_calibrated():
    probability = torch.rand(24, 24, 24)
    truth = (torch.rand(24, 24, 24) < probability).long()[None]
    (found,) = calibration(probabilities_of(probability), truth)
    (certain,) = calibration(probabilities_of((probability > 0.5).float()), truth)
    assert found.ece < 0.03 < 0.2 < certain.ece
    assert found.brier < certain.brier


def test_calibration_looks_only_around_truth_and_prediction():
    truth, p = torch.zeros(1, 20, 20, 20, dtype=torch.long), torch.zeros(20, 20, 20)
    truth[:, 9, 9, 9], p[9, 9, 10] = 1, 0.9
    (found,) = calibration(probabilities_of(p), truth, margin=2)
    assert sum(found.voxels) == 5 * 5 * 6
    assert found.brier == pytest.approx((1 + 0.81) / 150)
    wider = torch.nn.functional.pad(p, (7,) * 6), torch.nn.functional.pad(truth, (7,) * 6)
    assert calibration(probabilities_of(wider[0]), wider[1], margin=2) == [found]


def test_calibration_of_a_class_that_is_not_there_and_not_predicted():
    (found,) = calibration(probabilities_of(torch.full((6, 6, 6), 0.25)), torch.zeros(1, 6, 6, 6).long())
    assert found == Calibration(0.25, 0.0625, (0.0, 0.0, 0.25) + (0.0,) * 7, (0.0,) * BINS, (0, 0, 216) + (0,) * 7)


def test_calibration_refuses_another_grid():
    with pytest.raises(ValueError, match="expected one grid"):
        calibration(torch.zeros(2, 4, 4, 4), torch.zeros(1, 4, 4, 5).long())
