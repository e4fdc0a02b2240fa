"""Describe a generated network in types that JSON knows, and build it again, to be filled with its weights."""

from __future__ import annotations

from torch import nn

from monai_hyper.networks.cascade import Cascade, Finder
from monai_hyper.networks.unet import Target, UNetBody


def describe(network: Cascade | Target) -> dict:
    """All sizes of a network, see :func:`build`.

    Raises:
        ValueError: if the network was generated for another body than :class:`UNetBody`.

    Example:
        >>> target = Target(UNetBody(10, (4, 6, 8, 10), 2), 1, (8, 8, 8), (8, 2, 2, 2))
        >>> describe(target)["whole"]["channels"]
        [4, 6, 8, 10]
    """
    if isinstance(network, Target):
        return {"whole": _sizes(network)}
    finder = network.finder
    return {
        "window": {"template": list(finder.template.shape[2:]), "factor": finder.factor, "sides": list(finder.window)},
        "local": _sizes(network.local),
        "others": [_sizes(other) for other in network.others],
    }


def _sizes(target: Target) -> dict:
    body = target.reader.body
    if not isinstance(body, UNetBody):
        raise ValueError(f"the network's body is {type(body).__name__}; expected UNetBody.")
    coarsest = body.down4[0].conv.weight.shape[0]
    return {
        "channels": [*body.widths[1:], coarsest],
        "thin": body.widths[0] // 2,
        "classes": target.reader.classes,
        "template": list(target.template.shape[2:]),
        "prior": list(target.prior.shape[1:]),
        "factor": target.factor,
        "aligned": target.aligned,
    }


def build(
    whole: dict | None = None, window: dict | None = None, local: dict | None = None, others: list[dict] | None = None
) -> nn.Module:
    """The network of a description, with weights that still have to be loaded.

    Args:
        whole: of a network of whole volumes, alone; or
        window, local, others: of the finder of a window, its network, and those of whole volumes beside it.

    Example:
        >>> target = Target(UNetBody(10, (4, 6, 8, 10), 2), 1, (8, 8, 8), (8, 2, 2, 2))
        >>> build(**describe(target)).load_state_dict(target.state_dict())
        <All keys matched successfully>
    """
    if whole is not None:
        return _target(**whole)
    finder = Finder(tuple(window["template"]), window["factor"], window["sides"])
    return Cascade(finder, _target(**local), [_target(**other) for other in others])


def _target(
    channels: list[int], thin: int, classes: int, template: list[int], prior: list[int], factor: int, aligned: bool
) -> Target:
    body = UNetBody(1 + prior[0] + 1, tuple(channels), thin)
    return Target(body, classes, tuple(template), tuple(prior), factor, aligned)
