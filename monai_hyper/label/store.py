"""The datastores of the label server: nothing enters them unchecked, nothing in them is ever half-written."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from pydicom.misc import is_dicom

from monai_hyper.data.volumes import SUFFIXES, read_image
from monai_hyper.export.deploy import digest
from monai_hyper.export.nifti import save_image, save_label
from monai_hyper.label.names import Names
from monai_hyper.label.sent import checked_name, read_sent
from monai_hyper.types import InputError

logger = logging.getLogger(__name__)

EXTENSIONS = tuple(f"*{suffix}" for suffix in SUFFIXES)

FINAL = DefaultLabelTag.FINAL.value

_ONE_AT_A_TIME = (
    "datalist", "get_image_info", "get_label_uri", "get_labels_by_image_id", "get_label_info",
    "get_labeled_images", "get_unlabeled_images", "list_images", "remove_image", "_reconcile_datastore", "status",
    "json",
)  # fmt: skip
"""What reads or changes the tables of the datastore, which a watcher of the folder changes, too."""


class CarefulStore(LocalDatastore):
    """MONAI Label's folder of images and labels, whose label maps all have the same value for the same name.

    Args:
        folder: of the images; ``labels/final`` in it has the label maps.
        names: values by name.
        work: folder beside it, on the same disk, for what is not complete yet.
        changed: called when a final label may have come, changed or gone.
    """

    def __init__(self, folder: str, names: Names, work: Path, changed: Callable[[], None], **options: object) -> None:
        self.guard = threading.RLock()
        self.names, self.work, self.changed = names, work, changed
        work.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, extensions=EXTENSIONS, **options)

    def get_image_uri(self, image_id: str) -> str:
        """File of a scan; of a folder of DICOM a copy as NIfTI. Empty for an unknown scan."""
        with self.guard:
            path = super().get_image_uri(image_id)
            return self.as_volume(image_id, Path(path)) if os.path.isdir(path) else path

    def series_folder(self, image_id: str) -> Path:
        """Folder of the DICOM files of a scan.

        Raises:
            InputError: if it is none.
        """
        folder = Path(self._datastore.image_path()) / image_id
        if image_id not in self.list_images() or not folder.is_dir():
            raise InputError("output=dicom_seg: expected a scan in DICOM, found a volume. Ask for output=image.")
        return folder

    def as_volume(self, image_id: str, series: Path) -> str:
        """A DICOM series as NIfTI, written when it is first asked for."""
        path = self.work.parent / "volumes" / f"{image_id}.nii.gz"
        if not path.exists():
            image = read_image(series)
            with TemporaryDirectory(dir=self.work) as beside:
                self._place(save_image(image, Path(beside) / "image.nii.gz"), path)
        return str(path.resolve())

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found = super()._list_files(path, patterns)
        if os.path.realpath(path) == os.path.realpath(self._datastore.image_path()):
            found |= {folder.name: folder.name for folder in Path(path).iterdir() if _is_series(folder)}
        return found

    def add_image(self, image_id: str, image_filename: str, image_info: dict) -> str:
        """Add an uploaded image, once it is known to be one.

        Raises:
            InputError: if it is none, its name is no name, or another image has that name.
        """
        name, extension = self._to_id(os.path.basename(image_filename))
        image_id = checked_name(image_id or name, "the image's name")
        try:
            read_image(image_filename)
        except InputError as error:
            raise InputError(str(error).replace(str(image_filename), "the image")) from error
        there = self.get_image_uri(image_id)
        if there:
            if digest(Path(there)) == digest(Path(image_filename)):
                return image_id
            raise InputError(f"image '{image_id}': another one of that name is there. Take another name, or remove it.")
        self._place(Path(image_filename), Path(self._datastore.image_path()) / f"{image_id}{extension}")
        info = {**(image_info or {}), "ts": int(time.time()), "name": f"{image_id}{extension}"}
        with self._changing() as objects:
            objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict) -> str:
        """Save a label map, once it is known to lie on its image, in the values its names have here.

        Raises:
            InputError: if it is no label map, or on another grid, or the tag is no name.
            ImageNotFoundException: for an unknown image.
        """
        image = self.get_image_uri(image_id)
        if not image:
            raise ImageNotFoundException(f"image '{image_id}': not in the datastore. See /datastore for what is.")
        info = dict(label_info or {})
        try:
            label = read_sent(Path(label_filename), Path(image), self.names, info.get("label_info"))
        except InputError as error:
            raise InputError(str(error).replace(str(label_filename), "the label")) from error
        return self.put_label(image_id, label, checked_name(getattr(label_tag, "value", label_tag), "the tag"), info)

    def put_label(self, image_id: str, label, tag: str, info: dict) -> str:
        """Put a label map in its values here to an image: the file first, then the table that names it."""
        target = Path(self._datastore.label_path(tag)) / f"{image_id}.nii.gz"
        with TemporaryDirectory(dir=self.work) as beside:
            self._place(save_label(label, Path(beside) / "label.nii.gz"), target)
        info |= {"ts": int(time.time()), "name": target.name}
        with self._changing() as objects:
            objects[image_id].labels[tag] = DataModel(info=info, ext=".nii.gz")
        if tag == FINAL:
            self.changed()
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label map; the network is generated again without it."""
        super().remove_label(label_id, getattr(label_tag, "value", label_tag))
        self.refresh()

    def update_image_info(self, image_id: str, info: dict) -> None:
        """Keep facts with a scan."""
        with self._changing() as objects:
            if image_id not in objects:
                raise ImageNotFoundException(f"image '{image_id}': not in the datastore. See /datastore for what is.")
            objects[image_id].image.info.update(info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict) -> None:
        """Keep facts with a label map."""
        tag = getattr(label_tag, "value", label_tag)
        with self._changing() as objects:
            if label_id not in objects or tag not in objects[label_id].labels:
                raise LabelNotFoundException(f"label '{label_id}' with the tag '{tag}': not in the datastore.")
            objects[label_id].labels[tag].info.update(info)

    def refresh(self) -> None:
        """Look at the folder again."""
        super().refresh()
        self.changed()

    def _place(self, source: Path, target: Path) -> None:
        """Copy a file to where it belongs; there it is whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.work) as beside:
            copy = Path(beside) / "copy"
            copy.write_bytes(source.read_bytes())
            os.replace(copy, target)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, ImageLabelModel]]:
        """Change the table in one piece, on top of what other processes wrote; it is written at the end."""
        with self.guard, FileLock(self._lock_file):
            self._read_table()
            yield self._datastore.objects
            self._update_datastore_file(lock=False)

    def _read_table(self) -> None:
        """Take over what another process has written."""
        path = Path(self._datastore_config_path)
        if path.exists() and path.stat().st_mtime != self._config_ts:
            self._datastore = LocalDatastoreModel.model_validate_json(path.read_text(encoding="utf-8"))
            self._datastore.base_path, self._config_ts = self._datastore_path, path.stat().st_mtime

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                return self._update_datastore_file(False)
        text = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        beside = self.work / f"{os.getpid()}-{threading.get_ident()}.json"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self._datastore_config_path)
        self._config_ts = os.stat(self._datastore_config_path).st_mtime
        return None


def _is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files."""
    if not folder.is_dir() or folder.name.startswith(".") or folder.name == "labels":
        return False
    file = next((path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."), None)
    return file is not None and is_dicom(file)


def _guarded(name: str) -> Callable:
    @functools.wraps(getattr(LocalDatastore, name))
    def call(self: CarefulStore, *args: object, **options: object) -> object:
        with self.guard:
            return getattr(super(CarefulStore, self), name)(*args, **options)

    return call


for _name in _ONE_AT_A_TIME:
    setattr(CarefulStore, _name, _guarded(_name))
