"""Our method, refined: gradient steps on the support set from the generated weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat

import torch
from monai.metrics import compute_dice
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.fitting import Budget, annotated_loss, descend, random_patch, random_shot
from monai_hyper.networks.alignment import THOROUGH
from monai_hyper.networks.cascade import CascadeNetwork
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.network import ConditionedNetwork
from monai_hyper.networks.template import make_template

RATE = 0.03
"""Learning rate of a tensor, relative to the root mean square of its values: generated weights differ in size by
powers of ten from layer to layer."""

STRENGTH = 0.5
"""Of the random changes of shape. Intensities stay as the model knows them."""

LOOKS = 4
"""How often the volumes left out are looked at on the way."""

FEW = 4
"""From so many shots on each half is polished and the other half looked at, below only the last volume is left out."""


class Polish:
    """Generated weights, then gradient steps on the support volumes.

    The inner loop of MAML (Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
    https://arxiv.org/abs/1703.03400), from weights that know the task already. Prior and mean masks stay as generated;
    while polishing, every volume is shown those of the others, or, where there is no other, those of a warped copy of
    itself, a new copy in every step. The number of steps is the best on volumes left out of the polish, 0 among the
    choices; as many as allowed where none can be left out, as at K = 1.

    Args:
        model: the trained model, left as it is.
        steps: largest number of steps.

    Raises:
        ValueError: if ``steps`` is not positive.
    """

    def __init__(self, model: HyperModel, steps: int = 50) -> None:
        self.model, self.budget = model, Budget(steps=steps)

    def fit(self, support: SupportSet) -> ConditionedNetwork | CascadeNetwork:
        """Generate the network of a support set and polish it."""
        return next(self.polished(support, [self.best_steps(support)]))

    @torch.no_grad()
    def best_steps(self, support: SupportSet) -> int:
        """The number of steps that serves volumes best that took no part in them; the smallest of equal ones."""
        choices = sorted({round(self.budget.steps * look / LOOKS) for look in range(LOOKS + 1)})
        scores = [
            [mean_dice(network, support.subset(out)) for network in self.polished(support.subset(kept), choices)]
            for kept, out in splits(support)
        ]
        return choices[int(torch.tensor(scores).mean(0).argmax())] if scores else choices[-1]

    def polished(self, support: SupportSet, choices: Sequence[int]) -> Iterator[ConditionedNetwork | CascadeNetwork]:
        """Networks of one support set after each number of steps, in rising order."""
        with torch.no_grad():
            network = self.model.condition(support)
        if isinstance(network, ConditionedNetwork):
            yield from self._path(network, support, choices)
            return
        path = self._path(network.local, network.support, choices)
        whole = repeat(None) if network.whole is None else self._path(network.whole, support, choices)
        yield from (replace(network, local=near, whole=far) for near, far in zip(path, whole))

    def _path(
        self, network: ConditionedNetwork, support: SupportSet, choices: Sequence[int]
    ) -> Iterator[ConditionedNetwork]:
        """One generated network and the support set that it was generated from."""
        learned = {
            name: w.detach().clone().requires_grad_() for name, w in network.weights.items() if "reader." in name
        }
        groups = [{"params": [w], "lr": RATE * float(w.detach().square().mean().sqrt())} for w in learned.values()]
        path = descend(groups, self._loss(network.replaced(learned), support), self.budget, RATE)
        for before, steps in zip([0, *choices], choices):
            for _ in islice(path, steps - before):
                pass
            yield network.replaced({name: weight.detach().clone() for name, weight in learned.items()})

    def _loss(self, network: ConditionedNetwork, support: SupportSet) -> Callable[[], Tensor]:
        """A function that draws a support volume, shows it what it may know of itself, and returns its loss."""
        support = support.coarser(network.factor)
        with torch.no_grad():
            template = make_template(support, THOROUGH)
            reading = self.model.read(support, template, torch.Generator().manual_seed(0))

        @torch.no_grad()
        def example() -> tuple[Tensor, Tensor, Tensor]:
            shown = self.model.read(support, template, None) if support.shots == 1 else reading
            shot, image, label = random_shot(support)
            return *random_patch(shown.beside(image, [shot]), label, STRENGTH), support.annotated[shot]

        def loss() -> Tensor:
            prepared, label, annotated = example()
            return annotated_loss(network.apply_to(prepared), label, annotated)

        return loss


def splits(support: SupportSet) -> list[tuple[list[int], list[int]]]:
    """Volumes to polish on and volumes to leave out; none where either would not show every class.

    Example:
        >>> splits(SupportSet(torch.zeros(3, 1, 8, 8, 8), torch.ones(3, 1, 8, 8, 8).long()))
        [([0, 1], [2])]
    """
    shots = list(range(support.shots))
    left_out = [shots[1::2], shots[::2]] if len(shots) >= FEW else [shots[-1:]]
    found = [([shot for shot in shots if shot not in out], out) for out in left_out]
    annotated = support.annotated
    return [(kept, out) for kept, out in found if annotated[kept].any(0).all() and annotated[out].any(0).all()]


def mean_dice(network: Callable[[Tensor], Tensor], support: SupportSet) -> float:
    """Mean Dice over the annotated classes of the support volumes, 1 where a class is rightly found nowhere."""
    scores = []
    for shots, images, labels in support.volumes():
        for i, shot in enumerate(shots):
            found = network(images[i : i + 1]).argmax(1, keepdim=True)
            dice = compute_dice(
                found, labels[i : i + 1], False, ignore_empty=False, num_classes=len(support.classes) + 1
            )
            scores.append(dice[0, support.annotated[shot].to(dice.device)])
    return float(torch.cat(scores).mean())
