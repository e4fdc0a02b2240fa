"""Episodes: split by patient, and the same for the same seed."""

from pathlib import Path

import pytest

from monai_hyper.data.episodes import draw_episodes
from monai_hyper.data.folder import Case
from monai_hyper.types import InputError

CASES = [Case(f"{patient}{scan}", Path(), Path(), str(patient)) for patient in range(10) for scan in "abc"]


def test_no_patient_is_in_both_support_and_query():
    for seed in range(20):
        for episode in draw_episodes(CASES, shots=5, queries=7, draws=3, seed=seed):
            assert len(set(episode.support)) == 5 and len(set(episode.query)) == 7
            assert not {c.patient for c in episode.support} & {c.patient for c in episode.query}


def test_the_order_of_the_cases_does_not_matter():
    assert draw_episodes(CASES, 4, 6, 3, seed=1) == draw_episodes(CASES[::-1], 4, 6, 3, seed=1)


def test_seeds_and_draws_differ():
    first, second = draw_episodes(CASES, 4, 6, 2, seed=1)
    assert first.support != second.support
    assert first.support != draw_episodes(CASES, 4, 6, 1, seed=2)[0].support


def test_queries_stay_and_support_grows_with_the_shots():
    one, many = (draw_episodes(CASES, shots, 6, 3, seed=4) for shots in (1, 8))
    for few, more in zip(one, many):
        assert few.query == more.query == one[0].query
        assert more.support[:1] == few.support


def test_only_usable_cases_are_drawn():
    usable = {case.name for case in CASES if case.name.endswith("a")}
    (episode,) = draw_episodes(CASES, 4, 6, 1, seed=0, usable=usable)
    assert {case.name for case in episode.support + episode.query} == usable


def test_too_few_cases():
    with pytest.raises(InputError, match="do not suffice"):
        draw_episodes(CASES, 16, 29, 1, seed=0)
    with pytest.raises(InputError, match="do not suffice"):
        draw_episodes(CASES[:3], 1, 1, 1, seed=0)


@pytest.mark.parametrize(("shots", "queries", "draws"), [(0, 1, 1), (65, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_out_of_range(shots, queries, draws):
    with pytest.raises(InputError, match="expected 1 to 64 shots"):
        draw_episodes(CASES, shots, queries, draws, seed=0)
