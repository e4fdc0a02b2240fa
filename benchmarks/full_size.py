"""Seconds and memory of segmenting a CT of usual size from the command line, on a digital phantom.

    python benchmarks/full_size.py --threads 2

Four support volumes of a usual size, one query of 512 x 512 x 300 voxels. Prints seconds of the whole command, of
generating the network and of the query, the processor time of the command, which depends less on what else the machine
does, the peak memory of its process, and the Dice of every class.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from scipy import ndimage

from monai_hyper.data.phantom import CLASSES, phantom_case, write_phantom

KIND, SHOTS = "torso_ct", 4
SIZE = (512, 512, 300)


def write_query(path: Path) -> np.ndarray:
    """Write another patient at ``SIZE``; returns its labels ``SIZE``."""
    image, label, affine = phantom_case(KIND, SHOTS)
    factor = np.array(SIZE) / image.shape
    finer = affine @ np.diag([*1 / factor, 1])
    finer[:3, 3] += affine[:3, :3] @ (0.5 / factor - 0.5)  # voxel 0 is smaller, its centre nearer to the corner
    large = ndimage.zoom(image, factor, order=1, mode="nearest", grid_mode=True)
    nib.save(nib.Nifti1Image(large, finer), path)
    return ndimage.zoom(label, factor, order=0, mode="nearest", grid_mode=True)


def segment(folder: Path, threads: int) -> tuple[float, resource.struct_rusage, dict]:
    """Run the command; returns its seconds, what it used, and what its JSON file says."""
    command = [sys.executable, "-m", "monai_hyper.cli", "segment", "--support", str(folder / "support"),
               "--query", str(folder / "query.nii.gz"), "--output", str(folder / "out")]  # fmt: skip
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    limits = {name: str(threads) for name in names}
    begun = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | limits)
    seconds = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, used, json.loads((folder / "out" / "query.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with TemporaryDirectory() as beside:
        folder = Path(beside)
        write_phantom(folder / "support", KIND, SHOTS)
        shape = nib.load(next((folder / "support" / "images").iterdir())).shape
        truth = write_query(folder / "query.nii.gz")
        seconds, used, report = segment(folder, arguments.threads)
        predicted = np.asarray(nib.load(folder / "out" / "query.nii.gz").dataobj)
    parts = report["seconds"]
    print(f"{SHOTS} support volumes of {shape}, query of {SIZE}, {arguments.threads} threads")
    print(f"command {seconds:.1f} s, network {parts['generate_network']:.1f} s, query {parts['segment']:.1f} s")
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"processor time {used.ru_utime + used.ru_stime:.1f} s, peak memory {memory:.2f} GB")
    for value, name in enumerate(CLASSES[KIND], 1):
        a, b = predicted == value, truth == value
        print(f"{name}: Dice {2 * (a & b).sum() / (a.sum() + b.sum()):.3f}")


if __name__ == "__main__":
    main()
