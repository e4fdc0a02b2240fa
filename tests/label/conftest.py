"""A datastore of tiny scans, with axes permuted and flipped, and a client of the server that serves it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_hyper.export.nifti import save_image, save_label
from monai_hyper.label.state import MODEL, state_folder

AFFINE = torch.tensor([[0, -2.0, 0, 40], [-2, 0, 0, 30], [0, 0, 3, -20], [0, 0, 0, 1]], dtype=torch.float64)
"""Axes are anterior to posterior, right to left and feet to head, 2 x 2 x 3 mm."""


def scan(index: int) -> tuple[MetaTensor, MetaTensor]:
    """A ball of 1 beside a smaller one of 2 in noise."""
    noise = np.random.default_rng(index)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (26, 24, 20)), indexing="ij"), -1)
    middle = np.array([13, 9, 10]) + noise.uniform(-1.5, 1.5, 3)
    label = (np.linalg.norm(grid - middle, axis=-1) < 6).astype(np.int64)
    label[np.linalg.norm(grid - middle - (0, 9, 0), axis=-1) < 4] = 2
    image = np.choose(label, (30.0, 120.0, 80.0)) + noise.normal(0, 8, label.shape)
    return tuple(MetaTensor(torch.from_numpy(each)[None], affine=AFFINE) for each in (image, label))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Folder of five scans; their label maps lie in ``truth`` beside it."""
    folder = tmp_path / "studies"
    for index in range(5):
        image, label = scan(index)
        save_image(image, folder / f"scan_{index}.nii.gz")
        save_label(label, tmp_path / "truth" / f"scan_{index}.nii.gz")
    return folder


class Client:
    """What an annotation tool does."""

    def __init__(self, http: object, truth: Path) -> None:
        self.http, self.truth = http, truth

    def save(self, name: str, path: Path | None = None, info: object = None, tag: str = "final") -> object:
        """Submit a label map."""
        path = path or self.truth / f"{name}.nii.gz"
        info = [{"name": "big", "idx": 1}, {"name": "small", "idx": 2}] if info is None else info
        with path.open("rb") as file:
            return self.http.put(
                f"/datastore/label?image={name}&tag={tag}",
                files={"label": (path.name, file)},
                data={"params": json.dumps({"label_info": info})},
            )

    def infer(self, name: str, output: str = "image", **params: object) -> object:
        """Ask for a label map."""
        return self.http.post(f"/infer/{MODEL}?image={name}&output={output}", data={"params": json.dumps(params)})

    def network(self) -> dict:
        """State of the network."""
        return self.http.get("/info/").json()["network"]

    def settled(self) -> dict:
        """The same, once nothing is left to do in the background."""
        from monailabel.interfaces.utils.app import app_instance

        app = app_instance()
        assert all(work.wait(120) for work in (app.generating, app.polishing, app.scoring_scans))
        return self.network()


@pytest.fixture
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans are not scored in the background: most tests need not wait for it."""
    from monai_hyper.label.app import HyperLabelApp

    monkeypatch.setattr(HyperLabelApp, "score_scans", lambda self: None)


@pytest.fixture
def served(studies: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a server that runs in this process."""
    from fastapi.testclient import TestClient
    from monailabel.config import settings
    from monailabel.interfaces.utils.app import clear_cache

    from monai_hyper.label.server import app
    from monai_hyper.label.start import prepare

    monkeypatch.setenv("PYTHONPATH", "")
    folder = prepare(state_folder(str(studies)), str(studies), "127.0.0.1")
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(folder))
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", str(studies))
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSION_PATH", str(folder.parent / "sessions"))
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_CONF", {"most": "4", "polish_seconds": "0"})
    clear_cache()
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as http:
        client = Client(http, studies.parent / "truth")
        yield client
        client.settled()
    clear_cache()
