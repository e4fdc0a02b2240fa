"""The whole learned model: a support set in, a network out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.coarse import reduce
from monai_hyper.data.support import SupportSet, shots_by_size
from monai_hyper.networks.context import ContextEncoder
from monai_hyper.networks.functional import bind, enlarge, fit_field
from monai_hyper.networks.generator import generator_for
from monai_hyper.networks.head import RidgeHead
from monai_hyper.networks.unet import Target, UNetBody, prepare, with_prior
from monai_hyper.synthesis.geometry import warped_copy
from monai_hyper.types import MAX_SHOTS, Weights

PRIOR_CHANNELS = 8

WORKING_VOXELS = 100_000
"""About the largest volumes of meta-training. Larger ones are seen on a grid that is coarser by a whole number."""


class ConditionedNetwork:
    """A target network with the weights of one task: image in, logits out.

    Args:
        target: the network that the weights belong to.
        weights: one tensor per parameter of ``target``.
        classes: names of the foreground classes, in the order of the output channels after the background.
    """

    def __init__(self, target: Target, weights: Weights, classes: tuple[str, ...]) -> None:
        self.weights, self.classes = weights, classes
        self._target = target
        prefix = "reader."
        reader = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        self._reader: Callable[[Tensor], Tensor] = bind(target.reader, reader)

    def __call__(self, query: Tensor) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of harmonised images ``(B, 1, D, H, W)`` of the whole field of view."""
        return self.finish(self.apply_to(self.prepare(query)), query)

    @property
    def factor(self) -> int:
        """Side of the cubes of voxels that the network sees as one."""
        return self._target.factor

    def prepare(self, query: Tensor) -> Tensor:
        """Put the prior beside images of the whole field of view, see :func:`monai_hyper.networks.unet.prepare`, on
        the grid that the network works on."""
        return prepare(reduce(query, self.factor), self.weights["prior"], self.weights["masks"])

    def apply_to(self, prepared: Tensor) -> Tensor:
        """Logits of prepared images, or of windows of them."""
        return self._reader(prepared)

    def finish(self, logits: Tensor, query: Tensor) -> Tensor:
        """Bring logits of whole prepared images to the grid of the images."""
        return enlarge(logits, self.factor, list(query.shape[2:]))

    def replaced(self, weights: Weights) -> ConditionedNetwork:
        """The same network with other values for some of its weights.

        Raises:
            ValueError: if a weight has no parameter of that name and shape.
        """
        return ConditionedNetwork(self._target, self.weights | weights, self.classes)

    def materialise(self) -> Target:
        """A plain module that holds the weights and knows nothing of where they came from."""
        target = copy.deepcopy(self._target)  # the body is shared with the model that generated the weights
        target.load_state_dict({name: weight.detach() for name, weight in self.weights.items()})
        return target.eval()


def assemble(
    body: nn.Module,
    classes: tuple[str, ...],
    prior: Tensor,
    masks: Tensor,
    weights: Weights,
    heads: list[Tensor],
    bias: Tensor,
    factor: int = 1,
) -> ConditionedNetwork:
    """Put the parts of a network together.

    Args:
        body: the network that ``weights`` belong to.
        classes: names of the ``n`` foreground classes.
        prior: ``(1, P, d, h, w)``; masks: ``(1, n, d', h', w')``.
        heads: read-out of every feature scale and of the masks, ``(n, C_i)`` each; bias: ``(n,)``.
        factor: see :class:`Target`.
    """
    target = Target(body, len(classes), prior.shape[1:], masks.shape[2:], factor)
    found = {f"reader.body.{name}": weight for name, weight in weights.items()}
    found |= {"prior": prior, "masks": masks, "reader.mask_head.bias": bias}
    found |= {f"reader.head.{i}.weight": head[..., None, None, None] for i, head in enumerate(heads[:-1])}
    found["reader.mask_head.weight"] = heads[-1][..., None, None, None]
    return ConditionedNetwork(target, found, classes)


def working_factor(support: SupportSet) -> int:
    """How many voxels along each side the network of a support set should see as one, by its largest volume.

    Example:
        >>> working_factor(SupportSet(torch.zeros(1, 1, 96, 96, 96), torch.zeros(1, 1, 96, 96, 96).long()))
        2
    """
    voxels = float(support.extents.prod(1).max())
    return max(1, round((voxels / WORKING_VOXELS) ** (1 / 3)))


@dataclass
class Reading:
    """What the encoder read from a support set; the leave-one-out entries are what each volume may know itself by."""

    context: Tensor  # (M, E)
    prior: Tensor  # (1, P, d, h, w)
    masks: Tensor  # (1, n, d', h', w')
    other_priors: Tensor  # (K, P, d, h, w)
    other_masks: Tensor  # (K, n, d', h', w')
    fraction: Tensor  # (n,)


def leave_one_out(values: Tensor, present: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the present shots, and for every shot the mean over the others.

    Args:
        values: ``(K, C, ...)``; present: which entries count, ``(K, C)``; fallback: where no other shot counts.

    Returns:
        ``(1, C, ...)`` and ``(K, C, ...)``.
    """
    weight = present.to(values)[(...,) + (None,) * (values.dim() - 2)]
    total, count = (values * weight).sum(0, keepdim=True), weight.sum(0, keepdim=True)
    others = count - weight
    mean_of_others = (total - values * weight) / others.clamp(min=1)
    return total / count.clamp(min=1), torch.where(others > 0, mean_of_others, fallback)


def average(readings: list[Reading], subsets: list[list[int]]) -> Reading:
    """Join what was read from subsets of a support set, by the number of their volumes.

    Args:
        subsets: shots of each reading; together all shots, each once.
    """
    share = torch.tensor([len(subset) for subset in subsets], device=readings[0].context.device).float()
    order = torch.tensor([shot for subset in subsets for shot in subset]).argsort()
    sizes = [[max(sides) for sides in zip(*(field.shape[2:] for field in fields))]
             for fields in ([r.prior for r in readings], [r.masks for r in readings])]  # fmt: skip

    def mean(values: list[Tensor]) -> Tensor:
        return torch.stack([s * value for s, value in zip(share / share.sum(), values)]).sum(0)

    def joined(fields: list[Tensor], size: list[int]) -> Tensor:
        return torch.cat([fit_field(field, size) for field in fields])[order.to(share.device)]

    return Reading(
        mean([r.context for r in readings]),
        mean([fit_field(r.prior, sizes[0]) for r in readings]),
        mean([fit_field(r.masks, sizes[1]) for r in readings]),
        joined([r.other_priors for r in readings], sizes[0]),
        joined([r.other_masks for r in readings], sizes[1]),
        mean([r.fraction for r in readings]),
    )


def warped_copies(images: Tensor, masks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Warp every volume; all alike where there is a generator, so that their order cannot matter.

    Args:
        images: ``(k, 1, D, H, W)``; masks: ``(k, n, D, H, W)``.
    """
    pairs = []
    for image, mask in zip(images, masks):
        if generator is not None:
            generator.manual_seed(0)
        pairs.append(warped_copy(image[None], mask[None], generator))
    copies, copied = zip(*pairs)
    return torch.cat(copies), torch.cat(copied)


def by_size(found: list[tuple[list[int], Tensor]], sizes: list[list[int]]) -> list[tuple[list[int], Tensor, list[int]]]:
    """Regroup what was computed for groups of shots by the sizes of their volumes.

    Args:
        found: shots and their values, ``(k, ...)``, of every group; sizes: of every shot.

    Returns:
        shots, values and size of every new group, in the order of :meth:`SupportSet.volumes`.

    Example:
        >>> [(shots, size) for shots, _, size in by_size([([0, 1, 2], torch.zeros(3))], [[4], [5], [4]])]
        [([0, 2], [4]), ([1], [5])]
    """
    values = {shot: value for shots, values in found for shot, value in zip(shots, values)}
    return [
        (shots, torch.stack([values[shot] for shot in shots]), list(size))
        for size, shots in shots_by_size(sizes).items()
    ]


class HyperModel(nn.Module):
    """Generate the weights of a segmentation network from a support set, in one forward pass.

    Args:
        body: the network to generate weights for, taking ``1 + 8 + 1`` channels (image, prior, mean mask);
            default: :class:`UNetBody`.
        embedding_dim: length ``E`` of a token.

    Example:
        >>> support = SupportSet(torch.randn(2, 1, 32, 32, 32), torch.randint(0, 2, (2, 1, 32, 32, 32)))
        >>> network = HyperModel().eval().condition(support)
        >>> network(torch.randn(1, 1, 32, 40, 36)).shape
        torch.Size([1, 2, 32, 40, 36])
    """

    def __init__(self, body: nn.Module | None = None, embedding_dim: int = 192) -> None:
        super().__init__()
        self.body = UNetBody(1 + PRIOR_CHANNELS + 1) if body is None else body
        self.encoder = ContextEncoder(embedding_dim, PRIOR_CHANNELS)
        self.hypernetwork = generator_for(self.body, embedding_dim)
        self.head = RidgeHead(self.body.widths, embedding_dim)

    def forward(self, query: Tensor, support: SupportSet) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of ``query``, ``(B, 1, D, H, W)``, by the network for ``support``."""
        return self.condition(support)(query)

    def condition(self, support: SupportSet) -> ConditionedNetwork:
        """Generate the network of a task."""
        return self.generate(support)[0]

    def generate(self, support: SupportSet) -> tuple[ConditionedNetwork, Callable[[], list[tuple[list[int], Tensor]]]]:
        """Generate the network of a task, and a way to see what it says about its own support.

        Returns:
            the network, and a function that gives leave-one-out logits of the support volumes, as
            ``(shots, (k, N, d, h, w))`` per size: head and prior of each volume come from the other volumes.
        """
        factor = working_factor(support)
        sizes = support.extents.tolist()
        support = support.coarser(factor)
        generator = None if self.training else torch.Generator().manual_seed(0)
        reading = self.read(support, generator)
        body = self.hypernetwork(reading.context, dict(self.body.named_parameters()))
        read = bind(self.body, body)
        features = [
            (shots, labels, read(with_prior(images, reading.other_priors[shots], reading.other_masks[shots])))
            for shots, images, labels in support.volumes()
        ]
        gram, moment = self._statistics(support, features, reading, generator)
        annotated = support.annotated.to(gram)
        heads, biases = self.head.logits(
            self.head.solve(gram, moment, annotated[None]), reading.context, reading.fraction, support.shots
        )
        heads = [head[0] for head in heads]
        network = assemble(self.body, support.classes, reading.prior, reading.masks, body, heads, biases[0], factor)
        return network, lambda: [
            (shots, enlarge(logits, factor, size))
            for shots, logits, size in by_size(self._own_logits(support, reading, features, gram, moment), sizes)
        ]

    def unconditioned(self, images: Tensor) -> list[Tensor]:
        """What the body's own weights see in images ``(B, 1, D, H, W)``: its features, prior and masks being empty."""
        return self.body(F.pad(images, [0, 0, 0, 0, 0, 0, 0, PRIOR_CHANNELS + 1]))

    def read(self, support: SupportSet, generator: torch.Generator | None) -> Reading:
        """Encode the support set, see :class:`Reading`; one of more than 16 volumes in subsets, averaged."""
        parts = -(-support.shots // MAX_SHOTS)
        subsets = [list(range(start, support.shots, parts)) for start in range(parts)]
        if parts == 1:
            return self._read(support, generator)
        return average([self._read(support.subset(subset), generator) for subset in subsets], subsets)

    def _read(self, support: SupportSet, generator: torch.Generator | None) -> Reading:
        classes = range(len(support.classes))
        largest = [int(side) for side in support.extents.amax(0)]
        quarter, half = [-(-side // 4) for side in largest], [-(-side // 2) for side in largest]
        tokens, priors, masks, spare_priors, spare_masks, fractions = ({} for _ in range(6))
        alone = support.annotated.sum(0).min() == 1
        for shots, images, labels in support.volumes():
            each = torch.cat([(labels == c + 1).float() for c in classes], 1)
            maps = self.encoder.maps(images, (labels > 0).float())
            token = torch.stack([self.encoder.tokens(maps, each[:, c : c + 1]) for c in classes], 1)
            prior, mask = fit_field(self.encoder.prior(maps), quarter), F.adaptive_avg_pool3d(each, half)
            spare_prior, spare_mask = prior, mask
            if alone:
                copies, copied = warped_copies(images, each, generator)
                spare = self.encoder.maps(copies, copied.sum(1, keepdim=True))
                spare_prior = fit_field(self.encoder.prior(spare), quarter)
                spare_mask = F.adaptive_avg_pool3d(copied, half)
            found = (token, prior, mask, spare_prior, spare_mask, each.flatten(2).mean(-1))
            for store, values in zip((tokens, priors, masks, spare_priors, spare_masks, fractions), found):
                store.update(zip(shots, values))
        stacked = [
            torch.stack([store[k] for k in range(support.shots)])
            for store in (tokens, priors, masks, spare_priors, spare_masks, fractions)
        ]
        return self._reading(support, *stacked)

    def _reading(self, support, tokens, priors, masks, spare_priors, spare_masks, fractions) -> Reading:
        annotated = support.annotated.to(tokens.device)
        everyone = torch.ones(support.shots, priors.shape[1], dtype=torch.bool, device=tokens.device)
        prior, other_priors = leave_one_out(priors, everyone, spare_priors)
        mean_masks, other_masks = leave_one_out(masks, annotated, spare_masks)
        fraction = (fractions * annotated).sum(0) / annotated.sum(0)
        return Reading(
            self.encoder.aggregate(tokens, annotated), prior, mean_masks, other_priors, other_masks, fraction
        )

    def _statistics(self, support, features, reading: Reading, generator) -> tuple[Tensor, Tensor]:
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for shots, labels, maps in features:
            grams, moments = self.head.statistics(
                maps, self.body.factors, reading.other_masks[shots], labels, generator
            )
            found.update(zip(shots, zip(grams, moments)))
        grams, moments = zip(*(found[k] for k in range(support.shots)))
        return torch.stack(grams), torch.stack(moments)

    def _own_logits(self, support, reading, features, gram, moment) -> list[tuple[list[int], Tensor]]:
        annotated = support.annotated.to(gram)
        others = annotated[None] * (1 - torch.eye(support.shots, device=gram.device))[:, :, None]
        others = torch.where(others.sum(1, keepdim=True) > 0, others, annotated[None])
        solution = self.head.solve(gram, moment, others)
        heads, biases = self.head.logits(solution, reading.context, reading.fraction, support.shots)
        found = []
        for shots, labels, maps in features:
            size = list(labels.shape[2:])
            inputs = [*maps, fit_field(reading.other_masks[shots], size)]
            logits = biases[shots][:, :, None, None, None]
            for head, feature, factor in zip(heads, inputs, [*self.body.factors, 1]):
                logits = logits + enlarge(torch.einsum("knc,kcdhw->kndhw", head[shots], feature), factor, size)
            found.append((shots, F.pad(logits, [0, 0, 0, 0, 0, 0, 1, 0])))
        return found
