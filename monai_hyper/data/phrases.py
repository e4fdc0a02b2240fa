"""What tasks of classification say of structures, in words: "enlarged liver", "kidney with a lesion"; and the vectors.

``phrases.json`` gives structures and templates, every pair of which is a phrase. ``phrases.safetensors`` holds their
vectors; after a change write it anew by ``python -m monai_hyper.data.phrases``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from monai_hyper.data.tensors import load_tensors, save_tensors
from monai_hyper.data.text import FILES, encode
from monai_hyper.data.vocabulary import description
from monai_hyper.types import InputError

PHRASES = Path(__file__).with_name("phrases.json")
VECTORS = Path(__file__).with_name("phrases.safetensors")

SIDE_WORDS = (", left side", ", right side", "left ", "right ")


@lru_cache(maxsize=1)
def _content() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    content = json.loads(PHRASES.read_text(encoding="utf-8"))
    return tuple(content["structures"]), {key: tuple(forms) for key, forms in content["templates"].items()}


def said_of(state: str, structure: str) -> tuple[str, ...]:
    """Ways to say that a structure is in a state.

    Args:
        state: key among the templates; structure: one of the structures of ``phrases.json``.

    Raises:
        KeyError: for a state that has no template.

    Example:
        >>> said_of("large", "liver")
        ('enlarged liver', 'large liver')
    """
    return tuple(form.format(structure) for form in _content()[1][state])


def without_side(name: str) -> str:
    """A name without the words that tell the side of the body.

    Example:
        >>> without_side("left kidney"), without_side("kidney, right side"), without_side("liver")
        ('kidney', 'kidney', 'liver')
    """
    for words in SIDE_WORDS:
        name = name.replace(words, "")
    return name


def phrased(names: Sequence[str]) -> str | None:
    """The first of several names of one structure that phrases know, without its side; None if they know none.

    Example:
        >>> phrased(["left ren", "left kidney"]), phrased(["left big toe"])
        ('kidney', None)
    """
    return next((name for name in map(without_side, names) if name in _content()[0]), None)


@lru_cache(maxsize=1)
def known_phrases() -> tuple[str, ...]:
    """All phrases, in the order of their vectors."""
    structures, templates = _content()
    return tuple(phrase for structure in structures for state in templates for phrase in said_of(state, structure))


@lru_cache(maxsize=1)
def _vectors() -> dict[str, Tensor]:
    tensors, facts = load_tensors(VECTORS)
    if facts != _facts():
        remedy = "Write it anew: python -m monai_hyper.data.phrases"
        raise InputError(f"{VECTORS}: expected vectors of what {PHRASES.name} says; found those of others. {remedy}")
    return dict(zip(known_phrases(), functional.normalize(tensors["embeddings"].float(), dim=1)))


def _facts() -> dict:
    """What the vectors belong to: these phrases and this encoder."""
    phrases = hashlib.sha256("\n".join(known_phrases()).encode()).hexdigest()
    return {"phrases": phrases, "encoder": FILES["model.safetensors"]}


def vector_of(text: str) -> Tensor:
    """What networks are told by a phrase or a name, ``(384,)`` float32 of length 1; these need no encoder.

    Raises:
        InputError: if the file of vectors is missing or of other phrases, and see
            :func:`monai_hyper.data.vocabulary.description`.
    """
    found = _vectors().get(text)
    return description(text) if found is None else found.clone()


def main() -> None:
    """Encode all phrases and write ``phrases.safetensors`` beside this file."""
    save_tensors({"embeddings": encode(known_phrases()).half()}, VECTORS, _facts())
    print(f"{VECTORS}: {len(known_phrases())} phrases")


if __name__ == "__main__":
    main()
