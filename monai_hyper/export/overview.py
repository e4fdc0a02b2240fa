"""A picture of a segmentation: three planes with contours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from torch import Tensor

from monai_hyper.types import InputError

COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#00c08b", "#ff6e30", "#e08fc0", "#ffffff", "#4f8dff")
"""Contour colours of the classes 1 to 8, after Okabe and Ito's palette for colour-blind readers."""

_PLANES = {"axial": "LP", "coronal": "LI", "sagittal": "PI"}
"""Where columns and rows of each plane run to: radiological, so the patient's right is on the left."""

_ENDS = ("LR", "PA", "IS")
_BACKGROUND = "#101418"


@dataclass(frozen=True)
class View:
    """How to cut one plane out of a volume and show it upright.

    Args:
        through: voxel axis that is cut.
        rows, columns: voxel axes that run down and to the right.
        flip_rows, flip_columns: whether that axis has to be reversed.
        letters: direction in the patient of the left, right, top and bottom edge, of R L A P S I.
        pixel: height and width of a pixel, mm.
    """

    through: int
    rows: int
    columns: int
    flip_rows: bool
    flip_columns: bool
    letters: tuple[str, str, str, str]
    pixel: tuple[float, float]

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Slice ``index`` of a ``(D, H, W)`` array as it is shown, ``(rows, columns)``."""
        plane = np.take(volume, index, axis=self.through)
        if self.rows > self.columns:
            plane = plane.T
        return plane[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def plane_views(affine: np.ndarray) -> dict[str, View]:
    """Radiological views of a volume stored in any axis order and direction.

    Columns run to the patient's left (axial, coronal) or to the back (sagittal), rows to the back (axial) or
    downward (coronal, sagittal). An oblique axis counts as the anatomical one it is closest to.

    Args:
        affine: from voxel indices to RAS+ mm, ``(4, 4)``.

    Returns:
        one view for each of "axial", "coronal" and "sagittal".

    Example:
        >>> plane_views(np.diag([1, 1, 5, 1]))["coronal"].pixel
        (5.0, 1.0)
        >>> plane_views(np.eye(4))["axial"].letters
        ('R', 'L', 'A', 'P')
    """
    affine = np.asarray(affine, dtype=float)
    orientation = io_orientation(affine)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    views = {}
    for plane, (right_edge, bottom_edge) in _PLANES.items():
        (columns, flip_columns, left), (rows, flip_rows, top) = (
            _axis_toward(orientation, edge) for edge in (right_edge, bottom_edge)
        )
        views[plane] = View(
            through=3 - rows - columns,
            rows=rows,
            columns=columns,
            flip_rows=flip_rows,
            flip_columns=flip_columns,
            letters=(left, right_edge, top, bottom_edge),
            pixel=(float(spacing[rows]), float(spacing[columns])),
        )
    return views


def _axis_toward(orientation: np.ndarray, letter: str) -> tuple[int, bool, str]:
    """Voxel axis along which ``letter`` lies, whether it must be reversed to run there, and the other end's letter."""
    anatomical = next(i for i, ends in enumerate(_ENDS) if letter in ends)
    axis = int(np.flatnonzero(orientation[:, 0] == anatomical)[0])
    wanted = 1 if _ENDS[anatomical][1] == letter else -1
    return axis, bool(orientation[axis, 1] != wanted), _ENDS[anatomical].replace(letter, "")


def overview(
    image: MetaTensor,
    label: Tensor,
    classes: Sequence[str],
    path: str | Path,
    truth: Tensor | None = None,
) -> Path:
    """Write a PNG with an axial, a coronal and a sagittal slice, each where the segmentation is largest.

    Contours are solid for ``label`` and dashed for ``truth``, one colour per class; pixels keep their physical
    proportions. The grey scale is -200 to 300 HU for an image that reaches below -500, else 1st to 99.5th percentile.

    Args:
        image: ``(1, D, H, W)`` with its affine (RAS+, mm).
        label: ``(1, D, H, W)``, 0 is background, ``i + 1`` is ``classes[i]``.
        classes: names of the foreground classes, 1 to 8.
        path: file to write, replaced where it exists; its folder is made.
        truth: reference labels like ``label``.

    Returns:
        ``path``.

    Raises:
        InputError: if shapes disagree or there are more than 8 classes.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> label = torch.zeros(1, 8, 8, 8).index_fill(1, torch.tensor([3, 4]), 1)
        >>> with TemporaryDirectory() as folder:
        ...     overview(MetaTensor(torch.rand(1, 8, 8, 8)), label, ("slab",), Path(folder, "slab.png")).name
        'slab.png'
    """
    path = Path(path)
    for name, other in (("label", label), ("truth", truth)):
        if other is not None and other.shape != image.shape:
            raise InputError(f"{name} is {tuple(other.shape)}; expected {tuple(image.shape)}, the shape of the image.")
    if not 1 <= len(classes) <= len(COLOURS):
        raise InputError(f"an overview shows 1 to {len(COLOURS)} classes; found {len(classes)}.")
    grey, found = _array(image), _array(label)
    reference = None if truth is None else _array(truth)
    views = plane_views(image.affine.cpu().numpy())
    figure = _figure(grey.shape, views)
    limits = _grey_scale(grey)
    for axes, (plane, view) in zip(figure.axes, views.items()):
        at = largest_slice(found if found.any() or reference is None else reference, view.through)
        _show(axes, view, view.cut(grey, at), limits, f"{plane} {at}")
        if reference is not None:
            _outline(axes, view, view.cut(reference, at), len(classes), "dashed")
        _outline(axes, view, view.cut(found, at), len(classes), "solid")
    _legend(figure, classes, reference is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110, facecolor=_BACKGROUND)
    return path


def largest_slice(label: np.ndarray, axis: int) -> int:
    """Index of the slice with most foreground along an axis of ``(D, H, W)``; the middle one if there is none.

    Example:
        >>> label = np.zeros((4, 3, 3)); label[1] = 1; label[2, 0] = 1
        >>> largest_slice(label, 0), largest_slice(label * 0, 0)
        (1, 2)
    """
    counts = (label > 0).sum(axis=tuple(a for a in range(3) if a != axis))
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2


def _array(volume: Tensor) -> np.ndarray:
    return np.asarray(volume[0].detach().cpu())


def _grey_scale(grey: np.ndarray) -> tuple[float, float]:
    if grey.min() < -500:
        return -200.0, 300.0
    low, high = np.percentile(grey, [1, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _figure(shape: tuple[int, ...], views: dict[str, View]) -> Figure:
    """Three axes side by side, each as wide as its plane, on one scale of mm."""
    widths = [shape[v.columns] * v.pixel[1] for v in views.values()]
    height = max(shape[v.rows] * v.pixel[0] for v in views.values())
    inches = np.clip(3.6 * sum(widths) / height, 6, 16)
    figure = Figure(figsize=(float(inches), 4.4), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 3, width_ratios=widths, left=0.01, right=0.99, top=0.94, bottom=0.17, wspace=0.03)
    for column in range(3):
        figure.add_subplot(grid[column])
    return figure


def _show(axes: Axes, view: View, plane: np.ndarray, limits: tuple[float, float], title: str) -> None:
    """One plane in mm, with the direction of every edge."""
    height, width = (n * mm for n, mm in zip(plane.shape, view.pixel))
    axes.imshow(plane, cmap="gray", vmin=limits[0], vmax=limits[1], extent=(0, width, height, 0))
    axes.set_title(title, color="#9aa4ae", fontsize=8, pad=4)
    axes.set_axis_off()
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(view.letters, places):
        axes.text(x, y, letter, ha=ha, va=va, transform=axes.transAxes, color="#ffd75e", fontsize=9, weight="bold")


def _outline(axes: Axes, view: View, plane: np.ndarray, classes: int, style: str) -> None:
    """Contour of every class; padded, so that it closes at the edge of the picture."""
    height, width = (n * mm for n, mm in zip(plane.shape, view.pixel))
    y, x = ((np.arange(-1, n + 1) + 0.5) * mm for n, mm in zip(plane.shape, view.pixel))
    for value in range(1, classes + 1):
        mask = np.pad(plane == value, 1)
        if mask.any():
            axes.contour(
                x, y, mask.astype(float), levels=[0.5], colors=[COLOURS[value - 1]], linestyles=style, linewidths=1.3
            )
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _legend(figure: Figure, classes: Sequence[str], with_truth: bool) -> None:
    lines = [Line2D([], [], color=colour, label=name) for name, colour in zip(classes, COLOURS)]
    if with_truth:
        lines.append(Line2D([], [], color="#c8d0d8", linestyle="dashed", label="truth"))
    figure.legend(
        handles=lines,
        loc="lower left",
        bbox_to_anchor=(0, 0.03),
        ncols=5,
        fontsize=8,
        frameon=False,
        labelcolor="#e8edf2",
    )
    figure.text(
        0.99, 0.015, "radiological view: the patient's right is on the left", ha="right", fontsize=7, color="#9aa4ae"
    )
