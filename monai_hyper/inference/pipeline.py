"""Preprocessing and postprocessing, defined here and nowhere else.

Everything is decided from the support set, written down as a :class:`Plan`, applied to support and query alike, and
inverted exactly: the result lies on the query's own grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.functional import max_pool3d

from monai_hyper.data.classes import AbsentMeans, ClassTable, annotated_classes, class_table, resolved
from monai_hyper.data.folder import Case, cases_of, list_cases, read_description, read_pair
from monai_hyper.data.support import SupportSet, stack_in_corner
from monai_hyper.data.volumes import Header, read_header
from monai_hyper.transforms.classes import SelectClasses
from monai_hyper.transforms.grid import InvertToGrid, ResampleToGrid
from monai_hyper.transforms.intensity import HarmoniseIntensity
from monai_hyper.transforms.labels import LogitsToLabels
from monai_hyper.types import MAX_SHOTS, MOST_VOLUMES, InputError

Modality = Literal["CT", "MR"]
Pair = tuple[MetaTensor, MetaTensor]
"""Image and label map of one case, ``(1, D, H, W)`` each, on one grid."""

LARGEST_SIDE = 128
"""Most voxels along a side of the task grid, for the longest side of the support."""

AIR_HU = -200.0
"""No tissue is darker in CT; what reaches below is air, lung or the outside of the scanner's circle."""

_WINDOW_RIM = 3
_NARROWEST_WINDOW_HU = 200.0


@dataclass(frozen=True)
class Plan:
    """How volumes are prepared for one task, and how results go back.

    Args:
        modality: "CT" (Hounsfield units) or "MR" (any scale).
        spacing: side of the voxels of the task grid, mm.
        window: lower and upper edge in HU for CT, None for MR.
        classes: names of the foreground classes, in the order of the network's channels 1, 2, ...
        values: their values in the label maps of the dataset, in the same order.
        measured: what the voxels of the support look like, see :func:`measure_modality`.
        orientation: of the task grid.

    Example:
        >>> plan = Plan("MR", 1.5, None, ("liver",), (7,), measured="MR")
        >>> Plan.from_dict(plan.to_dict()) == plan
        True
    """

    modality: Modality
    spacing: float
    window: tuple[float, float] | None
    classes: tuple[str, ...]
    values: tuple[int, ...]
    measured: Modality
    orientation: Literal["RAS"] = "RAS"

    def to_dict(self) -> dict:
        """The plan in types that JSON knows."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: dict) -> Plan:
        """The plan that :meth:`to_dict` wrote."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()})


def working_spacing(headers: Sequence[Header], largest_side: int = LARGEST_SIDE) -> float:
    """Side of the voxels of the task grid, mm: the finest voxel of the support, or more if the volumes are long.

    Args:
        headers: shape and spacing (mm) of every support volume.
        largest_side: most voxels along the longest side.

    Example:
        >>> working_spacing([Header((256, 256, 10), (1.4, 1.4, 8.0))])
        2.8
    """
    finest = min(min(header.spacing) for header in headers)
    longest = max(n * side for header in headers for n, side in zip(header.shape, header.spacing))
    return round(max(finest, longest / largest_side), 6)


def measure_modality(image: Tensor) -> Modality:
    """Guess CT or MR from the voxels: CT where at least 0.1% lie below -200 HU, and as few above 4000 HU.

    CT that was cut to soft tissue, without air, passes for MR: name the modality in ``dataset.json`` then.

    Args:
        image: intensities as stored, any shape.

    Example:
        >>> measure_modality(torch.linspace(-1000, 1000, 1000)), measure_modality(torch.rand(1000))
        ('CT', 'MR')
    """
    below, above = (image < AIR_HU).float().mean(), (image > 4000).float().mean()
    return "CT" if below >= 0.001 and above <= 0.001 else "MR"


def modality_of_text(text: object) -> Modality | None:
    """Modality that a ``dataset.json`` names, None where it names neither or both.

    Example:
        >>> modality_of_text("FLAIR MR, MNI space"), modality_of_text("ultrasound")
        ('MR', None)
    """
    words = set(re.findall(r"[a-z]+", str(text).lower()))
    ct, mr = "ct" in words, bool({"mr", "mri"} & words)
    return None if ct == mr else "CT" if ct else "MR"


def make_plan(
    pairs: Sequence[Pair], table: ClassTable, modality: Modality | None = None, largest_side: int = LARGEST_SIDE
) -> Plan:
    """Decide from the support how volumes of this task are prepared.

    The modality is measured where it is not given, by the majority of the volumes. The CT window reaches from the
    0.5 to the 99.5 percentile of what lies within 3 voxels of the foreground, in all volumes, widened by 10% on
    either side and to at least 200 HU.

    Args:
        pairs: image and label map of the support volumes, as read or on the task grid.
        table: the classes.
        modality: "CT" or "MR" where it is known.
        largest_side: see :func:`working_spacing`.

    Raises:
        InputError: for no pairs, and for no foreground in any of them.
    """
    if not pairs:
        raise InputError("the support set holds 0 volumes; expected at least one pair of image and label map.")
    spacing = working_spacing([_header(image) for image, _ in pairs], largest_side)
    images = [ResampleToGrid(spacing)(image) for image, _ in pairs]
    labels = [ResampleToGrid(spacing, "label")(SelectClasses(table.values)(label)) for _, label in pairs]
    if not any((label > 0).any() for label in labels):
        raise InputError(
            f"the masks of all {len(pairs)} support volumes are empty for {', '.join(table.names)}. "
            "Annotate at least one volume, or choose classes that occur with --classes."
        )
    votes = [measure_modality(image) for image in images]
    measured = "CT" if votes.count("CT") * 2 > len(votes) else "MR"
    modality = modality or measured
    window = _window(images, labels) if modality == "CT" else None
    return Plan(modality, spacing, window, table.names, table.values, measured)


def _header(image: MetaTensor) -> Header:
    return Header(tuple(image.shape[1:]), tuple(image.affine[:3, :3].norm(dim=0).tolist()))


def _window(images: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[float, float]:
    near = []
    for image, label in zip(images, labels):
        foreground = (label > 0).float().as_tensor()[None]
        region = max_pool3d(foreground, 2 * _WINDOW_RIM + 1, stride=1, padding=_WINDOW_RIM)[0] > 0
        near.append(image.as_tensor()[region])
    values = torch.cat(near).sort().values
    low, high = (float(values[round(q * (len(values) - 1))]) for q in (0.005, 0.995))
    centre, half = (low + high) / 2, max((high - low) * 0.6, _NARROWEST_WINDOW_HU / 2)
    return round(centre - half, 1), round(centre + half, 1)


def preprocess(image: MetaTensor, plan: Plan) -> MetaTensor:
    """Bring an image to the task grid and its intensities to the common scale.

    Args:
        image: as read, ``(1, D, H, W)``.
        plan: of the task.

    Returns:
        ``(1, d, h, w)`` float32 with the affine of the task grid.
    """
    return HarmoniseIntensity(plan.modality, plan.window)(ResampleToGrid(plan.spacing)(image))


def preprocess_pair(image: MetaTensor, label: MetaTensor, plan: Plan) -> Pair:
    """Bring image and label map of one case to the task grid.

    Args:
        image, label: as read, ``(1, D, H, W)`` on one grid; the label map in the dataset's values.
        plan: of the task.

    Returns:
        image ``(1, d, h, w)`` float32 and label map ``(1, d, h, w)`` int64, where ``i + 1`` is ``plan.classes[i]``.
    """
    chosen = SelectClasses(plan.values)(label.long())
    return preprocess(image, plan), ResampleToGrid(plan.spacing, "label")(chosen)


def read_support(
    folder: str | Path | Sequence[Mapping],
    plan: Plan | None = None,
    *,
    cases: Sequence[Case] | None = None,
    classes: Sequence[str] | None = None,
    table: ClassTable | None = None,
    absent_means: AbsentMeans = "unannotated",
) -> tuple[SupportSet, Plan]:
    """Read a folder of annotated volumes as the support set of one task.

    Args:
        folder: see :func:`monai_hyper.data.folder.list_cases`; or the volumes one by one, see
            :func:`monai_hyper.data.folder.cases_of`.
        plan: prepare by this plan; None makes one from the support.
        cases: take only these; None takes all.
        classes: choose these classes, by name or value; None takes all. Or
        table: the classes, where the folder does not tell.
        absent_means: what it says that a class does not occur in a volume.

    Returns:
        the support set, and the plan it was prepared by.

    Raises:
        InputError: for every defect of the folder and its files, 0 or more than 16 volumes, empty masks everywhere,
            and a class that no volume shows.
    """
    if not isinstance(folder, str | Path):
        folder, cases = "the support set", cases_of(folder) if cases is None else cases
    cases = list_cases(folder) if cases is None else list(cases)
    if not 1 <= len(cases) <= MAX_SHOTS:
        raise InputError(f"{folder}: {len(cases)} support volumes; expected 1 to {MAX_SHOTS}. Choose fewer of them.")
    if table is None:
        table = ClassTable(plan.values, plan.classes) if plan else class_table(folder, cases, classes)
    cases = resolved(cases, table)
    spacing = plan.spacing if plan else working_spacing([read_header(case.image, case.series) for case in cases])
    pairs, annotated = [], []
    for case in cases:  # one at a time on the full grid: sixteen large scans do not fit into memory
        image, label = read_pair(case)
        annotated.append(annotated_classes(case, label, table, absent_means))
        label[~torch.isin(label, torch.tensor(table.values))] = 0
        pairs.append((ResampleToGrid(spacing)(image), ResampleToGrid(spacing, "label")(label)))
    try:
        if plan is None:
            plan = make_plan(pairs, table, modality_of_text(read_description(folder).get("modality")))
        return support_from_pairs(pairs, plan, torch.tensor(annotated)), plan
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def support_from_pairs(
    pairs: Sequence[Pair], plan: Plan, annotated: Tensor | None = None, absent_means: AbsentMeans = "unannotated"
) -> SupportSet:
    """Put volumes in memory together as one support set.

    Args:
        pairs: image and label map of each volume, as read or on the task grid; the labels in the dataset's values.
        plan: of the task.
        annotated: which volume annotates which class, ``(K, N - 1)`` bool; None decides by ``absent_means``.
        absent_means: "unannotated": a class that does not occur in a volume is not annotated there; "absent": it is.

    Raises:
        InputError: for 0 or more than 64 volumes, and for a class that no volume shows.
    """
    if not 1 <= len(pairs) <= MOST_VOLUMES:
        raise InputError(f"the support set holds {len(pairs)} volumes; expected 1 to {MOST_VOLUMES}.")
    ready = [preprocess_pair(image, label, plan) for image, label in pairs]
    occurs = torch.tensor([[bool((label == i + 1).any()) for i in range(len(plan.classes))] for _, label in ready])
    if annotated is None:
        annotated = occurs if absent_means == "unannotated" else torch.ones_like(occurs)
    if not occurs.any():
        raise InputError(f"the masks of all {len(pairs)} support volumes are empty for {', '.join(plan.classes)}.")
    for name, value, shown in zip(plan.classes, plan.values, (occurs & annotated).any(0).tolist()):
        if not shown:
            raise InputError(
                f"class '{name}' (value {value}) is in no support volume; add a volume that shows it, or choose the "
                "other classes with --classes."
            )
    extents = torch.tensor([image.shape[1:] for image, _ in ready])
    return SupportSet(
        images=stack_in_corner([image.as_tensor() for image, _ in ready]),
        labels=stack_in_corner([label.as_tensor() for _, label in ready]),
        classes=plan.classes,
        annotated=annotated,
        extents=extents,
    )


def probabilities_on_query_grid(logits: Tensor, plan: Plan, query: MetaTensor) -> MetaTensor:
    """Class probabilities (softmax over the classes) on the query's own grid.

    Args:
        logits: ``(N, d, h, w)`` on the task grid of the query.
        plan: of the task.
        query: as read, ``(1, D, H, W)``.

    Returns:
        ``(N, D, H, W)`` float32 with the affine of the query; N full volumes, which is much for a large CT.

    Raises:
        InputError: if the logits do not fit to the plan or the query.
    """
    _check_classes(logits, plan)
    logits = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
    return InvertToGrid(plan.spacing)(logits.float().softmax(0), query)


def postprocess(logits: Tensor, plan: Plan, query: MetaTensor, calibrated: bool = True) -> MetaTensor:
    """Label map on the query's own grid, in the dataset's own values.

    See :class:`monai_hyper.transforms.labels.LogitsToLabels`.

    Args:
        logits: ``(N, d, h, w)`` on the task grid of the query.
        plan: of the task.
        query: as read, ``(1, D, H, W)``.
        calibrated: whether the probabilities may be believed.

    Returns:
        ``(1, D, H, W)`` int64 with the affine of the query.

    Raises:
        InputError: if the logits do not fit to the plan or the query.
    """
    _check_classes(logits, plan)
    return LogitsToLabels(plan.spacing, plan.values, calibrated)(logits, query)


def _check_classes(logits: Tensor, plan: Plan) -> None:
    if logits.ndim != 4 or logits.shape[0] != len(plan.classes) + 1:
        raise InputError(
            f"logits are {tuple(logits.shape)}; expected ({len(plan.classes) + 1}, d, h, w) for {plan.classes}."
        )


def modality_warning(query: MetaTensor, plan: Plan) -> str | None:
    """Text of a warning if a query looks like another modality than the support, else None.

    Args:
        query: as read, ``(1, D, H, W)``.
        plan: of the task.
    """
    measured = measure_modality(query)
    if measured == plan.measured:
        return None
    low, share = float(query.min()), 100 * float((query < AIR_HU).float().mean())
    return (
        f"the query looks like {measured}, the support looks like {plan.measured}: the query's minimum is {low:g} and "
        f"{share:.2g}% of it lie below {AIR_HU:g}. The result may be useless; check that both are of one modality."
    )
