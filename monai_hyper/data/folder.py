"""A folder of annotated volumes: which cases it holds and what its labels mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor

from monai_hyper.data.labels import painted
from monai_hyper.data.structures import read_structures
from monai_hyper.data.volumes import SUFFIXES, read_image, read_label, volume_name
from monai_hyper.types import InputError

_CORNER_TOLERANCE = 0.01
"""Distance of the outer voxel centres of image and label that is taken as equal, mm."""


@dataclass(frozen=True)
class Case:
    """One volume of a folder.

    Args:
        name: file name without suffix.
        image: file, or folder of one DICOM series.
        label: label map, or DICOM-SEG or RTSTRUCT, file or folder; None where there is none.
        patient: the patient's key, the case's name where the folder does not tell.
        annotated: names or values (as text) of the classes annotated here; None where the folder does not tell.
        structures: which structures of a DICOM label make up each value, and
        series: UIDs of the series that it annotates; both where a DICOM label tells, see
            :func:`monai_hyper.data.classes.resolved`.
    """

    name: str
    image: Path
    label: Path | None
    patient: str
    annotated: tuple[str, ...] | None = None
    structures: tuple[tuple[int, tuple[str, ...]], ...] | None = None
    series: tuple[str, ...] = ()


def read_description(folder: str | Path) -> dict:
    """Content of the folder's ``dataset.json``, empty where there is none.

    Read keys, all optional: ``labels`` ({"1": "liver"}, {"liver": 1}, or for DICOM labels {"liver": "Liver.*"}, a
    regular expression of the structures' names), ``modality`` (text), ``split``
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

    Label maps are volumes; or DICOM-SEG or RTSTRUCT objects, ``labels/NAME.dcm`` or a folder ``labels/NAME/``.

    Args:
        folder: holds ``images/``, ``labels/`` and perhaps ``dataset.json``, see :func:`read_description`.
        split: only the cases that ``dataset.json`` lists under this name.
        need_labels: whether an image without label, or the reverse, is an error; otherwise labels may be missing.

    Raises:
        InputError: for no cases, unpaired files, an unknown split, or a listed case that is not there.
    """
    folder = Path(folder)
    description = read_description(folder)
    images, labels = _volumes(folder / "images"), _volumes(folder / "labels", (*SUFFIXES, ".dcm"))
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


def _volumes(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or not (path.is_dir() or path.name.lower().endswith(suffixes)):
            continue
        name = path.stem if path.suffix.lower() == ".dcm" and path.is_file() else volume_name(path)
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


def read_pair(case: Case) -> tuple[MetaTensor, MetaTensor]:
    """Image and label map of a case, ``(1, D, H, W)`` each, on the same grid.

    Raises:
        InputError: if a file is bad (see :mod:`monai_hyper.data.volumes`), or the grids disagree by more than 0.01 mm
            at a corner.
    """
    if case.label is None:
        raise InputError(f"{case.image}: expected a label map for case '{case.name}', found none. Add it.")
    image = read_image(case.image, case.series)
    label = read_label(case.label) if case.structures is None else _painted_structures(case, image)
    refuse_other_grid(image, label, case.label, case.image.name)
    return image, label


def _painted_structures(case: Case, image: MetaTensor) -> MetaTensor:
    wanted = [name for _, names in case.structures for name in names]
    masks = read_structures(case.label, image, wanted) if wanted else {}
    joined = {value: torch.stack([masks[name] for name in names]).any(0) for value, names in case.structures}
    return painted(joined, image)


def refuse_other_grid(image: MetaTensor, label: MetaTensor, path: str | Path, image_name: str) -> None:
    """
    Args:
        image, label: ``(1, D, H, W)``; path: of the label map; image_name: of the image; both for the message.

    Raises:
        InputError: if the grids disagree by more than 0.01 mm at a corner.
    """
    if image.shape != label.shape:
        raise InputError(
            f"{path}: shape {tuple(label.shape[1:])}; expected that of {image_name}, "
            f"{tuple(image.shape[1:])}. Resample the label map to its image with nearest neighbour."
        )
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0]) for n in image.shape[1:])).double()
    homogeneous = torch.cat([corners, torch.ones(len(corners), 1).double()], 1)
    apart = float(((image.affine.double() - label.affine.double()) @ homogeneous.T)[:3].norm(dim=0).max())
    if apart > _CORNER_TOLERANCE:
        raise InputError(
            f"{path}: its affine puts voxels up to {apart:.3g} mm from those of {image_name}; "
            f"found {label.affine[:3].tolist()}, expected {image.affine[:3].tolist()}. "
            "Resample the label map to its image, or correct the wrong header."
        )
