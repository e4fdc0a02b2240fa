"""One function per verb of the command line."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from monai.data import MetaTensor

import monai_hyper
from monai_hyper.data.classes import AbsentMeans
from monai_hyper.data.folder import Case, cases_of, list_cases
from monai_hyper.data.tensors import load_tensors
from monai_hyper.data.volumes import SUFFIXES, read_header, read_image, volume_name
from monai_hyper.evaluation.bench import bench as time_methods
from monai_hyper.evaluation.protocol import Protocol
from monai_hyper.evaluation.run import clear, evaluate_folder, table_of
from monai_hyper.export.deploy import provenance, refuse_folder, write_bundle
from monai_hyper.export.dicom_seg import NOTICE
from monai_hyper.export.onnx import wants_onnx
from monai_hyper.export.overview import overview
from monai_hyper.export.results import ENDINGS, Format, read_codes, refuse_format, save_result
from monai_hyper.inference.pipeline import modality_warning, read_support
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.methods.polish import default_seconds
from monai_hyper.methods.registry import FAST, make_methods
from monai_hyper.networks.released import RELEASED
from monai_hyper.transforms.classes import SelectClasses
from monai_hyper.types import MAX_SHOTS, InputError, SomeFailed

Report = Callable[[str], None]


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {name: version(name) for name in ("monai", "torch", "numpy", "nibabel")}
    return {"monai_hyper": monai_hyper.__version__, "python": platform.python_version(), **found}


def find_queries(path: Path) -> list[Path]:
    """Volumes to segment: a file, a folder of files (or with ``images/``), a folder of one DICOM series, or of such.

    Raises:
        InputError: if there is nothing, or two volumes have one name.
    """
    if not path.exists():
        raise InputError(f"{path}: no such query; expected a volume or a folder of volumes. Check the path.")
    if path.is_file():
        return [path]
    folder = path / "images" if (path / "images").is_dir() else path
    found = sorted(f for f in folder.iterdir() if f.is_file() and f.name.lower().endswith(tuple(SUFFIXES)))
    series = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    lone = folder.name != "images" and any(f.is_file() for f in folder.iterdir())
    found = found or ([folder] if lone or not series else series)
    names = [volume_name(f) for f in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: several volumes are called '{twice[0]}'; expected one. Rename or move them.")
    return found


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """
    Raises:
        InputError: if a result exists already and may not be replaced.
    """
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]}: exists already. Choose another --output or allow it with --overwrite.")


def segment(
    support: Path,
    query: Path,
    output: Path,
    classes: Sequence[str] | None = None,
    absent_means: AbsentMeans = "unannotated",
    weights: Path | None = None,
    device: str = "cpu",
    polish_seconds: float | None = None,
    format: Format = "nifti",
    codes: Path | None = None,
    keep_identifiers: bool = False,
    overwrite: bool = False,
    progress: Report = print,
) -> list[dict]:
    """Segment volumes after the example of a folder of annotated ones.

    Writes for every query NAME a label map ``NAME.nii.gz`` or ``NAME.dcm``, an overview ``NAME.png`` and ``NAME.json``
    (volumes in ml, expected Dice, timings, preparation, versions). Nothing is written unless every query succeeds.

    Args:
        polish_seconds: of gradient steps on the support set after its network is generated; 0: none; default: 20 on a
            CPU, 3 on a GPU, none from four volumes on.
        format: "nifti"; or, for queries in DICOM, "dicom-seg" or "rtstruct"; codes: see
            :func:`monai_hyper.export.results.read_codes`.
        keep_identifiers: whether DICOM results carry the patient's name and number.

    Returns:
        the contents of the JSON files.
    """
    check_polish(None, polish_seconds)
    queries = find_queries(query)
    results = [f"{volume_name(q)}{ending}" for q in queries for ending in (ENDINGS[format], ".png", ".json")]
    refuse_existing([output / name for name in results], overwrite)
    refuse_format(format, queries)
    save = partial(save_result, kind=format, codes=read_codes(codes), keep_identifiers=keep_identifiers)
    for path in queries:
        read_header(path)
    cases = list_cases(support)
    segmenter = fitted(support, cases, classes, absent_means, weights, device, None, polish_seconds, progress)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".segment-") as beside:
        folder = Path(beside)
        reports = [
            segment_one(segmenter, path, folder, ENDINGS[format], save, len(cases), progress) for path in queries
        ]
        output.mkdir(exist_ok=True)
        for name in results:
            os.replace(Path(beside) / name, output / name)
    return reports


def fitted(
    support: Path | Sequence[Mapping],
    cases: Sequence[Case],
    classes: Sequence[str] | None,
    absent_means: AbsentMeans,
    weights: Path | None,
    device: str,
    polish: int | None,
    polish_seconds: float | None,
    progress: Report,
) -> Segmenter:
    """Generate the network of ``cases`` of a support set, polished as was asked for, and say how well it went."""
    support_set, plan = read_support(support, cases=cases, classes=classes, absent_means=absent_means)
    seconds = polish_time(polish, polish_seconds, device, support_set.shots)
    segmenter = Segmenter(weights, device, seconds, polish or 0).fit(support_set, plan)
    progress(f"network for {', '.join(plan.classes)} from {support_set.shots} volumes: {segmenter.fit_seconds_:.2f} s")
    if segmenter.expected_dice_ is not None:
        progress(f"expected Dice, of the examples by each other: {segmenter.expected_dice_:.2f}")
    return segmenter


def segment_one(
    segmenter: Segmenter, path: Path, folder: Path, ending: str, save: Callable, shots: int, progress: Report
) -> dict:
    """Segment one volume into ``folder``; returns what the JSON file says.

    Args:
        ending: of the label map's file; save: see :func:`save_result`.
    """
    image, name, plan = read_image(path), volume_name(path), segmenter.plan_
    warning = modality_warning(image, plan)
    if warning:
        progress(f"warning: {name}: {warning}")
    begun = time.perf_counter()
    label, expected = segmenter.answer(image)
    seconds = time.perf_counter() - begun
    save(label, plan.classes, plan.values, path, folder / f"{name}{ending}")
    overview(image, SelectClasses(plan.values)(label), plan.classes, folder / f"{name}.png")
    report = {
        "query": path.name,
        "note": NOTICE,
        "volumes_ml": volumes_ml(label, plan.classes, plan.values),
        "shots": shots,
        "expected_dice": {
            "generated": segmenter.expected_dice_,
            "this_volume": round(expected, 3),
        },
        "polish_seconds": segmenter.polish_seconds,
        "seconds": {"generate_network": segmenter.fit_seconds_, "segment": seconds},
        "warnings": [warning] if warning else [],
        "preparation": plan.to_dict(),
        "versions": versions(),
    }
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1))
    doubt = ", likely too high: one example cannot be checked against another" if shots == 1 else ""
    progress(f"{name}: {seconds:.2f} s, expected Dice {expected:.2f}{doubt}")
    return report


def volumes_ml(label: MetaTensor, classes: Sequence[str], values: Sequence[int]) -> dict[str, float]:
    """Volume of every class in ml."""
    voxel = float(label.affine[:3, :3].det().abs()) / 1000
    return {name: round(int((label == value).sum()) * voxel, 4) for name, value in zip(classes, values)}


def adapt(
    support: Path | Sequence[Mapping],
    output: Path,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    absent_means: AbsentMeans = "unannotated",
    weights: Path | None = None,
    device: str = "cpu",
    polish: int | None = None,
    polish_seconds: float | None = None,
    onnx: bool | None = None,
    progress: Report = print,
) -> dict:
    """Generate the network of a folder of annotated volumes, and write it as a MONAI bundle, see :func:`write_bundle`.

    Args:
        support: folder, or the volumes one by one, see :func:`read_support`.
        output: folder of the bundle, which must not exist.
        name: of the bundle, for people; default: what it segments.
        polish: number of gradient steps; or polish_seconds: see :func:`segment`.
        onnx: whether to write the network as ONNX, too; default: if the extra is installed.

    Returns:
        folder, classes and expected Dice.

    Raises:
        InputError: for defects of the support set, and if the folder exists.
    """
    refuse_folder(output)
    check_polish(polish, polish_seconds)
    onnx = wants_onnx(onnx)
    cases = list_cases(support) if isinstance(support, Path) else cases_of(support)
    segmenter = fitted(support, cases, classes, absent_means, weights, device, polish, polish_seconds, progress)
    plan, seconds = segmenter.plan_, segmenter.polish_seconds
    how = {"steps": polish} if polish else {"seconds": seconds} if seconds else None
    origin = provenance(segmenter, cases, weights or RELEASED, how)
    write_bundle(segmenter, output, name or f"{' '.join(plan.classes)} on {plan.modality}", origin, versions(), onnx)
    return {"bundle": str(output), "classes": list(plan.classes), "expected_dice": segmenter.expected_dice_}


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


def verify(bundle: Path, progress: Report = print) -> list[dict]:
    """Run the checks of a bundle that :func:`monai_hyper.export.verify.verify_bundle` lists.

    Raises:
        InputError: if a check fails; the others have run.
    """
    from monai_hyper.export.verify import verify_bundle

    rows = verify_bundle(bundle)
    failed = [row for row in rows if row["result"] == "failed"]
    if failed:
        for row in rows:
            progress(f"{row['result']:>8}  {row['check']}: {row['detail']}")
        raise InputError(f"{bundle}: {len(failed)} of {len(rows)} checks failed, see above.")
    return rows


def check_polish(steps: int | None, seconds: float | None) -> None:
    """
    Raises:
        InputError: if there is no such polish, or both are given.
    """
    if seconds is not None and not 0 <= seconds < math.inf:
        raise InputError(f"--polish-seconds is {seconds}; expected a number of seconds, or 0 for no polish.")
    if steps is not None and steps < 0:
        raise InputError(f"--polish is {steps}; expected a number of gradient steps, or 0 for no polish.")
    if steps is not None and seconds is not None:
        raise InputError(f"found both --polish {steps} and --polish-seconds {seconds}; expected one of them.")


def polish_time(steps: int | None, seconds: float | None, device: str, shots: int) -> float:
    """Seconds of a polish: as asked for, by default see :func:`default_seconds`; 0 where steps are counted."""
    if steps is not None:
        return 0.0
    return default_seconds(device, shots) if seconds is None else seconds


def evaluate(
    dataset: Path,
    output: Path,
    methods: Sequence[str] = ("hyper", "mean-mask"),
    shots: Sequence[int] | None = None,
    draws: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    binary: Sequence[str] | None = None,
    perturb_fov: bool = False,
    shift: str | None = None,
    support_dataset: Path | None = None,
    tolerance_mm: float | None = None,
    group: str | None = None,
    quick: bool = False,
    weights: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Report = print,
) -> list[dict]:
    """Evaluate methods on an annotated folder, see :func:`monai_hyper.evaluation.run.evaluate_folder`.

    Args:
        quick: shots 1 and 4, 2 draws, 8 queries, where they are not given.

    Returns:
        mean Dice of every method, number of shots and class.

    Raises:
        SomeFailed: when cases could not be read; the others are evaluated.
    """
    usual = ((1, 4), 2, 8) if quick else ((1, 2, 4, 8), 5, 20)
    shots, draws, queries = (given or default for given, default in zip((shots, draws, queries), usual))
    protocol = Protocol(
        dataset, tuple(methods), tuple(shots), draws, queries, seed, device, split,
        tuple(classes) if classes else None, None if binary is None else tuple(binary), perturb_fov, shift,
        support_dataset, tolerance_mm,
    )  # fmt: skip
    if overwrite:
        clear(output)
    environment = {**versions(), "command": " ".join(["monai-hyper", *sys.argv[1:]])}
    summary = evaluate_folder(protocol, output, weights, group, environment)
    progress(f"report: {output / 'report.html'}")
    if summary["bad_cases"]:
        raise SomeFailed("left out, the others are evaluated:\n" + "\n".join(summary["bad_cases"]))
    return table_of(summary)


def bench(
    methods: Sequence[str] = FAST,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    side: int = 64,
    repeats: int = 5,
    weights: Path | None = None,
    device: str = "cpu",
    progress: Report = print,
) -> list[dict]:
    """Seconds to fit and per query of methods, on volumes of ``side`` voxels a side."""
    progress(f"volumes of {side}^3 voxels, {torch.get_num_threads()} threads, median of {repeats}")
    return time_methods(make_methods(methods, weights, device), shots, side, repeats, device)


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


def info() -> dict:
    """Versions, device, and the released weights with what they were trained on."""
    tensors, facts = load_tensors(RELEASED)
    return {
        "versions": versions(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": {
            "file": RELEASED.name,
            "megabytes": round(RELEASED.stat().st_size / 1e6, 1),
            "parameters": sum(t.numel() for t in tensors.values()),
            "steps": facts.get("step"),
            "hours": round(facts.get("seconds", 0) / 3600, 2),
        },
    }
