"""Write docs/results.md from the folders of results that the development benchmark left."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from paired_page import paired_section

from monai_hyper.evaluation.criteria import calibration, data_efficiency, generalisation_gap, robustness
from monai_hyper.evaluation.statistics import Result, read_results
from monai_hyper.methods.registry import CALIBRATED

KEPT = ("<!-- kept -->", "<!-- /kept -->")
"""What stands between them on the page is written by hand and stays."""


def write_page(results: Path, page: Path, threads: int) -> None:
    """Rewrite the page; what is between the marks stays."""
    found = {folder.parent.name: folder.parent for folder in sorted(results.glob("*/summary.json"))}
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    kept = old.partition(KEPT[0])[2].partition(KEPT[1])[0] or "\n"
    fast = [n for n in found if f"{n}-perturbed" in found and not n.startswith("full-")]
    full = [n for n in found if n.startswith("full-") and not n.endswith(("-perturbed", "-shots"))]
    lines = ["# Results on real held-out data", "", *heading(threads, found), "", KEPT[0] + kept + KEPT[1], ""]
    lines += ["## Fast methods", "", *means_over_sets(fast, found), *[line for n in fast for line in section(n, found)]]
    lines += ["## All methods, fewer cases", ""] if full else []
    lines += [line for n in full for line in section(n, found)]
    lines += [*paired_section(found), *crossover(found), *criteria_sections(found), *baselines()]
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def heading(threads: int, found: dict[str, Path]) -> list[str]:
    """Date, commit, hardware, duration."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()) if os.name == "posix" else None
    seconds = {name: json.loads((f / "seconds.json").read_text()) for name, f in found.items()}
    slow = sum(s for name, s in seconds.items() if name.startswith(("full-", "polish-")))
    return [
        f"{date.today()}, commit {commit}, {cpu[1] if cpu else platform.processor()}, {threads} thread(s), float32. "
        f"Written by `make benchmark` ({(sum(seconds.values()) - slow) / 60:.0f} minutes) and `make benchmark-full` "
        f"({slow / 60:.0f} minutes). Only the lists `select` of the data were used, but where `report` is named; "
        "`select` also served to choose by; sarcoma and ms_lesion_mr have no lists, and sarcoma served as a whole. The "
        "minutes are those of runs that were not cut off. Dice with 95% bootstrap intervals over draws and subjects. "
        "In \"perturbed\" every volume was cropped or padded by 0 to 35% a side at random, the same for all methods. "
        f"A single class is cut for the highest expected Dice by {', '.join(CALIBRATED)}; else labels are the most "
        "probable classes. The meta-trained baselines work on at most 64^3 voxels, our networks near 100,000. Seconds "
        "were taken while other work ran."
    ]  # fmt: skip


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def cell(entry: dict | None) -> str:
    """Mean and interval of Dice, with a mark where the method differs from ours."""
    if entry is None or entry["dice"]["mean"] is None:
        return ""
    dice, p = entry["dice"], entry.get("p_holm")
    ends = "" if dice["low"] is None else f" [{dice['low']:.2f}, {dice['high']:.2f}]"
    mark = "" if p is None or p >= 0.05 else " ▲" if entry["difference"]["mean"] > 0 else " ▼"
    failed = f" ({entry['failures']} failed)" if entry["failures"] else ""
    return f"{dice['mean']:.3f}{ends}{mark}{failed}"


def section(name: str, found: dict[str, Path]) -> list[str]:
    """One data set: methods by number of shots, as it is and perturbed if it was; every class, then the mean."""
    summaries = {"": summary_of(found[name])}
    if f"{name}-perturbed" in found:
        summaries[", perturbed"] = summary_of(found[f"{name}-perturbed"])
    plain, shots = summaries[""], summaries[""]["shots"]
    lines = [f"### {name.removeprefix('full-')}", ""]
    names = [*plain["classes"], "mean"] if len(plain["classes"]) > 1 else plain["classes"]
    for title in names:
        columns = [f"K = {k}{text}" for text in summaries for k in shots]
        lines += [f"**{title}**", "", "| method | " + " | ".join(columns) + " | fit s | query s |",
                  "|---" * (3 + len(columns)) + "|"]  # fmt: skip
        for method in plain["methods"]:
            cells = []
            for summary in summaries.values():
                scores = summary["scores"].get(method, {})
                entries = [scores.get(str(k)) for k in shots]
                cells += [cell(e and (e["mean"] if title == "mean" else e["classes"].get(title))) for e in entries]
            cost = plain["scores"][method][str(shots[-1])]["cost"]
            cells += [f"{cost['fit_seconds']:.2f}", f"{cost['query_seconds']:.2f}"]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    settings = json.loads((found[name] / "settings.json").read_text(encoding="utf-8"))
    notes = settings["notes"] + settings["bad_cases"]
    return lines + ([" ".join(notes), ""] if notes else [])


def means_over_sets(names: Sequence[str], found: dict[str, Path]) -> list[str]:
    """Dice over the data sets at one and at most shots, each set weighing the same."""
    if not names:
        return []
    lines = [f"Mean over {len(names)} data sets (each the mean over its classes; fewest and most shots of each), and "
             "in how many of them the method is the best:", "",
             "| method | fewest shots | most shots | fewest, perturbed | most, perturbed | best of sets, most shots |",
             "|---" * 6 + "|"]  # fmt: skip
    summaries = {n: (summary_of(found[n]), summary_of(found[f"{n}-perturbed"])) for n in names}
    methods = summaries[names[0]][0]["methods"]

    def dice(n: str, which: int, end: int, method: str) -> float:
        summary = summaries[n][which]
        return summary["scores"][method][str(summary["shots"][end])]["mean"]["dice"]["mean"]

    best = [max(methods, key=lambda method: dice(n, 0, -1, method)) for n in names]
    for method in methods:
        cells = [sum(dice(n, w, e, method) for n in names) / len(names) for w in (0, 1) for e in (0, -1)]
        lines.append(f"| {method} | " + " | ".join(f"{c:.3f}" for c in cells) + f" | {best.count(method)} |")
    return [*lines, "", "▲ better, ▼ worse than `hyper` (paired Wilcoxon over subjects, Holm, p < 0.05).", ""]


def crossover(found: dict[str, Path]) -> list[str]:
    """Dice against many shots."""
    lines = []
    for name in ("hippocampus_mr-shots", "full-hippocampus_mr-shots"):
        if name in found:
            summary = summary_of(found[name])
            lines += ["| method | " + " | ".join(f"K = {k}" for k in summary["shots"]) + " |",
                      "|---" * (1 + len(summary["shots"])) + "|"]  # fmt: skip
            for method, by_shots in summary["scores"].items():
                lines.append(f"| {method} | " + " | ".join(cell(e["mean"]) for e in by_shots.values()) + " |")
            lines.append("")
    return ["## Many shots, whole hippocampus", "", "Beyond 16 volumes `hyper` takes the mean of all tokens, too.",
            "", *lines] if lines else []  # fmt: skip


def criteria_sections(found: dict[str, Path]) -> list[str]:
    """Generalisation gap, data efficiency, calibration, robustness, bias."""
    lines = ["## Criteria of the literature", ""]
    rows = {name: read_results(folder / "results.csv") for name, folder in found.items()}
    if "headneck_ct-trained" in rows and "headneck_ct" in rows:
        lines += gap_lines(rows["headneck_ct-trained"], rows["headneck_ct"])
    if "hippocampus_mr-shots" in found:
        lines += efficiency_lines(summary_of(found["hippocampus_mr-shots"]))
    lines += calibration_lines({n: r for n, r in rows.items() if f"{n}-perturbed" in rows})
    shifted = {n.removeprefix("hippocampus_mr-"): r for n, r in rows.items() if n.startswith("hippocampus_mr-")}
    whole = shifted.pop("whole", None)
    for name in ("shots", "perturbed"):
        shifted.pop(name, None)
    if whole and shifted:
        lines += robustness_lines("Queries of the whole hippocampus under scanner-like changes", whole, shifted)
    if "sarcoma_t1_to_ct" in rows and "sarcoma_ct" in rows:
        shift = {"T1 support, CT queries": rows["sarcoma_t1_to_ct"]}
        lines += robustness_lines("Real shift: sarcoma", rows["sarcoma_ct"], shift)
    if "spinal_cord-contrasts" in found:
        lines += contrast_lines(summary_of(found["spinal_cord-contrasts"]))
    for name, folder in found.items():
        if groups := summary_of(folder).get("groups"):
            lines += group_lines(name, groups)
    return lines


def number(entry: dict, digits: int = 3) -> str:
    """A mean with its interval."""
    if entry["mean"] is None:
        return ""
    ends = "" if entry["low"] is None else f" [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"
    return f"{entry['mean']:.{digits}f}{ends}"


def gap_lines(seen: list[Result], unseen: list[Result]) -> list[str]:
    lines = ["### Generalisation gap", "", "Head-and-neck CT, cases that were never trained on: structures that were "
             "tasks of meta-training (five organs), and larynx and mandible, which never were.", "",
             "| method | K | seen structures | unseen structures | gap |", "|---|---|---|---|---|"]  # fmt: skip
    for method, by_shots in generalisation_gap(seen, unseen).items():
        lines += [f"| {method} | {k} | {e['seen']:.3f} | {e['unseen']:.3f} | {number(e['gap'])} |"
                  for k, e in by_shots.items()]  # fmt: skip
    return [*lines, ""]


def efficiency_lines(summary: dict) -> list[str]:
    lines = ["### Data efficiency", "", "| method | area under Dice over log2 K | shots to 90% of the 8-shot Dice |",
             "|---|---|---|"]  # fmt: skip
    for method, found in data_efficiency(summary).items():
        curve = found["mean"]
        shots = "" if curve["shots_to_90"] is None else f"{'at most ' * curve['at_most']}{curve['shots_to_90']:.1f}"
        area = "" if curve["area"] is None else f"{curve['area']:.3f}"
        lines.append(f"| {method} (K = {curve['shots'][0]} to {curve['shots'][1]}) | {area} | {shots} |")
    return [*lines, ""]


def calibration_lines(rows: dict[str, list[Result]]) -> list[str]:
    lines = ["### Calibration", "", "Near the structure, before and after the leave-one-out temperature.", "",
             "| data set | K | ECE before | after | Brier before | after |", "|---|---|---|---|---|---|"]  # fmt: skip
    for name, found in rows.items():
        for k, entry in calibration(found).get("hyper", {}).items():
            cells = [entry[m][when] for m in ("ece", "brier") for when in ("before", "after")]
            lines.append(f"| {name} | {k} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")
    return [*lines, ""] if len(lines) > 6 else []  # without the temperature there is nothing to compare


def robustness_lines(title: str, plain: list[Result], shifted: dict[str, list[Result]]) -> list[str]:
    lines = [f"### {title}", "", "| change | method | K | Dice without | with | drop |", "|---|---|---|---|---|---|"]
    for name, methods in robustness(plain, shifted).items():
        for method, by_shots in methods.items():
            lines += [f"| {name} | {method} | {k} | {e['plain']:.3f} | {e['shifted']:.3f} | {number(e['drop'])} |"
                      for k, e in by_shots.items()]  # fmt: skip
    return [*lines, ""]


def contrast_lines(summary: dict) -> list[str]:
    lines = ["### Real shift: one spinal cord in four MR contrasts", "", "Support and query are the same person in "
             "different contrasts (T1, T2, T2*, MT), fields of view and voxels.", "",
             "| method | " + " | ".join(f"K = {k}" for k in summary["shots"]) + " |",
             "|---" * (1 + len(summary["shots"])) + "|"]  # fmt: skip
    for method, by_shots in summary["scores"].items():
        lines.append(f"| {method} | " + " | ".join(cell(e["mean"]) for e in by_shots.values()) + " |")
    return [*lines, ""]


def group_lines(name: str, groups: dict) -> list[str]:
    lines = [f"### Bias: groups of {name} by {groups['column']}", "", "Gap to the mean of all others; flagged where "
             "its interval excludes zero.", "", "| method | K | group | subjects | Dice | gap | |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for method, by_shots in groups["scores"].items():
        for k, entries in by_shots.items():
            lines += [f"| {method} | {k} | {e['group']} | {e['n']} | {number(e['dice'])} | {number(e['gap'])} | "
                      f"{'flagged' * e['flagged']} |" for e in entries]  # fmt: skip
    return [*lines, ""]


def baselines() -> list[str]:
    """Steps, minutes and parameters of the meta-trained methods."""
    from monai_hyper.data.tensors import load_tensors
    from monai_hyper.methods.meta import BASELINES
    from monai_hyper.networks.released import RELEASED

    lines = ["## Meta-trained methods", "", "| method | steps | minutes | parameters |", "|---|---|---|---|"]
    for path in (RELEASED, *sorted(BASELINES.glob("*.safetensors"))):
        tensors, facts = load_tensors(path)
        count = sum(t.numel() for t in tensors.values())
        lines.append(f"| {path.stem} | {facts.get('step')} | {facts.get('seconds', 0) / 60:.0f} | {count:,} |")
    return [*lines, ""]
