"""The plain 3D network that receives generated weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_hyper.data.coarse import reduce
from monai_hyper.networks.alignment import align, read_at, stretched
from monai_hyper.networks.convolution import Conv3d
from monai_hyper.networks.functional import enlarge, pad_high, pad_small
from monai_hyper.networks.plain import with_plain, with_plain_widths


class ConvBlock(nn.Module):
    """3x3x3 convolution, instance normalisation with affine, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels, 3, stride, bias=False)
        self.norm = nn.InstanceNorm3d(out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.01)


class UNetBody(nn.Module):
    """3D U-Net without its last layer: a stride-2 stem, and a thin path at full resolution.

    After Çiçek et al., "3D U-Net", 2016, https://arxiv.org/abs/1606.06650, with the normalisation and
    activation of nnU-Net (Isensee et al., 2021).

    Args:
        in_channels: channels of the image and of the spatial prior together.
        channels: width of the four levels at 1/2, 1/4, 1/8 and 1/16 of the grid.
        thin: width of the path at full resolution.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...] = (24, 48, 96, 192), thin: int = 8) -> None:
        super().__init__()
        a, b, c, d = channels
        self.widths, self.factors = (2 * thin, a, b, c), (1, 2, 4, 8)
        self.thin = ConvBlock(in_channels, thin)
        self.down1 = nn.Sequential(ConvBlock(in_channels, a, 2), ConvBlock(a, a))
        self.down2 = nn.Sequential(ConvBlock(a, b, 2), ConvBlock(b, b))
        self.down3 = nn.Sequential(ConvBlock(b, c, 2), ConvBlock(c, c))
        self.down4 = nn.Sequential(ConvBlock(c, d, 2), ConvBlock(d, d))
        self.narrow = nn.ModuleList(nn.Conv3d(*w, 1) for w in ((d, c), (c, b), (b, a), (a, thin)))
        self.up3 = nn.Sequential(ConvBlock(2 * c, c), ConvBlock(c, c))
        self.up2 = nn.Sequential(ConvBlock(2 * b, b), ConvBlock(b, b))
        self.up1 = nn.Sequential(ConvBlock(2 * a, a), ConvBlock(a, a))
        self.full = ConvBlock(2 * thin, 2 * thin)

    def forward(self, x: Tensor) -> list[Tensor]:
        """
        Args:
            x: image and prior, ``(B, C, D, H, W)``.

        Returns:
            features at 1, 1/2, 1/4 and 1/8 of the grid, ``widths[i]`` channels each; sides shorter than
            ``SMALLEST_SIDE``, but for slices, come back with that size, what lies beyond the image is to be cropped.
        """
        x = pad_small(x, slices=True)
        x0 = self.thin(x)
        x1 = self.down1(x)
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        x4 = self.down4(x3)
        y3 = self.up3(torch.cat([enlarge(self.narrow[0](x4), 2, x3.shape[2:]), x3], 1))
        y2 = self.up2(torch.cat([enlarge(self.narrow[1](y3), 2, x2.shape[2:]), x2], 1))
        y1 = self.up1(torch.cat([enlarge(self.narrow[2](y2), 2, x1.shape[2:]), x1], 1))
        y0 = self.full(torch.cat([enlarge(self.narrow[3](y1), 2, x0.shape[2:]), x0], 1))
        return [y0, y1, y2, y3]


class HeadlessNetwork(nn.Module):
    """A MONAI network without its last 1x1x1 convolution, as a body for :class:`Target`.

    Works for networks whose last module is an ``nn.Conv3d`` of kernel 1 that sees full-resolution features,
    such as ``BasicUNet`` (``final_conv``) and ``SegResNet`` (``conv_final.2.conv``); not for ``UNet``, whose
    last layer upsamples.

    Args:
        network: the network, with as many input channels as image and prior have together.
        head: dotted name of the last convolution.

    Raises:
        ValueError: if ``head`` is not a 1x1x1 convolution.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        last = network.get_submodule(head)
        if not isinstance(last, nn.Conv3d) or tuple(last.kernel_size) != (1, 1, 1):
            raise ValueError(f"'{head}' is {type(last).__name__}; expected the name of a 1x1x1 nn.Conv3d.")
        self.widths, self.factors = (last.in_channels,), (1,)
        parent, _, name = head.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features ``[(B, widths[0], D', H', W')]`` of image and prior ``x``, ``(B, C, D, H, W)``.

        The sides are padded to multiples of 16, which halving four times asks for.
        """
        return [self.network(pad_high(x, [-side % 16 for side in x.shape[2:]]))]


class Reader(nn.Module):
    """Body and linear read-out of all its feature scales and of plain features, for a prepared image or windows of it.

    Args:
        body: features of image and prior, such as :class:`UNetBody`.
        classes: number of foreground classes.

    Attributes:
        run: how to run over prepared images, called with :meth:`read` and them; None: over the whole of them at once.
            TorchScript knows of no other way.
    """

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body, self.classes, self.run = body, classes, None
        self.factors = list(body.factors)
        self.head = nn.ModuleList(nn.Conv3d(width, classes, 1, bias=False) for width in with_plain_widths(body.widths))
        self.mask_head = nn.Conv3d(classes, classes, 1)

    def forward(self, prepared: Tensor) -> Tensor:
        """
        Args:
            prepared: see :func:`prepare`, ``(B, 1 + P + 1 + n, D, H, W)``.

        Returns:
            logits, background first, ``(B, n + 1, D, H, W)``; the background's are zero.
        """
        if not torch.jit.is_scripting():
            if self.run is not None:
                return self.run(self.read, prepared)
        return self.read(prepared)

    def read(self, prepared: Tensor) -> Tensor:
        """What :meth:`forward` does, for windows of prepared images too."""
        inputs = prepared.shape[1] - self.classes
        features = with_plain(self.body(prepared[:, :inputs]), prepared[:, :inputs])
        logits = self.mask_head(prepared[:, inputs:])
        for i, head in enumerate(self.head):
            logits = logits + enlarge(head(features[i]), self.factors[i], prepared.shape[2:])
        return F.pad(logits, [0, 0, 0, 0, 0, 0, 1, 0])


class Target(nn.Module):
    """A plain segmentation network: what is expected where beside the image, body, linear read-out.

    What is expected where lies in the frame of a template, which every image is aligned to. It needs no hypernetwork
    and no support set. Everything in it may be generated.

    Args:
        body: features of image and prior, such as :class:`UNetBody`.
        classes: number of foreground classes.
        template: size of the template, ``(d, h, w)``.
        prior: size of the learned prior volume over the template, ``(channels, d', h', w')``.
        factor: the network sees the mean of so many voxels along each side, and its logits are enlarged.
        aligned: whether images are aligned to the template, or stretched onto it.
    """

    def __init__(
        self,
        body: nn.Module,
        classes: int,
        template: tuple[int, int, int],
        prior: tuple[int, int, int, int],
        factor: int = 1,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.aligned = aligned
        self.template = nn.Parameter(torch.zeros(1, 1, *template))
        self.masks = nn.Parameter(torch.zeros(1, classes, *template))
        self.prior = nn.Parameter(torch.zeros(1, *prior))
        self.reader = Reader(body, classes)

    def forward(self, image: Tensor, places: list[Tensor] | None = None) -> Tensor:
        """Logits ``(B, N, D, H, W)`` of a harmonised image ``(B, 1, D, H, W)`` on the task's grid; places: see
        :func:`prepare`."""
        reduced = reduce(image, self.factor)
        logits = self.reader(prepare(reduced, self.template, self.prior, self.masks, self.aligned, places))
        return enlarge(logits, self.factor, image.shape[2:])


def prepare(
    image: Tensor,
    template: Tensor,
    prior: Tensor,
    masks: Tensor,
    aligned: bool,
    places: list[Tensor] | None = None,
) -> Tensor:
    """Put what is expected where beside images; the result may be cut into windows.

    Args:
        image: of the whole field of view, ``(B, 1, D, H, W)``; template: ``(1, 1, d, h, w)``, one
            voxel where there is none.
        prior: over the template, ``(1, P, d', h', w')``; masks: ``(1, n, d, h, w)``.
        aligned: whether images are aligned to the template, or stretched onto it.
        places: where the voxels of every image lie in the template, if that is known.

    Returns:
        see :func:`beside`.
    """
    size = [template.shape[2], template.shape[3], template.shape[4]]
    found: list[Tensor] = []
    if template.numel() == 1:  # nothing to align to
        flat = torch.cat([prior, masks], 1)
        return beside(
            image, flat.expand(image.shape[0], -1, image.shape[2], image.shape[3], image.shape[4]), prior.shape[1]
        )
    for i in range(image.shape[0]):
        if not aligned:
            there = stretched([image.shape[2], image.shape[3], image.shape[4]], size, image)
        else:
            there = align(image[i : i + 1], template) if places is None else places[i]
        found.append(torch.cat([read_at(prior, there, size), read_at(masks, there, size)], 1))
    return beside(image, torch.cat(found), prior.shape[1])


def beside(image: Tensor, fields: Tensor, channels: int) -> Tensor:
    """Image, prior, union of the mean masks and every mean mask, ``(B, 1 + P + 1 + n, D, H, W)``.

    Args:
        image: ``(B, 1, D, H, W)``; fields: prior, ``channels`` of it, and mean masks, ``(B, P + n, D, H, W)``.
    """
    union = fields[:, channels:].sum(1, keepdim=True).clamp(max=1.0)
    return torch.cat([image, fields[:, :channels], union, fields[:, channels:]], 1)
