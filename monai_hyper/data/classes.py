"""The classes of a folder: from its description, its label maps, or the structures that its DICOM labels name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from monai_hyper.data.folder import Case, read_description
from monai_hyper.data.labels import label_values
from monai_hyper.data.structures import annotated_series, is_structures, structure_names
from monai_hyper.data.volumes import read_label
from monai_hyper.types import MAX_CLASSES, InputError

AbsentMeans = Literal["unannotated", "absent"]
"""What it says about a class that its value does not occur in a label map."""


@dataclass(frozen=True)
class ClassTable:
    """Foreground classes: the values they have in the label maps, and their names.

    Args:
        values: in label maps; names: of the classes.
        patterns: regular expressions of the structures in DICOM-SEG and RTSTRUCT that make up each class, whatever the
            case of their letters; default: the names themselves.

    Example:
        >>> ClassTable((1, 7), ("liver", "tumour")).names
        ('liver', 'tumour')
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    patterns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.patterns is None:
            object.__setattr__(self, "patterns", tuple(re.escape(name) for name in self.names))
        if len(self.values) != len(self.names) or len(set(self.values)) != len(self.values):
            raise InputError(f"label values {self.values} and class names {self.names} do not match one to one.")
        if not 1 <= len(self.values) <= MAX_CLASSES:
            raise InputError(
                f"found {len(self.values)} classes ({', '.join(self.names)}); expected 1 to {MAX_CLASSES}. "
                "Choose some of them with --classes."
            )


def class_table(folder: str | Path, cases: Sequence[Case], classes: Sequence[str] | None = None) -> ClassTable:
    """Classes of a folder: from ``dataset.json`` if it names them, else what its labels hold.

    Label maps hold values; DICOM labels hold names, which get the values 1, 2, ... in alphabetical order.

    Args:
        folder: as in :func:`list_cases`.
        cases: whose labels are searched where ``dataset.json`` does not tell.
        classes: choose these, by name or by value, in this order; None takes all. Of DICOM labels also by a regular
            expression, or as NAME=EXPRESSION: all structures that it fits are one class.

    Raises:
        InputError: for no class at all, an unknown one, two of one name, or more than 8.
    """
    described = _described(read_description(folder).get("labels"))
    found = _found_structures(cases) if described is None or classes else ()
    if described is None:
        described = [(i, name, re.escape(name)) for i, name in enumerate(found, 1)] or _found_values(cases)
    _refuse_twice(folder, described)
    if not described:
        raise InputError(f"{folder}: the masks of all {len(cases)} cases are empty. Annotate at least one volume.")
    if classes is not None:
        described = _chosen(folder, described, classes, found)
    return ClassTable(*(tuple(column) for column in zip(*described)))


Row = tuple[int, str, str]
"""Value, name, and pattern of the names in DICOM labels."""


def _described(labels: object) -> list[Row] | None:
    """Classes as ``dataset.json`` describes them, without background; None where it is in no form we know."""
    if not isinstance(labels, dict) or not labels:
        return None
    texts = all(isinstance(value, str) for value in labels.values())
    if texts and all(str(key).isdigit() for key in labels):
        rows = [(int(key), name, re.escape(name)) for key, name in labels.items()]
    elif texts and not any(str(key).isdigit() for key in labels):
        rows = [(i, name, _pattern(pattern)) for i, (name, pattern) in enumerate(labels.items(), 1)]
    elif all(isinstance(value, int) and not isinstance(value, bool) for value in labels.values()):
        rows = [(value, name, re.escape(name)) for name, value in labels.items()]
    else:
        return None
    return sorted(row for row in rows if row[0] > 0)


def _found_structures(cases: Sequence[Case]) -> list[str]:
    """Names of all structures in DICOM labels."""
    dicom = [case.label for case in cases if case.label is not None and is_structures(case.label)]
    return sorted({name for label in dicom for name in structure_names(label)})


def _found_values(cases: Sequence[Case]) -> list[Row]:
    labels = [read_label(case.label) for case in cases if case.label is not None]
    values = sorted({value for label in labels for value in label_values(label) if value})
    return [(value, f"class_{value}", f"class_{value}") for value in values]


def _refuse_twice(folder: str | Path, described: Sequence[Row]) -> None:
    twice = sorted(name for name, count in Counter(name for _, name, _ in described).items() if count > 1)
    if twice:
        values = ", ".join(str(value) for value, name, _ in described if name == twice[0])
        raise InputError(
            f"{Path(folder) / 'dataset.json'}: the values {values} are all called '{twice[0]}'; give each its own name."
        )


def _chosen(folder: str | Path, described: Sequence[Row], classes: Sequence[str], found: Sequence[str]) -> list[Row]:
    by_text = {str(row[0]): row for row in described} | {row[1]: row for row in described}
    rows = []
    for text in classes:
        name, _, pattern = text.partition("=")
        if text in by_text:
            rows.append(by_text[text])
        elif any(re.fullmatch(_pattern(pattern or name), structure, re.IGNORECASE) for structure in found):
            rows.append((0, name, _pattern(pattern or name)))
        else:
            known = ", ".join(row[1] for row in described)
            raise InputError(f"{folder}: unknown class {text}; known are {known}.")
    free = iter(set(range(1, len(rows) + 1 + len(described))) - {row[0] for row in rows})
    return [(row[0] or next(free), *row[1:]) for row in rows]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"'{text}': expected a class or a regular expression, found neither ({error}).") from error
    return text


def resolved(cases: Sequence[Case], table: ClassTable) -> list[Case]:
    """The same cases, where those with DICOM labels know which of their structures make up the classes of ``table``.

    Raises:
        InputError: if a DICOM label cannot be read.
    """
    return [_resolved(case, table) if case.label and is_structures(case.label) else case for case in cases]


def _resolved(case: Case, table: ClassTable) -> Case:
    there = structure_names(case.label)
    fitting = [tuple(name for name in there if re.fullmatch(p, name, re.IGNORECASE)) for p in table.patterns]
    structures = tuple((value, names) for value, names in zip(table.values, fitting) if names)
    return replace(case, structures=structures, series=tuple(sorted(annotated_series(case.label))))


def annotated_classes(
    case: Case, label: torch.Tensor, table: ClassTable, absent_means: AbsentMeans = "unannotated"
) -> tuple[bool, ...]:
    """Which classes of ``table`` the label map of a case annotates.

    What ``dataset.json`` says about the case decides; else every class does with ``absent_means="absent"``, and
    with "unannotated" those whose value occurs.

    Example:
        >>> case = Case("a", Path("images/a.nii"), Path("labels/a.nii"), "a")
        >>> annotated_classes(case, torch.tensor([0, 7]), ClassTable((1, 7), ("liver", "tumour")))
        (False, True)
    """
    if case.annotated is not None:
        return tuple(name in case.annotated or str(v) in case.annotated for v, name in zip(table.values, table.names))
    return tuple(absent_means == "absent" or bool((label == value).any()) for value in table.values)
