"""Several tasks of equal shape at once, for training: what :meth:`HyperModel.generate` does for one, without loops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.networks.frames import Frames
from monai_hyper.networks.functional import enlarge, fit_field
from monai_hyper.networks.mixing import shared
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel, leave_one_out, warped
from monai_hyper.networks.plain import with_plain
from monai_hyper.networks.unet import beside, prepare
from monai_hyper.networks.words import told
from monai_hyper.synthesis.batch import TaskBatch


def segment_tasks(model: HyperModel, batch: TaskBatch, low: torch.autocast | None = None) -> tuple[Tensor, Tensor]:
    """Logits of queries by the networks that their support sets generate, and of the support by the others.

    Volumes lie in their task's frame where ``batch.offsets`` says, nothing is aligned.

    Args:
        low: context of lower precision for the convolutions; all else is float32. Default: none.

    Returns:
        ``(T, Q, N, D, H, W)`` and, by leave-one-out, or at one shot by a warped copy, ``(T, K, N, D, H, W)``.
    """
    low = torch.autocast(batch.images.device.type, enabled=False) if low is None else low
    count, shots = batch.images.shape[:2], batch.shots
    values = torch.arange(1, batch.classes + 1, device=batch.labels.device).view(1, 1, -1, 1, 1, 1)
    masks = (batch.labels[:, :shots] == values).float()
    context, priors = read_tasks(model, batch, masks, low)
    fields = fields_of(model, batch, masks, priors, low)
    inputs = beside(batch.images.flatten(0, 1), fields.flatten(0, 1), PRIOR_CHANNELS)
    with shared(model.body, model.hypernetwork.changes(context)) as body, low:
        features = body(inputs[:, : PRIOR_CHANNELS + 2])
    features = with_plain([f.float() for f in features], inputs[:, : PRIOR_CHANNELS + 2])
    features = [f.unflatten(0, count) for f in features] + [fields[:, :, PRIOR_CHANNELS:]]
    heads, biases = fit_heads(model, batch, features, context, masks.flatten(3).mean((1, 3)))
    logits = read_out(features, [*model.body.factors, 1], heads, biases, list(batch.images.shape[3:]))
    return logits[:, shots:], logits[:, :shots]


def segment_told(model: HyperModel, batch: TaskBatch, low: torch.autocast | None = None) -> Tensor:
    """Logits of the queries by the networks that the descriptions of their classes generate, see
    :meth:`HyperModel.from_words`, ``(T, Q, N, D, H, W)``."""
    low = torch.autocast(batch.images.device.type, enabled=False) if low is None else low
    images = batch.images[:, batch.shots :]
    count, size = images.shape[:2], list(images.shape[3:])
    prior, heads, biases = model.speaker(batch.texts)
    nothing = torch.zeros_like(prior[:1, :1]).expand(-1, batch.classes, -1, -1, -1)
    each = [prepare(seen, nothing[:, :1], own[None], nothing, False) for seen, own in zip(images, prior)]
    inputs = torch.cat(each)[:, : PRIOR_CHANNELS + 2]
    with shared(model.body, model.hypernetwork.changes(model.context_of_words(batch.texts))) as body, low:
        features = body(inputs)
    features = [f.unflatten(0, count) for f in with_plain([f.float() for f in features], inputs)]
    heads = [head[:, None].expand(-1, count[1], -1, -1) for head in heads]
    biases = biases[:, None].expand(-1, count[1], -1)
    return read_out(features, model.body.factors, heads, biases, size)


def read_tasks(model: HyperModel, batch: TaskBatch, masks: Tensor, low: torch.autocast) -> tuple[Tensor, Tensor]:
    """Tokens of every task and priors of every support volume.

    Args:
        masks: of every class in the support, ``(T, K, n, D, H, W)``.

    Returns:
        ``(T, M, E)`` and ``(T, K, P, d', h', w')``.
    """
    encoder, count = model.encoder, masks.shape[:2]
    with low:
        maps = encoder.maps(batch.images[:, : batch.shots].flatten(0, 1), masks.flatten(0, 1).sum(1, keepdim=True))
        priors = encoder.prior(maps)
    tokens = encoder.tokens(maps, masks.flatten(0, 1)).unflatten(0, count)
    annotated = torch.ones(masks.shape[1:3], dtype=torch.bool, device=masks.device)
    heard = model.listen(told(batch.texts))[:, None]
    context = encoder.aggregate(tokens, annotated, model.scale[int(batch.local)] + heard)
    return context, priors.float().unflatten(0, count)


def fields_of(model: HyperModel, batch: TaskBatch, masks: Tensor, priors: Tensor, low: torch.autocast) -> Tensor:
    """Prior and mean masks for every volume on its own grid: for queries what all of the support shows, for a support
    volume what the others show, or a warped copy of it where there are none, ``(T, K + Q, P + n, D, H, W)``."""
    size, shots = list(batch.images.shape[3:]), batch.shots
    support = Frames(batch.offsets[:, :shots], size)
    shown, shown_means = support.covered()
    prior, other_priors = _without_each(support.gathered_prior(priors), shown_means)
    mean, other_masks = _without_each(support.gathered(masks), shown)
    queries = Frames(batch.offsets[:, shots:], size)
    asked = [queries.spread(f.expand(-1, queries.offsets.shape[1], -1, -1, -1, -1)) for f in (prior, mean)]
    if shots > 1:
        known = [support.spread(other_priors), support.spread(other_masks)]
    else:
        image, copied = warped(batch.images[:, 0], masks[:, 0], None)
        with low:
            own = model.encoder.prior(model.encoder.maps(image, copied.sum(1, keepdim=True)))
        known = [fit_field(own.float(), size)[:, None], copied[:, None]]
    return torch.cat([torch.cat(known, 2), torch.cat(asked, 2)], 1)


def _without_each(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the shots, ``(T, 1, C, ...)``, and for every shot over the others; values ``(T, K, C, ...)``."""
    mean, others, _ = leave_one_out(values.transpose(0, 1), weight.transpose(0, 1))
    return mean.transpose(0, 1), others.transpose(0, 1)


def fit_heads(
    model: HyperModel, batch: TaskBatch, features: list[Tensor], context: Tensor, fractions: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Read-outs for every volume: for queries from all of the support, for a support volume from the others.

    Args:
        features: of all scales, mean masks last, ``(T, K + Q, C_i, ...)``; context: ``(T, M, E)``.
        fractions: of foreground, ``(T, n)``.

    Returns:
        ``(T, K + Q, n, C_i)`` each, and biases ``(T, K + Q, n)``.
    """
    shots, queries = batch.shots, batch.images.shape[1] - batch.shots
    *seen, masks = (f[:, :shots].flatten(0, 1) for f in features)
    labels = batch.labels[:, :shots].flatten(0, 1)
    regions = model.head.regions(seen, model.body.factors, masks, labels, None)
    gram, moment = (found.unflatten(0, (-1, shots)) for found in regions.weighed())
    everyone = torch.ones(1, shots, batch.classes, device=gram.device)
    others = everyone - torch.eye(shots, device=gram.device)[..., None] if shots > 1 else everyone
    solution = model.head.solve(gram, moment, torch.cat([others, everyone]))
    heads, biases = model.head.logits(solution, context, fractions, shots)
    which = [*range(shots), *[shots] * queries]
    return [head[:, which] for head in heads], biases[:, which]


def read_out(
    features: list[Tensor], factors: list[int], heads: list[Tensor], biases: Tensor, size: list[int]
) -> Tensor:
    """Logits ``(T, B, N, *size)`` of features ``(T, B, C_i, ...)`` by heads ``(T, B, n, C_i)``."""
    logits = biases.flatten(0, 1)[:, :, None, None, None]
    for feature, factor, head in zip(features, factors, heads):
        flat = torch.bmm(head.flatten(0, 1), feature.flatten(3).flatten(0, 1))
        logits = logits + enlarge(flat.unflatten(2, feature.shape[3:]), factor, size)
    return F.pad(logits, [0, 0, 0, 0, 0, 0, 1, 0]).unflatten(0, biases.shape[:2])
