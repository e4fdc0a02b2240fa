"""A digital phantom of our own: a torso-like CT and a head-like MR, made from formulas alone.

Organs are ellipsoids and tubes with low-frequency waves on their surface, painted one over the other on a grid twice
as fine as the image, which is then averaged: partial volume comes for free. Nothing here derives from a patient.
Coordinates are millimetres, RAS+ (x to the right, y forward, z up). Never used in training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from monai_hyper.types import InputError

CLASSES = {
    "torso_ct": ("lungs", "liver", "spleen", "kidneys", "spine"),
    "head_mr": ("white_matter", "ventricles", "deep_nuclei", "cerebellum", "lesion"),
}
"""Names of the labels 1, 2, ... of each kind."""

_MODALITY = {"torso_ct": "CT (digital phantom, Hounsfield units)", "head_mr": "MR (digital phantom, T1-like)"}
_CODES = ("RAS", "LPS", "RAS", "LAS", "LPS", "RAS", "SPL", "LIA")
_AXIAL = np.array([0.0, 0.0, 1.0])


def write_phantom(folder: str | Path, kind: str, cases: int = 8, seed: int = 0) -> Path:
    """Write a labelled data set of phantoms: ``images/``, ``labels/`` and ``dataset.json``.

    The first half of the cases, at most 4, is the split "support"; the others are the split "query".

    Args:
        folder: where to write; made if absent, files of the same names are replaced.
        kind: "torso_ct" (int16, HU) or "head_mr" (uint16, arbitrary units), see :data:`CLASSES`.
        cases: number of patients, at least 2.
        seed: another seed gives other patients.

    Returns:
        ``folder``.

    Raises:
        InputError: for an unknown kind or fewer than 2 cases.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     sorted(path.name for path in (write_phantom(folder, "head_mr", cases=2) / "images").iterdir())
        ['head_mr_00.nii.gz', 'head_mr_01.nii.gz']
    """
    if cases < 2:
        raise InputError(f"a phantom data set of {cases} cases was asked for; expected at least 2.")
    folder = Path(folder)
    names = [f"{kind}_{index:02d}" for index in range(cases)]
    for index, name in enumerate(names):
        image, label, affine = phantom_case(kind, index, seed)
        for part, array in (("images", image), ("labels", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            volume = nib.Nifti1Image(array, affine)
            volume.header.set_xyzt_units("mm")
            nib.save(volume, folder / part / f"{name}.nii.gz")
    shots = min(4, cases // 2)
    description = {
        "name": f"phantom_{kind}",
        "modality": _MODALITY[kind],
        "cases": cases,
        "role": "demonstration and tests; never trained on",
        "labels": {str(value): name for value, name in enumerate(CLASSES[kind], start=1)},
        "licence": "Apache-2.0",
        "split": {"support": names[:shots], "query": names[shots:]},
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


def phantom_case(kind: str, index: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One patient of a phantom data set; the same arguments give the same patient.

    Args:
        kind: "torso_ct" or "head_mr".
        index: number of the patient; it also decides in which axis order and direction the voxels are stored.
        seed: of the whole data set.

    Returns:
        image ``(D, H, W)``, int16 HU or uint16; label ``(D, H, W)``, uint8, values as in :data:`CLASSES`;
        affine ``(4, 4)`` from voxel indices to RAS+ in mm.

    Raises:
        InputError: for an unknown kind.

    Example:
        >>> image, label, affine = phantom_case("torso_ct", index=0)
        >>> image.shape == label.shape, str(image.dtype), int(label.max())
        (True, 'int16', 5)
    """
    makers = {"torso_ct": _torso, "head_mr": _head}
    if kind not in makers:
        raise InputError(f"unknown kind of phantom '{kind}'; expected one of {', '.join(makers)}.")
    rng = np.random.default_rng([seed, index, list(makers).index(kind)])
    image, label, affine = makers[kind](rng, index)
    return _store_as(_CODES[index % len(_CODES)], image, label, affine)


def _store_as(code: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, ...]:
    """Permute and flip the axes of RAS+ arrays to another orientation; the affine follows."""
    change = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(code))
    moved = affine @ orientations.inv_ornt_aff(change, image.shape)
    image, label = (np.ascontiguousarray(orientations.apply_orientation(a, change)) for a in (image, label))
    return image, label, moved


@dataclass(frozen=True)
class _Blob:
    """Implicit surface around ``centre``: below 1 is inside. ``boxy`` 0 is an ellipsoid, 1 nearly a box."""

    centre: np.ndarray
    radii: np.ndarray
    rotation: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    amplitude: float
    boxy: float

    def field(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Radius in units of the surface's, at points in mm."""
        to_unit = (self.rotation / self.radii).astype(np.float32)
        offsets = [p - np.float32(c) for p, c in zip((x, y, z), self.centre)]
        u = [sum(offsets[j] * to_unit[j, i] for j in range(3)) for i in range(3)]
        a, b, c = (v * v for v in u)
        r = np.sqrt(a + b + c)
        if self.boxy:
            r = (1 - self.boxy) * r + self.boxy * np.sqrt(np.sqrt(a * a + b * b + c * c))
        if self.amplitude == 0:
            return r
        ripple = sum(np.sin(w[0] * u[0] + w[1] * u[1] + w[2] * u[2] + p) for w, p in zip(self.waves, self.phases))
        return r * (1 + self.amplitude * ripple)


def _rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rotation about an axis, ``(3, 3)`` (Rodrigues' formula)."""
    a, b, c = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


class _Canvas:
    """A patient on a grid twice as fine as the image: values and labels, painted in order.

    Args:
        rng: decides size, pose and every shape.
        shape: voxels of the image.
        spacing: of the image, mm.
        shift: centre of the field of view in the patient, mm.
        background: value where nothing is painted.
    """

    def __init__(
        self, rng: np.random.Generator, shape: np.ndarray, spacing: np.ndarray, shift: np.ndarray, background: float
    ) -> None:
        self.rng, self.shape, self.spacing = rng, tuple(int(n) for n in shape), np.asarray(spacing, dtype=float)
        fine = [(np.arange(2 * n) - n + 0.5) * s / 2 + o for n, s, o in zip(self.shape, self.spacing, shift)]
        x, y, z = np.meshgrid(*(f.astype(np.float32) for f in fine), indexing="ij")
        pose = _rotation(_AXIAL, rng.normal(0, 3)) @ _rotation(rng.normal(size=3), rng.normal(0, 3))
        pose = (pose * rng.uniform(0.95, 1.06)).astype(np.float32)
        self.x, self.y, self.z = (pose[0, i] * x + pose[1, i] * y + pose[2, i] * z for i in range(3))
        self.to_index = lambda p: ((pose @ p - shift) / self.spacing + np.array(self.shape) / 2) * 2
        self.value = np.full(x.shape, background, dtype=np.float32)
        self.label = np.zeros(x.shape, dtype=np.uint8)
        self.affine = np.diag([*self.spacing, 1.0])
        self.affine[:3, 3] = -(np.array(self.shape) - 1) / 2 * self.spacing + rng.uniform(-20, 20, 3)

    def blob(
        self,
        centre,
        radii,
        wobble: float = 0.04,
        vary: float = 0.07,
        move: float = 3.0,
        turn: float = 6.0,
        rotation: np.ndarray | None = None,
        boxy: float = 0.0,
    ) -> _Blob:
        """A shape of about this centre and these radii (mm), different in every patient."""
        rng = self.rng
        turned = _rotation(rng.normal(size=3), rng.normal(0, turn))
        return _Blob(
            centre=np.asarray(centre) + rng.normal(0, move, 3).clip(-2 * move, 2 * move),
            radii=np.asarray(radii) * np.exp(rng.normal(0, vary, 3).clip(-2 * vary, 2 * vary)),
            rotation=turned if rotation is None else turned @ rotation,
            waves=rng.uniform(1.5, 3.8, (3, 3)) * rng.choice([-1, 1], (3, 3)),
            phases=rng.uniform(0, 2 * np.pi, 3),
            amplitude=wobble,
            boxy=boxy,
        )

    def block(self, blob: _Blob, grow: float = 1.0) -> tuple[slice, ...]:
        """Part of the grid that can hold the blob, enlarged ``grow`` times."""
        reach = 1.1 * grow * (1 + 3 * blob.amplitude) * np.sqrt((blob.rotation**2) @ blob.radii**2) * 2 / self.spacing
        if blob.boxy:
            reach = reach * np.sqrt(3)
        middle, reach = self.to_index(blob.centre), reach + 2
        return tuple(slice(max(0, int(m - r)), max(0, int(m + r) + 1)) for m, r in zip(middle, reach))

    def paint(
        self, blob: _Blob, value: float, label: int = 0, grow: float = 1.0, within: np.ndarray | None = None
    ) -> None:
        """Fill the blob, enlarged ``grow`` times, with a value and a label, where ``within`` is true."""
        at = self.block(blob, grow)
        inside = blob.field(self.x[at], self.y[at], self.z[at]) < grow
        if within is not None:
            inside &= within[at]
        self.fill(inside, value, label, at)

    def fill(self, inside: np.ndarray, value: float, label: int = 0, at: tuple | None = None) -> None:
        """Give the points of a mask a value and a label."""
        at = (slice(None),) * 3 if at is None else at
        self.value[at][inside] = value
        self.label[at][inside] = label

    def image(self) -> np.ndarray:
        """Values averaged over each voxel."""
        return _pool(self.value) / np.float32(8)

    def labels(self, classes: int) -> np.ndarray:
        """The label that covers most of each voxel; background where two are equal."""
        covered = np.stack([_pool((self.label == c).view(np.uint8)) for c in range(classes + 1)])
        return covered.argmax(axis=0).astype(np.uint8)


def _pool(fine: np.ndarray) -> np.ndarray:
    """Sum over blocks of 2 x 2 x 2."""
    fine = fine[0::2] + fine[1::2]
    fine = fine[:, 0::2] + fine[:, 1::2]
    return fine[:, :, 0::2] + fine[:, :, 1::2]


def _smooth(x: np.ndarray, weight: float) -> np.ndarray:
    """Blur by the kernel (w, 1 - 2w, w) along each axis, edges repeated."""
    for axis in range(3):
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        low, high = (np.take(padded, range(s, s + x.shape[axis]), axis) for s in (0, 2))
        x = (1 - 2 * weight) * x + weight * (low + high)
    return x


def _texture(canvas: _Canvas, deviation: float) -> np.ndarray:
    """Slow random variation inside tissue, on the fine grid."""
    rng, out = canvas.rng, np.zeros_like(canvas.value)
    for length in rng.uniform(12, 35, 3):
        a, b, c = (rng.normal(size=3) / length).astype(np.float32)
        out += np.sin(2 * np.pi * (a * canvas.x + b * canvas.y + c * canvas.z) + np.float32(rng.uniform(0, 6)))
    return out * np.float32(deviation / np.sqrt(1.5))


def _torso(rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = np.array([64, 56, 64]) + rng.integers(-3, 4, 3)
    spacing = np.array([5.3, 5.3, 6.0]) + rng.uniform(-0.3, 0.3, 3) * [1, 1, 1.5]
    spacing[1] = spacing[0]
    canvas = _Canvas(rng, shape, spacing, np.array([0, 0, 15]) + rng.normal(0, [5, 5, 14]), background=-1000)
    cavity = _torso_wall(canvas)
    _chest(canvas, cavity)
    _abdomen(canvas, cavity)
    _spine(canvas)
    tissue = canvas.value > -300
    canvas.value += np.where(tissue, _texture(canvas, 5.0), 0)
    image = _smooth(canvas.image(), 0.09)
    noise = _smooth(rng.normal(0, 1, image.shape), 0.1)
    image += noise * (rng.uniform(15, 20) / noise.std())
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), canvas.labels(5), canvas.affine


def _torso_wall(canvas: _Canvas) -> np.ndarray:
    """Skin, fat, muscle and ribs; returns where organs may lie."""
    rng, x, y, z = canvas.rng, canvas.x, canvas.y, canvas.z
    waist = 1 + 0.06 * np.cos((z - 90) / 75) + np.float32(rng.uniform(-0.0003, 0.0003)) * z
    u2 = (x / (waist * np.float32(148 * rng.uniform(0.95, 1.07)))) ** 2
    v2 = (y / (waist * np.float32(106 * rng.uniform(0.93, 1.08)))) ** 2
    r = 0.5 * np.sqrt(u2 + v2) + 0.5 * np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
    ahead = y / np.hypot(x, y)
    fat = np.float32(rng.uniform(0.05, 0.12)) * (1.2 + np.float32(rng.uniform(0.2, 0.4)) * ahead - 0.4 * ahead * ahead)
    canvas.fill(r < 1, -100 + rng.normal(0, 4))
    canvas.fill(r < 0.985 - fat, 55 + rng.normal(0, 4))
    cavity = r < 0.86 - fat
    canvas.fill(cavity, -95)
    cage = (np.abs(r + fat - 0.89) < 0.03) & (z > -40)
    slope = (z - 0.35 * y + 0.1 * np.abs(x))[cage]
    cage[cage] = (np.sin(2 * np.pi * slope / 27 + rng.uniform(0, 6)) > 0.35) & (slope > -15)
    canvas.fill(cage, 330 + rng.normal(0, 30))
    return cavity


def _chest(canvas: _Canvas, cavity: np.ndarray) -> None:
    rng = canvas.rng
    air = -820 + rng.normal(0, 30)
    canvas.fill(cavity & (canvas.z > 45), 40)
    for side in (-1, 1):
        lung = canvas.blob([70 * side, -4, 112], [52, 84, 118], wobble=0.02, vary=0.04, turn=3, boxy=0.5)
        canvas.paint(lung, air, 1, within=cavity)
        for _ in range(5):
            start = np.array([28 * side, -8, 100]) + rng.normal(0, [6, 12, 30])
            lean = _rotation(rng.normal(size=3), rng.uniform(20, 80))
            vessel = canvas.blob(start + [22 * side, 0, 0], [30, 5, 5], vary=0.2, rotation=lean)
            canvas.paint(vessel, 20, 1, within=cavity & (canvas.label == 1))
    canvas.paint(canvas.blob([0, -25, 140], [24, 32, 90], boxy=0.7), 45)
    heart = canvas.blob([-24, 32, 92], [54, 47, 50], rotation=_rotation(_AXIAL, -35))
    canvas.paint(heart, 55, grow=1.1, within=cavity)
    canvas.paint(heart, 128 + rng.normal(0, 12), within=cavity)
    canvas.paint(canvas.blob([2, -18, 160], [8, 8, 70], wobble=0.0), -950)


def _abdomen(canvas: _Canvas, cavity: np.ndarray) -> None:
    rng = canvas.rng
    liver, spleen, kidney = 105 + rng.normal(0, 7), 122 + rng.normal(0, 8), 150 + rng.normal(0, 14)
    for _ in range(26):
        place = rng.uniform([-95, -25, -200], [95, 75, -35])
        loop = canvas.blob(place, [24, 21, 27], wobble=0.06, vary=0.2, turn=60)
        canvas.paint(loop, rng.uniform(15, 75), within=cavity)
        if rng.random() < 0.35:
            canvas.paint(canvas.blob(loop.centre + [0, 8, 0], [9, 7, 9], vary=0.25), -800, within=cavity)
    for side in (-1, 1):
        canvas.paint(canvas.blob([34 * side, -52, -120], [17, 18, 85], wobble=0.02), 58, within=cavity)
    stomach = canvas.blob([-48, 30, 12], [34, 36, 56], rotation=_rotation([0, 1, 0], 20), wobble=0.05)
    canvas.paint(stomach, 62, grow=1.0, within=cavity)
    canvas.paint(stomach, rng.uniform(5, 45), grow=0.86, within=cavity)
    canvas.paint(canvas.blob([-48, 50, 34], [16, 10, 16], vary=0.2), -850, within=cavity)
    milt = canvas.blob([-94, -34, 10], [23, 36, 52], rotation=_rotation(_AXIAL, 30), vary=0.12, wobble=0.05)
    canvas.paint(milt, 50, grow=1.12, within=cavity)
    canvas.paint(milt, spleen, 3, within=cavity)
    _liver(canvas, cavity, liver)
    for side, height in ((1, -78), (-1, -62)):
        lean = _rotation([0, 1, 0], 12 * side)
        bean = canvas.blob([60 * side, -45, height], [26, 24, 50], rotation=lean, vary=0.08, wobble=0.03, move=5)
        canvas.paint(bean, -100, grow=1.18, within=cavity)
        canvas.paint(bean, kidney, 4, within=cavity)
        hilum = canvas.blob(bean.centre - [17 * side, -3, 0], [13, 9, 22], move=1.5)
        canvas.paint(hilum, -40 + rng.normal(0, 25), within=cavity)
    canvas.paint(canvas.blob([-14, -36, -20], [11, 11, 240], wobble=0.0, move=1.5, turn=1.5), 165 + rng.normal(0, 12))
    canvas.paint(canvas.blob([17, -30, -80], [13, 10, 130], wobble=0.0, move=2, turn=2), 115 + rng.normal(0, 10))


def _liver(canvas: _Canvas, cavity: np.ndarray, value: float) -> None:
    """Right and left lobe under a thin diaphragm, cut off obliquely from below, with vessels and a gall bladder."""
    right = canvas.blob([58, 2, -2], [66, 76, 80], wobble=0.035, vary=0.06, boxy=0.5)
    left = canvas.blob([2, 38, 24], [62, 34, 32], rotation=_rotation([0, 1, 0], -12), wobble=0.05, vary=0.12)
    slant, edge = canvas.rng.uniform(0.45, 0.75), canvas.rng.uniform(-32, -14)
    above = cavity & (canvas.z > edge - np.float32(slant) * canvas.x + 0.15 * canvas.y)
    for lobe in (right, left):
        canvas.paint(lobe, 50, grow=1.07, within=above)
    for lobe in (right, left):
        canvas.paint(lobe, value, 2, within=above)
    for _ in range(4):
        lean = _rotation(canvas.rng.normal(size=3), canvas.rng.uniform(0, 90))
        vessel = canvas.blob([45, 5, 10], [5, 38, 5], move=14, rotation=lean, vary=0.2)
        canvas.paint(vessel, value + 45, 2, within=canvas.label == 2)
    canvas.paint(canvas.blob([44, 46, edge - 32], [12, 16, 22], vary=0.2, move=5), 8, within=cavity)


def _spine(canvas: _Canvas) -> None:
    """A curved column of vertebrae with dense cortex, discs, arches; the canal stays unlabelled."""
    rng, marrow = canvas.rng, 180 + canvas.rng.normal(0, 18)
    bend, side, first = rng.uniform(4, 11), rng.normal(0, 3), rng.uniform(-12, 12)
    steady = {"wobble": 0.0, "vary": 0.02, "move": 0.6, "turn": 2.0}
    for step in range(-8, 9):
        height = 30.0 * step + first
        front = -64 + bend * np.cos((height + 120) / 95)
        sideways = side * np.sin(height / 110)
        canvas.paint(canvas.blob([sideways, front, height + 15], [18, 14, 6], boxy=0.7, **steady), 85, 5)
        canvas.paint(canvas.blob([sideways, front - 30, height], [20, 13, 11], **steady), 300, 5)
        canvas.paint(canvas.blob([sideways, front - 40, height - 4], [5, 15, 9], **steady), 330, 5)
        body = canvas.blob([sideways, front, height], [21, 16, 13], boxy=1.0, **steady)
        canvas.paint(body, 430, 5)
        canvas.paint(body, marrow, 5, grow=0.82)
        canvas.paint(canvas.blob([sideways, front - 23, height], [9, 7, 20], boxy=0.7, **steady), 30)


def _head(rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    thick = index % 4 == 2
    spacing = np.array([2.5, 2.5, 4.0]) if thick else np.full(3, 2.7) + rng.uniform(-0.15, 0.15, 3)
    extent = np.array([170, 208, 180]) + rng.uniform(-6, 10, 3)
    shape = np.rint(extent / spacing).astype(int)
    canvas = _Canvas(rng, shape, spacing, rng.normal(0, [2, 3, 5]), background=2)
    brain = _head_shells(canvas)
    _deep_brain(canvas, brain)
    _lesion(canvas, brain)
    canvas.value *= 1 + _texture(canvas, 0.025)
    image = _smooth(canvas.image(), 0.07)
    d, h, w = (
        np.linspace(-1, 1, n, dtype=np.float32).reshape(s) for n, s in zip(shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
    )
    tilt, bow = rng.normal(0, 0.10, 3), rng.normal(0, 0.08, 3)
    image = image * np.exp(tilt[0] * d + tilt[1] * h + tilt[2] * w + bow[0] * d * h + bow[1] * h * h + bow[2] * w * h)
    sigma = rng.uniform(3.0, 4.5)
    image = np.hypot(image + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape))
    image *= rng.uniform(4, 9)
    return np.clip(np.rint(image), 0, 65535).astype(np.uint16), canvas.labels(5), canvas.affine


def _head_shells(canvas: _Canvas) -> np.ndarray:
    """Scalp, skull and what lies in it; returns where the brain may be."""
    rng, x, y, z = canvas.rng, canvas.x, canvas.y, canvas.z
    u, v, w = (axis / np.float32(size * np.exp(rng.normal(0, 0.03))) for axis, size in ((x, 74), (y, 92), (z, 80)))
    r = np.sqrt(u * u + v * v + w * w) * (1 + 0.03 * np.sin(2 * v + rng.uniform(-0.5, 0.5)))
    neck = ((x / 52) ** 2 + ((y + 12) / 60) ** 2 < 1) & (z < -30)
    canvas.fill((r < 1) | neck, 60)
    canvas.fill((r < 1) & (r > 0.955), 135 + rng.normal(0, 6))
    canvas.fill(r < 0.93, 14)
    canvas.fill((r < 0.905) & (r > 0.885), 45)
    inside = r < 0.86
    _cerebrum(canvas, inside, r[inside], (u[inside], v[inside], w[inside]))
    return r < 0.84


def _cerebrum(canvas: _Canvas, inside: np.ndarray, r: np.ndarray, unit: tuple[np.ndarray, ...]) -> None:
    """Fluid, folded cortex, white matter and the base of the skull, at the points ``inside`` the skull."""
    rng, (u, v, w), (x, y, z) = canvas.rng, unit, (canvas.x[inside], canvas.y[inside], canvas.z[inside])
    turns, phase = rng.uniform(20, 25, 3), rng.uniform(0, 6, 4)
    folds = np.sin(turns[0] * u + 2.5 * np.sin(3 * v + phase[0])) * np.sin(turns[1] * v + 2 * np.sin(4 * w + phase[1]))
    folds = folds + 0.6 * np.sin(turns[2] * w + 3 * np.sin(3 * u + phase[2]) + phase[3])
    fissure = np.abs(x + 1.5 * np.sin(y / 30)) - 2.0
    apart = (y / 50) ** 2 + ((z + 8) / 34) ** 2 > 1
    base = -50 + 18 * np.exp(-((x / 24) ** 2)) + 24 / (1 + np.exp(-(y - 32) / 6)) + 0.1 * y + 1.5 * folds
    grey = (r < 0.815 + 0.022 * folds) & ~((fissure < 0) & apart) & (z > base)
    white = (r < 0.68 + 0.07 * folds) & ~((fissure < 3.5) & apart) & (z > base + 9)
    value = np.where(z > base - 4, np.float32(24), np.float32(52) + 14 * np.sign(folds))
    value[grey] = 74 + rng.normal(0, 2.5)
    value[white] = 108 + rng.normal(0, 2.5)
    canvas.value[inside] = value
    canvas.label[inside] = white


def _deep_brain(canvas: _Canvas, brain: np.ndarray) -> None:
    rng = canvas.rng
    canvas.paint(canvas.blob([0, -14, -52], [13, 14, 40], wobble=0.02, move=1.5), 100, within=brain | (canvas.z < -30))
    lobes = [canvas.blob([22 * s, -42, -40], [28, 25, 20], wobble=0.03, move=2, turn=4) for s in (-1, 1)]
    vermis = canvas.blob([0, -42, -36], [12, 20, 18], wobble=0.03, move=1.5)
    for lobe in lobes:
        canvas.paint(lobe, 24, grow=1.12, within=brain)
    grey = 80 + rng.normal(0, 2.5)
    for part in (*lobes, vermis):
        canvas.paint(part, grey, 4, within=brain)
    for lobe in lobes:
        canvas.paint(lobe, 102, 4, grow=0.55, within=brain)
    leaves = (canvas.label == 4) & (np.sin(canvas.z * 0.9 + 0.02 * canvas.y**2 / 10) > 0.75)
    canvas.value[leaves] -= 22
    nuclei = 84 + rng.normal(0, 2.5)
    for side in (-1, 1):
        canvas.paint(canvas.blob([14 * side, -10, 2], [10, 16, 11], wobble=0.03, move=1.2), nuclei, 3)
        lens = canvas.blob([27 * side, 10, 3], [8, 19, 11], rotation=_rotation(_AXIAL, 14 * side), move=1.2)
        canvas.paint(lens, nuclei, 3)
    size, fluid = rng.uniform(0.8, 1.35), 22 + rng.normal(0, 1.5)
    for side in (-1, 1):
        turned = _rotation(_AXIAL, -12 * side)
        for centre, radii in (([9, 2, 17], [6, 30, 8]), ([11, 24, 12], [6, 14, 10]), ([20, -33, 8], [8, 20, 9])):
            horn = canvas.blob(
                np.array(centre) * [side, 1, 1],
                np.array(radii) * [size, 1, size],
                move=1.2,
                rotation=turned if centre[1] < 0 else turned.T,
            )
            canvas.paint(horn, fluid, 2)
    canvas.paint(canvas.blob([0, -4, -6], [3.2 * size, 13, 9], move=0.8), fluid, 2)


def _lesion(canvas: _Canvas, brain: np.ndarray) -> None:
    """One blob of random place and size in the white matter of the upper brain, brighter at its rim."""
    rng = canvas.rng
    high = np.argwhere((canvas.label[::4, ::4, ::4] == 1) & (canvas.z[::4, ::4, ::4] > 0)) * 4
    points = np.stack([axis[tuple(high.T)] for axis in (canvas.x, canvas.y, canvas.z)], axis=1)
    points = points[(np.abs(points[:, 0]) > 24) & (np.abs(points[:, 0]) < 46)]
    centre = points[rng.integers(len(points))]
    blob = canvas.blob(centre, rng.uniform(10, 16) * np.ones(3), wobble=0.07, vary=0.15, move=0, turn=90)
    canvas.paint(blob, 92, 1, grow=1.25, within=canvas.label == 1)
    canvas.paint(blob, 66 + rng.normal(0, 4), 5, within=brain)
    canvas.paint(blob, 46 + rng.normal(0, 5), 5, grow=0.6, within=brain)
