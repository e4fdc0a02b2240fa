"""The picture of a prediction is small, to scale, upright and cut where the structure is."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_hyper.evaluation.overlay import CONTOUR, FILL, MAX_BYTES, centre_voxel, overlay, overlay_file
from monai_hyper.types import InputError


def _volumes(shape=(28, 24, 20), spacing=(1.0, 1.0, 2.0)):
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    truth = torch.zeros(1, *shape)
    truth[:, 8:17, 7:16, 6:13] = 1
    generator = torch.Generator().manual_seed(0)
    return tuple(MetaTensor(v, affine=affine) for v in (torch.rand(1, *shape, generator=generator), truth))


def _tinted(path):
    """Pixels of the fill, and of the contour."""
    r, g, b = np.moveaxis(imread(path)[..., :3], -1, 0)
    contour = np.abs(imread(path)[..., :3] - [int(CONTOUR[i : i + 2], 16) / 255 for i in (1, 3, 5)]).max(-1) < 0.05
    return (r - b > 0.25) & (g - b < 0.9 * (r - b)), contour


@pytest.mark.parametrize("size", [(32, 32, 32), (64, 48, 40)])
def test_pictures_are_small_even_of_noise(tmp_path, size):
    image, truth = _volumes(size)
    path = overlay(image, truth.roll(2, 1), truth, tmp_path / "deeper" / "x.png", "hyper · case · Dice 0.8")
    assert path.stat().st_size < MAX_BYTES
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]


def test_prediction_is_filled_and_truth_outlined(tmp_path):
    image, truth = _volumes()
    for name, predicted, reference in (("both", truth, truth), ("fill", truth, truth * 0), ("line", truth * 0, truth)):
        filled, outlined = _tinted(overlay(image * 0, predicted, reference, tmp_path / f"{name}.png", ""))
        assert (filled.sum() > 500) == bool(predicted.any())
        assert (outlined.sum() > 100) == bool(reference.any())
    assert FILL != CONTOUR


@pytest.mark.parametrize("code", ["LPS", "SRA", "AIL"])
def test_storage_order_changes_no_pixel(tmp_path, code):
    image, truth = _volumes()
    predicted = truth.roll(3, 2)
    turned = [Orientation(axcodes=code, labels=(("L", "R"), ("P", "A"), ("I", "S")))(v.clone())
              for v in (image, predicted, truth)]  # fmt: skip
    plain = overlay(image, predicted, truth, tmp_path / "ras.png", "title")
    assert overlay(*turned, tmp_path / "turned.png", "title").read_bytes() == plain.read_bytes()


def test_thick_slices_keep_their_proportions(tmp_path):
    """A cube in mm covers the same area in every plane, however thick the slices are."""
    image, truth = _volumes((48, 48, 12), (1.0, 1.0, 4.0))
    truth[:] = 0
    truth[:, 16:32, 16:32, 4:8] = 1
    filled, _ = _tinted(overlay(image * 0, truth, truth * 0, tmp_path / "x.png", ""))
    areas = [part.sum() for part in np.array_split(filled, 3, axis=1)]
    assert max(areas) < 1.08 * min(areas)


def test_planes_cross_inside_the_structure_whatever_its_shape():
    generator = np.random.default_rng(0)
    for _ in range(20):
        mask = generator.random((9, 7, 5)) > 0.9
        mask[0, 0, 0] = True
        assert mask[centre_voxel(mask, np.array([1, 2, 3]))]
    block = np.zeros((9, 9, 9), bool)
    block[1:4, 3:8, 2:5] = True
    assert centre_voxel(block, np.ones(3)) == (2, 5, 3)
    assert centre_voxel(block & False, np.ones(3)) == (4, 4, 4)


def test_the_nearest_voxel_is_so_in_millimetres():
    mask = np.zeros((11, 3, 11), bool)
    mask[0, 1, 5], mask[10, 1, 5], mask[5, 1, 2], mask[5, 1, 8] = True, True, True, True
    assert centre_voxel(mask, np.array([1.0, 1.0, 1.0])) in ((5, 1, 2), (5, 1, 8))
    assert centre_voxel(mask, np.array([1.0, 1.0, 9.0])) in ((0, 1, 5), (10, 1, 5))


def test_empty_masks_single_slices_and_flat_images_are_shown(tmp_path):
    image, truth = _volumes((28, 24, 1))
    truth[:, 5:9, 5:9] = 1
    assert imread(overlay(image, truth * 0, truth * 0, tmp_path / "empty.png", "")).ndim == 3
    assert imread(overlay(image * 0, truth, truth, tmp_path / "flat.png", "")).ndim == 3
    assert imread(overlay(image.as_tensor(), truth, truth, tmp_path / "plain.png", "")).ndim == 3


def test_other_shapes_are_refused(tmp_path):
    image, truth = _volumes()
    with pytest.raises(InputError, match="truth is"):
        overlay(image, truth, truth[:, 1:], tmp_path / "x.png", "")
    assert not list(tmp_path.iterdir())


def test_names_of_any_kind_stay_within_the_folder(tmp_path):
    path = overlay_file(tmp_path, "../lobe", "hyper+polish", "a/b c")
    assert path.parent.parent == tmp_path / "overlays" and path.name == "hyper+polish__a_b_c.png"
