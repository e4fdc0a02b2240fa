"""Draw support and query cases from a labelled folder."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from monai_hyper.data.folder import Case
from monai_hyper.types import MOST_VOLUMES, InputError


@dataclass(frozen=True)
class Episode:
    """Support and query cases of one draw; no patient is in both."""

    support: tuple[Case, ...]
    query: tuple[Case, ...]


def draw_episodes(
    cases: Sequence[Case], shots: int, queries: int, draws: int, seed: int, usable: Container[str] | None = None
) -> list[Episode]:
    """Draw episodes by chance, the same for the same arguments.

    The queries are drawn first and are the same in every episode and for every number of shots; the support of each
    episode comes from the other patients. More shots extend the support of fewer shots.

    Args:
        cases: where to draw from; their order does not matter.
        shots: support volumes an episode, 1 to 64.
        queries: query volumes an episode.
        draws: number of episodes.
        seed: of the generator.
        usable: names of the cases that may be drawn, for instance those that annotate a class; None: all.

    Raises:
        InputError: if the usable cases, split by patient, do not suffice, or a number is out of range.

    Example:
        >>> from pathlib import Path
        >>> cases = [Case(name, Path(name), Path(name), patient=name) for name in "abcdef"]
        >>> episode, = draw_episodes(cases, shots=2, queries=3, draws=1, seed=0)
        >>> len(episode.support), len(episode.query), set(episode.support) & set(episode.query)
        (2, 3, set())
    """
    if not 1 <= shots <= MOST_VOLUMES or queries < 1 or draws < 1:
        raise InputError(
            f"found shots={shots}, queries={queries}, draws={draws}; expected 1 to {MOST_VOLUMES} shots and at least "
            "one query and draw."
        )
    patients: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        if usable is None or case.name in usable:
            patients.setdefault(case.patient, []).append(case)
    rng = np.random.default_rng([seed, 0])
    order = _shuffled([patients[patient] for patient in sorted(patients)], rng)
    query: list[Case] = []
    while order and len(query) < queries:
        query.extend(order.pop(0)[: queries - len(query)])
    if len(query) < queries or sum(map(len, order)) < shots:
        raise InputError(
            f"{sum(map(len, patients.values()))} usable cases of {len(patients)} patients do not suffice for {shots} "
            f"support and {queries} query volumes of different patients. Ask for fewer, or give more cases."
        )
    episodes = []
    for draw in range(1, draws + 1):
        support = [case for group in _shuffled(order, np.random.default_rng([seed, draw])) for case in group][:shots]
        episodes.append(Episode(tuple(support), tuple(query)))
    return episodes


def _shuffled(groups: list[list[Case]], rng: np.random.Generator) -> list[list[Case]]:
    """The patients in random order, and the cases of each."""
    return [[groups[g][i] for i in rng.permutation(len(groups[g]))] for g in rng.permutation(len(groups))]
