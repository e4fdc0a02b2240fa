"""The same query as another scanner might show it: changes of the image alone, for robustness to domain shift.

Every shift takes an image as read, intensities as stored, ``(1, D, H, W)`` with its affine, and a seed, and returns
another image on the same grid. The scene stays where it is, so the label map of the query remains true.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from monai.apps.reconstruction.transforms.array import RandomKspaceMask
from monai.data import MetaTensor
from monai.data.fft_utils import fftn_centered
from monai.transforms import RandBiasField, RandGaussianNoise, RandRicianNoise
from nibabel import io_orientation

from monai_hyper.inference.pipeline import AIR_HU, measure_modality
from monai_hyper.transforms.grid import resample

Shift = Callable[[MetaTensor, int], MetaTensor]

THICKER = 3
"""How many times as long voxels become along one axis."""

SNR = 10.0
"""Spread of the intensities of the body over the deviation of the noise."""

BIAS = 0.3
"""Largest coefficient of a polynomial of the logarithmic bias field."""

SOFT_TISSUE_HU = 40.0
"""Muscle and most organs in CT; contrast is inverted around it."""


def thick_slices(image: MetaTensor, seed: int = 0) -> MetaTensor:
    """The image sampled with slices three times as thick, and back; nothing is random.

    Where slices are three times as thick as the finest side of a voxel already, the voxels become longer along the
    phase encoding axis instead: no scanner makes slices of 3 cm.

    Example:
        >>> thick_slices(MetaTensor(torch.rand(1, 9, 9, 9))).shape
        torch.Size([1, 9, 9, 9])
    """
    phase, slices = _axes(image)
    sides = image.affine[:3, :3].norm(dim=0)
    axis = slices if sides[slices] < THICKER * sides.min() else phase
    shape = [-(-n // THICKER) if i == axis else n for i, n in enumerate(image.shape[1:])]
    coarse = image.affine.clone()
    coarse[:3, axis] *= THICKER
    coarse[:3, 3] += (coarse[:3, axis] - image.affine[:3, axis]) / 2  # the first voxels begin at the same place
    blurred = resample(image.float(), image.affine, coarse, shape)
    return _like(resample(blurred, coarse, image.affine, image.shape[1:]), image)


def noise(image: MetaTensor, seed: int, snr: float = SNR) -> MetaTensor:
    """White noise: Gaussian for CT, Rician for magnitude images, which everything else is.

    Rician after Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995,
    https://doi.org/10.1002/mrm.1910340618.

    Args:
        image: as read.
        seed: of the noise.
        snr: range of the intensities of the body (5 to 95 percentile) over the deviation of the noise.

    Example:
        >>> image = MetaTensor(torch.rand(1, 4, 4, 4))
        >>> torch.equal(noise(image, seed=1), noise(image, seed=1))
        True
    """
    kind = RandGaussianNoise if measure_modality(image) == "CT" else RandRicianNoise
    add = kind(prob=1.0, mean=0.0, std=_spread(image) / snr, sample_std=False).set_random_state(seed=seed)
    return _like(add(_plain(image)), image)


def bias_field(image: MetaTensor, seed: int) -> MetaTensor:
    """The signal of every place multiplied by a smooth field: third-degree polynomials, MONAI's ``RandBiasField``.

    Signal is what lies above the darkest intensity. CT has no coils: what lies above -200 HU, the edge of tissue, is
    multiplied there, which shifts tissue by some tens of HU as beam hardening does.

    Example:
        >>> bias_field(MetaTensor(torch.ones(1, 8, 8, 8)), seed=1).shape
        torch.Size([1, 8, 8, 8])
    """
    plain = _plain(image)
    dark = AIR_HU if measure_modality(image) == "CT" else float(plain.min())
    signal = (plain - dark).clamp(min=0)
    field = RandBiasField(degree=3, coeff_range=(-BIAS, BIAS), prob=1.0).set_random_state(seed=seed)
    return _like(plain - signal + field(signal), image)


def contrast_inversion(image: MetaTensor, seed: int = 0) -> MetaTensor:
    """Bright becomes dark and dark bright; nothing is random, and twice gives the image back.

    An image is mirrored within its own range. CT is mirrored at 40 HU, soft tissue: mirrored within its range all
    tissue would lie beyond every window for it.

    Example:
        >>> contrast_inversion(MetaTensor(torch.tensor([0.0, 1.0, 4.0]).view(1, 1, 1, 3))).flatten().tolist()
        [4.0, 3.0, 0.0]
    """
    plain = _plain(image)
    twice = 2 * SOFT_TISSUE_HU if measure_modality(image) == "CT" else plain.min() + plain.max()
    return _like(twice - plain, image)


def undersample(image: MetaTensor, seed: int, acceleration: float, center_fraction: float) -> MetaTensor:
    """A scan that skipped lines of k-space: slice by slice, zero-filled, magnitude.

    Lines are drawn as in fastMRI, by MONAI's ``RandomKspaceMask``: Zbontar et al., "fastMRI: An Open Dataset and
    Benchmarks for Accelerated MRI", 2018, https://arxiv.org/abs/1811.08839. All slices share the lines; the image
    stands for a scan of one coil without phase. The darkest intensity counts as no signal.

    Args:
        image: as read.
        seed: of the lines.
        acceleration: of so many lines one is kept on average.
        center_fraction: share of the lines, around the lowest frequency, that is always kept.

    Example:
        >>> image = MetaTensor(torch.rand(1, 8, 8, 8))
        >>> bool(torch.allclose(undersample(image, 0, 1.0, 0.08), image, atol=1e-5))
        True
    """
    phase, slices = _axes(image)
    order = (slices, 3 - phase - slices, phase)
    dark = float(image.min())
    planes = (_plain(image) - dark)[0].permute(order)[:, None]
    kspace = fftn_centered(planes, spatial_dims=2, is_complex=False)
    mask = RandomKspaceMask([center_fraction], [acceleration], spatial_dims=2).set_random_state(seed=seed)
    _, found = mask(kspace)
    return _like(found.permute(*np.argsort(order).tolist())[None] + dark, image)


SHIFTS: dict[str, Shift] = {
    "spacing": thick_slices,
    "noise": noise,
    "bias-field": bias_field,
    "contrast-inversion": contrast_inversion,
    "kspace-4x": partial(undersample, acceleration=4.0, center_fraction=0.08),
    "kspace-8x": partial(undersample, acceleration=8.0, center_fraction=0.04),
}
"""Shift by name; the accelerations with the central lines of the fastMRI challenge."""


def _axes(image: MetaTensor) -> tuple[int, int]:
    """Phase encoding and slice axis of an image.

    Slices follow the axis whose voxels are longest, or inferior-superior where not one axis alone is; phase encoding
    is the axis of the others that is nearest to left-right.
    """
    sides = image.affine[:3, :3].norm(dim=0).tolist()
    world = io_orientation(image.affine.cpu().numpy())[:, 0]  # 0, 1, 2 for the axis along R, A, S
    longest = [axis for axis in range(3) if sides[axis] > 0.99 * max(sides)]
    slices = longest[0] if len(longest) == 1 else int(world.argmax())
    phase = min((axis for axis in range(3) if axis != slices), key=lambda axis: world[axis])
    return phase, slices


def _spread(image: MetaTensor) -> float:
    """Range of the intensities of the body, 5 to 95 percentile without air, in the image's units."""
    values = _plain(image).flatten().cpu().numpy()
    low, high = np.percentile(values, (0.5, 99.5))
    air = AIR_HU if measure_modality(image) == "CT" else low + 0.02 * (high - low)
    body = values[values > air]
    return float(np.ptp(np.percentile(body, (5, 95)))) if body.size else 0.0


def _plain(image: MetaTensor) -> torch.Tensor:
    return image.as_tensor().float()


def _like(data: torch.Tensor, image: MetaTensor) -> MetaTensor:
    """New intensities on the grid of an image, float32."""
    data = data.as_tensor() if isinstance(data, MetaTensor) else data
    file = {key: value for key, value in image.meta.items() if key == "filename_or_obj"}
    return MetaTensor(data, affine=image.affine.clone(), meta=file)
