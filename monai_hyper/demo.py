"""The demonstration: segment scans after four annotated examples, and show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_hyper.data.phantom import CLASSES, write_phantom
from monai_hyper.evaluation.simple import Scored, score_folder, split_cases, table_rows
from monai_hyper.export.overview import overview
from monai_hyper.export.page import write_page
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.transforms.classes import SelectClasses
from monai_hyper.types import InputError

SHOTS, QUERIES = 4, 4

SHOWN = {"hippocampus_mr": None, "headneck_ct": ["larynx", "mandible"]}
"""Folders that a demonstration on real data shows, and their classes."""


def demo_folders(data: str | None, work: Path) -> dict[str, tuple[Path, str | None, list[str] | None]]:
    """What to show: name -> folder, split, classes.

    Args:
        data: None for the digital phantom; ``msd:TASK`` for a public set, downloaded to ``work``; a labelled folder;
            or a folder that holds ``hippocampus_mr`` and ``headneck_ct``.
        work: where to write what is made or downloaded.

    Raises:
        InputError: if ``data`` is none of these.
    """
    if data is None:
        return {kind: (write_phantom(work / kind, kind), None, None) for kind in CLASSES}
    if data.startswith("msd:"):
        return {data[4:]: (decathlon(data[4:], work), None, None)}
    folder = Path(data)
    if (folder / "images").is_dir():
        return {folder.name: (folder, None, None)}
    found = {n: (folder / n, "select", c) for n, c in SHOWN.items() if (folder / n / "images").is_dir()}
    if not found:
        raise InputError(f"{folder}: expected images/ and labels/, or {', '.join(SHOWN)}; found neither.")
    return found


def decathlon(task: str, work: Path) -> Path:
    """Download a task of the Medical Segmentation Decathlon through MONAI, in the layout used here.

    Raises:
        InputError: for a name that MONAI does not know.
    """
    from monai.apps import DecathlonDataset

    if task not in DecathlonDataset.resource:
        raise InputError(f"'{task}' is no task of the Decathlon; expected one of {sorted(DecathlonDataset.resource)}.")
    DecathlonDataset(work, task, "training", transform=(), download=True, cache_num=0)
    folder = work / task
    for ours, theirs in (("images", "imagesTr"), ("labels", "labelsTr")):
        if not (folder / ours).exists():
            (folder / ours).symlink_to(theirs, target_is_directory=True)
    return folder


def run_demo(
    output: Path, data: str | None = None, device: str = "cpu", progress: Callable[[str], None] = print
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Segment, score, and write pictures, ``results.json`` and ``index.html`` into ``output``.

    Returns:
        rows of case, class, Dice of the generated network and of the mean support mask; and the seconds spent.
    """
    output.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter(device=device)
    rows: list[dict[str, object]] = []
    pictures: list[tuple[str, Path]] = []
    summary: dict[str, object] = {}
    with TemporaryDirectory() as made:
        work = output / "data" if data and data.startswith("msd:") else Path(made)
        for name, (folder, split, classes) in demo_folders(data, work).items():
            progress(f"{name}: {SHOTS} annotated volumes generate a network")
            support, query = split_cases(folder, split, SHOTS, QUERIES, 0, classes)
            scored = []
            for case in score_folder(segmenter, folder, support, query, classes):
                progress(f"{name}: {case.case} segmented in {case.seconds:.2f} s")
                pictures.append((f"{name}: {case.case}", picture(case, segmenter, output)))
                scored.append(case)
            rows += [{"data": name, **row} for row in table_rows(scored)]
            summary[f"{name}: network generated"] = f"{segmenter.fit_seconds_:.2f} s"
            summary[f"{name}: one scan"] = f"{sum(s.seconds for s in scored) / len(scored):.2f} s"
    (output / "results.json").write_text(json.dumps({"rows": rows, "seconds": summary}, indent=1))
    write_page(output / "index.html", "Segmented after four annotated examples", rows, pictures, summary)
    return rows, summary


def picture(scored: Scored, segmenter: Segmenter, output: Path) -> Path:
    """Draw one query with prediction and truth."""
    select = SelectClasses(segmenter.plan_.values)
    return overview(
        scored.image, select(scored.predicted), segmenter.classes_, output / f"{scored.case}.png", select(scored.truth)
    )
