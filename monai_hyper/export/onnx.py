"""Generated networks as ONNX, for runtimes that know nothing of PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx.symbolic_helper import parse_args

from monai_hyper.types import InputError

OPSET = 20
"""The first in which volumes are read between their voxels (GridSample of five dimensions)."""

AXES = {2: "depth", 3: "height", 4: "width"}


def wants_onnx(asked: bool | None) -> bool:
    """Whether to write ONNX: as asked for, and by default where the extra is installed.

    Raises:
        InputError: if it is asked for and the extra is not installed.
    """
    there = find_spec("onnx") is not None
    if asked and not there:
        raise InputError("--onnx: the package onnx is not installed; expected it. Try: pip install monai_hyper[onnx]")
    return there if asked is None else asked


def write_onnx(network: nn.Module, path: Path, side: int = 48) -> None:
    """Write a network as ONNX that takes an image of any size, one at a time.

    Args:
        network: from :meth:`monai_hyper.networks.network.CascadeNetwork.materialise`, on the CPU.
        path: of the file; its input is called "image", ``(1, 1, D, H, W)``, its output "logits", ``(1, N, D, H, W)``.
        side: of the volume that is traced.
    """
    _export(network, (side,) * 3, path, {"image": AXES, "logits": AXES})


def write_classifier_onnx(network: nn.Module, path: Path, grid: Sequence[int]) -> None:
    """Write a classifier as ONNX that takes one prepared image at a time, all of one size.

    Args:
        network: from :meth:`monai_hyper.networks.classification.ConditionedClassifier.materialise`, on the CPU.
        path: of the file; its input is called "image", ``(1, 1, *grid)``, its output "logits", ``(1, N)``.
    """
    with pooling():
        _export(network, grid, path, None)


def _export(network: nn.Module, grid: Sequence[int], path: Path, axes: Mapping | None) -> None:
    image = torch.rand(1, 1, *grid, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of constants that are constants
        torch.onnx.export(
            network.eval(), (image,), str(path), dynamo=False, opset_version=OPSET, input_names=["image"],
            output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip


@contextmanager
def pooling() -> Iterator[None]:
    """The exporter knows adaptive means of any size, where its own way only halves what is even."""
    name = "aten::adaptive_avg_pool3d"
    torch.onnx.register_custom_op_symbolic(name, _pooled, OPSET)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(name, OPSET)


@parse_args("v", "is")
def _pooled(graph: Any, image: Any, size: list[int]) -> Any:
    """Adaptive means as a product with a matrix along each axis."""
    found = [mean_matrix(old, new) for old, new in zip(image.type().sizes()[2:], size)]
    matrices = [graph.op("Constant", value_t=matrix) for matrix in found]
    return graph.op("Einsum", image, *matrices, equation_s="bcdhw,xd,yh,zw->bcxyz")


def mean_matrix(old: int, new: int) -> Tensor:
    """``(new, old)``: what each of ``new`` adaptive means takes of ``old`` voxels.

    Example:
        >>> mean_matrix(3, 2)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000]])
    """
    return torch.nn.functional.adaptive_avg_pool1d(torch.eye(old)[None], new)[0].T.contiguous()


def run_onnx(path: Path, image: Tensor) -> Tensor:
    """What a network of :func:`write_onnx` says of an image, by onnxruntime, with a thread for every one of torch's.

    Args:
        image: ``(1, 1, D, H, W)``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_reuse = False  # planning it for thousands of small operators takes longer than running them
    # fused operators round differently, which can tip the choice between displacements that fit equally well
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
