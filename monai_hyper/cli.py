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


Parser = argparse.ArgumentParser

TRAINED = ("hyper", "maml", "imaml", "universeg",
           "hyper-classifier", "prototype-classifier", "maml-classifier", "imaml-classifier")  # fmt: skip
"""What can be meta-trained."""


def common(verb: Parser, *options: str) -> None:
    """Options that several verbs have, by their names."""
    known = {
        "--support": {"type": Path, "required": True, "help": "folder with images/ and labels/, 1 to 16 volumes"},
        "--text": {"nargs": "+", "metavar": "TEXT", "help": "what describes the class, such as 'left parotid gland on "
                   "CT'; of several CLASS=TEXT"},
        "--absent-means": {"choices": ["unannotated", "absent"], "default": "unannotated",
                           "help": "what it says that a class does not occur in a support volume"},
        "--polish-seconds": {"type": float, "help": "gradient steps on the support set; 0: none; "
                             "default: 20 on a CPU, 3 on a GPU, none from four volumes on"},
        "--classes": {"nargs": "+", "help": "names or values of the classes; default: all; of DICOM labels also "
                      "NAME=REGEX"},
        "--keep-identifiers": {"action": "store_true",
                               "help": "leave the patient's name and number in DICOM results"},
        "--reliable": {"type": float, "default": 0.9, "metavar": "SHARE",
                       "help": "of the answers that shall be right where one is given; 0: always answer"},
        "--weights": {"type": Path, "help": "weights of the model; default: the released ones"},
        "--device": {"default": "cpu", "help": "cpu or cuda"},
        "--overwrite": {"action": "store_true", "help": "replace existing results"},
        "--output": {"type": Path, "required": True, "help": "folder for the results"},
        "--data": {"type": Path, "required": True, "help": "folder of the training data, or its pack"},
    }  # fmt: skip
    for option in options:
        verb.add_argument(option, **known[option])


def segment(verb: Parser) -> None:
    """Segment volumes after the example of a folder of annotated ones, after descriptions, or both."""
    verb.add_argument("--query", type=Path, required=True, help="volume, or folder of volumes")
    verb.add_argument("--support", type=Path, help="folder with images/ and labels/, 1 to 16 volumes; or --text")
    common(verb, "--text", "--absent-means", "--polish-seconds", "--output", "--keep-identifiers")
    common(verb, "--classes", "--weights", "--device", "--overwrite")
    verb.add_argument("--format", choices=["nifti", "dicom-seg", "rtstruct"], default="nifti",
                      help="of label maps; DICOM for scans in DICOM only")  # fmt: skip
    verb.add_argument("--codes", type=Path, metavar="FILE", help="JSON with codes of classes for DICOM-SEG")


def classify(verb: Parser) -> None:
    """Classify images after a few examples of each class, or after its description."""
    verb.add_argument("--support", type=Path, required=True,
                      help="folder with a sub-folder for every class, or CSV file: path, class, text")  # fmt: skip
    verb.add_argument("--query", type=Path, required=True, help="image, or folder of images")
    common(verb, "--reliable", "--output", "--weights", "--device", "--overwrite")


def adapt(verb: Parser) -> None:
    """Write a generated network, or a classifier, as a MONAI bundle that runs without this package."""
    verb.add_argument("--classifier", action="store_true", help="a classifier, of a --support as classify takes it")
    common(verb, "--support", "--text", "--absent-means", "--polish-seconds", "--classes", "--weights", "--device")
    common(verb, "--reliable")
    verb.set_defaults(absent_means=None, reliable=None)  # to tell what was asked for; the functions have their own
    verb.add_argument("--output", type=Path, required=True, help="folder of the bundle, which must not exist")
    verb.add_argument("--name", help="of the bundle, for people; default: its classes")
    verb.add_argument("--polish", type=int, metavar="N", help="gradient steps on the support set")
    verb.add_argument("--onnx", action=argparse.BooleanOptionalAction,
                      help="ONNX beside TorchScript, in a minute more; default: if [onnx] is installed")  # fmt: skip


def verify(verb: Parser) -> None:
    """Run the checks of a MONAI bundle; a bundle is a program, verify none that you would not run."""
    verb.add_argument("bundle", type=Path)


def evaluate(verb: Parser) -> None:
    """Evaluate methods on an annotated folder; goes on where a run was cut off."""
    verb.add_argument("--dataset", type=Path, required=True, help="folder with images/ and labels/")
    verb.add_argument("--methods", type=names, default=["hyper", "mean-mask"], metavar="A,B", help="to compare")
    verb.add_argument("--shots", type=numbers, metavar="K,K", help="numbers of support volumes; default: 1,2,4,8")
    verb.add_argument("--draws", type=int, help="support sets for every number of shots; default: 5")
    verb.add_argument("--queries", type=int, help="query volumes a draw, at most; default: 20")
    verb.add_argument("--quick", action="store_true", help="defaults of 1,4 shots, 2 draws, 8 queries")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--split", help="name of a list in dataset.json; supports and queries both come from it")
    verb.add_argument("--binary", nargs="*", metavar="CLASS+CLASS",
                      help="classes or unions as tasks of their own; without any: every class")  # fmt: skip
    verb.add_argument("--perturb-fov", action="store_true", help="crop or pad every volume by 0 to 35%% a side")
    verb.add_argument("--shift", help="change the queries as another scanner would, e.g. noise or kspace-4x")
    verb.add_argument("--support-dataset", type=Path, help="folder that shows the support cases otherwise")
    verb.add_argument("--tolerance-mm", type=float, help="of the surface Dice; default: diagonal of a voxel")
    verb.add_argument("--group", metavar="COLUMN", help="compare groups of the dataset's participants.csv")
    common(verb, "--output", "--classes", "--weights", "--device", "--overwrite")


def bench(verb: Parser) -> None:
    """Seconds to fit and per query of methods."""
    verb.add_argument("--methods", type=names, default=argparse.SUPPRESS, metavar="A,B", help="default: the fast ones")
    verb.add_argument("--shots", type=numbers, default=argparse.SUPPRESS, metavar="K,K", help="default: 1,2,4,8,16")
    verb.add_argument("--side", type=int, default=64, help="voxels a side")
    verb.add_argument("--repeats", type=int, default=5)
    common(verb, "--weights", "--device")


def demo(verb: Parser) -> None:
    """Segment scans after four annotated examples and show it."""
    verb.add_argument("--data", help="labelled folder, or msd:TASK to download; default: a digital phantom")
    verb.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for pictures and page")
    common(verb, "--device", "--overwrite")


def train(verb: Parser) -> None:
    """Meta-train the model or a baseline; goes on where a run was cut off."""
    common(verb, "--data")
    verb.add_argument("--method", choices=TRAINED,
                      help="what to train; default: the config's, hyper if it names none")  # fmt: skip
    verb.add_argument("--config", type=Path, required=True, help="JSON file, see monai_hyper/configs/")
    verb.add_argument("--output", type=Path, help="folder for checkpoints and logs; default: the config's")
    verb.add_argument("--start", help="file of weights to start from, or 'released'; default: random weights")
    verb.add_argument("--minutes", type=float, help="end after so many minutes of training in all, decay included")
    verb.add_argument("--device", help="cpu or cuda, under torchrun one GPU for each process; default: the config's")
    verb.add_argument("--precision", choices=["float32", "bfloat16"], help="of convolutions; default: the config's")
    verb.add_argument("--tasks", type=int, help="tasks of a step in every process; default: the config's")


def synth(verb: Parser) -> None:
    """Draw training tasks and show them as pictures."""
    common(verb, "--data", "--output", "--overwrite")
    verb.add_argument("--tasks", type=int, default=24)
    verb.add_argument("--seed", type=int, default=0)


def convert(verb: Parser) -> None:
    """Bring downloaded training data into the layout that is read here."""
    verb.add_argument("--data", type=Path, required=True, help="the downloaded folder, see docs/data.md")
    verb.add_argument("--layout", required=True, metavar="NAME",
                      help="data set of docs/data.md, or 'plain' for label maps with images/ beside them")  # fmt: skip
    verb.add_argument("--output", type=Path, required=True, help="folder to write; train looks for it under its NAME")
    common(verb, "--overwrite")


def pack(verb: Parser) -> None:
    """Put all training data into one compact file, for training elsewhere."""
    verb.add_argument("--data", type=Path, required=True, help="folder of the training data, see docs/data.md")
    verb.add_argument("--output", type=Path, required=True, help="file to write")
    common(verb, "--overwrite")


def label(verb: Parser) -> None:
    """Serve scans to annotators: after the first label, the next scans come segmented (needs MONAI Label)."""
    verb.add_argument("action", nargs="?", choices=["serve", "history", "rollback"], default="serve",
                      help="serve; list all networks so far; or use an earlier one again")  # fmt: skip
    verb.add_argument("--studies", required=True, help="folder of scans, or address of a DICOMweb server")
    verb.add_argument("--version", type=int, help="rollback: number of the network, see history")
    verb.add_argument("--port", type=int, default=8000)
    verb.add_argument("--host", default="127.0.0.1", help="another than this machine needs --allow-remote")
    verb.add_argument("--allow-remote", action="store_true", help="let others in, who have to sign in")
    verb.add_argument("--most", type=int, default=8, help="annotated volumes that are used, 1 to 16")
    verb.add_argument("--labels", type=names, metavar="A,B", help="names of the values 1, 2, ... of label maps")
    common(verb, "--classes", "--weights", "--device", "--keep-identifiers", "--polish-seconds")


def fetch(verb: Parser) -> None:
    """Fetch annotated scans from TCIA or IDC into a folder of examples, with their licence; see docs/fetch.md."""
    verb.add_argument("source", choices=["tcia", "idc", "list"], help="list: collections that are known to have labels")
    verb.add_argument("--collection", help="name of a collection")
    verb.add_argument("--patients", nargs="+", metavar="ID", help="default: the first ones that have annotations")
    verb.add_argument("--most", type=int, default=4, help="volumes, at most")
    verb.add_argument("--modality", help="CT, MR or PT; default: whatever the annotations refer to")
    verb.add_argument("--structures", metavar="REGEX", help="only cases that show such a structure")
    verb.add_argument("--annotations", metavar="ID_OR_DOI", help="of which analysis, where there are several")
    verb.add_argument("--keep-identifiers", action="store_true", help="name cases after the public patient ids")
    verb.add_argument("--output", type=Path, help="folder to write, or to go on with")


def info(verb: Parser) -> None:
    """Versions, device and weights."""


VERBS = (segment, classify, adapt, label, fetch, verify, evaluate, bench, demo, train, synth, convert, pack, info)
"""Each adds its options to a parser; its docstring is its help."""


def parser() -> Parser:
    """The command line's grammar."""
    top = Parser(prog="monai-hyper", description="Few-shot segmentation and classification by generated networks.")
    verbs = top.add_subparsers(dest="verb", required=True)
    for grammar in VERBS:
        text = grammar.__doc__[0].lower() + grammar.__doc__[1:].rstrip(".")
        verb = verbs.add_parser(grammar.__name__, help=text, description=text)
        verb.add_argument("--json", action="store_true", help="results as JSON")
        grammar(verb)
    return top


def note(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def show(result: object, as_json: bool) -> None:
    """Results, to stdout: JSON for machines, a table or lines for people."""
    if as_json:
        print(json.dumps(result, indent=1, default=str))
    elif result is None:
        return
    elif isinstance(result, list) and result and "volumes_ml" not in result[0]:
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


def adapt_either(options: dict) -> object:
    """Call ``adapt`` or, with --classifier, ``adapt_classifier``, which takes other options.

    Raises:
        InputError: for an option of the other one.
    """
    from monai_hyper import commands

    given = {name: value for name, value in options.items() if value is not None}
    classifier = given.pop("classifier")
    others = ("text", "absent_means", "classes", "polish", "polish_seconds") if classifier else ("reliable",)
    for name in others:
        if name in given:
            option = f"--{name.replace('_', '-')}"
            if classifier:
                raise InputError(f"found --classifier and {option}; expected one of them. {option} is to segment.")
            raise InputError(f"found {option} without --classifier; expected both or none. {option} is to classify.")
    return (commands.adapt_classifier if classifier else commands.adapt)(**given, progress=note)


def run(arguments: argparse.Namespace) -> object:
    """Call the function of a verb."""
    from monai_hyper import commands

    options = {k: v for k, v in vars(arguments).items() if k not in ("verb", "json")}
    if arguments.verb == "info":
        return commands.info()
    if arguments.verb == "adapt":
        return adapt_either(options)
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
