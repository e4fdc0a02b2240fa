"""The Cancer Imaging Archive, by its client ``tcia_utils``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from monai_hyper.data.fetch.client import DownloadFailed, Series, load, problems
from monai_hyper.types import InputError

NAME = "tcia"


class Tcia:
    """Open collections of https://www.cancerimagingarchive.net, asked by its NBIA interface."""

    def __init__(self) -> None:
        self._nbia = load("tcia_utils.nbia", "tcia_utils")

    def collections(self) -> list[str]:
        """Names of all collections that hold DICOM."""
        return [str(row["Collection"]) for row in _rows(self._nbia.getCollections, "Collection")]

    def series(self, collection: str) -> list[Series]:
        """All series of a collection, annotations that others made of it included."""
        rows = _rows(lambda: self._nbia.getSeries(collection=collection), "SeriesInstanceUID")
        return [_series(row) for row in rows]

    def download(self, uid: str, folder: Path) -> None:
        """Files of a series, with the licence's text, as the archive packs them."""
        with problems("tcia_utils", NAME):
            self._nbia.downloadSeries([uid], path=str(folder), input_type="list", max_workers=1)
        if not (folder / uid).is_dir():
            raise DownloadFailed(f"{NAME}: expected the files of a series, found none. Try again later.")
        for path in sorted((folder / uid).iterdir()):
            shutil.move(path, folder / path.name)
        (folder / uid).rmdir()


def _rows(ask: Callable[[], object], key: str) -> list[Mapping]:
    """Rows of an answer; none where the archive answers with nothing.

    Raises:
        InputError: if the answer is of another form.
    """
    try:
        with problems("tcia_utils", NAME):
            answer = ask()
    except DownloadFailed as error:
        raise InputError(f"{error}. Try again later.") from error
    if answer is None:
        return []
    if not isinstance(answer, list) or not all(isinstance(row, Mapping) and key in row for row in answer):
        raise InputError(
            f"{NAME}: expected a list of records with {key}, found {str(answer)[:80]!r}. Update tcia_utils: "
            "pip install -U tcia_utils"
        )
    return answer


def _series(row: Mapping) -> Series:
    address = str(row.get("DataDescriptionURI") or row.get("CollectionURI") or "")
    doi = address.lower().rpartition("doi.org/")[2]
    third = str(row.get("ThirdPartyAnalysis") or "").upper() in ("YES", "Y", "TRUE")
    return Series(
        uid=row["SeriesInstanceUID"],
        study=str(row.get("StudyInstanceUID") or ""),
        patient=str(row.get("PatientID") or ""),
        modality=str(row.get("Modality") or ""),
        files=int(row.get("ImageCount") or 0),
        megabytes=float(row.get("FileSize") or 0) / 1e6,
        licence=str(row.get("LicenseName") or ""),
        licence_url=str(row.get("LicenseURI") or ""),
        doi=doi,
        analysis=(doi or "unnamed") if third else "",
        is_open=str(row.get("Authorized", 1)) != "0",
    )
