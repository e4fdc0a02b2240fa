"""Harmonisation: the same anatomy on another scale gives the same values."""

import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from monai_hyper.transforms import HarmoniseIntensity, HarmoniseIntensityd, harmonise_ct, harmonise_mr
from monai_hyper.types import InputError


def head(seed: int = 0, size: int = 32) -> torch.Tensor:
    """A bright cube with texture in empty air, ``(1, D, H, W)``."""
    volume = torch.zeros(1, size, size, size)
    inside = slice(size // 4, 3 * size // 4)
    shape = volume[:, inside, inside, inside].shape
    volume[:, inside, inside, inside] = 300 + 50 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return volume


def test_ct_maps_the_window_to_its_range():
    x = torch.tensor([-2000.0, -160.0, 40.0, 140.0, 240.0, 3000.0])
    assert_close(harmonise_ct(x, -160, 240), torch.tensor([-1.7, -1.7, 0.0, 0.85, 1.7, 1.7]))


def test_ct_takes_a_window_per_volume():
    x = torch.rand(2, 1, 4, 4, 4) * 500
    low, high = (torch.tensor(edge).view(2, 1, 1, 1, 1) for edge in ([0.0, 100.0], [200.0, 400.0]))
    each = torch.stack([harmonise_ct(x[0], 0.0, 200.0), harmonise_ct(x[1], 100.0, 400.0)])
    assert_close(harmonise_ct(x, low, high), each)


def test_mr_does_not_depend_on_scale_and_offset():
    x = head()
    assert_close(harmonise_mr(3.7 * x - 800), harmonise_mr(x), atol=1e-3, rtol=1e-3)


def test_mr_scores_by_the_body_and_not_by_the_air_around():
    for air in (0, 2, 8):
        x = torch.nn.functional.pad(head(), (air,) * 6)
        score = harmonise_mr(x)[x > 0]
        assert abs(score.mean()) < 1e-3 and abs(score.std() - 1) < 1e-2


def test_mr_treats_every_volume_of_a_batch_alone():
    batch = torch.stack([head(0), 100 * head(1) + 5])
    assert_close(harmonise_mr(batch), torch.stack([harmonise_mr(volume) for volume in batch]))


def test_mr_of_a_constant_volume_is_zero():
    assert harmonise_mr(torch.full((1, 8, 8, 8), 7.0)).abs().max() == 0


def test_mr_of_a_large_volume_equals_the_small_one_it_repeats():
    x = head()
    repeated = x.repeat_interleave(3, 1).repeat_interleave(3, 2).repeat_interleave(2, 3)
    assert_close(harmonise_mr(repeated)[:, ::3, ::3, ::2], harmonise_mr(x), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float64])
def test_every_number_type_becomes_float32_and_keeps_its_affine(dtype):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    image = MetaTensor((torch.rand(1, 8, 8, 8) * 100).to(dtype), affine=affine)
    out = HarmoniseIntensityd("image", "CT", (0, 100))({"image": image})["image"]
    assert out.dtype == torch.float32 and torch.equal(out.affine, image.affine)


@pytest.mark.parametrize("arguments", [("PET",), ("CT",), ("CT", (100, 100))])
def test_bad_arguments(arguments):
    with pytest.raises(InputError, match="expected"):
        HarmoniseIntensity(*arguments)
