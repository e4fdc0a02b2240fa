"""What may be trained on: permitted cases and permitted classes, nothing else."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_hyper.data.vocabulary import names_of
from monai_hyper.synthesis.plans import draw_classes, draw_plan
from monai_hyper.synthesis.sources import HEADNECK_HELD_OUT, HIPPOCAMPI, Sources, load_sources
from monai_hyper.synthesis.tasks import TaskEngine
from monai_hyper.types import InputError

SIZE = (20, 22, 24)
BRAIN = (3, 17, 42, 53, 77)


def _blocks(values: tuple[int, ...]) -> np.ndarray:
    """One block per value, side by side."""
    labels = np.zeros(SIZE, dtype=np.uint8)
    for place, value in enumerate(values):
        labels[4:16, 2 + 3 * place : 5 + 3 * place, 4:20] = value
    return labels


def _write(folder: Path, name: str, labels: np.ndarray, image: np.ndarray | None, affine: np.ndarray) -> None:
    for part, array in (("labels", labels), ("images", image)):
        if array is not None:
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), folder / part / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that looks like the permitted training data, and holds what is forbidden too."""
    root = tmp_path_factory.mktemp("data")
    axes = np.diag([2.0, 2, 2, 1])
    for case in range(3):
        _write(root / "brain_labels", f"brain_{case}", _blocks(BRAIN), None, axes)
        labels = _blocks((1, 2, 3, *HEADNECK_HELD_OUT))
        _write(root / "headneck_ct", f"case_{case}", labels, labels.astype(np.int16) * 50, np.diag([-2.0, -2, 2, 1]))
        _write(root / "hippocampus_mr", f"hippocampus_{case}", _blocks((1, 2)), None, axes)
    split = {"train": ["case_0", "case_2"], "select": ["case_1"], "evaluation": []}
    (root / "headneck_ct" / "dataset.json").write_text(json.dumps({"split": split}))
    return root


@pytest.fixture(scope="module")
def sources(folder) -> Sources:
    return load_sources(folder)


def test_held_out_data_sets_are_not_read(sources):
    assert set(sources.cohorts) == {"brain_labels", "headneck_ct"}


def test_hippocampi_become_part_of_the_cortex(sources):
    cohort = sources.cohorts["brain_labels"]
    shown, original = cohort.subjects[0].labels, torch.from_numpy(_blocks(BRAIN))
    for value, cortex in HIPPOCAMPI.items():
        (found,) = set(shown[original == value].tolist())
        assert {found} == set(shown[original == cortex].tolist()) and found in cohort.foregrounds
    assert len(cohort.foregrounds) == len(BRAIN) - len(HIPPOCAMPI)


def test_larynx_and_mandible_become_background(sources):
    cohort = sources.cohorts["headneck_ct"]
    labels = _blocks((1, 2, 3, *HEADNECK_HELD_OUT))[::-1, ::-1].copy()
    for held in cohort.subjects:
        assert not held.labels[torch.from_numpy(np.isin(labels, HEADNECK_HELD_OUT))].any()
        assert bool((held.labels[torch.from_numpy(np.isin(labels, (1, 2, 3)))] > 0).all())
        assert set(held.boxes) == set(cohort.foregrounds) and len(cohort.foregrounds) == 3


def test_values_have_the_names_of_the_original_ones(sources):
    brain, original = sources.cohorts["brain_labels"], torch.from_numpy(_blocks(BRAIN))
    assert len(brain.names) == 2  # the cortices: 77 has no name, the hippocampi are part of them
    for value, names in brain.names.items():
        (found,) = set(original[brain.subjects[0].labels == value].tolist()) - set(HIPPOCAMPI)
        assert names == names_of("brain_labels")[found]
    called = {names[0] for names in sources.cohorts["headneck_ct"].names.values()}
    assert called == {"brainstem", "spinal cord", "right parotid gland"}


def test_values_of_atlases_have_names(tmp_path):
    _write(tmp_path / "atlas_labels", "knee", _blocks((1, 46, 49)), None, np.eye(4))
    _write(tmp_path / "atlas_labels", "elbow", _blocks((1, 2)), None, np.eye(4))
    cohorts = load_sources(tmp_path).cohorts
    assert cohorts["knee"].names == {value: names_of("knee")[value] for value in (46, 49)}
    assert cohorts["knee"].foregrounds == (1, 46, 49) and cohorts["elbow"].names == {}


def test_only_training_cases_are_loaded(sources):
    assert len(sources.cohorts["headneck_ct"].subjects) == 2
    assert len(sources.cohorts["brain_labels"].subjects) == 3


def test_images_and_labels_are_turned_alike(sources):
    for held in sources.cohorts["headneck_ct"].subjects:
        in_hounsfield = held.image / 50
        assert torch.equal(held.labels > 0, (in_hounsfield > 0) & ~torch.isin(in_hounsfield, torch.tensor([6.0, 7.0])))
        assert held.spacing.tolist() == [2, 2, 2]


def test_boxes_tell_where_values_lie_in_mm(sources):
    cohort = sources.cohorts["brain_labels"]
    middle, length = cohort.subjects[0].boxes[cohort.foregrounds[0]]
    assert middle.tolist() == [19, 9, 23]  # voxels 4..15, 2..7, 4..19 of 2 mm
    assert length.tolist() == [24, 12, 32]


def test_no_task_asks_for_what_is_held_out(sources):
    for cohort in sources.cohorts.values():
        rng = np.random.default_rng(0)
        drawn = {v for _ in range(100) for members in draw_classes(cohort, 1, rng) for v in members}
        assert drawn == set(cohort.foregrounds)
        present = {int(v) for held in cohort.subjects for v in held.labels.unique()} - {0}
        assert present == drawn


def test_no_body_is_put_together_of_what_is_held_out(sources):
    rng, found = np.random.default_rng(0), set()
    for _ in range(60):
        organs = draw_plan("organs", sources, 1, 1, 3, rng).organs
        for row in organs.subjects:
            found |= {(_cohort_of(held, sources), value) for held, value in zip(row, organs.values)}
    assert found == {(name, v) for name, cohort in sources.cohorts.items() for v in cohort.foregrounds}


def _cohort_of(held, sources: Sources) -> str:
    return next(n for n, c in sources.cohorts.items() if any(held is other for other in c.subjects))


def test_families_without_data_are_never_drawn(sources):
    assert TaskEngine(Sources({})).families == ["shapes"]
    assert TaskEngine(Sources({}, [torch.ones(3, 3, 3, dtype=torch.bool)])).families == ["shapes"]
    found = {"shapes", "brain_labels", "headneck_ct", "organs", "lesions", "supervoxels"}
    assert set(TaskEngine(sources).families) == found
    unseen = Sources({"brain_labels": sources.cohorts["brain_labels"]})
    assert set(TaskEngine(unseen).families) == found - {"headneck_ct", "supervoxels"}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no training data found"):
        load_sources(tmp_path)
