"""A generated network with what it needs to segment; it can be kept in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_hyper.data.tensors import load_parameters, load_tensors, save_tensors
from monai_hyper.data.volumes import read_image
from monai_hyper.inference.pipeline import Plan, postprocess, preprocess
from monai_hyper.networks.confidence import expected_dice
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork, restored
from monai_hyper.networks.rebuild import build, describe
from monai_hyper.types import InputError


@dataclass(frozen=True)
class Fitted:
    """A generated network and how volumes are prepared for it.

    Args:
        network: the network; plan: of its task.
        device: where the network is.
    """

    network: ConditionedNetwork | CascadeNetwork
    plan: Plan
    device: str = "cpu"

    @torch.no_grad()
    def answers(self, query: MetaTensor) -> list[Tensor]:
        """Logits ``(1, N, d, h, w)`` on the task's grid of a volume as read, ``(1, D, H, W)``; of K = 1 two answers."""
        return self.network.answers(preprocess(query, self.plan).as_tensor()[None].to(self.device))

    def predict(self, query: str | Path | MetaTensor) -> MetaTensor:
        """Segment one volume.

        Args:
            query: a file, a folder of one DICOM series, or a volume ``(1, D, H, W)`` with its affine.

        Returns:
            label map on the query's own grid, ``(1, D, H, W)`` int64, in the values of the support's label maps.

        Raises:
            InputError: for defects of the file.
        """
        return self.answer(query)[0]

    def answer(self, query: str | Path | MetaTensor) -> tuple[MetaTensor, float]:
        """Segment one volume as :meth:`predict` does, and tell what Dice to expect, from 0 to 1."""
        volume = query if isinstance(query, MetaTensor) else read_image(query)
        answers = self.answers(volume)
        return postprocess(answers[0][0].cpu(), self.plan, volume), expected_dice(self.network, answers)

    def save(self, path: Path) -> Path:
        """Keep the network in a safetensors file; it holds neither the examples nor the hypernetwork.

        Example:
            >>> from tempfile import mkdtemp
            >>> from monai_hyper.data.phantom import write_phantom
            >>> from monai_hyper.inference.segmenter import Segmenter
            >>> folder = write_phantom(Path(mkdtemp()), "head_mr", cases=2)
            >>> fitted = Segmenter().fit(folder).fitted
            >>> again, scan = Fitted.load(fitted.save(folder / "net.safetensors")), folder / "images/head_mr_00.nii.gz"
            >>> bool((again.predict(scan) == fitted.predict(scan)).all())
            True
        """
        module = self.network.materialise()
        facts = {"network": describe(module), "plan": self.plan.to_dict(), "expected_dice": self.network.expected_dice}
        save_tensors({name: tensor.clone() for name, tensor in module.state_dict().items()}, path, facts)
        return path

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Fitted:
        """The network that :meth:`save` kept.

        Raises:
            InputError: if the file is missing, damaged, or of another kind.
        """
        tensors, facts = load_tensors(path)
        try:
            module, plan, expected = build(**facts["network"]), Plan.from_dict(facts["plan"]), facts["expected_dice"]
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path}: expected a generated network, found something else ({error}).") from error
        load_parameters(module, tensors, path)
        return cls(restored(module.eval().to(device), plan.classes, expected), plan, device)
