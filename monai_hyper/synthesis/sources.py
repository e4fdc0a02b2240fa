"""The label maps and images that training tasks are made of, held in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monai_hyper.data.vocabulary import names_of
from monai_hyper.types import InputError


@dataclass(frozen=True)
class Subject:
    """One anatomy in RAS+ orientation.

    Args:
        labels: values below 250, ``(D, H, W)`` uint8.
        image: intensities of the same grid, or None.
        spacing: voxel size in mm.
        boxes: middle and length of the box around every value, in mm from the first voxel, ``(2, 3)`` each.
    """

    labels: Tensor
    image: Tensor | None
    spacing: Tensor
    boxes: dict[int, np.ndarray]


@dataclass(frozen=True)
class Cohort:
    """Subjects whose labels mean the same.

    Args:
        foregrounds: values that may be what a task looks for.
        body_is_labelled: whether value 0 is empty space rather than unlabelled tissue.
        is_ct: whether the images are in Hounsfield units.
        names: what values of ``foregrounds`` are called, the most readable name first; values may be without.
    """

    name: str
    subjects: list[Subject]
    foregrounds: tuple[int, ...]
    body_is_labelled: bool = False
    is_ct: bool = False
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """Everything training tasks are drawn from: cohorts by name, and lesion masks ``(D, H, W)`` of 1 mm."""

    cohorts: dict[str, Cohort]
    lesions: list[Tensor] = field(default_factory=list)


def subject(labels: np.ndarray, spacing, image: np.ndarray | None = None) -> Subject:
    """Build a :class:`Subject` from arrays in RAS+ order; spacing in mm."""
    spacing = np.asarray(spacing, dtype=float)
    picture = None if image is None else torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    held = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))
    return Subject(held, picture, torch.tensor(spacing, dtype=torch.float32), boxes_of(labels, spacing))


def boxes_of(labels: np.ndarray, spacing: np.ndarray) -> dict[int, np.ndarray]:
    """Boxes around the values of a label map, see :class:`Subject`."""
    return {
        value: spacing * [[(s.start + s.stop - 1) / 2 for s in box], [s.stop - s.start for s in box]]
        for value, box in enumerate(ndimage.find_objects(labels), start=1)
        if box is not None
    }


def _volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    loaded = nib.as_closest_canonical(nib.load(path))
    return np.asarray(loaded.dataobj), np.asarray(loaded.header.get_zooms()[:3], dtype=float)


def _compact(values: list[int]) -> np.ndarray:
    """Table from label values to 0, 1, 2, ... that fit into 8 bits."""
    table = np.zeros(max(values) + 1, dtype=np.uint8)
    table[values] = np.arange(len(values))
    return table


def _merge(labels: np.ndarray, into: dict[int, int]) -> np.ndarray:
    """Give values the names of others."""
    found = labels.copy()
    for value, other in into.items():
        found[labels == value] = other
    return found


def _cohort(folder: Path, cases: list[str] | None, held_out=(), merged=None, **facts) -> Cohort:
    subjects: list[Subject] = []
    paths = sorted((folder / "labels").glob("*.nii.gz"))
    paths = [p for p in paths if cases is None or p.name.removesuffix(".nii.gz") in cases]
    volumes = [(_merge(labels, merged or {}), spacing) for labels, spacing in map(_volume, paths)]
    values = sorted({0}.union(*(np.unique(labels).tolist() for labels, _ in volumes)))
    table = _compact(values)
    for path, (labels, spacing) in zip(paths, volumes):
        image = folder / "images" / path.name
        kept = np.where(np.isin(labels, held_out), 0, labels)
        picture = _volume(image)[0] if image.exists() else None
        stride = tuple(max(1, round(0.6 / s)) for s in spacing)
        cut = tuple(slice(None, None, s) for s in stride)
        subjects.append(
            subject(table[kept][cut], spacing * stride, None if picture is None else picture[cut].astype(np.float32))
        )
    wanted = [v for v in values if v and v not in held_out]
    known = names_of(folder.name)
    names = {int(table[v]): known[v] for v in wanted if v in known}
    return Cohort(folder.name, subjects, tuple(int(table[v]) for v in wanted), names=names, **facts)


HIPPOCAMPI = {17: 3, 53: 42}
"""Left and right in FreeSurfer's values, and the cortex of their side, which they become part of."""

MANDIBLE = 11  # of headneck_labels
HEADNECK_HELD_OUT = (6, 7)  # larynx, mandible


def load_sources(root: Path) -> Sources:
    """Read the permitted training data below ``root``, see docs/data.md.

    Hippocampus, larynx and mandible are in no label map of what is returned. Folders that are missing are left out.

    Args:
        root: folder of the data sets.

    Raises:
        InputError: if none is there.
    """
    cohorts: dict[str, Cohort] = {}

    def add(name: str, cases=None, **facts) -> None:
        if (root / name / "labels").is_dir():
            cohorts[name] = _cohort(root / name, cases, **facts)

    add("brain_labels", merged=HIPPOCAMPI, body_is_labelled=True)
    add("macaque_mr", held_out=tuple(HIPPOCAMPI))
    add("headneck_labels", held_out=(MANDIBLE,))
    add("fetal_brain_mr")
    add("colin27_mr", held_out=(37, 38))
    if (root / "headneck_ct").is_dir():
        description = json.loads((root / "headneck_ct" / "dataset.json").read_text(encoding="utf-8"))
        cases = description.get("split", {}).get("train", [])
        if cases:
            add("headneck_ct", cases, held_out=HEADNECK_HELD_OUT, is_ct=True)
    for path in sorted((root / "atlas_labels" / "labels").glob("*.nii.gz")):
        labels, spacing = _volume(path)
        cut = (slice(None, None, max(1, round(0.6 / spacing[0]))),) * 2
        held = subject(labels[cut], spacing * [cut[0].step, cut[1].step, 1])
        name = path.name.removesuffix(".nii.gz")
        names = {value: called for value, called in names_of(name).items() if value in held.boxes}
        cohorts[name] = Cohort(name, [held], tuple(held.boxes), names=names)
    paths = sorted((root / "lesion_labels" / "labels").glob("*.nii.gz"))
    lesions = [torch.from_numpy(_volume(path)[0] > 0) for path in paths]
    if not cohorts:
        raise InputError(f"{root}: no training data found; expected folders such as brain_labels. See docs/data.md.")
    return Sources(cohorts, lesions)
