"""Write released weights as the ``models/model.pt`` that a MONAI bundle expects."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from monai_hyper.types import InputError


def write_model_pt(weights: Path, path: Path) -> Path:
    """Turn a safetensors file into a bare ``state_dict`` that ``torch.load(..., weights_only=True)`` reads.

    Args:
        weights: safetensors file; half precision is widened to float32.
        path: file to write; folders on the way are made.

    Returns:
        ``path``.

    Raises:
        InputError: if ``weights`` is not a readable safetensors file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from safetensors.torch import save_file
        >>> with TemporaryDirectory() as folder:
        ...     save_file({"conv.bias": torch.ones(2).half()}, Path(folder, "w.safetensors"))
        ...     torch.load(write_model_pt(Path(folder, "w.safetensors"), Path(folder, "model.pt")), weights_only=True)
        {'conv.bias': tensor([1., 1.])}
    """
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights}: expected a safetensors file, found none that can be read ({error}).") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, path)
    return path


def main() -> None:
    """Command line: ``python -m monai_hyper.export.bundle_weights WEIGHTS MODEL_PT``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    print(write_model_pt(arguments.weights, arguments.path))


if __name__ == "__main__":
    main()
