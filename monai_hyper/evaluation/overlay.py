"""A small picture of one prediction beside the truth."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from monai_hyper.export.overview import View, plane_views
from monai_hyper.types import InputError

FILL, CONTOUR = "#e69f00", "#56b4e9"
"""Colours of prediction and truth, after Okabe and Ito's palette for colour-blind readers."""

MAX_BYTES = 40_000

_BACKGROUND = "#101418"
_LETTERS = "#ffd75e"
_ALPHA = 0.38
_MARGIN_MM = 20.0
_HEIGHT_INCHES, _DPI = 1.9, 100


def overlay_file(folder: str | Path, class_name: str, method: str, query: str) -> Path:
    """Where the overlay of a prediction lies in the folder of an evaluation.

    Example:
        >>> overlay_file("out", "left/upper lobe", "hyper+polish", "ct_7").as_posix()
        'out/overlays/left_upper_lobe/hyper+polish__ct_7.png'
    """
    class_name, method, query = (re.sub(r"[^\w.+-]", "_", text) for text in (class_name, method, query))
    return Path(folder) / "overlays" / class_name / f"{method}__{query}.png"


def overlay(image: Tensor, predicted: Tensor, truth: Tensor, path: str | Path, title: str) -> Path:
    """Write a PNG of less than 40 kB: axial, coronal and sagittal plane with prediction (filled) and truth (contour).

    The planes cross in the voxel of the truth nearest to its centre (of the prediction where the truth is empty, in
    the middle of the volume where both are), and show both structures with 20 mm around them. Radiological view: the
    patient's right is on the left. The grey scale is the 1st to 99.5th percentile of what is shown.

    Args:
        image: ``(1, D, H, W)``; its affine (RAS+, mm) if it has one, else 1 mm voxels in RAS order.
        predicted, truth: ``(1, D, H, W)``, foreground is not 0.
        path: file to write, replaced where it exists; its folder is made.
        title: shown above.

    Returns:
        ``path``.

    Raises:
        InputError: if shapes disagree.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> slab = torch.zeros(1, 8, 8, 8).index_fill(1, torch.tensor([3, 4]), 1)
        >>> with TemporaryDirectory() as folder:
        ...     overlay(torch.rand(1, 8, 8, 8), slab, slab, Path(folder, "slab.png"), "a slab").name
        'slab.png'
    """
    path = Path(path)
    for name, other in (("prediction", predicted), ("truth", truth)):
        if other.shape != image.shape:
            raise InputError(f"{name} is {tuple(other.shape)}; expected {tuple(image.shape)}, the shape of the image.")
    affine = np.asarray(image.affine.cpu()) if hasattr(image, "affine") else np.eye(4)
    arrays = [np.asarray(volume[0].detach().cpu()) for volume in (image, predicted != 0, truth != 0)]
    figure = _picture(*arrays, plane_views(affine), title)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_bytes(_small_png(figure))
    os.replace(beside, path)
    return path


def centre_voxel(mask: np.ndarray, spacing: np.ndarray) -> tuple[int, ...]:
    """The voxel of a ``(D, H, W)`` mask nearest to its centre of mass; the middle of the volume if it is empty.

    Unlike the centre of mass itself it lies in the structure, however that is shaped.

    Args:
        spacing: of the voxels, mm.

    Example:
        >>> ring = np.ones((5, 5, 5), bool)
        >>> ring[1:4, 1:4, 1:4] = False
        >>> bool(ring[centre_voxel(ring, np.ones(3))])
        True
    """
    voxels = np.argwhere(mask)
    if len(voxels) == 0:
        return tuple(size // 2 for size in mask.shape)
    distances = (((voxels - voxels.mean(0)) * spacing) ** 2).sum(1)
    return tuple(int(i) for i in voxels[distances.argmin()])


def _picture(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, views: dict[str, View], title: str) -> Figure:
    spacing = np.ones(3)
    for view in views.values():
        spacing[[view.rows, view.columns]] = view.pixel
    box = _box(predicted | truth, spacing)
    image, predicted, truth = (volume[box] for volume in (image, predicted, truth))
    centre = centre_voxel(truth if truth.any() else predicted, spacing)
    limits = np.percentile(image, [1, 99.5]) + [0, 1e-6]
    widths = [image.shape[v.columns] * v.pixel[1] for v in views.values()]
    height = max(image.shape[v.rows] * v.pixel[0] for v in views.values())
    inches = float(np.clip(_HEIGHT_INCHES * sum(widths) / height, 3.5, 7))
    figure = Figure(figsize=(inches, _HEIGHT_INCHES + 0.25), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 3, width_ratios=widths, left=0.005, right=0.995, top=0.89, bottom=0.01, wspace=0.02)
    figure.suptitle(title, x=0.01, y=0.985, ha="left", va="top", color="#e8edf2", fontsize=7.5)
    for column, view in enumerate(views.values()):
        planes = (view.cut(volume, centre[view.through]) for volume in (image, predicted, truth))
        _show(figure.add_subplot(grid[column]), view, *planes, limits)
    return figure


def _box(structure: np.ndarray, spacing: np.ndarray) -> tuple[slice, ...]:
    """The structure with a margin; everything if it is empty."""
    voxels = np.argwhere(structure)
    if len(voxels) == 0:
        return (slice(None),) * 3
    margin = np.ceil(_MARGIN_MM / spacing).astype(int)
    low, high = np.maximum(voxels.min(0) - margin, 0), voxels.max(0) + margin + 1
    return tuple(slice(a, b) for a, b in zip(low, high))


def _show(
    axes: Axes, view: View, image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, limits: np.ndarray
) -> None:
    """One plane in mm, with the direction of its left and upper edge."""
    height, width = (n * mm for n, mm in zip(image.shape, view.pixel))
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], extent=(0, width, height, 0))
    y, x = ((np.arange(-1, n + 1) + 0.5) * mm for n, mm in zip(image.shape, view.pixel))
    if predicted.any():
        axes.contourf(x, y, np.pad(predicted, 1).astype(float), levels=[0.5, 1.5], colors=[FILL], alpha=_ALPHA)
    if truth.any():
        axes.contour(x, y, np.pad(truth, 1).astype(float), levels=[0.5], colors=[CONTOUR], linewidths=1.2)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for letter, place, ha, va in ((view.letters[0], (0.02, 0.5), "left", "center"),
                                  (view.letters[2], (0.5, 0.98), "center", "top")):  # fmt: skip
        axes.text(
            *place,
            letter,
            ha=ha,
            va=va,
            transform=axes.transAxes,
            color=_LETTERS,
            fontsize=7,
            weight="bold",
            path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )


def _small_png(figure: Figure) -> bytes:
    """The figure in the colours of an overlay, at the highest resolution that keeps it small."""
    dpi, palette = _DPI, _palette()
    while True:
        figure.set_dpi(dpi)
        figure.canvas.draw()
        picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
        buffer = io.BytesIO()
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        if buffer.tell() < MAX_BYTES:
            return buffer.getvalue()
        dpi *= 0.85


def _palette() -> Image.Image:
    """Greys, greys under the fill, and the way from dark to light of the lines and letters."""
    grey = np.linspace(0, 255, 48)[:, None] * np.ones(3)
    fill, contour, letters = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (FILL, CONTOUR, _LETTERS))
    shares = np.linspace(0.5, 1, 6)[:, None, None]
    edges = [shares * colour + (1 - shares) * grey[::12] for colour in (contour, letters)]
    colours = np.concatenate([grey, _ALPHA * fill + (1 - _ALPHA) * grey, *(edge.reshape(-1, 3) for edge in edges)])
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.round().astype(int).flatten().tolist())
    return palette
