"""The generated networks of a label server: every one is kept, one is current."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock

from monai_hyper.inference.fitted import Fitted
from monai_hyper.types import InputError

NETWORK, FACTS, CURRENT = "network.safetensors", "version.json", "current.json"
_BESIDE = ".partial-"


@dataclass(frozen=True)
class Version:
    """Where one network came from.

    Args:
        number: from 1 upward.
        support: of every volume its id and the SHA-256 of image and label map.
        classes: names of the foreground classes; values: theirs in the label maps.
        expected_dice: of the support volumes by each other (leave-one-out), None for a lone one.
        seconds: it took to generate, s; polish_seconds: of these, of gradient steps.
        hypernetwork: SHA-256 of the weights that generated it; monai_hyper: version of the package.
        created: date and time, UTC.
    """

    number: int
    support: tuple[dict[str, str], ...]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    expected_dice: float | None
    seconds: float
    polish_seconds: float
    hypernetwork: str
    monai_hyper: str
    created: str


class Versions:
    """A folder of networks. Each appears whole or not at all, and so does the change from one to the next.

    Args:
        folder: where they are kept; made if absent.
        device: where networks are loaded to.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / ".lock")
        self.load = lru_cache(maxsize=2)(lambda number: Fitted.load(self.network_path(number), device))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def network_path(self, number: int) -> Path:
        """File of the network of a version, see :meth:`Fitted.load`."""
        return self._path(number) / NETWORK

    def clean(self) -> None:
        """Remove what a killed process has left half-written."""
        with self.lock:
            for rest in self.folder.glob(f"{_BESIDE}*"):
                shutil.rmtree(rest)

    def keep(self, fitted: Fitted, **facts: object) -> Version:
        """Add a network and make it current.

        Args:
            facts: the other fields of :class:`Version`.
        """
        plan = fitted.plan
        with self.lock:
            beside = Path(mkdtemp(dir=self.folder, prefix=_BESIDE))
            fitted.save(beside / NETWORK)
            number = max((version.number for version in self.history()), default=0) + 1
            created = datetime.now(timezone.utc).isoformat(timespec="seconds")
            expected = fitted.network.expected_dice
            version = Version(
                number, classes=plan.classes, values=plan.values, expected_dice=expected, created=created, **facts
            )
            (beside / FACTS).write_text(json.dumps(asdict(version), indent=1), encoding="utf-8")
            os.replace(beside, self._path(number))
            self._point(number, pinned=False)
        return version

    def history(self) -> list[Version]:
        """All versions, oldest first."""
        return [self.facts(int(path.name)) for path in sorted(self.folder.glob("[0-9]*"))]

    def facts(self, number: int) -> Version:
        """What is known of a version.

        Raises:
            InputError: if there is no such version.
        """
        path = self._path(number) / FACTS
        if not path.exists():
            known = ", ".join(str(int(each.name)) for each in sorted(self.folder.glob("[0-9]*"))) or "none"
            raise InputError(f"version {number}: no such version; expected one of: {known}. See 'label history'.")
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Version(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})

    def current(self) -> Version | None:
        """The version in use, None before the first."""
        pointer = self._pointer()
        return self.facts(pointer["version"]) if pointer else None

    @property
    def pinned(self) -> bool:
        """Whether the current version was chosen by hand; the next saved label ends that."""
        return bool(self._pointer().get("pinned"))

    @property
    def pinned_at(self) -> float:
        """When the current version was made current, seconds since 1970."""
        return (self.folder / CURRENT).stat().st_mtime

    def roll_back(self, number: int) -> Version:
        """Make a version current again, until the next label is saved.

        Raises:
            InputError: if there is no such version.
        """
        version = self.facts(number)
        with self.lock:
            self._point(number, pinned=True)
        return version

    def _pointer(self) -> dict:
        path = self.folder / CURRENT
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _point(self, number: int, pinned: bool) -> None:
        beside = self.folder / f"{_BESIDE}{CURRENT}"
        beside.write_text(json.dumps({"version": number, "pinned": pinned}), encoding="utf-8")
        os.replace(beside, self.folder / CURRENT)
