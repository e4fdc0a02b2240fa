"""Many clients ask the label server for scans while labels are being saved: failures, networks, seconds, memory.

python benchmarks/label_load.py --data ../shared/data/hippocampus_mr --split select
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import requests

from monai_hyper.data.classes import class_table, resolved
from monai_hyper.data.folder import list_cases, read_pair
from monai_hyper.evaluation.simple import split_cases
from monai_hyper.export.nifti import save_image, save_label
from monai_hyper.label.demo import Annotator, server
from monai_hyper.label.state import MODEL


class Memory:
    """Largest resident memory of a process and its children in every tenth of the requests, MiB."""

    def __init__(self, pid: int) -> None:
        self.process, self.seen = psutil.Process(pid), []
        self.stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.stop.wait(0.5):
            self.seen.append(self.process.memory_info().rss / 2**20)

    def tenths(self) -> list[int]:
        """Largest value in every tenth of the time."""
        step = max(len(self.seen) // 10, 1)
        return [round(max(self.seen[i : i + step])) for i in range(0, len(self.seen), step)][:10]


def pid_of(address: str) -> int:
    """Process that listens to a port."""
    port = int(address.rpartition(":")[2])
    return next(c.pid for c in psutil.net_connections() if c.laddr.port == port and c.status == psutil.CONN_LISTEN)


def main() -> None:
    """Print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="annotated folder")
    parser.add_argument("--split")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--labels", type=int, default=5)
    options = parser.parse_args()
    support, queries = split_cases(options.data, options.split, options.labels, 4, 0, None)
    table = class_table(options.data, list_cases(options.data, options.split))
    support, queries = resolved(support, table), resolved(queries, table)
    with TemporaryDirectory() as made:
        work = Path(made)
        for case in [*support, *queries]:
            save_image(read_pair(case)[0], work / "studies" / f"{case.name}.nii.gz")
        with server(str(work / "studies"), work / "cache") as address:
            client = Annotator(address, table)
            files = [save_label(read_pair(case)[1], work / f"{case.name}.nii.gz") for case in support]
            client.save(support[0].name, files[0])
            memory, begun = Memory(pid_of(address)), time.perf_counter()

            def ask(index: int) -> tuple[int, int, int]:
                image = queries[index % len(queries)].name
                answer = requests.post(f"{address}/infer/{MODEL}?image={image}&output=json", timeout=3600)
                facts = answer.json() if answer.ok else {}
                return answer.status_code, facts.get("version", 0), facts.get("shots", 0)

            with ThreadPoolExecutor(options.clients) as clients:
                asked = [clients.submit(ask, index) for index in range(options.requests)]
                for case, file in zip(support[1:], files[1:]):
                    client.save(case.name, file)
                found = [each.result() for each in asked]
            memory.stop.set()
            print(f"{len(found)} requests of {options.clients} clients in {time.perf_counter() - begun:.0f} s")
            print(f"answers by status: {dict(Counter(status for status, _, _ in found))}")
            print(f"answers by network: {dict(sorted(Counter(version for _, version, _ in found).items()))}")
            kept = {version: shots for _, version, shots in found if version}
            print(f"volumes behind each network: {dict(sorted(kept.items()))}")
            print(f"largest memory in every tenth of the time, MiB: {memory.tenths()}")


if __name__ == "__main__":
    main()
