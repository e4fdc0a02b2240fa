"""NCI Imaging Data Commons, by its client ``idc-index``, which brings the list of all series along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_hyper.data.fetch.client import Series, load, problems

NAME = "idc"

_LICENCES = {
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-NC 3.0": "https://creativecommons.org/licenses/by-nc/3.0/",
    "CC BY-NC 4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
}


class Idc:
    """Collections of https://portal.imaging.datacommons.cancer.gov, and analyses that were published of them."""

    def __init__(self) -> None:
        module = load("idc_index", "idc-index")
        with problems("idc_index", NAME):
            self._client = module.IDCClient()

    def collections(self) -> list[str]:
        """Names of all collections and analyses."""
        index = self._client.index
        return sorted(set(index["collection_id"].dropna()) | set(index["analysis_result_id"].dropna()))

    def series(self, collection: str) -> list[Series]:
        """All series of a collection; or of the studies that an analysis is about."""
        index = self._client.index
        chosen = index[index["collection_id"] == collection]
        if chosen.empty:
            studies = index.loc[index["analysis_result_id"] == collection, "StudyInstanceUID"].unique()
            chosen = index[index["StudyInstanceUID"].isin(studies)]
        return [_series(row) for row in chosen.to_dict("records")]

    def download(self, uid: str, folder: Path) -> None:
        """Files of a series, straight into the folder."""
        with problems("idc_index", NAME):
            self._client.download_dicom_series(uid, str(folder), quiet=True, show_progress_bar=False, dirTemplate=None)


def _series(row: Mapping) -> Series:
    text = {key: "" if value != value or value is None else str(value) for key, value in row.items()}  # NaN is not NaN
    return Series(
        uid=text["SeriesInstanceUID"],
        study=text["StudyInstanceUID"],
        patient=text["PatientID"],
        modality=text["Modality"],
        files=int(row["instanceCount"]),
        megabytes=float(row["series_size_MB"]),
        licence=text["license_short_name"],
        licence_url=_LICENCES.get(text["license_short_name"], ""),
        doi=text["source_DOI"].lower(),
        analysis=text["analysis_result_id"],
    )
