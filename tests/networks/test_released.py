"""The released weights: intact, small, and a network that uses its support."""

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from monai_hyper.data.classes import ClassTable
from monai_hyper.data.folder import list_cases, read_pair
from monai_hyper.data.phantom import write_phantom
from monai_hyper.data.support import SupportSet
from monai_hyper.data.tensors import load_tensors, save_tensors
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.inference.pipeline import make_plan, preprocess_pair, read_support, support_from_pairs
from monai_hyper.methods.hyper import Hyper
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.networks.model import HyperModel
from monai_hyper.networks.released import RELEASED, load_model
from monai_hyper.types import InputError


@dataclass(frozen=True)
class Task:
    """A support set, and prepared queries ``(1, 1, d, h, w)`` with their label maps ``(1, d, h, w)``."""

    support: SupportSet
    queries: list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def released() -> HyperModel:
    return load_model()


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Task:
    """Head MR: four support volumes, two queries."""
    folder = write_phantom(tmp_path_factory.mktemp("phantom"), "head_mr", cases=8)
    support, plan = read_support(folder, cases=list_cases(folder, "support"))
    pairs = [preprocess_pair(*read_pair(case), plan) for case in list_cases(folder, "query")[:2]]
    return Task(support, [(image.as_tensor()[None], label.as_tensor()) for image, label in pairs])


@pytest.fixture(scope="module")
def hippocampus(request) -> Task:
    """Whole hippocampus: four support volumes, six queries."""
    folder = request.config.rootpath.parent / "shared" / "data" / "hippocampus_mr"
    cases = list_cases(folder, "select")
    random.Random(0).shuffle(cases)
    pairs = []
    for case in cases[:10]:
        image, label = read_pair(case)
        pairs.append((image, (label > 0).long().copy_meta_from(label, copy_attr=False)))
    plan = make_plan(pairs[:4], ClassTable((1,), ("hippocampus",)), "MR")
    prepared = [preprocess_pair(image, label, plan) for image, label in pairs[4:]]
    queries = [(image.as_tensor()[None], label.as_tensor()) for image, label in prepared]
    return Task(support_from_pairs(pairs[:4], plan), queries)


@torch.no_grad()
def _dice(method: Hyper | MeanMask, task: Task, support: SupportSet | None = None) -> float:
    """Mean over queries and classes, with another support set than the task's own if one is given."""
    network = method.fit(support or task.support)
    values = tuple(range(1, len(task.support.classes) + 1))
    scores = [dice_per_class(network(image).argmax(1), label, values) for image, label in task.queries]
    return float(torch.tensor(scores).mean())


def _with_moved_masks(support: SupportSet) -> SupportSet:
    """Masks moved by half of the field of view along every axis."""
    labels = torch.zeros_like(support.labels)
    for shot, (d, h, w) in enumerate(support.extents.tolist()):
        own = support.labels[shot, :, :d, :h, :w]
        labels[shot, :, :d, :h, :w] = own.roll((d // 2, h // 2, w // 2), (1, 2, 3))
    return replace(support, labels=labels)


def _with_noise_images(support: SupportSet) -> SupportSet:
    """Noise of the mean and the deviation of the images."""
    images = support.images
    return replace(support, images=images.mean() + images.std() * torch.randn_like(images))


def test_weights_are_small_finite_and_halves():
    tensors, facts = load_tensors(RELEASED)
    assert RELEASED.stat().st_size < 25e6
    assert all(t.dtype == torch.float16 for t in tensors.values())
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    assert facts["step"] > 0


def test_loaded_model_holds_the_stored_values_and_is_ready(released):
    tensors, _ = load_tensors(RELEASED)
    assert not released.training
    for name, value in released.state_dict().items():
        stored = tensors[name].float() if name in tensors else torch.zeros_like(value)
        assert value.dtype == torch.float32 and torch.equal(value, stored), name
        assert name in tensors or name in released.younger


def test_weights_without_the_younger_parameters_load_and_no_other_may_be_missing(tmp_path):
    made = HyperModel()
    assert {name.split(".")[0] for name in made.younger} == {"scale", "polish", "listen", "speaker"}
    tensors = {name: value for name, value in made.state_dict().items() if name not in made.younger}
    save_tensors(tensors, tmp_path / "older.safetensors", {})
    for name in made.younger:
        assert not load_model(tmp_path / "older.safetensors").get_parameter(name).any()
        save_tensors(tensors | {name: torch.ones_like(made.get_parameter(name))}, tmp_path / "newer.safetensors", {})
        assert bool((load_model(tmp_path / "newer.safetensors").get_parameter(name) == 1).all())
    for name in ("head.log_penalty", "body.thin.conv.weight"):
        save_tensors({n: t for n, t in tensors.items() if n != name}, tmp_path / "broken.safetensors", {})
        with pytest.raises(InputError, match=f"'{name}' is missing"):
            load_model(tmp_path / "broken.safetensors")
    wrong = tensors | {"scale": torch.zeros(1, 192)}
    save_tensors(wrong, tmp_path / "broken.safetensors", {})
    with pytest.raises(InputError, match="'scale' is"):
        load_model(tmp_path / "broken.safetensors")


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(RELEASED.read_bytes()[:100_000])
    with pytest.raises(InputError, match="cut.safetensors"):
        load_model(path)


@torch.no_grad()
def test_support_order_does_not_matter_to_the_answer(released, phantom):
    image, _ = phantom.queries[0]
    answer = released(image, phantom.support).argmax(1)
    reordered = released(image, phantom.support.subset([2, 3, 1, 0])).argmax(1)
    assert float((answer == reordered).float().mean()) > 0.999


def test_released_weights_use_the_support_of_the_phantom(released, phantom):
    method = Hyper(released)
    plain = _dice(method, phantom)
    moved = _dice(method, phantom, _with_moved_masks(phantom.support))
    noise = _dice(method, phantom, _with_noise_images(phantom.support))
    print(f"plain {plain:.3f}, moved masks {moved:.3f}, noise images {noise:.3f}")
    assert plain > 0.3
    assert moved <= plain / 2
    assert noise <= plain - 0.1


@pytest.mark.shared_data
def test_released_weights_use_the_support_of_the_hippocampus(released, hippocampus):
    method = Hyper(released)
    plain, mean = _dice(method, hippocampus), _dice(MeanMask(), hippocampus)
    moved = _dice(method, hippocampus, _with_moved_masks(hippocampus.support))
    noise = _dice(method, hippocampus, _with_noise_images(hippocampus.support))
    print(f"plain {plain:.3f}, moved masks {moved:.3f}, noise images {noise:.3f}, mean {mean:.3f}")
    assert plain > mean
    assert moved <= plain / 2
    assert noise <= mean + 0.02
