"""Preprocessing is decided by the support, and inverted exactly on the query's own grid."""

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import one_hot
from torch.testing import assert_close

from monai_hyper.data.classes import ClassTable
from monai_hyper.data.folder import list_cases, read_pair
from monai_hyper.data.volumes import Header
from monai_hyper.inference.pipeline import (
    Plan,
    make_plan,
    measure_modality,
    modality_of_text,
    modality_warning,
    postprocess,
    preprocess,
    preprocess_pair,
    probabilities_on_query_grid,
    read_support,
    support_from_pairs,
    working_spacing,
)
from monai_hyper.transforms.decision import best_threshold
from monai_hyper.types import InputError

TABLE = ClassTable((2, 7), ("liver", "tumour"))
MR_PLAN = Plan("MR", 1.5, None, TABLE.names, TABLE.values, measured="MR")


def pair(
    seed: int = 0, shape=(30, 26, 14), spacing=(1.0, 1.25, 2.5), ct: bool = False
) -> tuple[MetaTensor, MetaTensor]:
    """Two ellipsoids of values 2 and 7 in an image that shows them, RAS."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    label = np.zeros(shape, np.int64)
    for value, centre, radius in ((2, (0.4, 0.45, 0.5), 0.3), (7, (0.75, 0.7, 0.55), 0.2)):
        centre = np.array(centre) + rng.uniform(-0.03, 0.03, 3)
        label[sum((a - c) ** 2 for a, c in zip(axes, centre)) < radius**2] = value
    image = np.choose(np.searchsorted([0, 2, 7], label), [-900.0 if ct else 5.0, 60.0, 120.0])
    image = image + rng.normal(0, 5, shape)
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-11.0, 4.0, 60.0])
    return MetaTensor(torch.from_numpy(image[None]).float(), affine=affine), MetaTensor(
        torch.from_numpy(label[None]), affine=affine
    )


def reoriented(volume: MetaTensor, order, flips) -> MetaTensor:
    """The same volume with its axes stored in another order and direction."""
    data = volume.as_tensor().permute(0, *(1 + axis for axis in order))
    mapping = torch.eye(4).double()[:, [*order, 3]]
    for axis in flips:
        data = data.flip(1 + axis)
        mapping[:, 3] += mapping[:, axis] * (data.shape[1 + axis] - 1)
        mapping[:, axis] *= -1
    return MetaTensor(data.contiguous(), affine=volume.affine @ mapping)


def as_logits(label: torch.Tensor, classes: int) -> torch.Tensor:
    return 20 * one_hot(label.as_tensor()[0], classes + 1).movedim(-1, 0).float()


def dice(a: torch.Tensor, b: torch.Tensor, value: int) -> float:
    a, b = a.as_tensor() == value, b.as_tensor() == value
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def write(folder: Path, pairs, **description) -> Path:
    for index, (image, label) in enumerate(pairs):
        for kind, volume in (("images", image.float()), ("labels", label.short())):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            file = nibabel.Nifti1Image(volume[0].numpy(), volume.affine.numpy())
            nibabel.save(file, folder / kind / f"case{index:02}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"2": "liver", "7": "tumour"}, **description}))
    return folder


@pytest.mark.parametrize("spacing", [1.0, 1.5])
@pytest.mark.parametrize(
    ("order", "flips"), list(itertools.product(itertools.permutations(range(3)), [(), (1,), (0, 2)]))
)
def test_labels_come_back_on_the_query_s_own_grid(order, flips, spacing):
    image, label = (reoriented(volume, order, flips) for volume in pair())
    plan = Plan("MR", spacing, None, TABLE.names, TABLE.values, measured="MR")
    _, on_grid = preprocess_pair(image, label, plan)
    back = postprocess(as_logits(on_grid, 2), plan, image)
    assert back.shape == label.shape and back.dtype == torch.int64
    assert torch.equal(back.affine, image.affine)
    assert dice(back, label, 2) > 0.9 and dice(back, label, 7) > 0.9


@pytest.mark.parametrize(("order", "flips"), [((2, 0, 1), (0,)), ((0, 1, 2), (0, 1, 2)), ((1, 0, 2), ())])
def test_permuted_and_flipped_volumes_are_prepared_alike(order, flips):
    image, label = pair()
    reference = preprocess_pair(image, label, MR_PLAN)
    other = preprocess_pair(reoriented(image, order, flips), reoriented(label, order, flips), MR_PLAN)
    assert_close(other[0].as_tensor(), reference[0].as_tensor(), atol=1e-4, rtol=1e-4)
    assert torch.equal(other[1].as_tensor(), reference[1].as_tensor())
    assert_close(other[0].affine, reference[0].affine)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((32, 32, 1), (1, 1, 1)), ((30, 30, 4), (1, 1, 10)), ((3, 4, 5), (0.4, 0.4, 0.4))]
)
def test_single_slices_thick_slices_and_tiny_queries_work(shape, spacing):
    image, _ = pair(shape=shape, spacing=spacing)
    prepared = preprocess(image, MR_PLAN)
    assert torch.isfinite(prepared.as_tensor()).all()
    result = postprocess(torch.randn(3, *prepared.shape[1:]), MR_PLAN, image)
    assert result.shape == image.shape and set(result.unique().tolist()) <= {0, 2, 7}


def test_probabilities_lie_on_the_query_s_grid_and_agree_with_the_labels():
    image, _ = pair()
    logits = torch.randn(3, *preprocess(image, MR_PLAN).shape[1:])
    probabilities = probabilities_on_query_grid(logits, MR_PLAN, image)
    assert_close(probabilities.sum(0).as_tensor(), torch.ones(image.shape[1:]))
    assert torch.equal(probabilities.affine, image.affine)
    values = torch.tensor([0, 2, 7])[probabilities.as_tensor().argmax(0)]
    assert torch.equal(values, postprocess(logits, MR_PLAN, image).as_tensor()[0])


def test_a_single_class_is_cut_at_the_best_threshold_and_only_where_it_is_calibrated():
    image, _ = pair()
    plan = Plan("MR", 1.5, None, ("one",), (7,), measured="MR")
    logits = torch.randn(2, *preprocess(image, plan).shape[1:])
    probability = probabilities_on_query_grid(logits, plan, image).as_tensor()[1]
    threshold = best_threshold(logits.softmax(0)[1])
    assert threshold < 0.5
    for calibrated, cut in ((True, threshold), (False, 0.5)):
        found = postprocess(logits, plan, image, calibrated).as_tensor()[0] == 7
        assert (found == (probability > cut)).float().mean() > 0.999


def test_logits_of_another_number_of_classes_are_refused():
    image, _ = pair()
    with pytest.raises(InputError, match=r"expected \(3, d, h, w\)"):
        postprocess(torch.randn(2, *preprocess(image, MR_PLAN).shape[1:]), MR_PLAN, image)


def test_the_spacing_is_the_finest_voxel_or_a_128th_of_the_longest_side():
    assert working_spacing([Header((64, 64, 20), (1.4, 1.4, 8.0))]) == 1.4
    assert working_spacing([Header((64, 64, 20), (1.4, 1.4, 8.0)), Header((512, 9, 9), (0.5, 3, 3))]) == 2.0
    plan = make_plan([pair(shape=(8, 8, 8)), pair()], TABLE, largest_side=16)
    assert plan.spacing == round(35.0 / 16, 6)
    assert max(preprocess(pair()[0], plan).shape) == 16


def test_ct_is_told_from_mr_by_its_air():
    assert make_plan([pair(ct=True)], TABLE).modality == "CT"
    assert make_plan([pair()], TABLE).modality == "MR" and make_plan([pair()], TABLE).window is None
    assert make_plan([pair()], TABLE, modality="CT").modality == "CT"
    assert measure_modality(torch.linspace(-3, 3, 1000)) == "MR"
    assert measure_modality(torch.linspace(-30000, 30000, 1000)) == "MR"


@pytest.mark.parametrize(
    ("text", "modality"),
    [("CT (HU = stored value)", "CT"), ("cine MR, 8 bit", "MR"), ("MRI", "MR"), ("CT (HU), T1 MR", None), (None, None)],
)
def test_modalities_are_read_from_text(text, modality):
    assert modality_of_text(text) == modality


def test_the_ct_window_covers_the_foreground_and_its_surroundings():
    low, high = make_plan([pair(ct=True)], TABLE).window
    assert low < -900 and high > 120  # the rim of 3 voxels reaches into the air
    image, label = pair(ct=True)
    tissue = MetaTensor(image.as_tensor().clamp_min(60), affine=image.affine)
    narrow = make_plan([(tissue, label)], TABLE, modality="CT").window
    assert narrow[1] - narrow[0] == pytest.approx(200, abs=0.2)


def test_a_plan_survives_json():
    plan = make_plan([pair(ct=True)], TABLE)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_support_set_carries_who_annotates_what_and_how_far_volumes_reach():
    (image, label), small = pair(0), pair(1, shape=(20, 26, 14))
    label = MetaTensor(torch.where(label.as_tensor() == 7, 0, label.as_tensor()), affine=label.affine)
    support = support_from_pairs([(image, label), small], MR_PLAN)
    assert support.annotated.tolist() == [[True, False], [True, True]]
    assert support.extents.tolist() == [[20, 22, 23], [13, 22, 23]] and support.images.shape == (2, 1, 20, 22, 23)
    assert_close(support.images[1][:, :13], preprocess(small[0], MR_PLAN).as_tensor())
    assert support.labels[1][:, 13:].sum() == 0
    told = support_from_pairs([(image, label), small], MR_PLAN, absent_means="absent")
    assert told.annotated.all()


def test_a_folder_reads_as_its_pairs_do(tmp_path):
    pairs = [pair(0), pair(1, shape=(20, 26, 14)), pair(2, spacing=(1.25, 1.25, 3.0))]
    support, plan = read_support(write(tmp_path, pairs, modality="T1 MR"))
    assert plan == make_plan(pairs, TABLE) and support.classes == ("liver", "tumour")
    expected = support_from_pairs(pairs, plan)
    assert_close(support.images, expected.images, atol=1e-4, rtol=1e-4)
    assert torch.equal(support.labels, expected.labels) and torch.equal(support.extents, expected.extents)
    again, same = read_support(tmp_path, plan)
    assert same == plan and torch.equal(again.images, support.images)


def test_volumes_listed_one_by_one_read_as_their_folder_does(tmp_path):
    write(tmp_path, [pair(0), pair(1)], labels={})
    listed = [{"image": case.image, "label": str(case.label)} for case in list_cases(tmp_path)]
    support, plan = read_support(listed)
    expected, same = read_support(tmp_path)
    assert plan == same and plan.classes == ("class_2", "class_7")
    assert torch.equal(support.images, expected.images) and torch.equal(support.labels, expected.labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed + listed[:1], "two volumes of the support set are called 'case00'"),
        (lambda listed: [{"image": listed[0]["image"]}], "entry 0 of the support set"),
        (lambda listed: ["case00.nii.gz"], "entry 0 of the support set"),
        (lambda listed: [{**listed[0], "label": "nowhere.nii.gz"}], "nowhere.nii.gz: no such volume"),
        (lambda listed: [], "the support set: 0 support volumes"),
    ],
)
def test_a_list_that_is_none_of_volumes_is_refused(tmp_path, change, message):
    write(tmp_path, [pair()])
    listed = [{"image": case.image, "label": case.label} for case in list_cases(tmp_path)]
    with pytest.raises(InputError, match=message):
        read_support(change(listed))


def test_classes_of_a_folder_can_be_chosen(tmp_path):
    support, plan = read_support(write(tmp_path, [pair()]), classes=["tumour"])
    assert plan.values == (7,) and support.labels.unique().tolist() == [0, 1]


def test_the_description_decides_what_is_annotated(tmp_path):
    write(tmp_path, [pair(0), pair(1)], annotated={"case00": ["tumour"]})
    assert read_support(tmp_path)[0].annotated.tolist() == [[False, True], [True, True]]


def test_one_volume_and_one_class_are_enough(tmp_path):
    image, label = pair()
    support, plan = read_support(write(tmp_path, [(image, (label == 2).long() * 2)], labels={"2": "liver"}))
    assert support.shots == 1 and plan.classes == ("liver",)


@pytest.mark.parametrize("absent_means", ["unannotated", "absent"])
def test_a_class_in_no_support_volume_is_refused(tmp_path, absent_means):
    image, label = pair()
    folder = write(tmp_path, [(image, (label == 2).long() * 2)])
    with pytest.raises(InputError, match=f"{tmp_path}: class 'tumour' .* is in no support volume"):
        read_support(folder, absent_means=absent_means)


def test_empty_masks_everywhere_are_refused(tmp_path):
    image, label = pair()
    with pytest.raises(InputError, match="masks of all 2 support volumes are empty for liver, tumour"):
        read_support(write(tmp_path, [(image, label * 0)] * 2))
    with pytest.raises(InputError, match="empty"):
        support_from_pairs([(image, label * 0)], MR_PLAN)


def test_no_shot_and_more_than_sixteen_are_refused(tmp_path):
    small = pair(shape=(8, 8, 8))
    folder = write(tmp_path, [small] * 17)
    with pytest.raises(InputError, match="17 support volumes; expected 1 to 16"):
        read_support(folder)
    with pytest.raises(InputError, match="0 support volumes; expected 1 to 16"):
        read_support(folder, cases=[])
    assert read_support(folder, cases=list_cases(folder)[:16])[0].shots == 16
    with pytest.raises(InputError, match="holds 0 volumes"):
        support_from_pairs([], MR_PLAN)
    with pytest.raises(InputError, match="holds 0 volumes"):
        make_plan([], TABLE)


def test_a_query_of_another_modality_is_warned_of_with_the_reason():
    mr, ct = make_plan([pair()], TABLE), make_plan([pair(ct=True)], TABLE)
    assert modality_warning(pair(1)[0], mr) is None and modality_warning(pair(1, ct=True)[0], ct) is None
    assert "looks like CT, the support looks like MR: the query's minimum is -9" in modality_warning(
        pair(1, ct=True)[0], mr
    )
    assert "looks like MR, the support looks like CT" in modality_warning(pair(1)[0], ct)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "modality"), [("hippocampus_mr", "MR"), ("headneck_ct", "CT")])
def test_real_scans_go_to_the_grid_and_back(shared_data, name, modality):
    folder = shared_data / name
    cases = list_cases(folder, split="select")[:2]
    chosen = None if modality == "MR" else ["mandible"]
    support, plan = read_support(folder, cases=cases, classes=chosen)
    assert plan.modality == plan.measured == modality and max(support.images.shape) <= 128
    image, label = read_pair(cases[0])
    _, on_grid = preprocess_pair(image, label, plan)
    back = postprocess(as_logits(on_grid, len(plan.classes)), plan, image)
    assert torch.equal(back.affine, image.affine)
    assert min(dice(back, label, value) for value in plan.values) > 0.85
