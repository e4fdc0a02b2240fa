"""The MONAI Label app: final labels in, a network out, in the background."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelError, MONAILabelException

import monai_hyper
from monai_hyper.label.names import Names
from monai_hyper.label.regenerate import Background, Generator, Settings
from monai_hyper.label.state import MODEL, state_folder
from monai_hyper.label.store import CarefulStore
from monai_hyper.label.tasks import Agreement, Batch, Next, Regenerate, Segment, Uncertainty
from monai_hyper.label.versions import Versions

logger = logging.getLogger(__name__)

STRATEGIES = ("uncertainty", "diversity", "expected_gain", "random")

QUIET = 5.0
"""Scans are scored when nobody has asked for one for so long, s."""

WAIT = 300.0
"""How long a request waits for the very first network, s."""


class HyperLabelApp(MONAILabelApp):
    """MONAI Label's app, see :class:`monailabel.interfaces.app.MONAILabelApp`.

    Args:
        app_dir: folder that MONAI Label writes logs to; studies: folder of scans or address of a DICOMweb server.
        conf: as texts: "most", "classes" (comma-separated), "labels" (the same), "weights", "device",
            "polish_seconds".
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        state = state_folder(studies)
        names = Names(state / "labels.json", _words(conf.get("labels")))
        weights = Path(conf["weights"]) if conf.get("weights") else None
        classes = tuple(_words(conf.get("classes"))) or None
        polish = float(conf["polish_seconds"]) if conf.get("polish_seconds") else None
        settings = Settings(int(conf.get("most") or 8), classes, weights, conf.get("device") or "cpu", polish)
        self.state, self.names = state, names
        self.generator = Generator(settings, names, Versions(state / "versions", settings.device))
        self.failure: str | None = None
        self.generating: Background | None = None
        self.polishing: Background | None = None
        self.scoring_scans: Background | None = None
        super().__init__(
            app_dir, studies, conf, "monai_hyper: few-shot segmentation",
            "Annotate a few scans; the next ones come segmented. AI-generated, for research only",
            monai_hyper.__version__,
        )  # fmt: skip
        self._auto_update_scoring = False  # in a process of its own after every request for a scan; ours knows when

    def init_datastore(self) -> Datastore:
        """A folder, or a DICOMweb server; both check what comes in."""
        if self.studies.startswith(("http://", "https://")):
            from monai_hyper.label.dicomweb import open_dicomweb

            return open_dicomweb(self.studies, self.state, self.names, self.labels_changed)
        return CarefulStore(self.studies, self.names, self.state / "work", self.labels_changed, auto_reload=True)

    def init_infers(self) -> dict:
        """One model."""
        return {MODEL: Segment(self.generator, self.ready)}

    def init_trainers(self) -> dict:
        """Training is generating."""
        return {MODEL: Regenerate(self.generator)}

    def init_scoring_methods(self) -> dict:
        """Of scans, and of proposals."""
        return {"uncertainty": Uncertainty(self.generator), "dice": Agreement()}

    def init_strategies(self) -> dict:
        """Which scan is next."""
        return {rule: Next(rule) for rule in STRATEGIES}

    def init_batch_infer(self) -> Batch:
        """Of many scans."""
        return Batch()

    def on_init_complete(self) -> None:
        """Start to generate in the background; what a killed server has left half-written goes."""
        self.generator.versions.clean()
        self.scoring_scans = Background(self.score_scans, lambda why: None)
        self.polishing = Background(self.polish, lambda why: None)
        self.generating = Background(self.regenerate, self.failed)
        super().on_init_complete()
        self.generating.ask()

    def labels_changed(self) -> None:
        """A final label may have come, changed or gone."""
        if self.generating is not None:
            self.generating.ask()

    def regenerate(self) -> None:
        """Generate the next network if the labels are others than those of the last one."""
        versions, pairs = self.generator.versions, self.datastore().datalist()
        if versions.pinned and not self._newer(pairs):
            return
        if self.generator.outdated(pairs):
            version = self.generator.generate(pairs)
            logger.info("network %d from %d volumes: %.1f s", version.number, len(version.support), version.seconds)
        self.polishing.ask()

    def polish(self) -> None:
        """Refine the network that is in use, if that is worth while and no further label has come."""
        self.generating.wait(WAIT)
        versions, settings = self.generator.versions, self.generator.settings
        version = versions.current()
        seconds = settings.polish_of(len(version.support)) if version else 0.0
        if seconds and not version.polish_seconds and not versions.pinned:
            self.generator.refine(version, self.datastore().datalist(), seconds)
        self.scoring_scans.ask()

    def _newer(self, pairs: list[dict]) -> bool:
        """Whether a label was saved after the pinned version was made current."""
        pinned = self.generator.versions.pinned_at
        return any(os.stat(pair["label"]).st_mtime > pinned for pair in pairs)

    def failed(self, why: str | None) -> None:
        """Remember why there is no newer network."""
        self.failure = why

    def score_scans(self) -> None:
        """Score the scans without label, until a label comes."""
        Uncertainty(self.generator, self._busy)({}, self.datastore())

    def _busy(self) -> bool:
        """Whether a label has come; while scans are asked for, wait."""
        while self._infers[MODEL].quiet < QUIET and not self.generating.pending:
            time.sleep(0.1)
        return self.generating.pending

    def ready(self) -> str | None:
        """Wait for the very first network while it is being generated; returns why there is none, if so."""
        waited_until = time.monotonic() + WAIT
        while self.generator.versions.current() is None:
            if self.generating is None or not self.generating.pending or time.monotonic() > waited_until:
                return self.failure if self.datastore().datalist() else None
            time.sleep(0.05)
        return None

    def info(self) -> dict:
        """What clients show, with the state of the network."""
        current = self.generator.versions.current()
        pending = self.generating is not None and (self.generating.pending or self.polishing.pending)
        state = {"version": current.number if current else 0, "regenerating": pending, "failure": self.failure}
        return {**super().info(), "network": state}

    def infer(self, request: dict, datastore: Datastore | None = None) -> dict:
        """Segment a scan of the datastore, or one that was just uploaded.

        Raises:
            MONAILabelException: for an unknown model.
            ImageNotFoundException: for an image that is neither.
        """
        if request.get("model") not in self._infers:
            raise _unknown(request.get("model"))
        image = request.get("image")
        if not isinstance(image, str) or not (self._uploaded(image) or image in self.datastore().list_images()):
            raise ImageNotFoundException(f"image '{image}': not in the datastore. See /datastore for what is.")
        if self.studies.startswith("http"):
            self.labels_changed()  # others may have stored labels on that server
        return super().infer({"device": "cpu", **request}, datastore)

    def bundle_path(self, model: str | None) -> None:
        """MONAI Label asks for it before any task: the moment to refuse a model that there is not.

        Raises:
            MONAILabelException: for an unknown model.
        """
        if model and model not in self._infers:
            raise _unknown(model)

    @property
    def uploads(self) -> Path:
        """Folder of scans that are segmented and forgotten."""
        return self.state / "work" / "uploads"

    def _uploaded(self, image: str) -> bool:
        path = Path(image).resolve()
        sessions = Path(self.sessions().store_path).resolve() if self.sessions() is not None else None
        return path.exists() and any(root in path.parents for root in (self.uploads.resolve(), sessions) if root)


def _unknown(model: object) -> MONAILabelException:
    return MONAILabelException(MONAILabelError.INVALID_INPUT, f"model '{model}': unknown; expected '{MODEL}'.")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
