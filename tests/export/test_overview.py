"""The picture shows the patient upright and to scale, however the volume is stored."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.data import MetaTensor
from nibabel import orientations

from monai_hyper.export.overview import COLOURS, largest_slice, overview, plane_views
from monai_hyper.types import InputError

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
AFFINE = np.array([[2.0, 0, 0, -30], [0, 3.0, 0, 12], [0, 0, 5.0, 7], [0, 0, 0, 1]])


def _stored_as(code):
    """A volume of distinct values whose RAS+ affine is AFFINE, stored as ``code``."""
    volume = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    change = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(code))
    return orientations.apply_orientation(volume, change), AFFINE @ orientations.inv_ornt_aff(change, volume.shape)


@pytest.mark.parametrize("code", CODES)
def test_storage_order_changes_no_picture(code):
    volume, affine = _stored_as(code)
    assert "".join(nib.aff2axcodes(affine)) == code
    upright, expected = np.arange(6 * 7 * 8).reshape(6, 7, 8), plane_views(AFFINE)
    for plane, view in plane_views(affine).items():
        at = 2 if code[view.through] in "RAS" else volume.shape[view.through] - 3
        assert view.letters == expected[plane].letters
        assert view.pixel == pytest.approx(expected[plane].pixel)
        np.testing.assert_array_equal(view.cut(volume, at), expected[plane].cut(upright, 2))


def test_letters_name_the_ends_the_pixels_lie_at():
    """Walking along a row or column of the picture moves the patient position toward the letter."""
    volume, affine = _stored_as("PSL")
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    position = nib.affines.apply_affine(affine, index)
    sign = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
    for view in plane_views(affine).values():
        shown = np.stack([view.cut(position[..., i], 1) for i in range(3)])
        left, right, top, bottom = (sign[letter] for letter in view.letters)
        for (axis, way), step in ((right, np.diff(shown, axis=2)), (bottom, np.diff(shown, axis=1))):
            assert (step[axis] * way > 0).all()
        assert left == (right[0], -right[1]) and top == (bottom[0], -bottom[1])


def test_radiological_convention():
    views = plane_views(AFFINE)
    assert views["axial"].letters == ("R", "L", "A", "P")
    assert views["coronal"].letters == ("R", "L", "S", "I")
    assert views["sagittal"].letters == ("A", "P", "S", "I")


def test_oblique_axes_count_as_the_closest():
    tilt = np.deg2rad(20)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    assert plane_views(turned @ AFFINE)["axial"].letters == ("R", "L", "A", "P")
    assert plane_views(turned @ AFFINE)["axial"].pixel == pytest.approx((3, 2))


def test_largest_slice_prefers_most_foreground():
    label = np.zeros((5, 5, 5))
    label[3, :2, :2], label[1, 0, 0] = 2, 1
    assert largest_slice(label, 0) == 3
    assert largest_slice(label * 0, 0) == 2


def _volumes(shape=(32, 28, 9)):
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[:, 8:20, 8:20, 2:6] = 1
    return MetaTensor(torch.rand(1, *shape), affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0]))), label


def _pixels_of(path, colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(imread(path)[..., :3] - rgb).max(axis=-1) < 0.12).sum())


def test_every_class_found_is_outlined_in_its_colour(tmp_path):
    image, label = _volumes()
    label[:, 22:30, 8:20, 2:6] = 2
    one = overview(image, label * (label < 2), ("liver", "spleen"), tmp_path / "deeper" / "one.png")
    two = overview(image, label, ("liver", "spleen"), tmp_path / "two.png")
    assert _pixels_of(two, COLOURS[0]) > 100
    assert _pixels_of(two, COLOURS[1]) > _pixels_of(one, COLOURS[1]) + 100


def test_truth_is_added_to_the_picture(tmp_path):
    image, label = _volumes()
    alone = overview(image, label, ("liver",), tmp_path / "alone.png")
    both = overview(image, label, ("liver",), tmp_path / "both.png", truth=label.roll(4, 1))
    assert _pixels_of(both, COLOURS[0]) > _pixels_of(alone, COLOURS[0])


def test_empty_labels_and_single_slices_are_shown(tmp_path):
    image, label = _volumes((32, 28, 1))
    assert imread(overview(image, label * 0, ("liver",), tmp_path / "empty.png", truth=label)).ndim == 3
    assert imread(overview(image, label, tuple("abcdefgh"), tmp_path / "slice.png")).ndim == 3


def test_constant_image_is_shown(tmp_path):
    image, label = _volumes()
    assert imread(overview(image * 0, label, ("liver",), tmp_path / "flat.png")).ndim == 3


def test_other_shapes_and_too_many_classes_are_refused(tmp_path):
    image, label = _volumes()
    with pytest.raises(InputError, match="truth is"):
        overview(image, label, ("liver",), tmp_path / "no.png", truth=label[:, 1:])
    with pytest.raises(InputError, match="1 to 8 classes; found 9"):
        overview(image, label, tuple("abcdefghi"), tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
