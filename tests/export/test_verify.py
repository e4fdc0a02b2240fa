"""What is wrong with a bundle is found and named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from monai_hyper.cli import main
from monai_hyper.data.phantom import write_phantom
from monai_hyper.export.verify import CHECKS, monai_onnx_export, onnx, verify_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    phantom = write_phantom(folder / "phantom", "head_mr", cases=2)
    command = ["adapt", "--support", str(phantom), "--output", str(folder / "bundle"), "--classes", "cerebellum"]
    assert main([*command, "--polish", "0"]) == 0
    return folder / "bundle"


@pytest.fixture
def bundle(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def results(bundle: Path) -> dict[str, str]:
    """Of the checks that take no minute, as ONNX does."""
    quick = [check for check in CHECKS if check not in (monai_onnx_export, onnx)]
    return {row["check"]: row["result"] for row in verify_bundle(bundle, quick)}


def test_what_adapt_writes_passes(whole, capsys):
    assert main(["verify", str(whole), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["result"] for row in found} == {"ok"} and len(found) == len(CHECKS), found


def test_the_bundle_of_a_lone_volume_names_its_large_files(tmp_path):
    phantom = write_phantom(tmp_path / "phantom", "head_mr", cases=2)
    for part in ("images", "labels"):
        next((phantom / part).glob("*01*")).unlink()
    command = ["adapt", "--support", str(phantom), "--output", str(tmp_path / "bundle"), "--classes", "cerebellum"]
    assert main([*command, "--polish", "0", "--no-onnx"]) == 0
    assert set(results(tmp_path / "bundle").values()) == {"ok"}
    assert "models/model.pt" in (tmp_path / "bundle" / "large_files.yml").read_text(encoding="utf-8")
    (tmp_path / "bundle" / "large_files.yml").unlink()
    assert results(tmp_path / "bundle")["sizes"] == "failed"


def change_weights(bundle: Path, change) -> None:
    path = bundle / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def rename(state: dict) -> None:
    state["other"] = state.pop(next(iter(state)))


def spoil(state: dict) -> None:
    state[next(iter(state))].view(-1)[0] = float("nan")


def reshape(state: dict) -> None:
    name = next(iter(state))
    state[name] = torch.zeros(3)


@pytest.mark.parametrize("change", [rename, spoil, reshape])
def test_weights_that_do_not_fit_are_found(bundle, capsys, change):
    change_weights(bundle, change)
    assert results(bundle)["weights"] == "failed"
    assert main(["verify", str(bundle)]) == 2
    assert "checks failed" in capsys.readouterr().err


def test_truncated_and_missing_weights_are_found(bundle):
    path = bundle / "models" / "model.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert results(bundle)["weights"] == "failed"
    path.unlink()
    found = results(bundle)
    assert found["weights"] == found["layout"] == "failed" and found["metadata"] == "ok"


def test_weights_other_than_the_torchscript_are_found(bundle):
    change_weights(bundle, lambda state: state["reader.mask_head.bias" if "reader.mask_head.bias" in state
                                              else "local.reader.mask_head.bias"].add_(1))  # fmt: skip
    found = results(bundle)
    assert found["torchscript"] == "failed" and found["weights"] == "ok"


def edit(bundle: Path, change) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    change(metadata)
    path.write_text(json.dumps(metadata), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda m: m.pop("intended_use"), "metadata"),
        (lambda m: m.update(unheard="of"), "metadata"),
        (lambda m: m["network_data_format"]["inputs"]["image"].update(spatial_shape=["*", 1, 1]), "metadata"),
        (lambda m: m["network_data_format"]["outputs"]["pred"].update(num_channels=7), "net in out"),
        (lambda m: m["network_data_format"]["outputs"]["pred"].update(num_channels=7), "channels"),
    ],
)
def test_metadata_that_disagrees_is_found(bundle, change, check):
    edit(bundle, change)
    assert results(bundle)[check] == "failed"


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
