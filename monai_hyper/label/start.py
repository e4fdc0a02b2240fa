"""Start the label server."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import sys
from pathlib import Path

from monai_hyper.label.state import state_folder
from monai_hyper.label.versions import Version, Versions
from monai_hyper.types import InputError

MONAILABEL = "0.8.5"

LOCAL = ("127.0.0.1", "localhost", "::1")

INSTALL = f"pip install 'monai_hyper[label]' && pip install --no-deps monailabel=={MONAILABEL}"

_HOSTS = "MONAI_HYPER_LABEL_HOSTS"

_MAIN = '''"""What MONAI Label looks for in the folder of an app."""

from monai_hyper.label.app import HyperLabelApp, MONAILabelApp
'''


def allowed_hosts() -> list[str]:
    """Names that requests may address the server by; a web page of another name cannot reach it."""
    return os.environ.get(_HOSTS, ",".join(LOCAL)).split(",")


def refuse_remote(host: str, allow_remote: bool) -> None:
    """
    Raises:
        InputError: if others could reach the server without having to sign in.
    """
    if host in LOCAL:
        return
    signed_in = os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true", "yes")
    if not allow_remote or not signed_in:
        raise InputError(
            f"--host {host}: others could reach scans and labels. Expected --allow-remote and MONAI Label's "
            "authentication (MONAI_LABEL_AUTH_ENABLE=true, MONAI_LABEL_AUTH_REALM_URI); found "
            f"{'no --allow-remote' if not allow_remote else 'no authentication'}. Or leave --host at 127.0.0.1."
        )


def refuse_missing() -> None:
    """
    Raises:
        InputError: if MONAI Label is not installed.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise InputError(f"MONAI Label is not installed. Install it: {INSTALL}")


def prepare(state: Path, studies: str, host: str) -> Path:
    """Write the folder that MONAI Label takes for the app, and set its environment.

    Returns:
        that folder.
    """
    app = state / "app"
    app.mkdir(parents=True, exist_ok=True)
    (app / "main.py").write_text(_MAIN, encoding="utf-8")
    settings = {
        "MONAI_LABEL_SESSION_PATH": str(state / "sessions"),
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # MONAI Label wants it to be set
        _HOSTS: ",".join(LOCAL) if host in LOCAL else "*",
    }
    os.environ.update({**settings, "MONAI_LABEL_APP_DIR": str(app), "MONAI_LABEL_STUDIES": studies})
    return app


def serve(
    studies: str, conf: dict[str, str], host: str = "127.0.0.1", port: int = 8000, allow_remote: bool = False
) -> None:
    """Start MONAI Label's own server with our app; returns when it is stopped.

    Args:
        studies: folder of scans, or address of a DICOMweb server.
        conf: see :class:`monai_hyper.label.app.HyperLabelApp`.

    Raises:
        InputError: if MONAI Label is missing, the folder is, or others could reach the server unasked.
    """
    refuse_missing()
    refuse_remote(host, allow_remote)
    if not re.match(r"https?://", studies):
        if not Path(studies).is_dir():
            raise InputError(f"{studies}: expected a folder of scans or the address of a DICOMweb server. Make it.")
        studies = str(Path(studies).resolve())
    app = prepare(state_folder(studies), studies, host)
    from monailabel.main import Main

    main = Main(logging.WARNING)
    pairs = [[key, value] for key, value in conf.items() if value]
    parser = argparse.ArgumentParser()
    main.args_start_server(parser)
    asked = ["--app", str(app), "--studies", studies, "--host", host, "--port", str(port)]
    asked += ["--uvicorn_app", "monai_hyper.label.server:app", "--log_level", "warning", "--verbose", "WARNING"]
    main.action_start_server(parser.parse_args([*asked, *(w for pair in pairs for w in ("--conf", *pair))]))
    sys.stdout.flush()
    os._exit(0)  # a network that is being generated is not waited for: what is kept is whole without it


def history(studies: str, back_to: int | None = None) -> list[dict]:
    """All networks that the labels of a datastore have generated.

    Args:
        studies: folder, or address of a DICOMweb server; back_to: number of the one to use again.

    Raises:
        InputError: if nothing was ever generated here, or that one was not.
    """
    folder = state_folder(studies) / "versions"
    if not folder.is_dir():
        raise InputError(f"{studies}: expected a datastore of 'monai-hyper label', found no network. Serve it first.")
    versions = Versions(folder)
    if back_to is not None:
        versions.roll_back(back_to)
    current = versions.current()
    return [_row(version, current is not None and version.number == current.number) for version in versions.history()]


def _row(version: Version, current: bool) -> dict:
    return {
        "version": version.number,
        "current": "yes" if current else "",
        "volumes": len(version.support),
        "expected_dice": version.expected_dice,
        "seconds": version.seconds,
        "created": version.created,
        "classes": " ".join(version.classes),
    }
