"""What MONAI Label asks for: a label map, the next network, scores, and the scan to annotate next."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import torch
from monai.data import MetaTensor
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monai_hyper.data.labels import label_values
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.export.dicom_seg import NOTICE
from monai_hyper.inference.fitted import Fitted
from monai_hyper.inference.pipeline import modality_warning
from monai_hyper.label.choice import density, farthest
from monai_hyper.label.regenerate import Generator, Pair, look_of
from monai_hyper.label.results import colour, extension_of, write_result
from monai_hyper.label.sent import shown
from monai_hyper.label.versions import Version
from monai_hyper.types import InputError

logger = logging.getLogger(__name__)

COMPUTING = threading.Lock()
"""Scans are segmented one at a time: two at once on the same cores take longer than one after the other."""

SCORE = "uncertainty"


class NotYet(InputError):
    """There is no network yet."""


class Segment(InferTask):
    """Segment a scan with the network of the final labels.

    Args:
        generator: has the names and the versions.
        ready: waits until there is a network, as long as one is being generated, and tells why there is none.
    """

    def __init__(self, generator: Generator, ready: Callable[[], str | None]) -> None:
        super().__init__(InferType.SEGMENTATION, None, 3, "Few-shot segmentation after the example of the final labels")
        self.generator, self.ready = generator, ready
        self.asked = 0.0

    @property
    def quiet(self) -> float:
        """Seconds since somebody asked for a scan."""
        return time.monotonic() - self.asked

    @property
    def labels(self) -> dict[str, int]:
        """Values by name, as they are known now."""
        return self.generator.names.all()

    @labels.setter
    def labels(self, _: object) -> None:  # the base class assigns what it was given
        pass

    def is_valid(self) -> bool:
        """Clients are offered the model before there is a label: they have to make one."""
        return True

    def config(self) -> dict:
        """What a client may ask for: "labels", names of the classes to return; "version", an earlier network."""
        return {"labels": [], "version": 0, "result_extension": ".nii.gz"}

    def get_path(self, validate: bool = True) -> str | None:
        """File of the current network."""
        current = self.generator.versions.current()
        return str(self.generator.versions.network_path(current.number)) if current else None

    def __call__(self, request: dict) -> tuple[str, dict]:
        """
        Returns:
            file of the label map, which is the caller's to remove, and facts.

        Raises:
            InputError: for defects of the image, an unknown version or class, or before there is a network.
        """
        self.asked = time.monotonic()
        version, fitted = self._network(request.get("version") or 0)
        wanted = self._wanted(request.get("labels") or request.get("label"), version)
        extension = extension_of(str(request.get("result_extension") or ".nii.gz"))
        begun = time.perf_counter()
        image = _scan(request["image"])
        with COMPUTING:
            read = time.perf_counter()
            label, expected = fitted.answer(image)
        label = shown(label, wanted.values())
        path = Path(tempfile.gettempdir()) / f"{uuid4().hex}{extension}"
        write_result(label, path, wanted, request.get("result_compress") is not False)
        warning = modality_warning(image, fitted.plan)
        return str(path), {
            "label_names": wanted,
            "label_colors": {name: [round(255 * each) for each in colour(value)] for name, value in wanted.items()},
            "expected_dice": round(expected, 3),
            "version": version.number,
            "shots": len(version.support),
            "note": NOTICE,
            "warnings": [warning] if warning else [],
            "latencies": {"total": round(time.perf_counter() - begun, 2), "waited": round(read - begun, 2)},
        }

    def _network(self, number: int) -> tuple[Version, Fitted]:
        versions = self.generator.versions
        if not isinstance(number, int):
            raise InputError(f"version: expected a number, found {number!r}.")
        if number:
            return versions.facts(number), versions.load(number)
        why = self.ready()
        current = versions.current()
        if current is None:
            raise NotYet(why or "there is no final label yet. Annotate one scan and submit its label.")
        return current, versions.load(current.number)

    def _wanted(self, names: object, version: Version) -> dict[str, int]:
        known = dict(zip(version.classes, version.values))
        asked = [names] if isinstance(names, str) else list(names or known)
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise InputError(f"labels: expected some of {', '.join(known)}, found {', '.join(map(str, unknown))}.")
        return {name: known[name] for name in asked}


class Batch(BatchInferTask):
    """Segment many scans, one after the other, where the network is."""

    def __call__(self, request: dict, datastore: Datastore, infer: Callable) -> dict:
        """See :class:`BatchInferTask`, which would look for GPUs of its own."""
        return super().__call__({**request, "multi_gpu": False, "device": "cpu", "max_workers": 1}, datastore, infer)


class Regenerate(TrainTask):
    """Generate the network of the final labels again, perhaps with a polish."""

    def __init__(self, generator: Generator) -> None:
        super().__init__("Generate the network of the final labels; with polish_seconds, refine it by gradient steps")
        self.generator = generator

    def config(self) -> dict:
        """What a client may choose."""
        return {"polish_seconds": 0, "polish_steps": 0}

    def stats(self) -> dict:
        """Of the current network, in the words that 3D Slicer shows."""
        version = self.generator.versions.current()
        return self._stats(version) if version else {}

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """
        Raises:
            InputError: if there is no final label, or for a polish that is no number.
        """
        seconds, steps = request.get("polish_seconds") or 0, request.get("polish_steps") or 0
        if not isinstance(seconds, int | float) or not isinstance(steps, int) or seconds < 0 or steps < 0:
            raise InputError(f"polish: expected a number of seconds or of steps, found {seconds!r} and {steps!r}.")
        return self._stats(self.generator.generate(datastore.datalist(), float(seconds), steps))

    def _stats(self, version: Version) -> dict:
        return {
            "epoch": 1, "total_epochs": 1, "total_time": str(timedelta(seconds=round(version.seconds))),
            "best_metric": version.expected_dice, "version": version.number, "shots": len(version.support),
            "start_ts": version.created,
        }  # fmt: skip


class Uncertainty(ScoringMethod):
    """How much networks of parts of the support set disagree on every scan that has no final label.

    Two networks, of either half of the examples, segment the scan; its uncertainty is 1 minus their Dice, mean over the
    classes that both halves show (query by committee: Seung, Opper and Sompolinsky 1992). Of a lone example, or where
    the halves share no class, 1 minus the expected Dice.

    Args:
        generator: generates the networks.
        stop: asked before every scan whether something more urgent has come up.
    """

    def __init__(self, generator: Generator, stop: Callable[[], bool] = lambda: False) -> None:
        super().__init__("Disagreement of networks that were generated from halves of the final labels")
        self.generator, self.stop = generator, stop

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """
        Returns:
            uncertainty of every scan that was scored, 0 to 1; it is kept with the scan.
        """
        version = self.generator.versions.current()
        if version is None:
            return {}
        known = {name: datastore.get_image_info(name).get("scores", {}) for name in datastore.get_unlabeled_images()}
        stale = sorted(name for name, scores in known.items() if scores.get("version") != version.number)
        members = committee(self.generator, datastore.datalist()) if stale and not self.stop() else []
        found: dict[str, float] = {}
        for name in stale:
            if self.stop():
                break
            image = read_image(datastore.get_image_uri(name))
            with COMPUTING:
                found[name] = round(disagreement(members, image), 4)
            datastore.update_image_info(name, {"scores": {SCORE: found[name], "version": version.number}})
        return found


def committee(generator: Generator, pairs: Sequence[Pair]) -> list[Fitted]:
    """Networks of either half of the examples, if there are two that show the same class; else the current one."""
    chosen = sorted(generator.chosen(pairs), key=lambda pair: pair["image"])
    if len(chosen) > 1:
        members = [generator.fit(half).fitted for half in (chosen[::2], chosen[1::2])]
        if set(members[0].plan.values) & set(members[1].plan.values):
            return members
    current = generator.versions.current()
    return [generator.versions.load(current.number)] if current else []


def disagreement(members: Sequence[Fitted], image: MetaTensor) -> float:
    """See :class:`Uncertainty`; of a lone network, 1 minus the Dice that it expects."""
    answers = [member.answer(image) for member in members]
    if len(members) == 1:
        return 1 - answers[0][1]
    shared = tuple(sorted(set(members[0].plan.values) & set(members[1].plan.values)))
    dice = [1.0 if d != d else d for d in dice_per_class(answers[0][0], answers[1][0], shared)]
    return 1 - sum(dice) / len(dice)


class Agreement(ScoringMethod):
    """Dice of submitted label maps and what the network had proposed for the same scans."""

    def __init__(self) -> None:
        super().__init__("Dice of final labels and original ones, mean over the classes")

    def __call__(self, request: dict, datastore: Datastore) -> dict:
        """
        Returns:
            Dice of every scan that has both; it is kept with the proposal.
        """
        found = {}
        final, original = DefaultLabelTag.FINAL.value, DefaultLabelTag.ORIGINAL.value
        for name in datastore.list_images():
            tags = datastore.get_labels_by_image_id(name)
            if final not in tags or original not in tags:
                continue
            truth, proposed = (read_label(datastore.get_label_uri(name, tag)) for tag in (final, original))
            values = tuple(value for value in label_values(truth) if value)
            if values:
                dice = dice_per_class(proposed, truth, values)
                found[name] = round(sum(dice) / len(dice), 4)
                datastore.update_label_info(name, original, {"scores": {"dice": found[name]}})
        return found


class Next(Strategy):
    """The scan to annotate next.

    Args:
        rule: "uncertainty": where the networks disagree most. "diversity": least like all labelled ones.
            "expected_gain": disagreement times how typical the scan is of those without label (information density:
            Settles and Craven 2008). Scans without a score count as the mean of the others.
    """

    def __init__(self, rule: str) -> None:
        super().__init__({
            "uncertainty": "The scan that networks of parts of the labels disagree on most",
            "diversity": "The scan least like the labelled ones",
            "expected_gain": "A scan that networks disagree on and that is like many others",
            "random": "Any scan",
        }[rule])  # fmt: skip
        self.rule = rule

    def __call__(self, request: dict, datastore: Datastore) -> dict | None:
        """
        Returns:
            id and weight of the scan; None if all have final labels.
        """
        names = sorted(datastore.get_unlabeled_images())
        if not names:
            return None
        if self.rule == "random":
            return {"id": names[int(torch.randint(len(names), (1,)))], "weight": 1.0}
        if self.rule == "diversity":
            seen = [look_of(pair["image"]) for pair in datastore.datalist()]
            return {"id": farthest(_looks(datastore, names), seen), "weight": 1.0}
        weights = self._weights(datastore, names)
        best = max(names, key=lambda name: weights[name])
        return {"id": best, "weight": round(weights[best], 4)}

    def _weights(self, datastore: Datastore, names: Sequence[str]) -> dict[str, float]:
        known = {name: datastore.get_image_info(name).get("scores", {}).get(SCORE) for name in names}
        scored = [score for score in known.values() if score is not None]
        middle = sum(scored) / len(scored) if scored else 0.5
        weights = {name: middle if score is None else score for name, score in known.items()}
        if self.rule == "uncertainty":
            return weights
        looks = _looks(datastore, names)
        return {name: weights[name] * density(name, looks) for name in names}


def _scan(path: str) -> MetaTensor:
    try:
        return read_image(path)
    except InputError as error:
        raise InputError(str(error).replace(path, "the scan")) from error


def _looks(datastore: Datastore, names: Sequence[str]) -> dict[str, torch.Tensor]:
    return {name: look_of(datastore.get_image_uri(name)) for name in names}
