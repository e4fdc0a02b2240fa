"""Images with class names: a folder with one sub-folder per class, or a CSV file."""

from __future__ import annotations

import csv
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from monai.data import MetaTensor

from monai_hyper.data.folder import read_description
from monai_hyper.data.pictures import PICTURES, is_dicom, is_picture, read_picture, series_of
from monai_hyper.types import InputError

_COLUMNS = ("path", "class", "text", "index")

RESERVED = ("query", "class")
"""Columns of tables of results, beside one for every class."""


@dataclass(frozen=True)
class Example:
    """One image of a class.

    Args:
        name: of the file as its folder or CSV file calls it; ``NAME[3]`` is number 3 of a stack.
        image: file, or folder of one DICOM series.
        label: name of the class.
        index: place in a stack of images; None where the file holds one image.
    """

    name: str
    image: Path
    label: str
    index: int | None = None


@dataclass(frozen=True)
class LabelledExamples:
    """What shows or tells the classes of a task.

    Args:
        classes: their names in natural order.
        examples: in the order of the classes, by name inside a class.
        texts: description of a class; may lack classes, but not those without an example.
    """

    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    texts: dict[str, str]


def list_examples(path: str | Path) -> LabelledExamples:
    """Examples of a folder or of a CSV file. Hidden files are ignored.

    A folder has one sub-folder per class, with anything in it that :func:`monai_hyper.data.pictures.read_picture`
    reads, and perhaps ``dataset.json`` with {"texts": {"class": "description"}}. Loose DICOM files of a class are one
    image each if every one is a series of its own.

    A CSV file has the columns ``path`` (relative to the file) and ``class``, and if needed ``text`` (description of the
    class) and ``index`` (place in a stack of images, from 0). A row without path only describes its class.

    Raises:
        InputError: for fewer than two classes, a class with neither example nor text, an image that is there twice,
            files that are missing or no images, two texts for a class or one for an unknown class, and a file with
            unknown, missing or empty entries.
    """
    path = Path(path)
    if path.is_dir():
        examples, texts, classes = _of_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        examples, texts, classes = _of_csv(path)
    else:
        found = "another file" if path.exists() else "nothing"
        raise InputError(
            f"{path}: expected a folder with one sub-folder per class, or a .csv file, found {found}. Check the path."
        )
    if len(classes) < 2:
        raise InputError(
            f"{path}: expected two classes or more, found {', '.join(classes) or 'none'}. "
            "Give examples of every class, in a sub-folder or with a class name of its own."
        )
    shown = {example.label for example in examples}
    for name in classes:
        if name in RESERVED:
            raise InputError(
                f"{path}: a class is called '{name}', which is a column of the results. Call it something else."
            )
        if name not in shown and name not in texts:
            raise InputError(
                f"{path}: expected an example or a text for class '{name}', found none. Add one, or drop the class."
            )
    _refuse_copies(examples)
    return LabelledExamples(
        tuple(sorted(classes, key=natural)),
        tuple(sorted(examples, key=lambda example: (natural(example.label), natural(example.name)))),
        texts,
    )


def read_examples(found: LabelledExamples) -> list[MetaTensor]:
    """All images, in the order of ``found.examples``, ``(C, D, H, W)`` float32 each.

    Raises:
        InputError: for a bad file, see :func:`monai_hyper.data.pictures.read_picture`; if numbers of channels differ,
            or if some images are slices, with an axis of length 1, and some are volumes.
    """
    images = [read_picture(example.image, example.index) for example in found.examples]
    kinds = {1: "grey", 3: "in colour"}
    for example, image in zip(found.examples, images):
        first, before = found.examples[0], images[0]
        if len(image) != len(before):
            raise InputError(
                f"{_where(example)} is {kinds[len(image)]}, {_where(first)} is {kinds[len(before)]}; expected all "
                "images alike. Convert the colour images to grey, or take the others away."
            )
        flat, flat_before = 1 in image.shape[1:], 1 in before.shape[1:]
        if flat != flat_before:
            raise InputError(
                f"{_where(example)} has shape {tuple(image.shape[1:])}, {_where(first)} has shape "
                f"{tuple(before.shape[1:])}; expected only slices or only volumes. Take one kind away."
            )
    return images


def natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Key to sort names as people do.

    Example:
        >>> sorted(["grade 10", "grade 2"], key=natural)
        ['grade 2', 'grade 10']
    """
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts], text


def read_rows(path: str | Path, needed: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file that are not blank, with their line numbers; spaces around entries are dropped.

    Args:
        needed: columns that have to be there.

    Raises:
        InputError: if the file is missing, no text, without rows, or lacks a column or has it twice; and for a row with
            more entries than columns.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, _without_end(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file, found something else ({error}). Save it as UTF-8.") from error
    lines = [(number, row) for number, row in lines if row]
    if not lines:
        raise InputError(f"{path}: expected columns {', '.join(needed)}, found an empty file. Fill it.")
    columns = lines[0][1]
    for name in (*needed, *columns):
        if columns.count(name) != 1:
            close = difflib.get_close_matches(name, columns, n=1)
            found = f"column '{close[0]}'" if close and close[0] != name else f"columns {', '.join(columns)}"
            raise InputError(f"{path}: found {found}; expected '{name}' once, and commas between. Correct line 1.")
    for number, row in lines[1:]:
        if len(row) > len(columns):
            raise InputError(
                f"{path}, line {number}: expected {len(columns)} entries, found {len(row)}. Put texts with commas in "
                "double quotes."
            )
    if len(lines) == 1:
        raise InputError(f"{path}: expected rows below the names of columns, found none. Add one for every image.")
    return [(number, dict.fromkeys(columns, "") | dict(zip(columns, row))) for number, row in lines[1:]]


def _without_end(row: list[str]) -> list[str]:
    """Entries without the spaces around them, up to the last filled one: some programs end lines with commas."""
    row = [entry.strip() for entry in row]
    while row and not row[-1]:
        row.pop()
    return row


def _of_folder(folder: Path) -> tuple[list[Example], dict[str, str], list[str]]:
    entries = _visible(folder)
    classes = [path.name for path in entries if path.is_dir()]
    for path in entries:
        if path.is_file() and is_picture(path):
            raise InputError(f"{path}: expected images in sub-folders, one per class, found one beside them. Move it.")
        if path.is_dir() and not path.name.strip():
            raise InputError(f"{path}: expected the name of a class, found a blank one. Name the sub-folder.")
    texts = read_description(folder).get("texts", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) and text.strip() for text in texts.values()):
        raise InputError(
            f"{folder / 'dataset.json'}: expected 'texts' as {{class: description}}, found {texts!r}. Correct the file."
        )
    for name in texts:
        if name not in classes:
            raise InputError(
                f"{folder / 'dataset.json'}: found a text for class '{name}'; expected {_meant(name, classes)}. "
                "Correct the name, or add a sub-folder for the class."
            )
    examples = [example for name in classes for example in _of_class(folder / name)]
    return examples, texts, classes


def _of_class(folder: Path) -> list[Example]:
    entries = _visible(folder)
    for path in entries:
        if path.is_file() and not is_picture(path):
            raise InputError(f"{path}: expected images of class '{folder.name}', found another file. Take it away.")
        inside = _visible(path) if path.is_dir() else [path]
        wrong = [file for file in inside if path.is_dir() and (file.is_dir() or file.name.lower().endswith(PICTURES))]
        if not inside or wrong:
            found = f"'{wrong[0].name}'" if wrong else "an empty one"
            raise InputError(
                f"{path}: expected a folder of one DICOM series, found {found}. Put the images of class "
                f"'{folder.name}' directly in its folder."
            )
    loose: dict[str, Path] = {}
    for path in entries:
        if path.is_file() and is_dicom(path):
            other = loose.setdefault(series_of(path), path)
            if other is not path:
                raise InputError(
                    f"{folder}: expected every loose DICOM file to be a series of its own, found {other.name} and "
                    f"{path.name} of one series. Make one folder per series."
                )
    return [Example(path.name, path, folder.name) for path in entries]


def _of_csv(path: Path) -> tuple[list[Example], dict[str, str], list[str]]:
    rows = read_rows(path, ("path", "class"))
    for column in rows[0][1]:
        if column not in _COLUMNS:
            raise InputError(f"{path}: found column '{column}'; expected {_meant(column, _COLUMNS)}. Correct line 1.")
    examples, classes, texts = [], {}, {}
    for number, row in rows:
        where, label, text = f"{path}, line {number}", row["class"], row.get("text", "")
        if not label:
            raise InputError(f"{where}: expected the name of a class, found none. Fill column 'class'.")
        classes[label] = None
        if text and texts.setdefault(label, text) != text:
            raise InputError(
                f"{where}: found a second text for class '{label}', '{text}'; expected that before, '{texts[label]}'. "
                "Keep one of them."
            )
        if row["path"]:
            examples.append(_of_row(path.parent, row, where))
        elif row.get("index"):
            raise InputError(f"{where}: expected a path for index {row['index']}, found none. Fill column 'path'.")
    return examples, texts, list(classes)


def _of_row(folder: Path, row: Mapping[str, str], where: str) -> Example:
    image, index = folder / row["path"], row.get("index", "")
    if not image.exists():
        raise InputError(f"{where}: expected an image at {image}, found nothing. Paths are relative to the CSV file.")
    if image.is_file() and not is_picture(image):
        raise InputError(f"{where}: expected an image, found {image.name}. Convert it.")
    if not index:
        return Example(row["path"], image, row["class"])
    if not (index.isascii() and index.isdecimal()):
        raise InputError(f"{where}: expected a whole number from 0 upward as index, found '{index}'. Correct it.")
    return Example(f"{row['path']}[{int(index)}]", image, row["class"], int(index))


def _refuse_copies(examples: Iterable[Example]) -> None:
    """An image shows one class, and counts once."""
    known: dict[tuple[str, ...], Example] = {}
    for example in examples:
        place = (str(example.image.resolve()), str(example.index))
        for key in (place, (fingerprint(example),)):
            other = known.setdefault(key, example)
            if other is example:
                continue
            if other.label == example.label:
                raise InputError(
                    f"{_where(example)} is the same image as {_where(other)}, both in class '{example.label}'; "
                    "expected every image once. Take one away."
                )
            raise InputError(
                f"{_where(example)} in class '{example.label}' is the same image as {_where(other)} in class "
                f"'{other.label}'; expected one class for an image. Take the wrong one away."
            )


def fingerprint(example: Example) -> str:
    """SHA-256 of a file, of the files of a series in any order, or of one image of a stack."""
    if example.index is not None:
        picture = read_picture(example.image, example.index)
        return hashlib.sha256(repr(picture.shape).encode() + picture.numpy().tobytes()).hexdigest()
    if example.image.is_dir():
        each = sorted(_sha256(path) for path in _visible(example.image) if path.is_file())
        return hashlib.sha256(" ".join(each).encode()).hexdigest()
    return _sha256(example.image)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda p: natural(p.name))


def _where(example: Example) -> str:
    return str(example.image) if example.index is None else f"{example.image}[{example.index}]"


def _meant(name: str, known: Iterable[str]) -> str:
    """The closest known name; all of them where none is close."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"'{close[0]}'" if close else ", ".join(known)
