"""A DICOMweb server on this machine, for demonstrations and tests: Orthanc, where it is installed."""

from __future__ import annotations

import glob
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from monai_hyper.types import InputError

_PLUGINS = ("/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so*",
            "/usr/local/share/orthanc/plugins/libOrthancDicomWeb.so")  # fmt: skip

PATIENCE = 60
"""How long it may take to start, s."""


def installed() -> bool:
    """Whether Orthanc and its DICOMweb plugin are there."""
    return bool(shutil.which("Orthanc") and _plugin())


def _plugin() -> str | None:
    return next((found for pattern in _PLUGINS for found in sorted(glob.glob(pattern))), None)


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Orthanc, bound to this machine alone, with its files in a folder.

    Yields:
        address of the server; ``/dicom-web`` below it is for DICOMweb.

    Raises:
        InputError: if it is not installed, or does not start.
    """
    if not installed():
        raise InputError("Orthanc is not installed. On Debian: apt-get install orthanc orthanc-dicomweb")
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "monai_hyper", "StorageDirectory": str(folder / "files"), "IndexDirectory": str(folder / "files"),
        "HttpPort": http, "DicomPort": dicom, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "HttpBindAddresses": ["127.0.0.1"], "Plugins": [_plugin()], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomServerEnabled": False,
    }  # fmt: skip
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([shutil.which("Orthanc"), str(config)], stdout=log, stderr=log)
    try:
        _wait(process, f"http://127.0.0.1:{http}", folder)
        yield f"http://127.0.0.1:{http}"
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen, address: str, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{address}/system", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    raise InputError(f"Orthanc did not start: {(folder / 'orthanc.log').read_text(errors='replace')[-500:]}")


def upload(address: str, folder: Path) -> None:
    """Send all files of a folder to Orthanc."""
    for path in sorted(folder.glob("*.dcm")):
        requests.post(f"{address}/instances", data=path.read_bytes(), timeout=60).raise_for_status()
