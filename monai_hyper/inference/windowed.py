"""Plain networks on MONAI's evaluators: what is expected where spans the whole volume, only its reader sees windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import fall_back_tuple
from torch import Tensor, nn

from monai_hyper.networks.unet import Reader
from monai_hyper.types import InputError


def over_windows(inferer: Inferer, apply: Callable[[Tensor], Tensor], prepared: Tensor) -> Tensor:
    """Let an inferer run over prepared images, but not over windows larger than them: padding would change them.

    Args:
        inferer: any of MONAI's.
        apply: gives logits ``(B, N, d, h, w)`` of windows.
        prepared: ``(B, C, D, H, W)``.
    """
    window = getattr(inferer, "roi_size", None)
    sides = () if window is None else fall_back_tuple(window, prepared.shape[2:])
    if window is not None and all(side >= n for side, n in zip(sides, prepared.shape[2:])):
        return apply(prepared)
    return inferer(prepared, apply)


def finite(logits: Tensor) -> Tensor:
    """The same logits.

    Raises:
        InputError: if one is no finite number: then a label map would be a guess that looks like an answer.
    """
    if not logits.isfinite().all():
        raise InputError(
            "the network answers NaN or infinity; expected finite logits. Its weights or the scan hold such numbers: "
            "look at the scan, and check the bundle with 'monai-hyper verify'."
        )
    return logits


class WindowedInferer(Inferer):
    """Run a materialised network; its reader goes over windows, and in low precision, where that is asked for.

    Alignment and prior are those of the whole field of view and in float32 whatever the window.

    Args:
        roi_size: sides of the window in voxels of the grid that the reader works on; None: all at once.
        amp: whether the reader may run in low precision.
        overlap: of neighbouring windows.

    Example:
        >>> from monai_hyper.networks.unet import Target, UNetBody
        >>> target = Target(UNetBody(10, (4, 6, 8, 10), 2), 1, (8, 8, 8), (8, 2, 2, 2)).eval()
        >>> WindowedInferer(roi_size=[32, 32, 32])(torch.rand(1, 1, 40, 36, 32), target).shape
        torch.Size([1, 2, 40, 36, 32])
    """

    def __init__(self, roi_size: Sequence[int] | None = None, amp: bool = False, overlap: float = 0.25) -> None:
        super().__init__()
        self.amp = amp
        self.inferer = None if roi_size is None else SlidingWindowInferer(roi_size, 1, overlap, "gaussian")

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: prepared by the bundle's transforms, ``(B, 1, D, H, W)``, whole fields of view.
            network: :class:`Target` or :class:`Cascade`.

        Returns:
            logits ``(B, N, D, H, W)``.

        Raises:
            InputError: see :func:`finite`.
        """
        for module in network.modules():
            if isinstance(module, Reader):
                module.run = partial(self._read, inputs.device.type)
        return finite(network(inputs))

    def _read(self, device: str, apply: Callable[[Tensor], Tensor], prepared: Tensor) -> Tensor:
        with torch.autocast(device, enabled=self.amp):
            return (apply(prepared) if self.inferer is None else over_windows(self.inferer, apply, prepared)).float()
