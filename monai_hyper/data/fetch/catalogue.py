"""Public collections with annotations that are known here, with their licences: ``collections.json``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from monai_hyper.data.fetch.client import plain

SOURCES = ("tcia", "idc")
"""Services that are asked."""

RESTRICTED = "restricted"
"""How the licence of a collection begins that needs a login."""


@cache
def _entries() -> tuple[dict, ...]:
    return tuple(json.loads((Path(__file__).parent / "collections.json").read_text(encoding="utf-8")))


def list_collections() -> list[dict]:
    """Collections with annotations, by name: where they are, what they hold, and what their licence is.

    Example:
        >>> next(row for row in list_collections() if row["id"] == "LCTSC")["licence"]
        'CC BY 3.0'
    """
    return [
        {
            "id": entry["id"],
            "sources": ", ".join(entry["sources"]),
            "modality": ", ".join(entry["modality"]),
            "annotation": ", ".join(entry["annotation"]),
            "structures": entry["structures"],
            "patients": entry["patients"],
            "size_gb": entry["size_gb"],
            "licence": entry["licence"],
            "doi": entry["doi"],
        }
        for entry in _entries()
    ]


def find_entry(collection: str) -> dict | None:
    """What is known of a collection, however its name is written; None where nothing is."""
    return next((entry for entry in _entries() if plain(entry["id"]) == plain(collection)), None)


def citation_of(doi: str) -> str | None:
    """How a data set asks to be cited; None where it is not known here."""
    return next((entry["citation"] for entry in _entries() if entry["doi"] == doi), None)


def markdown_table() -> str:
    """The table of ``docs/fetch.md``."""
    head = ["Collection", "Source", "Images", "Annotations", "Structures", "Patients", "GB", "Licence", "DOI"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in list_collections():
        cells = [f"`{row['id']}`", row["sources"], row["modality"], row["annotation"], row["structures"],
                 row["patients"], "" if row["size_gb"] is None else f"{row['size_gb']:.0f}", row["licence"],
                 f"[{row['doi']}](https://doi.org/{row['doi']})"]  # fmt: skip
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"
