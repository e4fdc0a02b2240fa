"""Does it matter which scan is annotated next? Dice on other patients after every label, by strategy.

Every strategy begins with the same scan, drawn by chance, and then picks from the same pool.

    python benchmarks/active_learning.py --data ../shared/data/hippocampus_mr --split select
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from monai_hyper.data.classes import class_table, resolved
from monai_hyper.data.folder import Case, list_cases, read_pair
from monai_hyper.evaluation.metrics import dice_per_class
from monai_hyper.evaluation.simple import split_cases
from monai_hyper.export.nifti import save_image, save_label
from monai_hyper.label.names import Names
from monai_hyper.label.regenerate import Generator, Settings
from monai_hyper.label.store import CarefulStore
from monai_hyper.label.tasks import Next, Uncertainty
from monai_hyper.label.versions import Versions
from monai_hyper.transforms.classes import SelectClasses

RULES = ("random", "diversity", "uncertainty", "expected_gain")


def annotate(rule: str, seed: int, pool: Sequence[Case], tests: list, labels: int, work: Path, values: tuple) -> list:
    """Mean Dice of ``tests`` after each label."""
    for case in pool:
        save_image(read_pair(case)[0], work / "studies" / f"{case.name}.nii.gz")
    names = Names(work / "labels.json")
    store = CarefulStore(str(work / "studies"), names, work / "work", lambda: None)
    generator = Generator(Settings(), names, Versions(work / "versions"))
    truths = {case.name: case for case in pool}
    torch.manual_seed(seed)
    chosen, found = pool[seed % len(pool)].name, []
    for _ in range(labels):
        label = SelectClasses(values)(read_pair(truths[chosen])[1])
        path = save_label(label, work / "label.nii.gz", overwrite=True)
        store.save_label(chosen, str(path), "final", {})
        version = generator.generate(store.datalist())
        network, classes = generator.versions.load(version.number), tuple(range(1, len(values) + 1))
        dice = [mean(dice_per_class(network.predict(image), truth, classes)) for image, truth in tests]
        found.append(mean(dice))
        if rule in ("uncertainty", "expected_gain"):
            Uncertainty(generator)({}, store)
        torch.manual_seed(1000 * seed + len(found))
        chosen = Next(rule)({}, store)["id"]
    return found


def main() -> None:
    """Print a row for every strategy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="annotated folder")
    parser.add_argument("--split")
    parser.add_argument("--classes", nargs="+")
    parser.add_argument("--pool", type=int, default=12)
    parser.add_argument("--tests", type=int, default=6)
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    table = class_table(options.data, list_cases(options.data, options.split), options.classes)
    found: dict[str, list] = {rule: [] for rule in RULES}
    for seed in range(options.draws):
        pool, queries = split_cases(options.data, options.split, options.pool, options.tests, seed, options.classes)
        pool, queries = resolved(pool, table), resolved(queries, table)
        select = SelectClasses(table.values)
        tests = [(image, select(label)) for image, label in map(read_pair, queries)]
        for rule in RULES:
            with TemporaryDirectory() as work:
                dice = annotate(rule, seed, pool, tests, options.labels, Path(work), table.values)
            found[rule].append(dice)
            print(f"draw {seed}, {rule}: {', '.join(f'{each:.3f}' for each in dice)}", flush=True)
    for rule in RULES:
        means = [mean(dice[k] for dice in found[rule]) for k in range(options.labels)]
        print(f"{rule:>14}  {'  '.join(f'{each:.3f}' for each in means)}")


if __name__ == "__main__":
    main()
