"""Seconds and memory of segmenting a CT of usual size from the command line, on a digital phantom.

    python benchmarks/full_size.py --threads 2
    python benchmarks/full_size.py --threads 2 --support 256 256 150

Four support volumes, as small as the phantom is made or resampled, and one query of 512 x 512 x 300 voxels. Prints, for
the network as it is generated and for the polished one, seconds of the whole command, of making the network and of the
query, the processor time of the command, which depends less on what else the machine does, the peak memory of its
process, and the Dice of every class beside what was expected.
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
WAYS = {"as generated": ["--polish-seconds", "0"], "polished": ["--polish-seconds", "20"]}


def resampled(index: int, size: tuple[int, ...] | None) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label map of a patient, of so many voxels; None: as the phantom is made."""
    image, label, affine = phantom_case(KIND, index)
    factor = np.array(size or image.shape) / image.shape
    finer = affine @ np.diag([*1 / factor, 1])
    finer[:3, 3] += affine[:3, :3] @ (0.5 / factor - 0.5)  # a smaller voxel 0 has its centre nearer to the corner
    image, label = (
        ndimage.zoom(array, factor, order=order, mode="nearest", grid_mode=True)
        for array, order in ((image, 1), (label, 0))
    )
    return nib.Nifti1Image(image, finer), nib.Nifti1Image(label, finer)


def write_support(folder: Path, size: tuple[int, ...] | None) -> tuple[int, ...]:
    """Write the support volumes; returns the shape of the first."""
    write_phantom(folder, KIND, SHOTS)  # for its dataset.json
    pairs = [resampled(index, size) for index in range(SHOTS)]
    for index, pair in enumerate(pairs):
        for kind, volume in zip(("images", "labels"), pair):
            nib.save(volume, folder / kind / f"{KIND}_{index:02d}.nii.gz")
    return pairs[0][0].shape


def segment(folder: Path, output: Path, threads: int, options: list[str]) -> tuple[float, resource.struct_rusage]:
    """Run the command; returns its seconds and what it used.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, "-m", "monai_hyper.cli", "segment", "--support", str(folder / "support"),
               "--query", str(folder / "query.nii.gz"), "--output", str(output), *options]  # fmt: skip
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    limits = {name: str(threads) for name in names}
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | limits)
    _, status, used = os.wait4(process.pid, 0)  # of this process alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    return time.perf_counter() - begun, used


def show(way: str, output: Path, truth: np.ndarray, seconds: float, used: resource.struct_rusage) -> None:
    """Print what one run of the command took and found."""
    predicted = np.asarray(nib.load(output / "query.nii.gz").dataobj)
    report = json.loads((output / "query.json").read_text(encoding="utf-8"))
    network, query = (report["seconds"][part] for part in ("generate_network", "segment"))
    print(f"\n{way}: command {seconds:.1f} s, network {network:.1f} s, query {query:.1f} s")
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"processor time {used.ru_utime + used.ru_stime:.1f} s, peak memory {memory:.2f} GB")
    print(f"expected Dice {report['expected_dice']['this_volume']:.3f}")
    for value, name in enumerate(CLASSES[KIND], 1):
        a, b = predicted == value, truth == value
        print(f"{name}: Dice {2 * (a & b).sum() / (a.sum() + b.sum()):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--support", type=int, nargs=3, help="voxels of the support volumes; default: about 66 a side")
    arguments = parser.parse_args()
    with TemporaryDirectory() as beside:
        folder = Path(beside)
        shape = write_support(folder / "support", arguments.support)
        query, truth = resampled(SHOTS, SIZE)
        nib.save(query, folder / "query.nii.gz")
        print(f"{SHOTS} support volumes of {shape}, query of {SIZE}, {arguments.threads} threads")
        for number, (way, options) in enumerate(WAYS.items()):
            output = folder / f"out-{number}"
            seconds, used = segment(folder, output, arguments.threads, options)
            show(way, output, np.asarray(truth.dataobj), seconds, used)


if __name__ == "__main__":
    main()
