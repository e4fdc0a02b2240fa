"""What the model is called, and where the label server keeps what is not the datastore's own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

MODEL = "hyper_fewshot_segmentation"
"""Name of the model, of its trainer, and in the addresses of requests."""


def state_folder(studies: str) -> Path:
    """Folder of names, versions and work in progress of a datastore.

    Args:
        studies: folder, or address of a DICOMweb server; then it is in the user's cache.

    Example:
        >>> state_folder("scans").name
        '.monai_hyper'
    """
    if not studies.startswith(("http://", "https://")):
        return Path(studies) / ".monai_hyper"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "monai_hyper" / hashlib.sha256(studies.rstrip("/").encode()).hexdigest()[:16]
