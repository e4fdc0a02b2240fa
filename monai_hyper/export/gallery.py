"""Pictures of training tasks, for people to judge them by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from monai_hyper.export.overview import COLOURS, largest_slice, plane_views
from monai_hyper.export.page import write_page
from monai_hyper.synthesis.batch import Episode
from monai_hyper.synthesis.tasks import TaskEngine

MOST_CASES = 6
"""Columns of a picture; further cases of a task are not shown."""

_BACKGROUND = "#101418"


def write_gallery(engine: TaskEngine, tasks: int, folder: Path) -> Path:
    """Draw tasks of all families in turn and show them on one page, with a picture and a row of figures each.

    Args:
        engine: whose families; task number i of the page is that number of its family, with the engine's seed.
        folder: is made; gets ``index.html`` and one PNG file per task.

    Returns:
        the page.
    """
    rows, pictures = [], []
    engines = [engine.of_family(family) for family in engine.families]
    for index in range(tasks):
        episode = engines[index % len(engines)].episode(index)
        path = task_picture(episode, folder / f"task_{index:03d}.png")
        facts = facts_of(episode)
        rows.append({"task": index} | facts)
        pictures.append((f"task {index}: " + ", ".join(f"{k} {v}" for k, v in facts.items()), path))
    return write_page(folder / "index.html", "Training tasks", rows, pictures, {"tasks": tasks, "seed": engine.seed})


def facts_of(episode: Episode) -> dict[str, object]:
    """What a task is, in words and numbers."""
    support = episode.support
    shares = [f"{100 * float((episode.labels == c + 1).float().mean()):.2g}" for c in range(len(support.classes))]
    return {
        "family": episode.kind,
        "K": support.shots,
        "queries": len(episode.images),
        "grid": " x ".join(str(n) for n in support.images.shape[2:]),
        "foreground of the queries, %": ", ".join(shares),
    }


def task_picture(episode: Episode, path: Path) -> Path:
    """Write a PNG: a column per case, support first, then queries; three planes where the foreground is largest.

    Args:
        path: file to write, replaced where it exists; its folder is made.

    Returns:
        ``path``.
    """
    cases = list(_cases(episode))
    figure = Figure(figsize=(2.2 * len(cases), 6.6), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(cases), squeeze=False)
    for column, (title, image, label) in enumerate(cases):
        axes[0, column].set_title(title, color="#e8edf2", fontsize=9)
        for row, view in enumerate(plane_views(np.eye(4)).values()):
            at = largest_slice(label, view.through)
            _show(axes[row, column], view.cut(image, at), view.cut(label, at), len(episode.support.classes))
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.95, 0.02, 0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=80, facecolor=_BACKGROUND)
    return path


def _cases(episode: Episode) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Title, image and label map ``(D, H, W)`` of the first cases; at least one query is among them."""
    shown = [(f"support {k + 1}", i[0, 0], lab[0, 0]) for k, (i, lab) in enumerate(_support_volumes(episode))]
    asked = [(f"query {q + 1}", i[0], lab[0]) for q, (i, lab) in enumerate(zip(episode.images, episode.labels))]
    for title, image, label in [*shown[: MOST_CASES - 1], *asked][:MOST_CASES]:
        yield title, image.numpy(), label.numpy()


def _support_volumes(episode: Episode) -> list[tuple[Tensor, Tensor]]:
    """Images and label maps ``(1, 1, d, h, w)`` in the order of the shots."""
    found = {}
    for shots, images, labels in episode.support.volumes():
        found.update({shot: (images[i : i + 1], labels[i : i + 1]) for i, shot in enumerate(shots)})
    return [found[shot] for shot in sorted(found)]


def _show(axes: Axes, image: np.ndarray, label: np.ndarray, classes: int) -> None:
    low, high = np.percentile(image, [1, 99.5])
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    for value in range(1, classes + 1):
        mask = np.pad(label == value, 1)
        if mask.any():
            places = (np.arange(n) - 1 for n in mask.shape[::-1])
            axes.contour(*places, mask.astype(float), levels=[0.5], colors=[COLOURS[value - 1]], linewidths=1)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    axes.set_axis_off()
