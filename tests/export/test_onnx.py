"""A network as ONNX says what it says as a module, whatever the size of the image."""

import pytest
import torch
import torch.nn.functional as F

from monai_hyper.commands import adapt
from monai_hyper.export.onnx import run_onnx, write_onnx
from monai_hyper.networks.unet import Target, UNetBody
from monai_hyper.types import InputError


def smooth(*size: int) -> torch.Tensor:
    return F.interpolate(torch.rand(1, 1, 6, 6, 6), size, mode="trilinear")


def test_the_file_aligns_and_segments_images_of_other_sizes_than_the_traced_one(tmp_path):
    network = Target(UNetBody(10, (4, 6, 8, 10), 2), 1, (37, 30, 33), (8, 4, 4, 4)).eval()
    network.template.data, network.masks.data[:, :, 6:14, 6:14, 8:16] = smooth(37, 30, 33), torch.ones(())
    write_onnx(network, tmp_path / "network.onnx", side=36)
    for size in ((25, 41, 30), (40, 34, 29)):
        image = smooth(*size)
        with torch.no_grad():
            expected = network(image)
        found = run_onnx(tmp_path / "network.onnx", image)
        torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


def test_without_the_extra_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_hyper.export.onnx.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install monai_hyper\[onnx\]"):
        adapt(tmp_path / "support", tmp_path / "bundle", onnx=True)
    assert not (tmp_path / "bundle").exists()
