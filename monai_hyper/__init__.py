"""Few-shot segmentation and classification of 3D medical images by generated networks, on top of MONAI."""

from importlib import import_module

__version__ = "0.1.0"

_WHERE = {
    "FewShotClassifier": "monai_hyper.inference.few_shot_classifier",
    "HyperClassifier": "monai_hyper.networks.classification",
    "HyperInferer": "monai_hyper.inference.inferer",
    "HyperModel": "monai_hyper.networks.model",
    "InputError": "monai_hyper.types",
    "Segmenter": "monai_hyper.inference.segmenter",
    "SupportSet": "monai_hyper.data.support",
    "load_classifier": "monai_hyper.networks.released",
    "load_model": "monai_hyper.networks.released",
    "read_support": "monai_hyper.inference.pipeline",
}
__all__ = [*_WHERE]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'monai_hyper' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
