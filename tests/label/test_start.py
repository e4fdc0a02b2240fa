"""The label server as a process of its own: who may reach it, and what a sudden end leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from monai_hyper.cli import main
from monai_hyper.label.start import refuse_remote
from monai_hyper.label.state import MODEL
from monai_hyper.types import InputError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--studies", "{tmp}/none"], "expected a folder of scans"),
        (["--studies", "{tmp}", "--host", "0.0.0.0"], "--allow-remote"),
        (["--studies", "{tmp}", "--host", "0.0.0.0", "--allow-remote"], "no authentication"),
        (["--studies", "{tmp}", "--most", "17"], "expected 1 to 16"),
        (["history", "--studies", "{tmp}"], "no network"),
        (["rollback", "--studies", "{tmp}", "--version", "1"], "no network"),
    ],
)
def test_misuse_is_refused(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    assert main(["label", *(each.format(tmp=tmp_path) for each in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_others_may_come_in_when_they_have_to_sign_in(monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    refuse_remote("0.0.0.0", True)
    with pytest.raises(InputError, match="--allow-remote"):
        refuse_remote("0.0.0.0", False)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _started(studies: Path) -> tuple[subprocess.Popen, str]:
    port = _free_port()
    command = [sys.executable, "-m", "monai_hyper.cli", "label", "--studies", str(studies), "--port", str(port)]
    command += ["--polish-seconds", "0"]
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            requests.get(f"{address}/info/", timeout=5)
            return process, address
        except requests.ConnectionError:
            time.sleep(0.2)
    raise AssertionError("the server did not answer")


def _save(address: str, truth: Path, name: str) -> None:
    with (truth / f"{name}.nii.gz").open("rb") as file:
        info = json.dumps({"label_info": [{"name": "big"}, {"name": "small"}]})
        answer = requests.put(
            f"{address}/datastore/label?image={name}", files={"label": file}, data={"params": info}, timeout=60
        )
    assert answer.status_code == 200, answer.text


def _network(address: str) -> dict:
    return requests.get(f"{address}/info/", timeout=60).json()["network"]


def test_killed_while_it_generates_it_starts_again_and_has_lost_nothing(studies):
    process, address = _started(studies)
    try:
        _save(address, studies.parent / "truth", "scan_0")
        facts = requests.post(f"{address}/infer/{MODEL}?image=scan_4&output=json", timeout=300).json()
        assert facts["version"] == 1
        _save(address, studies.parent / "truth", "scan_1")
        while not _network(address)["regenerating"]:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert main(["label", "history", "--studies", str(studies)]) == 0
    process, address = _started(studies)
    try:
        facts = requests.post(f"{address}/infer/{MODEL}?image=scan_4&output=json", timeout=300).json()
        assert facts["version"] >= 1
        while _network(address)["regenerating"]:
            time.sleep(0.2)
        assert _network(address) == {"version": 2, "regenerating": False, "failure": None}
        assert requests.get(f"{address}/datastore/", timeout=60).json()["completed"] == 2
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) is not None
