"""Several processes train the model that one process with all of their tasks would train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_hyper.data.tensors import load_tensors
from monai_hyper.training.loop import STATE, WEIGHTS

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import sys
from pathlib import Path
import torch
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.unet import UNetBody
from monai_hyper.synthesis.batch import TaskBatch
from monai_hyper.synthesis.sources import Sources
from monai_hyper.training import loop

torch.set_num_threads(1)
# the ridge regression makes rounding grow, more on some processors than on others: all arithmetic in float64
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
output, world = Path(sys.argv[1]), int(sys.argv[2])


class Engine:
    # Four tasks a step, dealt out to the processes.

    def __init__(self, sources, settings, seed, device):
        self.tasks = settings.tasks

    def batch(self, index):
        step, share = divmod(index, world)
        generator = torch.Generator().manual_seed(step)
        labels = (torch.rand(4, 3, 1, 3, 3, 3, generator=generator) > 0.5).long()
        for axis in (3, 4, 5):
            labels = labels.repeat_interleave(7, axis)
        images = 0.5 * labels + 0.2 * torch.randn(labels.shape, generator=generator)
        mine = slice(share * self.tasks, (share + 1) * self.tasks)
        return TaskBatch(images[mine], labels[mine], torch.zeros(self.tasks, 3, 3), 2, 1, False, ("a",) * self.tasks)


class Plain(torch.optim.SGD):
    # AdamW turns rounding of gradients near zero into whole steps.

    def __init__(self, groups, lr):
        super().__init__(groups, lr=lr, momentum=0.9)


loop.TaskEngine, torch.optim.AdamW = Engine, Plain
torch.manual_seed(5)
model = HyperModel(UNetBody(10, channels=(8, 8, 8, 8), thin=4), embedding_dim=16)
config = loop.TrainConfig(output, steps=2, decay=1, warm_up=1, every=1, tasks=4 // world, body_rate=0.01,
                          generator_rate=0.01, minutes=60)
loop.train(config, Sources({}), model)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of one process and of two, two steps of the same four tasks each."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for world in (1, 2):
        starter = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if world == 2 else []
        command = [sys.executable, *starter, str(folder / "run.py"), str(folder / str(world)), str(world)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
    return folder / "1", folder / "2"


def test_two_processes_reach_the_loss_and_the_parameters_of_one(runs):
    (alone, facts), (shared, shared_facts) = (load_tensors(folder / STATE) for folder in runs)
    assert facts["step"] == shared_facts["step"] == 2
    assert shared_facts["loss"] == pytest.approx(facts["loss"], rel=1e-9)
    assert shared_facts["dice"] == pytest.approx(facts["dice"], rel=1e-9)
    assert alone.keys() == shared.keys()
    for name, expected in alone.items():
        apart, size = float((shared[name].double() - expected.double()).norm()), float(expected.double().norm())
        assert apart <= 1e-9 * size + 1e-12, name
    moved = [n for n in alone if n.startswith("optimiser") and bool(alone[n].any())]
    assert len(moved) > 100


def test_only_the_first_process_writes(runs):
    logs = [[path.name for path in folder.iterdir() if path.name.startswith("events")] for folder in runs]
    assert [len(found) for found in logs] == [1, 1]
    assert all((folder / WEIGHTS).exists() for folder in runs)


STATISTICS = """
import sys
import torch
from monai_hyper.networks.generator import Standard
from monai_hyper.workers import average_statistics, joined

with joined("cpu") as worker:
    standard = Standard(3)
    standard(torch.tensor([[0.0, 1.0, 2.0]]) + 4 * worker.rank)
    average_statistics(standard)
    assert standard.mean.tolist() == [2.0, 3.0, 4.0] and float(standard.seen) == 1, standard.mean
"""


def test_statistics_are_those_of_all_processes(tmp_path):
    (tmp_path / "run.py").write_text(STATISTICS, encoding="utf-8")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "run.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], capture_output=True, encoding="utf-8", cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
