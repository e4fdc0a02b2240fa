"""Support sets on coarser grids."""

import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet


def cube(side: int, size: int = 12) -> SupportSet:
    """One volume with a cube of ``side`` voxels in its low corner."""
    labels = torch.zeros(1, 1, size, size, size, dtype=torch.long)
    labels[..., :side, :side, :side] = 1
    return SupportSet(torch.randn(1, 1, size, size, size), labels)


def test_factor_one_is_the_same_set():
    support = cube(4)
    assert support.coarser(1) is support


def test_images_are_averaged_and_aligned_cubes_stay_cubes():
    coarse = cube(6).coarser(3)
    assert coarse.labels.sum() == 8 and coarse.labels[..., :2, :2, :2].all()
    assert_close(coarse.images.mean(), cube(6).images.mean(), atol=1.0, rtol=0)
    images = torch.arange(4.0**3).reshape(1, 1, 4, 4, 4)
    reduced = SupportSet(images, torch.ones(1, 1, 4, 4, 4).long()).coarser(2).images
    assert_close(reduced[0, 0, 1, 1, 1], images[0, 0, 2:, 2:, 2:].mean())


def test_a_structure_smaller_than_a_voxel_stays():
    assert cube(1).coarser(4).labels.sum() == 1


def test_every_class_of_two_small_ones_stays():
    labels = torch.zeros(1, 1, 16, 16, 16, dtype=torch.long)
    labels[..., :4, :4, 1], labels[..., 10, 10, 10] = 1, 2
    found = SupportSet(torch.randn(1, 1, 16, 16, 16), labels, ("plate", "dot")).coarser(4).labels
    assert found.unique().tolist() == [0, 1, 2]


def test_volumes_of_different_extents_stay_in_their_corner():
    labels = torch.ones(2, 1, 10, 8, 9, dtype=torch.long)
    images = torch.full((2, 1, 10, 8, 9), 2.0)
    images[1, :, 5:] = -50  # beyond the second volume, never to be read
    support = SupportSet(images, labels, extents=torch.tensor([[10, 8, 9], [5, 8, 9]])).coarser(2)
    assert support.extents.tolist() == [[5, 4, 5], [3, 4, 5]]
    assert_close(support.images[1, :, :3], torch.full((1, 3, 4, 5), 2.0))
    assert not support.labels[1, :, 3:].any()
