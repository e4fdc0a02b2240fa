"""From the final labels of a datastore to the next network."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

import monai_hyper
from monai_hyper.data.classes import ClassTable
from monai_hyper.data.folder import cases_of
from monai_hyper.data.labels import label_values
from monai_hyper.data.volumes import read_image, read_label, volume_name
from monai_hyper.export.deploy import digest
from monai_hyper.inference.pipeline import read_support
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.label.choice import Labelled, choose_support, looks
from monai_hyper.label.names import Names
from monai_hyper.label.versions import Version, Versions
from monai_hyper.methods.polish import default_seconds
from monai_hyper.networks.released import RELEASED
from monai_hyper.types import MAX_CLASSES, InputError

logger = logging.getLogger(__name__)

Pair = dict[str, str]
"""Paths of "image" and "label"."""

_TRIES = 5
_PAUSE = 2.0


@dataclass(frozen=True)
class Settings:
    """How networks are generated.

    Args:
        most: volumes of a support set, 1 to 16.
        classes: only these; None: all that are annotated, at most 8, the most frequent ones.
        weights: of the hypernetwork; device: where to compute.
        polish_seconds: of gradient steps on the labels after a network is in use, which give the next one; None: as
            long as :func:`monai_hyper.methods.polish.default_seconds` says, which is not at all from four volumes on.
    """

    most: int = 8
    classes: tuple[str, ...] | None = None
    weights: Path | None = None
    device: str = "cpu"
    polish_seconds: float | None = None

    def polish_of(self, shots: int) -> float:
        """How long to polish a network of ``shots`` volumes, s."""
        return default_seconds(self.device, shots) if self.polish_seconds is None else self.polish_seconds


def fingerprint(pairs: Sequence[Pair]) -> tuple[dict[str, str], ...]:
    """Volume, and SHA-256 of image and label map, of every pair."""
    return tuple(
        {"volume": volume_name(p["image"]), "image": _digest(p["image"]), "label": _digest(p["label"])} for p in pairs
    )


def _digest(path: str) -> str:
    status = Path(path).stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _digest_of(path: str, changed: int, size: int) -> str:
    return digest(Path(path))


def look_of(path: str) -> torch.Tensor:
    """See :func:`monai_hyper.label.choice.looks`; read once."""
    return _look_of(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _look_of(path: str, changed: int) -> torch.Tensor:
    return looks(read_image(path))


@lru_cache(maxsize=4096)
def _values_of(path: str, changed: int) -> frozenset[int]:
    return frozenset(value for value in label_values(read_label(path)) if value)


def chosen_pairs(pairs: Sequence[Pair], wanted: frozenset[int] | None, most: int) -> list[Pair]:
    """The pairs that become the support set, see :func:`choose_support`; all, if they are few enough.

    Args:
        wanted: values that count; None: all.
    """
    labelled = {}
    for pair in pairs:
        changed = Path(pair["label"]).stat().st_mtime_ns
        shown = _values_of(pair["label"], changed)
        shown = shown if wanted is None else shown & wanted
        if shown:
            labelled[pair["image"]] = (pair, Labelled(pair["image"], shown, changed, look_of(pair["image"])))
    return [labelled[volume.name][0] for volume in choose_support([each for _, each in labelled.values()], most)]


def class_table(pairs: Sequence[Pair], names: Names, classes: Sequence[str] | None) -> ClassTable:
    """The classes that pairs show, at most 8 of them, those that most volumes show.

    Raises:
        InputError: if none is shown.
    """
    shown = [_values_of(p["label"], Path(p["label"]).stat().st_mtime_ns) for p in pairs]
    counts = {value: sum(value in each for each in shown) for each in shown for value in each}
    known = {names.name(value): value for value in sorted(counts, key=lambda value: (-counts[value], value))}
    if classes:
        known = {name: value for name, value in known.items() if name in classes}
    found = sorted((value, name) for name, value in list(known.items())[:MAX_CLASSES])
    if not found:
        raise InputError(
            f"final labels: none of the {len(pairs)} shows {', '.join(classes or ['anything'])}. Annotate a volume."
        )
    return ClassTable(tuple(value for value, _ in found), tuple(name for _, name in found))


class Generator:
    """Generates networks from pairs, and keeps them as versions.

    Args:
        settings: how; names: values by name; versions: where they are kept.
    """

    def __init__(self, settings: Settings, names: Names, versions: Versions) -> None:
        self.settings, self.names, self.versions = settings, names, versions
        self.lock = threading.Lock()

    def chosen(self, pairs: Sequence[Pair]) -> list[Pair]:
        """What the next network is generated from."""
        values = self.names.all()
        wanted = frozenset(values[n] for n in self.settings.classes if n in values) if self.settings.classes else None
        return chosen_pairs(pairs, wanted, self.settings.most)

    def outdated(self, pairs: Sequence[Pair]) -> bool:
        """Whether the current network was generated from other labels than would be chosen now."""
        current = self.versions.current()
        if not pairs:
            return False
        return current is None or current.support != fingerprint(self.chosen(pairs))

    def fit(self, pairs: Sequence[Pair], polish_seconds: float = 0.0, polish_steps: int = 0) -> Segmenter:
        """A network of exactly these pairs.

        Raises:
            InputError: for defects of the volumes.
        """
        table = class_table(pairs, self.names, self.settings.classes)
        support, plan = read_support("final labels", cases=cases_of(pairs), table=table)
        settings = self.settings
        return Segmenter(settings.weights, settings.device, polish_seconds, polish_steps).fit(support, plan)

    def generate(self, pairs: Sequence[Pair], polish_seconds: float = 0.0, polish_steps: int = 0) -> Version:
        """The next version. Labels that change meanwhile are read again, so that no half of two is ever used.

        Raises:
            InputError: if there is no final label, or the volumes have defects.
        """
        with self.lock:
            for _ in range(_TRIES):
                begun, chosen = time.perf_counter(), self.chosen(pairs)
                if not chosen:
                    raise InputError("final labels: there is none yet. Annotate a volume and submit its label.")
                before = fingerprint(chosen)
                segmenter = self.fit(chosen, polish_seconds, polish_steps)
                if fingerprint(chosen) == before:
                    return self._keep(segmenter, before, begun, polish_seconds)
            raise InputError("final labels: they changed while they were read, again and again. Save one at a time.")

    def refine(self, version: Version, pairs: Sequence[Pair], polish_seconds: float) -> Version | None:
        """The same network, polished, as the next version; None if meanwhile there is another network or label.

        Raises:
            InputError: see :meth:`generate`.
        """
        begun, chosen = time.perf_counter(), self.chosen(pairs)
        if fingerprint(chosen) != version.support:
            return None
        segmenter = self.fit(chosen, polish_seconds)
        with self.lock:
            if self.versions.current() != version or fingerprint(chosen) != version.support:
                return None
            return self._keep(segmenter, version.support, begun, polish_seconds)

    def _keep(self, segmenter: Segmenter, support: tuple[dict[str, str], ...], begun: float, polish: float) -> Version:
        return self.versions.keep(
            segmenter.fitted,
            support=support,
            seconds=round(time.perf_counter() - begun, 2),
            polish_seconds=polish,
            hypernetwork=digest(self.settings.weights or RELEASED),
            monai_hyper=monai_hyper.__version__,
        )


class Background:
    """A thread that does one thing whenever it is asked to; being asked again meanwhile means once more afterwards.

    Args:
        work: what to do.
        failed: told of what went wrong, and of None when it went well again.
    """

    def __init__(self, work: Callable[[], None], failed: Callable[[str | None], None]) -> None:
        self.work, self.failed = work, failed
        self.asked = self.done = 0
        self.changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True, name="regenerate").start()

    def ask(self) -> None:
        """Have it done, soon."""
        with self.changed:
            self.asked += 1
            self.changed.notify_all()

    @property
    def pending(self) -> bool:
        """Whether something that was asked for is not done."""
        return self.done < self.asked

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left to do; False if that takes longer."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.pending, seconds)

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.pending)
                asked = self.asked
            self._once(asked)
            with self.changed:
                self.done = asked
                self.changed.notify_all()

    def _once(self, asked: int) -> None:
        for trial in range(_TRIES):
            try:
                self.work()
                return self.failed(None)
            except InputError as error:  # such as a label map that somebody is copying into the folder just now
                self.failed(str(error))
                logger.warning("no new network: %s", error)
                with self.changed:
                    if self.changed.wait_for(lambda: self.asked > asked, _PAUSE) or trial + 1 == _TRIES:
                        return None
            except Exception as error:  # the server goes on with the last good network, and says why
                self.failed(f"{type(error).__name__}: {error}")
                logger.exception("no new network")
                return None
        return None
