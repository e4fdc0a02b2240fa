"""The READMEs of bundles that were generated."""

from __future__ import annotations

CARD = """# {name}

{task}. A plain 3D segmentation network, whose weights
a hypernetwork generated from {shots} annotated volume{s} on {date} with monai_hyper {monai_hyper}{polish}.
It needs neither that package nor the annotated volumes.

**Research only. Not a medical device, not for clinical use. Look at every result.**

## Use
In this folder, with `monai`, `torch`, `nibabel`, `pytorch-ignite` and `fire` installed:
```
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --dataset_dir scans --output_dir results
```
`dataset_dir` is a NIfTI file or a folder of them; `results` gets one label map NAME_seg.nii.gz each, on the scan's own
grid.

| Value | Class |
|---|---|
{classes}

| Key of `inference.json` | Means | Default |
|---|---|---|
| `dataset_dir` | scan, or folder of scans | `query` in the bundle |
| `output_dir` | folder for the label maps | `eval` in the bundle |
| `device` | where to compute | the GPU if there is one |
| `roi_size` | sides of the windows that the network reads, in voxels of its grid | none: all at once |
| `amp` | whether the network may read in low precision | false |

Whatever `roi_size` and `amp` say, what is expected where is found in the whole scan and in float32.

`models/model.pt` holds the weights, `models/model.ts` the same network as TorchScript, and `models/model.onnx`, where
it is, as ONNX. A scan on a grid of {spacing:g} mm, in the orientation RAS, with intensities as
`configs/inference.json` prepares them, goes in as `(1, 1, D, H, W)`, and logits `(1, {channels}, D, H, W)` on that grid
come out. In onnxruntime set two `SessionOptions`: `enable_mem_reuse = False`, since the alignment is thousands of small
operators and planning the memory of each takes very long, and `graph_optimization_level` to
`ORT_ENABLE_BASIC`, since fused operators round differently, which can tip a choice of the alignment. MONAI's
`onnx_export` wants `--use_trace True --input_shape "[1, 1, 64, 64, 64]"
--converter_kwargs "{{'dynamo': False, 'opset_version': 20}}"`.

## Data
{shots} {modality} volume{s}, known by the SHA-256 of their files in `configs/metadata.json`: the examples are not part
of this bundle. The hypernetwork itself was trained on other data, see the documentation of monai_hyper.

## Performance
{expected}

## Limits
- Scans should show about the region that the examples showed, in the same modality and of like quality.
- Details finer than {spacing:g} mm are lost, in large scans coarser ones too.
- Nothing tells whether a scan differs from the examples. Judge the network on annotated scans of your own before you
  rely on it.
"""

CLASS_CARD = """# {name}

{task}. A plain residual network, whose weights a hypernetwork generated
from {source} on {date} with monai_hyper {monai_hyper}.
It needs neither that package nor the examples.

**Research only. Not a medical device, not for clinical use. Look at every result.**

## Use
In this folder, with `monai`, `torch`, `pytorch-ignite`, `fire` and, to read images, {readers} installed:
```
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --dataset_dir scans --output_dir results
```
`dataset_dir` is an image, a folder of images, or the folder of a DICOM series: NIfTI, NRRD, MetaImage, DICOM, PNG,
JPEG, BMP, NPZ or NPY, {kind} as the examples were. `results/classes.csv` gets a row for every image:
its name, its class, empty where none is probable enough, and the probability of each class.

| Output | Class | Description |
|---|---|---|
{classes}

| Key of `inference.json` | Means | Default |
|---|---|---|
| `dataset_dir` | image, or folder of images | `query` in the bundle |
| `output_dir` | folder for the table | `eval` in the bundle |
| `threshold` | least probability of an answer; 0: always answer | {threshold:.4g} |
| `device` | where to compute | the GPU if there is one |

`models/model.pt` holds the weights, `models/model.ts` the same network as TorchScript, and `models/model.onnx`, where
it is, as ONNX. An image as `configs/inference.json` prepares it goes in as `(1, 1, {grid})`, and calibrated logits
`(1, {channels})` come out.

## Data
{data}
The hypernetwork itself was trained on other data, see the documentation of monai_hyper.

## Performance
{expected}

## Limits
- Images should show about what the examples show, in the same modality and of like quality. What belongs to none of the
  classes may be given one of them, too: nothing tells whether an image differs from the examples.
- The threshold and the probabilities were fitted to the examples; few examples move them little.
- Judge the classifier on images of your own, whose classes you know, before you rely on it.
"""

FROM_EXAMPLES = """The examples segmented each other with a Dice of {:.2f} in the mean, each by a network of the
others that was not polished. That is an estimate from the examples, not a test."""

FROM_ONE = "One example cannot be checked against another: nothing is known of it."


def model_card(metadata: dict) -> str:
    """The README in Markdown, from what ``configs/metadata.json`` says."""
    origin, plan = metadata["provenance"], metadata["preparation"]
    shots, expected, polish = len(origin["support"]), origin["expected_dice"], origin["polish"]
    classes = "\n".join(f"| {value} | {name} |" for value, name in metadata["pred_classes"].items())
    return CARD.format(
        name=metadata["name"],
        task=metadata["task"],
        shots=shots,
        s="" if shots == 1 else "s",
        date=origin["date"],
        monai_hyper=origin["monai_hyper"],
        polish="" if polish is None else ", then refined by {} {} of gradient steps".format(*reversed(*polish.items())),
        classes=classes,
        channels=len(metadata["pred_classes"]),
        spacing=plan["spacing"],
        modality=plan["modality"],
        expected=FROM_ONE if expected is None else FROM_EXAMPLES.format(expected),
    )


CLASS_FROM_EXAMPLES = """Of the examples {:.0%} are classified rightly by a classifier of the others. That is an
estimate from the examples, not a test."""

CLASS_FROM_ONE = "No class has several examples that could be checked against each other: nothing is known of it."


def class_card(metadata: dict, threshold: float) -> str:
    """The README of a classifier in Markdown, from what ``configs/metadata.json`` says.

    Args:
        threshold: least probability of an answer.
    """
    origin, plan = metadata["provenance"], metadata["preparation"]
    expected, shots = origin["expected_accuracy"], [item["class"] for item in origin["support"]]
    counts = ", ".join(f"{shots.count(name)} {name}" for name in plan["classes"])
    data = (
        f"{counts}; known by the SHA-256 of their files in `configs/metadata.json`: the examples are not part of this"
    )
    rows = zip(metadata["pred_classes"].items(), plan["texts"])
    readers = [name for name in metadata["required_packages_version"] if name != "pytorch-ignite"]
    return CLASS_CARD.format(
        name=metadata["name"],
        task=metadata["task"],
        source=f"{len(shots)} example{'' if len(shots) == 1 else 's'}" if shots else "descriptions alone",
        date=origin["date"],
        monai_hyper=origin["monai_hyper"],
        readers=", ".join(f"`{name}`" for name in readers),
        kind=f"{'slices' if plan['grid'][2] == 1 else 'volumes'}{' in colour' if plan['channels'] == 3 else ''}",
        classes="\n".join(f"| {number} | {name} | {text} |" for (number, name), text in rows),
        threshold=threshold,
        grid=", ".join(str(side) for side in plan["grid"]),
        channels=len(plan["classes"]),
        data=f"{data}\nbundle." if shots else "There was no example.",
        expected=CLASS_FROM_ONE if expected is None else CLASS_FROM_EXAMPLES.format(expected),
    )
