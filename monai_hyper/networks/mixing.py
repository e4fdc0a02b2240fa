"""One body for several tasks at once: convolutions are shared, and what differs between tasks lies around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.networks.generator import Changes, Factors


def mix(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mix the channels of every volume as its task does.

    Args:
        x: volumes of ``T`` tasks, equally many of each and those of a task together, ``(T * B, I, D, H, W)``.
        matrix: ``(T, O, I)``; bias: added to every volume, ``(O,)``.

    Returns:
        ``(T * B, O, D, H, W)``.

    Example:
        >>> mix(torch.ones(4, 1, 1, 1, 1), torch.tensor([[[2.0]], [[3.0]]])).flatten()
        tensor([2., 2., 3., 3.])
    """
    each = matrix.to(x.dtype).repeat_interleave(x.shape[0] // matrix.shape[0], 0)
    flat = x.flatten(2)
    mixed = torch.bmm(each, flat) if bias is None else torch.baddbmm(bias.to(x.dtype)[None, :, None], each, flat)
    return mixed.unflatten(2, x.shape[2:])


def product(first: Tensor, second: Tensor) -> Tensor:
    """``I + first second^T`` of every task, ``(T, width, width)``, from factors ``(T, width, rank)``."""
    return torch.eye(first.shape[1], device=first.device, dtype=first.dtype) + first @ second.mT


@contextmanager
def shared(body: nn.Module, changes: Changes) -> Iterator[nn.Module]:
    """The body as a function of volumes of ``T`` tasks, ``(T * B, C, D, H, W)``, until the context ends.

    Every convolution runs once over all volumes, between channel mixings of each task, which equals the task's own
    folded convolution, see :func:`monai_hyper.networks.generator.mixed`. Only the layers that ``changes`` names are
    touched; outside of the context the body is what it was.

    Raises:
        ValueError: if a named layer is no convolution without groups, nor an instance or group normalisation.
    """
    layers = {name.removesuffix(".weight"): _convolution(body, name, *each) for name, each in changes.mixings.items()}
    layers |= {name: _normalisation(body, name, *each) for name, each in changes.affines.items()}
    try:
        for name, forward in layers.items():
            body.get_submodule(name).forward = forward
        yield body
    finally:
        for name in layers:
            vars(body.get_submodule(name)).pop("forward", None)


def _convolution(body: nn.Module, name: str, first: Factors, second: Factors) -> Callable[..., Tensor]:
    """Forward of a convolution whose weight ``(I + U V^T) weight (I + P Q^T)`` differs between tasks."""
    layer = body.get_submodule(name.removesuffix(".weight"))
    left, right = product(*first), product(*second)
    if isinstance(layer, nn.ConvTranspose3d) and layer.groups == 1:  # its weight begins with the input channels

        def transposed(x: Tensor, output_size: list[int] | None = None) -> Tensor:
            found = _without_bias(layer, mix(x, left.mT), output_size)
            return mix(found, right.mT, layer.bias)

        return transposed
    if isinstance(layer, nn.Conv3d) and layer.groups == 1:
        if (layer.kernel_size, layer.stride, layer.padding) == ((1, 1, 1), (1, 1, 1), (0, 0, 0)):  # a mixing itself
            folded = left @ layer.weight.flatten(1) @ right
            return lambda x: mix(x, folded, layer.bias)
        return lambda x: mix(layer._conv_forward(mix(x, right), layer.weight, None), left, layer.bias)
    raise ValueError(f"'{name}' belongs to {layer}; expected a Conv3d or ConvTranspose3d of one group.")


def _without_bias(layer: nn.ConvTranspose3d, x: Tensor, output_size: list[int] | None) -> Tensor:
    padding = layer._output_padding(
        x, output_size, layer.stride, layer.padding, layer.kernel_size, 3, layer.dilation
    )  # as ConvTranspose3d.forward does
    return F.conv_transpose3d(x, layer.weight, None, layer.stride, layer.padding, padding, 1, layer.dilation)


def _normalisation(body: nn.Module, name: str, scale: Tensor, shift: Tensor) -> Callable[[Tensor], Tensor]:
    """Forward of a normalisation whose scale and shift differ between tasks: every channel of every volume is one of
    a single volume's, so that it takes one pass."""
    layer = body.get_submodule(name)
    if not isinstance(layer, (nn.InstanceNorm3d, nn.GroupNorm)):
        raise ValueError(f"'{name}' is {layer}; expected an InstanceNorm3d or a GroupNorm.")

    def forward(x: Tensor) -> Tensor:
        volumes = x.shape[0] // scale.shape[0]
        weight = (layer.weight * (1 + scale)).repeat_interleave(volumes, 0).flatten()
        bias = (layer.bias + shift).repeat_interleave(volumes, 0).flatten()
        flat = x.reshape(1, -1, *x.shape[2:])
        if isinstance(layer, nn.GroupNorm):
            found = F.group_norm(flat, x.shape[0] * layer.num_groups, weight, bias, layer.eps)
        else:
            found = F.instance_norm(flat, None, None, weight, bias, True, 0.0, layer.eps)
        return found.view(x.shape)

    return forward
