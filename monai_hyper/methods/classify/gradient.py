"""The baselines that train on a task's own examples: from random weights, from the model's body, or a linear layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.classify.learners import Classify, LinearClassifier
from monai_hyper.methods.fitting import Budget, descend
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.classifier import ClassifierBody
from monai_hyper.synthesis.class_images import jittered

BATCH = 16
"""Examples of an update, at most."""


def trained(network: nn.Module, support: SupportSet, budget: Budget, rate: float) -> Classify:
    """Train a network on a support set, its images turned, scaled and moved at random; classes weigh the same."""
    number = support.annotated.sum(0).to(support.images).clamp(min=1)
    weight = 1 / number[support.labels]
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        chosen = torch.multinomial(weight, min(BATCH, len(weight)), generator=generator)
        return F.cross_entropy(network(jittered(support.images[chosen], generator)), support.labels[chosen])

    learned = [p for p in network.train().parameters() if p.requires_grad]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        for _ in descend(learned, loss, budget, rate):
            pass
    return network.eval().requires_grad_(False)


class ScratchClassifier:
    """The same network as ours, trained from random weights.

    Args:
        budget: how long to train.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def fit(self, support: SupportSet) -> Classify:
        """Train a classifier on a support set."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = LinearClassifier(ClassifierBody(), len(support.classes))
        return trained(network, support, self.budget, 1e-3)


class FineTuneClassifier:
    """The body that the model's generator starts from, with a new linear layer, trained further.

    Args:
        body: to begin with, left as it is; budget: how long to train.
    """

    def __init__(self, body: Callable[[], nn.Module], budget: Budget) -> None:
        self.body, self.budget = body, budget

    def fit(self, support: SupportSet) -> Classify:
        """Train a classifier on a support set."""
        with torch.random.fork_rng():
            network = LinearClassifier(self.body(), len(support.classes))
        nn.init.zeros_(network.head.weight)
        return trained(network.requires_grad_(True), support, self.budget, 3e-4)


class LinearProbe:
    """Logistic regression on what the model's body sees before anything is generated.

    Features are centred and divided by their mean length; the penalty is the usual one of scikit-learn (C = 1).

    Args:
        model: the trained model, left as it is.
    """

    def __init__(self, model: HyperClassifier) -> None:
        self.model = model

    def fit(self, support: SupportSet) -> Classify:
        """Fit the classifier of a support set."""
        body = self.model.body
        with torch.no_grad():
            features = body(support.images)
        centre = features.mean(0)
        length = (features - centre).norm(dim=1).mean().clamp(min=1e-6)
        number = support.annotated.sum(0).to(features).clamp(min=1)
        head = nn.Linear(features.shape[1], len(support.classes))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimiser = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = head((features - centre) / length)
            balance = len(support.labels) / number / len(number)
            value = F.cross_entropy(logits, support.labels, balance, reduction="sum") + head.weight.square().sum() / 2
            value.backward()
            return value

        with torch.enable_grad():
            optimiser.step(loss)
        head.requires_grad_(False)
        return lambda images: head((body(images) - centre) / length)
