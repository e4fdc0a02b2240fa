"""The label server on scans in Orthanc: labels go there as DICOM-SEG, and a fresh server has nothing but those."""

import shutil
from pathlib import Path

import pytest
import requests
import torch
from monai.data import MetaTensor

from monai_hyper.data.structures import read_structures
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.export.dicom_series import save_series
from monai_hyper.export.nifti import save_label
from monai_hyper.label import orthanc
from monai_hyper.types import InputError
from tests.label.conftest import scan

pytestmark = pytest.mark.skipif(not orthanc.installed(), reason="Orthanc is not installed")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> tuple[str, dict[int, str], Path]:
    """Address of Orthanc with three scans, their UIDs by number, and a folder for what is made of them."""
    work = tmp_path_factory.mktemp("orthanc")
    with orthanc.running(work / "server") as address:
        uids = {}
        for index in range(3):
            uids[index] = save_series(scan(index)[0], work / str(index), "MR", "Doe^Jane")
            orthanc.upload(address, work / str(index))
        yield f"{address}/dicom-web", uids, work


def _store(url: str, folder: Path):
    from monai_hyper.label.dicomweb import open_dicomweb
    from monai_hyper.label.names import Names

    return open_dicomweb(url, folder, Names(folder / "labels.json"), lambda: None)


def _label(store, uid: str, index: int, path: Path) -> Path:
    """The truth of a scan on the grid that the server shows it on."""
    from monai.transforms import ResampleToMatch

    image = read_image(store.get_image_uri(uid))
    label = ResampleToMatch(mode="nearest")(scan(index)[1].float(), image).round().long()
    return save_label(label, path, overwrite=True)


def test_scans_are_what_was_uploaded(scans, tmp_path):
    url, uids, work = scans
    store = _store(url, tmp_path)
    assert set(store.list_images()) >= set(uids.values())
    found, expected = read_image(store.get_image_uri(uids[0])), read_image(work / "0")
    assert torch.allclose(found.affine, expected.affine, atol=1e-4) and torch.equal(found, expected)
    assert store.get_image_uri("1.2.3") == "" == store.get_image_uri(f"../volumes/{uids[0]}")
    assert "Doe" not in (tmp_path / "volumes" / "datastore_v2.json").read_text()


def test_labels_come_back_from_the_server_alone_and_the_newest_counts(scans, tmp_path):
    url, uids, _ = scans
    first = _store(url, tmp_path / "first")
    info = {"label_info": [{"name": "big"}, {"name": "small"}]}
    wrong = read_label(_label(first, uids[1], 1, tmp_path / "wrong.nii.gz"))
    for index, label in ((1, wrong.clamp(max=1)), (0, None), (1, None)):
        path = tmp_path / f"{index}.nii.gz"
        if label is None:
            _label(first, uids[index], index, path)
        else:
            save_label(label, path)
        first.save_label(uids[index], str(path), "final", {**info})
        path.unlink()
    second = _store(url, tmp_path / "second")
    pairs = {Path(pair["image"]).name.removesuffix(".nii.gz"): pair for pair in second.datalist()}
    assert pairs.keys() == {uids[0], uids[1]} == set(second.get_labeled_images())
    assert uids[2] in second.get_unlabeled_images() and second.names.all() == {"big": 1, "small": 2}
    for index in (0, 1):
        expected = read_label(_label(first, uids[index], index, tmp_path / "expected.nii.gz"))
        found = read_label(pairs[uids[index]]["label"])
        assert torch.equal(found, expected) and torch.allclose(found.affine, expected.affine, atol=1e-4)
    with pytest.raises(InputError, match="Remove the DICOM-SEG series there"):
        second.remove_label(uids[0], "final")


def test_a_label_of_nothing_is_refused(scans, tmp_path):
    url, uids, _ = scans
    store = _store(url, tmp_path)
    image = read_image(store.get_image_uri(uids[2]))
    empty = save_label(MetaTensor(torch.zeros(image.shape).long(), affine=image.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(InputError, match="background only"):
        store.save_label(uids[2], str(empty), "final", {})
    assert uids[2] in store.get_unlabeled_images()


def test_a_server_that_does_not_answer_is_named(tmp_path):
    store = _store(f"http://127.0.0.1:{orthanc.free_port()}/dicom-web", tmp_path)
    store.client.set_http_retry_params(retry=False)
    with pytest.raises(InputError, match="does not answer"):
        store.list_images()


def test_results_come_as_dicom_seg_of_their_series_and_nothing_names_the_patient(scans, tmp_path, monkeypatch, caplog):
    from fastapi.testclient import TestClient
    from monailabel.config import settings
    from monailabel.interfaces.utils.app import app_instance, clear_cache

    from monai_hyper.label.app import HyperLabelApp
    from monai_hyper.label.server import app
    from monai_hyper.label.start import prepare
    from monai_hyper.label.state import MODEL, state_folder

    caplog.set_level("INFO")
    url, uids, work = scans
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(HyperLabelApp, "score_scans", lambda self: None)
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(prepare(state_folder(url), url, "127.0.0.1")))
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", url)
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_CONF", {"polish_seconds": "0"})
    clear_cache()
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as http:
        store = app_instance().datastore()
        _label(store, uids[0], 0, tmp_path / "label.nii.gz")
        with (tmp_path / "label.nii.gz").open("rb") as file:
            saved = http.put(f"/datastore/label?image={uids[0]}", files={"label": ("a.nii.gz", file)})
        assert saved.status_code == 200, saved.text
        assert http.get("/datastore/").json()["completed"] >= 1
        answer = http.post(f"/infer/{MODEL}?image={uids[2]}&output=dicom_seg")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/dicom", answer.text
        volume = http.post(f"/infer/{MODEL}?image={uids[2]}&output=image")
        assert app_instance().generating.wait(120) and app_instance().polishing.wait(120)
    clear_cache()
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    (tmp_path / "seg.nii.gz").write_bytes(volume.content)
    image, label = read_image(work / "2"), read_label(tmp_path / "seg.nii.gz")
    masks = read_structures(tmp_path / "seg.dcm", image)
    assert torch.equal(torch.stack(list(masks.values())).any(0), label[0].as_tensor() > 0)
    assert b"Doe" not in answer.content + volume.content and "Doe" not in caplog.text
    tables = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".log")]
    assert tables and not any("Doe" in path.read_text() for path in tables)


def test_what_is_cut_off_is_fetched_again(scans, tmp_path, monkeypatch):
    url, uids, _ = scans
    store = _store(url, tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.series_folder(uids[0])
    monkeypatch.undo()
    assert not (tmp_path / "series" / uids[0]).exists()
    assert len(list(store.series_folder(uids[0]).iterdir())) == 20
    shutil.rmtree(tmp_path / "series")


def test_an_address_without_a_dicomweb_server_is_named(scans, tmp_path):
    url, _, _ = scans
    assert requests.get(url.replace("/dicom-web", "/system"), timeout=10).ok
    with pytest.raises(InputError, match="does not answer"):
        _store(url.replace("/dicom-web", "/nothing"), tmp_path).list_images()
