"""Other networks as targets: MONAI's, without their last layer."""

import pytest
import torch
from monai.networks.nets import BasicUNet, SegResNet, UNet
from torch import nn

from monai_hyper.networks.functional import pad_small
from monai_hyper.networks.model import PRIOR_CHANNELS, HyperModel
from monai_hyper.networks.unet import HeadlessNetwork, UNetBody

CHANNELS = 1 + PRIOR_CHANNELS + 1


def _basic_unet() -> HeadlessNetwork:
    features = (8, 8, 8, 8, 8, 8)
    network = BasicUNet(in_channels=CHANNELS, out_channels=2, features=features, norm=("instance", {"affine": True}))
    return HeadlessNetwork(network, "final_conv")


def _segresnet() -> HeadlessNetwork:
    return HeadlessNetwork(SegResNet(init_filters=8, in_channels=CHANNELS, out_channels=2), "conv_final.2.conv")


@pytest.mark.parametrize("body", [_basic_unet, _segresnet])
@torch.no_grad()
def test_monai_networks_are_conditioned_and_segment(body, perturbed, make_support, query):
    torch.manual_seed(2)
    model = perturbed(HyperModel(body(), embedding_dim=32))
    network, _ = model.generate(make_support(2, classes=2))
    logits = network(query)
    assert logits.shape == (1, 3, *query.shape[2:])
    assert bool(torch.isfinite(logits).all())
    other, _ = model.generate(make_support(2, classes=2, size=(36, 33, 32)))
    changed = [n for n, w in network.weights.items() if ".body." in n and not torch.equal(w, other.weights[n])]
    assert len(changed) > 10
    assert float((network.materialise()(query) - logits).abs().max()) <= 1e-4 * float(logits.abs().max())


@torch.no_grad()
def test_headless_network_gives_what_its_last_layer_read():
    network = BasicUNet(in_channels=CHANNELS, out_channels=3, features=(8, 8, 8, 8, 8, 8)).eval()
    image, last = torch.randn(1, CHANNELS, 32, 48, 32), network.final_conv
    expected = network(image)
    (features,) = HeadlessNetwork(network, "final_conv")(image)
    torch.testing.assert_close(last(features), expected)


def test_networks_without_a_pointwise_last_layer_are_refused():
    network = UNet(3, CHANNELS, 2, (8, 8), (2,))
    last = [name for name, layer in network.named_modules() if isinstance(layer, nn.ConvTranspose3d)][-1]
    with pytest.raises(ValueError, match=f"'{last}' is ConvTranspose3d; expected the name of a 1x1x1 nn.Conv3d"):
        HeadlessNetwork(network, last)
    with pytest.raises(ValueError, match="'0' is Conv3d"):
        HeadlessNetwork(nn.Sequential(nn.Conv3d(CHANNELS, 2, 3)), "0")


@pytest.mark.parametrize("size", [(32, 34, 33), (5, 40, 1)])
@torch.no_grad()
def test_feature_scales_cover_the_image(size):
    body = UNetBody(CHANNELS)
    features = body(torch.randn(1, CHANNELS, *size))
    for feature, width, factor in zip(features, body.widths, body.factors):
        assert feature.shape[1] == width
        assert all(side * factor >= expected for side, expected in zip(feature.shape[2:], size))


def test_small_sides_are_padded_by_repetition_at_the_far_end():
    image = torch.randn(1, 2, 3, 40, 32)
    padded = pad_small(image)
    assert padded.shape == (1, 2, 32, 40, 32)
    assert torch.equal(padded[:, :, :3], image)
    assert bool((padded[:, :, 3:] == image[:, :, 2:]).all())
