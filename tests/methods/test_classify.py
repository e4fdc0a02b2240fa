"""Baselines that classify: one interface, and what each of them is by definition."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_hyper.data.tensors import save_tensors
from monai_hyper.methods.classify.bodies import BODIES
from monai_hyper.methods.classify.gradient import FineTuneClassifier, LinearProbe, ScratchClassifier
from monai_hyper.methods.classify.learners import CLASS_LEARNERS, MamlClassifier, PrototypeClassifier, prototypes
from monai_hyper.methods.classify.registry import CLASS_METHODS, ClassShelf, make_class_methods
from monai_hyper.methods.fitting import Budget
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.classifier import ClassifierBody
from monai_hyper.synthesis.class_images import ImageTasks, ImageTaskSettings, jittered
from monai_hyper.types import InputError


def _images(classes: int = 4, each: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is where they are bright."""
    labels = torch.arange(classes).repeat_interleave(each)
    images = 0.3 * torch.randn(len(labels), 1, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    for value in range(classes):
        images[labels == value, :, 4 * value : 4 * value + 4] += 2
    return images, labels


@pytest.fixture(scope="module")
def batch():
    return ImageTasks(*_images(), ImageTaskSettings((3, 3), (2, 2), 3, tasks=2)).batch(0)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Random weights of everything that is meta-trained."""
    folder = tmp_path_factory.mktemp("baselines")
    torch.manual_seed(0)
    for name, kind in CLASS_LEARNERS.items():
        learner = kind(body="conv4")
        facts = {"method": name, "learner": learner.settings}
        save_tensors(dict(learner.state_dict()), folder / f"{name}.safetensors", facts)
    save_tensors(dict(HyperClassifier().state_dict()), folder / "hyper.safetensors", {})
    return ClassShelf(folder / "hyper.safetensors", folder)


@pytest.mark.parametrize("name", [n for n in CLASS_METHODS if n not in ("scratch", "fine-tune")])
def test_methods_have_one_interface(shelf, batch, name):
    support, (images, _) = batch.support(0), batch.queries(0)
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            network = CLASS_METHODS[name](shelf).fit(support)
            assert torch.is_grad_enabled() == mode
    with torch.no_grad():
        logits = network(images)
    assert logits.shape == (9, 3) and bool(torch.isfinite(logits).all())
    again = CLASS_METHODS[name](shelf).fit(support)
    with torch.no_grad():
        assert_close(again(images), logits)


@pytest.mark.parametrize("kind", list(CLASS_LEARNERS.values()))
@pytest.mark.parametrize("body", list(BODIES))
def test_every_parameter_learns_from_a_task(kind, body, batch):
    learner = kind(body=body)
    torch.nn.init.normal_(learner.row) if hasattr(learner, "row") else None
    loss, logits = learner.task_loss(batch, 0)
    loss.backward()
    assert logits.shape == (9, 3)
    assert [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_prototypes_are_means_and_the_nearest_one_wins(batch):
    features, labels = torch.randn(6, 5), torch.tensor([0, 1, 0, 1, 1, 0])
    found = prototypes(features, labels, 2)
    assert_close(found[1], features[labels == 1].mean(0))
    learner = PrototypeClassifier()
    distance = torch.cdist(features, found)
    assert torch.equal(learner.logits(found, features).argmax(1), distance.argmin(1))


def test_more_steps_of_maml_fit_the_examples_better(batch):
    support, losses = batch.support(0), []
    for steps in (0, 5):
        torch.manual_seed(0)
        network = MamlClassifier("conv4", steps).fit(support)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(network(support.images), support.labels)))
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", ["scratch", "fine-tune"])
def test_training_on_the_examples_classifies_what_is_easy(kind, batch):
    budget = Budget(steps=15)
    method = ScratchClassifier(budget) if kind == "scratch" else FineTuneClassifier(ClassifierBody, budget)
    before = torch.get_rng_state()
    network = method.fit(batch.support(0))
    assert torch.equal(torch.get_rng_state(), before)
    images, labels = batch.queries(0)
    assert float((network(images).argmax(1) == labels).float().mean()) > 0.7


def test_a_linear_probe_separates_what_its_body_sees(batch):
    torch.manual_seed(0)
    network = LinearProbe(HyperClassifier(ClassifierBody((8, 8, 16, 16)), 16).eval()).fit(batch.support(0))
    support = batch.support(0)
    with torch.no_grad():
        assert float((network(support.images).argmax(1) == support.labels).float().mean()) == 1


def test_unknown_methods_and_absent_weights_are_named(tmp_path):
    with pytest.raises(InputError, match="unknown method 'svm'; known are hyper, prototype"):
        make_class_methods(["svm"])
    with pytest.raises(InputError, match="no weights of 'maml-classifier'"):
        make_class_methods(["maml"], baselines=tmp_path)


# drawing tasks from labelled images


def test_a_batch_of_images_is_balanced_and_depends_on_its_number_alone():
    tasks = ImageTasks(*_images(), ImageTaskSettings((2, 4), (1, 3), 2, tasks=2, turned=True, augment=True), seed=3)
    for number in range(4):
        batch, again = tasks.batch(number), tasks.batch(number)
        assert torch.equal(batch.images, again.images) and torch.equal(batch.labels, again.labels)
        for task in range(2):
            support, (images, labels) = batch.support(task), batch.queries(task)
            assert torch.bincount(support.labels).tolist() == [batch.shots] * batch.classes
            assert torch.bincount(labels).tolist() == [2] * batch.classes and len(images) == len(labels)
    assert not torch.equal(tasks.batch(0).images, tasks.batch(1).images[:, : tasks.batch(0).images.shape[1]])


def test_examples_and_queries_of_a_task_are_different_images():
    images, labels = _images(each=5)
    batch = ImageTasks(images, labels, ImageTaskSettings((4, 4), (2, 2), 3)).batch(0)
    assert len(torch.unique(batch.images[0].flatten(1), dim=0)) == 20


def test_slices_are_moved_within_their_plane():
    images, _ = _images()
    found = jittered(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape and not torch.equal(found, images)
    assert float((found.mean((1, 2, 3, 4)) - images.mean((1, 2, 3, 4))).abs().max()) < 0.3
    assert jittered(torch.rand(2, 1, 8, 8, 8), torch.Generator().manual_seed(0)).shape == (2, 1, 8, 8, 8)
