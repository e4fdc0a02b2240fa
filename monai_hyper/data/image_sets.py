"""The labelled image sets of few-shot papers, as they are handed out: grey, bright on a scale from 0 to 1.

Nothing is downloaded. A flat image is a volume of one slice: the first axis runs along the columns, the second along
the rows, the third has length 1, see :func:`monai_hyper.data.pictures.read_picture`.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from monai_hyper.data.examples import natural, read_rows
from monai_hyper.data.pictures import PICTURES, decoded, read_array, to_grey
from monai_hyper.types import InputError

SKIN_LESIONS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""Classes of ISIC 2018, task 3: melanoma, naevus, basal cell carcinoma, actinic keratosis, benign keratosis,
dermatofibroma, vascular lesion."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one split.

    Args:
        images: ``images[i]`` is ``(1, D, H, W)`` float32 in 0 to 1, read or decoded when it is asked for.
        labels: number of the class of each, ``(n,)`` int64.
        classes: their names.
        groups: to what every class belongs, such as the alphabet of a character; None where there is nothing such.

    Raises:
        InputError: for no image, and for labels or groups that do not fit.

    Example:
        >>> found = ImageSet(torch.rand(2, 1, 4, 4, 1), torch.tensor([1, 0]), ("ill", "well"))
        >>> found.images[0].shape, found.classes[found.labels[0]]
        (torch.Size([1, 4, 4, 1]), 'well')
    """

    images: Sequence[Tensor]
    labels: Tensor
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        if tuple(self.labels.shape) != (n,) or not n:
            raise InputError(
                f"labels are {tuple(self.labels.shape)}; expected {(n,)}, one for each of 1 image or more."
            )
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            raise InputError(
                f"labels reach from {int(self.labels.min())} to {int(self.labels.max())}; expected 0 to "
                f"{len(self.classes) - 1} for {len(self.classes)} classes."
            )
        if self.groups is not None and len(self.groups) != len(self.classes):
            raise InputError(f"groups are {len(self.groups)}; expected {len(self.classes)}, one for every class.")


class _Lazy(Sequence):
    """Images that are made of their sources when they are asked for."""

    def __init__(self, sources: Sequence, read: Callable[..., Tensor]) -> None:
        self.sources, self.read = sources, read

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.sources[index])


def medmnist(path: str | Path, split: str) -> ImageSet:
    """One split of a set of MedMNIST, flat (grey or colour) or of volumes; Yang et al., "MedMNIST v2", 2023,
    https://doi.org/10.1038/s41597-022-01721-8.

    Args:
        path: its ``.npz`` file.
        split: "train", "val" or "test".

    Returns:
        classes are called by their numbers and are the same in every split; volumes keep the order of their axes.

    Raises:
        InputError: if the file is bad or lacks the split, and for several labels per image.
    """
    path = Path(path)
    images = read_array(path, f"{_split(path, split, ('train', 'val', 'test'))}_images")
    labels = _medmnist_labels(path, split)
    if images.dtype != np.uint8 or not 3 <= images.ndim <= 4 or len(images) != len(labels):
        raise InputError(
            f"{path}: expected one 8 bit image for each of {len(labels)} labels, found {images.dtype} of shape "
            f"{images.shape}. Use a file of MedMNIST as it is handed out."
        )
    flat = images.ndim == 3 or images.shape[-1] == 3
    known = [int(_medmnist_labels(path, other).max()) for other in ("train", "val", "test") if _has(path, other)]
    classes = tuple(str(value) for value in range(max(known) + 1))
    return ImageSet(_Lazy(images, _grey_of_rows if flat else _unit), torch.from_numpy(labels), classes)


def _has(path: Path, split: str) -> bool:
    with zipfile.ZipFile(path) as file:
        return f"{split}_labels.npy" in file.namelist()


def _medmnist_labels(path: Path, split: str) -> np.ndarray:
    labels = read_array(path, f"{split}_labels")
    if labels.ndim > 1 and labels.shape[1] != 1:
        raise InputError(
            f"{path}: expected one label per image, found {labels.shape[1]}. Sets where an image has several classes "
            "are not supported; choose another."
        )
    labels = labels.reshape(-1)
    if labels.dtype.kind not in "ui" or not labels.size or int(labels.min()) < 0:
        raise InputError(f"{path}: expected {split}_labels as whole numbers from 0 upward, found others. Correct them.")
    return labels.astype(np.int64)


def omniglot(paths: str | Path | Sequence[str | Path]) -> ImageSet:
    """Handwritten characters, strokes 1 on 0; Lake et al., 2015, https://github.com/brendenlake/omniglot.

    Args:
        paths: folders or ZIP files with ``ALPHABET/characterNN/*.png`` at any depth; a drawing that several of them
            hold counts once.

    Returns:
        classes "ALPHABET/characterNN"; groups are the alphabets.

    Raises:
        InputError: if a path holds no such drawing or cannot be read, or two different drawings have one name.
    """
    drawings: dict[tuple[str, str, str], tuple[bytes, str]] = {}
    for path in [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]:
        before = 0
        for key, content in _drawings(path):
            before += 1
            other, where = drawings.setdefault(key, (content, str(path)))
            if other != content:
                raise InputError(
                    f"{path}: expected {'/'.join(key)} as in {where}, found another drawing. Take one of them away."
                )
        if not before:
            raise InputError(f"{path}: expected ALPHABET/characterNN/*.png, found none. Check the path.")
    keys = sorted(drawings, key=lambda key: [natural(part) for part in key])
    classes = list(dict.fromkeys(key[:2] for key in keys))
    numbers = {name: number for number, name in enumerate(classes)}
    return ImageSet(
        _Lazy([(drawings[key][0], f"{drawings[key][1]}: {'/'.join(key)}") for key in keys], _strokes),
        torch.tensor([numbers[key[:2]] for key in keys]),
        tuple("/".join(name) for name in classes),
        tuple(alphabet for alphabet, _ in classes),
    )


def _drawings(path: Path) -> Iterator[tuple[tuple[str, str, str], bytes]]:
    """Alphabet, character and file name of every drawing, and the content of its file."""
    if path.is_dir():
        for file in sorted(path.rglob("*.png")):
            parts = file.absolute().parts
            if _is_drawing(parts):
                yield parts[-3:], file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as file:
            for name in sorted(file.namelist()):
                parts = PurePosixPath(name).parts
                if _is_drawing(parts):
                    yield parts[-3:], file.read(name)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: expected a folder or a ZIP file, found {error}. Fetch the file again.") from error


def _is_drawing(parts: Sequence[str]) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts[-3:]) or "__MACOSX" in parts
    return (
        len(parts) > 2 and not hidden and parts[-1].endswith(".png") and bool(re.fullmatch(r"character\d+", parts[-2]))
    )


def mini_imagenet(folder: str | Path, split: str) -> ImageSet:
    """One split of mini-ImageNet; Vinyals et al., 2016, https://arxiv.org/abs/1606.04080, split of Ravi and Larochelle.

    Args:
        folder: with ``images/`` and ``train.csv``, ``val.csv``, ``test.csv`` (columns ``filename`` and ``label``), or
            with ``train/CLASS/*.jpg`` and so on.
        split: "train", "val" or "test".

    Raises:
        InputError: if the split or one of its images is not there.
    """
    folder = Path(folder)
    _split(folder, split, ("train", "val", "test"))
    table = folder / f"{split}.csv"
    if table.is_file():
        found = [
            (folder / "images" / row["filename"], row["label"]) for _, row in read_rows(table, ("filename", "label"))
        ]
        _refuse_missing(table, [path for path, _ in found])
    elif (folder / split).is_dir():
        found = [(path, path.parent.name) for path in _pictures(folder / split) if path.parent.parent == folder / split]
    else:
        found = []
    if not found:
        raise InputError(
            f"{folder}: expected {split}.csv beside images/, or {split}/CLASS/*.jpg, found neither. Check the folder."
        )
    classes = tuple(sorted({label for _, label in found}, key=natural))
    return _of_files(sorted((classes.index(label), path) for path, label in found), classes)


def isic2018(folder: str | Path) -> ImageSet:
    """Skin lesions of ISIC 2018, task 3; Codella et al., 2019, https://arxiv.org/abs/1902.03368.

    Args:
        folder: with the images and the only ``*GroundTruth.csv`` (columns ``image`` and one for every class, of which
            one is 1 in every row), at any depth.

    Returns:
        classes :data:`SKIN_LESIONS`.

    Raises:
        InputError: if the table is missing or there are several, an image is not there, or a row has not one class.
    """
    folder = Path(folder)
    tables = sorted(path for path in folder.rglob("*GroundTruth.csv") if not path.name.startswith("."))
    if len(tables) != 1:
        raise InputError(
            f"{folder}: expected one *GroundTruth.csv, found {', '.join(path.name for path in tables) or 'none'}. "
            "Give the folder of one split."
        )
    pictures = {path.stem: path for path in _pictures(folder)}
    found = []
    for number, row in read_rows(tables[0], ("image", *SKIN_LESIONS)):
        shown = [index for index, name in enumerate(SKIN_LESIONS) if row[name] in ("1", "1.0")]
        if len(shown) != 1 or any(row[name] not in ("0", "0.0", "1", "1.0") for name in SKIN_LESIONS):
            raise InputError(
                f"{tables[0]}, line {number}: expected 1 for one class and 0 for the others, found "
                f"{[row[name] for name in SKIN_LESIONS]}. Correct the row."
            )
        if row["image"] not in pictures:
            raise InputError(f"{tables[0]}, line {number}: expected image {row['image']}.jpg, found none. Add it.")
        found.append((shown[0], pictures[row["image"]]))
    return _of_files(found, SKIN_LESIONS)


def chexpert(folder: str | Path, finding: str, split: str) -> ImageSet:
    """Chest X-rays, all views, with and without a finding; Irvin et al., 2019, https://arxiv.org/abs/1901.07031.

    Args:
        folder: ``CheXpert-v1.0-small``, or the folder that holds it, with ``train.csv`` and ``valid.csv``.
        finding: a column of the table, such as "Edema". Images where it is uncertain or not mentioned are left out.
        split: "train" or "valid".

    Returns:
        classes ("no FINDING", FINDING).

    Raises:
        InputError: if the table, the finding, or an image is not there, and for a split without both classes.
    """
    folder = Path(folder)
    name = f"{_split(folder, split, ('train', 'valid'))}.csv"
    tables = [folder / name, *sorted(folder.glob(f"CheXpert*/{name}"))]
    table = next((path for path in tables if path.is_file()), tables[0])
    found = []
    for number, row in read_rows(table, ("Path", finding)):
        value = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": None, "-1": None, "": None}.get(row[finding], row[finding])
        if isinstance(value, str):
            raise InputError(f"{table}, line {number}: expected 1, 0, -1 or nothing for {finding}, found {value}.")
        if value is not None:
            found.append((value, _x_ray(table, row["Path"])))
    if {value for value, _ in found} != {0, 1}:
        raise InputError(
            f"{table}: expected images with and without {finding}, found one kind. Choose another finding."
        )
    return _of_files(found, (f"no {finding}", finding))


def _x_ray(table: Path, written: str) -> Path:
    """A path of the table begins with the name of the folder, whatever that is called here."""
    parts = PurePosixPath(written).parts
    places = [table.parent.joinpath(*parts[1:]), table.parent.parent / written, table.parent / written]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"{table}: expected an image at {places[0]}, found nothing. Keep the images beside the table.")


def wbc(path: str | Path) -> tuple[Tensor, Tensor]:
    """White blood cells with label maps; Zheng et al., 2018, https://doi.org/10.1016/j.micron.2018.01.010.

    Args:
        path: ``.npz`` with "images" ``(n, rows, columns, 3)`` uint8 and "labels" ``(n, rows, columns)`` of 0, 128
            (cytoplasm) and 255 (nucleus).

    Returns:
        grey images ``(n, 1, columns, rows, 1)`` float32 in 0 to 1; labels of that shape, int64: 0 background,
        1 cytoplasm, 2 nucleus.

    Raises:
        InputError: for a bad file, other shapes and other labels.
    """
    images, labels = read_array(path, "images"), read_array(path, "labels")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or images.shape[:3] != labels.shape:
        raise InputError(
            f"{path}: expected 8 bit images (n, rows, columns, 3) and labels (n, rows, columns), found {images.dtype} "
            f"{images.shape} and {labels.shape}. Save them in that order of axes."
        )
    others = np.setdiff1d(labels, (0, 128, 255))
    if others.size or not labels.size:
        raise InputError(f"{path}: expected labels 0, 128 and 255, found {others.tolist() or 'none'}. Correct them.")
    values = np.searchsorted((0, 128, 255), labels).swapaxes(1, 2)
    return torch.stack([_grey_of_rows(image) for image in images]), torch.from_numpy(values)[:, None, ..., None]


def _grey_of_rows(image: np.ndarray) -> Tensor:
    """``(rows, columns)`` or ``(rows, columns, 3)``, 8 bit, as ``(1, columns, rows, 1)`` in 0 to 1."""
    channels = torch.from_numpy(np.array(image, dtype=np.float32)).reshape(*image.shape[:2], -1)
    return to_grey(channels.permute(2, 1, 0)[..., None] / 255).contiguous()


def _unit(image: np.ndarray) -> Tensor:
    """``(D, H, W)``, 8 bit, as ``(1, D, H, W)`` in 0 to 1."""
    return torch.from_numpy(np.array(image, dtype=np.float32))[None] / 255


def _grey_file(path: Path) -> Tensor:
    return _grey_picture(path.read_bytes(), path)


def _grey_picture(content: bytes, name: str | Path) -> Tensor:
    array = decoded(content, name)
    if array.dtype != np.uint8:
        raise InputError(f"{name}: expected a picture of 8 bits, found {array.dtype}. Convert it.")
    return to_grey(torch.from_numpy(array.astype(np.float32)) / 255).contiguous()


def _strokes(drawing: tuple[bytes, str]) -> Tensor:
    return 1 - _grey_picture(*drawing)


def _of_files(found: Sequence[tuple[int, Path]], classes: tuple[str, ...]) -> ImageSet:
    return ImageSet(_Lazy([path for _, path in found], _grey_file), torch.tensor([n for n, _ in found]), classes)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.name.lower().endswith(PICTURES) and not p.name.startswith("."))


def _refuse_missing(table: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise InputError(f"{table}: expected an image at {path}, found nothing. Add it.")


def _split(path: Path, split: str, known: Sequence[str]) -> str:
    if split not in known:
        raise InputError(f"{path}: unknown split '{split}'; expected {', '.join(known)}. Choose one of them.")
    return split
