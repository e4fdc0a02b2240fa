"""What the README tells a reader to type works, in the order in which it stands there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel
import pytest

from monai_hyper.cli import main
from monai_hyper.data.phantom import write_phantom

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Content of the code blocks of a language; "" for those without one."""
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S) if name == language]


def commands(program: str) -> list[str]:
    """Lines of the shell blocks that start with a program."""
    lines = "".join(blocks("")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith(f"{program} ")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """Folder of a reader who has followed the README: two examples with its dataset.json, images of two classes, and
    scans to segment."""
    folder = tmp_path_factory.mktemp("reader")
    data = write_phantom(folder / "data", "head_mr", cases=3)
    for index, name in enumerate(("case_01", "case_02")):
        for part in ("images", "labels"):
            (folder / "examples" / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / part / f"head_mr_{index:02d}.nii.gz", folder / "examples" / part / f"{name}.nii.gz")
    (folder / "examples" / "dataset.json").write_text(blocks("json")[0])
    drawn = next(block for block in blocks("") if block.startswith("kinds/"))
    for number, (name, files) in enumerate(re.findall(r"^  (\w+)/ +(.*)$", drawn, re.M)):
        (folder / "kinds" / name).mkdir(parents=True)
        for index, file in enumerate(files.split()):
            image = nibabel.load(data / "images" / f"head_mr_{index:02d}.nii.gz")
            changed = image.get_fdata() * (1, -1)[number]
            nibabel.save(nibabel.Nifti1Image(changed, image.affine), folder / "kinds" / name / file)
    (folder / "scans").mkdir()
    for place in ("scan.nii.gz", "scans/first.nii.gz"):
        shutil.copy(data / "images" / "head_mr_02.nii.gz", folder / place)
    return folder


def test_the_description_names_cases_of_the_drawn_folder():
    description = json.loads(blocks("json")[0])
    drawn = next(block for block in blocks("") if block.startswith("examples/"))
    assert set(description["annotated"]) <= set(re.findall(r"case_\d+", drawn))


@pytest.mark.parametrize("command", commands("monai-hyper"))
def test_command_runs(command, reader, monkeypatch):
    monkeypatch.chdir(reader)
    words = shlex.split(command)
    assert main(words[1:]) == 0
    for option, folder in zip(words, words[1:]):
        assert option != "--output" or any(Path(folder).iterdir())


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number, reader, monkeypatch):
    monkeypatch.chdir(reader)
    found: dict = {}
    exec(compile(blocks("python")[number], f"README.md, python block {number + 1}", "exec"), found)
    if "label" in found:  # a result lies on the grid of the scan
        assert found["label"].shape[1:] == nibabel.load("scan.nii.gz").shape


def test_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = re.findall(r"`make ([\w-]+)", README) + [line.split()[1] for line in commands("make")]
    assert {"demo", "test"} <= set(named) <= set(targets)


def test_every_verb_is_in_the_table_of_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    verbs = re.search(r"\{([\w,]+)\}", capsys.readouterr().out).group(1).split(",")
    assert sorted(verbs) == sorted(re.findall(r"^\| `monai-hyper (\w+)`", README, re.M))


def test_linked_documents_exist():
    for link in set(re.findall(r"\]\(([^):]+)\)", README)):
        assert (ROOT / link).exists(), link


def test_every_training_source_is_described_with_its_licence():
    code = (ROOT / "monai_hyper" / "synthesis" / "sources.py").read_text(encoding="utf-8")
    read = set(re.findall(r'(?:\badd\(|root / )"(\w+)"', code))
    described = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Training")[2]
    for text in (README.partition("## Licence")[2], described.partition("## Evaluation only")[0]):
        assert read == set(re.findall(r"^\| `(\w+)`", text, re.M))


@pytest.mark.shared_data
def test_every_data_set_at_hand_is_described(shared_data):
    described = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.M)
    assert {path.parent.name for path in shared_data.glob("*/dataset.json")} <= set(described)
