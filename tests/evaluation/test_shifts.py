"""Shifts change the image and nothing else, as told by their seed."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from monai_hyper.evaluation.shifts import (
    SHIFTS,
    bias_field,
    contrast_inversion,
    noise,
    thick_slices,
    undersample,
)
from monai_hyper.transforms.intensity import harmonise_ct

RANDOM = ("noise", "bias-field", "kspace-4x", "kspace-8x")
AFFINE = torch.tensor([[0.0, -1.0, 0.0, 9.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 0.0, 1.0]])


def mr(*shape: int, affine: torch.Tensor = AFFINE) -> MetaTensor:
    """A textured body in dark air."""
    volume = torch.zeros(1, *shape)
    inside = tuple(slice(n // 5, n - n // 5) for n in shape)
    volume[(0, *inside)] = 300 + 60 * torch.rand(volume[(0, *inside)].shape)
    return MetaTensor(volume, affine=affine.double(), meta={"filename_or_obj": "case.nii.gz"})


def ct(*shape: int) -> MetaTensor:
    """Muscle, fat and a rod of bone in air, HU."""
    volume = torch.full((1, *shape), -1000.0)
    volume[:, 2:-2, 2:-2] = -100.0
    volume[:, 4:-4, 4:-4] = 50.0
    volume[:, 6:8, 6:8] = 900.0
    return MetaTensor(volume, affine=AFFINE.double())


@pytest.mark.parametrize("image", [mr(20, 18, 12), ct(20, 18, 12), mr(9, 31, 16).to(torch.int16)], ids=str)
@pytest.mark.parametrize("name", SHIFTS)
def test_the_grid_stays_and_the_image_given_too(name, image):
    before = image.clone()
    changed = SHIFTS[name](image, 3)
    assert isinstance(changed, MetaTensor) and changed.shape == image.shape and changed.dtype == torch.float32
    assert torch.equal(changed.affine, image.affine)
    assert changed.meta.get("filename_or_obj") == image.meta.get("filename_or_obj")
    assert torch.isfinite(changed).all() and not torch.equal(changed, image.float())
    assert torch.equal(image, before) and torch.equal(image.affine, before.affine)


@pytest.mark.parametrize("name", SHIFTS)
def test_the_seed_decides(name):
    image = mr(24, 20, 16)
    assert torch.equal(SHIFTS[name](image, 5), SHIFTS[name](image, 5))
    assert torch.equal(SHIFTS[name](image, 5), SHIFTS[name](image, 6)) == (name not in RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_the_global_generators_decide_nothing(name):
    image = mr(12, 12, 12)
    first = SHIFTS[name](image, 5)
    torch.manual_seed(99), np.random.seed(99)
    state = np.random.get_state()[1].copy()
    assert torch.equal(SHIFTS[name](image, 5), first)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("image", [mr(13, 16, 11), ct(20, 20, 9)], ids=["MR", "CT"])
def test_k_space_without_acceleration_gives_the_image_back(image):
    found = undersample(image, 0, acceleration=1.0, center_fraction=0.08)
    assert_close(found.as_tensor(), image.as_tensor(), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("acceleration", "fraction"), [(4.0, 0.08), (8.0, 0.04)])
def test_k_space_keeps_its_share_of_the_lines_of_every_slice(acceleration, fraction):
    image = mr(16, 256, 5)  # axis 1 runs left-right and is phase encoded, axis 2 has the thickest voxels
    image += 1.0 + torch.rand(image.shape)
    found = undersample(image, 1, acceleration, fraction).as_tensor()[0] + 0.0
    lines = torch.fft.fft(image.as_tensor()[0] - image.min(), dim=1).abs().sum((0, 2))
    kept = torch.fft.fftshift(torch.fft.fft(found - found.min(), dim=1).abs().sum((0, 2)) / lines)
    middle, half = 128, int(256 * fraction / 2)
    assert (kept[middle - half : middle + half] > 0.3).all()
    assert kept.sum() < 256 / 2
    other = undersample(image, 1, acceleration, fraction)[..., 2:3]
    assert_close(other, undersample(image[..., 2:3] + 0.0, 1, acceleration, fraction), rtol=1e-2, atol=2.0)


@pytest.mark.parametrize("image", [mr(10, 10, 10), ct(20, 20, 9)], ids=["MR", "CT"])
def test_inverting_twice_changes_nothing(image):
    inverted = contrast_inversion(image)
    assert_close(contrast_inversion(inverted).as_tensor(), image.as_tensor())
    order = torch.corrcoef(torch.stack([image.as_tensor().flatten(), inverted.as_tensor().flatten()]))
    assert order[0, 1] == pytest.approx(-1)


def test_inverted_mr_keeps_its_range_and_inverted_ct_its_window():
    image = mr(10, 10, 10)
    assert contrast_inversion(image).aminmax() == image.aminmax()
    tissue = ct(20, 20, 9)
    before, after = (harmonise_ct(x.as_tensor(), -160.0, 240.0) for x in (tissue, contrast_inversion(tissue)))
    assert_close(after, -before)


def test_noise_has_the_deviation_that_was_asked_for():
    image = MetaTensor(torch.linspace(1000, 2000, 30**3).view(1, 30, 30, 30))
    found = (noise(image, 0, snr=20.0) - image).as_tensor()
    assert float(found.std()) == pytest.approx(900 * 0.98 / 20, rel=0.05)  # 5 to 95 percentile, darkest 2% left out
    assert float((noise(image, 0, snr=10.0) - image).std()) == pytest.approx(2 * float(found.std()), rel=0.05)


def test_noise_of_a_magnitude_image_is_never_negative_and_lifts_the_air():
    found = noise(mr(20, 20, 20), 0).as_tensor()
    assert found.min() >= 0 and found[:, :3].mean() > 0
    assert noise(ct(20, 20, 20), 0).min() < -1000


def test_the_bias_field_is_smooth_multiplies_and_leaves_air_alone():
    image = mr(24, 24, 24)
    gain = (bias_field(image, 1) / image).as_tensor()[0, 5:-5, 5:-5, 5:-5]
    assert (bias_field(image, 1).as_tensor()[image.as_tensor() == 0] == 0).all()
    assert 1.05 < gain.max() / gain.min() < 10
    steps = [gain.diff(dim=axis).abs().max() / gain.mean() for axis in range(3)]
    assert max(steps) < 0.2
    scan = ct(24, 24, 12)
    changed = bias_field(scan, 1)
    assert (changed[scan == -1000] == -1000).all() and not torch.equal(changed[scan == 50], scan[scan == 50])


def test_thick_slices_blur_one_axis_only():
    image = MetaTensor(torch.zeros(1, 27, 27, 27), affine=torch.eye(4))
    image[0, 13, 13, 13] = 1.0
    found = thick_slices(image).as_tensor()[0]
    assert float(found[13, 13].sum()) == pytest.approx(1.0, abs=0.2) and (found > 0).sum() == (found[13, 13] > 0).sum()
    assert found[13, 13].max() < 0.5 and (found[13, 13] > 0.01).sum() >= 5


@pytest.mark.parametrize(
    ("sides", "axis"), [((1, 1, 1), 2), ((1, 2, 1), 1), ((4, 4, 3), 2), ((1, 1, 8), 0), ((1, 9, 2), 0)]
)
def test_the_blurred_axis_is_that_of_the_slices_unless_they_are_thick(sides, axis):
    image = MetaTensor(torch.rand(1, 18, 18, 18), affine=torch.diag(torch.tensor([*sides, 1.0])))
    rough = [thick_slices(image).diff(dim=1 + i).abs().mean() / image.diff(dim=1 + i).abs().mean() for i in range(3)]
    assert min(range(3), key=lambda i: rough[i]) == axis
    assert thick_slices(image).mean() == pytest.approx(float(image.mean()), rel=0.05)
