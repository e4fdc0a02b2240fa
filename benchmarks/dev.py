"""The development benchmark: all methods on real held-out data, written to docs/results.md.

    python benchmarks/dev.py --data ../shared/data --output runs/benchmark          # fast methods
    python benchmarks/dev.py --data ../shared/data --output runs/benchmark --full   # all methods, fewer cases

What a run that was cut off has finished is not done again, nor what lies in ``benchmarks/rows``: answers that took
hours, as ``results.csv`` of the part that they are called after. Only the lists ``select`` are used to choose by; the
lists ``report`` are looked at once, at the end, see ``--split``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from results_page import write_page

from monai_hyper.commands import versions
from monai_hyper.evaluation.protocol import Protocol
from monai_hyper.evaluation.records import RESULTS
from monai_hyper.evaluation.run import evaluate_folder
from monai_hyper.methods.registry import FAST, METHODS

ROWS = Path(__file__).parent / "rows"


@dataclass(frozen=True)
class Part:
    """One evaluation of the benchmark.

    Args:
        name: of its folder of results; folder: of the data.
        binary, classes: see :class:`Protocol`.
    """

    name: str
    folder: str
    binary: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    split: str | None = "select"
    shots: tuple[int, ...] = (1, 4)
    queries: int = 8
    draws: int = 2
    perturb_fov: bool = False
    shift: str | None = None
    support: str | None = None
    group: str | None = None
    methods: tuple[str, ...] = FAST


SETS = (
    Part("hippocampus_mr", "hippocampus_mr", ("whole=1+2", "1", "2")),
    Part("headneck_ct", "headneck_ct", ("larynx", "mandible")),
    Part("cardiac_cine_mr", "cardiac_cine_mr", group="group"),
    Part("sarcoma_ct", "sarcoma/CT", split=None, queries=1, draws=5),
    Part("sarcoma_t1", "sarcoma/MR_T1", split=None, queries=1, draws=5),
    Part("sarcoma_pet", "sarcoma/PET", split=None, queries=1, draws=5),
    Part("ms_lesion_mr", "ms_lesion_mr", split=None, shots=(1, 2), queries=1, draws=3),
)
"""The data sets, each run as it is and with perturbed fields of view."""

SHIFTED = ("spacing", "noise", "bias-field", "contrast-inversion", "kspace-4x", "kspace-8x")


CONTRASTS = "spinal_cord_contrasts"
"""Folder of one spinal cord in four contrasts, which :func:`spinal_cord_contrasts` makes."""


def spinal_cord_contrasts(data: Path, output: Path) -> Path:
    """Lay out the volumes of ``spinal_cord_mr`` that show the cord as cases of one task, one per contrast."""
    folder = output / "data" / CONTRASTS
    names = {"t1": ("t1/t1w", "t1/t1w_seg-manual"), "t2": ("t2/t2", "t2/t2_seg-manual"),
             "t2s": ("t2s/t2s", "t2s/t2s_seg"), "mt1": ("mt/mt1", "mt/mt1_seg")}  # fmt: skip
    for case, files in names.items():
        for kind, file in zip(("images", "labels"), files):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "spinal_cord_mr" / f"{file}.nii.gz", folder / kind / f"{case}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"modality": "MR", "labels": {"1": "spinal cord"}}))
    return folder


def fast_parts() -> list[Part]:
    """What the fast methods run on."""
    parts = [part for one in SETS for part in (one, perturbed(one))]
    parts.append(Part("headneck_ct-trained", "headneck_ct", ("1", "2", "3", "4", "5")))
    parts.append(Part("hippocampus_mr-shots", "hippocampus_mr", ("whole=1+2",), shots=(1, 2, 4, 8, 16, 32, 64), draws=3,
                      methods=("hyper", "mean-mask")))  # fmt: skip
    few = {"binary": ("whole=1+2",), "shots": (4,), "methods": ("hyper", "mean-mask", "ridge")}
    parts.append(Part("hippocampus_mr-whole", "hippocampus_mr", **few))
    parts += [Part(f"hippocampus_mr-{shift}", "hippocampus_mr", shift=shift, **few) for shift in SHIFTED]
    parts.append(Part("spinal_cord-contrasts", CONTRASTS, split=None, shots=(1, 3), queries=3, draws=4))
    parts.append(Part("sarcoma_t1_to_ct", "sarcoma/CT", support="sarcoma/MR_T1", split=None, queries=1, draws=5))
    return parts


def full_parts() -> list[Part]:
    """What all methods run on, the slow ones too: fewer cases, the same for all; two of them on one set only."""
    every = tuple(METHODS)
    most = tuple(name for name in METHODS if name not in ("scratch-plateau", "fine-tune-head"))
    thin = (
        Part("full-hippocampus_mr", "hippocampus_mr", ("whole=1+2",), draws=1, methods=every),
        Part("full-cardiac_cine_mr", "cardiac_cine_mr", shots=(4,), draws=1, queries=5, methods=most),
        Part("full-headneck_ct", "headneck_ct", classes=("larynx", "mandible"), shots=(4,), draws=1, queries=3,
             methods=most),
    )  # fmt: skip
    shots = Part("full-hippocampus_mr-shots", "hippocampus_mr", ("whole=1+2",), shots=(1, 4, 8, 16, 64), draws=1,
                 methods=("hyper", "scratch"))  # fmt: skip
    return [*thin, shots, *(replace(perturbed(part), methods=most) for part in thin[:2]), *paired_parts()]


def paired_parts() -> list[Part]:
    """Where polish meets training from random weights: the same queries for both, 42 of them at every K."""
    few = {"shots": (1, 2, 4, 8), "methods": ("hyper", "hyper+polish", "scratch", "scratch-plateau")}
    return [
        Part("polish-hippocampus_mr", "hippocampus_mr", ("whole=1+2",), **few),
        Part("polish-cardiac_cine_mr", "cardiac_cine_mr", **few),
        Part("polish-headneck_ct", "headneck_ct", ("larynx", "mandible"), draws=1, queries=5, **few),
    ]


def perturbed(part: Part) -> Part:
    """The same with perturbed fields of view."""
    return replace(part, name=f"{part.name}-perturbed", perturb_fov=True, group=None)


def of_report(parts: list[Part]) -> list[Part]:
    """The same on the lists ``report``, where there are such lists."""
    return [replace(part, split="report") for part in parts if part.split is not None]


def run_part(part: Part, data: Path, output: Path, weights: Path | None) -> None:
    """Evaluate one part."""
    folder = spinal_cord_contrasts(data, output) if part.folder == CONTRASTS else data / part.folder
    protocol = Protocol(
        folder, part.methods, part.shots, part.draws, part.queries, split=part.split, binary=part.binary,
        classes=part.classes,
        perturb_fov=part.perturb_fov, shift=part.shift, support_dataset=data / part.support if part.support else None,
    )  # fmt: skip
    kept, results = ROWS / f"{part.name}.csv", output / part.name / RESULTS
    if part.split == "select" and kept.exists() and not results.exists():
        results.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, results)
    begun = time.perf_counter()
    evaluate_folder(protocol, output / part.name, weights, part.group, versions())
    took = output / part.name / "seconds.json"
    before = json.loads(took.read_text()) if took.exists() else 0.0
    took.write_text(json.dumps(before + time.perf_counter() - begun))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--full", action="store_true", help="all methods, on fewer cases")
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--split", choices=["select", "report"], default="select",
                        help="lists of cases; sets without lists are left out of 'report'")  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="only these; others may join later")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = full_parts() if arguments.full else fast_parts()
    for part in parts if arguments.split == "select" else of_report(parts):
        if not arguments.only or part.name in arguments.only:
            print(part.name, flush=True)
            part = replace(part, methods=tuple(m for m in part.methods if m in (arguments.methods or METHODS)))
            run_part(part, arguments.data, arguments.output, arguments.weights)
    write_page(arguments.output, arguments.page, arguments.threads)


if __name__ == "__main__":
    main()
