"""The learned model for classifiers: a support set in, a plain classifier out, by the encoder and the generator that
segment, too."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.networks.class_head import ClassHead
from monai_hyper.networks.classifier import Classifier, ClassifierBody
from monai_hyper.networks.context import ContextEncoder
from monai_hyper.networks.functional import bind, pad_high
from monai_hyper.networks.generator import Standard, generator_for
from monai_hyper.networks.mixing import shared
from monai_hyper.networks.words import told
from monai_hyper.types import Weights

GLANCE, LEAST = 32, 24
"""The encoder sees images of about so many voxels along their longest side, and of at least so many along each."""


def coarser(images: Tensor) -> Tensor:
    """Images ``(B, 1, D, H, W)`` averaged to about ``GLANCE`` voxels along their longest side; shorter sides than
    ``LEAST``, but for slices, are padded.

    Example:
        >>> coarser(torch.zeros(2, 1, 64, 50, 1)).shape
        torch.Size([2, 1, 32, 25, 1])
    """
    factor = round(max(images.shape[2:]) / GLANCE)
    if factor > 1:
        images = F.adaptive_avg_pool3d(images, [-(-side // factor) for side in images.shape[2:]])
    return pad_high(images, [max(0, LEAST - side) if side > 1 else 0 for side in images.shape[2:]])


class ConditionedClassifier:
    """A classifier with the weights of one task: image in, logits out.

    Args:
        target: the network that the weights belong to; weights: one tensor for each of its parameters.
        classes: names of the classes, in the order of the logits.
        own: logits of the examples, each by the others, ``(K, N)``.
    """

    def __init__(self, target: Classifier, weights: Weights, classes: tuple[str, ...], own: Tensor) -> None:
        self.weights, self.classes, self.own = weights, classes, own
        self._target = target
        self._network: Callable[[Tensor], Tensor] = bind(target, weights)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(B, N)`` of harmonised images ``(B, 1, D, H, W)``."""
        return self._network(images)

    def materialise(self, temperature: float = 1.0) -> Classifier:
        """A plain module that holds the weights and knows nothing of where they came from.

        Args:
            temperature: that its logits are divided by.
        """
        target = copy.deepcopy(self._target)
        weights = self.weights | {"head.weight": self.weights["head.weight"] / temperature}
        target.load_state_dict({name: weight.detach() for name, weight in weights.items()})
        return target.eval()


class HyperClassifier(nn.Module):
    """Generate all weights of a classifier from a support set, in one forward pass.

    The body's weights come from the generator, the last layer is the closed-form solution on what the generated body
    sees in the examples, see :class:`ClassHead`. Descriptions of classes are tokens beside those of the images.

    Args:
        body: the network to generate weights for; default: :class:`ClassifierBody`.
        embedding_dim: length ``E`` of a token.

    Example:
        >>> support = SupportSet(torch.randn(4, 1, 32, 32, 1), torch.tensor([0, 0, 1, 1]), ("even", "odd"))
        >>> network = HyperClassifier().eval().condition(support)
        >>> network(torch.randn(3, 1, 32, 32, 1)).shape
        torch.Size([3, 2])
    """

    method = "hyper-classifier"

    def __init__(self, body: nn.Module | None = None, embedding_dim: int = 192) -> None:
        super().__init__()
        self.settings: dict = {}
        self.body = ClassifierBody() if body is None else body
        self.encoder = ContextEncoder(embedding_dim, prior_channels=None, smallest=1)
        self.hypernetwork = generator_for(self.body, embedding_dim, depth=2, reach=1.0)
        self.head = ClassHead(self.body.width, embedding_dim)
        self.standard = Standard(2 * len(self.encoder.embed), embedding_dim)
        self.listen = nn.Linear(TEXT_DIM, embedding_dim)

    def condition(self, support: SupportSet) -> ConditionedClassifier:
        """Generate the classifier of a task."""
        shown, texts = support.annotated.to(support.images)[None], support.texts.to(support.images)[None]
        context = self.read(support.images[None], shown, texts)
        body = self.hypernetwork(context[0], dict(self.body.named_parameters()))
        solution = self.head(bind(self.body, body)(support.images)[None], shown, texts, context)
        weights = {f"body.{name}": weight for name, weight in body.items()}
        weights |= {"directions.centre": solution.centre[0], "head.weight": solution.weight[0]}
        target = Classifier(self.body, len(support.classes))
        return ConditionedClassifier(target, weights, support.classes, solution.own[0])

    def forward(self, images: Tensor, support: SupportSet) -> Tensor:
        """Logits ``(B, N)`` of images ``(B, 1, D, H, W)`` by the classifier for ``support``."""
        return self.condition(support)(images)

    def classify_tasks(self, images: Tensor, shown: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`condition` does for one task, for several of equal shape at once, without loops, for training.

        Args:
            images: examples, then queries, ``(T, K + Q, 1, D, H, W)``; shown: classes of the examples, one-hot,
                ``(T, K, N)``; texts: ``(T, N, 384)``.

        Returns:
            logits of the queries, ``(T, Q, N)``; and of the examples, each by the others, ``(T, K, N)``.
        """
        shots = shown.shape[1]
        context = self.read(images[:, :shots], shown, texts)
        with shared(self.body, self.hypernetwork.changes(context)) as body:
            features = body(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        solution = self.head(features[:, :shots], shown, texts, context)
        directions = F.normalize(features[:, shots:] - solution.centre[:, None], dim=-1)
        return directions @ solution.weight.mT, solution.own

    def read(self, images: Tensor, shown: Tensor, texts: Tensor) -> Tensor:
        """Tokens of every task: of the images, of what sets their classes apart, and of the descriptions.

        Args:
            images: ``(T, K, 1, D, H, W)``; shown: one-hot classes, ``(T, K, N)``; texts: ``(T, N, 384)``.

        Returns:
            ``(T, M, E)``.
        """
        found = []
        if images.shape[1]:
            flat = coarser(images.flatten(0, 1))
            tokens = self.encoder.tokens_of_whole(self.encoder.maps(flat, torch.zeros_like(flat)))
            tokens = tokens.unflatten(0, images.shape[:2])  # (T, K, M, E)
            number = shown.sum(1)
            present = (number > 0).to(tokens)
            means = torch.einsum("tkn,tkme->tnme", shown / number.clamp(min=1)[:, None], tokens)
            share = (present / present.sum(1, keepdim=True))[..., None, None]
            mean = (share * means).sum(1)
            spread = (share * (means - mean[:, None]).square()).sum(1)
            found.append(self.standard(torch.cat([mean, (spread + 1e-6).sqrt()], 1)))
        described = (texts != 0).flatten(1).any(1, keepdim=True).to(texts)
        heard = self.listen(told(texts)) * described
        count = torch.log1p(shown.sum((1, 2)) / shown.shape[2])[:, None, None]
        return torch.cat([*found, heard[:, None], self.encoder.shots(count)], 1)
