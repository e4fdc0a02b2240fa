"""A result page: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from monai_hyper.types import InputError

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --soft: #5d6b7a; --line: #dde3ea; --paper: #fff; --back: #f4f6f9;
        --mark: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #97a4b2; --line: #2c3642; --paper: #171d25;
        --back: #0f141a; --mark: #6db3ff; } }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
dl { display: flex; flex-wrap: wrap; gap: .8rem; margin: 0; }
dl > div { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem 1rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.wide { overflow-x: auto; background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; }
table { border-collapse: collapse; width: 100%; } caption { display: none; }
th, td { padding: .4rem .9rem; text-align: left; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-size: .8rem; font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } th.number { text-align: right; }
td.best { color: var(--mark); font-weight: 700; }
figure { margin: 0 0 1.2rem; } img { width: 100%; border-radius: .6rem; display: block; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; }
"""


def write_page(
    path: str | Path,
    title: str,
    rows: Sequence[Mapping[str, object]],
    pictures: Sequence[tuple[str, str | Path]] = (),
    summary: Mapping[str, object] | None = None,
) -> Path:
    """Write figures, a table and pictures as one self-contained HTML file.

    Numbers that are no integers are shown with three decimals, ``None`` as a dash; the best of several such numbers
    in a row, the highest, is marked. Every text is escaped.

    Args:
        path: file to write, replaced where it exists; its folder is made.
        title: heading of the page.
        rows: of the table, all with the same keys, which head the columns, for instance
            ``{"case": "ct_4", "class": "liver", "Dice": 0.91, "Dice of the mean mask": 0.7}``.
        pictures: caption and PNG file of each.
        summary: figures shown first, for instance ``{"seconds to adapt": 1.2}``.

    Returns:
        ``path``.

    Raises:
        InputError: if rows differ in their keys, or a picture is no PNG file that can be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     page = write_page(Path(folder, "p.html"), "A < B", [{"case": "a", "Dice": 0.5}])
        ...     "<h1>A &lt; B</h1>" in page.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    for number, row in enumerate(rows):
        if list(row) != list(rows[0]):
            raise InputError(f"row {number} of the table has {list(row)}; expected {list(rows[0])} as in row 0.")
    parts = [f"<h1>{escape(title)}</h1>", _summary(summary or {}), _table(rows)]
    if pictures:
        parts += ["<h2>Pictures</h2>", *(_picture(caption, Path(file)) for caption, file in pictures)]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _text(value: object) -> str:
    if value is None:
        return "–"
    return escape(f"{value:.3f}" if isinstance(value, float) else str(value))


def _summary(figures: Mapping[str, object]) -> str:
    if not figures:
        return ""
    cells = (f"<div><dt>{escape(str(name))}</dt><dd>{_text(value)}</dd></div>" for name, value in figures.items())
    return f"<dl>{''.join(cells)}</dl>"


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return ""
    numeric = {name for name in rows[0] if any(isinstance(row[name], (int, float)) for row in rows)}
    kind = {name: ' class="number"' if name in numeric else "" for name in rows[0]}
    head = "".join(f"<th{kind[name]}>{escape(str(name))}</th>" for name in rows[0])
    body = "\n".join(f"<tr>{_cells(row, numeric)}</tr>" for row in rows)
    table = f"<table><caption>Results</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<h2>Results</h2>\n<div class="wide">{table}</div>'


def _cells(row: Mapping[str, object], numeric: set[str]) -> str:
    scores = [value for value in row.values() if isinstance(value, float)]
    best = max(scores) if len(scores) > 1 else None
    cells = []
    for name, value in row.items():
        marks = ["number"] if name in numeric else []
        marks += ["best"] if isinstance(value, float) and value == best else []
        attribute = f' class="{" ".join(marks)}"' if marks else ""
        cells.append(f"<td{attribute}>{_text(value)}</td>")
    return "".join(cells)


def _picture(caption: str, file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: expected a PNG picture, but it cannot be read ({error.strerror}).") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{file}: expected a PNG picture, found another format. Save it as PNG.")
    data, text = base64.b64encode(content).decode("ascii"), escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
