"""Run methods on a labelled folder, the same draws for all of them, and write down every prediction."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from monai_hyper.data.classes import annotated_classes
from monai_hyper.data.episodes import Episode
from monai_hyper.data.folder import Case, list_cases, read_description
from monai_hyper.evaluation.memory import Peak
from monai_hyper.evaluation.metrics import Calibration, calibration, score_case
from monai_hyper.evaluation.overlay import overlay, overlay_file
from monai_hyper.evaluation.records import Records
from monai_hyper.evaluation.shifts import SHIFTS
from monai_hyper.evaluation.tasks import EvaluationTask, Pair, Reader, catalogue, draws_of, tasks_of
from monai_hyper.inference.pipeline import (
    make_plan,
    modality_of_text,
    postprocess,
    preprocess_pair,
    support_from_pairs,
)
from monai_hyper.methods.method import Method
from monai_hyper.methods.registry import CALIBRATED
from monai_hyper.networks.confidence import expected_dice
from monai_hyper.networks.network import CascadeNetwork, ConditionedNetwork
from monai_hyper.types import InputError
from monai_hyper.workers import ALONE, Worker, wait_for_all

Network = Callable[[Tensor], Tensor]

EMPTY_RULE = (
    "Dice 1, NSD 1 and HD95 0 mm where prediction and truth are both empty; Dice 0, NSD 0 and for HD95 the diagonal of "
    "the field of view where one of them is. A failed prediction scores Dice 0 and NSD 0."
)


@dataclass(frozen=True)
class Protocol:
    """What is evaluated, and how.

    Args:
        dataset: folder with ``images/``, ``labels/`` and perhaps ``dataset.json``; its name enters the results.
        methods: names, see :mod:`monai_hyper.methods.registry`.
        shots: numbers of support volumes.
        draws: episodes for every number of shots.
        queries: at most so many an episode.
        split: name of a list in ``dataset.json``; supports and queries both come from it.
        classes: names or values; None: all.
        binary: classes, or unions such as ``1+2``, that are tasks of their own; ``()``: every class; None: together.
        perturb_fov: crop or pad every volume by 0 to 35% a side, the same for all methods.
        shift: change the queries as another scanner would, see :mod:`monai_hyper.evaluation.shifts`.
        support_dataset: take the support from this folder instead, never the same case or patient.
        tolerance_mm: of the surface Dice; None: the diagonal of a voxel of the query.
    """

    dataset: Path
    methods: tuple[str, ...]
    shots: tuple[int, ...] = (1, 2, 4, 8)
    draws: int = 5
    queries: int = 20
    seed: int = 0
    device: str = "cpu"
    split: str | None = None
    classes: tuple[str, ...] | None = None
    binary: tuple[str, ...] | None = None
    perturb_fov: bool = False
    shift: str | None = None
    support_dataset: Path | None = None
    tolerance_mm: float | None = None

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or self.draws < 1 or self.queries < 1 or not self.methods:
            raise InputError("expected at least one method, number of shots, draw and query; all numbers from 1.")
        if self.shift is not None and self.shift not in SHIFTS:
            raise InputError(f"unknown shift '{self.shift}'; known are {', '.join(SHIFTS)}.")

    def settings(self) -> dict:
        """What the results depend on, in types that JSON knows; folders by their names."""
        found = asdict(self) | {"dataset": self.dataset.name}
        found["device"] = torch.device(self.device).type
        found["support_dataset"] = self.support_dataset.name if self.support_dataset else None
        return found


@dataclass(frozen=True)
class Unit:
    """One support set, which all methods are fitted to."""

    task: EvaluationTask
    shots: int
    draw: int
    episode: Episode
    pictures: bool


def run_protocol(
    protocol: Protocol, methods: dict[str, Method], output: Path, environment: dict, worker: Worker = ALONE
) -> list[str]:
    """Evaluate, going on where a run was cut off.

    Args:
        methods: by the names in ``protocol``.
        output: folder of the results.
        environment: versions and the like, kept beside the results.
        worker: which process this is; each takes its share of the support sets, the first one writes the whole.

    Returns:
        cases that could not be read, as ``NAME: reason``.

    Raises:
        InputError: for defects of the folder as a whole, and results of other settings in ``output``.
    """
    units, facts = plan_units(protocol)
    if worker.leads:
        records = Records(output, protocol.settings())
        records.describe(facts | {"environment": environment})
        records.gather(cut_off=True)
    wait_for_all()
    if not worker.leads:
        records = Records(output, protocol.settings(), worker.rank)
    _run_units(units[worker.rank :: worker.world], protocol, methods, records)
    wait_for_all()
    if worker.leads:
        records.gather(cut_off=False)
    return facts["bad_cases"]


def _run_units(units: list[Unit], protocol: Protocol, methods: dict[str, Method], records: Records) -> None:
    readers = Reader(protocol.perturb_fov), Reader(protocol.perturb_fov)
    total = sum(len(unit.episode.query) for unit in units) * len(methods)
    modality = modality_of_text(read_description(protocol.support_dataset or protocol.dataset).get("modality"))
    with tqdm(total=total, unit="prediction", mininterval=2) as bar:
        for unit in units:
            evaluate_unit(unit, protocol, methods, readers, modality, records, bar)


def plan_units(protocol: Protocol) -> tuple[list[Unit], dict]:
    """All support sets of an evaluation, and what is to be known about how they were drawn."""
    found = catalogue(protocol.dataset, protocol.split, protocol.classes)
    tasks, notes = tasks_of(found, protocol.binary)
    units = []
    for task in tasks:
        episodes, cut = draws_of(found, task, protocol.shots, protocol.queries, protocol.draws, protocol.seed)
        notes += cut
        for shots, drawn in episodes.items():
            for draw, episode in enumerate(drawn, 1):
                if protocol.support_dataset:
                    episode = _support_from(protocol.support_dataset, episode)
                units.append(Unit(task, shots, draw, episode, draw == 1 and shots == max(episodes)))
    patients = {case.name: case.patient for case in found.cases}
    if all(name == patient for name, patient in patients.items()):
        notes.append("The folder names no patients: every volume counts as one of its own.")
    bad = [f"{name}: {reason}" for name, reason in found.bad.items()]
    facts = {"tasks": [asdict(task) for task in tasks], "notes": notes, "bad_cases": bad, "patients": patients}
    return units, facts | {"empty_rule": EMPTY_RULE}


def _support_from(folder: Path, episode: Episode) -> Episode:
    """The same support cases, as another folder shows them."""
    there = {case.name: case for case in list_cases(folder)}
    missing = [case.name for case in episode.support if case.name not in there]
    if missing:
        raise InputError(f"{folder}: no case '{missing[0]}'; expected the names of the cases of --dataset.")
    return Episode(tuple(there[case.name] for case in episode.support), episode.query)


def evaluate_unit(unit: Unit, protocol: Protocol, methods, readers, modality, records: Records, bar: tqdm) -> None:
    """Fit every method to one support set and ask it for every query that is not there yet."""
    names = unit.task.names
    waiting = {
        name: [q for q in unit.episode.query if not records.has(name, unit.shots, unit.draw, q.name, names)]
        for name in methods
    }
    bar.update(sum(len(unit.episode.query) - len(cases) for cases in waiting.values()))
    if not any(waiting.values()):
        return
    pairs = [readers[0](case, unit.task) for case in unit.episode.support]
    plan = make_plan(pairs, unit.task.table, modality)
    known = [annotated_classes(c, label, unit.task.table) for c, (_, label) in zip(unit.episode.support, pairs)]
    support = support_from_pairs(pairs, plan, torch.tensor(known)).to(protocol.device)
    for name, method in methods.items():
        if waiting[name]:
            bar.set_postfix_str(f"{name}, K = {unit.shots}, draw {unit.draw}")
            torch.manual_seed(zlib.crc32(f"{protocol.seed} {name} {unit.shots} {unit.draw}".encode()))
            _evaluate_method(name, method, support, plan, waiting[name], unit, protocol, readers[1], records, bar)


def _evaluate_method(name, method, support, plan, cases, unit: Unit, protocol, reader, records, bar) -> None:
    peak = Peak(protocol.device)
    network, fit_seconds, failed = _timed(lambda: method.fit(support), protocol.device)
    for case in cases:
        pair = shifted(reader(case, unit.task), protocol.shift, case)
        prepared = preprocess_pair(*pair, plan)
        query = prepared[0].as_tensor()[None].to(protocol.device)
        answers, seconds, error = (
            (None, 0.0, failed) if failed else _timed(partial(_apply, network, query), query.device)
        )
        logits = None if answers is None else answers[0][0]
        told = isinstance(network, ConditionedNetwork | CascadeNetwork) and answers is not None
        expected = round(expected_dice(network, answers), 4) if told else ""
        facts = {"method": name, "shots": unit.shots, "draw": unit.draw, "query": case.name}
        costs = {"fit_seconds": round(fit_seconds, 4), "query_seconds": round(seconds, 4), "peak_mb": peak.megabytes()}
        predicted = None if failed or error else postprocess(logits, plan, pair[0], name in CALIBRATED)
        rows, bins = rows_of(logits, predicted, pair, prepared[1], case, unit.task, protocol.tolerance_mm)
        for row in rows:
            row |= facts | costs | {"expected_dice": expected, "error": error}
        for row in bins:
            row |= facts
        if unit.pictures and predicted is not None:
            _picture(predicted, pair, records.folder, name, case, unit.task)
        records.add(rows, bins)
        bar.update()


@torch.no_grad()
def _apply(network: Network, query: Tensor) -> list[Tensor]:
    ours = isinstance(network, ConditionedNetwork | CascadeNetwork)
    return [found.float().cpu() for found in (network.answers(query) if ours else [network(query)])]


def _timed(work: Callable[[], object], device) -> tuple[object, float, str]:
    """Result, seconds and error of a method's work; whatever it raises is a result of the evaluation too."""
    begun = time.perf_counter()
    try:
        found, error = work(), ""
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
    except Exception as raised:
        found, error = None, f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}"
    return found, time.perf_counter() - begun, error


def shifted(pair: Pair, shift: str | None, case: Case) -> Pair:
    """The case as another scanner would show it, the same whenever it is asked for."""
    return pair if shift is None else (SHIFTS[shift](pair[0], seed=zlib.crc32(case.name.encode())), pair[1])


def rows_of(logits, predicted, pair: Pair, truth: Tensor, case: Case, task: EvaluationTask, tolerance_mm):
    """Scores of one prediction: a row for every class that the query annotates, and rows of its reliability.

    Args:
        logits: ``(N, d, h, w)`` on the task grid; None where the prediction failed.
        predicted: label map on the query's own grid; None where the prediction failed.
        pair: image and merged label map on the query's own grid.
        truth: label map on the task grid, ``(1, d, h, w)``.
    """
    known = annotated_classes(case, pair[1], task.table)
    if logits is None:
        return [{"class": n, "dice": 0.0, "nsd": 0.0} for n, k in zip(task.names, known) if k], []
    spacing = pair[0].affine[:3, :3].norm(dim=0).tolist()
    scores = score_case(predicted.as_tensor(), pair[1].as_tensor(), task.table.values, spacing, tolerance_mm)
    rows, bins = [], []
    for name, shown, score, found in zip(task.names, known, scores, calibration(logits.softmax(0), truth)):
        if shown:
            values = asdict(score) | {"ece": found.ece, "brier": found.brier}
            rows.append({"class": name} | {key: round(value, 6) for key, value in values.items()})
            bins += _reliability(name, found)
    return rows, bins


def _reliability(name: str, found: Calibration) -> list[dict]:
    """A row for every bin that holds voxels."""
    columns = enumerate(zip(found.confidence, found.frequency, found.voxels))
    return [
        {"class": name, "bin": index, "confidence": round(confidence, 6), "frequency": round(frequency, 6), "voxels": n}
        for index, (confidence, frequency, n) in columns
        if n
    ]


def _picture(predicted, pair: Pair, folder: Path, method: str, case: Case, task: EvaluationTask) -> None:
    for value, name in zip(task.table.values, task.names):
        path = overlay_file(folder, name, method, case.name)
        overlay(pair[0], (predicted == value).long(), (pair[1] == value).long(), path, f"{method}: {case.name}")
