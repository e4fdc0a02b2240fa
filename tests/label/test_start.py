"""The label server as a process of its own: who may reach it, and what a sudden end leaves."""

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
from monai_hyper.data.volumes import read_label
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


ASK = """
from fastapi.testclient import TestClient
from monai_hyper.label.server import app
http = TestClient(app, "http://localhost", raise_server_exceptions=False)
asked = [("get", "/info/"), ("get", "/datastore/"), ("get", "/datastore/image?image=a"), ("post", "/infer/a?image=a"),
         ("post", "/train/a"), ("post", "/batch/infer/a"), ("post", "/activelearning/a"), ("post", "/scoring/a")]
print([getattr(http, verb)(path).status_code for verb, path in asked])
file = {"file": ("a.nii", b""), "label": ("a.nii", b"")}
print([http.put(path, files=file).status_code for path in ("/datastore/image?image=a", "/datastore/label?image=a")])
"""


def test_with_authentication_nobody_gets_in_without_a_token():
    environment = {**os.environ, "MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": "http://127.0.0.1:1"}
    found = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-2:] == [str([401] * 8), str([401] * 2)]


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


def _save(client, truth: Path, name: str) -> None:
    info = {"label_info": [{"name": "big", "idx": 1}, {"name": "small", "idx": 2}]}
    assert client.save_label(name, str(truth / f"{name}.nii.gz"), params=info)["label"] == name


def _network(address: str) -> dict:
    return requests.get(f"{address}/info/", timeout=60).json()["network"]


def test_killed_while_it_generates_it_starts_again_and_has_lost_nothing(studies, tmp_path):
    from monailabel.client import MONAILabelClient  # the one that 3D Slicer's extension has

    process, address = _started(studies)
    client = MONAILabelClient(address, str(tmp_path))
    try:
        assert client.next_sample("diversity", {})["id"] in {f"scan_{index}" for index in range(5)}
        _save(client, studies.parent / "truth", "scan_0")
        found, facts = client.infer(MODEL, "scan_4", {})
        assert facts["version"] == 1 and read_label(found).shape == (1, 26, 24, 20)
        _save(client, studies.parent / "truth", "scan_1")
        while not _network(address)["regenerating"]:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert main(["label", "history", "--studies", str(studies)]) == 0
    process, address = _started(studies)
    client = MONAILabelClient(address, str(tmp_path))
    try:
        assert client.infer(MODEL, "scan_4", {})[1]["version"] >= 1
        while _network(address)["regenerating"]:
            time.sleep(0.2)
        assert _network(address) == {"version": 2, "regenerating": False, "failure": None}
        assert client.info()["datastore"]["completed"] == 2
        assert client.train_start(MODEL, {})["status"] in ("SUBMITTED", "RUNNING")
        while client.train_status()["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.2)
        assert client.train_status()["status"] == "DONE" and _network(address)["version"] == 3
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) is not None


def test_the_demonstration_prints_a_row_for_every_label(studies, tmp_path, capsys):
    from monai_hyper.label import demo

    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(studies)
    (data / "labels").symlink_to(studies.parent / "truth")
    arguments = ["--data", str(data), "--labels", "1", "--scans", "1", "--polish-seconds", "0"]
    assert demo.main(arguments) == 0
    printed = capsys.readouterr()
    assert "viewer's page answers with 200" in printed.err
    row = printed.out.splitlines()[1].split()
    assert row[0] == "1" and float(row[1]) > 0.7
