"""The whole learned model: a support set in, a network out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet, shots_by_size
from monai_hyper.data.text import TEXT_DIM
from monai_hyper.networks.context import ContextEncoder
from monai_hyper.networks.functional import bind, enlarge
from monai_hyper.networks.generator import generator_for
from monai_hyper.networks.head import RidgeHead
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork, assemble, reader_names
from monai_hyper.networks.plain import PLAIN, with_plain, with_plain_widths
from monai_hyper.networks.reading import Reading
from monai_hyper.networks.readout import Logits, ReadOut, Seen, own_dice
from monai_hyper.networks.template import Template, make_template
from monai_hyper.networks.unet import UNetBody
from monai_hyper.networks.windows import find_windows
from monai_hyper.networks.words import Speaker, told
from monai_hyper.synthesis.geometry import warped_copy

PRIOR_CHANNELS = 8

ALIGNED = 0.4
"""How far a warped copy of a lone volume is from it, against what differs between volumes before alignment."""

STEP_SIZES = (-4.0, 2.0)
"""Bounds of the learned log step sizes of a polish: a fiftieth to seven times what they are without."""

WORKING_VOXELS = 100_000
"""About the largest volumes of meta-training. Larger ones are seen on a grid that is coarser by a whole number."""


def working_factor(support: SupportSet) -> int:
    """How many voxels along each side the network of a support set should see as one, by its largest volume.

    Example:
        >>> working_factor(SupportSet(torch.zeros(1, 1, 96, 96, 96), torch.zeros(1, 1, 96, 96, 96).long()))
        2
    """
    voxels = float(support.extents.prod(1).max())
    return max(1, round((voxels / WORKING_VOXELS) ** (1 / 3)))


def leave_one_out(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean over the shots, and for every shot the mean over the others.

    Args:
        values: ``(K, C, ...)``; weight: of every value, not negative, ``(K, C or 1, ...)``.

    Returns:
        ``(1, C, ...)``; ``(K, C, ...)``; and which shots have others for a channel at all, ``(K, C or 1)``.
    """
    total, count = (values * weight).sum(0, keepdim=True), weight.sum(0, keepdim=True)
    others = (count - weight).clamp(min=0)
    known = (others > 0.5).flatten(2).any(2)
    return total / count.clamp(min=1), (total - values * weight) / others.clamp(min=1), known


def warped(image: Tensor, masks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A volume as another patient's, once aligned, might look; always alike where there is a generator.

    Args:
        image: ``(1, 1, D, H, W)``; masks: ``(1, n, D, H, W)``.
    """
    if generator is None:
        return warped_copy(image, masks, None, ALIGNED * float(0.5 + torch.rand(())))
    return warped_copy(image, masks, generator.manual_seed(0), ALIGNED)


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
        self.head = RidgeHead(with_plain_widths(self.body.widths), embedding_dim)
        self.scale = nn.Parameter(torch.zeros(2, embedding_dim))  # of whole volumes, of windows
        self.polish = nn.Parameter(torch.zeros(len(reader_names(self.body))))  # log step sizes, see step_sizes
        self.listen = nn.Linear(TEXT_DIM, embedding_dim, bias=False)
        nn.init.zeros_(self.listen.weight)
        self.speaker = Speaker(PRIOR_CHANNELS, with_plain_widths(self.body.widths))

    @property
    def younger(self) -> list[str]:
        """Parameters that older files of weights lack; they are zero there."""
        parts = ("scale", "polish", "listen.", "speaker.")
        return [name for name, _ in self.named_parameters() if name.startswith(parts)]

    def _load_from_state_dict(self, state: dict, prefix: str, *rest) -> None:
        own = dict(self.named_parameters())
        for name in self.younger:
            state.setdefault(prefix + name, torch.zeros_like(own[name]))
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, query: Tensor, support: SupportSet) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of ``query``, ``(B, 1, D, H, W)``, by the network for ``support``."""
        return self.condition(support)(query)

    def step_sizes(self) -> dict[str, Tensor]:
        """Learned factors of the step sizes of a polish, by the names of the generated tensors that it changes, after
        Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017, https://arxiv.org/abs/1707.09835,
        but one for every tensor."""
        return dict(zip(reader_names(self.body), self.polish.clamp(*STEP_SIZES).exp()))

    def condition(self, support: SupportSet) -> ConditionedNetwork | CascadeNetwork:
        """Generate the network of a task.

        Up to three are generated: for windows around the foreground, see :class:`Cascade`; for whole volumes; and for
        whole volumes that are not aligned, which serves what is never at the same place, unless the volumes look alike
        once they are aligned. The one by which they segment each other best is taken. A lone volume has nobody to ask:
        its network has all and asks itself for every query. Without any volume the descriptions of the classes make
        one for whole volumes.
        """
        if support.shots == 0:
            return self.from_words(support)
        factor = working_factor(support)
        coarse = support.coarser(factor)
        template = make_template(coarse)
        found = find_windows(support, template, factor)
        local, local_logits = self.generate(found.support, local=True)
        alike = support.shots > 1 and template.unexplained(coarse) < 1
        frames = [template] if alike else [template, make_template(coarse, aligned=False)]
        others = [self.generate(support, frame) for frame in frames]
        if support.shots == 1:
            return CascadeNetwork(found.finder, local, tuple(network for network, _ in others), found.support)
        here = float((own_dice(local_logits(), found.support, support).nanmean(1) * found.found).nanmean())
        reached = [float(own_dice(logits(), support, support).nanmean(1).nanmean()) for _, logits in others]
        dice, (best, _) = max(zip(reached, others), key=lambda choice: choice[0])  # the first, where all are empty
        if here >= dice:  # never then: no number is larger than none
            return CascadeNetwork(found.finder, local, (), found.support, here)
        best.expected_dice = None if math.isnan(dice) else dice
        return best

    def generate(
        self, support: SupportSet, template: Template | None = None, local: bool = False
    ) -> tuple[ConditionedNetwork, Callable[[], Logits]]:
        """Generate the network of a task at one scale, and a way to see what it says about its own support.

        Args:
            template: of the support set on the grid that its network works on, where it is there already.
            local: whether the volumes are windows around the foreground.

        Returns:
            the network, and a function that gives leave-one-out logits of the support volumes, as
            ``(shots, (k, N, d, h, w))`` per size: head and prior of each volume come from the other volumes.
        """
        factor = working_factor(support)
        shapes = support.extents.tolist()
        support = support.coarser(factor)
        generator = None if self.training else torch.Generator().manual_seed(0)
        template = make_template(support) if template is None else template
        reading = self.read(support, template, generator, local)
        body = self.hypernetwork(reading.context, dict(self.body.named_parameters()))
        read = bind(self.body, body)
        seen = [
            Seen(
                shots,
                labels,
                [
                    *with_plain(read(inputs[:, : PRIOR_CHANNELS + 2]), inputs[:, : PRIOR_CHANNELS + 2]),
                    inputs[:, PRIOR_CHANNELS + 2 :],
                ],
            )
            for shots, images, labels in support.volumes()
            for inputs in [reading.beside(images, shots)]
        ]
        fitted = ReadOut(self.head, self.body.factors, support, reading, seen, generator)
        counts = fitted.equal_sizes() if self.training else fitted.best_sizes()
        heads, biases = fitted.of_all(counts)
        network = assemble(self.body, support.classes, reading.fields, body, heads, biases, factor, template.aligned)
        network.reading = reading
        return network, lambda: [
            (shots, enlarge(logits, factor, shape))
            for shots, logits, shape in by_size(fitted.own_logits(counts), shapes)
        ]

    def from_words(self, support: SupportSet) -> ConditionedNetwork:
        """Generate a network from the descriptions of the classes alone, for whole volumes of about
        ``WORKING_VOXELS``, which are neither aligned nor reduced.

        Args:
            support: without volumes.
        """
        texts = support.texts.to(self.scale.device)
        body = self.hypernetwork(self.context_of_words(texts[None])[0], dict(self.body.named_parameters()))
        prior, heads, bias = self.speaker(texts)
        nothing = prior.new_zeros(1, len(texts), *prior.shape[1:])
        fields = {"template": nothing[:, :1], "prior": prior[None], "masks": nothing}
        heads = [*heads, nothing.new_zeros(len(texts), len(texts))]
        return assemble(self.body, support.classes, fields, body, heads, bias, aligned=False)

    def context_of_words(self, texts: Tensor) -> Tensor:
        """Tokens of tasks that nothing is known of but descriptions ``(T, n, 384)``, ``(T, 1, E)``."""
        return self.scale[0] + self.listen(told(texts))[:, None]

    def unconditioned(self, images: Tensor) -> list[Tensor]:
        """What the body's own weights see in images ``(B, 1, D, H, W)``: its features, prior and masks being empty, and
        zero for the plain ones."""
        first, *rest = self.body(F.pad(images, [0, 0, 0, 0, 0, 0, 0, PRIOR_CHANNELS + 1]))
        return [F.pad(first, [0, 0, 0, 0, 0, 0, 0, PLAIN]), *rest]

    def read(
        self, support: SupportSet, template: Template, generator: torch.Generator | None, local: bool = False
    ) -> Reading:
        """Encode the support set, see :class:`Reading`; local: whether its volumes are windows."""
        tokens, fractions, priors, masks, weights = ({} for _ in range(5))
        quarter = [-(-side // 4) for side in template.size]
        for shots, images, labels in support.volumes():
            each = torch.cat([(labels == c + 1).float() for c in range(len(support.classes))], 1)
            maps = self.encoder.maps(images, (labels > 0).float())
            token = self.encoder.tokens(maps, each)
            for i, (shot, prior) in enumerate(zip(shots, self.encoder.prior(maps).split(1))):
                tokens[shot], fractions[shot] = token[i], each[i].flatten(1).mean(-1)
                priors[shot] = F.adaptive_avg_pool3d(template.gathered(shot, prior), quarter)
                masks[shot], weights[shot] = template.gathered(shot, each[i : i + 1]), template.covered(shot)
        priors, masks, weights = (torch.cat([s[k] for k in range(support.shots)]) for s in (priors, masks, weights))
        tokens, fractions = (torch.stack([s[k] for k in range(support.shots)]) for s in (tokens, fractions))
        annotated = support.annotated.to(tokens.device)
        prior, other_priors, _ = leave_one_out(priors, F.adaptive_avg_pool3d(weights, quarter))
        mean, other_masks, known = leave_one_out(masks, weights * annotated[:, :, None, None, None])
        others = [
            self._from_others(support, template, shot, other_priors, other_masks, known[shot], generator)
            for shot in range(support.shots)
        ]
        heard = self.listen(told(support.texts.to(tokens)))
        context = self.encoder.aggregate(tokens, annotated, self.scale[int(local)] + heard)
        return Reading(template, context, prior, mean, others, (fractions * annotated).sum(0) / annotated.sum(0))

    def _from_others(self, support, template, shot, priors, masks, known, generator) -> Tensor:
        """What a volume may know itself by: what the others show, or a warped copy of itself where there are none."""
        found = torch.cat([template.spread(shot, field[shot : shot + 1]) for field in (priors, masks)], 1)
        if bool(known.all()):
            return found
        d, h, w = support.extents[shot].tolist()
        image, labels = (v[shot : shot + 1, :, :d, :h, :w] for v in (support.images, support.labels))
        copy = self.copied(image, labels, len(support.classes), generator)
        channels = priors.shape[1]
        own_prior = (copy if support.shots == 1 else found)[:, :channels]
        keep = known[None, :, None, None, None]
        return torch.cat([own_prior, torch.where(keep, found[:, channels:], copy[:, channels:])], 1)

    def copied(self, image: Tensor, labels: Tensor, classes: int, generator: torch.Generator | None = None) -> Tensor:
        """What a warped copy of a volume would show the volume of itself, see :func:`warped`.

        Args:
            image, labels: ``(1, 1, D, H, W)``; classes: number ``n`` of foreground classes.

        Returns:
            prior and masks, ``(1, P + n, D, H, W)``.
        """
        each = torch.cat([(labels == c + 1).float() for c in range(classes)], 1)
        copy, masks = warped(image, each, generator)
        prior = self.encoder.prior(self.encoder.maps(copy, masks.sum(1, keepdim=True)))
        return torch.cat([F.interpolate(prior, copy.shape[2:], mode="trilinear"), masks], 1)
