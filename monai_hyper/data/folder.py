"""A folder of annotated volumes: which cases it holds and what its labels mean."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from monai.data import MetaTensor

from monai_hyper.data.labels import label_values
from monai_hyper.data.volumes import SUFFIXES, read_image, read_label, volume_name
from monai_hyper.types import MAX_CLASSES, InputError

AbsentMeans = Literal["unannotated", "absent"]
"""What it says about a class that its value does not occur in a label map."""

_CORNER_TOLERANCE = 0.01
"""Distance of the outer voxel centres of image and label that is taken as equal, mm."""


@dataclass(frozen=True)
class Case:
    """One volume of a folder.

    Args:
        name: file name without suffix.
        image: file, or folder of one DICOM series.
        label: label map, None where there is none.
        patient: the patient's key, the case's name where the folder does not tell.
        annotated: names or values (as text) of the classes annotated here; None where the folder does not tell.
    """

    name: str
    image: Path
    label: Path | None
    patient: str
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ClassTable:
    """Foreground classes: the values they have in the label maps, and their names.

    Example:
        >>> ClassTable((1, 7), ("liver", "tumour")).names
        ('liver', 'tumour')
    """

    values: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.names) or len(set(self.values)) != len(self.values):
            raise InputError(f"label values {self.values} and class names {self.names} do not match one to one.")
        if not 1 <= len(self.values) <= MAX_CLASSES:
            raise InputError(
                f"found {len(self.values)} classes ({', '.join(self.names)}); expected 1 to {MAX_CLASSES}. "
                "Choose some of them with --classes."
            )


def read_description(folder: str | Path) -> dict:
    """Content of the folder's ``dataset.json``, empty where there is none.

    Read keys, all optional: ``labels`` ({"1": "liver"} or {"liver": 1}), ``modality`` (text), ``split``
    ({name: [case, ...]}), ``annotated`` ({case: [class name or value, ...]}), ``patients`` ({case: patient}).

    Raises:
        InputError: if the file is no JSON object, or ``split``, ``annotated`` or ``patients`` is none.
    """
    path = Path(folder) / "dataset.json"
    if not path.exists():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, found something else ({error}). Correct the file.") from error
    if not isinstance(description, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(description).__name__}. Correct the file.")
    for key in ("split", "annotated", "patients"):
        if not isinstance(description.get(key, {}), dict):
            raise InputError(f"{path}: expected an object under '{key}', found {description[key]!r}. Correct the file.")
    return description


def list_cases(folder: str | Path, split: str | None = None, need_labels: bool = True) -> list[Case]:
    """Cases of a folder with ``images/NAME.*`` and ``labels/NAME.*``, sorted by name.

    Args:
        folder: holds ``images/``, ``labels/`` and perhaps ``dataset.json``, see :func:`read_description`.
        split: only the cases that ``dataset.json`` lists under this name.
        need_labels: whether an image without label, or the reverse, is an error; otherwise labels may be missing.

    Raises:
        InputError: for no cases, unpaired files, an unknown split, or a listed case that is not there.
    """
    folder = Path(folder)
    description = read_description(folder)
    images, labels = _volumes(folder / "images"), _volumes(folder / "labels")
    if not images or (need_labels and not labels):
        raise InputError(
            f"{folder}: expected pairs images/NAME.nii.gz and labels/NAME.nii.gz, found {len(images)} images and "
            f"{len(labels)} labels. Read are {', '.join(SUFFIXES)} and folders of one DICOM series."
        )
    if split is None:
        names = sorted(images | labels if need_labels else images)
    else:
        names = sorted(_split(folder, description, split))
    for name in names:
        if name not in images:
            found = f"label {labels[name].name}" if name in labels else "neither image nor label"
            raise InputError(f"{folder}: expected an image for case '{name}', found {found}. Add images/{name}.nii.gz.")
        if need_labels and name not in labels:
            raise InputError(
                f"{folder}: expected a label for case '{name}', found only {images[name].name}. "
                f"Add labels/{name}.nii.gz or take the image away."
            )
    patients, annotated = description.get("patients", {}), description.get("annotated", {})
    return [
        Case(
            name,
            images[name],
            labels.get(name),
            str(patients.get(name, name)),
            tuple(str(c) for c in annotated[name]) if name in annotated else None,
        )
        for name in names
    ]


def cases_of(pairs: Sequence[Mapping[str, str | Path]]) -> list[Case]:
    """Cases that are listed one by one, as in the data lists of MONAI.

    Args:
        pairs: paths of "image" and "label" of each.

    Raises:
        InputError: for an entry without them, a file that is not there, and for two volumes of one name.
    """
    found: dict[str, Case] = {}
    for index, pair in enumerate(pairs):
        if not isinstance(pair, Mapping) or not {"image", "label"} <= pair.keys():
            raise InputError(f"entry {index} of the support set is {pair}; expected paths of 'image' and 'label'.")
        image, label = Path(pair["image"]), Path(pair["label"])
        for path in (image, label):
            if not path.exists():
                raise InputError(f"{path}: no such volume; expected a file, or a folder of one DICOM series.")
        name = volume_name(image)
        if name in found:
            raise InputError(f"two volumes of the support set are called '{name}'; expected every name once.")
        found[name] = Case(name, image, label, name)
    return list(found.values())


def _volumes(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or not (path.is_dir() or path.name.lower().endswith(SUFFIXES)):
            continue
        name = volume_name(path)
        if name in found:
            raise InputError(
                f"{folder}: case '{name}' is there twice, {found[name].name} and {path.name}. Keep one of them."
            )
        found[name] = path
    return found


def _split(folder: Path, description: dict, split: str) -> list[str]:
    splits = description.get("split", {})
    if split not in splits:
        known = ", ".join(splits) or "none"
        raise InputError(f"{folder}: unknown split '{split}'; dataset.json has {known}. Choose one of them.")
    if not splits[split]:
        raise InputError(f"{folder}: split '{split}' lists no case. Choose another.")
    return splits[split]


def class_table(folder: str | Path, cases: Sequence[Case], classes: Sequence[str] | None = None) -> ClassTable:
    """Classes of a folder: from ``dataset.json`` if it names them by single values, else the values found.

    Args:
        folder: as in :func:`list_cases`.
        cases: whose label maps are searched where ``dataset.json`` does not tell.
        classes: choose these, by name or by value, in this order; None takes all.

    Raises:
        InputError: for no class at all, an unknown one, two of one name, or more than 8.
    """
    named = _named_labels(read_description(folder).get("labels"))
    if named is None:
        labels = [read_label(case.label) for case in cases if case.label is not None]
        values = sorted({value for label in labels for value in label_values(label) if value})
        named = {value: f"class_{value}" for value in values}
    twice = sorted(name for name, count in Counter(named.values()).items() if count > 1)
    if twice:
        values = ", ".join(str(value) for value, name in named.items() if name == twice[0])
        raise InputError(
            f"{Path(folder) / 'dataset.json'}: the values {values} are all called '{twice[0]}'; give each its own name."
        )
    if not named:
        raise InputError(f"{folder}: the masks of all {len(cases)} cases are empty. Annotate at least one volume.")
    if classes is None:
        return ClassTable(tuple(named), tuple(named.values()))
    known = {name: value for value, name in named.items()}
    by_text = {str(value): value for value in named} | known
    unknown = [name for name in classes if name not in by_text]
    if unknown:
        raise InputError(f"{folder}: unknown class {', '.join(unknown)}; known are {', '.join(known)}.")
    chosen = tuple(by_text[name] for name in classes)
    return ClassTable(chosen, tuple(named[value] for value in chosen))


def _named_labels(labels: object) -> dict[int, str] | None:
    """Name by value, without background; None where the entry is in no form we know."""
    if not isinstance(labels, dict) or not labels:
        return None
    if all(str(key).isdigit() and isinstance(name, str) for key, name in labels.items()):
        named = {int(key): name for key, name in labels.items()}
    elif all(isinstance(value, int) and not isinstance(value, bool) for value in labels.values()):
        named = {value: name for name, value in labels.items()}
    else:
        return None
    return {value: name for value, name in sorted(named.items()) if value > 0}


def read_pair(case: Case) -> tuple[MetaTensor, MetaTensor]:
    """Image and label map of a case, ``(1, D, H, W)`` each, on the same grid.

    Raises:
        InputError: if a file is bad (see :mod:`monai_hyper.data.volumes`), or the grids disagree by more than 0.01 mm
            at a corner.
    """
    if case.label is None:
        raise InputError(f"{case.image}: expected a label map for case '{case.name}', found none. Add it.")
    image, label = read_image(case.image), read_label(case.label)
    if image.shape != label.shape:
        raise InputError(
            f"{case.label}: shape {tuple(label.shape[1:])}; expected that of {case.image.name}, "
            f"{tuple(image.shape[1:])}. Resample the label map to its image with nearest neighbour."
        )
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0]) for n in image.shape[1:])).double()
    homogeneous = torch.cat([corners, torch.ones(len(corners), 1).double()], 1)
    apart = float(((image.affine.double() - label.affine.double()) @ homogeneous.T)[:3].norm(dim=0).max())
    if apart > _CORNER_TOLERANCE:
        raise InputError(
            f"{case.label}: its affine puts voxels up to {apart:.3g} mm from those of {case.image.name}; "
            f"found {label.affine[:3].tolist()}, expected {image.affine[:3].tolist()}. "
            "Resample the label map to its image, or correct the wrong header."
        )
    return image, label


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
