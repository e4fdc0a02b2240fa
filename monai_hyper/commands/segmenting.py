"""The verbs that generate networks: segment, adapt, verify."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from monai.data import MetaTensor

from monai_hyper.commands.common import Report, check_polish, polish_time, refuse_existing, versions
from monai_hyper.data.classes import AbsentMeans
from monai_hyper.data.folder import Case, cases_of, list_cases
from monai_hyper.data.volumes import SUFFIXES, read_header, read_image, volume_name
from monai_hyper.export.deploy import provenance, refuse_folder, write_bundle
from monai_hyper.export.dicom_seg import NOTICE
from monai_hyper.export.onnx import wants_onnx
from monai_hyper.export.overview import overview
from monai_hyper.export.results import ENDINGS, Format, read_codes, refuse_format, save_result
from monai_hyper.inference.pipeline import modality_warning, read_support
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.inference.words import described, plan_of_words, support_of_words
from monai_hyper.networks.released import RELEASED
from monai_hyper.transforms.classes import SelectClasses
from monai_hyper.types import InputError


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


def segment(
    support: Path | None,
    query: Path,
    output: Path,
    text: Sequence[str] | None = None,
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
    """Segment volumes after the example of a folder of annotated ones, after descriptions of structures, or both.

    Writes for every query NAME a label map ``NAME.nii.gz`` or ``NAME.dcm``, an overview ``NAME.png`` and ``NAME.json``
    (volumes in ml, expected Dice, timings, preparation, versions). Nothing is written unless every query succeeds.

    Args:
        support: folder of examples; None: the descriptions are all there is.
        text: what describes the classes, see :mod:`monai_hyper.inference.words`.
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
    if support is None:
        shots, network_for = 0, told(text, weights, device, progress)
    else:
        cases = list_cases(support)
        segmenter = fitted(support, cases, classes, absent_means, text, weights, device, None, polish_seconds, progress)
        shots, network_for = len(cases), lambda image: segmenter
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".segment-") as beside:
        folder = Path(beside)
        reports = [segment_one(network_for, path, folder, ENDINGS[format], save, shots, progress) for path in queries]
        output.mkdir(exist_ok=True)
        for name in results:
            os.replace(Path(beside) / name, output / name)
    return reports


def fitted(
    support: Path | Sequence[Mapping],
    cases: Sequence[Case],
    classes: Sequence[str] | None,
    absent_means: AbsentMeans,
    text: Sequence[str] | None,
    weights: Path | None,
    device: str,
    polish: int | None,
    polish_seconds: float | None,
    progress: Report,
) -> Segmenter:
    """Generate the network of ``cases`` of a support set, polished as was asked for, and say how well it went."""
    support_set, plan = read_support(support, cases=cases, classes=classes, absent_means=absent_means)
    support_set = described(support_set, text) if text else support_set
    seconds = polish_time(polish, polish_seconds, device, support_set.shots)
    segmenter = Segmenter(weights, device, seconds, polish or 0).fit(support_set, plan)
    progress(f"network for {', '.join(plan.classes)} from {support_set.shots} volumes: {segmenter.fit_seconds_:.2f} s")
    if segmenter.expected_dice_ is not None:
        progress(f"expected Dice, of the examples by each other: {segmenter.expected_dice_:.2f}")
    return segmenter


def told(
    text: Sequence[str] | None, weights: Path | None, device: str, progress: Report
) -> Callable[[MetaTensor], Segmenter]:
    """From an image to the network for it that descriptions alone generate.

    Raises:
        InputError: without any, and see :func:`support_of_words`.
    """
    if not text:
        raise InputError("segment: found neither --support nor --text; expected examples, descriptions or both.")
    segmenter = Segmenter(weights, device)
    support, modality = support_of_words(text, segmenter.model)
    progress(f"network for {', '.join(support.classes)} from words alone, without an example: look at every result")
    return lambda image: segmenter.fit(support, plan_of_words(image, support.classes, modality))


def segment_one(
    network_for: Callable[[MetaTensor], Segmenter],
    path: Path,
    folder: Path,
    ending: str,
    save: Callable,
    shots: int,
    progress: Report,
) -> dict:
    """Segment one volume into ``folder``; returns what the JSON file says.

    Args:
        network_for: from an image as read to its network; ending: of the label map's file; save: see
            :func:`save_result`.
    """
    image, name = read_image(path), volume_name(path)
    segmenter = network_for(image)
    plan = segmenter.plan_
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
    text: Sequence[str] | None = None,
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
        text: what describes the classes, see :mod:`monai_hyper.inference.words`.
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
    segmenter = fitted(support, cases, classes, absent_means, text, weights, device, polish, polish_seconds, progress)
    plan, seconds = segmenter.plan_, segmenter.polish_seconds
    how = {"steps": polish} if polish else {"seconds": seconds} if seconds else None
    origin = provenance(segmenter, cases, weights or RELEASED, how)
    write_bundle(segmenter, output, name or f"{' '.join(plan.classes)} on {plan.modality}", origin, versions(), onnx)
    return {"bundle": str(output), "classes": list(plan.classes), "expected_dice": segmenter.expected_dice_}


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
