"""Which value a structure has in the label maps of a label server: by name, once and for all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from monai_hyper.types import InputError


class Names:
    """Values by name, kept in a file that grows with every new structure.

    Args:
        path: of the JSON file; made when the first name is known.
        given: names that are known from the start, values 1, 2, ...

    Example:
        >>> from tempfile import mkdtemp
        >>> names = Names(Path(mkdtemp()) / "labels.json", ["liver"])
        >>> names.values(["spleen", "liver"]), names.all()
        ([2, 1], {'liver': 1, 'spleen': 2})
    """

    def __init__(self, path: Path, given: Sequence[str] = ()) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(path.with_name(f".{path.name}.lock"))
        if given:
            self.values(given)

    def all(self) -> dict[str, int]:
        """Value of every name, in the order of the values."""
        if not self.path.exists():
            return {}
        return json.loads(self.path.read_text(encoding="utf-8"))

    def values(self, names: Sequence[str]) -> list[int]:
        """Values of names; a new name takes the next free value."""
        with self.lock:
            known = self.all()
            for name in names:
                known.setdefault(name, max(known.values(), default=0) + 1)
            self._write(known)
        return [known[name] for name in names]

    def name(self, value: int) -> str:
        """Name of a value; a value that nobody has named yet is named after itself."""
        with self.lock:
            known = self.all()
            found = [name for name, other in known.items() if other == value]
            if not found:
                found = [f"class_{value}"]
                self._write(known | {found[0]: value})
        return found[0]

    def _write(self, known: dict[str, int]) -> None:
        beside = self.path.with_name(f".{self.path.name}.part")
        beside.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(beside, self.path)


def named(values: Sequence[int], label_info: object) -> Mapping[int, str | None]:
    """What a client calls the values of a label map that it sends.

    3D Slicer lists all segments and numbers the exported ones anew, so that its "idx" may be off: there a value counts
    the entries. Where values exceed the number of entries, or entries descend, "idx" is the value.

    Args:
        values: foreground values of the label map.
        label_info: a list of objects with "name", perhaps "idx"; None or empty: the client has no names.

    Returns:
        name by value, None where the client has none.

    Raises:
        InputError: if ``label_info`` is in another form, or does not name a value.

    Example:
        >>> named([1, 2], [{"name": "head", "idx": 2}, {"name": "tail", "idx": 3}])
        {1: 'head', 2: 'tail'}
        >>> named([5], [{"name": "head", "idx": 5}])
        {5: 'head'}
    """
    if not label_info:
        return dict.fromkeys(values)
    if not isinstance(label_info, list) or not all(isinstance(e, dict) and e.get("name") for e in label_info):
        raise InputError(f"label_info: expected a list of objects with a 'name', found {str(label_info)[:200]}.")
    names = [str(entry["name"]) for entry in label_info]
    numbers = [e["idx"] if isinstance(e.get("idx"), int) else i for i, e in enumerate(label_info, 1)]
    counted = max(values, default=0) <= len(names) and numbers == sorted(numbers)
    table = dict(enumerate(names, 1)) if counted else dict(zip(numbers, names))
    unnamed = [value for value in values if value not in table]
    if unnamed:
        raise InputError(
            f"label_info: expected a name for every value of the label map, found none for {unnamed}; it has {table}."
        )
    return {value: table[value] for value in values}
