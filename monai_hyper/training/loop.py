"""Meta-training, from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from monai_hyper.data.tensors import save_tensors
from monai_hyper.networks.model import HyperModel
from monai_hyper.synthesis.sources import Sources
from monai_hyper.synthesis.tasks import Episode, TaskEngine, TaskSettings
from monai_hyper.training.checkpoint import load_training, save_training
from monai_hyper.training.loss import episode_dice, episode_loss

STATE, WEIGHTS = "training.safetensors", "weights.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """How to meta-train.

    Args:
        output: folder of checkpoints and logs.
        steps: number of the last step; a finished run goes on when it is raised.
        decay: over so many last steps the learning rate falls to zero.
        every: steps between checkpoints.
        voxels, budget: size of volumes and of episodes, see :class:`TaskSettings`.
    """

    output: Path
    steps: int = 5000
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


def parameter_groups(model: HyperModel, config: TrainConfig) -> list[dict]:
    """The body learns fastest; orthonormal factors, norms and biases do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = config.body_rate if name.startswith("body.") else config.generator_rate
        rate = 10 * rate if name.endswith("log_penalty") else rate
        decay = 0.01 if parameter.dim() > 1 and ".fixed" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": found, "rate": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


def rate_factor(step: int, config: TrainConfig) -> float:
    """Short warm-up, constant, short decay to zero."""
    return max(0.0, min(1.0, (step + 1) / config.warm_up, (config.steps - step) / max(1, config.decay)))


def to_device(episode: Episode, device: str) -> Episode:
    """The same episode on another device."""
    return Episode(episode.support.to(device), episode.images.to(device), episode.labels.to(device), episode.kind)


def train(config: TrainConfig, sources: Sources, model: HyperModel | None = None) -> Path:
    """Meta-train a model, going on from ``output`` if a run was cut off there.

    Task and randomness of a step depend on the seed and the step's number alone, so a run that was killed and
    resumed sees what an unbroken one would have seen.

    Args:
        model: where to start from; default: random weights. Ignored when a run is resumed.

    Returns:
        path of the averaged weights.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = (HyperModel() if model is None else model).to(config.device).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average))
    optimiser = torch.optim.AdamW(parameter_groups(model, config), lr=config.generator_rate)
    facts = {"step": 0, "seconds": 0.0}
    if (config.output / STATE).exists():
        facts = load_training(config.output / STATE, model, average, optimiser)
    engine = TaskEngine(sources, TaskSettings(config.voxels, config.budget), config.seed)
    _run(config, model, average, optimiser, engine, facts)
    return config.output / WEIGHTS


def _run(config: TrainConfig, model, average, optimiser, engine: TaskEngine, facts: dict) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(config.output))
    start, begun = time.perf_counter() - facts["seconds"], facts["step"]
    mean_loss = mean_dice = None
    bar = tqdm(range(begun, config.steps), initial=begun, total=config.steps, unit="step", mininterval=5)
    for step in bar:
        episode = to_device(engine.episode(step), config.device)
        loss, dice = train_step(model, optimiser, episode, step, config)
        average.update_parameters(model)
        mean_loss = loss if mean_loss is None else 0.99 * mean_loss + 0.01 * loss
        mean_dice = dice if mean_dice is None else 0.99 * mean_dice + 0.01 * dice
        bar.set_postfix(loss=f"{mean_loss:.3f}", dice=f"{mean_dice:.3f}", refresh=False)
        writer.add_scalar("loss", loss, step)
        writer.add_scalar(f"dice/{episode.kind}", dice, step)
        if (step + 1) % config.every == 0 or step + 1 == config.steps:
            facts = {"step": step + 1, "seconds": time.perf_counter() - start, "dice": mean_dice, "loss": mean_loss}
            facts["config"] = {name: str(value) for name, value in asdict(config).items()}
            save_training(config.output / STATE, model, average, optimiser, facts)
            halved = {name: t.half() if t.is_floating_point() else t for name, t in average.module.state_dict().items()}
            save_tensors(halved, config.output / WEIGHTS, facts)
    writer.close()


def train_step(model: HyperModel, optimiser, episode: Episode, step: int, config: TrainConfig) -> tuple[float, float]:
    """One update; returns loss and Dice of the episode."""
    torch.manual_seed(config.seed * 1_000_003 + step)
    for group in optimiser.param_groups:
        group["lr"] = group["rate"] * rate_factor(step, config)
    optimiser.zero_grad(set_to_none=True)
    loss, logits = episode_loss(model, episode)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if torch.isfinite(norm):  # one broken episode must not end the run
        optimiser.step()
    return float(loss.detach()), episode_dice(logits, episode.labels)


