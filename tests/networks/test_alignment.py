"""Laws of alignment: what is found is where things lie, whatever the contrast and the field of view."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.networks.alignment import (
    after,
    align,
    inverse,
    read_at,
    unexplained,
    voxels,
    within,
)
from monai_hyper.networks.shift import best_shift, content
from monai_hyper.networks.template import make_template
from monai_hyper.synthesis.geometry import random_field, sample, warped_copy


def blobs(size=(32, 34, 30), seed=0) -> torch.Tensor:
    """A smooth random image with borders, ``(1, 1, D, H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 1, 9, 9, 9, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=size, mode="trilinear") * 2).tanh() + 1.5


def middle(field: torch.Tensor) -> torch.Tensor:
    return field[6:-6, 6:-6, 6:-6]


def test_a_shifted_field_of_view_is_found():
    image = blobs()
    found = align(image, image[:, :, 4:, :, :-5])
    expected = voxels([32, 34, 30], image) - torch.tensor([4.0, 0, 0])
    assert float((middle(found) - middle(expected)).abs().mean()) < 0.25


@pytest.mark.parametrize("contrast", [lambda image: 3 - image, lambda image: (image - 1.5).square()])
def test_contrast_does_not_matter_much(contrast):
    image, generator = blobs(), torch.Generator().manual_seed(3)
    bend = voxels([32, 34, 30], image) + 1.5 * random_field(1, [32, 34, 30], 4, generator)[0]
    other = contrast(read_at(image, bend, [32, 34, 30], "border"))
    found = align(other, image)
    before = float((middle(voxels([32, 34, 30], image)) - middle(bend)).norm(dim=-1).mean())
    after_it = float((middle(found) - middle(bend)).norm(dim=-1).mean())
    assert after_it < 0.6 * before, f"{before:.2f} voxels before, {after_it:.2f} after"


def test_labels_of_a_warped_copy_arrive():
    image = blobs()
    mask = (image > 1.9).float()
    copy, copied = warped_copy(image, mask, torch.Generator().manual_seed(1))
    arrived = read_at(mask, align(copy, image), [32, 34, 30])
    dice = [float(2 * (m * (copied > 0.5)).sum() / (m.sum() + (copied > 0.5).sum())) for m in (arrived > 0.5, mask)]
    assert dice[0] > 0.8 and dice[0] > dice[1] + 0.1, f"aligned {dice[0]:.2f}, as they were {dice[1]:.2f}"


def test_large_images_are_aligned_on_a_coarser_grid_and_told_on_their_own():
    image = blobs((40, 40, 40))
    found = align(image, image[:, :, 6:], most_voxels=30_000)
    expected = voxels([40, 40, 40], image) - torch.tensor([6.0, 0, 0])
    assert found.shape == (40, 40, 40, 3)
    assert float((middle(found) - middle(expected)).abs().mean()) < 0.5


def test_padding_does_not_matter():
    image = blobs()
    low = float(image.min())
    padded = torch.nn.functional.pad(image, [3, 0, 0, 5, 2, 0], value=low - 0.05)
    found = align(padded, image)[2:, :-5, 3:]
    assert float((middle(found) - middle(voxels([32, 34, 30], image))).abs().mean()) < 0.25
    assert content(padded[0, 0]).tolist() == [2, 34, 0, 34, 3, 33]


@pytest.mark.parametrize("flat", ["both", "one"])
def test_images_that_show_nothing_give_finite_places(flat):
    image = torch.zeros(1, 1, 20, 22, 24)
    assert bool(torch.isfinite(align(image, image if flat == "both" else blobs())).all())


@pytest.mark.parametrize("size", [(3, 40, 33), (9, 8, 70)])
def test_thin_images_can_be_aligned(size):
    image = blobs(size)
    assert align(image, image).shape == (*size, 3)
    assert align(image, blobs((30, 90, 90)), most_voxels=100_000).shape == (*size, 3)


def test_scripted_equals_plain():
    image = blobs()
    assert_close(torch.jit.script(align)(image, image[:, :, 3:]), align(image, image[:, :, 3:]))


def test_inverse_leads_back():
    grid = voxels([24, 26, 22], torch.zeros(1))
    places = grid + 2 + 1.5 * random_field(1, [24, 26, 22], 4, torch.Generator().manual_seed(2))[0]
    back = inverse(places, [24, 26, 22])
    assert float((middle(after(places, back)) - middle(grid)).abs().max()) < 0.1


def test_reading_at_voxels_gives_their_values_and_zero_beyond():
    volume, grid = torch.rand(1, 2, 5, 6, 7), voxels([5, 6, 7], torch.zeros(1))
    assert_close(read_at(volume, grid, [5, 6, 7]), volume)
    assert float(read_at(volume, grid + 9, [5, 6, 7]).abs().max()) == 0
    assert within(grid + 1, [5, 6, 7])[0, 0, :, 0, 0].tolist() == [1, 1, 1, 1, 0]


def test_the_best_shift_is_where_a_part_was_cut_out():
    volume = torch.rand(14, 13, 12)
    assert best_shift(volume, volume[3:, :, 1:]).tolist() == [3, 0, 1]


def support_of(shots: int, sizes=None) -> SupportSet:
    """Warped copies of one scene, the first one cut."""
    image = blobs()
    generator = torch.Generator().manual_seed(0)
    pairs = [warped_copy(image, (image > 1.9).float(), generator, 0.6) for _ in range(shots)]
    extents = torch.tensor([[28, 34, 30]] + [[32, 34, 30]] * (shots - 1)) if sizes is None else sizes
    images, masks = (torch.cat(each) for each in zip(*pairs))
    return SupportSet(images, (masks > 0.5).long(), extents=extents)


def test_volumes_meet_in_the_template():
    support = support_of(3)
    template = make_template(support)
    assert template.size == [32, 34, 30], "the frame is a volume that shows most"
    masks = [
        template.gathered(k, support.labels[k : k + 1, :, : s[0]].float()) > 0.5 for k, s in enumerate(template.sizes)
    ]
    whole = template.covered(0) * template.covered(1) * template.covered(2) > 0
    dice = 2 * (masks[1] & masks[2] & whole).sum() / ((masks[1] & whole).sum() + (masks[2] & whole).sum())
    before = support.labels[1:] > 0
    plain = 2 * (before[0] & before[1]).sum() / (before[0].sum() + before[1].sum())
    assert float(dice) > 0.85 and float(dice) > float(plain) + 0.03, f"{float(plain):.2f} to {float(dice):.2f}"


def test_what_the_template_knows_returns_to_the_volumes():
    support = support_of(2)
    template = make_template(support)
    for k, (d, h, w) in enumerate(template.sizes):
        mask = support.labels[k : k + 1, :, :d, :h, :w].float()
        back = template.spread(k, template.gathered(k, mask)) > 0.5
        assert float(2 * (back * mask).sum() / (back.sum() + mask.sum())) > 0.9


def test_fields_of_view_that_are_not_aligned_are_stretched_onto_each_other():
    support = support_of(3)
    template = make_template(support, aligned=False)
    assert template.aligned is False and template.size == [32, 34, 30]
    for k, (d, h, w) in enumerate(template.sizes):
        assert bool(template.covered(k).all()), "nothing of the field of view is lost"
        ramp = torch.arange(d).view(1, 1, d, 1, 1).expand(1, 1, d, h, w).float()
        over = template.gathered(k, ramp)[0, 0, :, h // 2, w // 2]
        assert_close(over[4:-4], ((torch.arange(32) + 0.5) * d / 32 - 0.5)[4:-4])
        assert_close(
            template.spread(k, template.gathered(k, ramp))[0, 0, 4:-4, 4:-4, 4:-4], ramp[0, 0, 4:-4, 4:-4, 4:-4]
        )


def test_a_lone_volume_is_its_own_template():
    support = support_of(1)
    template = make_template(support)
    assert_close(template.image, support.images[:, :, :28])
    assert_close(template.spread(0, template.image), template.image)


def test_the_sampled_scene_is_where_sample_says():
    """``read_at`` and ``sample`` agree on where a voxel is."""
    image = blobs()
    grid = voxels([32, 34, 30], image)
    centred = grid - torch.tensor([31 / 2, 33 / 2, 29 / 2])
    assert_close(sample(image, centred[None] + 1), read_at(image, grid + 1, [32, 34, 30], "border"))


def test_what_an_aligned_image_leaves_unexplained():
    image, other = blobs(), blobs(seed=1)
    places = voxels([32, 34, 30], image)
    assert unexplained(image, image, places) < 1e-6
    moved = image[:, :, 3:]
    shift = places - torch.tensor([3.0, 0, 0])
    assert unexplained(image, moved, shift) < 0.2 < 1 < unexplained(image, moved, places)
    assert unexplained(image, other, places) > 1, "another image explains less than nothing"
