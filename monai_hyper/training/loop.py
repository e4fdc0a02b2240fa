"""Meta-training, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from monai_hyper.data.tensors import halved, load_parameters, load_tensors, save_tensors
from monai_hyper.methods.classify.learners import CLASS_LEARNERS
from monai_hyper.methods.imaml import IMamlLearner
from monai_hyper.methods.maml import MamlLearner
from monai_hyper.methods.universeg import UniverSegLearner
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.released import RELEASED, RELEASED_CLASSIFIER
from monai_hyper.synthesis.batch import ClassBatch, TaskBatch
from monai_hyper.synthesis.class_tasks import ClassTaskEngine, ClassTaskSettings
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import TaskEngine, TaskSettings
from monai_hyper.training.checkpoint import load_training, save_training
from monai_hyper.training.inferer import Infer, TaskInferer
from monai_hyper.training.loss import HEARD
from monai_hyper.types import InputError
from monai_hyper.workers import Worker, average_gradients, average_statistics, joined, mean_over_workers


class Engine(Protocol):
    """What draws tasks."""

    def batch(self, index: int) -> TaskBatch | ClassBatch:
        """Tasks of step number ``index``."""
        ...


STATE, WEIGHTS = "training.safetensors", "weights.safetensors"

CLASSIFIERS = {"hyper-classifier": HyperClassifier, **CLASS_LEARNERS}
METHODS = {"hyper": HyperModel} | {kind.method: kind for kind in (MamlLearner, IMamlLearner, UniverSegLearner)}
METHODS |= CLASSIFIERS
"""What can be meta-trained, by name; and which of it classifies."""

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """How to meta-train.

    Args:
        output: folder of checkpoints and logs.
        method: what to train, see ``METHODS``; learner: its arguments, where they differ from the defaults.
        start: file of weights to start from, or "released"; default: random ones.
        steps: number of the last step; a finished run goes on when it is raised.
        minutes: end after about so many minutes of training in all, if that comes before ``steps``.
        decay: over so many last steps the learning rate falls to zero.
        every: steps between checkpoints.
        body_rate, generator_rate: learning rates of the network that segments, and of everything else.
        voxels, budget, tasks: size of volumes and of tasks, and how many of those a step learns from in every process,
            see :class:`TaskSettings`.
        families: how often each family of tasks is drawn; default: see ``FAMILIES`` of the tasks' plans.
        precision: of the convolutions, see ``PRECISIONS``; all else is float32.
        polish_steps: fewest and most gradient steps on a task's support that the loss is taken after, float32
            throughout; default: none, the loss is that of the networks as generated.
        polish_rate: learning rate of the log step sizes of those. To learn nothing else, set the other rates to 0.
        heard: how often batches whose classes are described are of descriptions alone, and of volumes with
            descriptions.
        words_rate: learning rate of what descriptions are understood by; default: ``generator_rate``. To learn nothing
            else, set the others to 0, and let ``heard`` sum to 1.
    """

    output: Path
    method: str = "hyper"
    learner: dict = field(default_factory=dict)
    start: str | None = None
    steps: int = 5000
    minutes: float | None = None
    decay: int = 500
    warm_up: int = 200
    every: int = 100
    seed: int = 0
    device: str = "cpu"
    body_rate: float = 1e-3
    generator_rate: float = 3e-4
    clip: float = 0.5
    average: float = 0.999
    voxels: tuple[int, int] = (20_000, 90_000)
    budget: int = 200_000
    tasks: int = 1
    families: dict[str, float] | None = None
    precision: str = "float32"
    polish_steps: tuple[int, int] | None = None
    polish_rate: float = 0.02
    heard: tuple[float, float] = HEARD
    words_rate: float | None = None


def check(config: TrainConfig) -> None:
    """
    Raises:
        InputError: if precision or method is unknown, or there is no such polish.
    """
    if config.precision not in PRECISIONS:
        raise InputError(f"precision is '{config.precision}'; expected one of: {', '.join(PRECISIONS)}.")
    if config.method not in METHODS:
        raise InputError(f"method is '{config.method}'; expected one of: {', '.join(METHODS)}.")
    if config.polish_steps is None:
        return
    if config.method != "hyper":
        raise InputError(f"polish_steps is set for method '{config.method}'; only 'hyper' can be polished.")
    match config.polish_steps:
        case (int(fewest), int(most)) if 1 <= fewest <= most:
            return
    raise InputError(f"polish_steps is {config.polish_steps}; expected two whole numbers, 1 <= fewest <= most.")


def make_model(config: TrainConfig) -> nn.Module:
    """What is to be trained, with the weights to start from; random ones are those of the seed.

    Raises:
        InputError: see :func:`check`; or if the method does not take the arguments, or the weights are not its own.
    """
    check(config)
    torch.manual_seed(config.seed)
    try:
        model = METHODS[config.method](**config.learner)
    except TypeError as error:
        raise InputError(f"arguments of '{config.method}' are {config.learner}: {error}.") from error
    if config.start is not None:
        released = RELEASED_CLASSIFIER if config.method in CLASSIFIERS else RELEASED
        path = released if config.start == "released" else Path(config.start)
        tensors = load_tensors(path)[0]
        load_parameters(model, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, path)
    return model


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """The body learns fastest; orthonormal factors, norms, biases and step sizes do not decay. What has a rate of 0 is
    frozen, which saves its gradients."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = config.body_rate if name.startswith("body.") else config.generator_rate
        rate = 10 * rate if name.endswith("log_penalty") else rate
        if name.startswith(("listen.", "speaker.")) and config.words_rate is not None:
            rate = config.words_rate
        if name == "polish":
            rate = 0.0 if config.polish_steps is None else config.polish_rate
        if rate == 0:
            parameter.requires_grad_(False)
        decay = 0.01 if parameter.dim() > 1 and ".fixed" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": found, "rate": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


def last_step(step: int, seconds: float, config: TrainConfig) -> int:
    """The number of steps to end after: as configured, or as many as the time allows at the pace so far.

    Args:
        step: steps done; seconds: that they took.
    """
    if config.minutes is None or step == 0:
        return config.steps
    return min(config.steps, max(step, int(step * 60 * config.minutes / seconds)))


def rate_factor(step: int, config: TrainConfig, last: int | None = None) -> float:
    """Short warm-up, constant, short decay to zero at the step ``last``, by default the configured one."""
    last = config.steps if last is None else last
    return max(0.0, min(1.0, (step + 1) / config.warm_up, (last - step) / max(1, config.decay)))


def engine_of(config: TrainConfig, sources: Sources, device: str) -> Engine:
    """What draws the tasks of a run."""
    if config.method in CLASSIFIERS:
        return ClassTaskEngine(
            sources, ClassTaskSettings(tasks=config.tasks, families=config.families), config.seed, device
        )
    settings = TaskSettings(config.voxels, config.budget, config.families, config.tasks)
    return TaskEngine(sources, settings, config.seed, device)


def train(config: TrainConfig, sources: Sources, model: nn.Module | None = None) -> Path:
    """Meta-train a model, going on from ``output`` if a run was cut off there.

    Under torchrun every process draws its own share of a step's tasks, gradients are averaged over the processes, and
    the first one writes.

    Args:
        model: what to train; default: see :func:`make_model`. Its weights are ignored when a run is resumed.

    Returns:
        path of the averaged weights.

    Raises:
        InputError: see :func:`make_model`.
    """
    with joined(config.device) as worker:
        model = make_model(config) if model is None else model
        training = MetaTraining(config, model, engine_of(config, sources, worker.device), worker)
        for batch in training:
            training.learn(batch)
        training.close()
    return config.output / WEIGHTS


class MetaTraining:
    """A model in training; it goes on where a run in ``output`` was cut off.

    Tasks and randomness of a step depend on the seed and the step's number alone, so a run that was killed and
    resumed sees what an unbroken one would have seen.

    Args:
        config: how to train; model: what; engine: what draws the tasks; worker: which process this is.
        infer: from batch and model to the parts of the loss, see :class:`TaskInferer`; default: as configured.

    Attributes:
        step, seconds: so far.
    """

    def __init__(
        self, config: TrainConfig, model: nn.Module, engine: Engine, worker: Worker, infer: Infer | None = None
    ) -> None:
        config.output.mkdir(parents=True, exist_ok=True)
        self.config, self.engine, self.worker = config, engine, worker
        self.measure = "accuracy" if config.method in CLASSIFIERS else "dice"
        self.infer = infer or TaskInferer(config.precision, config.polish_steps, config.heard)
        self.model = model.to(worker.device, memory_format=torch.channels_last_3d).train()  # for faster convolutions
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.average))
        self.optimiser = torch.optim.AdamW(parameter_groups(self.model, config), lr=config.generator_rate)
        facts = {"step": 0, "seconds": 0.0}
        if (config.output / STATE).exists():
            facts = load_training(config.output / STATE, self.model, self.average, self.optimiser)
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.begun = time.perf_counter() - self.seconds
        self.log = Log(config, self.step, self.measure) if worker.leads else None

    @property
    def last(self) -> int:
        """The number of steps to end after."""
        return last_step(self.step, self.seconds, self.config)

    def __iter__(self) -> Iterator[TaskBatch | ClassBatch]:
        """The batches of the steps that are left, each for :meth:`learn`."""
        while self.step < self.last:
            yield self.engine.batch(self.step * self.worker.world + self.worker.rank)

    def learn(self, batch: TaskBatch | ClassBatch) -> dict[str, float]:
        """One step; returns the loss and the mean Dice or accuracy of its tasks, over all processes."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * rate_factor(self.step, self.config, self.last)
        loss, scores = train_step(self.model, self.optimiser, batch, self.step, self.config, self.infer)
        average_statistics(self.model)
        self.average.update_parameters(self.model)
        # all processes must agree on what is shown and on when to end
        found = [loss, sum(scores) / len(scores), time.perf_counter() - self.begun]
        shared = torch.tensor(found, device=self.worker.device).double()
        mean_over_workers([shared])
        loss, score, self.seconds = shared.tolist()
        self.step += 1
        if self.log is not None:
            self.log.add(self.step, {self.measure: score, "loss": loss}, list(zip(batch.kinds, scores)))
            if self.step % self.config.every == 0 or self.step >= self.last:
                self.save(self.log.means)
        return {"loss": loss, self.measure: score}

    def save(self, means: dict[str, float]) -> None:
        """Write the state to go on from, and the averaged weights with what is needed to use them."""
        config, model = self.config, self.model
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            **means,
            "method": config.method,
            "learner": getattr(model, "settings", config.learner),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "config": {name: str(value) for name, value in asdict(config).items()},
        }
        save_training(config.output / STATE, model, self.average, self.optimiser, facts)
        save_tensors(halved(self.average.module), config.output / WEIGHTS, facts)

    def close(self) -> None:
        """End the log."""
        if self.log is not None:
            self.log.close()


class Log:
    """Losses and scores of a run, on the terminal and for TensorBoard.

    Args:
        measure: what the scores are.

    Attributes:
        means: moving means of loss and score.
    """

    def __init__(self, config: TrainConfig, step: int, measure: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.means, self.measure = SummaryWriter(str(config.output)), {}, measure
        self.bar = tqdm(initial=step, total=config.steps, unit="step", mininterval=5)

    def add(self, step: int, found: dict[str, float], tasks: list[tuple[str, float]]) -> None:
        """Show what step number ``step`` brought: the mean score and the loss; tasks: family and score."""
        self.means = {name: 0.99 * self.means.get(name, value) + 0.01 * value for name, value in found.items()}
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in self.means.items()}, refresh=False)
        self.bar.update()
        self.writer.add_scalar("loss", found["loss"], step - 1)
        for kind, value in tasks:
            self.writer.add_scalar(f"{self.measure}/{kind}", value, step - 1)

    def close(self) -> None:
        """End it."""
        self.bar.close()
        self.writer.close()


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: TaskBatch | ClassBatch,
    step: int,
    config: TrainConfig,
    infer: Infer | None = None,
) -> tuple[float, list[float]]:
    """One update at the optimiser's rates; returns the loss and the score of every task.

    Args:
        infer: see :class:`MetaTraining`.
    """
    torch.manual_seed(config.seed * 1_000_003 + step)
    optimiser.zero_grad(set_to_none=True)
    losses, scores = [], []
    for loss, score in (infer or TaskInferer(config.precision, config.polish_steps, config.heard))(batch, model):
        loss.backward()
        losses.append(loss.detach())
        scores.append(score)
    average_gradients(model)
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if torch.isfinite(norm):  # one broken task must not end the run
        optimiser.step()
    return float(torch.stack(losses).sum()), torch.cat(scores).tolist()
