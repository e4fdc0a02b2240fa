"""Command line: parse, call one function, report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from monai_hyper.types import InputError


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="monai-hyper", description="Few-shot segmentation by generated networks.")
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="results as JSON")
        return added

    seg = verb("segment", "segment volumes after the example of a folder of annotated ones")
    seg.add_argument("--support", type=Path, required=True, help="folder with images/ and labels/, 1 to 16 volumes")
    seg.add_argument("--query", type=Path, required=True, help="volume, or folder of volumes")
    seg.add_argument("--absent-means", choices=["unannotated", "absent"], default="unannotated",
                     help="what it says that a class does not occur in a support volume")  # fmt: skip
    seg.add_argument("--save-network", type=Path, help="folder for the generated network")
    ev = verb("evaluate", "Dice per case and class on a labelled folder")
    ev.add_argument("--data", type=Path, required=True, help="folder with images/ and labels/")
    ev.add_argument("--split", help="name of a split in dataset.json")
    ev.add_argument("--shots", type=int, default=4, help="support volumes")
    ev.add_argument("--queries", type=int, default=20, help="query volumes, at most")
    ev.add_argument("--seed", type=int, default=0)
    for added in (seg, ev):
        added.add_argument("--output", type=Path, required=True, help="folder for the results")
        added.add_argument("--classes", nargs="+", help="names or values of the classes; default: all")
        added.add_argument("--weights", type=Path, help="weights of the model; default: the released ones")
    demo = verb("demo", "segment scans after four annotated examples and show it")
    demo.add_argument("--data", help="labelled folder, or msd:TASK to download; default: a digital phantom")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for pictures and page")
    for added in (seg, ev, demo):
        added.add_argument("--device", default="cpu", help="cpu or cuda")
        added.add_argument("--overwrite", action="store_true", help="replace existing results")
    tr = verb("train", "meta-train the model; goes on where a run was cut off")
    tr.add_argument("--config", type=Path, required=True, help="JSON file, see monai_hyper/configs/train.json")
    tr.add_argument("--data", type=Path, required=True, help="folder of the training data, see docs/data.md")
    tr.add_argument("--output", type=Path, help="folder for checkpoints and logs; default: the config's")
    verb("info", "versions, device and weights")
    return top


def note(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def show(result: object, as_json: bool) -> None:
    """Results, to stdout: JSON for machines, a table or lines for people."""
    if as_json:
        print(json.dumps(result, indent=1, default=str))
    elif isinstance(result, list) and result and "dice" in result[0]:
        print("  ".join(f"{key:>16}" for key in result[0]))
        for row in result:
            print("  ".join(f"{v:16.3f}" if isinstance(v, float) else f"{str(v):>16}" for v in row.values()))
    elif isinstance(result, list):
        for report in result:
            print(report["query"], ", ".join(f"{n} {ml:g} ml" for n, ml in report["volumes_ml"].items()))
    elif isinstance(result, dict):
        for key, value in result.items():
            print(f"{key}: {value}")
    else:
        print(result)


def run(arguments: argparse.Namespace) -> object:
    """Call the function of a verb."""
    from monai_hyper import commands

    options = {k: v for k, v in vars(arguments).items() if k not in ("verb", "json")}
    if arguments.verb == "info":
        return commands.info()
    if arguments.verb == "demo":
        from monai_hyper.demo import run_demo

        overwrite = options.pop("overwrite")
        commands.refuse_existing([arguments.output / "index.html"], overwrite)
        rows, seconds = run_demo(**options, progress=note)
        for text, value in seconds.items():
            note(f"{text}: {value}")
        note(f"pictures: {arguments.output / 'index.html'}")
        return rows
    return getattr(commands, arguments.verb)(**options, progress=note)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done, 2: misused or bad input; other failures end with their own traceback and code 1."""
    arguments = parser().parse_args(argv)
    try:
        show(run(arguments), arguments.json)
    except InputError as error:
        note(f"monai-hyper: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
