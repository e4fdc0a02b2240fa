"""One function per verb of the command line."""

from monai_hyper.commands.annotating import fetch, label
from monai_hyper.commands.classifying import adapt_classifier, classify
from monai_hyper.commands.common import info, refuse_existing, versions
from monai_hyper.commands.evaluating import bench, evaluate
from monai_hyper.commands.segmenting import adapt, find_queries, segment, verify
from monai_hyper.commands.training import convert, pack, synth, train

__all__ = [
    "adapt",
    "adapt_classifier",
    "bench",
    "classify",
    "convert",
    "evaluate",
    "fetch",
    "find_queries",
    "info",
    "label",
    "pack",
    "refuse_existing",
    "segment",
    "synth",
    "train",
    "verify",
    "versions",
]
