"""What the ablations change, one small function each, on a model with random weights or with the released ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.fitting import Budget
from monai_hyper.methods.polish import Polish
from monai_hyper.networks.context import REGIONS, ContextEncoder, geometry_of, pooled_statistics
from monai_hyper.networks.functional import shapes_of
from monai_hyper.networks.generator import HyperNetwork, generator_for
from monai_hyper.networks.head import Regions, RidgeHead
from monai_hyper.networks.model import ALIGNED, PRIOR_CHANNELS, HyperModel, working_factor
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork
from monai_hyper.networks.plain import with_plain_widths
from monai_hyper.networks.reading import Reading
from monai_hyper.networks.template import Template, make_template
from monai_hyper.networks.unet import UNetBody
from monai_hyper.networks.windows import find_windows
from monai_hyper.synthesis.geometry import warped_copy
from monai_hyper.synthesis.plans import FAMILIES
from monai_hyper.synthesis.sources import Sources
from monai_hyper.types import Weights


@dataclass(frozen=True)
class Held:
    """One support set and its queries, all aligned to the template of the support set.

    Args:
        template: on the grid that the network works on; names: of the queries.
        images, labels: of the queries on the task's grid, ``(1, 1, D, H, W)`` each.
        places: where the voxels of every query, on the network's grid, lie in the template, ``(d, h, w, 3)`` each.
    """

    task: str
    shots: int
    draw: int
    names: tuple[str, ...]
    support: SupportSet
    template: Template
    images: list[Tensor]
    labels: list[Tensor]
    places: list[Tensor]


Apply = Callable[[int], Tensor]
"""The number of a query to its logits."""


def one_scale(model: HyperModel, held: Held) -> list[Apply]:
    """The network for whole volumes alone."""
    network = model.generate(held.support, held.template)[0]
    return [lambda i: network(held.images[i], places=[held.places[i]])]


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        says: what is different, in words.
        change: what is done to the model before it is trained, or to the released one.
        fit: how networks are made of a support set, one for every name in ``results``.
        results: what is appended to the variant's name in the table.
        sources: what is done to the training data; without: a family of tasks that is left out.
        seed: of first weights, tasks and all else.
        average: of another variant, whose averaged weights these are.
    """

    says: str
    change: Callable[[HyperModel], HyperModel] = lambda model: model
    fit: Callable[[HyperModel, Held], list[Apply]] = one_scale
    results: tuple[str, ...] = ("",)
    sources: Callable[[Sources], Sources] = lambda sources: sources
    without: str | None = None
    seed: int = 0
    average: str | None = None


def adopt(new: nn.Module, old: nn.Module) -> nn.Module:
    """``new`` with the parameters of ``old`` where name and shape agree."""
    shapes = shapes_of(new)
    known = {name: t for name, t in old.state_dict().items() if shapes.get(name) == tuple(t.shape)}
    new.load_state_dict(known, strict=False)
    return new


def adopt_generator(new: HyperNetwork, old: HyperNetwork) -> HyperNetwork:
    """:func:`adopt`, and the learned token of every layer that both generate."""
    known = dict(zip(old.convolutions + old.norms, old.layers.detach()))
    rows = zip(new.convolutions + new.norms, new.layers.detach())
    adopt(new, old).layers.data = torch.stack([known.get(name, row) for name, row in rows])
    return new


def length(model: HyperModel) -> int:
    """Of a token."""
    return model.hypernetwork.layers.shape[1]


class Altered(HyperModel):
    """A model with the parts of another, for those that do something else with them."""

    def __init__(self, model: HyperModel) -> None:
        super().__init__(model.body, length(model))
        self.encoder, self.hypernetwork, self.head = model.encoder, model.hypernetwork, model.head
        self.scale, self.polish = model.scale, model.polish
        self.listen, self.speaker = model.listen, model.speaker


# Spatial prior and mean masks


class Blind(Altered):
    """A model that forgets what it read of places: the learned prior, the mean masks, or both."""

    def __init__(self, model: HyperModel, prior: bool, masks: bool) -> None:
        super().__init__(model)
        self.kept = float(not prior), float(not masks)

    def read(self, *arguments) -> Reading:
        found = super().read(*arguments)
        prior, masks = self.kept
        classes = found.masks.shape[1]
        keep = found.masks.new_tensor([prior] * PRIOR_CHANNELS + [masks] * classes)[None, :, None, None, None]
        return replace(
            found, prior=prior * found.prior, masks=masks * found.masks, others=[each * keep for each in found.others]
        )


# Weight generation


class Unchanged(nn.Module):
    """No weight of the body is generated."""

    def __init__(self, hypernetwork: HyperNetwork) -> None:
        super().__init__()
        self.layers = hypernetwork.layers.detach()  # its length is asked for

    def forward(self, context: Tensor, base: Weights) -> Weights:
        return dict(base)


def nothing_generated(model: HyperModel) -> HyperModel:
    model.hypernetwork = Unchanged(model.hypernetwork)
    return model


def of_rank(model: HyperModel, rank: int) -> HyperModel:
    """Another rank of the channel mixings; at 0 only normalisations are generated."""
    new = generator_for(model.body, length(model), max(rank, 1))
    if rank == 0:
        new.convolutions, new.out_heads, new.in_heads = [], nn.ModuleDict(), nn.ModuleDict()
        new.layers = nn.Parameter(torch.randn(len(new.norms), length(model)))
    model.hypernetwork = adopt_generator(new, model.hypernetwork)
    return model


class Truncated(nn.Module):
    """The factors of lower rank whose product is nearest to that of a learned head."""

    def __init__(self, head: nn.Module, rank: int) -> None:
        super().__init__()
        self.head, self.rank = head, rank

    def forward(self, token: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.head(token)
        u, s, v = torch.linalg.svd(first @ second.mT)
        return u[..., : self.rank] * s[..., None, : self.rank], v[..., : self.rank, :].mT


def truncated(model: HyperModel, rank: int) -> HyperModel:
    for heads in (model.hypernetwork.out_heads, model.hypernetwork.in_heads):
        for name in list(heads):
            heads[name] = Truncated(heads[name], rank)
    return model


class Depthwise(HyperNetwork):
    """Adds a generated depthwise 3x3x3 convolution to two convolutions of the decoder."""

    layer_names = ("up2.1.conv.weight", "up1.1.conv.weight")

    def __init__(self, body: nn.Module, embedding_dim: int) -> None:
        super().__init__(shapes_of(body), embedding_dim)
        self.kernels = nn.ModuleList(nn.Linear(embedding_dim, 27 * self.shapes[n][0]) for n in self.layer_names)
        for head in self.kernels:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, context: Tensor, base: Weights) -> Weights:
        weights = super().forward(context, base)
        tokens = self.transformer(torch.cat([self.layers, context])[None])[0]
        for name, head in zip(self.layer_names, self.kernels):
            kernel = 0.1 * head(tokens[self.convolutions.index(name)]).view(-1, 3, 3, 3)
            weights[name] = weights[name] + torch.diag_embed(kernel.permute(1, 2, 3, 0)).permute(3, 4, 0, 1, 2)
        return weights


def depthwise(model: HyperModel) -> HyperModel:
    model.hypernetwork = adopt_generator(Depthwise(model.body, length(model)), model.hypernetwork)
    return model


PAIRS, PAIR_WIDTH = 64, 256


class Attention(nn.Module):
    """What features ask of generated pairs of keys and values is added to them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Conv3d(width, PAIR_WIDTH, 1)
        self.keys = nn.Parameter(torch.randn(PAIRS, PAIR_WIDTH))
        self.values = nn.Parameter(torch.zeros(PAIRS, width))

    def forward(self, x: Tensor) -> Tensor:
        asked = torch.einsum("bcdhw,pc->bpdhw", self.query(x), self.keys) / PAIR_WIDTH**0.5
        return x + torch.einsum("bpdhw,pc->bcdhw", asked.softmax(1), self.values)


class PairGenerator(HyperNetwork):
    """Generates keys and values, too: one learned token for each pair meets the task's tokens."""

    def __init__(self, body: nn.Module, embedding_dim: int) -> None:
        super().__init__(shapes_of(body), embedding_dim)
        self.slots = nn.Parameter(torch.randn(PAIRS, embedding_dim))
        self.names = [name for name in self.shapes if name.endswith((".keys", ".values"))]
        self.pairs = nn.ModuleList(nn.Linear(embedding_dim, self.shapes[name][1]) for name in self.names)

    def forward(self, context: Tensor, base: Weights) -> Weights:
        tokens = self.transformer(torch.cat([self.slots, context])[None])[0, :PAIRS]
        found = {name: base[name] + head(tokens) for name, head in zip(self.names, self.pairs)}
        return super().forward(context, base) | found


def query_attention(model: HyperModel) -> HyperModel:
    """At 1/8 of the grid the query's features attend to generated keys and values."""
    model.body.down3.append(Attention(model.body.widths[-1]))
    model.hypernetwork = adopt_generator(PairGenerator(model.body, length(model)), model.hypernetwork)
    return model


# Tokens


class PlainPooling(ContextEncoder):
    """Mean and deviation over the whole volume only, no regions."""

    def tokens(self, maps: list[Tensor], mask: Tensor) -> Tensor:
        classes = mask.shape[1]
        scales = [embed(pooled_statistics(f, torch.ones_like(f[:, :1]))) for embed, f in zip(self.embed, maps)]
        each = F.avg_pool3d(mask, 2, ceil_mode=True).flatten(0, 1)[:, None]
        geometry = self.embed_geometry(geometry_of(each)).unflatten(0, mask.shape[:2])[:, :, None]
        found = torch.cat([torch.cat(scales, 1)[:, None].expand(-1, classes, -1, -1), geometry], 2)
        return self.mix(found + self.place[::REGIONS])


class RegionMeans(ContextEncoder):
    """The tokens of a scale are replaced by their mean over the regions."""

    def tokens(self, maps: list[Tensor], mask: Tensor) -> Tensor:
        found = super().tokens(maps, mask)
        regional = found[:, :, :-1].unflatten(2, (-1, REGIONS))
        means = regional.mean(3, keepdim=True).expand_as(regional).flatten(2, 3)
        return torch.cat([means, found[:, :, -1:]], 2)


class ManyContexts(Altered):
    """Reads the tokens of several support sets and averages them: without each of the volumes, and of warped copies."""

    def __init__(self, model: HyperModel, subsets: bool, copies: int) -> None:
        super().__init__(model)
        self.subsets, self.copies = subsets, copies

    def read(self, support: SupportSet, template: Template, generator, local: bool = False) -> Reading:
        found = super().read(support, template, generator, local)
        shots, sets = range(support.shots), [support]
        if self.subsets and support.shots > 1:
            sets += [support.subset([k for k in shots if k != out]) for out in shots]
        sets += [self.copy(support, seed) for seed in range(self.copies)]
        contexts = [self.context(one, local) for one in sets]
        return replace(found, context=torch.stack(contexts).mean(0))

    def copy(self, support: SupportSet, seed: int) -> SupportSet:
        """All volumes warped, their padding with them."""
        generator = torch.Generator().manual_seed(seed)
        masks = F.one_hot(support.labels[:, 0], len(support.classes) + 1).movedim(-1, 1).float()
        images, masks = warped_copy(support.images, masks, generator, ALIGNED)
        return replace(support, images=images, labels=masks.argmax(1, keepdim=True))

    def context(self, support: SupportSet, local: bool) -> Tensor:
        tokens = {}
        for shots, images, labels in support.volumes():
            each = torch.cat([(labels == c + 1).float() for c in range(len(support.classes))], 1)
            maps = self.encoder.maps(images, (labels > 0).float())
            tokens.update(zip(shots, self.encoder.tokens(maps, each)))
        every = torch.stack([tokens[k] for k in range(support.shots)])
        return self.encoder.aggregate(every, support.annotated.to(every.device), self.scale[int(local)])


def other_encoder(model: HyperModel, kind: type[ContextEncoder]) -> HyperModel:
    model.encoder = adopt(kind(length(model), PRIOR_CHANNELS), model.encoder)
    return model


# Read-out


class LastOnly(UNetBody):
    """Shows its last features only."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.widths, self.factors = self.widths[:1], self.factors[:1]

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(x)[:1]


def sizes_of(body: UNetBody) -> tuple[int, tuple[int, ...], int]:
    """What a body of the same size is made from."""
    first, deepest = body.thin.conv, body.down4[1].conv
    return first.in_channels, (*body.widths[1:], deepest.out_channels), first.out_channels


def last_only(model: HyperModel) -> HyperModel:
    """Ridge regression on the last features instead of those of four scales."""
    body = adopt(LastOnly(*sizes_of(model.body)), model.body)
    head = adopt(RidgeHead(with_plain_widths(body.widths), length(model)), model.head)
    head.log_penalty.data = model.head.log_penalty.data[[0, -1]]
    model.body, model.head = body, head
    return model


class Mute(UNetBody):
    """All its features are zero."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [0 * features for features in super().forward(x)]


def plain_only(model: HyperModel) -> HyperModel:
    """Nothing learned is read out, only plain features and mean masks."""
    model.body.__class__ = Mute
    return model


def random_body(model: HyperModel) -> HyperModel:
    """A body that has learned nothing and is given nothing."""
    torch.manual_seed(0)
    model.body = UNetBody(*sizes_of(model.body))
    return nothing_generated(model)


class ClassTokens(ContextEncoder):
    """Keeps the mean token of every class, ``(n, E)``, for :class:`GeneratedHead`."""

    each: Tensor | None = None

    def aggregate(self, tokens: Tensor, annotated: Tensor, scale: Tensor | None = None) -> Tensor:
        weight = annotated.to(tokens).div(annotated.sum(0).clamp(min=1))
        self.each = torch.einsum("kn,knme->ne", weight, tokens) / tokens.shape[2]
        return super().aggregate(tokens, annotated, scale)


class GeneratedHead(RidgeHead):
    """Read-out weights from the mean token of every class by a linear layer, no regression. At first the mean mask."""

    def __init__(self, widths: tuple[int, ...], embedding_dim: int, encoder: ClassTokens) -> None:
        super().__init__(widths, embedding_dim)
        del self.log_penalty, self.calibrate
        self.encoder = (encoder,)  # in a tuple, so that its parameters are not the head's
        self.emit = nn.Linear(embedding_dim, sum(widths) + 2)
        nn.init.normal_(self.emit.weight, std=0.02)
        nn.init.normal_(self.emit.bias, std=0.1)
        self.emit.bias.data[-2:] = torch.tensor([4.0, -2.0])

    def regions(self, features, factors, masks, labels, generator) -> Regions:
        shots, regions = masks.shape[0], masks.shape[1] + 2
        return Regions(masks.new_zeros(shots, regions, 1, 1), masks.new_ones(shots, regions))

    def solve(self, gram: Tensor, moment: Tensor, used: Tensor, size: float = 0.0) -> Tensor:
        return moment.new_zeros(used.shape[0], moment.shape[1], 1)

    def logits(self, solution, context, fraction, shots, size=0.0) -> tuple[list[Tensor], Tensor]:
        tokens = self.encoder[0].each
        found = self.emit(F.layer_norm(tokens, tokens.shape[1:])).expand(len(solution), -1, -1)
        return [*found[..., :-2].split(self.widths, -1), torch.diag_embed(found[..., -2])], found[..., -1]


def generated_head(model: HyperModel) -> HyperModel:
    model = other_encoder(model, ClassTokens)
    model.head = GeneratedHead(with_plain_widths(model.body.widths), length(model), model.encoder)
    return model


# What is done with a trained model


def stretched(model: HyperModel, held: Held) -> list[Apply]:
    """No alignment: fields of view are stretched over that of one support volume."""
    coarse = held.support.coarser(working_factor(held.support))
    network = model.generate(held.support, make_template(coarse, aligned=False))[0]
    return [lambda i: network(held.images[i])]


def window_only(model: HyperModel, held: Held) -> list[Apply]:
    """The network for windows around the foreground alone."""
    found = find_windows(held.support, held.template, working_factor(held.support))
    network = CascadeNetwork(found.finder, model.generate(found.support, local=True)[0], (), found.support)
    return [lambda i: network(held.images[i])]


def cascade(model: HyperModel, held: Held) -> list[Apply]:
    """Whichever of the three networks the support set speaks for, as users have it."""
    network = model.condition(held.support)
    return [lambda i: network(held.images[i])]


class OneScale(Altered):
    """A model that conditions the network for whole volumes only, of a support set whose template is known."""

    def __init__(self, model: HyperModel, template: Template) -> None:
        super().__init__(model)
        self.template = template

    def condition(self, support: SupportSet) -> ConditionedNetwork:
        return self.generate(support, self.template)[0]


STEPS = (20, 50, 100)


def polished(model: HyperModel, held: Held, learned: bool = True) -> list[Apply]:
    """Gradient steps on the support from the weights of :func:`one_scale`, each number of them from a new start: the
    rate falls to zero at the last.

    Args:
        learned: whether by the step sizes that were learned, or by those that nothing learned.
    """
    model = OneScale(model, held.template).eval()
    model.polish = nn.Parameter(model.polish * learned)
    networks = [Polish(model, Budget(steps=steps)).fit(held.support) for steps in STEPS]
    return [lambda i, network=n: network(held.images[i], places=[held.places[i]]) for n in networks]


def synthetic_only(sources: Sources) -> Sources:
    """The same label maps without their images."""
    cohorts = {
        name: replace(cohort, subjects=[replace(held, image=None) for held in cohort.subjects])
        for name, cohort in sources.cohorts.items()
    }
    return replace(sources, cohorts=cohorts)


TRAINED = {
    "reference": Variant("as it is, seed 0"),
    "reference-seed-1": Variant("as it is, seed 1", seed=1),
    "reference-seed-2": Variant("as it is, seed 2", seed=2),
    "averaged": Variant("weights of seed 0 averaged over the last steps", average="reference"),
    "generated-head": Variant("head generated by a linear layer, no ridge", generated_head),
    "no-prior": Variant("no learned prior, mean masks stay", partial(Blind, prior=True, masks=False)),
    "no-prior-no-masks": Variant("neither prior nor mean masks", partial(Blind, prior=True, masks=True)),
    "rank-0": Variant("only normalisations generated", partial(of_rank, rank=0)),
    "rank-4": Variant("rank 4 instead of 8", partial(of_rank, rank=4)),
    "rank-16": Variant("rank 16 instead of 8", partial(of_rank, rank=16)),
    "nothing-generated": Variant("body as learned, ridge and prior stay", nothing_generated),
    "plain-pooling": Variant("tokens of the whole volume, no regions", partial(other_encoder, kind=PlainPooling)),
    "last-only": Variant("ridge on the last features only", last_only),
    "synthetic-only": Variant("no real images", sources=synthetic_only),
    "depthwise": Variant("depthwise 3x3x3 kernels at two decoder layers", depthwise),
    "query-attention": Variant("attention to generated keys and values", query_attention),
} | {f"without-{family}": Variant(f"no tasks of {family}", without=family) for family in FAMILIES}
"""Trained from random weights."""

RELEASED = {
    "released": Variant("one scale, as released"),
    "prior-zero": Variant("learned prior zero", partial(Blind, prior=True, masks=False)),
    "masks-zero": Variant("mean masks zero", partial(Blind, prior=False, masks=True)),
    "places-zero": Variant("both zero", partial(Blind, prior=True, masks=True)),
    "ridge-last-only": Variant("ridge on the last features only", last_only),
    "plain-only": Variant("no learned features, only plain ones and mean masks", plain_only),
    "random-body": Variant("random weights of the body, nothing generated but the head", random_body),
    "factors-0": Variant("factors cut to rank 0", partial(truncated, rank=0)),
    "factors-4": Variant("factors cut to rank 4", partial(truncated, rank=4)),
    "body-as-learned": Variant("nothing generated but the head", nothing_generated),
    "region-means": Variant("tokens replaced by their mean over regions", partial(other_encoder, kind=RegionMeans)),
    "context-of-subsets": Variant("tokens averaged over subsets", partial(ManyContexts, subsets=True, copies=0)),
    "context-of-copies": Variant(
        "tokens averaged over four warped copies", partial(ManyContexts, subsets=False, copies=4)
    ),
    "stretched": Variant("fields of view stretched, no alignment", fit=stretched),
    "window": Variant("windows only", fit=window_only),
    "cascade": Variant("windows, whole volumes or those without alignment, chosen as users have it", fit=cascade),
    "polish": Variant("gradient steps at one scale", fit=polished, results=tuple(f"-{n}" for n in STEPS)),
    "polish-plain": Variant(
        "the same, step sizes not learned", fit=partial(polished, learned=False), results=tuple(f"-{n}" for n in STEPS)
    ),
}
"""The released weights, changed without training."""
