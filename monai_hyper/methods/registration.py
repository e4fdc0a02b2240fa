"""Label propagation: every support volume is registered to the query, its labels follow, and a local vote decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import itk
import torch
import torch.nn.functional as F
from monai.transforms import Resample
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.alignment import local_correlation
from monai_hyper.networks.shift import best_shift, content
from monai_hyper.types import InputError

GRID_SPACING = 4
"""Distance of the control points of the B-splines on the finest level, voxels."""

_LEAST_WEIGHT = 1e-4  # a lone vote counts, however poor; beside good ones it is nothing

_COMMON = {
    "Registration": "MultiResolutionRegistration",
    "FixedImagePyramid": "FixedSmoothingImagePyramid",
    "MovingImagePyramid": "MovingSmoothingImagePyramid",
    "Interpolator": "LinearInterpolator",
    "Metric": "AdvancedMattesMutualInformation",
    "Optimizer": "AdaptiveStochasticGradientDescent",
    "AutomaticParameterEstimation": "true",
    "ImageSampler": "RandomCoordinate",
    "NewSamplesEveryIteration": "true",
    "NumberOfSpatialSamples": 2000,
    "RequiredRatioOfValidSamples": 0.05,  # fields of view may overlap by little
    "RandomSeed": 1,
    "Resampler": "DefaultResampler",
    "ResampleInterpolator": "FinalLinearInterpolator",
    "WriteResultImage": "false",
}
_AFFINE = _COMMON | {
    "Transform": "AffineTransform",
    "AutomaticScalesEstimation": "true",
    "AutomaticTransformInitialization": "false",
    "MaximumNumberOfIterations": 250,
}
_BSPLINE = _COMMON | {
    "Transform": "RecursiveBSplineTransform",
    "FinalGridSpacingInPhysicalUnits": GRID_SPACING,
    "MaximumNumberOfIterations": 150,
}


@dataclass(frozen=True)
class Atlas:
    """One annotated volume, cut to its content.

    Args:
        image: ``(d, h, w)``.
        one_hot: the foreground classes, ``(N - 1, d, h, w)`` float.
        annotated: which of them are annotated here, ``(N - 1,)`` bool.
    """

    image: Tensor
    one_hot: Tensor
    annotated: Tensor

    @property
    def stack(self) -> Tensor:
        """Ones, image and classes, to be warped together, ``(N + 1, d, h, w)``."""
        return torch.stack([torch.ones_like(self.image), self.image, *self.one_hot])


class Registration:
    """Multi-atlas segmentation: elastix and locally weighted voting.

    Support volume and query are cut to their content (what is beyond shows nothing but the darkest value), and elastix
    aligns them by an affine transform, then cubic B-splines, both by mutual information: Klein et al., "elastix: A
    Toolbox for Intensity-Based Medical Image Registration", 2010, https://doi.org/10.1109/TMI.2009.2035616. The labels
    that arrive are averaged, weighted by how well the warped volume fits to the query nearby (the fourth power of
    their local correlation): Artaechevarria et al.,
    "Combination Strategies in Multi-Atlas Image Segmentation: Application to Brain MR Data", 2009,
    https://doi.org/10.1109/TMI.2009.2014372. None of this depends on which tissue is bright.

    A registration that fails leaves its vote out; so does a support volume where its field of view does not reach.

    Args:
        threads: of elastix.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """Keep the volumes; all work is done for each query.

        Returns:
            a network from images ``(B, 1, D, H, W)`` to logits ``(B, N, D, H, W)`` whose softmax is the vote. It
            raises ``RuntimeError`` where no volume that annotates a class can be registered.

        Raises:
            InputError: if itk-elastix is not installed.
        """
        if not hasattr(itk, "ElastixRegistrationMethod"):
            raise InputError("registration needs itk-elastix. Install it with: pip install monai_hyper[registration]")
        atlases = _atlases(support)

        def network(query: Tensor) -> Tensor:
            images = query.detach().float().cpu()
            return torch.stack([self._vote(image[0], atlases) for image in images]).to(query.device)

        return network

    def _vote(self, query: Tensor, atlases: Sequence[Atlas]) -> Tensor:
        """Logits ``(N, D, H, W)`` of one image ``(D, H, W)``."""
        box = _content(query)
        image = query[box].contiguous()
        votes, weights = torch.zeros(2, len(atlases[0].one_hot), *image.shape)
        voted, failure = torch.zeros(len(votes), dtype=torch.bool), None
        for atlas in atlases:
            try:
                displacement = register(image, atlas.image, self.threads)
            except RuntimeError as error:
                failure = error
                continue
            covered, warped, *labels = warp(atlas.stack, displacement)
            weight = covered * (local_correlation(warped, image) ** 4).clamp(min=_LEAST_WEIGHT)
            weight = weight * atlas.annotated[:, None, None, None]
            votes, weights, voted = votes + weight * torch.stack(labels), weights + weight, voted | atlas.annotated
        if not voted.all():
            raise RuntimeError(f"no volume that annotates every class could be registered: {failure}") from failure
        share = torch.zeros(len(votes), *query.shape)
        share[(slice(None), *box)] = votes / weights.clamp(min=1e-12)
        background = (1 - share.sum(0, keepdim=True)).clamp(min=0)
        return torch.cat([background, share]).clamp(min=1e-6).log()


def _atlases(support: SupportSet) -> list[Atlas]:
    """The support volumes in order, on the CPU."""
    found: dict[int, Atlas] = {}
    for shots, images, labels in support.volumes():
        for shot, image, label in zip(shots, images.detach().float().cpu()[:, 0], labels.cpu()[:, 0]):
            box = _content(image)
            one_hot = F.one_hot(label[box], len(support.classes) + 1).movedim(-1, 0)[1:]
            found[shot] = Atlas(image[box].contiguous(), one_hot.float(), support.annotated[shot].cpu())
    return [found[shot] for shot in sorted(found)]


def _content(image: Tensor) -> tuple[slice, ...]:
    """The box of an image ``(D, H, W)`` outside of which everything has the darkest value."""
    bounds = content(image).tolist()
    return tuple(slice(start, end) for start, end in zip(bounds[::2], bounds[1::2]))


def register(fixed: Tensor, moving: Tensor, threads: int = 1) -> Tensor:
    """Where every voxel of one image lies in another, by elastix.

    The affine transform starts from aligned centres and from :func:`best_shift`; where it ends better, the B-splines
    go on.

    Args:
        fixed, moving: images ``(D, H, W)`` and ``(d, h, w)``, of one isotropic spacing.
        threads: of elastix.

    Returns:
        ``(3, D, H, W)``: index in ``moving`` minus index in ``fixed``, along the axes in their order.

    Raises:
        RuntimeError: if elastix gives up.
    """
    centred = tuple((n - m) // 2 for n, m in zip(fixed.shape, moving.shape))
    fits, failure = {}, None
    for shift in {centred, tuple(best_shift(fixed, moving).tolist())}:
        try:
            fits[shift] = _fit(fixed, moving, _elastix(fixed, moving, shift, [_AFFINE], threads))
        except RuntimeError as error:
            failure = error
    if not fits:
        raise failure
    return _elastix(fixed, moving, max(fits, key=fits.get), [_AFFINE, _BSPLINE], threads)


def _fit(fixed: Tensor, moving: Tensor, displacement: Tensor) -> float:
    """How well a warped image fits: the mean squared local correlation, times the root of the voxels it covers."""
    covered, warped = warp(torch.stack([torch.ones_like(moving), moving]), displacement)
    return float((covered * local_correlation(warped, fixed).square()).sum() / covered.sum().clamp(min=1).sqrt())


def _elastix(fixed: Tensor, moving: Tensor, shift: Sequence[int], stages: Sequence[dict], threads: int) -> Tensor:
    """Displacement ``(3, D, H, W)`` that elastix finds from a first shift on."""
    images = [itk.image_from_array(image.numpy()) for image in (fixed, moving)]
    images[1].SetOrigin([float(n) for n in reversed(shift)])
    elastix = itk.ElastixRegistrationMethod.New(*images)
    elastix.SetParameterObject(_parameters(stages, max(*fixed.shape, *moving.shape)))
    elastix.SetNumberOfThreads(threads)
    elastix.SetLogToConsole(False)
    elastix.UpdateLargestPossibleRegion()
    transformix = itk.TransformixFilter.New(images[1])
    transformix.SetTransformParameterObject(elastix.GetTransformParameterObject())
    transformix.SetComputeDeformationField(True)
    transformix.SetLogToConsole(False)
    with TemporaryDirectory() as folder:  # the field is written as a file too
        transformix.SetOutputDirectory(folder)
        transformix.UpdateLargestPossibleRegion()
    field = torch.from_numpy(itk.array_from_image(transformix.GetOutputDeformationField()))
    return field.float().movedim(-1, 0).flip(0) - torch.tensor(shift)[:, None, None, None]


def _parameters(stages: Sequence[dict], side: int) -> itk.ParameterObject:
    """Stages in elastix's form, for volumes of ``side`` voxels along their longest side: each level is twice as fine
    as the one before, and the first smooths them to about 16 voxels a side."""
    levels = max(2, round(math.log2(side / 16)))
    halving = {"NumberOfResolutions": levels, "GridSpacingSchedule": [2**n for n in reversed(range(levels))]}
    parameters = itk.ParameterObject.New()
    for stage in stages:
        entries = (stage | halving).items()
        parameters.AddParameterMap(
            {name: [str(v) for v in (value if isinstance(value, list) else [value])] for name, value in entries}
        )
    return parameters


def warp(volumes: Tensor, displacement: Tensor) -> Tensor:
    """Read volumes ``(C, d, h, w)`` trilinearly where ``displacement`` says, 0 beyond their edge.

    Args:
        volumes: float.
        displacement: of :func:`register`, ``(3, D, H, W)``.

    Returns:
        ``(C, D, H, W)``.

    Example:
        >>> warp(torch.arange(3.0).expand(1, 3, 3, 3), torch.ones(3, 3, 3, 3))[0, 0, 0, :2].tolist()
        [1.0, 2.0]
    """
    place = torch.meshgrid(*(torch.arange(float(n)) for n in displacement.shape[1:]), indexing="ij")
    middle = torch.tensor([(n - 1) / 2 for n in volumes.shape[1:]])[:, None, None, None]
    return Resample(mode="bilinear", padding_mode="zeros")(volumes, torch.stack(place) + displacement - middle)
