"""The task grid and back: places in mm stay, whatever the axes of the file."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from torch.testing import assert_close

from monai_hyper.transforms import InvertToGrid, ResampleToGrid, ResampleToGridd
from monai_hyper.transforms.grid import resample, task_grid
from monai_hyper.types import InputError

AXES = list(itertools.permutations(range(3)))
FLIPS = [(), (0,), (1, 2), (0, 1, 2)]


def blob(shape=(24, 20, 12), spacing=(1.0, 1.2, 2.5), centre=(0.5, 0.45, 0.55)) -> MetaTensor:
    """A smooth blob, off centre, in a RAS volume."""
    axes = [torch.arange(n) / n - c for n, c in zip(shape, centre)]
    distance = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-40.0, 12.0, 7.0])
    return MetaTensor(torch.exp(-30 * distance)[None], affine=affine)


def reoriented(volume: MetaTensor, order, flips) -> MetaTensor:
    """The same volume with its axes stored in another order and direction."""
    data = volume.as_tensor().permute(0, *(1 + axis for axis in order))
    mapping = torch.zeros(4, 4, dtype=torch.float64)
    for new, old in enumerate(order):
        mapping[old, new] = 1
    mapping[3, 3] = 1
    for axis in flips:
        data = data.flip(1 + axis)
        mapping[:, 3] += mapping[:, axis] * (data.shape[1 + axis] - 1)
        mapping[:, axis] *= -1
    return MetaTensor(data.contiguous(), affine=volume.affine @ mapping)


def centroid(volume: MetaTensor) -> torch.Tensor:
    """Centre of mass in mm."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in volume.shape[1:]), indexing="ij"))
    weights = volume.as_tensor()[0].double()
    mean = (index * weights).flatten(1).sum(1) / weights.sum()
    return (volume.affine @ torch.cat([mean, torch.ones(1)]).double())[:3]


@pytest.mark.parametrize(("order", "flips"), list(itertools.product(AXES, FLIPS)))
def test_the_axes_of_the_file_do_not_matter(order, flips):
    volume = blob()
    reference, other = (ResampleToGrid(1.5)(v) for v in (volume, reoriented(volume, order, flips)))
    assert_close(other.as_tensor(), reference.as_tensor(), atol=1e-5, rtol=1e-5)
    assert_close(other.affine, reference.affine, atol=1e-9, rtol=0)


@pytest.mark.parametrize("spacing", [0.7, 1.5, 4.0])
def test_places_are_kept(spacing):
    volume = blob()
    on_grid = ResampleToGrid(spacing)(volume)
    assert (centroid(on_grid) - centroid(volume)).abs().max() < spacing / 4
    back = InvertToGrid(spacing)(on_grid, volume)
    assert (centroid(back) - centroid(volume)).abs().max() < max(spacing, 2.5) / 4


@pytest.mark.parametrize("spacing", [0.5, 1.3, 3.0])
def test_lower_edges_coincide_and_upper_ones_to_half_a_voxel(spacing):
    volume = reoriented(blob(), (2, 0, 1), (1,))
    affine, shape = task_grid(volume.affine, volume.shape[1:], spacing)
    assert_close(affine[:3, :3], spacing * torch.eye(3).double(), atol=1e-9, rtol=0)
    edges = torch.tensor([[-0.5] * 3 + [1.0], [n - 0.5 for n in shape] + [1.0]]).double() @ affine.T
    low = torch.tensor([-40.0, 12.0, 7.0]).double() - torch.tensor([0.5, 0.6, 1.25]).double()
    high = low + torch.tensor([24.0, 24.0, 30.0]).double()
    assert_close(edges[0, :3], low, atol=1e-6, rtol=0)
    assert ((edges[1, :3] - high).abs() <= spacing / 2 + 1e-6).all()


def test_sampling_is_where_monai_samples():
    volume = blob()
    affine, shape = task_grid(volume.affine, volume.shape[1:], 1.3)
    theirs = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False)(
        volume, dst_affine=affine, spatial_size=shape
    )
    assert_close(resample(volume, volume.affine, affine, shape), theirs.as_tensor(), atol=1e-4, rtol=1e-4)


def test_a_volume_on_the_grid_stays_as_it_is():
    on_grid = ResampleToGrid(1.5)(blob())
    again = ResampleToGrid(1.5)(on_grid)
    assert torch.equal(again.as_tensor(), on_grid.as_tensor())
    assert_close(again.affine, on_grid.affine, atol=1e-9, rtol=0)


def test_an_oblique_volume_keeps_its_direction_and_comes_back():
    turn = torch.eye(4).double()
    angle = np.deg2rad(20)
    turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    volume = blob()
    volume = MetaTensor(volume.as_tensor(), affine=turn @ volume.affine)
    on_grid = ResampleToGrid(1.0)(volume)
    assert (centroid(on_grid) - centroid(volume)).abs().max() < 0.25
    back = InvertToGrid(1.0)(on_grid, volume)
    assert_close(back.affine, volume.affine)
    assert (back - volume).as_tensor().abs().max() < 0.1


def test_shrinking_does_not_alias():
    stripes = torch.zeros(1, 32, 32, 32)
    stripes[:, ::2] = 1
    shrunk = ResampleToGrid(4.0)(MetaTensor(stripes, affine=torch.eye(4)))
    assert (shrunk.as_tensor() - 0.5).abs().max() < 0.05


def test_constants_stay_constant_up_to_the_edge():
    volume = MetaTensor(torch.full((1, 13, 9, 3), -1000.0), affine=torch.diag(torch.tensor([1.0, 2.0, 9.0, 1.0])))
    for spacing in (0.9, 2.0, 7.0):
        assert (ResampleToGrid(spacing)(volume).as_tensor() + 1000).abs().max() < 1e-2


@pytest.mark.parametrize(("shape", "spacing"), [((16, 16, 1), 3.0), ((16, 16, 1), 1.0), ((8, 8, 4), 0.5)])
def test_single_slices_and_thick_slices_go_there_and_back(shape, spacing):
    volume = MetaTensor(torch.rand(1, *shape), affine=torch.diag(torch.tensor([1.0, 1.0, 10.0, 1.0])))
    on_grid = ResampleToGrid(spacing)(volume)
    assert InvertToGrid(spacing)(on_grid, volume).shape == volume.shape


def test_labels_keep_their_values_and_places():
    label = (blob() > 0.4).long() * 7 + (blob(centre=(0.2, 0.2, 0.2)) > 0.6).long() * 3
    label = MetaTensor(label.as_tensor(), affine=blob().affine)
    on_grid = ResampleToGridd("label", 1.5, "label")({"label": label})["label"]
    assert on_grid.dtype == torch.int64 and on_grid.unique().tolist() == [0, 3, 7]
    for value in (3, 7):
        one, other = (MetaTensor((v.as_tensor() == value).float(), affine=v.affine) for v in (label, on_grid))
        assert (centroid(one) - centroid(other)).abs().max() < 0.75
        assert abs(float(other.sum()) * 1.5**3 / (float(one.sum()) * 3.0) - 1) < 0.1


def test_grids_turned_against_each_other_are_refused():
    turned = torch.eye(4).double()
    turned[:2, :2] = torch.tensor([[0.9, -0.436], [0.436, 0.9]])
    with pytest.raises(InputError, match="turned against each other"):
        resample(torch.rand(1, 8, 8, 8), torch.eye(4), turned, (8, 8, 8))


def test_maps_of_another_grid_are_refused():
    with pytest.raises(InputError, match="the task grid of the query has"):
        InvertToGrid(1.0)(torch.rand(2, 5, 5, 5), blob())
    with pytest.raises(InputError, match="positive number of mm"):
        ResampleToGrid(0.0)
