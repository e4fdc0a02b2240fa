"""A labelled folder of tiny volumes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


def write_case(folder: Path, name: str, values: tuple[int, ...], seed: int) -> None:
    """One volume of noise with a bright cuboid for every value."""
    rng = np.random.default_rng(seed)
    label = np.zeros((18, 20, 16), np.uint8)
    for i, value in enumerate(values):
        x, y, z = rng.integers(2, 5, 3)
        label[x + 6 * i : x + 6 * i + 5, y : y + 8, z : z + 7] = value
    image = rng.normal(size=label.shape) + 3.0 * label
    for kind, volume in (("images", image.astype(np.float32)), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), folder / kind / f"{name}.nii.gz")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight cases that show two classes."""
    for index in range(8):
        write_case(tmp_path / "data", f"case_{index}", (1, 2), index)
    return tmp_path / "data"
