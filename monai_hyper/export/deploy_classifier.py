"""Write a generated classifier as an ordinary MONAI bundle, see :mod:`monai_hyper.export.deploy`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import monai_hyper
from monai_hyper.data.examples import Example, fingerprint
from monai_hyper.export.deploy import BundleTexts, digest, general, refuse_code, workflow, write_whole
from monai_hyper.export.model_card import class_card
from monai_hyper.export.onnx import write_classifier_onnx
from monai_hyper.inference.few_shot_classifier import FewShotClassifier
from monai_hyper.networks.classifier import Classifier, ClassifierBody
from monai_hyper.transforms.pictures import ClassPlan

READERS = ("nibabel", "itk", "SimpleITK", "pydicom", "pillow")
"""Packages that images are read by."""

SCRIPTS = (
    "types", "data/dicom", "data/labels", "data/pictures", "data/volumes", "networks/functional",
    "networks/convolution", "networks/classifier", "transforms/grid", "transforms/intensity", "transforms/pictures",
    "inference/class_answer",
)  # fmt: skip
"""Modules that a generated classifier and its transforms consist of; they import nothing else of the package."""


def write_classifier(
    classifier: FewShotClassifier, folder: Path, name: str, origin: dict, versions: dict[str, str], onnx: bool = False
) -> Path:
    """Write the bundle of a classifier, see :func:`monai_hyper.export.deploy.write_whole`.

    Args:
        classifier: after :meth:`FewShotClassifier.fit`.
        folder: of the bundle, which must not exist; name: of the bundle, for people.
        origin: see :func:`class_provenance`; versions: of what the network depends on.
        onnx: whether to write ``models/model.onnx``, too.

    Raises:
        InputError: if ``folder`` exists, and see :func:`monai_hyper.export.deploy.refuse_code`.
    """
    network = copy.deepcopy(classifier.network_).cpu()
    plan, threshold = classifier.plan_, classifier.threshold_
    refuse_code([name, *plan.texts])
    refuse_code(plan.classes, read=True)
    metadata = class_metadata(name, plan, versions, origin)
    texts = BundleTexts(metadata, class_inference(network, plan, threshold), class_card(metadata, threshold))
    as_onnx = partial(write_classifier_onnx, network, grid=plan.grid) if onnx else None
    return write_whole(folder, network, texts, SCRIPTS, as_onnx)


def class_provenance(classifier: FewShotClassifier, examples: Sequence[Example], weights: Path) -> dict:
    """Where a classifier came from, without a name of file or patient.

    Args:
        classifier: after :meth:`FewShotClassifier.fit`; examples: what it was fitted to; weights: of the hypernetwork.
    """
    return {
        "date": date.today().isoformat(),
        "support": [{"image": fingerprint(example), "class": example.label} for example in examples],
        "expected_accuracy": classifier.expected_accuracy_,
        "reliable": classifier.reliable,
        "hypernetwork": digest(weights),
        "monai_hyper": monai_hyper.__version__,
    }


def class_inference(network: Classifier, plan: ClassPlan, threshold: float) -> dict:
    """``configs/inference.json`` of a classifier.

    Raises:
        ValueError: if the network was generated for another body than :class:`ClassifierBody`.
    """
    body, own = network.body, "scripts.networks.classifier"
    if not isinstance(body, ClassifierBody):
        raise ValueError(f"the network's body is {type(body).__name__}; expected ClassifierBody.")
    sizes = {"_target_": f"{own}.ClassifierBody", "channels": list(body.channels), "stride": body.stride}
    answer = {"_target_": "scripts.inference.class_answer.LogitsToClassd", "keys": "pred"}
    images = "(find_images(@dataset_dir) if os.path.exists(@dataset_dir) else [])"  # a bundle is looked at without any
    config = workflow(
        imports=["$import os", "$import torch", "$from scripts.data.pictures import find_images"],
        settings={"threshold": threshold, "plan": plan.to_dict()},
        datalist=f"$[{{'image': str(path), 'query': path.name}} for path in {images}]",
        network_def={"_target_": f"{own}.Classifier", "body": sizes, "classes": len(plan.classes)},
        before=[
            {"_target_": "scripts.transforms.pictures.ReadPictured", "keys": "image"},
            {"_target_": "scripts.transforms.pictures.PreparePictured", "keys": "image", "plan": "@plan"},
        ],
        inferer={"_target_": "SimpleInferer"},
        after=[{**answer, "classes": "@plan#classes", "threshold": "@threshold"}],
        handlers=[{"_target_": "scripts.inference.class_answer.AnswerTable", "output_dir": "@output_dir"}],
    )
    return {**config, "run": ["$find_images(@dataset_dir)", *config["run"]]}  # says what is missing


def class_metadata(name: str, plan: ClassPlan, versions: dict[str, str], origin: dict) -> dict:
    """``configs/metadata.json`` of a classifier, with where it came from."""
    classes = {str(i): each for i, each in enumerate(plan.classes)}
    modality = "pictures" if plan.scale == "picture" else plan.scale
    kind = f"{'colour' if plan.channels == 3 else 'grey'} {'slice' if plan.grid[2] == 1 else 'volume'}"
    values = {"dtype": "float32", "value_range": [], "is_patch_data": False}
    image = {"type": "image", "format": "magnitude", "modality": modality, "num_channels": 1, **values}
    pred = {"type": "probabilities", "format": "logits of the classes", "num_channels": len(classes), **values}
    return {
        **general(versions, {package: version(package) for package in READERS}),
        "name": name,
        "task": f"Classification of {modality}: {', '.join(plan.classes)}",
        "description": "A plain classifier whose weights a hypernetwork generated from a few examples of each class.",
        "copyright": "see LICENSE; the rights in the examples stay with their owners",
        "data_type": "nibabel, ITK, DICOM, pillow or NumPy",
        "image_classes": f"{kind}, {modality}",
        "label_classes": classes,
        "pred_classes": classes,
        "network_data_format": {
            "inputs": {"image": {**image, "spatial_shape": list(plan.grid), "channel_def": {"0": "image"}}},
            "outputs": {"pred": {**pred, "spatial_shape": [], "channel_def": classes}},
        },
        "preparation": plan.to_dict(),
        "provenance": origin,
    }
