"""The structures that meta-training knows, in words: names of label values, their vectors, and the nearest name.

``vocabulary.json`` gives, per training cohort and original label value, the names of a structure, the most readable
first. ``vocabulary.safetensors`` holds their vectors; after a change write it anew by
``python -m monai_hyper.data.vocabulary``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from monai_hyper.data.tensors import load_tensors, save_tensors
from monai_hyper.data.text import FILES, encode
from monai_hyper.types import InputError

NAMES = Path(__file__).with_name("vocabulary.json")
VECTORS = Path(__file__).with_name("vocabulary.safetensors")

SIDES = {
    "left": ("left", "lt", "l", "sinister", "sinistra", "sinistrum"),
    "right": ("right", "rt", "r", "dexter", "dextra", "dextrum"),
}
"""Words for the sides of the body, in English, in short and in Latin."""


@lru_cache(maxsize=1)
def _vocabulary() -> dict[str, dict[int, tuple[str, ...]]]:
    entries = json.loads(NAMES.read_text(encoding="utf-8"))
    return {c: {int(value): tuple(names) for value, names in entry.items()} for c, entry in entries.items()}


def names_of(cohort: str) -> dict[int, tuple[str, ...]]:
    """Original label values of a training cohort and their names, the most readable first.

    Names are in lower case, say nothing of modality, and tell the side of the body where there is one. The cohort
    ``"lesions"`` stands for lesion masks of any origin. Empty for a cohort that is not known.

    Example:
        >>> names_of("headneck_ct")[4]
        ('left parotid gland', 'parotid gland, left side', 'left parotid', 'left glandula parotidea')
    """
    return dict(_vocabulary().get(cohort, {}))


@lru_cache(maxsize=1)
def known_names() -> tuple[str, ...]:
    """All distinct names, in the order of :func:`embeddings`."""
    return tuple(dict.fromkeys(name for entry in _vocabulary().values() for names in entry.values() for name in names))


def _facts() -> dict:
    """What the vectors belong to: these names and this encoder."""
    names = hashlib.sha256("\n".join(known_names()).encode()).hexdigest()
    return {"names": names, "encoder": FILES["model.safetensors"]}


@lru_cache(maxsize=1)
def _embeddings() -> Tensor:
    tensors, facts = load_tensors(VECTORS)
    if facts != _facts():
        remedy = "Write it anew: python -m monai_hyper.data.vocabulary"
        raise InputError(f"{VECTORS}: expected vectors of the names in {NAMES.name}; found those of others. {remedy}")
    return functional.normalize(tensors["embeddings"].float(), dim=1)


def embeddings() -> Tensor:
    """Vectors of :func:`known_names`, ``(M, 384)`` float32 of length 1; computed in advance, rounded to 16 bits.

    Raises:
        InputError: if the file of vectors is missing or does not belong to the names.
    """
    return _embeddings().clone()


@lru_cache(maxsize=1)
def _places() -> dict[str, int]:
    return {name: place for place, name in enumerate(known_names())}


def embedding_of(text: str) -> Tensor:
    """Vector of a text, ``(384,)`` float32 of length 1.

    Names of the vocabulary, in any case and spacing (also with underscores for spaces), need no encoder.

    Raises:
        InputError: see :func:`monai_hyper.data.text.encode`.
    """
    plain = " ".join(text.lower().replace("_", " ").split())
    place = _places().get(plain)
    return encode([plain])[0] if place is None else _embeddings()[place].clone()


def side_of(text: str) -> str | None:
    """The side of the body that a text names: ``"left"``, ``"right"``, or None if it names none or both.

    Example:
        >>> side_of("Kidney_L"), side_of("vena renalis dextra"), side_of("vertebra l5"), side_of("left or right lung")
        ('left', 'right', None, None)
    """
    words = set(re.split(r"[\W_]+", text.lower()))
    found = [side for side, names in SIDES.items() if not words.isdisjoint(names)]
    return found[0] if len(found) == 1 else None


LOUDNESS = 0.5
"""What a side adds to a vector of length 1."""


@lru_cache(maxsize=1)
def _left_minus_right() -> Tensor:
    """Direction from names of the right to the same names of the left, ``(384,)`` of length 1."""
    places, pairs = _places(), []
    for name, place in places.items():
        other = places.get(re.sub(r"\bleft\b", "right", name))
        if other is not None and other != place:
            pairs.append(_embeddings()[place] - _embeddings()[other])
    return functional.normalize(torch.stack(pairs).mean(0), dim=0)


def description(text: str) -> Tensor:
    """What networks are told of a class or a structure: the vector of a text, the side that it names made louder.

    The encoder puts left and right of a structure nearer together than two names of it.

    Returns:
        ``(384,)`` float32 of length 1.

    Raises:
        InputError: see :func:`monai_hyper.data.text.encode`.

    Example:
        >>> left, right = description("left parotid gland"), description("right parotid gland")
        >>> bool(left @ right < 0.7 < embedding_of("left parotid gland") @ embedding_of("right parotid gland"))
        True
    """
    return louder(embedding_of(text), side_of(text))


def louder(vector: Tensor, side: str | None) -> Tensor:
    """A vector of length 1 with a side, see :func:`description`."""
    sign = {"left": 1.0, "right": -1.0, None: 0.0}[side]
    return functional.normalize(vector + sign * LOUDNESS * _left_minus_right(), dim=-1)


def nearest(text: str, among: Sequence[str] | None = None) -> tuple[str, float]:
    """The name whose vector has the highest cosine similarity with that of a text, and that similarity.

    The encoder hardly tells left from right, hence sides are compared as words: a text that names a side is near to
    names of that side and to names without one only.

    Args:
        text: description of a structure.
        among: names to choose from; all known names if None.

    Raises:
        InputError: if no name is of the side of the text, and see :func:`monai_hyper.data.text.encode`.

    Example:
        >>> nearest("left parotid gland")[0]
        'left parotid gland'
    """
    names = known_names() if among is None else tuple(among)
    side = side_of(text)
    kept = [place for place, name in enumerate(names) if side is None or side_of(name) in (None, side)]
    if not kept:
        raise InputError(f"'{text}': expected a name without side or of the same side; found none among {list(names)}.")
    vectors = _embeddings()[kept] if among is None else torch.stack([embedding_of(names[place]) for place in kept])
    similarity = vectors @ embedding_of(text)
    best = int(similarity.argmax())
    return names[kept[best]], float(similarity[best])


def main() -> None:
    """Encode all names and write ``vocabulary.safetensors`` beside this file."""
    save_tensors({"embeddings": encode(known_names()).half()}, VECTORS, _facts())
    print(f"{VECTORS}: {len(known_names())} names")


if __name__ == "__main__":
    main()
