"""Public collections become a support folder, all of a case or none of it; no test touches the network."""

import inspect
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
    generate_uid,
)

from monai_hyper.data import fetch as package
from monai_hyper.data.fetch import catalogue, fetch, list_collections
from monai_hyper.data.fetch import client as clients
from monai_hyper.data.fetch import idc as idc_adapter
from monai_hyper.data.fetch import tcia as tcia_adapter
from monai_hyper.data.folder import list_cases
from monai_hyper.types import InputError, SomeFailed

ANSWERS = Path(__file__).parent / "answers"
IMAGES_OF = {"1.2.1.2": "1.2.1.1", "1.2.1.3": "1.2.1.1", "1.2.2.2": "1.2.2.1", "1.2.2.3": "1.2.2.1",
             "1.2.4.3": "1.2.4.1", "1.2.4.4": "1.2.4.2", "1.3.1.3": "1.3.1.1", "1.3.1.4": "1.3.1.2"}  # fmt: skip
"""Series of images that each series of annotations is about."""

HEART = ("Lung_L", "Heart")


def answer(name: str) -> list[dict]:
    return json.loads((ANSWERS / name).read_text())


def object_of(row: dict, kind: str, number: int = 0) -> Dataset:
    """One DICOM object of a series of the answers."""
    data, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.file_meta, data.Modality, data.PatientID = meta, row["Modality"], row["PatientID"]
    data.SeriesInstanceUID, data.StudyInstanceUID = row["SeriesInstanceUID"], row["StudyInstanceUID"]
    data.ImagePositionPatient, data.InstanceNumber = [0, 0, 2.0 * number], number
    return data


def slice_of(row: dict, number: int) -> Dataset:
    data = object_of(row, CTImageStorage, number)
    data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
    data.Rows = data.Columns = 4
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = np.full((4, 4), number, np.int16).tobytes()
    return data


def item(**values) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def structures_of(row: dict) -> Dataset:
    """SEG or RTSTRUCT, with the reference where the standard has it."""
    uid = IMAGES_OF.get(row["SeriesInstanceUID"])
    if row["Modality"] == "SEG":
        data = object_of(row, SegmentationStorage)
        data.SegmentSequence = [item(SegmentNumber=1, SegmentLabel="Tumour")]
        if uid:
            data.ReferencedSeriesSequence = [item(SeriesInstanceUID=uid)]
        return data
    data = object_of(row, RTStructureSetStorage)
    data.StructureSetROISequence = [item(ROINumber=n, ROIName=name) for n, name in enumerate(HEART, 1)]
    study = item(RTReferencedSeriesSequence=[item(SeriesInstanceUID=uid)])
    data.ReferencedFrameOfReferenceSequence = [item(RTReferencedStudySequence=[study])]
    return data


class Archive:
    """Stands in for the network: writes the files of a series, and can be told to fail.

    Args:
        rows: of the answers.
        count: column with the number of files.
    """

    def __init__(self, rows: list[dict], count: str = "ImageCount") -> None:
        self.rows = {row["SeriesInstanceUID"]: row for row in rows}
        self.count = count
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda uid: None
        self.lost: set[str] = set()

    def write(self, uid: str, folder: Path) -> None:
        self.asked.append(uid)
        row, folder = self.rows[uid], Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if row["Modality"] in ("SEG", "RTSTRUCT"):
            structures_of(row).save_as(folder / "1-1.dcm", enforce_file_format=True)
        else:
            for number in range(row[self.count] - (uid in self.lost)):
                slice_of(row, number).save_as(folder / f"{row['PatientID']}-{number}.dcm", enforce_file_format=True)
        (folder / "LICENSE").write_text("no DICOM")
        self.before(uid)


@pytest.fixture
def archive() -> Archive:
    return Archive(answer("tcia_series.json"))


@pytest.fixture
def nbia(monkeypatch, archive) -> SimpleNamespace:
    """``tcia_utils.nbia`` as far as it is used, with recorded answers; failures are logged, as there."""
    log = logging.getLogger("tcia_utils.nbia")

    def download(series_data, path="tciaDownload", input_type="", max_workers=10):
        assert input_type == "list"
        for uid in series_data:
            try:
                archive.write(uid, Path(path) / uid)
            except OSError as error:
                log.error(f"Exception during download for series {uid}: {error}")

    module = SimpleNamespace(
        log=log,
        getCollections=lambda: answer("tcia_collections.json"),
        getSeries=lambda collection="": list(archive.rows.values()) if collection == "LCTSC" else None,
        downloadSeries=download,
    )
    monkeypatch.setattr(tcia_adapter, "load", lambda *names: module)
    return module


@pytest.fixture
def silent() -> Callable[[str], None]:
    return lambda text: None


def lctsc(output: Path, *patients: str, **options) -> list[dict]:
    chosen = [f"LCTSC-Test-S1-{patient}" for patient in patients] or None
    return fetch("tcia", "LCTSC", output, chosen, progress=options.pop("progress", lambda text: None), **options)


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_images_and_all_their_annotations_become_a_case(tmp_path, nbia):
    rows = lctsc(tmp_path / "a", "101", "102")
    assert [(r["case"], r["files"], r["annotations"], r["state"]) for r in rows] == [
        ("case-1", 3, 1, "fetched"),
        ("case-2", 4, 2, "fetched"),
    ]
    assert written(tmp_path / "a") == [
        "LICENSE-AND-CITATION.md", "dataset.json",
        *(f"images/case-1/{n:04d}.dcm" for n in (1, 2, 3)), *(f"images/case-2/{n:04d}.dcm" for n in (1, 2, 3, 4)),
        "labels/case-1/0001.dcm", "labels/case-2/0001.dcm", "labels/case-2/0002.dcm",
    ]  # fmt: skip
    assert rows[1]["structures"] == "Lung_L, Heart, Tumour"


def test_the_folder_is_read_as_a_support_folder(tmp_path, nbia):
    lctsc(tmp_path, "101", "104")
    cases = list_cases(tmp_path)
    assert [case.name for case in cases] == ["case-1", "case-2", "case-3"]
    assert [case.patient for case in cases] == ["patient-1", "patient-2", "patient-2"]
    assert all(case.label.is_dir() for case in cases)


def test_no_name_or_description_tells_the_patient_unless_asked_for(tmp_path, nbia):
    lctsc(tmp_path / "a", "101", "104")
    assert not any("LCTSC-Test" in name for name in written(tmp_path / "a"))
    assert "LCTSC-Test" not in (tmp_path / "a" / "dataset.json").read_text()
    lctsc(tmp_path / "b", "101", "104", keep_identifiers=True)
    names = [f"LCTSC-Test-S1-{each}" for each in ("101", "104", "104-2")]
    assert [case.name for case in list_cases(tmp_path / "b")] == names
    assert [case.patient for case in list_cases(tmp_path / "b")] == [*names[:2], names[1]]


def test_patients_are_the_first_with_annotations_if_none_are_named(tmp_path, nbia, archive):
    rows = lctsc(tmp_path, most=2)
    assert {row["patient"] for row in rows} == {"patient-1", "patient-2"}
    assert not any(uid.startswith(("1.2.3", "1.2.4")) for uid in archive.asked)


def test_licence_and_citation_lie_beside_the_data(tmp_path, nbia):
    lctsc(tmp_path, "101")
    text = (tmp_path / "LICENSE-AND-CITATION.md").read_text()
    assert "https://doi.org/10.7937/k9/tcia.2017.3r3fvz08" in text
    assert "Creative Commons Attribution 3.0" in text and "http://creativecommons.org/licenses/by/3.0/" in text
    assert "Yang, J." in text and "look it up" not in text
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["source"] == {"service": "tcia", "collection": "LCTSC"} and description["modality"] == "CT"


def test_an_unknown_licence_is_said_to_be_unknown(tmp_path, nbia, archive):
    for row in archive.rows.values():
        row.update(LicenseName=None, LicenseURI=None, DataDescriptionURI=None)
    lctsc(tmp_path, "101")
    assert (tmp_path / "LICENSE-AND-CITATION.md").read_text().count("look it up before you use the data") == 3


def test_modality_and_structures_narrow_the_choice(tmp_path, nbia, archive):
    assert [row["modality"] for row in lctsc(tmp_path / "a", "104", modality="mr")] == ["MR"]
    assert "1.2.4.1" not in archive.asked
    rows = lctsc(tmp_path / "b", "102", "104", structures="^tumo")
    assert [row["structures"] for row in rows] == ["Tumour", "Tumour"]
    with pytest.raises(InputError, match="found none. Widen --structures"):
        lctsc(tmp_path / "c", "101", structures="kidney")
    with pytest.raises(InputError, match="expected a regular expression"):
        lctsc(tmp_path / "c", structures="(")


def test_annotations_of_others_are_taken_only_when_asked_for(tmp_path, nbia, archive):
    lctsc(tmp_path / "a", "101")
    assert "1.2.1.3" not in archive.asked
    rows = lctsc(tmp_path / "b", annotations="https://doi.org/10.5281/zenodo.1")
    assert [row["structures"] for row in rows] == ["Tumour"]
    text = (tmp_path / "b" / "LICENSE-AND-CITATION.md").read_text()
    assert "10.5281/zenodo.1" in text and "3r3fvz08" in text
    with pytest.raises(InputError, match="unknown analysis 'mine'; its annotations come from 10.5281/zenodo.1"):
        lctsc(tmp_path / "c", annotations="mine")


def test_a_segmentation_without_reference_belongs_to_the_only_images_of_its_study(tmp_path, nbia, monkeypatch):
    monkeypatch.delitem(IMAGES_OF, "1.2.2.3")
    assert [row["annotations"] for row in lctsc(tmp_path / "a", "102")] == [2]
    monkeypatch.delitem(IMAGES_OF, "1.2.4.4")
    said = []
    assert [row["modality"] for row in lctsc(tmp_path / "b", "104", progress=said.append)] == ["CT"]
    assert any("an object of Tumour: skipped" in text for text in said)


def test_a_second_call_fetches_nothing_again(tmp_path, nbia, archive):
    first = lctsc(tmp_path, "101", "102")
    before = (tmp_path / "dataset.json").read_bytes()
    archive.asked.clear()
    again = lctsc(tmp_path, "101", "102")
    assert archive.asked == [] and {row.pop("state") for row in again} == {"there"}
    assert again == [{key: value for key, value in row.items() if key != "state"} for row in first]
    assert (tmp_path / "dataset.json").read_bytes() == before


def test_a_later_call_adds_patients_and_knows_the_old_ones(tmp_path, nbia, archive):
    lctsc(tmp_path, "102")
    archive.asked.clear()
    lctsc(tmp_path, "101", "102")
    assert set(archive.asked) == {"1.2.1.1", "1.2.1.2"}
    assert {case.name: case.patient for case in list_cases(tmp_path)} == {"case-1": "patient-1", "case-2": "patient-2"}


def test_annotations_that_appear_later_join_their_case(tmp_path, nbia, archive):
    late = archive.rows.pop("1.2.2.3")
    lctsc(tmp_path, "102")
    archive.rows["1.2.2.3"] = late
    archive.asked.clear()
    assert [row["annotations"] for row in lctsc(tmp_path, "102")] == [2]
    assert archive.asked == ["1.2.2.3"]


@pytest.mark.parametrize("when", ["1.2.1.2", "1.2.1.1", "1.2.2.1"])
def test_an_interrupted_call_leaves_whole_cases_and_goes_on(tmp_path, nbia, archive, when):
    def interrupt(uid: str) -> None:
        if uid == when:
            raise KeyboardInterrupt

    archive.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        lctsc(tmp_path, "101", "102")
    if when == "1.2.2.1":
        assert [case.name for case in list_cases(tmp_path)] == ["case-1"]
    else:
        with pytest.raises(InputError, match="found 0 images"):
            list_cases(tmp_path, need_labels=False)
    assert not list((tmp_path / ".partial").glob("*.loading"))
    archive.before = lambda uid: None
    complete = set(archive.asked) - {when}
    archive.asked.clear()
    assert len(lctsc(tmp_path, "101", "102")) == 2
    assert not complete & set(archive.asked) and not (tmp_path / ".partial").exists()


@pytest.mark.parametrize("step", range(1, 12))
def test_cut_off_at_any_rename_no_half_a_case_is_read(tmp_path, nbia, monkeypatch, step):
    from monai_hyper.data.fetch import layout

    real, calls = layout.os.replace, []

    def replace(source, target):
        if "images" in Path(target).parts or "labels" in Path(target).parts or Path(target).suffix in (".json", ".md"):
            calls.append(target)
            if len(calls) == step:
                raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(layout.os, "replace", replace)
    try:
        lctsc(tmp_path, "101", "102")
    except KeyboardInterrupt:
        monkeypatch.setattr(layout.os, "replace", real)
        for folder in (tmp_path / "images").glob("*"):
            assert len(list((tmp_path / "labels" / folder.name).iterdir())) in (1, 2)
        lctsc(tmp_path, "101", "102")
    else:
        assert step > 8
    assert [len(list(case.label.iterdir())) for case in list_cases(tmp_path)] == [1, 2]
    assert {case.patient for case in list_cases(tmp_path)} == {"patient-1", "patient-2"}


def test_a_series_with_files_missing_is_no_case(tmp_path, nbia, archive):
    archive.lost = {"1.2.1.1"}
    with pytest.raises(SomeFailed, match=r"case-1: expected 3 files of a series of CT, found 2"):
        lctsc(tmp_path, "101", "102")
    assert [case.name for case in list_cases(tmp_path)] == ["case-1"]  # the number went to the next patient
    archive.lost = set()
    assert len(lctsc(tmp_path, "101", "102")) == 2


def test_no_complete_series_at_all_is_refused(tmp_path, nbia, archive):
    archive.lost = {"1.2.1.1"}
    with pytest.raises(InputError, match="no series arrived as it was announced(.|\n)*found 2"):
        lctsc(tmp_path, "101")


def test_a_full_disk_is_said_before_and_during_a_download(tmp_path, nbia, archive, monkeypatch):
    def full(uid: str) -> None:
        raise OSError(28, "No space left on device")

    archive.before = full
    with pytest.raises(InputError, match="expected room on the disk, found it full"):
        lctsc(tmp_path, "101")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="expected 1 MB of free disk for one series, found 0 MB"):
        lctsc(tmp_path, "101")
    assert not (tmp_path / "images").exists()


def test_a_network_that_is_down_is_said(tmp_path, nbia, monkeypatch):
    def down(**options):
        nbia.log.error("Connection Error: HTTPSConnectionPool(host='nbia'): Max retries exceeded. Unable to reach.")

    nbia.getCollections = down
    with pytest.raises(InputError, match="tcia: no answer; expected a connection to the internet"):
        lctsc(tmp_path)


def test_answers_that_are_no_json_or_of_another_form_are_said(tmp_path, nbia):
    nbia.getCollections = lambda: nbia.log.error("Failed to decode JSON from response. Response text: <html>")
    with pytest.raises(InputError, match="tcia: expected JSON, found something else"):
        lctsc(tmp_path)
    nbia.getCollections = lambda: [{"collectionName": "LCTSC"}]
    with pytest.raises(InputError, match="expected a list of records with Collection"):
        lctsc(tmp_path)


def test_a_collection_that_needs_a_login_is_said(tmp_path, nbia, archive):
    with pytest.raises(InputError, match="OPC-Radiomics: expected an open collection, found a restricted one"):
        fetch("tcia", "OPC-Radiomics", tmp_path)
    for row in archive.rows.values():
        row["Authorized"] = 0
    with pytest.raises(InputError, match="LCTSC: expected an open collection"):
        lctsc(tmp_path)
    nbia.getSeries = lambda **options: nbia.log.error("Permission Error: 403 Client Error. Status code: 403. Forbidden")
    with pytest.raises(InputError, match="expected open data, found some that need a login"):
        lctsc(tmp_path)


def test_unknown_collections_and_patients_are_told_what_is_near(tmp_path, nbia):
    with pytest.raises(InputError, match=r"unknown collection 'LCTCS'; expected one of 5. Similar: LCTSC"):
        fetch("tcia", "LCTCS", tmp_path)
    with pytest.raises(InputError, match="It is at idc"):
        fetch("tcia", "pancreas_ct_seg", tmp_path)
    with pytest.raises(InputError, match="unknown patient 'LCTSC-Test-S1-1001'; expected one of 4, like LCTSC-Test-S1"):
        lctsc(tmp_path, "1001")
    with pytest.raises(InputError, match="unknown source 'web'; expected tcia or idc"):
        fetch("web", "LCTSC", tmp_path)
    with pytest.raises(InputError, match="--most is 0"):
        lctsc(tmp_path, most=0)
    assert not any(tmp_path.iterdir())


def test_names_of_collections_may_be_written_as_the_other_service_does(tmp_path, nbia):
    assert len(fetch("tcia", "lctsc", tmp_path, most=1)) == 1


def test_patients_without_annotations_are_skipped_with_a_word(tmp_path, nbia):
    said = []
    assert len(lctsc(tmp_path / "a", "103", "101", progress=said.append)) == 1
    assert "LCTSC-Test-S1-103: skipped, no annotations" in said
    with pytest.raises(InputError, match="none of the 1 patients has annotations; 3 others have"):
        lctsc(tmp_path / "b", "103")


def test_a_folder_with_something_else_is_refused(tmp_path, nbia):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected an empty folder.*found notes.txt. Choose another --output"):
        lctsc(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset.json").write_text('{"source": {"service": "idc", "collection": "lctsc"}}')
    with pytest.raises(InputError, match="found cases of .*'idc'"):
        lctsc(other)
    with pytest.raises(InputError, match="expected a folder, found a file"):
        lctsc(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_missing_client_names_its_installation():
    with pytest.raises(InputError, match=r"fetching needs no-such-client .*pip install 'monai_hyper\[fetch\]'"):
        clients.load("no_such_client", "no-such-client")


@pytest.fixture
def idc(monkeypatch) -> Archive:
    """``idc_index`` as far as it is used, with recorded answers."""
    pandas = pytest.importorskip("pandas")
    archive = Archive(answer("idc_index.json"), "instanceCount")

    class IDCClient:
        index = pandas.DataFrame(list(archive.rows.values()))

        def download_dicom_series(self, uid, folder, quiet, show_progress_bar, dirTemplate):  # noqa: N803
            assert quiet and not show_progress_bar and dirTemplate is None
            archive.write(uid, folder)

    monkeypatch.setattr(idc_adapter, "load", lambda *names: SimpleNamespace(IDCClient=IDCClient))
    return archive


def test_a_collection_of_idc_becomes_a_folder(tmp_path, idc, silent):
    rows = fetch("idc", "LCTSC", tmp_path, progress=silent)
    assert [(row["case"], row["files"], row["structures"]) for row in rows] == [("case-1", 3, "Lung_L, Heart")]
    text = (tmp_path / "LICENSE-AND-CITATION.md").read_text()
    assert "CC BY 3.0, <https://creativecommons.org/licenses/by/3.0/>" in text and "Yang, J." in text


def test_an_analysis_of_idc_is_fetched_by_its_name(tmp_path, idc, silent):
    with pytest.raises(InputError, match="by one analysis, found those of prostatex_seg_hires, prostatex_seg_zones"):
        fetch("idc", "PROSTATEx", tmp_path / "a", progress=silent)
    rows = fetch("idc", "prostatex_seg_zones", tmp_path / "a", progress=silent)
    assert [row["annotations"] for row in rows] == [1] and "1.3.1.1" in idc.asked and "1.3.1.4" not in idc.asked
    text = (tmp_path / "a" / "LICENSE-AND-CITATION.md").read_text()
    assert "Meyer, A." in text and "10.7937/k9tcia.2017.murs5cl" in text


def test_failures_of_idc_are_told_apart(tmp_path, idc, silent):
    def failing(text: str) -> Callable[[str], None]:
        return lambda uid: logging.getLogger("idc_index.index").error(text)

    idc.before = failing("Download process failed: ERROR dial tcp: lookup s3.amazonaws.com: no such host")
    with pytest.raises(InputError, match="idc: no answer; expected a connection"):
        fetch("idc", "lctsc", tmp_path, progress=silent)
    idc.before = failing("Not enough free space on disk to download the files.")
    with pytest.raises(InputError, match="expected room on the disk"):
        fetch("idc", "lctsc", tmp_path, progress=silent)
    idc.before = failing("something of 1.401.403")
    with pytest.raises(InputError, match="no series arrived as it was announced"):
        fetch("idc", "lctsc", tmp_path, progress=silent)


def bound(function: Callable, *arguments, **options) -> None:
    inspect.signature(function).bind(*arguments, **options)


def test_tcia_utils_has_the_functions_that_are_called():
    nbia = pytest.importorskip("tcia_utils.nbia")
    bound(nbia.getCollections)
    bound(nbia.getSeries, collection="LCTSC")
    bound(nbia.downloadSeries, ["1.2"], path="there", input_type="list", max_workers=1)
    assert nbia._log.name.startswith("tcia_utils")


def test_idc_index_has_the_functions_and_columns_that_are_used():
    module = pytest.importorskip("idc_index")
    bound(module.IDCClient.download_dicom_series, None, "1.2", "there", quiet=True, show_progress_bar=False,
          dirTemplate=None)  # fmt: skip
    data = pytest.importorskip("idc_index_data")
    columns = {column["name"] for column in data.INDEX_METADATA["idc_index"]["schema"]["columns"]}
    assert set(answer("idc_index.json")[0]) <= columns


def test_clients_leave_logging_as_it_was():
    pytest.importorskip("tcia_utils.nbia")
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    clients.load("tcia_utils.nbia", "tcia_utils")
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)


def test_the_catalogue_is_complete_and_well_formed():
    entries = json.loads(Path(catalogue.__file__).with_name("collections.json").read_text(encoding="utf-8"))
    names = [entry["id"] for entry in entries]
    assert len(names) >= 20 and len(set(map(clients.plain, names))) == len(names)
    keys = set(entries[0])
    for entry in entries:
        assert set(entry) == keys, entry["id"]
        assert entry["sources"] and set(entry["sources"]) <= set(catalogue.SOURCES) == set(package.CLIENTS)
        assert entry["annotation"] and set(entry["annotation"]) <= {"SEG", "RTSTRUCT"}
        assert entry["modality"] and set(entry["modality"]) <= {"CT", "MR", "PT", "US"}
        assert entry["licence"] and entry["structures"] and entry["doi"].startswith("10.")
        assert entry["doi"] == entry["doi"].lower()
        assert entry["licence"].startswith("CC BY") == bool(entry["licence_url"])
        assert entry["patients"] is None or entry["patients"] > 0
        assert entry["size_gb"] is None or entry["size_gb"] > 0
        if entry["citation"]:
            assert entry["doi"] in entry["citation"].lower()
    assert [row["id"] for row in list_collections()] == names == sorted(names, key=str.lower)


def test_the_catalogue_agrees_with_the_index_of_idc():
    data, pandas = pytest.importorskip("idc_index_data"), pytest.importorskip("pandas")
    columns = ["collection_id", "analysis_result_id", "Modality", "PatientID", "source_DOI", "license_short_name"]
    index = pandas.read_parquet(data.IDC_INDEX_PARQUET_FILEPATH, columns=columns)
    index = index[index.Modality.isin(["SEG", "RTSTRUCT"])]
    for entry in (row for row in catalogue._entries() if "idc" in row["sources"]):
        found = index[index.source_DOI == entry["doi"]]
        assert set(found.license_short_name) == {entry["licence"]}, entry["id"]
        assert set(found.Modality) == set(entry["annotation"]), entry["id"]
        name = entry["images"] or entry["id"]
        assert clients.plain(name) in set(found.collection_id.map(clients.plain)), entry["id"]


def test_the_table_in_the_documentation_is_current():
    page = Path(__file__).parents[2] / "docs" / "fetch.md"
    assert catalogue.markdown_table() in page.read_text(encoding="utf-8")


def test_objects_that_are_no_annotation_are_refused(tmp_path):
    from monai_hyper.data.annotation import read_annotation

    row = answer("tcia_series.json")[0]
    slice_of(row, 0).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="expected SEG or RTSTRUCT, found CT"):
        read_annotation(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_text("no DICOM")
    with pytest.raises(InputError, match="expected a DICOM file"):
        read_annotation(tmp_path / "b.dcm")
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientID == row["PatientID"]
