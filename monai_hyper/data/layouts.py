"""How the sources of the training data lay out their files, and what becomes of them; see docs/data.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from monai_hyper.data.volumes import SUFFIXES, read_header, read_image, read_label, volume_name
from monai_hyper.types import InputError


@dataclass(frozen=True)
class Converted:
    """One case as it is written.

    Args:
        name: file name without suffix.
        labels: ``(D, H, W)``, whole numbers.
        affine: of both volumes, ``(4, 4)``, RAS+, mm.
        image: intensities of the same grid, or None.
        split: name of the list in ``dataset.json`` that the case belongs to, or None.
        names: name by label value, where the values of this case mean something of their own.
    """

    name: str
    labels: np.ndarray
    affine: np.ndarray
    image: np.ndarray | None = None
    split: str | None = None
    names: dict[int, str] | None = None


@dataclass(frozen=True)
class Layout:
    """How a source is laid out.

    Args:
        read: from its folder to its cases, one after the other.
        facts: what ``dataset.json`` says whatever the cases; without any, what the source's own says is kept.
        splits: lists of ``dataset.json`` that this project made; cases that are absent are left out of them.
    """

    read: Callable[[Path], Iterator[Converted]]
    facts: dict[str, object] = field(default_factory=dict)
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _found(paths: Iterable[Path], data: Path, expected: str) -> list[Path]:
    """Sorted paths.

    Raises:
        InputError: if there are none.
    """
    paths = sorted(paths)
    if not paths:
        raise InputError(f"{data}: expected {expected}, found none. See docs/data.md for what to download.")
    return paths


def _refuse_pointer(path: Path) -> None:
    """
    Raises:
        InputError: for what Git leaves in the place of a large file that was not fetched.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise InputError(f"{path}: expected a volume, found a pointer of Git LFS. Fetch it: git lfs pull.")


def _volume(read: Callable, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(D, H, W)`` and affine of a file, by :func:`read_image` or :func:`read_label`."""
    _refuse_pointer(path)
    volume = read(path)
    return volume.numpy()[0], volume.affine.numpy().astype(np.float64)


def _mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels above 0, ``(D, H, W)`` bool, and affine; several times as fast as :func:`read_label`."""
    _refuse_pointer(path)
    read_header(path)
    try:
        volume = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: expected a mask, found a corrupt or truncated one. Download it again.") from error
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(volume.GetDirection(), (3, 3)) * volume.GetSpacing()
    affine[:3, 3] = volume.GetOrigin()
    return sitk.GetArrayViewFromImage(volume).T > 0, np.diag([-1.0, -1, 1, 1]) @ affine


def _check_grid(path: Path, found: tuple, expected: tuple, tolerance: float = 0.01) -> None:
    """
    Args:
        found, expected: voxels and affine each.
        tolerance: distance of the first voxels that is taken as equal, mm.

    Raises:
        InputError: if shape or affine differ.
    """
    apart = np.abs(found[1] - expected[1])
    if found[0].shape != expected[0].shape or apart[:3, :3].max() > 1e-3 or apart[:3, 3].max() > tolerance:
        raise InputError(
            f"{path}: expected the grid of the files beside it, {expected[0].shape} with affine "
            f"{expected[1][:3].tolist()}, found {found[0].shape} with {found[1][:3].tolist()}. "
            "Download it again, or resample it."
        )


def _box(inside: np.ndarray, margin: int) -> tuple[slice, slice, slice]:
    """Box around the voxels that are true, ``margin`` voxels wider where the grid has them; all of it if none is."""
    box = []
    for axis, size in enumerate(inside.shape):
        places = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (places[0], places[-1] + 1) if len(places) else (0, size)
        box.append(slice(max(0, int(low) - margin), min(size, int(high) + margin)))
    return tuple(box)


def _moved(affine: np.ndarray, by: Iterable[float]) -> np.ndarray:
    """Affine of a grid that begins ``by`` voxels further on."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.asarray(list(by), dtype=float)
    return moved


def _cropped(labels: np.ndarray, affine: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    box = _box(labels > 0, margin)
    return labels[box], _moved(affine, (s.start for s in box))


def _to_4000(image: np.ndarray) -> np.ndarray:
    """Intensities from 0 to 4000, which is the 99.9th percentile of all voxels."""
    top = float(np.percentile(image, 99.9))
    return np.clip(image / top * 4000, 0, 4000) if top > 0 else np.zeros_like(image)


def _plain(data: Path) -> Iterator[Converted]:
    """Label maps in ``labels/``, or in the folder itself, and images of the same names in ``images/``."""
    folder = data / "labels" if (data / "labels").is_dir() else data
    volumes = [f for f in folder.iterdir() if f.name.lower().endswith(SUFFIXES)]
    images = {volume_name(f): f for f in (data / "images").glob("*") if f.name.lower().endswith(SUFFIXES)}
    paths = _found(volumes, folder, f"label maps ({', '.join(SUFFIXES)})")
    alone = sorted(images.keys() - {volume_name(path) for path in paths})
    if alone:
        raise InputError(f"{images[alone[0]]}: expected a label map of the same name, found none. Add it.")
    for path in paths:
        labels, affine = _volume(read_label, path)
        image = None
        if volume_name(path) in images:
            shown = _volume(read_image, images[volume_name(path)])
            _check_grid(images[volume_name(path)], shown, (labels, affine))
            image = shown[0]
        yield Converted(volume_name(path), labels, affine, image)


def _brain_labels(data: Path) -> Iterator[Converted]:
    """SynthSeg: ``training_label_maps/*seg*.nii.gz``."""
    expected = "training_label_maps/training_seg_*.nii.gz"
    maps = [p for p in data.rglob("*seg*.nii.gz") if p.parent.name == "training_label_maps"]
    for path in _found(maps or data.glob("*seg*.nii.gz"), data, expected):
        yield Converted(volume_name(path), *_cropped(*_volume(read_label, path), margin=1))


ORGANS = (
    "Brain", "Brainstem", "Cochlea-Lt", "Cochlea-Rt", "Lacrimal-Lt", "Lacrimal-Rt", "Lens-Lt", "Lens-Rt", "Lung-Lt",
    "Lung-Rt", None, "Optic-Nerve-Lt", "Optic-Nerve-Rt", "Orbit-Lt", "Orbit-Rt", "Parotid-Lt", "Parotid-Rt",
    "Spinal-Canal", "Spinal-Cord", "Submandibular-Lt", "Submandibular-Rt",
)  # fmt: skip
"""Files of ``headneck_labels``; the place, from 1, is the value. The mandible, 11, is held out and not read."""


def _headneck_labels(data: Path) -> Iterator[Converted]:
    """TCIA CT organs: ``SPLIT/oncologist/PATIENT/segmentations/ORGAN.nrrd``; later organs lie over earlier ones."""
    folders = [f for f in data.rglob("segmentations") if f.is_dir() and f.parents[1].name != "radiographer"]
    for folder in _found(folders, data, "SPLIT/oncologist/PATIENT/segmentations"):
        merged: tuple[np.ndarray, np.ndarray] | None = None
        for value, organ in enumerate(ORGANS, start=1):
            paths = [folder / f"{organ}{suffix}" for suffix in (".nrrd", ".nii.gz")]
            for path in filter(Path.exists, paths):
                mask, affine = _mask(path)
                merged = merged or (np.zeros_like(mask, dtype=np.uint8), affine)
                _check_grid(path, (mask, affine), merged)
                merged[0][mask] = value
        if merged is None:
            raise InputError(f"{folder}: expected files such as Brainstem.nrrd, found none. Download the folder again.")
        yield Converted(f"{folder.parents[2].name}_{folder.parents[0].name}", *_cropped(*merged, margin=8))


SIDE = 128
"""Voxels a side of every OpenKBP volume."""

STRUCTURES = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
"""Files of ``headneck_ct``; the place, from 1, is the value."""


def _columns(path: Path, count: int) -> np.ndarray:
    """The first ``count`` columns of an OpenKBP file ``,data`` of voxel indices and values, ``(rows, count)``.

    Raises:
        InputError: if the file is missing or another one, or an index lies outside of the grid.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = file.readline().strip()
            lines = [line for line in file if line.strip()]
        rows = np.loadtxt(lines, delimiter=",", usecols=range(count), ndmin=2) if lines else np.zeros((0, count))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a table of voxel indices, found none ({error}). Download it again."
        ) from error
    index = rows[:, 0]
    bad = index[~((index >= 0) & (index < SIDE**3) & (np.rint(index) == index))]
    if head != ",data" or bad.size:
        found = f"index {bad[0]:g}" if bad.size else f"the first line '{head[:40]}'"
        raise InputError(
            f"{path}: expected ',data' and indices from 0 to {SIDE**3 - 1}, found {found}. Download it again."
        )
    return rows


def _spacing(path: Path) -> np.ndarray:
    """Voxel size per array axis in mm, of ``voxel_dimensions.csv``: one number a line."""
    try:
        size = np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected three numbers in mm, found none ({error}). Download it again.") from error
    if size.shape != (3,) or not (np.isfinite(size) & (size > 0)).all():
        raise InputError(f"{path}: expected three positive numbers in mm, found {size.tolist()}. Download it again.")
    return size


def _headneck_ct(data: Path) -> Iterator[Converted]:
    """OpenKBP: ``provided-data/{train,valid,test}-pats/pt_*/*.csv``.

    A voxel's index counts through ``(128, 128, 128)``, last axis fastest; the axes run from front to back, from the
    patient's right to left and from head to foot. Voxels that are not listed are empty; HU are the values less 1000.
    """
    for folder in _found(data.rglob("*-pats/pt_*"), data, "provided-data/train-pats/pt_*"):
        size = _spacing(folder / "voxel_dimensions.csv")
        table = _columns(folder / "ct.csv", 2)
        image, labels = np.zeros(SIDE**3), np.zeros(SIDE**3, dtype=np.uint8)
        image[table[:, 0].astype(int)] = table[:, 1]
        for value, structure in enumerate(STRUCTURES, start=1):
            path = folder / f"{structure}.csv"
            if path.exists():
                labels[_columns(path, 1)[:, 0].astype(int)] = value
        image, labels = image.reshape((SIDE,) * 3), labels.reshape((SIDE,) * 3)
        box = _box(image > 0, margin=2)
        affine = np.array([[0, -size[1], 0, 0], [-size[0], 0, 0, 0], [0, 0, -size[2], 0], [0, 0, 0, 1.0]])
        split = "train" if folder.parent.name == "train-pats" else "evaluation"
        yield Converted(folder.name, labels[box], _moved(affine, (s.start for s in box)), image[box] - 1000, split)


def _atlas_labels(data: Path) -> Iterator[Converted]:
    """SPL/NAC atlases: ``seg.nrrd`` beside a colour table; values are renumbered from 1 in their order."""
    tables = {"AbdominalAtlasColors.ctbl": "abdomen", "knee.ctbl": "knee"}
    paths = [p for p in data.rglob("*.ctbl") if p.name in tables and (p.parent / "seg.nrrd").exists()]
    for path in _found(paths, data, "seg.nrrd beside AbdominalAtlasColors.ctbl or knee.ctbl"):
        labels, affine = _volume(read_label, path.parent / "seg.nrrd")
        values, compact = np.unique(labels, return_inverse=True)
        compact = compact.reshape(labels.shape) + (values[0] > 0)
        named = _colour_table(path)
        names = {place: named[v] for place, v in enumerate(values[values > 0].tolist(), start=1) if v in named}
        yield Converted(tables[path.name], compact, affine, names=names)


def _colour_table(path: Path) -> dict[int, str]:
    """Name by value of a table of 3D Slicer: ``value name red green blue opacity`` a line."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    bad = [row for row in rows if len(row) != 6 or not row[0].isdigit()]
    if bad:
        raise InputError(f"{path}: expected 'value name red green blue opacity', found {' '.join(bad[0])!r}.")
    return {int(row[0]): row[1] for row in rows}


STROKES = 300
"""Masks of strokes at most."""

STROKE_VOXELS = 200
"""Smaller strokes are left out."""

EVALUATED = ("patient07", "patient19", "patient26")
"""Patients of open_ms_data whose images are evaluated on: their lesions are never trained on."""


def _lesion_labels(data: Path) -> Iterator[Converted]:
    """Stroke demo: ``NIfTI/bwsrsub-*_lesion.nii.gz``; open_ms_data: ``cross_sectional/MNI/patient*/GOLD_STANDARD*``."""
    strokes = list(data.rglob("bwsrsub-*_lesion.nii.gz"))
    gold = [p for p in data.rglob("GOLD_STANDARD*_regtoMNI.nii.gz") if p.parent.name not in EVALUATED]
    taken = 0
    for path in _found(strokes + gold, data, "bwsrsub-*_lesion.nii.gz or MNI/patient*/GOLD_STANDARD*_regtoMNI.nii.gz"):
        is_stroke = path.name.startswith("bwsrsub-")
        if is_stroke and taken == STROKES:
            continue
        image, affine = _volume(read_image, path)
        lesion = image > (0 if is_stroke else 0.5)
        name = f"stroke_{taken:03d}" if is_stroke else f"ms_{path.parent.name}"
        if lesion.sum() < (STROKE_VOXELS if is_stroke else 1):
            continue
        taken += is_stroke
        yield Converted(name, *_cropped(lesion, affine, margin=3))


def _fetal_brain_mr(data: Path) -> Iterator[Converted]:
    """Fetal atlas: ``fetal_SB_atlas_GA*_*/parcellation.nii.gz`` and ``srr.nii.gz``."""
    for path in _found(
        data.rglob("fetal_SB_atlas_*/parcellation.nii.gz"), data, "fetal_SB_atlas_*/parcellation.nii.gz"
    ):
        labels, affine = _volume(read_label, path)
        image = _volume(read_image, path.with_name("srr.nii.gz"))
        _check_grid(path, (labels, affine), image)
        yield Converted(path.parent.name, labels, affine, np.rint(_to_4000(image[0])))


HIPPOCAMPI = (17, 53)  # of FreeSurfer: held out


def _macaque_mr(data: Path) -> Iterator[Converted]:
    """Macaque templates: ``JointLabelCouncil/NAME/Segmentation.nii.gz`` and ``T1w_brain.nii.gz``, 0.5 mm, to 1 mm.

    The image is averaged over blocks of 2 x 2 x 2 voxels, of the labels the first voxel of a block is taken.
    Templates without image are left out.
    """
    pairs = []
    for path in data.rglob("Segmentation.nii.gz"):
        name = path.parent.name
        images = (path.with_name("T1w_brain.nii.gz"), path.parents[2] / f"{name}_trimmed_brain.nii.gz")
        pairs += [(path, image) for image in images if image.exists()][:1]
    _found((path for path, _ in pairs), data, "JointLabelCouncil/*/Segmentation.nii.gz with T1w_brain.nii.gz beside it")
    for path, picture in sorted(pairs):
        labels, label_affine = _volume(read_label, path)
        image, affine = _volume(read_image, picture)
        _check_grid(path, (labels, label_affine), (image, affine), tolerance=0.3)
        even = tuple(slice(0, size - size % 2) for size in image.shape)
        image = _to_4000(image)[even]
        means = image.reshape([n for size in image.shape for n in (size // 2, 2)]).mean(axis=(1, 3, 5))
        affine = _moved(affine, (0.5, 0.5, 0.5)) @ np.diag([2.0, 2, 2, 1])
        kept = np.where(np.isin(labels, HIPPOCAMPI), 0, labels)[even][::2, ::2, ::2]
        name = path.parent.name.split("_T1w_")[0].split("_194x252x160space")[0].replace("_atlas", "")
        yield Converted(name, kept, affine, np.rint(means))


def _colin27_mr(data: Path) -> Iterator[Converted]:
    """MRIcron: ``ch2.nii.gz`` and ``aal.nii.gz``."""
    for path in _found(data.rglob("aal.nii.gz"), data, "mricron/templates/aal.nii.gz with ch2.nii.gz beside it"):
        labels, affine = _volume(read_label, path)
        image = _volume(read_image, path.with_name("ch2.nii.gz"))
        _check_grid(path, (labels, affine), image)
        yield Converted("colin27", np.where(np.isin(labels, (37, 38)), 0, labels), affine, image[0])


def _cases(numbers: str) -> tuple[str, ...]:
    return tuple(f"pt_{number}" for number in numbers.split())


LAYOUTS = {
    "plain": Layout(_plain),
    "brain_labels": Layout(
        _brain_labels,
        {
            "modality": "label maps only",
            "role": "meta-training by synthesis",
            "labels": "FreeSurfer ids, plus extra-cerebral ids",
            "licence": "Apache-2.0",
            "source": "SynthSeg training label maps (Billot et al. 2023)",
        },
    ),
    "headneck_labels": Layout(
        _headneck_labels,
        {
            "modality": "label maps only, cropped to the labelled region",
            "role": "meta-training by synthesis",
            "labels": {str(value): organ for value, organ in enumerate(ORGANS, start=1) if organ},
            "licence": "CC BY 4.0",
            "source": "head and neck organs at risk on TCIA CT (Nikolov et al. 2018), read by the oncologist",
        },
    ),
    "headneck_ct": Layout(
        _headneck_ct,
        {
            "modality": "CT (HU = stored value; outside the body -1000)",
            "role": "'train' cases may be meta-trained on, for labels 1-5 only; all others are never trained on",
            "labels": {
                "1": "brainstem", "2": "spinal cord", "3": "right parotid", "4": "left parotid", "5": "oesophagus",
                "6": "larynx", "7": "mandible",
            },
            "licence": "MIT",
            "source": "OpenKBP grand challenge data (Babier et al., Medical Physics 2021)",
        },
        {
            "select": _cases(
                "201 202 203 204 215 225 230 236 238 265 282 283 285 286 288 293 295 296 299 304 309 312 319 332 333 "
                "338 339"
            ),
            "report": _cases("207 216 222 232 245 247 260 269 274 276 291 294 302 303 305 306 307 323 334"),
        },
    ),
    "atlas_labels": Layout(
        _atlas_labels,
        {
            "modality": "label maps only, one subject each: abdomen, knee",
            "role": "meta-training by synthesis",
            "labels": "abdomen.json and knee.json",
            "licence": "3D Slicer licence (BSD style), part A and B",
            "source": "SPL/NAC abdominal and knee atlases (Halle et al.)",
        },
    ),
    "lesion_labels": Layout(
        _lesion_labels,
        {
            "modality": "binary lesion masks only, 1 mm, cropped",
            "role": "meta-training by synthesis (lesion shapes)",
            "labels": {"1": "lesion"},
            "licence": "stroke_*: BSD-2-Clause (repository); ms_*: CC BY",
            "source": "stroke: Stroke Outcome Optimization Project demo (neurolabusc); ms: open_ms_data (Lesjak 2018)",
        },
    ),
    "fetal_brain_mr": Layout(
        _fetal_brain_mr,
        {
            "modality": "T2 MR atlas, one per gestational week and operation state",
            "role": "meta-training",
            "labels": {
                "1": "white matter", "2": "ventricles", "3": "cerebellum", "4": "external CSF", "5": "cortex",
                "6": "deep grey matter", "7": "brainstem", "8": "corpus callosum",
            },
            "licence": "CC0",
            "source": "spina bifida aperta spatio-temporal fetal brain atlas (Fidon et al. 2021)",
        },
    ),
    "macaque_mr": Layout(
        _macaque_mr,
        {
            "modality": "T1 MR templates by age, brain only, 1 mm",
            "role": "meta-training",
            "labels": "FreeSurfer aseg ids; hippocampi (17, 53) blanked",
            "licence": "BSD-3-Clause (repository)",
            "source": "DCAN-Labs macaque pipeline, joint label council",
        },
    ),
    "colin27_mr": Layout(
        _colin27_mr,
        {
            "modality": "T1 MR, one subject, head",
            "role": "meta-training",
            "labels": "AAL regions 1 to 116; hippocampi (37, 38) blanked",
            "licence": "BSD-3-Clause (Debian mricron-data)",
            "source": "Colin27 (ch2) with the AAL atlas (Tzourio-Mazoyer et al. 2002), as in MRIcron",
        },
    ),
}  # fmt: skip
"""Layouts by the name of the folder that results; ``plain`` is for everything else."""
