"""The protocol: all methods on the same draws, resumable, whatever a case or a method does."""

from dataclasses import replace

import pytest
import torch

from monai_hyper.evaluation.protocol import Protocol, plan_units, run_protocol
from monai_hyper.evaluation.records import RESULTS, read_rows
from monai_hyper.methods.mean_mask import MeanMask
from monai_hyper.types import InputError


class Threshold:
    """Finds what is bright."""

    def fit(self, support):
        n = len(support.classes)
        return lambda query: torch.cat([torch.zeros_like(query)] + [query - 1.0 - i for i in range(n)], 1)


class Broken:
    """Fails on its second query."""

    def fit(self, support):
        calls = []

        def network(query):
            calls.append(query)
            if len(calls) == 2:
                raise RuntimeError("out of ideas\nand of memory")
            return torch.zeros(1, 3, *query.shape[2:])

        return network


METHODS = {"hyper": Threshold(), "mean-mask": MeanMask()}


def protocol_of(folder, **changes) -> Protocol:
    return Protocol(folder, tuple(METHODS), **{"shots": (1, 2), "draws": 2, "queries": 3, **changes})


def untimed(path):
    """Rows without what differs from run to run."""
    return [{k: v for k, v in row.items() if k not in ("fit_seconds", "query_seconds", "peak_mb")}
            for row in read_rows(path / RESULTS)]  # fmt: skip


def test_every_prediction_stands_once_in_the_table(folder, tmp_path):
    assert run_protocol(protocol_of(folder), METHODS, tmp_path / "out", {}) == []
    rows = read_rows(tmp_path / "out" / RESULTS)
    keys = [(r["method"], r["shots"], r["draw"], r["query"], r["class"]) for r in rows]
    assert len(keys) == len(set(keys)) == 2 * 2 * 2 * 3 * 2
    assert all(0 <= float(row["dice"]) <= 1 and row["error"] == "" for row in rows)
    asked = {method: [(r["shots"], r["draw"], r["query"]) for r in rows if r["method"] == method] for method in METHODS}
    assert asked["hyper"] == asked["mean-mask"]
    assert len(list((tmp_path / "out" / "overlays").glob("*/hyper__*.png"))) == 3 * 2


@pytest.mark.parametrize("after", [1, 5, 11])
def test_killed_and_resumed_gives_the_same_table(folder, tmp_path, monkeypatch, after):
    run_protocol(protocol_of(folder), METHODS, tmp_path / "whole", {})
    calls = []

    class Killed(Threshold):
        def fit(self, support):
            network = Threshold.fit(self, support)

            def killed(query):
                calls.append(1)
                if len(calls) > after:
                    raise KeyboardInterrupt
                return network(query)

            return killed

    with pytest.raises(KeyboardInterrupt):
        run_protocol(protocol_of(folder), METHODS | {"hyper": Killed()}, tmp_path / "cut", {})
    assert 0 < len(untimed(tmp_path / "cut")) < len(untimed(tmp_path / "whole"))
    run_protocol(protocol_of(folder), METHODS, tmp_path / "cut", {})
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")


def test_a_method_may_join_later(folder, tmp_path):
    together, apart = tmp_path / "together", tmp_path / "apart"
    run_protocol(protocol_of(folder), METHODS, together, {})
    for name, method in reversed(METHODS.items()):
        run_protocol(replace(protocol_of(folder), methods=(name,)), {name: method}, apart, {})
    assert sorted(map(str, untimed(apart))) == sorted(map(str, untimed(together)))


def test_a_failed_prediction_scores_zero_and_names_its_error(folder, tmp_path):
    protocol = Protocol(folder, ("hyper",), shots=(1,), draws=1, queries=3)
    run_protocol(protocol, {"hyper": Broken()}, tmp_path / "out", {})
    rows = read_rows(tmp_path / "out" / RESULTS)
    failed = [row for row in rows if row["error"]]
    assert len(rows) == 6 and len(failed) == 2 and {row["query"] for row in failed} == {rows[2]["query"]}
    assert all(row["error"] == "RuntimeError: out of ideas" and float(row["dice"]) == 0 for row in failed)


def test_a_bad_case_is_reported_and_the_rest_evaluated(folder, tmp_path):
    (folder / "images" / "case_2.nii.gz").write_bytes(b"no volume")
    bad = run_protocol(protocol_of(folder), METHODS, tmp_path / "out", {})
    assert len(bad) == 1 and bad[0].startswith("case_2: ")
    assert len(read_rows(tmp_path / "out" / RESULTS)) == 48 and "case_2" not in (tmp_path / "out" / RESULTS).read_text()


def test_a_union_is_a_task_of_its_own(folder, tmp_path):
    run_protocol(protocol_of(folder, binary=("whole=1+2", "2")), METHODS, tmp_path / "out", {})
    assert {row["class"] for row in read_rows(tmp_path / "out" / RESULTS)} == {"whole", "class_2"}


def test_changed_queries_score_otherwise_on_the_same_draws(folder, tmp_path):
    for shift in (None, "contrast-inversion"):
        run_protocol(protocol_of(folder, shift=shift), METHODS, tmp_path / str(shift), {})
    plain, shifted = (untimed(tmp_path / name) for name in ("None", "contrast-inversion"))
    assert [r["query"] for r in plain] == [r["query"] for r in shifted]
    scores = [[float(r["dice"]) for r in rows if r["method"] == "hyper"] for rows in (plain, shifted)]
    assert sum(scores[1]) < 0.5 * sum(scores[0])
    assert all(a["dice"] == b["dice"] for a, b in zip(plain, shifted) if a["method"] == "mean-mask"), "sees no image"


def test_all_methods_see_the_same_perturbed_fields_of_view(folder, tmp_path):
    run_protocol(protocol_of(folder, perturb_fov=True), METHODS, tmp_path / "out", {})
    rows = untimed(tmp_path / "out")
    again = tmp_path / "again"
    run_protocol(protocol_of(folder, perturb_fov=True), dict(reversed(METHODS.items())), again, {})
    assert sorted(map(str, rows)) == sorted(map(str, untimed(again)))


def test_support_from_another_folder_never_shows_the_query(folder, tmp_path):
    units, _ = plan_units(protocol_of(folder, support_dataset=folder))
    assert all(not {c.name for c in u.episode.support} & {c.name for c in u.episode.query} for u in units)
    with pytest.raises(InputError, match="no case"):
        other = tmp_path / "other"
        for kind in ("images", "labels"):
            (other / kind).mkdir(parents=True)
            for index, path in enumerate(sorted((folder / kind).iterdir())):
                (other / kind / f"other_{index}.nii.gz").write_bytes(path.read_bytes())
        plan_units(protocol_of(folder, support_dataset=other))


@pytest.mark.parametrize("changes", [{"shots": ()}, {"shots": (0,)}, {"draws": 0}, {"shift": "moon"}])
def test_numbers_and_names_out_of_range(folder, changes):
    with pytest.raises(InputError):
        protocol_of(folder, **changes)
