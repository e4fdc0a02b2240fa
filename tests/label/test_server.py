"""The label server, as clients see it."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_hyper.data.structures import read_structures
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.export.dicom_series import save_series
from monai_hyper.export.nifti import save_label
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.label.state import MODEL
from tests.label.conftest import AFFINE, scan


def read(answer: object, tmp_path: Path, name: str = "answer.nii.gz") -> MetaTensor:
    assert answer.status_code == 200, answer.text
    path = tmp_path / name
    path.write_bytes(answer.content)
    return read_label(path)


def test_without_a_label_clients_are_told_to_make_one(unscored, served):
    answer = served.infer("scan_4")
    assert answer.status_code == 409
    assert "no final label" in answer.json()["detail"]


def test_a_saved_label_segments_the_next_scan_on_its_own_grid(unscored, served, tmp_path):
    assert served.save("scan_0").status_code == 200
    found = read(served.infer("scan_4"), tmp_path)
    image, truth = scan(4)
    assert torch.equal(found.affine, AFFINE) and found.shape == image.shape
    assert min(dice_per_class(found, truth, (1, 2))) > 0.8
    assert served.settled()["version"] == 1


def test_answers_are_those_of_a_segmenter_with_the_same_examples(unscored, served, studies, tmp_path):
    for name in ("scan_0", "scan_1"):
        served.save(name)
    assert served.settled()["failure"] is None
    examples = tmp_path / "examples"
    for part, source in (("images", studies), ("labels", studies / "labels" / "final")):
        (examples / part).mkdir(parents=True)
        for name in ("scan_0", "scan_1"):
            (examples / part / f"{name}.nii.gz").symlink_to(source / f"{name}.nii.gz")
    expected = Segmenter().fit(examples).predict(studies / "scan_4.nii.gz")
    assert torch.equal(read(served.infer("scan_4"), tmp_path), expected)


def test_formats_agree_and_nrrd_carries_names_and_colours(unscored, served, tmp_path):
    served.save("scan_0")
    nifti = read(served.infer("scan_4"), tmp_path)
    nrrd = read(served.infer("scan_4", result_extension=".nrrd"), tmp_path, "answer.nrrd")
    assert torch.equal(nifti, nrrd) and torch.allclose(nifti.affine, nrrd.affine)
    plain = served.infer("scan_4", result_extension=".nrrd", result_compress=False)
    assert b"encoding: raw" in plain.content and torch.equal(read(plain, tmp_path, "answer.nrrd"), nifti)
    header = sitk.ImageFileReader()
    header.SetFileName(str(tmp_path / "answer.nrrd"))
    header.ReadImageInformation()
    named = {header.GetMetaData(f"Segment{i}_Name"): header.GetMetaData(f"Segment{i}_LabelValue") for i in (0, 1)}
    assert named == {"big": "1", "small": "2"}
    facts = served.infer("scan_4", "json").json()
    assert facts["label_names"] == {"big": 1, "small": 2} and facts["version"] == 1 and facts["shots"] == 1
    assert "AI-generated" in nibabel.load(tmp_path / "answer.nii.gz").header["descrip"].item().decode()
    assert 0 < facts["expected_dice"] <= 1 and "research" in facts["note"] and facts["label_colors"]["big"]


def test_a_class_can_be_asked_for_alone(unscored, served, tmp_path):
    served.save("scan_0")
    both, small = read(served.infer("scan_4"), tmp_path), read(served.infer("scan_4", labels=["small"]), tmp_path)
    assert torch.equal(small, torch.where(both == 2, both, 0))


def test_values_go_by_name_whatever_a_client_counts(unscored, served, studies, tmp_path):
    served.save("scan_0")
    _, label = scan(1)
    swapped = MetaTensor(torch.tensor([0, 2, 1])[label], affine=label.affine)
    served.save("scan_1", save_label(swapped, tmp_path / "swapped.nii.gz"), [{"name": "small"}, {"name": "big"}])
    assert torch.equal(read_label(studies / "labels" / "final" / "scan_1.nii.gz"), label)


def test_raw_bytes_of_a_viewer_are_the_same_label(unscored, served, studies, tmp_path):
    _, label = scan(0)
    path = tmp_path / "label.bin"
    path.write_bytes(label[0].numpy().astype(np.uint8).tobytes(order="F"))
    assert served.save("scan_0", path).status_code == 200
    assert torch.equal(read_label(studies / "labels" / "final" / "scan_0.nii.gz"), label)


def test_every_version_is_kept_and_can_be_asked_again(unscored, served, studies, tmp_path):
    from monai_hyper.label.start import history

    served.save("scan_0")
    first = read(served.infer("scan_4"), tmp_path)
    served.save("scan_1")
    assert served.settled()["version"] == 2
    assert torch.equal(read(served.infer("scan_4", version=1), tmp_path), first)
    rows = history(str(studies), back_to=1)
    assert [(row["version"], row["volumes"], row["current"]) for row in rows] == [(1, 1, "yes"), (2, 2, "")]
    assert served.infer("scan_4", "json").json()["version"] == 1
    served.save("scan_2")  # the next label ends the rollback
    assert served.settled()["version"] == 3 and len(history(str(studies))) == 3


def test_taking_a_label_away_generates_again(unscored, served):
    served.save("scan_0")
    served.save("scan_1")
    served.settled()
    assert served.http.delete("/datastore/label?id=scan_1&tag=final").status_code == 200
    served.settled()
    assert served.infer("scan_4", "json").json()["shots"] == 1


def test_training_is_generating(unscored, served):
    served.save("scan_0")
    served.save("scan_1")
    before = served.settled()["version"]
    stats = served.http.post(f"/train/{MODEL}?run_sync=true", json={"polish_steps": 2}).json()
    assert stats["version"] == before + 1 and stats["shots"] == 2 and 0.5 < stats["best_metric"] <= 1
    assert served.http.get("/info/").json()["train_stats"][MODEL]["version"] == before + 1


def test_a_network_of_few_volumes_is_polished_while_it_is_in_use(unscored, served, monkeypatch):
    from monailabel.interfaces.utils.app import app_instance

    generator = app_instance().generator
    monkeypatch.setattr(generator, "settings", replace(generator.settings, polish_seconds=0.5))
    served.save("scan_0")
    assert served.infer("scan_4", "json").json()["version"] == 1
    assert served.settled()["version"] == 2
    first, second = generator.versions.history()
    assert (first.polish_seconds, second.polish_seconds) == (0.0, 0.5) and first.support == second.support


def test_what_was_polished_too_late_is_not_used(unscored, served):
    from monailabel.interfaces.utils.app import app_instance

    generator, store = app_instance().generator, app_instance().datastore()
    served.save("scan_0")
    served.settled()
    first, pairs = generator.versions.current(), store.datalist()
    served.save("scan_1")
    served.settled()
    assert generator.refine(first, pairs, 0.1) is None and generator.refine(first, store.datalist(), 0.1) is None
    assert served.network()["version"] == 2


def test_scans_are_scored_and_strategies_pick_among_them(served):
    served.save("scan_0")
    served.save("scan_1")
    served.settled()
    for rule in ("uncertainty", "diversity", "expected_gain", "random"):
        assert served.http.post(f"/activelearning/{rule}").json()["id"] in {"scan_2", "scan_3", "scan_4"}
    scores = {n: served.http.get(f"/datastore/image/info?image={n}").json()["scores"] for n in ("scan_2", "scan_3")}
    assert all(0 <= each["uncertainty"] <= 1 for each in scores.values())
    for name in ("scan_2", "scan_3", "scan_4"):
        served.save(name)
    assert served.http.post("/activelearning/uncertainty").json() == {}


def test_proposals_are_scored_against_what_was_submitted(unscored, served):
    served.save("scan_0")
    served.http.post(f"/batch/infer/{MODEL}?images=unlabeled&run_sync=true", json={})
    served.save("scan_3")
    found = served.http.post("/scoring/dice?run_sync=true", json={}).json()
    assert found.keys() == {"scan_3"}, found
    assert found["scan_3"] > 0.8


def test_folders_of_dicom_are_scans_too(unscored, served, studies, tmp_path):
    from monailabel.interfaces.utils.app import app_instance

    save_series(scan(4)[0], studies / "scan_9", "MR", "Doe^Jane")
    app_instance().datastore().refresh()
    served.save("scan_0", info=[])
    found, image = read(served.infer("scan_9"), tmp_path), read_image(studies / "scan_9")
    assert torch.allclose(found.affine, image.affine, atol=1e-4) and found.shape == image.shape
    (tmp_path / "seg.dcm").write_bytes(served.infer("scan_9", "dicom_seg").content)
    masks = read_structures(tmp_path / "seg.dcm", image)
    assert torch.equal(torch.stack(list(masks.values())).any(0), found[0].as_tensor() > 0)
    assert "Doe" not in (studies / "datastore_v2.json").read_text()


def test_uploaded_scans_are_kept_and_never_replaced(unscored, served, studies):
    one, other = (studies / f"scan_{index}.nii.gz" for index in (0, 1))
    for path, status in ((one, 200), (one, 200), (other, 400)):
        answer = served.http.put("/datastore/image?image=new", files={"file": ("new.nii.gz", path.read_bytes())})
        assert answer.status_code == status, answer.text
    assert (studies / "new.nii.gz").read_bytes() == one.read_bytes()
    assert served.http.get("/datastore/").json()["total"] == 6


def test_a_scan_that_comes_with_the_request_is_segmented_and_forgotten(unscored, served, studies, tmp_path):
    served.save("scan_0")
    expected = read(served.infer("scan_4"), tmp_path)
    scan_4 = (studies / "scan_4.nii.gz").read_bytes()
    answer = served.http.post(f"/infer/{MODEL}?output=image", files={"file": ("any.nii.gz", scan_4)})
    assert torch.equal(read(answer, tmp_path), expected)
    assert not list((studies / ".monai_hyper" / "work" / "uploads").iterdir())


def _nifti(shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    return nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine).to_bytes()


def _announcing(shape: tuple[int, ...]) -> bytes:
    """A header that announces more voxels than there are."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), 1)
    target = io.BytesIO()
    header.write_to(target)
    return target.getvalue() + bytes(100)


def _archive(name: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return target.getvalue()


BAD = {
    "archive that climbs out": ("put", "/session/?uncompress=true",
                                {"files": {"files": ("a.tar", _archive("../../evil"))}}, 400),
    "archive that is none": ("put", "/session/?uncompress=true", {"files": {"files": ("a.tar", b"hello")}}, 400),
    "unknown model": ("post", "/infer/nobody?image=scan_4", {}, 404),
    "unknown image": ("post", f"/infer/{MODEL}?image=nobody", {}, 404),
    "image by path": ("post", f"/infer/{MODEL}?image=../truth/scan_0.nii.gz", {}, 404),
    "path in params": ("post", f"/infer/{MODEL}", {"data": {"params": '{"image": "/etc/hostname"}'}}, 400),
    "no image": ("post", f"/infer/{MODEL}", {}, 400),
    "no session": ("post", f"/infer/{MODEL}?session_id=nobody", {}, 404),
    "params no JSON": ("post", f"/infer/{MODEL}?image=scan_4", {"data": {"params": "{"}}, 400),
    "unknown version": ("post", f"/infer/{MODEL}?image=scan_4", {"data": {"params": '{"version": 9}'}}, 400),
    "version no number": ("post", f"/infer/{MODEL}?image=scan_4", {"data": {"params": '{"version": "../1"}'}}, 400),
    "unknown class": ("post", f"/infer/{MODEL}?image=scan_4", {"data": {"params": '{"labels": ["liver"]}'}}, 400),
    "format": ("post", f"/infer/{MODEL}?image=scan_4", {"data": {"params": '{"result_extension": "/../x"}'}}, 400),
    "SEG of NIfTI": ("post", f"/infer/{MODEL}?image=scan_4&output=dicom_seg", {}, 400),
    "scan no image": ("post", f"/infer/{MODEL}", {"files": {"file": ("a.nii.gz", b"hello")}}, 400),
    "scan a text": ("post", f"/infer/{MODEL}", {"files": {"file": ("a.txt", b"hello")}}, 400),
    "upload no image": ("put", "/datastore/image?image=a", {"files": {"file": ("a.nii.gz", b"hello")}}, 400),
    "upload cut off": ("put", "/datastore/image?image=a", {"files": {"file": ("a.nii", _announcing((99, 9, 9)))}}, 400),
    "2 GB header": ("put", "/datastore/image?image=a",
                    {"files": {"file": ("a.nii", _announcing((2048, 1024, 1024)))}}, 400),
    "upload to a path": ("put", "/datastore/image?image=../../evil",
                         {"files": {"file": ("a.nii", _nifti((8, 8, 8), np.eye(4)))}}, 400),
    "label no volume": ("put", "/datastore/label?image=scan_3", {"files": {"label": ("a.nii.gz", b"hello")}}, 400),
    "label elsewhere": ("put", "/datastore/label?image=scan_3",
                        {"files": {"label": ("a.nii", _nifti((26, 24, 20), np.eye(4)))}}, 400),
    "label of other size": ("put", "/datastore/label?image=scan_3",
                            {"files": {"label": ("a.nii", _nifti((9, 9, 9), AFFINE.numpy()))}}, 400),
    "raw bytes too few": ("put", "/datastore/label?image=scan_3", {"files": {"label": ("a.bin", b"1234")}}, 400),
    "label of nothing": ("put", "/datastore/label?image=nobody", {"files": {"label": ("a.bin", b"1234")}}, 404),
    "tag is a path": ("put", "/datastore/label?image=scan_3&tag=../x",
                      {"files": {"label": ("a.nii", _nifti((26, 24, 20), AFFINE.numpy()))}}, 400),
    "train another": ("post", "/train/nobody", {}, 404),
    "polish no number": ("post", f"/train/{MODEL}?run_sync=true", {"json": {"polish_seconds": "long"}}, 400),
    "batch of another": ("post", "/batch/infer/nobody", {}, 404),
    "strategy": ("post", "/activelearning/nobody", {}, 404),
    "download by path": ("get", "/datastore/image?image=../truth/scan_0", {}, 404),
    "other host": ("get", "/info/", {"headers": {"host": "elsewhere.org"}}, 400),
}  # fmt: skip


def test_bad_requests_are_refused_with_a_reason_and_change_nothing(unscored, served, studies):
    served.save("scan_0")
    served.settled()
    before = sorted(path.name for path in studies.rglob("*") if path.is_file())
    for name, (verb, address, options, status) in BAD.items():
        answer = getattr(served.http, verb)(address, **options)
        assert answer.status_code == status, f"{name}: {answer.status_code} {answer.text[:300]}"
        assert len(answer.text) > 15, name
        assert str(studies) not in answer.text, name
    assert sorted(path.name for path in studies.rglob("*") if path.is_file()) == before
    assert not list(studies.parent.glob("evil*")) and served.network()["version"] == 1
    assert served.infer("scan_4").status_code == 200


def test_requests_while_labels_are_saved_all_succeed_by_whole_labels(unscored, served):
    served.save("scan_0")
    served.settled()

    def ask(index: int) -> dict:
        answer = served.infer("scan_4", "json")
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, index) for index in range(24)]
        for name in ("scan_1", "scan_2"):
            assert served.save(name).status_code == 200
        found = [each.result() for each in asked]
    last = served.settled()["version"]
    kept = {row["version"]: row for row in _history(served)}
    assert {each["version"] for each in found} <= kept.keys() and last == max(kept)
    assert all(each["shots"] == kept[each["version"]]["volumes"] for each in found)


def _history(served) -> list[dict]:
    from monai_hyper.label.start import history

    return history(str(served.truth.parent / "studies"))


def test_a_label_that_cannot_be_used_leaves_the_last_network(unscored, served, tmp_path):
    served.save("scan_0")
    served.settled()
    _, label = scan(1)
    empty = save_label(MetaTensor(torch.zeros_like(label.as_tensor()), affine=label.affine), tmp_path / "empty.nii.gz")
    assert served.save("scan_1", empty, []).status_code == 200
    assert served.settled()["version"] == 1
    assert served.infer("scan_4").status_code == 200


def test_the_viewer_is_served(unscored, served):
    page = served.http.get("/ohif/")
    assert page.status_code == 200 and "<html" in page.text
    assert json.loads(served.http.get("/openapi.json").text)["paths"]


@pytest.mark.parametrize(("origin", "allowed"), [("http://localhost:8000", True), ("http://elsewhere.org", False)])
def test_pages_of_other_sites_cannot_read_answers(unscored, served, origin, allowed):
    answer = served.http.get("/info/", headers={"origin": origin})
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
