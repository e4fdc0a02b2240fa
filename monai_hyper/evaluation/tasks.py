"""What an evaluation asks for: the tasks of a labelled folder, and the cases that show them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from monai.data import MetaTensor

from monai_hyper.data.classes import ClassTable, class_table, resolved
from monai_hyper.data.episodes import Episode, draw_episodes
from monai_hyper.data.folder import Case, list_cases, read_pair
from monai_hyper.data.labels import label_values
from monai_hyper.data.structures import is_structures, structure_names
from monai_hyper.transforms.augment import RandFieldOfViewd
from monai_hyper.types import InputError

Pair = tuple[MetaTensor, MetaTensor]

_KEPT_IN_MEMORY = 96

ENOUGH = 5
"""Patients left beside the largest support set, from which on all draws ask for the same queries."""


@dataclass(frozen=True)
class EvaluationTask:
    """Classes that are segmented together.

    Args:
        names: of the classes.
        members: label values that make up each class; they are merged before anything else happens.

    Example:
        >>> EvaluationTask(("whole",), ((1, 2),)).merged(torch.tensor([0, 1, 2, 3]))
        tensor([0, 1, 1, 0])
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def table(self) -> ClassTable:
        """The classes after merging: values 1, 2, ..."""
        return ClassTable(tuple(range(1, len(self.names) + 1)), self.names)

    def merged(self, label: torch.Tensor) -> torch.Tensor:
        """The label map with value ``i + 1`` for class ``i``."""
        found = torch.zeros_like(label)
        for index, values in enumerate(self.members):
            found[torch.isin(label, torch.tensor(values))] = index + 1
        return found


def binary_tasks(table: ClassTable, terms: Sequence[str]) -> list[EvaluationTask]:
    """One task a class, or a union of classes.

    Args:
        table: classes of the folder.
        terms: ``CLASS``, ``CLASS+CLASS`` or ``NAME=CLASS+CLASS``, classes by name or value; none: every class.

    Raises:
        InputError: for an unknown class.

    Example:
        >>> binary_tasks(ClassTable((1, 2), ("head", "tail")), ["whole=1+2", "tail"])[0].members
        ((1, 2),)
    """
    values = {str(v): v for v in table.values} | dict(zip(table.names, table.values))
    names = dict(zip(table.values, table.names))
    tasks = []
    for term in terms or table.names:
        title, _, text = term.rpartition("=")
        parts = [term] if term in values else text.split("+")
        unknown = [part for part in parts if part not in values]
        if unknown:
            raise InputError(f"unknown class '{unknown[0]}' in --binary {term}; known are {', '.join(table.names)}.")
        members = tuple(values[part] for part in parts)
        tasks.append(EvaluationTask((title or "+".join(names[v] for v in members),), (members,)))
    return tasks


class Reader:
    """Cases of a folder as volumes in memory, the last ones kept.

    Args:
        perturb_fov: crop or pad every side by 0 to 35% at random, the same for a case whenever it is read.
    """

    def __init__(self, perturb_fov: bool = False) -> None:
        self.perturb_fov = perturb_fov
        self._read = lru_cache(maxsize=_KEPT_IN_MEMORY)(self._pair)

    def __call__(self, case: Case, task: EvaluationTask) -> Pair:
        """Image and merged label map, ``(1, D, H, W)`` each."""
        image, label = self._read(case)
        return image, task.merged(label)

    def _pair(self, case: Case) -> Pair:
        image, label = read_pair(case)
        if not self.perturb_fov:
            return image, label
        change = RandFieldOfViewd(["image", "label"], mode=["image", "label"])
        changed = change.set_random_state(seed=zlib.crc32(case.name.encode()))({"image": image, "label": label})
        return changed["image"], changed["label"]


@dataclass(frozen=True)
class Catalogue:
    """The readable cases of a folder.

    Args:
        cases: in the order of their names.
        shown: label values that occur in each.
        bad: reason by name of every case that cannot be read.
        table: all classes.
    """

    cases: tuple[Case, ...]
    shown: dict[str, frozenset[int]]
    bad: dict[str, str]
    table: ClassTable

    def usable(self, task: EvaluationTask) -> set[str]:
        """Names of the cases that show every class of a task."""
        return {
            case.name
            for case in self.cases
            if all(self.shown[case.name].intersection(values) for values in task.members)
        }


def catalogue(folder: Path, split: str | None = None, classes: Sequence[str] | None = None) -> Catalogue:
    """Read every case once; those that cannot be read are set apart with the reason.

    Raises:
        InputError: for defects of the folder as a whole, and if no case can be read.
    """
    listed = list_cases(folder, split, need_labels=False)
    cases, shown, bad = [], {}, {}
    table = _table_of_dicom(folder, listed, classes)
    for case in listed:
        try:
            ready = case if table is None else resolved([case], table)[0]
            shown[case.name] = frozenset(label_values(read_pair(ready)[1])) - {0}
            cases.append(ready)
        except InputError as error:
            bad[case.name] = str(error)
    if not cases:
        raise InputError(f"{folder}: none of {len(listed)} cases can be read. The first: {next(iter(bad.values()))}")
    return Catalogue(tuple(cases), shown, bad, table or class_table(folder, cases, classes))


def _table_of_dicom(folder: Path, cases: Sequence[Case], classes: Sequence[str] | None) -> ClassTable | None:
    """The classes of cases with DICOM labels, which are known before voxels are read; None for label maps."""
    dicom = [case for case in cases if case.label is not None and is_structures(case.label)]
    readable = []
    for case in dicom:
        try:
            structure_names(case.label)
            readable.append(case)
        except InputError:  # the catalogue says so of this case
            continue
    return class_table(folder, readable, classes) if readable else None


def tasks_of(found: Catalogue, binary: Sequence[str] | None) -> tuple[list[EvaluationTask], list[str]]:
    """Tasks of a folder, and what a reader of the results should know about that choice.

    Args:
        binary: see :func:`binary_tasks`; None: all classes as one task, if at least two cases show all of them.
    """
    if binary is not None:
        return binary_tasks(found.table, binary), []
    together = EvaluationTask(found.table.names, tuple((value,) for value in found.table.values))
    if len(found.usable(together)) >= 2:
        return [together], []
    return binary_tasks(found.table, []), ["Fewer than two cases show all classes: each class is a task of its own."]


def draws_of(
    found: Catalogue, task: EvaluationTask, shots: Sequence[int], queries: int, draws: int, seed: int
) -> tuple[dict[int, list[Episode]], list[str]]:
    """Episodes of a task by number of shots; more shots extend the support of fewer.

    Where the cases suffice, all episodes ask for the same queries. Of few cases, every draw takes other queries, and
    the number of shots is cut to what leaves one.

    Returns:
        episodes by number of shots, and notes on what was cut.

    Raises:
        InputError: if fewer than two cases of different patients show the task.
    """
    usable, title = found.usable(task), ", ".join(task.names)
    patients = {case.patient for case in found.cases if case.name in usable}
    if len(patients) < 2:
        raise InputError(
            f"{len(patients)} patients show {title}; expected at least 2, one for the support and one to ask for."
        )
    most = len(patients) - 1
    kept = sorted({min(k, most) for k in shots})
    notes = [] if max(shots) <= most else [f"{title}: only {len(patients)} patients show it, so K is at most {most}."]
    asked = min(queries, max(1, len(patients) - kept[-1]))
    if asked < queries:
        notes.append(f"{title}: {asked} of {queries} queries a draw, since {len(patients)} patients show it.")
    if len(patients) - kept[-1] >= ENOUGH:
        return {k: draw_episodes(found.cases, k, asked, draws, seed, usable) for k in kept}, notes
    notes.append(f"{title}: few cases, so every draw asks for other queries.")
    seeds = [seed * 1000 + 1 + draw for draw in range(draws)]
    return {k: [draw_episodes(found.cases, k, asked, 1, s, usable)[0] for s in seeds] for k in kept}, notes
