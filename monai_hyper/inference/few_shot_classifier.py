"""From images of each class to a classifier, and from a file to its class."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_hyper.data.pictures import read_picture
from monai_hyper.data.support import SupportSet
from monai_hyper.inference.class_answer import ClassAnswer, answer_of
from monai_hyper.inference.class_pipeline import read_class_support
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.classifier import Classifier
from monai_hyper.networks.doubt import fit_temperature, fit_threshold, judged
from monai_hyper.networks.released import load_classifier
from monai_hyper.transforms.pictures import ClassPlan, prepare

RELIABLE = 0.9
"""Share of the answers that shall be right where one is given."""


class FewShotClassifier:
    """Classify images after a few examples of each class, or after a description of it.

    Args:
        weights: file of the model's weights, or the model itself; default: the released weights.
        device: where to compute, such as "cpu" or "cuda".
        reliable: share of the answers that shall be right where one is given, 0 to 1; 0: always answer.

    Attributes:
        network_: the generated classifier, an ordinary module, calibrated, after :meth:`fit`.
        plan_: how images are prepared; temperature_, threshold_: see :mod:`monai_hyper.networks.doubt`.
        fit_seconds_: duration of the generation, s.
        expected_accuracy_: share of the examples that the others classify rightly; None where no class has several.
    """

    def __init__(
        self,
        weights: str | Path | HyperClassifier | None = None,
        device: str | torch.device = "cpu",
        reliable: float = RELIABLE,
    ) -> None:
        model = weights if isinstance(weights, HyperClassifier) else load_classifier(weights and Path(weights))
        self.model = model.to(device)
        self.device, self.reliable = device, reliable

    @torch.no_grad()
    def fit(self, support: str | Path | SupportSet, plan: ClassPlan | None = None) -> FewShotClassifier:
        """Generate the classifier of a task.

        Args:
            support: folder of examples or CSV file, see :func:`read_class_support`; or a support set, with its plan.

        Raises:
            InputError: for defects of the folder.
            TypeError: for a support set without its plan.
        """
        if not isinstance(support, SupportSet):
            support, plan = read_class_support(support)
        elif plan is None:
            raise TypeError("fit() got a SupportSet without its plan; read_class_support returns both, pass both on.")
        begun = time.perf_counter()
        conditioned = self.model.condition(support.to(self.device))
        self.fit_seconds_ = time.perf_counter() - begun
        known = judged(support.labels.cpu(), len(support.classes))
        own, labels = conditioned.own.cpu()[known], support.labels.cpu()[known]
        self.temperature_ = fit_temperature(own, labels)
        self.threshold_ = fit_threshold(own / self.temperature_, labels, self.reliable) if self.reliable > 0 else 0.0
        self.expected_accuracy_ = float((own.argmax(1) == labels).float().mean()) if len(own) else None
        self.network_: Classifier = conditioned.materialise(self.temperature_)
        self.plan_, self.classes_ = plan, plan.classes
        return self

    @torch.no_grad()
    def probabilities(self, image: MetaTensor) -> Tensor:
        """Of every class, ``(N,)``, for an image as read, ``(C, D, H, W)``.

        Raises:
            RuntimeError: before :meth:`fit`.
        """
        if not hasattr(self, "network_"):
            raise RuntimeError("this FewShotClassifier has seen no support set; call fit() first.")
        return self.network_(prepare(image, self.plan_)[None].to(self.device)).softmax(1)[0].cpu()

    def predict(self, query: str | Path | MetaTensor) -> ClassAnswer:
        """Classify one image.

        Args:
            query: a file, a folder of one DICOM series, or an image ``(C, D, H, W)`` with its affine.

        Raises:
            InputError: for defects of the file, and for another kind of image than the examples.
            RuntimeError: before :meth:`fit`.
        """
        found = self.probabilities(query if isinstance(query, MetaTensor) else read_picture(query))
        return answer_of(found, self.classes_, self.threshold_)
