"""The meta-trained baselines that classify: prototypes, MAML and implicit MAML, on the same bodies."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.classify.bodies import BODIES
from monai_hyper.methods.imaml import proximal_descent, with_implicit_gradient
from monai_hyper.methods.maml import adapt
from monai_hyper.networks.functional import bind
from monai_hyper.synthesis.batch import ClassBatch
from monai_hyper.types import Weights

Classify = Callable[[Tensor], Tensor]
"""Images ``(B, 1, D, H, W)`` in, logits ``(B, N)`` out."""


def prototypes(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean features of every class, ``(N, F)``, of features ``(K, F)`` and classes ``(K,)``."""
    shown = F.one_hot(labels, classes).to(features)
    return shown.T @ features / shown.sum(0)[:, None].clamp(min=1)


class PrototypeClassifier(nn.Module):
    """Every image belongs to the class whose mean features are nearest.

    After Snell et al., "Prototypical Networks for Few-shot Learning", 2017, https://arxiv.org/abs/1703.05175, with a
    learned scale of the squared distances.

    Args:
        body: name in ``BODIES``.
    """

    method = "prototype-classifier"

    def __init__(self, body: str = "resnet") -> None:
        super().__init__()
        self.settings = {"body": body}
        self.body = BODIES[body]()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def logits(self, found: Tensor, features: Tensor) -> Tensor:
        """``(B, N)`` of prototypes ``(N, F)`` and features ``(B, F)``."""
        return -self.log_scale.exp() * (features[:, None] - found).square().sum(-1)

    def task_logits(self, batch: ClassBatch, task: int) -> Tensor:
        """Logits ``(Q, N)`` of the queries of a task, all of whose images are seen together."""
        features = self.body(batch.images[task])
        found = prototypes(features[: batch.examples], batch.labels[task, : batch.examples], batch.classes)
        return self.logits(found, features[batch.examples :])

    def task_loss(self, batch: ClassBatch, task: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the queries of a task, and their logits ``(Q, N)``."""
        logits = self.task_logits(batch, task)
        return F.cross_entropy(logits, batch.queries(task)[1]), logits

    @torch.no_grad()
    def fit(self, support: SupportSet) -> Classify:
        """The classifier of a support set."""
        found = prototypes(self.body(support.images), support.labels, len(support.classes))
        return lambda images: self.logits(found, self.body(images))


class LinearClassifier(nn.Module):
    """A body and a linear layer.

    Args:
        body: features of images, ``body.width`` of them; classes: number ``N`` of classes.
    """

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.width, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, N)`` of images ``(B, 1, D, H, W)``."""
        return self.head(self.body(images))


class _Adapting(nn.Module):
    """What MAML and implicit MAML share: a body, and one row that the linear layer has for every class at first, so
    that any number of classes can be served."""

    def __init__(self, body: str) -> None:
        super().__init__()
        self.body = BODIES[body]()
        self.row = nn.Parameter(torch.zeros(1, self.body.width))

    def network(self, classes: int) -> tuple[LinearClassifier, Weights]:
        """A network for so many classes, and the weights that adaptation begins with."""
        weights = {f"body.{name}": parameter for name, parameter in self.body.named_parameters()}
        return LinearClassifier(self.body, classes), weights | {"head.weight": self.row.expand(classes, -1)}


class MamlClassifier(_Adapting):
    """See :class:`monai_hyper.methods.maml.MamlLearner`; all rows of the linear layer begin alike (Ye and Chao, "How to
    Train Your MAML to Excel in Few-Shot Classification", 2022, https://arxiv.org/abs/2106.16245).

    Args:
        body: name in ``BODIES``.
        inner_steps: gradient steps on the examples; inner_rate: learning rate at first, the same everywhere.
        second_order: differentiate through the gradient steps.
    """

    method = "maml-classifier"

    def __init__(
        self, body: str = "resnet", inner_steps: int = 5, inner_rate: float = 0.05, second_order: bool = False
    ) -> None:
        super().__init__(body)
        self.settings = {
            "body": body, "inner_steps": inner_steps, "inner_rate": inner_rate, "second_order": second_order,
        }  # fmt: skip
        self.inner_steps, self.second_order = inner_steps, second_order
        count = len(list(self.body.parameters())) + 1
        self.log_rates = nn.Parameter(torch.full((count,), math.log(inner_rate)))

    def adapted(self, network: LinearClassifier, weights: Weights, support: SupportSet) -> Weights:
        """The weights after the steps on examples."""
        rates, examples = self.log_rates.exp(), [(support.images, support.labels)]
        return adapt(network, weights, rates, examples, self.inner_steps, self.second_order, loss=F.cross_entropy)

    def task_loss(self, batch: ClassBatch, task: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the queries of a task after adaptation, and their logits ``(Q, N)``."""
        images, labels = batch.queries(task)
        network, weights = self.network(batch.classes)
        logits = bind(network, self.adapted(network, weights, batch.support(task)))(images)
        return F.cross_entropy(logits, labels), logits

    @torch.enable_grad()
    def fit(self, support: SupportSet) -> Classify:
        """The classifier of a support set."""
        network, weights = self.network(len(support.classes))
        weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        weights = self.adapted(network, weights, support)
        return bind(network, {name: weight.detach() for name, weight in weights.items()})


class IMamlClassifier(_Adapting):
    """See :class:`monai_hyper.methods.imaml.IMamlLearner`.

    Args:
        body: name in ``BODIES``.
        inner_steps: gradient steps on the examples; inner_rate: their learning rate.
        strength: of the proximal term; solver_steps: of conjugate gradients.
    """

    method = "imaml-classifier"

    def __init__(
        self,
        body: str = "resnet",
        inner_steps: int = 8,
        inner_rate: float = 0.1,
        strength: float = 0.5,
        solver_steps: int = 3,
    ) -> None:
        super().__init__(body)
        self.settings = {
            "body": body, "inner_steps": inner_steps, "inner_rate": inner_rate, "strength": strength,
            "solver_steps": solver_steps,
        }  # fmt: skip
        self.inner_steps, self.inner_rate = inner_steps, inner_rate
        self.strength, self.solver_steps = strength, solver_steps

    def task_loss(self, batch: ClassBatch, task: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the queries of a task after adaptation, with its implicit gradient, and their logits
        ``(Q, N)``."""
        images, labels = batch.queries(task)
        support = batch.support(task)
        network, initial = self.network(batch.classes)
        examples = (support.images, support.labels)
        weights = self._solve(network, initial, examples)
        weights = {name: weight.requires_grad_() for name, weight in weights.items()}
        logits = bind(network, weights)(images)
        loss = with_implicit_gradient(
            network, initial, weights, F.cross_entropy(logits, labels), examples, self.strength, self.solver_steps,
            F.cross_entropy,
        )  # fmt: skip
        return loss, logits.detach()

    def fit(self, support: SupportSet) -> Classify:
        """The classifier of a support set."""
        network, initial = self.network(len(support.classes))
        return bind(network, self._solve(network, initial, (support.images, support.labels)))

    def _solve(self, network: LinearClassifier, initial: Weights, examples: tuple[Tensor, Tensor]) -> Weights:
        return proximal_descent(
            network, initial, [examples], self.inner_steps, self.inner_rate, self.strength, F.cross_entropy
        )


CLASS_LEARNERS = {kind.method: kind for kind in (PrototypeClassifier, MamlClassifier, IMamlClassifier)}
"""The meta-trained baselines that classify, by name."""
