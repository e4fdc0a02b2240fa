"""Command line: parse, call one function, report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from monai_hyper.types import InputError, SomeFailed


def names(text: str) -> list[str]:
    """Names with commas between."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    return [int(part) for part in names(text)]


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
    ad = verb(
        "adapt", "write the network of a folder of annotated volumes as a MONAI bundle that runs without this package"
    )
    ad.add_argument("--support", type=Path, required=True, help="folder with images/ and labels/, 1 to 16 volumes")
    ad.add_argument("--name", help="of the bundle, for people; default: what it segments")
    ad.add_argument("--polish", type=int, metavar="N", help="gradient steps on the support set")
    ad.add_argument("--onnx", action=argparse.BooleanOptionalAction,
                    help="ONNX beside TorchScript, in a minute more; default: if [onnx] is installed")  # fmt: skip
    for added in (seg, ad):
        added.add_argument("--absent-means", choices=["unannotated", "absent"], default="unannotated",
                           help="what it says that a class does not occur in a support volume")  # fmt: skip
        added.add_argument("--polish-seconds", type=float,
                           help="gradient steps on the support set; 0: none; "
                           "default: 20 on a CPU, 3 on a GPU, none from four volumes on")  # fmt: skip
    ve = verb("verify", "run the checks of a MONAI bundle; a bundle is a program, verify none that you would not run")
    ve.add_argument("bundle", type=Path)
    ev = verb("evaluate", "evaluate methods on an annotated folder; goes on where a run was cut off")
    ev.add_argument("--dataset", type=Path, required=True, help="folder with images/ and labels/")
    ev.add_argument("--methods", type=names, default=["hyper", "mean-mask"], metavar="A,B", help="methods to compare")
    ev.add_argument("--shots", type=numbers, metavar="K,K", help="numbers of support volumes; default: 1,2,4,8")
    ev.add_argument("--draws", type=int, help="support sets for every number of shots; default: 5")
    ev.add_argument("--queries", type=int, help="query volumes a draw, at most; default: 20")
    ev.add_argument("--quick", action="store_true", help="defaults of 1,4 shots, 2 draws, 8 queries")
    ev.add_argument("--seed", type=int, default=0)
    ev.add_argument("--split", help="name of a list in dataset.json; supports and queries both come from it")
    ev.add_argument("--binary", nargs="*", metavar="CLASS+CLASS",
                    help="classes or unions as tasks of their own; without any: every class")  # fmt: skip
    ev.add_argument("--perturb-fov", action="store_true", help="crop or pad every volume by 0 to 35%% a side")
    ev.add_argument("--shift", help="change the queries as another scanner would, e.g. noise or kspace-4x")
    ev.add_argument("--support-dataset", type=Path, help="folder that shows the support cases otherwise")
    ev.add_argument("--tolerance-mm", type=float, help="of the surface Dice; default: diagonal of a voxel")
    ev.add_argument("--group", metavar="COLUMN", help="compare groups of the dataset's participants.csv")
    be = verb("bench", "seconds to fit and per query of methods")
    be.add_argument("--methods", type=names, default=argparse.SUPPRESS, metavar="A,B", help="default: the fast ones")
    be.add_argument("--shots", type=numbers, default=argparse.SUPPRESS, metavar="K,K", help="default: 1,2,4,8,16")
    be.add_argument("--side", type=int, default=64, help="voxels a side")
    be.add_argument("--repeats", type=int, default=5)
    be.add_argument("--weights", type=Path, help="weights of the model; default: the released ones")
    be.add_argument("--device", default="cpu", help="cpu or cuda")
    ad.add_argument("--output", type=Path, required=True, help="folder of the bundle, which must not exist")
    for added in (seg, ev):
        added.add_argument("--output", type=Path, required=True, help="folder for the results")
    for added in (seg, ad, ev):
        added.add_argument("--classes", nargs="+", help="names or values of the classes; default: all")
        added.add_argument("--weights", type=Path, help="weights of the model; default: the released ones")
    demo = verb("demo", "segment scans after four annotated examples and show it")
    demo.add_argument("--data", help="labelled folder, or msd:TASK to download; default: a digital phantom")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for pictures and page")
    for added in (seg, ad, ev, demo):
        added.add_argument("--device", default="cpu", help="cpu or cuda")
    for added in (seg, ev, demo):
        added.add_argument("--overwrite", action="store_true", help="replace existing results")
    tr = verb("train", "meta-train the model or a baseline; goes on where a run was cut off")
    tr.add_argument("--method", choices=["hyper", "maml", "imaml", "universeg"],
                    help="what to train; default: the config's, hyper if it names none")  # fmt: skip
    tr.add_argument("--config", type=Path, required=True, help="JSON file, see monai_hyper/configs/")
    tr.add_argument("--data", type=Path, required=True, help="folder of the training data, or its pack")
    tr.add_argument("--output", type=Path, help="folder for checkpoints and logs; default: the config's")
    tr.add_argument("--start", help="file of weights to start from, or 'released'; default: random weights")
    tr.add_argument("--minutes", type=float, help="end after so many minutes of training in all, decay included")
    tr.add_argument("--device", help="cpu or cuda, under torchrun one GPU for each process; default: the config's")
    tr.add_argument("--precision", choices=["float32", "bfloat16"], help="of convolutions; default: the config's")
    tr.add_argument("--tasks", type=int, help="tasks of a step in every process; default: the config's")
    sy = verb("synth", "draw training tasks and show them as pictures")
    sy.add_argument("--data", type=Path, required=True, help="folder of the training data, or its pack")
    sy.add_argument("--output", type=Path, required=True, help="folder for index.html and pictures")
    sy.add_argument("--tasks", type=int, default=24)
    sy.add_argument("--seed", type=int, default=0)
    co = verb("convert", "bring downloaded training data into the layout that is read here")
    co.add_argument("--data", type=Path, required=True, help="the downloaded folder, see docs/data.md")
    co.add_argument("--layout", required=True, metavar="NAME",
                    help="data set of docs/data.md, or 'plain' for label maps with images/ beside them")  # fmt: skip
    co.add_argument("--output", type=Path, required=True, help="folder to write; train looks for it under its NAME")
    pk = verb("pack", "put all training data into one compact file, for training elsewhere")
    pk.add_argument("--data", type=Path, required=True, help="folder of the training data, see docs/data.md")
    pk.add_argument("--output", type=Path, required=True, help="file to write")
    for added in (sy, co, pk):
        added.add_argument("--overwrite", action="store_true", help="replace an existing result")
    verb("info", "versions, device and weights")
    return top


def note(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def show(result: object, as_json: bool) -> None:
    """Results, to stdout: JSON for machines, a table or lines for people."""
    if as_json:
        print(json.dumps(result, indent=1, default=str))
    elif isinstance(result, list) and result and "query" not in result[0]:
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
    """Exit code 0: done, 1: done but for some cases, 2: misused or bad input; other failures end with a traceback."""
    arguments = parser().parse_args(argv)
    try:
        show(run(arguments), arguments.json)
    except InputError as error:
        note(f"monai-hyper: {error}")
        return 2
    except SomeFailed as error:
        note(f"monai-hyper: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
