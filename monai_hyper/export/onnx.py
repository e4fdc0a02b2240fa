"""Generated networks as ONNX, for runtimes that know nothing of PyTorch."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

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
    image = torch.rand(1, 1, side, side, side, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of constants that are constants
        torch.onnx.export(
            network.eval(), (image,), str(path), dynamo=False, opset_version=OPSET, input_names=["image"],
            output_names=["logits"], dynamic_axes={"image": AXES, "logits": AXES},
        )  # fmt: skip


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
