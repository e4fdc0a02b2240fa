"""The baseline that knows nothing before: a U-Net trained from random weights on the support set."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.fitting import Budget, fit_by_gradient
from monai_hyper.networks.unet import UNetBody

RATE = 3e-3


class PlainUNet(nn.Module):
    """:class:`UNetBody` on the image alone, with a linear read-out of its finest features.

    Args:
        classes: number of foreground classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = UNetBody(in_channels=1)
        self.head = nn.Conv3d(self.body.widths[0], classes + 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of images ``(B, 1, D, H, W)``."""
        d, h, w = image.shape[2:]
        return self.head(self.body(image)[0][:, :, :d, :h, :w])


class Scratch:
    """The same U-Net as ours, trained from random weights on the K volumes.

    Augmentation, loss and initialisation are nnU-Net's (Isensee et al., "nnU-Net: a self-configuring method for deep
    learning-based biomedical image segmentation", 2021, https://doi.org/10.1038/s41592-020-01008-z); AdamW, because
    it gets further in a hundred seconds.

    Args:
        budget: how long to train.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def fit(self, support: SupportSet) -> Callable[[Tensor], Tensor]:
        """Train a network on a support set."""
        network = PlainUNet(len(support.classes))
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
        return fit_by_gradient(network, support, self.budget, RATE)
