"""What a generated network is worth away from home: as a bundle, without this package, beside ``monai-hyper segment``.

    python benchmarks/exported.py --data ../shared/data --python /clean/environment/bin/python

On every data set of the development benchmark one support set is drawn. ``monai-hyper segment`` segments the queries;
the bundle's ``generate`` writes a bundle of its own, and ``--python``, an interpreter with MONAI but without this
package, runs that one's ``inference`` on the same queries. Prints for both ways the mean Dice, the processor seconds of
the whole command and its peak memory; in how many voxels they differ; and the sizes of the files. Nothing is polished.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from dev import SETS, Part

from monai_hyper.data.episodes import Episode, draw_episodes
from monai_hyper.data.folder import list_cases, read_description
from monai_hyper.data.volumes import read_label
from monai_hyper.evaluation.metrics import dice_per_class

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "hyper_ctmr_fewshot_segmentation"
COLUMNS = ("K", "queries", "Dice, segment", "Dice, bundle", "voxels that differ", "segment: s", "GB",
           "generate: s", "GB", "bundle: s", "GB", "model.pt", "model.ts", "scripts")  # fmt: skip


def lay_out(part: Part, data: Path, episode: Episode, folder: Path) -> None:
    """Link the drawn cases into ``support/`` and ``scans/``."""
    for name in ("support/images", "support/labels", "scans"):
        (folder / name).mkdir(parents=True)
    known = read_description(data / part.folder)
    kept = {key: known[key] for key in ("labels", "modality") if key in known}
    (folder / "support" / "dataset.json").write_text(json.dumps(kept), encoding="utf-8")
    for case in episode.support:
        (folder / "support" / "images" / case.image.name).symlink_to(case.image.resolve())
        (folder / "support" / "labels" / case.image.name).symlink_to(case.label.resolve())
    for case in episode.query:
        (folder / "scans" / case.image.name).symlink_to(case.image.resolve())


def measured(command: list, where: Path, log: Path, threads: int) -> tuple[float, float]:
    """Run a command in a folder; returns its processor seconds and peak memory in GB.

    Raises:
        SystemExit: if it fails.
    """
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with log.open("w") as out:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, cwd=where, env=os.environ | limits, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(log.read_text(encoding="utf-8")[-2000:])
    return used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def both_ways(folder: Path, python: Path, classes: tuple[str, ...] | None, threads: int) -> list[tuple[float, float]]:
    """Cost of segment, of generate, and of the inference of what it wrote."""
    support, scans, made = folder / "support", folder / "scans", folder / "bundle"
    run = ["-m", "monai.bundle", "run", "--config_file"]
    segment = [sys.executable, "-m", "monai_hyper.cli", "segment", "--support", support, "--query", scans]
    segment += ["--output", folder / "segmented", "--polish-seconds", 0]
    generate = [sys.executable, *run, "configs/generate.json", "--support", support, "--output_dir", made]
    generate += ["--onnx", "False"]
    if classes:
        segment += ["--classes", *classes]
        generate += ["--classes", str(list(classes))]
    inference = [python, *run, "configs/inference.json", "--meta_file", "configs/metadata.json"]
    inference += ["--dataset_dir", scans, "--output_dir", folder / "elsewhere", "--device", "cpu"]
    log = folder / "log.txt"
    ways = ((segment, folder), (generate, BUNDLE), (inference, made))
    return [measured(command, where, log, threads) for command, where in ways]


def answers(folder: Path, episode: Episode) -> tuple[float, float, int]:
    """Mean Dice of both ways over classes and queries, and in how many voxels they differ."""
    metadata = json.loads((folder / "bundle/configs/metadata.json").read_text(encoding="utf-8"))
    values = tuple(int(value) for value in metadata["label_classes"] if value != "0")
    scores, differ = [], 0
    for case in episode.query:
        one = read_label(folder / "segmented" / f"{case.name}.nii.gz")
        other, truth = read_label(folder / "elsewhere" / f"{case.name}_seg.nii.gz"), read_label(case.label)
        scores.append([np.mean(dice_per_class(label, truth, values)) for label in (one, other)])
        differ += int((one != other).sum())
    return *np.mean(scores, 0).tolist(), differ


def row(part: Part, data: Path, folder: Path, python: Path, queries: int, threads: int) -> list[str]:
    """One line of the table."""
    classes = part.binary if part.binary and part.folder == "headneck_ct" else None
    cases, shots = list_cases(data / part.folder, part.split), part.shots[-1]
    episode = draw_episodes(cases, shots, min(queries, len(cases) - shots), 1, 0)[0]
    lay_out(part, data, episode, folder)
    costs = both_ways(folder, python, classes, threads)
    ours, theirs, differ = answers(folder, episode)
    models = folder / "bundle" / "models"
    scripts = sum(path.stat().st_size for path in (folder / "bundle" / "scripts").rglob("*.py"))
    cells = [str(shots), str(len(episode.query)), f"{ours:.4f}", f"{theirs:.4f}", str(differ)]
    cells += [text for seconds, memory in costs for text in (f"{seconds:.0f}", f"{memory:.2f}")]
    cells += [f"{(models / name).stat().st_size / 1e6:.1f} MB" for name in ("model.pt", "model.ts")]
    return [part.name, *cells, f"{scripts / 1e3:.0f} kB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True, help="interpreter without this package")
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of data sets")
    arguments = parser.parse_args()
    there = [str(arguments.python), "-c", "import monai, monai_hyper"]
    if "No module named 'monai_hyper'" not in subprocess.run(there, capture_output=True, text=True).stderr:
        raise SystemExit(f"{arguments.python}: expected an interpreter that has MONAI and not this package")
    print("| data set | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|", flush=True)
    for part in SETS:
        if not arguments.only or part.name in arguments.only:
            with TemporaryDirectory() as folder:
                cells = row(part, arguments.data, Path(folder), arguments.python, arguments.queries, arguments.threads)
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
