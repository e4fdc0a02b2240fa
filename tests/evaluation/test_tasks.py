"""Tasks, draws, and the cases that cannot be read."""

import numpy as np
import pytest
import torch

from monai_hyper.data.classes import ClassTable
from monai_hyper.evaluation.tasks import Reader, binary_tasks, catalogue, draws_of, tasks_of
from monai_hyper.types import InputError
from tests.evaluation.conftest import write_case

TABLE = ClassTable((1, 2, 5), ("head", "tail", "fat+skin"))


def test_unions_by_name_by_value_and_with_a_title():
    tasks = binary_tasks(TABLE, ["1+tail", "whole=1+2", "fat+skin"])
    assert [task.names for task in tasks] == [("head+tail",), ("whole",), ("fat+skin",)]
    assert [task.members for task in tasks] == [((1, 2),), ((1, 2),), ((5,),)]
    assert len(binary_tasks(TABLE, [])) == 3
    with pytest.raises(InputError, match="unknown class 'x' in --binary 1\\+x"):
        binary_tasks(TABLE, ["1+x"])


def test_labels_are_merged_before_anything_else():
    label = torch.tensor([0, 1, 2, 5, 9])
    assert binary_tasks(TABLE, ["1+5"])[0].merged(label).tolist() == [0, 1, 0, 1, 0]


def test_a_bad_case_is_set_apart(folder):
    (folder / "images" / "case_2.nii.gz").write_bytes(b"no volume")
    (folder / "labels" / "case_3.nii.gz").unlink()
    found = catalogue(folder)
    assert set(found.bad) == {"case_2", "case_3"} and len(found.cases) == 6
    assert "case_2.nii.gz" in found.bad["case_2"] and "expected a label map" in found.bad["case_3"]


def test_support_and_query_never_share_a_patient_and_shots_are_clipped(folder):
    found = catalogue(folder)
    task, *_ = tasks_of(found, None)[0]
    episodes, notes = draws_of(found, task, (1, 2, 40), queries=3, draws=4, seed=0)
    assert sorted(episodes) == [1, 2, 7] and any("K is at most 7" in note for note in notes)
    for drawn in episodes.values():
        for episode in drawn:
            assert not {c.patient for c in episode.support} & {c.patient for c in episode.query}
    for one, two in zip(episodes[1], episodes[2]):
        assert set(one.support) < set(two.support) and one.query == two.query


def test_of_many_cases_all_draws_ask_for_the_same(folder):
    found = catalogue(folder)
    task, *_ = tasks_of(found, None)[0]
    episodes, _ = draws_of(found, task, (1, 2), queries=3, draws=3, seed=0)
    assert len({episode.query for drawn in episodes.values() for episode in drawn}) == 1


def test_classes_that_never_meet_become_tasks_of_their_own(tmp_path):
    for index in range(4):
        write_case(tmp_path, f"case_{index}", values=(1 + index % 2,), seed=index)
    tasks, notes = tasks_of(catalogue(tmp_path), None)
    assert [task.names for task in tasks] == [("class_1",), ("class_2",)] and "a task of its own" in notes[0]


def test_one_patient_is_too_few(tmp_path):
    write_case(tmp_path, "only", values=(1,), seed=0)
    found = catalogue(tmp_path)
    with pytest.raises(InputError, match="1 patients show class_1; expected at least 2"):
        draws_of(found, tasks_of(found, [])[0][0], (1,), 1, 1, 0)


def test_the_field_of_view_of_a_case_changes_alike_whenever_it_is_read(folder):
    found = catalogue(folder)
    task = tasks_of(found, [])[0][0]
    pairs = [Reader(perturb_fov=True)(found.cases[0], task) for _ in range(2)]
    assert torch.equal(pairs[0][0], pairs[1][0]) and torch.equal(pairs[0][1], pairs[1][1])
    assert pairs[0][0].shape == pairs[0][1].shape
    assert not np.array_equal(pairs[0][0].shape, Reader()(found.cases[0], task)[0].shape)
