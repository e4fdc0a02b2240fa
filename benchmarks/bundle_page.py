"""Copy the tables of the fast methods from docs/results.md into the README of the bundle.

python benchmarks/bundle_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "bundles" / "hyper_ctmr_fewshot_segmentation" / "docs" / "README.md"

MARKS = ("<!-- tables -->", "<!-- /tables -->")
"""What stands between them in the README is written by this script."""


def tables(page: str) -> str:
    """The mean over all data sets, and of every set the mean over its classes.

    Args:
        page: docs/results.md.
    """
    fast = page.partition("## Fast methods\n")[2].partition("\n## ")[0]
    head, *sections = re.split(r"^### ", fast, flags=re.M)
    found = [head.strip()]
    for section in sections:
        title, text = section.split("\n", 1)
        found.append(f"**{title.strip()}**\n\n" + re.findall(r"(?:^\|.*\n)+", text, flags=re.M)[-1].strip())
    return "\n\n".join(found)


def with_tables(readme: str, page: str) -> str:
    """The README with the tables of a page."""
    before, _, rest = readme.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{tables(page)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


if __name__ == "__main__":
    README.write_text(
        with_tables(README.read_text(encoding="utf-8"), PAGE.read_text(encoding="utf-8")), encoding="utf-8"
    )
