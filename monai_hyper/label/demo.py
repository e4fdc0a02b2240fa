"""Annotate scans as a client of the label server would, and see how the next ones come out after every label.

Run by ``make label-demo``, or ``python -m monai_hyper.label.demo --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import requests
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from monai_hyper.data.classes import ClassTable, class_table, resolved
from monai_hyper.data.folder import Case, list_cases, read_description, read_pair
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.evaluation.simple import split_cases
from monai_hyper.export.dicom_series import save_series
from monai_hyper.export.nifti import save_image, save_label
from monai_hyper.inference.pipeline import modality_of_text
from monai_hyper.label import orthanc
from monai_hyper.label.state import MODEL
from monai_hyper.transforms.classes import SelectClasses
from monai_hyper.types import InputError

PATIENCE = 1800
"""How long a network may take, s."""


@contextmanager
def server(studies: str, cache: Path, arguments: Sequence[str] = ()) -> Iterator[str]:
    """A label server in a process of its own; yields its address.

    Args:
        cache: where it keeps what it has of a DICOMweb server.
    """
    port = orthanc.free_port()
    command = [sys.executable, "-m", "monai_hyper.cli", "label", "--studies", studies, "--port", str(port), *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                requests.get(f"{address}/info/", timeout=60)
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Annotator:
    """A client of a label server.

    Args:
        address: of the server; table: the classes that are annotated.
    """

    def __init__(self, address: str, table: ClassTable) -> None:
        self.address, self.table = address, table

    def save(self, image: str, label: Path) -> float:
        """Submit a label map and wait for the network that has learned from it; seconds until then."""
        info = [{"name": name, "idx": index} for index, name in enumerate(self.table.names, 1)]
        before, begun = self.network()["version"], time.perf_counter()
        with label.open("rb") as file:
            answer = requests.put(
                f"{self.address}/datastore/label?image={image}", files={"label": (label.name, file)},
                data={"params": json.dumps({"label_info": info})}, timeout=600,
            )  # fmt: skip
        _refuse(answer)
        while self.network()["version"] == before:
            if time.perf_counter() - begun > PATIENCE:
                raise TimeoutError(f"no network after {PATIENCE} s: {self.network()}")
            time.sleep(0.2)
        return time.perf_counter() - begun

    def on_grid(self, image: str, label: MetaTensor, work: Path) -> MetaTensor:
        """A label map on the grid of a scan as the server has it, with the values 1, 2, ... for the classes."""
        answer = requests.get(f"{self.address}/datastore/image?image={image}", timeout=600)
        _refuse(answer)
        (work / "scan.nii.gz").write_bytes(answer.content)
        chosen, scan = SelectClasses(self.table.values)(label), read_image(work / "scan.nii.gz")
        return ResampleToMatch(mode="nearest")(chosen.float(), scan).round().long()

    def network(self) -> dict:
        """State of the network."""
        return requests.get(f"{self.address}/info/", timeout=600).json()["network"]

    def settled(self) -> dict:
        """The same, once no network is being generated."""
        while self.network()["regenerating"]:
            time.sleep(0.2)
        return self.network()

    def segment(self, image: str, path: Path, version: int = 0) -> float:
        """Have a scan segmented by a network, 0: the last one; seconds it took."""
        begun = time.perf_counter()
        asked = {"params": json.dumps({"version": version})}
        answer = requests.post(f"{self.address}/infer/{MODEL}?image={image}&output=image", data=asked, timeout=PATIENCE)
        _refuse(answer)
        path.write_bytes(answer.content)
        return time.perf_counter() - begun


def _refuse(answer: requests.Response) -> None:
    if not answer.ok:
        raise InputError(f"{answer.url}: {answer.status_code} {answer.text[:500]}")


def annotate(
    client: Annotator, ids: dict[str, str], support: Sequence[Case], queries: Sequence[Case], work: Path
) -> list[dict]:
    """Submit the labels of ``support`` one by one; Dice and seconds of ``queries`` after each.

    Args:
        ids: what the server calls the cases.
    """
    rows = []
    for count, case in enumerate(support, 1):
        label = client.on_grid(ids[case.name], read_pair(case)[1], work)
        ready = client.save(ids[case.name], save_label(label, work / f"{case.name}-label.nii.gz"))
        begun, version = time.perf_counter(), client.network()["version"]
        rows.append(score(client, ids, queries, work, str(count), ready, version))
        if client.settled()["version"] > version:
            rows.append(score(client, ids, queries, work, f"{count}, polished", ready + time.perf_counter() - begun))
    return rows


def score(
    client: Annotator, ids: dict[str, str], queries: Sequence[Case], work: Path, labels: str, ready: float,
    version: int = 0,
) -> dict:  # fmt: skip
    """A row of the table: Dice of the scans, mean over their classes, and seconds.

    Args:
        version: of the network; 0: the last one.
    """
    dice, seconds = [], []
    for query in queries:
        seconds.append(client.segment(ids[query.name], work / "answer.nii.gz", version))
        found, truth = read_label(work / "answer.nii.gz"), client.on_grid(ids[query.name], read_pair(query)[1], work)
        each = dice_per_class(found, truth, tuple(range(1, len(client.table.names) + 1)))
        dice.append(sum(each) / len(each))
    return {
        "labels": labels, "dice": sum(dice) / len(dice), "lowest": min(dice),
        "seconds_until_ready": round(ready, 1), "seconds_a_scan": round(sum(seconds) / len(seconds), 2),
    }  # fmt: skip


def run(
    folder: Path, split: str | None, classes: Sequence[str] | None, labels: int, scans: int, through_orthanc: bool,
    arguments: Sequence[str], progress: Callable[[str], None],
) -> list[dict]:  # fmt: skip
    """Serve scans of an annotated folder, and annotate some of them.

    Args:
        folder: annotated; split: only cases of this list; classes: only these.
        labels: how many are submitted; scans: how many are segmented after each.
        through_orthanc: whether the scans lie in Orthanc, labels as DICOM-SEG beside them, instead of in a folder; then
            the last row is of a fresh server that has read them back.
        arguments: more of them for the server.

    Returns:
        a row for every label.
    """
    support, queries = split_cases(folder, split, labels, scans, 0, classes)
    table = class_table(folder, list_cases(folder, split), classes)
    support, queries = resolved(support, table), resolved(queries, table)
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        studies, ids = _served(folder, [*support, *queries], work, stack if through_orthanc else None)
        with server(studies, work / "first", arguments) as address:
            page = requests.get(f"{address}/ohif/", timeout=60)
            progress(f"{address}: the viewer's page answers with {page.status_code}, {len(page.content)} bytes")
            rows = annotate(Annotator(address, table), ids, support, queries, work)
        if through_orthanc:
            arguments = [*arguments, "--labels", ",".join(table.names)]
            with server(studies, work / "second", arguments) as address:
                rows.append(_again(Annotator(address, table), ids, queries, work, labels))
    return rows


def _served(
    folder: Path, cases: Sequence[Case], work: Path, orthanc_in: ExitStack | None
) -> tuple[str, dict[str, str]]:
    """What to serve, a folder or the address of Orthanc, and what the cases are called there."""
    if orthanc_in is None:
        for case in cases:
            save_image(read_pair(case)[0], work / "studies" / f"{case.name}.nii.gz")
        return str(work / "studies"), {case.name: case.name for case in cases}
    address = orthanc_in.enter_context(orthanc.running(work / "orthanc"))
    modality = modality_of_text(read_description(folder).get("modality")) or "MR"
    ids = {}
    for case in cases:
        ids[case.name] = save_series(read_pair(case)[0], work / "series" / case.name, modality, f"demo^{case.name}")
        orthanc.upload(address, work / "series" / case.name)
    return f"{address}/dicom-web", ids


def _again(client: Annotator, ids: dict[str, str], queries: Sequence[Case], work: Path, labels: int) -> dict:
    """A row of a server that has seen nothing but what Orthanc keeps."""
    begun = time.perf_counter()
    while client.network()["version"] == 0:
        time.sleep(0.2)
    client.settled()
    return score(client, ids, queries, work, f"{labels}, read back", time.perf_counter() - begun)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="annotated folder; default: a digital phantom")
    parser.add_argument("--split")
    parser.add_argument("--classes", nargs="+")
    parser.add_argument("--labels", type=int, default=3)
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--orthanc", action="store_true", help="keep scans and labels in Orthanc")
    parser.add_argument("--polish-seconds", help="see monai-hyper label")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as made:
        folder = options.data or write_phantom(Path(made), "head_mr", cases=options.labels + options.scans)
        polish = ["--polish-seconds", options.polish_seconds] if options.polish_seconds else []
        rows = run(folder, options.split, options.classes, options.labels, options.scans, options.orthanc, polish,
                   lambda text: print(text, file=sys.stderr, flush=True))  # fmt: skip
    print("  ".join(f"{key:>20}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{v:20.3f}" if isinstance(v, float) else f"{v!s:>20}" for v in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
