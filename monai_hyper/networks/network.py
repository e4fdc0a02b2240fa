"""Networks with generated weights: image in, logits out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_hyper.data.coarse import reduce
from monai_hyper.data.support import SupportSet
from monai_hyper.networks.cascade import Cascade, Finder, cut, put
from monai_hyper.networks.confidence import confidence
from monai_hyper.networks.functional import bind, enlarge
from monai_hyper.networks.reading import Reading
from monai_hyper.networks.unet import Target, prepare
from monai_hyper.types import Weights


class ConditionedNetwork:
    """A target network with the weights of one task: image in, logits out.

    Args:
        target: the network that the weights belong to.
        weights: one tensor per parameter of ``target``.
        classes: names of the foreground classes, in the order of the output channels after the background.

    Attributes:
        expected_dice: of the support volumes by each other, where that is known.
        reading: what was read from the support set, where the network was generated; it is no part of the network.
    """

    def __init__(self, target: Target, weights: Weights, classes: tuple[str, ...]) -> None:
        self.weights, self.classes = weights, classes
        self.expected_dice: float | None = None
        self.reading: Reading | None = None
        self._target = target
        prefix = "reader."
        reader = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        self._reader: Callable[[Tensor], Tensor] = bind(target.reader, reader)

    def __call__(self, query: Tensor, inferer: Callable | None = None, places: list[Tensor] | None = None) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of harmonised images ``(B, 1, D, H, W)`` of the whole field of view.

        Args:
            inferer: how to run over prepared images, called with them and :meth:`apply_to`; default: all at once.
            places: see :func:`monai_hyper.networks.unet.prepare`.
        """
        prepared = self.prepare(query, places)
        logits = self.apply_to(prepared) if inferer is None else inferer(prepared, self.apply_to)
        return enlarge(logits, self.factor, list(query.shape[2:]))

    def answers(self, image: Tensor) -> list[Tensor]:
        """The answer to one image ``(1, 1, D, H, W)``, logits ``(1, N, D, H, W)``; there is no other."""
        return [self(image)]

    @property
    def aligned(self) -> bool:
        """Whether images are aligned to the template, or stretched onto it."""
        return self._target.aligned

    @property
    def factor(self) -> int:
        """Side of the cubes of voxels that the network sees as one."""
        return self._target.factor

    def prepare(self, query: Tensor, places: list[Tensor] | None = None) -> Tensor:
        """Align images of the whole field of view and put the prior beside them, see
        :func:`monai_hyper.networks.unet.prepare`, on the grid that the network works on."""
        fields = (self.weights[name] for name in ("template", "prior", "masks"))
        return prepare(reduce(query, self.factor), *fields, self._target.aligned, places)

    def apply_to(self, prepared: Tensor) -> Tensor:
        """Logits of prepared images, or of windows of them."""
        return self._reader(prepared)

    def replaced(self, weights: Weights) -> ConditionedNetwork:
        """The same network with other values for some of its weights.

        Raises:
            ValueError: if a weight has no parameter of that name and shape.
        """
        network = ConditionedNetwork(self._target, self.weights | weights, self.classes)
        network.expected_dice = self.expected_dice
        network.reading = self.reading
        return network

    def materialise(self) -> Target:
        """A plain module that holds the weights and knows nothing of where they came from."""
        target = copy.deepcopy(self._target)  # the body is shared with the model that generated the weights
        target.load_state_dict({name: weight.detach() for name, weight in self.weights.items()})
        return target.eval()


@dataclass(frozen=True)
class CascadeNetwork:
    """What a support set generates at two scales: image in, logits out, see :class:`Cascade`.

    Args:
        finder: of the window.
        local: network of windows.
        others: networks of whole volumes, where the window is not to be trusted; those that are aligned have the
            finder's template.
        support: the windows of the support volumes, where the network was generated; it is no part of the network.
        expected_dice: see :class:`ConditionedNetwork`; None for a lone volume.
    """

    finder: Finder
    local: ConditionedNetwork
    others: tuple[ConditionedNetwork, ...]
    support: SupportSet | None = None
    expected_dice: float | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the foreground classes."""
        return self.local.classes

    def __call__(self, query: Tensor, inferer: Callable | None = None) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of harmonised images ``(B, 1, D, H, W)`` of the whole field of view.

        Args:
            inferer: how the networks are run over prepared images; default: over the whole of them at once.
        """
        return torch.cat([self.answers(image, inferer)[0] for image in query.split(1)])

    def answers(self, image: Tensor, inferer: Callable | None = None) -> list[Tensor]:
        """The answer to one image, and what another network of the same support set says, where there is one.

        Args:
            image: ``(1, 1, D, H, W)``.

        Returns:
            logits ``(1, N, D, H, W)``, once or twice. The other answer comes from a network that aligns, too.
        """
        window, places = self.finder(image)
        within = put(self.local(cut(image, window), inferer), window, list(image.shape[2:]))
        if not self.others:
            return [within]
        explained = self.finder.explains(image, places)
        asked = [other for other in self.others if other.aligned or not explained]
        found = [within, *(other(image, inferer, [places]) for other in asked)]
        best = max(range(len(found)), key=lambda i: confidence(found[i]))
        return [found[best], found[0 if best == 1 else 1]]

    def materialise(self) -> Cascade:
        """A plain module that holds the weights and knows nothing of where they came from."""
        others = [other.materialise() for other in self.others]
        return Cascade(copy.deepcopy(self.finder), self.local.materialise(), others).eval()


def restored(
    module: Cascade | Target, classes: tuple[str, ...], expected: float | None
) -> ConditionedNetwork | CascadeNetwork:
    """The network that was materialised as ``module``; without its support set, so it cannot be polished.

    Args:
        classes: names of the foreground classes; expected: Dice of the support volumes by each other, if known.
    """

    def conditioned(target: Target) -> ConditionedNetwork:
        return ConditionedNetwork(target, dict(target.state_dict()), classes)

    if isinstance(module, Target):
        network = conditioned(module)
        network.expected_dice = expected
        return network
    others = tuple(conditioned(other) for other in module.others)
    return CascadeNetwork(module.finder, conditioned(module.local), others, expected_dice=expected)


def reader_names(body: nn.Module) -> list[str]:
    """What :func:`assemble` calls the weights that a network reads prepared images with, whatever the task.

    Args:
        body: with one read-out for every width in its ``widths``.
    """
    names = [f"body.{name}" for name, _ in body.named_parameters()]
    names += [f"head.{i}.weight" for i in range(len(body.widths))] + ["mask_head.weight", "mask_head.bias"]
    return [f"reader.{name}" for name in names]


def assemble(
    body: nn.Module,
    classes: tuple[str, ...],
    fields: dict[str, Tensor],
    weights: Weights,
    heads: list[Tensor],
    bias: Tensor,
    factor: int = 1,
    aligned: bool = True,
) -> ConditionedNetwork:
    """Put the parts of a network together.

    Args:
        body: the network that ``weights`` belong to.
        classes: names of the ``n`` foreground classes.
        fields: "template" ``(1, 1, d, h, w)``, "masks" ``(1, n, d, h, w)`` and "prior" ``(1, P, d', h', w')``.
        heads: read-out of every feature scale and of the masks, ``(n, C_i)`` each; bias: ``(n,)``.
        factor, aligned: see :class:`Target`.
    """
    sizes = fields["template"].shape[2:], fields["prior"].shape[1:]
    target = Target(body, len(classes), *sizes, factor, aligned)
    found = fields | {f"reader.body.{name}": weight for name, weight in weights.items()}
    found |= {"reader.mask_head.bias": bias, "reader.mask_head.weight": heads[-1][..., None, None, None]}
    found |= {f"reader.head.{i}.weight": head[..., None, None, None] for i, head in enumerate(heads[:-1])}
    return ConditionedNetwork(target, found, classes)
