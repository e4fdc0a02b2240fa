"""The checks that a reviewer of MONAI bundles runs, all at once."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from monai.bundle import ConfigParser, ckpt_export, create_workflow, onnx_export, verify_net_in_out
from torch import nn

from monai_hyper.export.deploy import LARGEST_MB, TEXTS
from monai_hyper.export.onnx import OPSET, pooling, run_onnx
from monai_hyper.types import InputError

Check = Callable[[Path], str]
"""Takes the folder of a bundle and says what it found, or raises."""

SHAPE = (40, 36, 44)
"""Size of an image that forms of a network are compared by; of a classifier the size that its metadata tell."""

NEEDED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md")


def verify_bundle(bundle: Path, checks: Sequence[Check] | None = None) -> list[dict[str, str]]:
    """Run checks; one that fails does not keep the others from running.

    A bundle is a program: its configuration names what is called. Verify none from a source that you would not run.

    Args:
        checks: which ones; default: all, ``CHECKS``.

    Returns:
        name, result ("ok", "failed", "skipped") and detail of every check.

    Raises:
        InputError: if there is no such folder.
    """
    if not bundle.is_dir():
        raise InputError(f"{bundle}: no such folder; expected a MONAI bundle. Check the path.")
    with found_first(bundle):
        return [row(check, bundle) for check in checks or CHECKS]


@contextmanager
def found_first(bundle: Path) -> Iterator[None]:
    """The bundle's own ``scripts`` are the ones that are imported, as when MONAI runs it."""
    old = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "scripts"}
    logging.disable(logging.INFO)
    sys.path.insert(0, str(bundle))
    try:
        yield
    finally:
        sys.path.remove(str(bundle))
        logging.disable(logging.NOTSET)
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]
        sys.modules.update(old)


class Skip(Exception):
    """A check does not apply, or what it needs is not installed."""


def row(check: Check, bundle: Path) -> dict[str, str]:
    """One line of the table."""
    name = check.__name__.replace("_", " ")
    try:
        return {"check": name, "result": "ok", "detail": check(bundle)}
    except Skip as reason:
        return {"check": name, "result": "skipped", "detail": str(reason)}
    except Exception as error:  # whatever a bundle of others does, it is its result here
        text = " ".join(str(error).split())
        return {"check": name, "result": "failed", "detail": f"{type(error).__name__}: {text[:300]}"}


def layout(bundle: Path) -> str:
    """Every file that the model zoo asks for is there."""
    missing = [name for name in NEEDED if not (bundle / name).is_file()]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
    return f"{len(NEEDED)} files"


def sizes(bundle: Path) -> str:
    """No file is too large for the model zoo."""
    found = {path: path.stat().st_size / 1e6 for path in bundle.rglob("*") if path.is_file()}
    large = [f"{path.relative_to(bundle).as_posix()} ({mb:.1f} MB)" for path, mb in found.items() if mb > LARGEST_MB]
    listed = bundle / "large_files.yml"
    told = listed.read_text(encoding="utf-8") if listed.exists() else ""
    large = [text for text in large if text.partition(" ")[0] not in told]
    if large:
        raise InputError(f"larger than {LARGEST_MB} MB: {', '.join(large)}; name them in large_files.yml")
    return f"{sum(found.values()):.1f} MB in all"


def metadata(bundle: Path) -> str:
    """``configs/metadata.json`` keeps to our strict schema."""
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise Skip("needs jsonschema: pip install monai_hyper[bundle]") from error
    schema = json.loads((TEXTS / "schema.json").read_text(encoding="utf-8"))
    found = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    errors = sorted(Draft202012Validator(schema).iter_errors(found), key=lambda error: list(error.path))
    if errors:
        where = "/".join(str(part) for part in errors[0].path) or "the whole"
        raise InputError(f"{where}: {errors[0].message} ({len(errors)} in all)")
    return f"{len(found)} entries"


def weights(bundle: Path) -> str:
    """``models/model.pt`` is a bare state_dict of finite tensors that fits ``network_def``."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InputError("expected a bare state_dict, name and tensor of every weight")
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise InputError(f"weight '{broken[0]}' holds NaN or infinity")
    network_of(bundle).load_state_dict(state)
    return f"{sum(tensor.numel() for tensor in state.values()):,} values"


def channels(bundle: Path) -> str:
    """The metadata names as many channels as it counts."""
    parts = parser_of(bundle).get("_meta_")["network_data_format"]
    for name, data in [*parts["inputs"].items(), *parts["outputs"].items()]:
        if len(data["channel_def"]) != data["num_channels"]:
            raise InputError(f"{name}: {data['num_channels']} channels, {len(data['channel_def'])} of them described")
    return ", ".join(f"{name} {data['num_channels']}" for part in parts.values() for name, data in part.items())


def properties(bundle: Path) -> str:
    """``check_properties`` of the inference workflow finds nothing missing."""
    workflow = create_workflow(workflow_type="inference", bundle_root=str(bundle), **configs_of(bundle))
    workflow.initialize()
    missing = workflow.check_properties()
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
    return "inference"


def net_in_out(bundle: Path) -> str:
    """MONAI's ``verify_net_in_out``."""
    verify_net_in_out("network_def", device="cpu", **configs_of(bundle))
    return "channels and type as described"


def checkpoint_export(bundle: Path) -> str:
    """MONAI's ``ckpt_export`` gives TorchScript."""
    with TemporaryDirectory() as folder:
        path, weights = Path(folder) / "model.ts", str(bundle / "models" / "model.pt")
        ckpt_export("network_def", str(path), weights, **configs_of(bundle))
        return f"{path.stat().st_size / 1e6:.1f} MB"


def monai_onnx_export(bundle: Path) -> str:
    """MONAI's ``onnx_export`` gives ONNX, by tracing: its other way knows no choices that depend on data.

    The exporter is told how to take means of odd sizes, see :func:`monai_hyper.export.onnx.pooling`.
    """
    if find_spec("onnx") is None:
        raise Skip("needs onnx: pip install monai_hyper[onnx]")
    with TemporaryDirectory() as folder, warnings.catch_warnings(), pooling():
        warnings.simplefilter("ignore")  # of constants that are constants
        path, weights = Path(folder) / "model.onnx", str(bundle / "models" / "model.pt")
        how = {"dynamo": False, "opset_version": OPSET}
        onnx_export(
            "network_def", str(path), weights, use_trace=True, input_shape=(1, 1, *shape_of(bundle)),
            converter_kwargs=how, **configs_of(bundle),
        )  # fmt: skip
        return f"{path.stat().st_size / 1e6:.1f} MB"


def torchscript(bundle: Path) -> str:
    """``models/model.ts`` says what ``network_def`` says with ``models/model.pt``."""
    path = bundle / "models" / "model.ts"
    if not path.exists():
        raise Skip("no models/model.ts")
    return compared(bundle, torch.jit.load(str(path), map_location="cpu"))


def onnx(bundle: Path) -> str:
    """``models/model.onnx`` says in onnxruntime what ``network_def`` says with ``models/model.pt``."""
    path = bundle / "models" / "model.onnx"
    if not path.exists():
        raise Skip("no models/model.onnx")
    if find_spec("onnxruntime") is None:
        raise Skip("needs onnxruntime: pip install monai_hyper[onnx]")
    return compared(bundle, partial(run_onnx, path))


CHECKS = (
    layout, sizes, metadata, weights, channels, properties, net_in_out, checkpoint_export, torchscript,
    monai_onnx_export, onnx,
)  # fmt: skip
"""All checks, in their order."""


def compared(bundle: Path, other: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """What another form of a bundle's network says of an image, beside what the network says."""
    network = network_of(bundle).eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True, map_location="cpu"))
    noise = torch.rand(1, 1, 7, 7, 7, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(noise, shape_of(bundle), mode="trilinear")  # smooth, as what aligns is
    with torch.no_grad():
        one, two = network(image), other(image)
    apart = float((one - two).abs().max() / one.abs().max().clamp(min=1e-6))
    if apart > 1e-3:
        raise InputError(f"logits differ by {apart:.2g} of the largest")
    return f"logits differ by {apart:.1g} of the largest"


def shape_of(bundle: Path) -> tuple[int, ...]:
    """Size of an image that its network takes."""
    sides = parser_of(bundle).get("_meta_")["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return tuple(sides) if all(isinstance(side, int) for side in sides) else SHAPE


def configs_of(bundle: Path) -> dict[str, str]:
    """Where its configuration lies."""
    folder = bundle / "configs"
    return {"config_file": str(folder / "inference.json"), "meta_file": str(folder / "metadata.json")}


def parser_of(bundle: Path) -> ConfigParser:
    """Its configuration, read but not run."""
    parser, files = ConfigParser(), configs_of(bundle)
    parser.read_config(files["config_file"])
    parser.read_meta(files["meta_file"])
    return parser


def network_of(bundle: Path) -> nn.Module:
    """Its ``network_def``, without weights."""
    return parser_of(bundle).get_parsed_content("network_def")
