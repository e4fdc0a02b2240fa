"""What the label server is made of: names, versions, choice of the support set, datastore, background work."""

import json
import threading

import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import normalize

from monai_hyper.data.classes import ClassTable
from monai_hyper.inference.fitted import Fitted
from monai_hyper.inference.pipeline import make_plan, support_from_pairs
from monai_hyper.inference.segmenter import Segmenter
from monai_hyper.label.choice import Labelled, choose_support, density, farthest, likeness, looks
from monai_hyper.label.names import Names, named
from monai_hyper.label.regenerate import Background
from monai_hyper.label.sent import checked_name
from monai_hyper.label.store import CarefulStore
from monai_hyper.label.versions import Versions
from monai_hyper.types import InputError
from tests.label.conftest import scan

FACTS = {"support": (), "seconds": 1.0, "polish_seconds": 0.0, "hypernetwork": "0", "monai_hyper": "0"}


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    pairs = [scan(0), scan(1)]
    plan = make_plan(pairs, ClassTable((1, 2), ("big", "small")))
    return Segmenter().fit(support_from_pairs(pairs, plan), plan).fitted


def look(*values: float) -> torch.Tensor:
    return normalize(torch.tensor(values).float(), dim=0)


def test_names_keep_their_values(tmp_path):
    names = Names(tmp_path / "labels.json", ["liver"])
    assert names.values(["tumour", "liver"]) == [2, 1]
    assert Names(tmp_path / "labels.json", ["liver"]).all() == {"liver": 1, "tumour": 2}
    assert names.name(2) == "tumour" and names.name(7) == "class_7" and names.values(["spleen"]) == [8]


@pytest.mark.parametrize(
    ("values", "info", "expected"),
    [
        ([1, 2], None, {1: None, 2: None}),
        ([1, 2], [{"name": "a"}, {"name": "b"}], {1: "a", 2: "b"}),
        ([1], [{"name": "a", "idx": 4}], {1: "a"}),  # 3D Slicer, other segments removed before
        ([4], [{"name": "a", "idx": 4}], {4: "a"}),
        ([1, 2], [{"name": "b", "idx": 2}, {"name": "a", "idx": 1}], {1: "a", 2: "b"}),
        ([], [{"name": "a"}], {}),
    ],
)
def test_clients_name_values(values, info, expected):
    assert named(values, info) == expected


@pytest.mark.parametrize("info", ["liver", [{"idx": 1}], [{"name": "a"}]])
def test_names_that_do_not_fit_are_refused(info):
    with pytest.raises(InputError, match="label_info"):
        named([1, 9], info)


@pytest.mark.parametrize("text", ["", "../a", "a/b", "a..b", ".a", "a\nb", "a" * 200])
def test_a_path_is_no_name(text):
    with pytest.raises(InputError, match="the name"):
        checked_name(text, "the name")


def test_the_support_set_covers_classes_then_differs():
    alike, near, far = look(1, 0, 0), look(1, 0.1, 0), look(0, 1, 0)
    labelled = [
        Labelled("rare", frozenset({2}), 0, alike),
        Labelled("far", frozenset({1}), 1, far),
        Labelled("near", frozenset({1}), 2, near),
        Labelled("newest", frozenset({1}), 3, alike),
        Labelled("empty", frozenset(), 4, far),
    ]
    assert [each.name for each in choose_support(labelled, 2)] == ["newest", "rare"]
    assert [each.name for each in choose_support(labelled, 3)] == ["newest", "rare", "far"]
    assert {each.name for each in choose_support(labelled, 9)} == {"rare", "far", "near", "newest"}
    assert choose_support(labelled, 2) == choose_support(labelled[::-1], 2)
    assert choose_support([], 4) == []


def test_how_a_volume_looks_does_not_depend_on_how_it_is_stored():
    image, _ = scan(0)
    flipped = image.affine.clone()
    flipped[:3, 3] += flipped[:3, 0] * (image.shape[1] - 1)
    flipped[:3, 0] *= -1
    again = MetaTensor(image.as_tensor().flip(1), affine=flipped)
    assert likeness(looks(image), looks(again)) > 0.999
    assert likeness(looks(image), looks(scan(3)[0])) < 0.999


def test_the_scan_least_like_all_others_is_farthest():
    candidates = {"a": look(1, 0, 0), "b": look(0.9, 0.1, 0.3), "c": look(0, 0, 1)}
    assert farthest(candidates, [look(1, 0, 0)]) == "c"
    assert farthest(candidates, []) == "b"  # the most typical one
    assert density("b", candidates) > density("c", candidates)


def test_versions_are_counted_kept_and_pinned(tmp_path, fitted):
    versions = Versions(tmp_path)
    assert versions.current() is None
    first, second = versions.keep(fitted, **FACTS), versions.keep(fitted, **FACTS)
    assert (first.number, second.number, versions.current().number, versions.pinned) == (1, 2, 2, False)
    versions.roll_back(1)
    again = Versions(tmp_path)
    assert (again.current().number, again.pinned) == (1, True)
    assert again.history() == [first, second]
    image, _ = scan(4)
    assert torch.equal(again.load(1).predict(image), fitted.predict(image))
    with pytest.raises(InputError, match="version 3"):
        again.roll_back(3)


def test_a_version_cut_off_leaves_the_one_before(tmp_path, fitted, monkeypatch):
    versions = Versions(tmp_path)
    versions.keep(fitted, **FACTS)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        versions.keep(fitted, **FACTS)
    monkeypatch.undo()
    assert Versions(tmp_path).current().number == 1 and list(tmp_path.glob(".partial-*"))
    Versions(tmp_path).clean()
    assert not list(tmp_path.glob(".partial-*"))
    assert versions.keep(fitted, **FACTS).number == 2


def test_two_processes_lose_no_label_of_each_other(studies, tmp_path):
    names = Names(tmp_path / "labels.json")
    one, other = (CarefulStore(str(studies), names, tmp_path / "work", lambda: None) for _ in range(2))
    truth = tmp_path / "truth"
    one.save_label("scan_0", str(truth / "scan_0.nii.gz"), "final", {"by": "one"})
    other.save_label("scan_1", str(truth / "scan_1.nii.gz"), "final", {"by": "other"})
    one.update_image_info("scan_2", {"seen": True})
    table = json.loads((studies / "datastore_v2.json").read_text())["objects"]
    assert [table[f"scan_{i}"]["labels"]["final"]["info"]["by"] for i in (0, 1)] == ["one", "other"]
    assert table["scan_2"]["image"]["info"]["seen"]
    fresh = CarefulStore(str(studies), names, tmp_path / "work", lambda: None)
    assert len(fresh.datalist()) == 2


def test_a_label_cut_off_is_not_there(studies, tmp_path, monkeypatch):
    store = CarefulStore(str(studies), Names(tmp_path / "labels.json"), tmp_path / "work", lambda: None)
    before = (studies / "datastore_v2.json").read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.save_label("scan_0", str(tmp_path / "truth" / "scan_0.nii.gz"), "final", {})
    monkeypatch.undo()
    assert not list((studies / "labels" / "final").iterdir())
    assert (studies / "datastore_v2.json").read_text() == before


def test_background_work_is_done_once_more_if_asked_meanwhile():
    begun, go_on, done, told = threading.Event(), threading.Event(), [], []

    def work() -> None:
        begun.set()
        go_on.wait(10)
        done.append(len(done))

    background = Background(work, told.append)
    background.ask()
    assert begun.wait(10)
    for _ in range(3):
        background.ask()
    go_on.set()
    assert background.wait(10) and done == [0, 1] and told == [None, None]


def test_background_work_says_why_it_failed_and_goes_on():
    told = []

    def work() -> None:
        raise RuntimeError("no memory") if len(told) == 0 else None

    background = Background(lambda: work() if not told else None, told.append)
    background.ask()
    assert background.wait(10)
    background.ask()
    assert background.wait(10)
    assert told == ["RuntimeError: no memory", None]
