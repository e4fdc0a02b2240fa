"""From files to files: the whole way in one object."""

from __future__ import annotations

import time
from pathlib import Path

from monai.data import MetaTensor
from torch import Tensor

from monai_hyper.data.support import SupportSet
from monai_hyper.inference.fitted import Fitted
from monai_hyper.inference.pipeline import Plan, read_support
from monai_hyper.methods.fitting import Budget
from monai_hyper.methods.hyper import Hyper
from monai_hyper.methods.method import Method
from monai_hyper.methods.polish import Polish
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork
from monai_hyper.networks.released import load_model


class Segmenter:
    """Segment new volumes after the example of a few annotated ones.

    Args:
        weights: file of the model's weights; default: the released ones.
        device: where to compute, such as "cpu" or "cuda".
        polish_seconds: of gradient steps on the support set, s, see :class:`monai_hyper.methods.polish.Polish`; or
        polish_steps: how many of them. With 0 of both the network stays as it was generated.

    Attributes:
        network_: the generated network, after :meth:`fit`.
        plan_: how volumes are prepared, after :meth:`fit`.
        classes_: names of the foreground classes, after :meth:`fit`.
        fit_seconds_: duration of the generation of the network, s.
        expected_dice_: of the support volumes by each other, mean over volumes and classes, by the network as it was
            generated; None for a lone volume.

    Example:
        >>> from tempfile import mkdtemp
        >>> from monai_hyper.data.phantom import write_phantom
        >>> folder = write_phantom(Path(mkdtemp()), "head_mr", cases=2)
        >>> segmenter = Segmenter().fit(folder)
        >>> from monai_hyper.data.volumes import read_image
        >>> query = next((folder / "images").iterdir())
        >>> segmenter.predict(query).shape == read_image(query).shape
        True
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str = "cpu",
        polish_seconds: float = 0.0,
        polish_steps: int = 0,
    ) -> None:
        self.model = load_model(None if weights is None else Path(weights)).to(device)
        self.device, self.polish_seconds = device, polish_seconds
        asked = polish_seconds or polish_steps
        budget = Budget(steps=polish_steps or None, seconds=polish_seconds or None) if asked else None
        self.method: Method = Polish(self.model, budget) if budget else Hyper(self.model)

    def fit(self, support: str | Path | SupportSet, plan: Plan | None = None) -> Segmenter:
        """Generate the network of a task.

        Args:
            support: folder of annotated volumes, or a support set that was prepared by ``plan``.
            plan: how volumes are prepared; needed with a support set, made from a folder.

        Raises:
            InputError: for defects of the folder, see :func:`read_support`.
            TypeError: for a support set without its plan.
        """
        if not isinstance(support, SupportSet):
            support, plan = read_support(support, plan)
        elif plan is None:
            raise TypeError("fit() got a SupportSet without its plan; read_support returns both, pass both on.")
        begun = time.perf_counter()
        self.network_: ConditionedNetwork | CascadeNetwork = self.method.fit(support.to(self.device))
        self.fit_seconds_ = time.perf_counter() - begun
        self.expected_dice_ = self.network_.expected_dice
        self.plan_, self.classes_ = plan, plan.classes
        return self

    @property
    def fitted(self) -> Fitted:
        """The network with what it needs to segment, and nothing else.

        Raises:
            RuntimeError: before :meth:`fit`.
        """
        if not hasattr(self, "network_"):
            raise RuntimeError("this Segmenter has seen no support set; call fit() first.")
        return Fitted(self.network_, self.plan_, self.device)

    def logits(self, query: MetaTensor) -> Tensor:
        """Logits on the task's grid, ``(N, d, h, w)``, of a volume as read, ``(1, D, H, W)``.

        Raises:
            RuntimeError: before :meth:`fit`.
        """
        return self.fitted.answers(query)[0][0].cpu()

    def predict(self, query: str | Path | MetaTensor) -> MetaTensor:
        """Segment one volume, see :meth:`Fitted.predict`.

        Raises:
            InputError: for defects of the file.
            RuntimeError: before :meth:`fit`.
        """
        return self.fitted.predict(query)

    def answer(self, query: str | Path | MetaTensor) -> tuple[MetaTensor, float]:
        """Segment one volume as :meth:`predict` does, and tell what Dice to expect, from 0 to 1."""
        return self.fitted.answer(query)
