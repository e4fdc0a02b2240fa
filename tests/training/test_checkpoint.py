"""Weights on disk: all or nothing, no pickle, and clear words about what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from monai_hyper.data.tensors import load_parameters, load_tensors, save_tensors
from monai_hyper.training.checkpoint import load_training, save_training
from monai_hyper.types import InputError

PACKAGE = Path(__file__).resolve().parents[2] / "monai_hyper"


@pytest.fixture
def stored(tmp_path) -> Path:
    path = tmp_path / "folder" / "weights.safetensors"
    save_tensors({"a": torch.randn(3, 4), "b": torch.arange(5).half()}, path, {"step": 7})
    return path


def test_saved_equals_loaded(stored):
    tensors, facts = load_tensors(stored)
    save_tensors(tensors, stored.with_name("again"), facts)
    again, same_facts = load_tensors(stored.with_name("again"))
    assert facts == same_facts == {"step": 7}
    assert again.keys() == {"a", "b"} and all(torch.equal(again[n], tensors[n]) for n in tensors)
    assert again["b"].dtype == torch.float16


def test_writing_replaces_and_leaves_nothing_beside(stored):
    save_tensors({"a": torch.zeros(2)}, stored, {})
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]
    assert load_tensors(stored)[0].keys() == {"a"}


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_truncated_files_are_refused(stored, kept):
    stored.write_bytes(stored.read_bytes()[:kept])
    with pytest.raises(InputError, match=re.escape(str(stored))):
        load_tensors(stored)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            load_tensors(path)


def test_pickle_files_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*safetensors"):
        load_tensors(path)


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_tensors(path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.zeros(2, 9), "bias": torch.zeros(2)}, r"weight 'weight' is \(2, 9\); expected \(2, 3\)"),
        ({"weight": torch.zeros(2, 3)}, r"weight 'bias' is missing; expected \(2,\)"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)}, "'x'.*no such weight"),
        ({"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}, "'weight' holds NaN"),
        ({"weight": torch.zeros(2, 3), "bias": torch.tensor([0, float("inf")])}, "'bias' holds NaN or infinity"),
    ],
)
def test_unfit_weights_are_refused_and_change_nothing(weights, message):
    module, path = nn.Linear(3, 2), Path("some.safetensors")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError, match=f"some.safetensors: .*{message}"):
        load_parameters(module, weights, path)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def _stepped(seed: int) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model, average = nn.Linear(3, 2), nn.Linear(3, 2)
    optimiser = torch.optim.AdamW([{"params": [model.weight], "rate": 1.0}, {"params": [model.bias], "rate": 2.0}])
    for _ in range(2):
        model(torch.randn(4, 3)).square().sum().backward()
        optimiser.step()
    return model, average, optimiser


def test_a_restored_run_holds_the_same_state(tmp_path):
    path = tmp_path / "training.safetensors"
    kept, restored = _stepped(1), _stepped(2)
    save_training(path, *kept, {"step": 2})
    assert load_training(path, *restored) == {"step": 2}
    for own, other in zip(kept[:2], restored[:2]):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in own.state_dict().items())
    expected, found = kept[2].state_dict(), restored[2].state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for index, entries in expected["state"].items():
        assert all(torch.equal(value, found["state"][index][name]) for name, value in entries.items())


def test_nothing_in_the_package_unpickles():
    for source in PACKAGE.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from)\s+(pickle|dill|joblib|shelve)\b", text, re.M), source.name
        assert "allow_pickle=True" not in text and "weights_only=False" not in text, source.name
        for call in re.finditer(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "weights_only=True" in call.group(), f"{source.name}: {call.group()}"


def test_loading_the_released_weights_unpickles_nothing():
    code = (
        "import pickle, torch\n"
        "from monai_hyper.networks.released import load_model\n"
        "def refuse(*args, **kwargs): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = torch.load = refuse\n"
        "load_model()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
