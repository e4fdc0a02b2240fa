"""Write a generated network as an ordinary MONAI bundle, which runs without this package and without the examples."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import monai_hyper
from monai_hyper.data.folder import Case
from monai_hyper.export.model_card import model_card
from monai_hyper.export.onnx import write_onnx
from monai_hyper.inference.pipeline import Plan
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.networks.rebuild import describe
from monai_hyper.types import InputError

PACKAGE = Path(monai_hyper.__file__).parent
TEXTS = PACKAGE / "configs" / "bundle"

LARGEST_MB = 25
"""A larger file is named in ``large_files.yml``."""

IGNITE = "0.5.5"
"""Version of pytorch-ignite, which MONAI's evaluators want and this package does not."""

SCRIPTS = (
    "types", "data/coarse", "data/labels", "networks/functional", "networks/convolution", "networks/shift",
    "networks/alignment", "networks/plain", "networks/unet", "networks/confidence", "networks/cascade",
    "networks/rebuild", "transforms/decision", "transforms/grid", "transforms/intensity", "transforms/labels",
    "inference/windowed",
)  # fmt: skip
"""Modules that a generated network and its transforms consist of; they import nothing else of the package."""

_CODE = re.compile(r"^[$@%]|[@%](#|::)")
"""What MONAI takes for an expression or a reference, wherever it stands in a configuration."""


def refuse_folder(folder: Path) -> None:
    """
    Raises:
        InputError: if it exists.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already. Choose another --output, or move it away.")


def refuse_code(texts: Iterable[str], read: bool = False) -> None:
    """Names and descriptions come from files of others; in a configuration they must not be more than text.

    Args:
        read: whether MONAI reads them from there, so that they must also come out as they went in.

    Raises:
        InputError: for a text that MONAI would run, resolve or change.
    """
    for text in texts:
        if _CODE.search(text) or (read and "#" in text):
            raise InputError(
                f"'{text}': found a name or text that MONAI's configurations take for code; expected one without $, @ "
                f"or % at its beginning{', and without #' if read else ''}. Rename it."
            )


def write_bundle(
    segmenter: Segmenter, folder: Path, name: str, origin: dict, versions: dict[str, str], onnx: bool = False
) -> Path:
    """Write the bundle of a network that segments, see :func:`write_whole`.

    Args:
        segmenter: after :meth:`Segmenter.fit`.
        folder: of the bundle, which must not exist; name: of the bundle, for people.
        origin: see :func:`provenance`; versions: of what the network depends on.
        onnx: whether to write ``models/model.onnx``, too.

    Raises:
        InputError: if ``folder`` exists, and see :func:`refuse_code`.
    """
    network = segmenter.network_.materialise().cpu()
    metadata = metadata_of(name, segmenter.plan_, versions, origin)
    texts = BundleTexts(metadata, inference_of(network, segmenter.plan_), model_card(metadata))
    refuse_code([name, *segmenter.plan_.classes])
    return write_whole(folder, network, texts, SCRIPTS, partial(write_onnx, network) if onnx else None)


@dataclass(frozen=True)
class BundleTexts:
    """``configs/metadata.json``, ``configs/inference.json`` and ``docs/README.md`` of a bundle."""

    metadata: dict
    inference: dict
    card: str


def write_whole(
    folder: Path,
    network: nn.Module,
    texts: BundleTexts,
    scripts: Sequence[str],
    onnx: Callable[[Path], None] | None = None,
) -> Path:
    """Write a bundle beside its place and rename it, so that a bundle that is there is whole.

    Args:
        folder: of the bundle, which must not exist; network: on the CPU.
        scripts: modules that the network and its transforms consist of; onnx: writes the network as ONNX, too.

    Raises:
        InputError: if ``folder`` exists.
    """
    refuse_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".bundle-") as beside:
        root = Path(beside) / folder.name
        write_texts(root, texts)
        write_scripts(root / "scripts", scripts)
        write_network(network, root / "models")
        if onnx is not None:
            onnx(root / "models" / "model.onnx")
        write_large_files(root)
        os.replace(root, folder)
    return folder


def write_network(network: nn.Module, folder: Path) -> None:
    """Write ``model.pt``, a bare ``state_dict``, and ``model.ts``, TorchScript."""
    folder.mkdir(parents=True)
    torch.save({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, folder / "model.pt")
    torch.jit.script(network).save(str(folder / "model.ts"))


def write_large_files(root: Path) -> None:
    """Name files that the model zoo keeps elsewhere, as it wants them named; where, whoever publishes them knows."""
    lines = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_MB * 1e6):
        lines += [f'  - path: "{path.relative_to(root).as_posix()}"', '    url: ""']
        lines += [f'    hash_val: "{digest(path)}"', '    hash_type: "sha256"']
    if lines:
        (root / "large_files.yml").write_text("\n".join(["large_files:", *lines]) + "\n", encoding="utf-8")


def write_texts(root: Path, texts: BundleTexts) -> None:
    """Write configuration, model card and licence."""
    for part in ("configs", "docs"):
        (root / part).mkdir(parents=True)
    for path, content in (("metadata", texts.metadata), ("inference", texts.inference)):
        (root / "configs" / f"{path}.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    (root / "docs" / "README.md").write_text(texts.card, encoding="utf-8")
    for file in ("configs/logging.conf", "LICENSE"):
        shutil.copy(TEXTS / Path(file).name, root / file)


def write_scripts(folder: Path, modules: Sequence[str]) -> None:
    """Copy the modules that the network needs, under another name, so that they never meet an installed package."""
    for module in modules:
        path = folder / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
        path.write_text(text.replace("monai_hyper.", "scripts."), encoding="utf-8")
    for part in [folder, *(each for each in folder.iterdir() if each.is_dir())]:
        (part / "__init__.py").write_text(f'"""Of monai_hyper {monai_hyper.__version__}."""\n', encoding="utf-8")


def provenance(segmenter: Segmenter, cases: Sequence[Case], weights: Path, polish: dict | None) -> dict:
    """Where a network came from, without a name of file or patient.

    Args:
        segmenter: after :meth:`Segmenter.fit`; cases: what it was fitted to.
        weights: of the hypernetwork; polish: "seconds" or "steps" of it and their number, None for no polish.
    """
    return {
        "date": date.today().isoformat(),
        "support": [{"image": digest(case.image), "label": digest(case.label)} for case in cases],
        "expected_dice": segmenter.expected_dice_,
        "polish": polish,
        "hypernetwork": digest(weights),
        "monai_hyper": monai_hyper.__version__,
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder in the order of their names."""
    found = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file()):
        found.update(file.read_bytes())
    return found.hexdigest()


def inference_of(network: nn.Module, plan: Plan) -> dict:
    """``configs/inference.json`` of a network that segments."""
    resample = {"_target_": "scripts.transforms.grid.ResampleToGridd", "keys": "image", "spacing": plan.spacing}
    harmonise = {"_target_": "scripts.transforms.intensity.HarmoniseIntensityd", "keys": "image"}
    harmonise |= {"modality": plan.modality, "window": list(plan.window) if plan.window else None}
    to_labels = {"_target_": "scripts.transforms.labels.LogitsToLabelsd", "keys": "pred", "query": "query"}
    to_labels |= {"spacing": plan.spacing, "values": list(plan.values)}
    save = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "seg"}
    save |= {"output_dtype": "$torch.int32", "resample": False, "separate_folder": False, "print_log": False}
    load = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "CopyItemsd", "keys": "image", "names": "query"},
    ]
    return workflow(
        imports=["$import glob", "$import os", "$import torch"],
        settings={"roi_size": None, "amp": False},
        datalist="$[{'image': path} for path in ([@dataset_dir] if os.path.isfile(@dataset_dir) else "
        "sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*'))))]",
        network_def={"_target_": "scripts.networks.rebuild.build", **describe(network)},
        before=[*load, resample, harmonise],
        inferer={"_target_": "scripts.inference.windowed.WindowedInferer", "roi_size": "@roi_size", "amp": "@amp"},
        after=[to_labels, save],
    )


def workflow(
    imports: list[str], settings: dict, datalist: str, network_def: dict, before: list[dict], inferer: dict,
    after: list[dict], handlers: Sequence[dict] = (),
) -> dict:  # fmt: skip
    """``configs/inference.json`` of a plain network that MONAI's evaluator runs over images.

    Args:
        settings: keys of its own that a user may set; before, after: transforms; handlers: beside the one that loads
            the weights.
    """
    load = {"_target_": "CheckpointLoader", "load_path": "@checkpoint", "load_dict": {"model": "@network"}}
    return {
        "imports": imports,
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/query'",
        "output_dir": "$@bundle_root + '/eval'",
        **settings,
        "datalist": datalist,
        "network_def": network_def,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "handlers": [load, *handlers],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata_of(name: str, plan: Plan, versions: dict[str, str], origin: dict) -> dict:
    """``configs/metadata.json`` of a network that segments, with where it came from."""
    channels = {str(i): each for i, each in enumerate(("background", *plan.classes))}
    values = {"0": "background"} | {str(value): each for value, each in zip(plan.values, plan.classes)}
    shape = {"spatial_shape": ["16*n", "16*n", "16*n"], "dtype": "float32", "value_range": [], "is_patch_data": False}
    image = {"type": "image", "format": "magnitude", "modality": plan.modality, "num_channels": 1, **shape}
    pred = {"type": "image", "format": "segmentation", "num_channels": len(channels), **shape}
    return {
        **general(versions, {"nibabel": versions["nibabel"]}),
        "name": name,
        "task": f"Segmentation of {', '.join(plan.classes)} on {plan.modality}",
        "description": "A plain 3D segmentation network whose weights a hypernetwork generated from annotated volumes.",
        "copyright": "see LICENSE; the rights in the annotated volumes stay with their owners",
        "data_type": "nibabel",
        "image_classes": f"single channel {plan.modality} volume",
        "label_classes": values,
        "pred_classes": values,
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {**pred, "channel_def": channels}},
        },
        "preparation": plan.to_dict(),
        "provenance": origin,
    }


def general(versions: dict[str, str], needed: dict[str, str]) -> dict:
    """What ``configs/metadata.json`` says of every generated network.

    Args:
        versions: of what it depends on; needed: packages that its images are read by, and their versions.
    """
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "generated"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {**needed, "pytorch-ignite": IGNITE},
        "authors": "generated by monai_hyper",
        "intended_use": "Research only, not for clinical use",
        "references": ["Ha, D. et al., HyperNetworks, 2016, https://arxiv.org/abs/1609.09106"],
    }
