"""The verbs of meta-training and its data: train, synth, convert, pack."""

from __future__ import annotations

import json
from pathlib import Path

from monai_hyper.commands.common import Report, refuse_existing
from monai_hyper.types import InputError


def train(
    config: Path,
    data: Path,
    output: Path | None = None,
    method: str | None = None,
    minutes: float | None = None,
    start: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    tasks: int | None = None,
    progress: Report = print,
) -> Path:
    """Meta-train by a JSON file with the fields of ``TrainConfig``; goes on where a run was cut off.

    Args:
        output, method, minutes, start, device, precision, tasks: instead of the file's.

    Raises:
        InputError: if the file is missing, no JSON, or has unknown fields.
    """
    from monai_hyper.synthesis.pack import training_data
    from monai_hyper.training.loop import TrainConfig
    from monai_hyper.training.loop import train as run

    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
        given = {"output": output, "method": method, "minutes": minutes, "start": start}
        given |= {"device": device, "precision": precision, "tasks": tasks}
        fields |= {name: value for name, value in given.items() if value is not None}
        fields["output"] = Path(fields["output"])
        settings = TrainConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (OSError, json.JSONDecodeError, TypeError, KeyError) as error:
        known = ", ".join(TrainConfig.__dataclass_fields__)
        raise InputError(f"{config}: {error}. Expected a JSON object with some of: {known}.") from error
    progress("reading the training data")
    return run(settings, training_data(data))


def synth(
    data: Path, output: Path, tasks: int, seed: int = 0, overwrite: bool = False, progress: Report = print
) -> dict:
    """Draw training tasks and show them on a page of pictures.

    Raises:
        InputError: if there is no training data, or the page exists.
    """
    from monai_hyper.export.gallery import write_gallery
    from monai_hyper.synthesis.pack import training_data
    from monai_hyper.synthesis.tasks import TaskEngine

    refuse_existing([output / "index.html"], overwrite)
    progress("reading the training data")
    return {"page": str(write_gallery(TaskEngine(training_data(data), seed=seed), tasks, output))}


def convert(data: Path, layout: str, output: Path, overwrite: bool = False, progress: Report = print) -> dict:
    """Bring downloaded training data into the layout that is read here, see docs/data.md.

    Raises:
        InputError: if the data is not laid out as expected or damaged, or the output exists.
    """
    from monai_hyper.data.convert import convert_folder

    refuse_existing([output], overwrite)
    progress(f"reading {data}")
    names = convert_folder(data, layout, output)
    return {"folder": str(output), "cases": len(names)}


def pack(data: Path, output: Path, overwrite: bool = False, progress: Report = print) -> dict:
    """Write all permitted training data as one file.

    Raises:
        InputError: if there is no training data, or the output exists.
    """
    from monai_hyper.synthesis.pack import write_pack
    from monai_hyper.synthesis.sources import load_sources

    refuse_existing([output], overwrite)
    progress("reading the training data")
    sources = load_sources(data)
    write_pack(sources, output)
    subjects = {name: len(cohort.subjects) for name, cohort in sources.cohorts.items()}
    return {"file": str(output), "megabytes": round(output.stat().st_size / 1e6, 1), "subjects": subjects}
