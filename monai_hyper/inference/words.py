"""What a user says in words: descriptions of classes beside examples, or of structures instead of any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from monai.data import MetaTensor

from monai_hyper.data.support import SupportSet
from monai_hyper.data.vocabulary import description, nearest
from monai_hyper.inference.pipeline import Modality, Plan, measure_modality, modality_of_text
from monai_hyper.networks.model import WORKING_VOXELS, HyperModel
from monai_hyper.types import MAX_CLASSES, InputError

SOFT_TISSUE = (-160.0, 240.0)
"""Window in HU where no example tells another."""

KNOWN = 0.65
"""A text that is less alike to every known name describes something that was never seen in training."""

_MODALITY = re.compile(
    r"\b(?:(?:on|in|of)\s+)?(?:an?\s+)?(?:t[12]\W?|flair\s+)?(?:ct|mri?)(?:\s+(?:scans?|images?))?\b", re.I
)


@dataclass(frozen=True)
class Wanted:
    """A structure that was asked for in words.

    Args:
        name: what it is called in results; text: what describes it, without the modality.
    """

    name: str
    text: str


def wanted(texts: Sequence[str]) -> tuple[list[Wanted], Modality | None]:
    """Read texts such as "left parotid gland on CT" or "gland=left parotid gland"; and the modality they name.

    Raises:
        InputError: for an empty text, a name twice, or more than 8 of them.

    Example:
        >>> wanted(["left parotid gland on CT"])
        ([Wanted(name='left parotid gland', text='left parotid gland')], 'CT')
        >>> wanted(["a=spinal cord", "b=brainstem"])[0][1]
        Wanted(name='b', text='brainstem')
    """
    found = []
    for text in texts:
        name, _, described = text.rpartition("=")
        plain = " ".join(_MODALITY.sub(" ", described).split()).strip(" ,.;:")
        if not plain:
            raise InputError(f"--text '{text}': expected a description such as 'left parotid gland on CT'.")
        found.append(Wanted(name.strip() or plain, plain))
    names = [each.name for each in found]
    if len(set(names)) < len(names) or not 1 <= len(names) <= MAX_CLASSES:
        raise InputError(f"--text: found {names}; expected 1 to {MAX_CLASSES} different structures.")
    return found, modality_of_text(" ".join(texts))


def described(support: SupportSet, texts: Sequence[str]) -> SupportSet:
    """A support set with descriptions of its classes; a lone text without name describes a lone class.

    Raises:
        InputError: if a text is for no class of the support set.
    """
    vectors = support.texts.clone()
    found, _ = wanted(texts)
    for each, text in zip(found, texts):
        name = support.classes[0] if len(support.classes) == 1 and "=" not in text else each.name
        if name not in support.classes:
            raise InputError(
                f"--text '{text}': no class is called '{name}'; expected CLASS=DESCRIPTION with one of "
                f"{', '.join(support.classes)}."
            )
        vectors[support.classes.index(name)] = description(each.text)
    return replace(support, texts=vectors)


def support_of_words(texts: Sequence[str], model: HyperModel) -> tuple[SupportSet, Modality | None]:
    """A support set of descriptions alone, and the modality that they name.

    Raises:
        InputError: if the model has not learned words, or a text is near to no structure of meta-training.
    """
    found, modality = wanted(texts)
    if not bool(model.speaker.to_head.weight.any()):
        raise InputError("these weights have not learned words; expected examples with --support, or other --weights.")
    for each in found:
        name, similarity = nearest(each.text)
        if similarity < KNOWN:
            raise InputError(
                f"--text '{each.text}': no structure of meta-training is called so; the nearest is '{name}' "
                f"({similarity:.2f}, expected {KNOWN} or more). Give annotated examples with --support."
            )
    empty = torch.zeros(0, 1, 1, 1, 1)
    vectors = torch.stack([description(each.text) for each in found])
    return SupportSet(empty, empty.long(), tuple(each.name for each in found), texts=vectors), modality


def plan_of_words(query: MetaTensor, classes: Sequence[str], modality: Modality | None) -> Plan:
    """How one image is prepared where no example tells: at about the size of meta-training, CT by a soft tissue window.

    Args:
        query: as read, ``(1, D, H, W)``; modality: measured if None.
    """
    sides = query.affine[:3, :3].norm(dim=0)
    volume = float((torch.tensor(query.shape[1:]) * sides).prod())
    measured = measure_modality(query)
    modality = modality or measured
    spacing = max(float(sides.min()), (volume / WORKING_VOXELS) ** (1 / 3))
    window = SOFT_TISSUE if modality == "CT" else None
    return Plan(modality, round(spacing, 6), window, tuple(classes), tuple(range(1, len(classes) + 1)), measured)
