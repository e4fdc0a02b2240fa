"""Meta-training of classifiers: the loop that trains what segments, on other tasks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from monai_hyper.data.tensors import load_tensors
from monai_hyper.networks.classification import HyperClassifier
from monai_hyper.networks.classifier import ClassifierBody
from monai_hyper.synthesis.batch import ClassBatch
from monai_hyper.synthesis.class_images import ImageTasks, ImageTaskSettings
from monai_hyper.training.class_loss import accuracy, class_objective, withheld
from monai_hyper.training.loop import CLASSIFIERS, WEIGHTS, MetaTraining, TrainConfig, make_model, parameter_groups
from monai_hyper.workers import joined

LEARNERS = {"hyper-classifier": {}} | {n: {"body": "conv4"} for n in CLASSIFIERS if n != "hyper-classifier"}


def _tasks(seed: int = 0) -> ImageTasks:
    labels = torch.arange(24) % 4
    images = torch.randn(24, 1, 16, 16, 1, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1, 1)
    return ImageTasks(images, labels, ImageTaskSettings((2, 3), (1, 2), 2, tasks=2), seed)


def _trained(folder: Path, method: str, steps: int) -> dict[str, torch.Tensor]:
    config = TrainConfig(folder, method, LEARNERS[method], steps=steps, decay=1, warm_up=1, every=1, average=0)
    with joined("cpu") as worker:
        training = MetaTraining(config, make_model(config), _tasks(), worker)
        for batch in training:
            found = training.learn(batch)
            assert found.keys() == {"loss", "accuracy"} and 0 <= found["accuracy"] <= 1
        training.close()
    return load_tensors(folder / WEIGHTS)[0]


@pytest.mark.parametrize("method", list(LEARNERS))
def test_all_that_classifies_is_trained_by_the_same_loop(method, tmp_path):
    tensors = _trained(tmp_path, method, 2)
    facts = load_tensors(tmp_path / WEIGHTS)[1]
    assert facts["method"] == method and facts["step"] == 2 and "accuracy" in facts
    again = CLASSIFIERS[method](**facts["learner"])
    again.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def test_a_run_that_goes_on_ends_where_an_unbroken_one_does(tmp_path):
    config = TrainConfig(tmp_path / "broken", "prototype-classifier", {"body": "conv4"}, steps=3, decay=1, every=1)
    with joined("cpu") as worker:
        for _ in range(3):  # one step each, as if it was cut off
            training = MetaTraining(config, make_model(config), _tasks(), worker)
            training.learn(next(iter(training)))
            training.close()
        whole = replace(config, output=tmp_path / "whole")
        training = MetaTraining(whole, make_model(whole), _tasks(), worker)
        for batch in training:
            training.learn(batch)
        training.close()
    one, other = (load_tensors(tmp_path / name / WEIGHTS)[0] for name in ("broken", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_body_learns_faster_than_the_generator():
    model = HyperClassifier()
    rates = {id(p): g["rate"] for g in parameter_groups(model, TrainConfig(Path("unused"))) for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.body.parameters()} == {1e-3}
    assert {rates[id(p)] for p in model.hypernetwork.parameters()} == {3e-4}


def _batch(texts: torch.Tensor) -> ClassBatch:
    batch = _tasks().batch(0)
    return replace(batch, texts=texts.expand(2, batch.classes, -1))


def test_descriptions_and_examples_are_withheld_by_chance():
    torch.manual_seed(0)
    described, silent = _batch(torch.ones(384)), _batch(torch.zeros(384))
    seen = set()
    for batch in (described, silent):
        shown = F.one_hot(batch.labels[:, : batch.examples], batch.classes).float()
        for _ in range(60):
            images, kept, texts = withheld(batch, shown)
            assert images.shape[1] - kept.shape[1] == batch.images.shape[1] - batch.examples
            seen.add((batch is described, bool(kept.shape[1]), bool(texts.any())))
    assert seen == {(True, True, True), (True, True, False), (True, False, True), (False, True, False)}


def test_descriptions_alone_can_be_learned():
    """Two classes whose descriptions never change: in the end no example is needed."""
    torch.manual_seed(0)
    model = HyperClassifier(ClassifierBody((8, 8, 16, 16)), 16)
    words = F.normalize(torch.randn(2, 384), dim=1)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        labels = torch.tensor([[0, 1, 0, 1]])
        images = torch.randn(1, 4, 1, 16, 16, 1) * 0.3
        images[0, labels[0] == 1, :, :8] += 2
        logits, _ = model.classify_tasks(images, torch.zeros(1, 0, 2), words[None])
        optimiser.zero_grad()
        F.cross_entropy(logits[0], labels[0]).backward()
        optimiser.step()
    with torch.no_grad():
        right = accuracy(model.classify_tasks(images, torch.zeros(1, 0, 2), words[None])[0], labels)
        wrong = accuracy(model.classify_tasks(images, torch.zeros(1, 0, 2), words.flip(0)[None])[0], labels)
    assert right.item() == 1 and wrong.item() == 0


def test_parts_of_the_objective_sum_to_the_mean_over_tasks():
    batch = _tasks().batch(1)
    torch.manual_seed(0)
    learner = CLASSIFIERS["prototype-classifier"]("conv4")
    parts = list(class_objective(learner, batch))
    whole = sum(learner.task_loss(batch, task)[0] for task in range(2)) / 2
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
