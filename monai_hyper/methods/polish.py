"""Our method, refined: gradient steps on the support set from the generated weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from monai.metrics import compute_dice
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.fitting import Budget, annotated_loss, descend, random_patch, random_shot
from monai_hyper.networks.cascade import CascadeNetwork, cut, put
from monai_hyper.networks.functional import enlarge
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import ConditionedNetwork
from monai_hyper.networks.unet import beside

Network = ConditionedNetwork | CascadeNetwork

RATE = 0.03
"""Learning rate of a tensor, relative to the root mean square of its values: generated weights differ in size by
powers of ten from layer to layer."""

AVERAGE = 0.8
"""Of the weights, a moving mean is what comes out: one volume a step makes them restless."""

STRENGTH = 0.5
"""Of the random changes of shape. Intensities stay as the model knows them."""

LOOKS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""After which shares of the budget the volumes left out are looked at."""

FEW = 4
"""From so many shots on one half is polished first and the other half looked at."""


def polish_seconds(device: str) -> float:
    """How long to polish where nothing else is asked for, s: 20 on a CPU, 3 on a GPU."""
    return 20.0 if torch.device(device).type == "cpu" else 3.0


class Polish:
    """Generated weights, then gradient steps on the support volumes.

    The inner loop of MAML (Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
    https://arxiv.org/abs/1703.03400), from weights that know the task already. Prior and mean masks stay as generated;
    while polishing, every volume is shown those of the others, or, where there is no other, those of a warped copy of
    itself, a new copy in every step.

    From four shots on, half of the budget goes to a trial: a network from one half of the volumes is polished, and how
    well it segments the other half tells after which share of the other half of the budget to stop, at once included.
    With fewer volumes there is nothing to leave out, and as they are soon learned by heart, half of the budget is all.

    Args:
        model: the trained model, left as it is.
        budget: of all gradient steps, the trial's included.
    """

    def __init__(self, model: HyperModel, budget: Budget) -> None:
        self.model, self.budget = model, budget

    def fit(self, support: SupportSet) -> Network:
        """Generate the network of a support set and polish it; always alike where the budget counts steps."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts, half = split(support), self.budget.part(0.5)
            if parts is None:
                return self.polished(support, [1.0], half)[0]
            kept, out = parts
            scores = mean_dice(self.polished(support.subset(kept), LOOKS, half), support.subset(out))
            best = int(torch.tensor(scores).argmax())  # the first of equal ones
            return expecting(self.polished(support, [LOOKS[best]], half)[0], scores[best])

    def polished(self, support: SupportSet, shares: Sequence[float], budget: Budget) -> list[Network]:
        """Networks of one support set after rising shares of a budget."""
        with torch.no_grad():
            network = self.model.condition(support)
        if isinstance(network, ConditionedNetwork):
            return self._path(network, support, shares, budget)
        part = budget.part(1 / (1 + len(network.others)))
        near = self._path(network.local, network.support, shares, part)
        far = [self._path(other, support, shares, part) for other in network.others]
        return [replace(network, local=local, others=tuple(others)) for local, *others in zip(near, *far)]

    def _path(
        self, network: ConditionedNetwork, support: SupportSet, shares: Sequence[float], budget: Budget
    ) -> list[ConditionedNetwork]:
        """One generated network, and the support set that it was generated from, after shares of the budget."""
        learned = {
            name: w.detach().clone().requires_grad_() for name, w in network.weights.items() if "reader." in name
        }
        groups = [{"params": [w], "lr": RATE * float(w.detach().square().mean().sqrt())} for w in learned.values()]
        found = [network for share in shares if share == 0]
        if len(found) == len(shares):
            return found
        mean = {name: weight.detach().clone() for name, weight in learned.items()}
        for spent in descend(groups, self._loss(network.replaced(learned), support), budget, RATE):
            for name, weight in learned.items():
                mean[name].lerp_(weight.detach(), 1 - AVERAGE)
            while len(found) < len(shares) and spent >= shares[len(found)]:
                found.append(network.replaced({name: weight.clone() for name, weight in mean.items()}))
            if len(found) == len(shares):
                break
        return found

    def _loss(self, network: ConditionedNetwork, support: SupportSet) -> Callable[[], Tensor]:
        """A function that draws a support volume, shows it what it may know of itself, and returns its loss."""
        support, reading = support.coarser(network.factor), network.reading

        @torch.no_grad()
        def example() -> tuple[Tensor, Tensor, Tensor]:
            shot, image, label = random_shot(support)
            lone = support.shots == 1
            fields = self.model.copied(image, label, len(support.classes)) if lone else reading.others[shot]
            prepared = beside(image, fields, reading.prior.shape[1])
            return *random_patch(prepared, label, STRENGTH), support.annotated[shot]

        def loss() -> Tensor:
            prepared, label, annotated = example()
            return annotated_loss(network.apply_to(prepared), label, annotated)

        return loss


def expecting(network: Network, dice: float) -> Network:
    """The same network, with what Dice to expect of it after its polish."""
    if isinstance(network, CascadeNetwork):
        return replace(network, polished_dice=dice)
    other = network.replaced({})
    other.polished_dice = dice
    return other


def split(support: SupportSet) -> tuple[list[int], list[int]] | None:
    """Volumes to polish and volumes to leave out; None where they are few, or either would not show every class.

    Example:
        >>> split(SupportSet(torch.zeros(5, 1, 8, 8, 8), torch.ones(5, 1, 8, 8, 8).long()))
        ([0, 2, 4], [1, 3])
    """
    if support.shots < FEW:
        return None
    kept, out = list(range(0, support.shots, 2)), list(range(1, support.shots, 2))
    annotated = support.annotated
    return (kept, out) if annotated[kept].any(0).all() and annotated[out].any(0).all() else None


@torch.no_grad()
def mean_dice(networks: Sequence[Network], support: SupportSet) -> list[float]:
    """Mean Dice of networks over the annotated classes of volumes, 1 where a class is rightly found nowhere.

    Args:
        networks: of one support set, with other weights for the same prior: images are prepared only once.
    """
    scores: list[list[Tensor]] = [[] for _ in networks]
    for shots, images, labels in support.volumes():
        for shot, image, label in zip(shots, images.split(1), labels.split(1)):
            for i, logits in enumerate(_answers(networks, image)):
                found = logits.argmax(1, keepdim=True)
                dice = compute_dice(found, label, False, ignore_empty=False, num_classes=len(support.classes) + 1)
                scores[i].append(dice[0, support.annotated[shot].to(dice.device)])
    return [float(torch.cat(found).mean()) for found in scores]


def _answers(networks: Sequence[Network], image: Tensor) -> list[Tensor]:
    """Logits of an image ``(1, 1, D, H, W)`` by networks that share prior and window."""
    first, size = networks[0], list(image.shape[2:])
    if not isinstance(first, CascadeNetwork):
        prepared = first.prepare(image)
        return [enlarge(network.apply_to(prepared), first.factor, size) for network in networks]
    if first.others:
        return [network(image) for network in networks]
    window, _ = first.finder(image)
    within = _answers([network.local for network in networks], cut(image, window))
    return [put(logits, window, size) for logits in within]
