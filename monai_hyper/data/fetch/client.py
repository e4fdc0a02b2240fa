"""What a service of public collections is asked for, and how its client's failures are told apart."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from monai_hyper.types import InputError

_CAUSES = (
    (r"[Ee]rror: 40[13]\b|[Ss]tatus code: 40[13]|Unauthorized|Forbidden|AccessDenied",
     "expected open data, found some that need a login. Ask the archive for access, and fetch them with its own tool."),
    (r"No space left|[Nn]ot enough (free )?space|Insufficient disk space",
     "expected room on the disk, found it full. Make room, and run the same command again: it goes on from here."),
    (r"Failed to decode JSON",
     "expected JSON, found something else: a page of a proxy or of maintenance. Open the archive's page in a browser, "
     "and try again later."),
    (r"Connection Error|Max retries|resolve|no such host|dial tcp|send request failed|[Tt]imed? ?out|Timeout",
     "no answer; expected a connection to the internet. Check network and proxy, and run the same command again: "
     "it goes on from here."),
)  # fmt: skip
"""What clients log on a failure, and what it means for the user."""


class DownloadFailed(Exception):
    """One series did not arrive as it was announced; others may."""


@dataclass(frozen=True)
class Series:
    """One DICOM series of a collection, as its service announces it.

    Args:
        uid, study: SeriesInstanceUID and StudyInstanceUID.
        patient: PatientID.
        modality: of DICOM.
        files: how many there are.
        megabytes: all files together.
        licence, licence_url: name and text; empty where the service does not tell.
        doi: of the data set it was published with, without ``https://doi.org/``; or its address.
        analysis: id of the analysis that was published on top of the collection; empty for the collection's own.
        is_open: whether it can be had without login.
    """

    uid: str
    study: str
    patient: str
    modality: str
    files: int
    megabytes: float = 0.0
    licence: str = ""
    licence_url: str = ""
    doi: str = ""
    analysis: str = ""
    is_open: bool = True


class Client(Protocol):
    """A service of public collections."""

    def collections(self) -> list[str]:
        """Names of all collections."""
        ...

    def series(self, collection: str) -> list[Series]:
        """All series of a collection."""
        ...

    def download(self, uid: str, folder: Path) -> None:
        """Put the files of a series into an existing, empty folder.

        Raises:
            InputError: if no other series can be had, either.
            DownloadFailed: if this one cannot.
        """
        ...


def load(module: str, package: str) -> ModuleType:
    """Import a client, and take back what it does to everybody's logging.

    Raises:
        InputError: if it is not installed.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"fetching needs {package} ({error}). Run: pip install 'monai_hyper[fetch]'") from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def problems(package: str, source: str) -> Iterator[None]:
    """Raise what a client only logs: both clients write errors to their log, and return nothing.

    Raises:
        InputError: for no network, full disk, missing rights, or an answer that is no JSON.
        DownloadFailed: for any other error.
    """
    heard: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger(package)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, TypeError, AttributeError)):  # ours, or a client with other functions
            raise
        heard.append(f"{type(error).__name__}: {error}")
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    tell(heard, source)


def tell(heard: Sequence[str], source: str) -> None:
    """Raise the failure that log lines speak of; none if there are none."""
    if not heard:
        return
    text = " ".join(heard)
    for pattern, meaning in _CAUSES:
        if re.search(pattern, text):
            raise InputError(f"{source}: {meaning}")
    raise DownloadFailed(f"{source}: {' '.join(text.split())[:200]}")


def plain(name: str) -> str:
    """A collection's name without what services write differently.

    Example:
        >>> plain("CT Lymph Nodes") == plain("ct_lymph_nodes")
        True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())
