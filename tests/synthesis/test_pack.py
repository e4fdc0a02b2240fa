"""The training pack holds what the folder holds, and nothing that is held out."""

import json
import zipfile

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from monai_hyper.cli import main
from monai_hyper.data.folder import list_cases, read_pair
from monai_hyper.synthesis.pack import CT_RANGE, read_pack, training_data, write_pack
from monai_hyper.synthesis.sources import Cohort, Sources, load_sources, subject
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.types import InputError


def _sources() -> Sources:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, 14, 12, 10)).astype(np.uint8)
    ct = [subject(each, (1.0, 2.0, 3.0), 300 * each.astype(np.float32) - 400) for each in labels]
    mr = [subject(labels[0], (0.8, 0.8, 0.8), rng.gamma(2, 100, labels[0].shape))]
    names = {1: ("left kidney", "kidney, left side"), 2: ("spleen",)}
    first = Cohort("a", ct, (1, 2), is_ct=True, names=names)
    cohorts = {"a": first, "b": Cohort("b", mr, (3,), body_is_labelled=True)}
    return Sources(cohorts, [torch.rand(5, 6, 7) > 0.5])


@pytest.fixture
def packed(tmp_path):
    sources = _sources()
    write_pack(sources, tmp_path / "train.pack")
    return sources, tmp_path / "train.pack"


def test_labels_return_exactly_and_images_within_half_a_level(packed):
    sources, path = packed
    found = read_pack(path)
    assert list(found.cohorts) == ["a", "b"] and torch.equal(found.lesions[0], sources.lesions[0])
    for name, cohort in sources.cohorts.items():
        other = found.cohorts[name]
        assert (other.foregrounds, other.is_ct, other.body_is_labelled) == (
            cohort.foregrounds, cohort.is_ct, cohort.body_is_labelled
        )  # fmt: skip
        for held, again in zip(cohort.subjects, other.subjects, strict=True):
            assert torch.equal(held.labels, again.labels) and torch.equal(held.spacing, again.spacing)
            low, high = CT_RANGE if cohort.is_ct else (float(held.image.min()), float(again.image.max()))
            assert (held.image <= high).float().mean() > 0.999
            within = held.image.clamp(low, high)
            assert float((within - again.image).abs().max()) <= 0.51 * (high - low) / 255


def test_a_pack_gives_the_tasks_that_the_folder_gives(packed):
    sources, path = packed
    settings = TaskSettings((5000, 6000), 12_000, {"a": 1.0})
    kept, again = (TaskEngine(each, settings, seed=3).episode(5) for each in (sources, training_data(path)))
    assert torch.equal(kept.labels, again.labels) and torch.equal(kept.support.labels, again.support.labels)
    assert_close(kept.support.images, again.support.images, atol=0.2, rtol=0)


def test_names_return_and_older_packs_have_none(packed, tmp_path):
    sources, path = packed
    found = training_data(path)
    assert {name: cohort.names for name, cohort in found.cohorts.items()} == {"a": sources.cohorts["a"].names, "b": {}}
    older = tmp_path / "older.pack"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(older, "w") as rewritten:
        header = json.loads(archive.read("pack.json"))
        for facts in header["cohorts"].values():
            del facts["names"]
        rewritten.writestr("pack.json", json.dumps(header))
        for name in set(archive.namelist()) - {"pack.json"}:
            rewritten.writestr(name, archive.read(name))
    again = read_pack(older)
    assert all(cohort.names == {} for cohort in again.cohorts.values())
    assert torch.equal(again.cohorts["a"].subjects[1].labels, sources.cohorts["a"].subjects[1].labels)


@pytest.mark.parametrize("spoil", ["truncate", "text", "another zip", "format", "missing array"])
def test_damaged_packs_are_refused(packed, spoil):
    path = packed[1]
    content = path.read_bytes()
    if spoil == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif spoil == "text":
        path.write_text("no pack")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            header = {
                "another zip": None,
                "format": '{"format": 7}',
                "missing array": '{"format": 1, "cohorts": {}, "lesions": 1}',
            }[spoil]
            if header:
                archive.writestr("pack.json", header)
    with pytest.raises(InputError, match="train.pack"):
        read_pack(path)


def test_the_command_refuses_an_empty_folder_and_an_existing_file(tmp_path, capsys):
    (tmp_path / "there").write_text("kept")
    assert main(["pack", "--data", str(tmp_path), "--output", str(tmp_path / "there")]) == 2
    assert (tmp_path / "there").read_text() == "kept"
    assert main(["pack", "--data", str(tmp_path), "--output", str(tmp_path / "new")]) == 2
    assert "no training data found" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.shared_data
def test_the_real_pack_holds_nothing_of_the_evaluation(shared_data, tmp_path):
    write_pack(load_sources(shared_data), tmp_path / "train.pack")
    assert (tmp_path / "train.pack").stat().st_size < 30e6
    found = read_pack(tmp_path / "train.pack")
    assert not {"hippocampus_mr", "cardiac_cine_mr", "sarcoma", "ms_lesion_mr"} & set(found.cohorts)
    known = {_content(held.image) for held in found.cohorts["headneck_ct"].subjects}
    for split, expected in (("train", True), ("select", False), ("report", False)):
        for case in list_cases(shared_data / "headneck_ct", split)[:5]:
            assert (_content(read_pair(case)[0][0]) in known) == expected, f"{split}: {case.name}"


def _content(image: torch.Tensor) -> tuple:
    """What tells one CT from another, whatever its orientation: shape and histogram in the pack's levels."""
    low, high = CT_RANGE
    levels = ((image - low) / (high - low)).clamp(0, 1).mul(255).round().long().flatten()
    return (image.numel(), *torch.bincount(levels, minlength=256).tolist())
