"""Label maps that nobody drew are maps of something."""

import numpy as np
import torch
from scipy import ndimage

from monai_hyper.synthesis.pseudo import SHAPE_SIDE, _is_whole, random_shapes, supervoxel_cohort, supervoxels


def test_random_shapes_fill_the_volume():
    for seed in range(5):
        cohort = random_shapes(np.random.default_rng(seed))
        labels = cohort.subjects[0].labels
        assert labels.shape == (SHAPE_SIDE,) * 3 and int(labels.min()) > 0
        assert len(labels.unique()) >= 3 and set(labels.unique().tolist()) == set(cohort.foregrounds)
        assert torch.equal(labels, random_shapes(np.random.default_rng(seed)).subjects[0].labels)


def test_supervoxels_end_where_the_intensity_does():
    image = np.zeros((20, 24, 22), dtype=np.float32)
    image[:, 10:] = 3
    parts = supervoxels(image, 12, np.random.default_rng(0))
    assert parts.min() >= 1
    mean = ndimage.mean(image, parts, np.unique(parts))
    assert np.mean((mean < 0.3) | (mean > 2.7)) > 0.8
    assert not np.isin(parts[:, 2], parts[:, 20]).any()


def test_supervoxels_are_compact_where_there_is_no_contrast():
    parts = supervoxels(np.zeros((24, 24, 24), dtype=np.float32), 27, np.random.default_rng(0))
    sides = [max(s.stop - s.start for s in box) for box in ndimage.find_objects(parts) if box]
    assert len(sides) > 15 and np.median(sides) < 16


def test_supervoxels_of_a_subject_lie_in_what_is_no_empty_space(brain):
    held = brain(0, image=True)
    found = 0
    for seed in range(6):
        cohort = supervoxel_cohort(held, False, np.random.default_rng(seed))
        if cohort is None:
            continue
        found += 1
        (other,) = cohort.subjects
        assert other.image is held.image and other.labels.shape == held.labels.shape
        for value in cohort.foregrounds:
            assert value in other.boxes and float(held.image[other.labels == value].mean()) > 40
    assert found >= 3


def test_an_even_image_has_no_supervoxels(brain):
    from dataclasses import replace

    held = brain(0, image=True)
    assert (
        supervoxel_cohort(replace(held, image=torch.full_like(held.image, 7.0)), False, np.random.default_rng(0))
        is None
    )


def test_a_part_at_the_border_is_not_whole():
    part = np.zeros((10, 10, 10), dtype=bool)
    part[3:6, 3:6, 3:6] = True
    assert _is_whole(part)
    part[0:6, 4, 4] = True
    assert not _is_whole(part)
