"""The verbs around annotation: label, fetch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_hyper.commands.common import Report, check_polish
from monai_hyper.types import MAX_SHOTS, InputError


def label(
    studies: str,
    action: str = "serve",
    version: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_remote: bool = False,
    most: int = 8,
    classes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    keep_identifiers: bool = False,
    polish_seconds: float | None = None,
    progress: Report = print,
) -> list[dict] | None:
    """Serve scans to annotators by MONAI Label, list the networks that labels have generated, or use one again.

    Args:
        studies: folder of scans, or address of a DICOMweb server.
        action: "serve", "history" or "rollback"; version: what to roll back to.
        most: volumes that a network is generated from; classes: only these; labels: names of the values 1, 2, ...
        polish_seconds: see :class:`monai_hyper.label.regenerate.Settings`.

    Returns:
        history: a row for every network, oldest first.

    Raises:
        InputError: see :func:`monai_hyper.label.start.serve`; and for a version that is not there.
    """
    from monai_hyper.label import start

    if action != "serve":
        return start.history(studies, version if action == "rollback" else None)
    if not 1 <= most <= MAX_SHOTS:
        raise InputError(f"--most is {most}; expected 1 to {MAX_SHOTS} volumes.")
    conf = {"most": str(most), "device": device, "keep_identifiers": str(keep_identifiers).lower()}
    check_polish(None, polish_seconds)
    conf |= {"polish_seconds": "" if polish_seconds is None else str(polish_seconds)}
    conf |= {"classes": ",".join(classes or ()), "labels": ",".join(labels or ()), "weights": str(weights or "")}
    progress(f"http://{host}:{port}/ for 3D Slicer, http://{host}:{port}/ohif/ in the browser, for research only")
    start.serve(studies, conf, host, port, allow_remote)
    return None


def fetch(
    source: str,
    collection: str | None = None,
    output: Path | None = None,
    patients: Sequence[str] | None = None,
    most: int = 4,
    modality: str | None = None,
    structures: str | None = None,
    annotations: str | None = None,
    keep_identifiers: bool = False,
    progress: Report = print,
) -> list[dict]:
    """Fetch annotated scans, see :func:`monai_hyper.data.fetch.fetch`; "list": the collections that are known.

    Raises:
        InputError: without a collection and an output, and see there.
    """
    from monai_hyper.data.fetch import fetch as run
    from monai_hyper.data.fetch import list_collections

    if source == "list":
        return list_collections()
    if collection is None or output is None:
        raise InputError("fetch: expected --collection and --output, see 'monai-hyper fetch list' for collections.")
    return run(
        source, collection, output, patients, most, modality, structures=structures, annotations=annotations,
        keep_identifiers=keep_identifiers, progress=progress,
    )  # fmt: skip
