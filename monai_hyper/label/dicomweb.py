"""A DICOMweb server, such as Orthanc, as datastore: series are scans, DICOM-SEG objects are final labels.

What is written to the server carries the patient's identity, as all else of the study there does.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pydicom
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from monai.data import MetaTensor
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.dataset import Dataset
from requests import RequestException

from monai_hyper.data.labels import label_values, painted
from monai_hyper.data.structures import read_structures
from monai_hyper.data.volumes import read_image
from monai_hyper.export.dicom_seg import save_dicom_seg
from monai_hyper.label.names import Names
from monai_hyper.label.store import FINAL, CarefulStore
from monai_hyper.types import InputError

logger = logging.getLogger(__name__)

MODALITIES = ("CT", "MR", "PT")


@dataclass(frozen=True)
class RemoteLabel:
    """A DICOM-SEG series.

    Args:
        series, study: its UIDs; image: UID of the series that it annotates; created: date and time, as text.
    """

    series: str
    study: str
    image: str
    created: str


def open_dicomweb(url: str, state: Path, names: Names, changed: Callable[[], None]) -> DicomWebStore:
    """The datastore of a DICOMweb server, with MONAI Label's settings for who signs in and where its services are."""
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    client = DICOMwebClientX(
        url=url,
        session=create_session_from_user_pass(user, password) if user and password else None,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    return DicomWebStore(client, state, names, changed)


class DicomWebStore(CarefulStore):
    """Scans are fetched when they are needed, and kept; labels are written back as DICOM-SEG, and read back by name.

    Args:
        client: of the server.
        state: folder of this datastore on this machine, see :func:`monai_hyper.label.state.state_folder`.
        names: values by name; changed: see :class:`CarefulStore`.
    """

    def __init__(self, client: DICOMwebClient, state: Path, names: Names, changed: Callable[[], None]) -> None:
        self.client, self.series = client, state / "series"
        self.fetching = threading.Lock()
        self.references: dict[str, RemoteLabel | None] = {}
        super().__init__(str(state / "volumes"), names, state / "work", changed, auto_reload=False)

    def name(self) -> str:
        """Address of the server."""
        return str(self.client.base_url)

    def list_images(self) -> list[str]:
        """UIDs of all CT, MR and PET series."""
        return sorted(uid for modality in MODALITIES for uid in self._series_of(modality))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the series that have a DICOM-SEG."""
        return sorted(self._remote_labels())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the other series."""
        return sorted(set(self.list_images()) - set(self._remote_labels()))

    def status(self) -> dict:
        """Numbers of scans and labels."""
        images, final = self.list_images(), self.get_labeled_images()
        return {"total": len(images), "completed": len(final), "label_tags": {FINAL: len(final)}}

    def get_image_uri(self, image_id: str) -> str:
        """File of a scan as NIfTI; fetched if it is not here yet, empty if the server has no such series."""
        if not re.fullmatch(r"[0-9.]+", image_id):  # a path, for instance
            return ""
        path = Path(self._datastore.image_path()) / f"{image_id}.nii.gz"
        if not path.exists():
            if image_id not in self.list_images():
                return ""
            self.as_volume(image_id, self.series_folder(image_id))
            self.refresh_table()
        return str(path.resolve())

    def series_folder(self, image_id: str) -> Path:
        """Folder of the files of a series; fetched if it is not here yet.

        Raises:
            ImageNotFoundException: if the server has no such series.
        """
        folder = self.series / image_id
        with self.fetching:
            if not folder.is_dir():
                self._fetch(image_id, folder)
        return folder

    def put_label(self, image_id: str, label: MetaTensor, tag: str, info: dict) -> str:
        """See :meth:`CarefulStore.put_label`."""
        if tag == FINAL:
            info = info | {"series": self._send(image_id, label)}
        return super().put_label(image_id, label, tag, info)

    def datalist(self, full_path: bool = True) -> list[dict[str, str]]:
        """Scans and final labels, those of the server as they are there now."""
        for image_id, remote in self._remote_labels().items():
            self.get_image_uri(image_id)
            if self.get_label_info(image_id, FINAL).get("series") != remote.series:
                self._fetch_label(remote)
        known = set(self._remote_labels())
        return [pair for pair in super().datalist(full_path) if Path(pair["image"]).name[:-7] in known]

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """
        Raises:
            InputError: for final labels: they are removed where they are kept.
        """
        if getattr(label_tag, "value", label_tag) == FINAL:
            raise InputError("a final label: it is kept by the DICOMweb server. Remove the DICOM-SEG series there.")
        super().remove_label(label_id, label_tag)

    def refresh_table(self) -> None:
        """Take new files into the table."""
        self._reconcile_datastore()

    def _series_of(self, modality: str) -> dict[str, Dataset]:
        found = self._asked(self.client.search_for_series, search_filters={"Modality": modality})
        sets = [Dataset.from_json(each) for each in found]
        return {str(each.SeriesInstanceUID): each for each in sets}

    def _asked(self, question: Callable, *args: object, **options: object) -> list:
        try:
            return question(*args, **options)
        except RequestException as error:
            raise InputError(f"{self.name()}: the DICOMweb server does not answer ({error}). Is it running?") from error

    def _remote_labels(self) -> dict[str, RemoteLabel]:
        """The newest DICOM-SEG of every series that has one."""
        newest: dict[str, RemoteLabel] = {}
        images = set(self.list_images())
        for uid, series in self._series_of("SEG").items():
            if uid not in self.references:
                self.references[uid] = self._reference(uid, str(series.StudyInstanceUID))
            label = self.references[uid]
            if label and label.image in images:
                known = newest.get(label.image)
                if known is None or (label.created, label.series) > (known.created, known.series):
                    newest[label.image] = label
        return newest

    def _reference(self, series: str, study: str) -> RemoteLabel | None:
        found = self._asked(self.client.retrieve_series_metadata, study, series)[0]
        meta = Dataset.from_json(found, bulk_data_uri_handler=lambda *_: b"")  # voxels are fetched when they are needed
        referenced = meta.get("ReferencedSeriesSequence")
        if not referenced:
            return None
        created = f"{meta.get('ContentDate', '')}{meta.get('ContentTime', '')}"
        return RemoteLabel(series, study, str(referenced[0].SeriesInstanceUID), created)

    def _fetch(self, series: str, folder: Path, study: str | None = None) -> None:
        """All files of a series, or none."""
        if study is None:
            found = self._asked(self.client.search_for_series, search_filters={"SeriesInstanceUID": series})
            sets = [Dataset.from_json(each) for each in found]
            study = next((str(s.StudyInstanceUID) for s in sets if str(s.SeriesInstanceUID) == series), None)
            if study is None:
                raise ImageNotFoundException(f"image '{series}': the DICOMweb server has no such series.")
        beside = Path(mkdtemp(dir=self.work))
        try:
            for i, instance in enumerate(self._asked(self.client.retrieve_series, study, series)):
                instance.save_as(beside / f"{i:05d}.dcm")
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _fetch_label(self, remote: RemoteLabel) -> None:
        image = read_image(self.get_image_uri(remote.image))
        with TemporaryDirectory(dir=self.work) as beside:
            self._fetch(remote.series, Path(beside) / "seg", remote.study)
            masks = read_structures(Path(beside) / "seg", image)
        values = dict(zip(masks, self.names.values(list(masks))))
        label = painted({values[name]: mask for name, mask in masks.items()}, image)
        CarefulStore.put_label(self, remote.image, label, FINAL, {"series": remote.series})
        with suppress(ValueError):  # the newest labels count most, and this one is as old as it says
            saved = datetime.strptime(remote.created.partition(".")[0], "%Y%m%d%H%M%S").timestamp()
            os.utime(self.get_label_uri(remote.image, FINAL), (saved, saved))

    def _send(self, image_id: str, label: MetaTensor) -> str:
        """Write a label map to the server; returns the UID of its series."""
        values = [value for value in label_values(label) if value]
        if not values:
            raise InputError("the label: expected a structure, found background only. DICOM-SEG cannot hold that.")
        with TemporaryDirectory(dir=self.work) as beside:
            path = Path(beside) / "seg.dcm"
            names = [self.names.name(value) for value in values]
            save_dicom_seg(label, names, values, self.series_folder(image_id), path, keep_identifiers=True)
            seg = pydicom.dcmread(path)
            self._asked(self.client.store_instances, [seg])
        return str(seg.SeriesInstanceUID)
