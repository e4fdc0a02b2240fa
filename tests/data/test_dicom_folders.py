"""Folders of examples in DICOM, scans and labels, are read as those of NIfTI are, and results go back as DICOM."""

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor

from monai_hyper.cli import main
from monai_hyper.data.classes import class_table, resolved
from monai_hyper.data.folder import list_cases, read_pair
from monai_hyper.data.structures import read_structures, structure_names
from monai_hyper.data.volumes import read_image
from monai_hyper.export.dicom_seg import save_dicom_seg
from monai_hyper.export.dicom_series import save_series
from monai_hyper.export.rtstruct import save_rtstruct
from monai_hyper.types import InputError

AFFINE = torch.diag(torch.tensor([-2.0, -2.0, 3.0, 1.0], dtype=torch.float64))


def scan(index: int) -> tuple[MetaTensor, MetaTensor]:
    """A ball of 1 with a smaller one of 2 inside, in noise."""
    noise = np.random.default_rng(index)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (26, 24, 20)), indexing="ij"), -1)
    middle = np.array([13, 11, 10]) + noise.uniform(-1.5, 1.5, 3)
    label = (np.linalg.norm(grid - middle, axis=-1) < 7).astype(np.int64)
    label[np.linalg.norm(grid - middle - (0, 3, 0), axis=-1) < 3] = 2
    image = np.choose(label, (-500.0, 60.0, 160.0)) + np.rint(noise.normal(0, 8, label.shape))
    return tuple(MetaTensor(torch.from_numpy(each)[None], affine=AFFINE) for each in (image, label))


@pytest.fixture(scope="module")
def dicom(tmp_path_factory) -> Path:
    """Three cases, their labels as SEG file, as folder of a SEG, and as RTSTRUCT; and a scan for each."""
    folder = tmp_path_factory.mktemp("dicom")
    for index, name in enumerate(("one", "two", "three")):
        image, label = scan(index)
        save_series(image, folder / "images" / name, "CT", "Doe^Jane")
        series, target = folder / "images" / name, folder / "labels"
        if name == "three":
            save_rtstruct(label, ["GTV-1", "Tumour"], [1, 2], series, target / "three.dcm")
        else:
            path = target / ("one.dcm" if name == "one" else "two/seg.dcm")
            save_dicom_seg(label, ["gtv", "Tumour"], [1, 2], series, path)
    return folder


def test_structures_become_values_by_name(dicom):
    cases = list_cases(dicom)
    table = class_table(dicom, cases, ["organ=gtv.*", "Tumour"])
    assert (table.names, table.values) == (("organ", "Tumour"), (1, 2))
    for index, case in zip((0, 2, 1), resolved(cases, table)):  # in the order of their names: one, three, two
        image, label = read_pair(case)
        expected = scan(index)
        assert torch.allclose(image.affine, AFFINE, atol=1e-5) and torch.equal(image.as_tensor(), expected[0].float())
        assert torch.equal(label.as_tensor(), expected[1].as_tensor()), case.name


def test_a_structure_alone_is_whole_where_others_overlap_it(tmp_path):
    image, label = scan(0)
    save_series(image, tmp_path / "images" / "one", "CT", "Doe^Jane")
    whole = MetaTensor((label > 0).long(), affine=AFFINE)
    save_dicom_seg(whole, ["organ"], [1], tmp_path / "images" / "one", tmp_path / "labels" / "one" / "a.dcm")
    part = MetaTensor((label == 2).long(), affine=AFFINE)
    save_dicom_seg(part, ["tumour"], [1], tmp_path / "images" / "one", tmp_path / "labels" / "one" / "b.dcm")
    cases = list_cases(tmp_path)
    both, alone = (resolved(cases, class_table(tmp_path, cases, names))[0] for names in (None, ["organ"]))
    assert torch.equal(read_pair(both)[1].as_tensor(), label.as_tensor())
    assert torch.equal(read_pair(alone)[1].as_tensor(), (label > 0).long().as_tensor())


def test_dataset_json_may_describe_structures(dicom, tmp_path):
    folder = shutil.copytree(dicom, tmp_path / "folder")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"organ": "gtv.*"}, "modality": "CT"}))
    cases = list_cases(folder)
    table = class_table(folder, cases)
    assert (table.names, table.values) == (("organ",), (1,))
    assert all(set(read_pair(case)[1].unique().tolist()) == {0, 1} for case in resolved(cases, table))


@pytest.mark.parametrize(("classes", "said"), [(["liver"], "unknown class liver"), (["x=("], "regular expression")])
def test_unknown_structures_are_refused(dicom, classes, said):
    with pytest.raises(InputError, match=said):
        class_table(dicom, list_cases(dicom), classes)


def test_of_several_series_the_annotated_one_is_meant(dicom, tmp_path):
    folder = shutil.copytree(dicom, tmp_path / "folder")
    save_series(scan(7)[0], tmp_path / "other", "MR", "Doe^Jane")
    for path in sorted((tmp_path / "other").iterdir()):
        shutil.copy(path, folder / "images" / "one" / f"other-{path.name}")
    case = next(case for case in list_cases(folder) if case.name == "one")
    with pytest.raises(InputError, match="expected one DICOM series of images, found 2"):
        read_image(case.image)
    ready = resolved([case], class_table(folder, [case]))[0]
    assert torch.equal(read_pair(ready)[0].as_tensor(), scan(0)[0].float())


@pytest.fixture(scope="module")
def query(tmp_path_factory) -> Path:
    """A folder with the folder of a series in it."""
    folder = tmp_path_factory.mktemp("query")
    save_series(scan(5)[0], folder / "scan", "CT", "Doe^Jane")
    return folder


@pytest.mark.parametrize("kind", ["nifti", "dicom-seg", "rtstruct"])
def test_scans_in_dicom_are_segmented_into_every_format(dicom, query, tmp_path, capsys, kind):
    arguments = ["--support", str(dicom), "--query", str(query), "--output", str(tmp_path / "out")]
    arguments += ["--classes", "organ=gtv.*", "Tumour", "--polish-seconds", "0", "--format", kind]
    assert main(["segment", *arguments]) == 0
    printed = "".join(capsys.readouterr())
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(["scan.json", "scan.png", f"scan.{'nii.gz' if kind == 'nifti' else 'dcm'}"])
    assert "Doe" not in printed + (tmp_path / "out" / "scan.json").read_text()
    if kind == "nifti":
        return
    path, image = tmp_path / "out" / "scan.dcm", read_image(query / "scan")
    assert structure_names(path) == ("organ", "Tumour")
    masks = read_structures(path, image)
    truth = scan(5)[1][0]
    for name, value in (("organ", 1), ("Tumour", 2)):
        both = int((masks[name] & (truth == value)).sum())
        assert 2 * both / int(masks[name].sum() + (truth == value).sum()) > 0.6, name
    header = pydicom.dcmread(path)
    assert not header.PatientName and not header.PatientID and "research" in header.SeriesDescription


def test_identifiers_and_codes_are_kept_when_asked_for(dicom, query, tmp_path):
    codes = tmp_path / "codes.json"
    codes.write_text(json.dumps({"Tumour": ["108369006", "SCT", "Neoplasm"]}))
    arguments = ["--support", str(dicom), "--query", str(query / "scan"), "--output", str(tmp_path / "out")]
    arguments += ["--classes", "Tumour", "--polish-seconds", "0", "--format", "dicom-seg"]
    assert main(["segment", *arguments, "--codes", str(codes), "--keep-identifiers"]) == 0
    header = pydicom.dcmread(tmp_path / "out" / "scan.dcm")
    assert header.PatientName == "Doe^Jane"
    assert header.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"


def test_dicom_is_not_written_for_scans_that_are_none(dicom, tmp_path, capsys):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    arguments = ["--support", str(dicom), "--query", str(tmp_path / "scan.nii.gz"), "--output", str(tmp_path / "out")]
    assert main(["segment", *arguments, "--format", "rtstruct"]) == 2
    assert "needs the DICOM series" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_adapt_and_evaluate_take_dicom(dicom, tmp_path):
    arguments = ["--support", str(dicom), "--output", str(tmp_path / "bundle"), "--classes", "Tumour"]
    assert main(["adapt", *arguments, "--polish", "0", "--no-onnx"]) == 0
    assert "Doe" not in "".join(path.read_text() for path in (tmp_path / "bundle").rglob("*.json"))
    arguments = ["--dataset", str(dicom), "--output", str(tmp_path / "scores"), "--classes", "Tumour"]
    arguments += ["--methods", "mean-mask", "--shots", "1", "--draws", "1", "--queries", "1"]
    assert main(["evaluate", *arguments]) == 0
    assert "Tumour" in (tmp_path / "scores" / "results.csv").read_text()


def test_no_identifier_travels_with_a_volume(dicom):
    image = read_image(dicom / "images" / "one")
    assert "Doe" not in str(image.meta)
