"""Meta-training: the same weights whether or not it was interrupted."""

import json
import os
import signal
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_hyper.cli import main
from monai_hyper.data.tensors import load_tensors
from monai_hyper.methods.meta import load_learner
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.released import load_model
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.training.loop import (
    METHODS,
    PRECISIONS,
    STATE,
    WEIGHTS,
    TrainConfig,
    last_step,
    make_model,
    parameter_groups,
    rate_factor,
    train,
    train_step,
)
from monai_hyper.types import InputError

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import os, signal, sys
from pathlib import Path
import torch
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.sources import Sources
from monai_hyper.training import loop

torch.set_num_threads(1)
torch.manual_seed(5)
model = HyperModel(UNetBody(10, channels=(8, 8, 8, 8), thin=4), embedding_dim=16)
last = int(sys.argv[2])
step_of = loop.train_step

def killed_in_the_middle(model, optimiser, batch, step, config, infer):
    found = step_of(model, optimiser, batch, step, config, infer)
    if step == last:  # after the update, before the checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    return found

loop.train_step = killed_in_the_middle
loop.train(loop.TrainConfig(Path(sys.argv[1]), steps=5, decay=2, warm_up=2, every=1, voxels=(8000, 9000),
                            budget=30_000), Sources({}), model)
"""


def _run(output: Path, kill_at: int = -1) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(output), str(kill_at)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, env=environment).returncode


def test_a_killed_and_resumed_run_reaches_the_weights_of_an_unbroken_one(tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert _run(unbroken) == 0
    assert _run(killed, kill_at=2) == -signal.SIGKILL
    assert load_tensors(killed / STATE)[1]["step"] == 2
    assert _run(killed) == 0
    for name in (STATE, WEIGHTS):
        (expected, facts), (found, found_facts) = load_tensors(unbroken / name), load_tensors(killed / name)
        assert facts["step"] == found_facts["step"] == 5
        assert found.keys() == expected.keys()
        differing = [n for n, t in expected.items() if not torch.equal(found[n], t)]
        assert differing == []
    assert not list(tmp_path.rglob("*.part"))


def test_training_changes_the_weights_and_keeps_halves_of_their_average(tmp_path):
    torch.manual_seed(0)
    model = HyperModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainConfig(tmp_path, steps=1, warm_up=1, decay=1, voxels=(8000, 9000), budget=20_000, average=0.5)
    tensors, facts = load_tensors(train(config, Sources({}), model))
    assert facts["step"] == 1
    assert tensors.keys() == before.keys()
    assert all(t.dtype == torch.float16 for t in tensors.values())
    moved = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert {"head.log_penalty", "body.thin.conv.weight"} <= set(moved)


def test_training_starts_from_given_weights_and_from_the_released_ones(tmp_path):
    learner = LEARNERS["universeg"]
    settings = dict(steps=1, warm_up=1, decay=1, voxels=(8000, 9000), budget=20_000, average=0)
    first = train(TrainConfig(tmp_path / "a", "universeg", learner, **settings), Sources({}))
    again = make_model(TrainConfig(tmp_path / "b", "universeg", learner, start=str(first)))
    for name, value in again.state_dict().items():
        assert torch.equal(value, load_tensors(first)[0][name].float()), name
    released = make_model(TrainConfig(tmp_path / "b", start="released")).state_dict()
    assert all(torch.equal(value, load_model().state_dict()[name]) for name, value in released.items())
    with pytest.raises(InputError, match="weight"):
        make_model(TrainConfig(tmp_path / "b", start=str(first)))


LEARNERS = {
    "maml": {"channels": [4, 4, 4, 4], "thin": 2, "inner_steps": 1},
    "imaml": {"channels": [4, 4, 4, 4], "thin": 2, "inner_steps": 1, "solver_steps": 1},
    "universeg": {"channels": [4, 4]},
}


@pytest.mark.parametrize("method", list(LEARNERS))
def test_baselines_are_trained_by_the_same_loop_and_read_back(method, tmp_path):
    config = TrainConfig(
        tmp_path,
        method,
        LEARNERS[method],
        steps=2,
        warm_up=1,
        decay=1,
        generator_rate=0.1,
        voxels=(8000, 9000),
        budget=20_000,
        average=0,
    )
    tensors, facts = load_tensors(train(config, Sources({})))
    assert facts["method"] == method and facts["step"] == 2 and facts["seconds"] > 0
    assert facts["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert facts["learner"].items() >= LEARNERS[method].items()
    learner = load_learner(METHODS[method], tmp_path / WEIGHTS)
    torch.manual_seed(config.seed)
    untrained = make_model(config).state_dict()
    for name, value in learner.state_dict().items():
        assert torch.equal(value, tensors[name].float())
        assert not torch.equal(value, untrained[name].half().float()) or not value.any(), name


def test_unknown_methods_and_arguments_are_refused(tmp_path):
    for config, message in (
        (TrainConfig(tmp_path / "a", method="reptile"), "'reptile'; expected one of: hyper, maml, imaml, universeg"),
        (TrainConfig(tmp_path / "a", method="maml", learner={"depth": 3}), "arguments of 'maml'.*depth"),
        (TrainConfig(tmp_path / "a", precision="float16"), "'float16'; expected one of: float32, bfloat16"),
        (TrainConfig(tmp_path / "a", method="maml", polish_steps=(1, 2)), "'maml'; only 'hyper' can be polished"),
        (TrainConfig(tmp_path / "a", polish_steps=(0, 2)), "polish_steps is .0, 2.; expected two whole numbers"),
        (TrainConfig(tmp_path / "a", polish_steps=(3, 2)), "polish_steps is .3, 2."),
        (TrainConfig(tmp_path / "a", polish_steps=(1.5, 2)), "polish_steps is .1.5, 2."),
        (TrainConfig(tmp_path / "a", polish_steps=5), "polish_steps is 5"),
    ):
        with pytest.raises(InputError, match=message):
            train(config, Sources({}))
    assert not (tmp_path / "a").exists()


def test_half_the_precision_gives_nearly_the_same_loss_and_full_updates(tmp_path):
    torch.manual_seed(5)
    model = HyperModel(UNetBody(10, channels=(8, 8, 8, 8), thin=4), embedding_dim=16)
    batch = TaskEngine(Sources({}), TaskSettings((8000, 9000), 20_000, tasks=2)).batch(0)
    found = {}
    for precision in PRECISIONS:
        trained = deepcopy(model).train()
        optimiser = torch.optim.SGD(trained.parameters(), lr=1.0)
        loss, dice = train_step(trained, optimiser, batch, 0, TrainConfig(tmp_path, precision=precision))
        found[precision] = loss, torch.cat([parameter.flatten() for parameter in trained.parameters()])
        assert all(parameter.dtype == torch.float32 for parameter in trained.parameters()) and len(dice) == 2
    start = torch.cat([parameter.flatten() for parameter in model.parameters()])
    (loss, full), (low_loss, low) = found["float32"], found["bfloat16"]
    assert low_loss == pytest.approx(loss, rel=0.02) and low_loss != loss
    assert float(torch.cosine_similarity(full - start, low - start, 0)) > 0.9


def test_the_time_limit_sets_the_last_step_by_the_pace_so_far():
    config = TrainConfig(Path("unused"), steps=1000, minutes=10)
    assert last_step(0, 0.0, config) == 1000  # no pace yet
    assert last_step(10, 20.0, config) == 300
    assert last_step(299, 599.0, config) == 299
    assert last_step(300, 700.0, config) == 300  # late: now, not before
    assert last_step(10, 2.0, config) == 1000
    assert last_step(10, 2000.0, TrainConfig(Path("unused"), steps=1000)) == 1000
    assert [rate_factor(s, config, last=300) for s in (250, 300)] == pytest.approx([50 / config.decay, 0])


def test_a_run_that_is_out_of_time_ends_at_a_checkpoint(tmp_path):
    learner = LEARNERS["universeg"]
    config = TrainConfig(
        tmp_path, "universeg", learner, steps=9, minutes=1e-9, voxels=(8000, 9000), budget=20_000, every=100
    )
    for _ in range(2):  # started again, it does nothing
        _, facts = load_tensors(train(config, Sources({})))
        assert facts["step"] == 1 == load_tensors(tmp_path / STATE)[1]["step"]


def test_the_learning_rate_warms_up_stays_and_decays_to_zero():
    config = TrainConfig(Path("unused"), steps=100, warm_up=10, decay=20)
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1
    assert set(factors[9:81]) == {1.0}
    assert factors[90] == pytest.approx(0.5) and factors[100] == 0
    assert factors[:10] == sorted(factors[:10]) and factors[80:] == sorted(factors[80:], reverse=True)
    assert rate_factor(150, config) == 0


def test_every_parameter_is_in_one_group_and_orthonormal_factors_do_not_decay():
    model, config = HyperModel(), TrainConfig(Path("unused"))
    groups = parameter_groups(model, config)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    rates = {id(parameter): group["rate"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if ".fixed." in name or parameter.dim() == 1:
            assert decays[id(parameter)] == 0, name
        if name.startswith("body."):
            assert rates[id(parameter)] == config.body_rate, name


def test_the_configurations_that_ship_are_valid():
    for path in (ROOT / "monai_hyper" / "configs").glob("*.json"):
        config = TrainConfig(**json.loads(path.read_text(encoding="utf-8")))
        others = {"train": "hyper", "polish": "hyper", "words": "hyper", "classifier": "hyper-classifier"}
        assert config.method == others.get(path.stem, path.stem)
        assert config.steps > config.decay + config.warm_up
        make_model(config)


def test_where_words_alone_are_learned_all_else_stays_as_it_is():
    torch.manual_seed(5)
    model = HyperModel(UNetBody(10, channels=(8, 8, 8, 8), thin=4), embedding_dim=16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    config = TrainConfig(Path(), body_rate=0, generator_rate=0, words_rate=1e-2, heard=(0.0, 1.0), warm_up=1)
    optimiser = torch.optim.AdamW(parameter_groups(model, config), lr=0.01)
    images, labels = torch.randn(1, 3, 1, 20, 20, 20), torch.zeros(1, 3, 1, 20, 20, 20).long()
    labels[..., 5:12, 5:12, 5:12] = 1
    batch = TaskBatch(images, labels, torch.zeros(1, 3, 3), 2, 1, False, ("a",), torch.randn(1, 1, 384))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_step(model, optimiser, batch, 0, config)
    train_step(model, optimiser, batch, 1, replace(config, heard=(1.0, 0.0)))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(("listen.", "speaker."))}


def test_the_command_trains_what_it_is_asked_for(tmp_path):
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[8:20, 8:20, 8:20], labels[20:24, 8:20, 8:20] = 1, 2
    (tmp_path / "data" / "brain_labels" / "labels").mkdir(parents=True)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "data" / "brain_labels" / "labels" / "a.nii.gz")
    fields = {"steps": 50, "voxels": [8000, 9000], "budget": 20_000, "learner": LEARNERS["universeg"]}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    options = ["--config", str(tmp_path / "config.json"), "--data", str(tmp_path / "data")]
    options += ["--output", str(tmp_path / "run"), "--method", "universeg", "--minutes", "1e-9"]
    options += ["--device", "cpu", "--precision", "bfloat16", "--tasks", "2"]
    assert main(["train", *options]) == 0
    learner = load_learner(METHODS["universeg"], tmp_path / "run" / WEIGHTS)
    assert learner.settings == {"channels": [4, 4]}
    used = load_tensors(tmp_path / "run" / WEIGHTS)[1]["config"]
    assert (used["device"], used["precision"], used["tasks"]) == ("cpu", "bfloat16", "2")
