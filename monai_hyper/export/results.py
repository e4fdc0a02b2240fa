"""Label maps in the formats that users ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from monai.data import MetaTensor
from pydicom.sr.coding import Code

from monai_hyper.export.dicom_seg import NOTICE, save_dicom_seg
from monai_hyper.export.nifti import save_label
from monai_hyper.export.rtstruct import save_rtstruct
from monai_hyper.types import InputError

Format = Literal["nifti", "dicom-seg", "rtstruct"]

ENDINGS: dict[Format, str] = {"nifti": ".nii.gz", "dicom-seg": ".dcm", "rtstruct": ".dcm"}
"""Ending of the files of every format."""


def save_result(
    label: MetaTensor,
    classes: Sequence[str],
    values: Sequence[int],
    scan: Path,
    path: Path,
    kind: Format = "nifti",
    codes: Mapping[str, Code] | None = None,
    keep_identifiers: bool = False,
) -> Path:
    """Save a label map; in DICOM it refers to the series that was segmented.

    Args:
        label: ``(1, D, H, W)`` on the grid of the scan; classes: names, and values: theirs in it.
        scan: file, or folder of one DICOM series.
        path: to write; kind: of format.
        codes, keep_identifiers: see :func:`save_dicom_seg`.
    """
    if kind == "nifti":
        return save_label(label, path, note=NOTICE)
    if kind == "rtstruct":
        return save_rtstruct(label, classes, values, scan, path, keep_identifiers=keep_identifiers)
    return save_dicom_seg(label, classes, values, scan, path, codes=codes, keep_identifiers=keep_identifiers)


def refuse_format(kind: Format, scans: Sequence[Path]) -> None:
    """
    Raises:
        InputError: if DICOM is asked for scans that are none.
    """
    others = [scan for scan in scans if not scan.is_dir()]
    if kind != "nifti" and others:
        raise InputError(
            f"{others[0]}: --format {kind} needs the DICOM series that was segmented; expected a folder of one. "
            "Ask for nifti."
        )


def read_codes(path: Path | None) -> dict[str, Code] | None:
    """Codes by name of a JSON file: {"tumour": ["108369006", "SCT", "Neoplasm"]}.

    Raises:
        InputError: if the file is missing or in another form.
    """
    if path is None:
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: Code(*(str(part) for part in parts[:3])) for name, parts in entries.items()}
    except (OSError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise InputError(
            f'{path}: expected {{"NAME": ["CODE", "SCT", "MEANING"]}} as JSON, found something else ({error}).'
        ) from error
