"""What the encoder read from a support set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_hyper.networks.template import Template
from monai_hyper.networks.unet import beside


@dataclass
class Reading:
    """Tokens, prior and masks of a support set; the leave-one-out entries are what each volume may know itself by."""

    template: Template
    context: Tensor  # (M, E)
    prior: Tensor  # (1, P, d', h', w')
    masks: Tensor  # (1, n, d, h, w)
    others: list[Tensor]  # per volume, on its grid, prior and masks of the others, (1, P + n, D, H, W)
    fraction: Tensor  # (n,)

    @property
    def fields(self) -> dict[str, Tensor]:
        """What a generated network knows of places."""
        return {"template": self.template.image, "prior": self.prior, "masks": self.masks}

    def beside(self, images: Tensor, shots: list[int]) -> Tensor:
        """Images of some volumes of one size, and what they may know themselves by."""
        return beside(images, torch.cat([self.others[shot] for shot in shots]), self.prior.shape[1])
