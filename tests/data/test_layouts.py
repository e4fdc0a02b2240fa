"""What becomes of a source's own files: values, grid, names; nothing half-written."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_hyper.cli import main
from monai_hyper.data.folder import list_cases, read_pair
from monai_hyper.data.layouts import EVALUATED, LAYOUTS, ORGANS, SIDE, STRUCTURES
from monai_hyper.data.volumes import read_label
from monai_hyper.synthesis.sources import load_sources

AXES = np.diag([-2.0, 1.5, 1, 1])
AXES[:3, 3] = (30, -20, 7)


def block(size=(12, 14, 16), start=(3, 4, 5), side=4, value=1):
    array = np.zeros(size, dtype=np.uint8)
    array[tuple(slice(s, s + side) for s in start)] = value
    return array


def save(path: Path, array: np.ndarray, affine=AXES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def save_nrrd(path: Path, array: np.ndarray) -> None:
    """NRRD as 3D Slicer writes it: axes of an array (x, y, z), left-posterior-superior."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    volume.SetSpacing((2, 1.5, 1))
    volume.SetOrigin((-30, -20, 7))
    sitk.WriteImage(volume, str(path), True)


def save_table(path: Path, voxels: dict[tuple[int, int, int], float | None]) -> None:
    """OpenKBP: flat index, and a value for the CT."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {(i * SIDE + j) * SIDE + k: value for (i, j, k), value in voxels.items()}
    path.write_text(",data\n" + "".join(f"{n},{'' if v is None else float(v)}\n" for n, v in sorted(flat.items())))


def cube(start, side=3, value=None):
    steps = np.ndindex(side, side, side)
    return {tuple(int(a + b) for a, b in zip(start, step)): value for step in steps}


def kbp_patient(folder: Path, structures=STRUCTURES) -> None:
    """A body of 40 voxels a side, from 50, with structures of 3 a side in a row from head to foot."""
    save_table(folder / "ct.csv", cube((50, 50, 50), 40, 1030) | {(50, 50, 50): 4095})
    for place, name in enumerate(structures):
        save_table(folder / f"{name}.csv", cube((60, 55, 52 + 5 * place)))
    (folder / "voxel_dimensions.csv").write_text("4.0e+00\n3.0e+00\n2.0e+00\n")


def openkbp(root: Path) -> None:
    kbp_patient(root / "provided-data" / "train-pats" / "pt_1")
    kbp_patient(root / "provided-data" / "train-pats" / "pt_12", STRUCTURES[:4])
    kbp_patient(root / "provided-data" / "test-pats" / "pt_245")


def deepmind(root: Path) -> None:
    for split, patient in (("test", "0522c0017"), ("validation", "TCGA-CV-5977")):
        folder = root / "nrrds" / split / "oncologist" / patient / "segmentations"
        for place, organ in enumerate((*filter(None, ORGANS[:16]), "Mandible")):
            save_nrrd(folder / f"{organ}.nrrd", block((24, 30, 90), (10, 12, 3 + 5 * place)))
        other = root / "nrrds" / split / "radiographer" / patient / "segmentations"
        save_nrrd(other / "Spinal-Cord.nrrd", block((24, 30, 90), (2, 2, 2)))


def synthseg(root: Path) -> None:
    for case in (1, 2):
        labels = block(value=17) + block(start=(7, 4, 5), value=3) + block(start=(3, 8, 5)).astype(np.int16) * 506
        save(root / "data" / "training_label_maps" / f"training_seg_{case:02d}.nii.gz", labels)


def atlases(root: Path) -> None:
    for name, table in (("abdominal", "AbdominalAtlasColors.ctbl"), ("knee", "knee.ctbl")):
        labels = block(value=5) + block(start=(7, 4, 5), value=98) + block(start=(3, 8, 5), value=9)
        full = np.where(labels == 0, 3, labels)  # a map without background
        save_nrrd(root / name / "Data" / "seg.nrrd", full if name == "abdominal" else labels)
        rows = "# Color table file\n9 fat_body 225 230 150 255\n98 patella 197 189 177 255\n99 unseen 1 1 1 255\n"
        (root / name / "Data" / table).write_text(rows)


def lesions(root: Path) -> None:
    for number, side in ((1000, 6), (1001, 5), (10, 7)):
        save(root / "stroke" / "NIfTI" / f"bwsrsub-{number}_lesion.nii.gz", block((20, 20, 20), (8, 8, 8), side))
    for patient in ("patient01", *EVALUATED):
        path = root / "open_ms_data" / "cross_sectional" / "MNI" / patient / "GOLD_STANDARD_N4_regtoMNI.nii.gz"
        save(path, block((20, 20, 20), (8, 8, 8), 4).astype(np.float32) * 0.7)
        save(path.with_name("FLAIR_N4_regtoMNI.nii.gz"), block((20, 20, 20)))


def fetal(root: Path) -> None:
    folder = root / "fetal_SB_atlas_GA25_operated"
    save(folder / "parcellation.nii.gz", block(value=8) + block(start=(7, 4, 5), value=1))
    save(folder / "srr.nii.gz", block(side=6).astype(np.float32) * 77.5)
    save(folder / "mask.nii.gz", block(side=6))


def macaque(root: Path) -> None:
    council = root / "global" / "templates" / "JointLabelCouncil"
    names = ("J_Macaque_4mo_atlas_nACQ_194x252x160space_0.5mm", "MacaqueYerkes19_T1w_0.5mm", "no_image")
    labels = block((13, 14, 16), (2, 4, 4), 4, 53) + block((13, 14, 16), (6, 4, 4), 4, 12)
    image = block((13, 14, 16), (2, 4, 4), 8).astype(np.float32) * 30
    for name in names:
        save(council / name / "Segmentation.nii.gz", labels, np.diag([0.5, 0.5, 0.5, 1]))
    save(council / names[0] / "T1w_brain.nii.gz", image, np.diag([0.5, 0.5, 0.5, 1]))
    save(council.parent / f"{names[1]}_trimmed_brain.nii.gz", image, np.diag([0.5, 0.5, 0.5, 1]))


def mricron(root: Path) -> None:
    labels = block(value=37) + block(start=(7, 4, 5), value=38) + block(start=(3, 8, 5), value=116)
    save(root / "usr" / "share" / "mricron" / "templates" / "aal.nii.gz", labels)
    save(root / "usr" / "share" / "mricron" / "templates" / "ch2.nii.gz", labels * 2)


ORIGINALS = {
    "brain_labels": synthseg,
    "headneck_labels": deepmind,
    "headneck_ct": openkbp,
    "atlas_labels": atlases,
    "lesion_labels": lesions,
    "fetal_brain_mr": fetal,
    "macaque_mr": macaque,
    "colin27_mr": mricron,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A fabricated download of every source, in a folder of its name."""
    root = tmp_path_factory.mktemp("original")
    for name, make in ORIGINALS.items():
        make(root / name)
    return root


@pytest.fixture(scope="module")
def converted(original) -> Path:
    root = original.parent / "converted"
    for name in ORIGINALS:
        assert convert(original / name, name, root / name) == 0
    return root


def convert(data: Path, layout: str, output: Path, *more: str) -> int:
    return main(["convert", "--data", str(data), "--layout", layout, "--output", str(output), *more])


def volume(path: Path):
    loaded = nib.load(path)
    return np.asarray(loaded.dataobj), loaded.affine


def names_of(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir())


def at(array, affine, point) -> float:
    """Value of the voxel whose middle lies at a point in mm, RAS+."""
    index = np.linalg.solve(affine, [*point, 1])[:3]
    assert np.allclose(index, np.rint(index), atol=1e-3)
    return array[tuple(np.rint(index).astype(int))]


def test_every_training_set_has_a_layout_and_is_read_by_training(converted):
    assert set(ORIGINALS) | {"plain"} == set(LAYOUTS)
    sources = load_sources(converted)
    assert set(sources.cohorts) == set(ORIGINALS) - {"atlas_labels", "lesion_labels"} | {"abdomen", "knee"}
    assert len(sources.lesions) == 3


def test_every_layout_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    section = text.partition("## From the download")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(LAYOUTS)


@pytest.mark.parametrize("name", ORIGINALS)
def test_descriptions_say_what_there_is(converted, name):
    facts = json.loads((converted / name / "dataset.json").read_text())
    assert facts["name"] == name and facts["cases"] == len(names_of(converted / name / "labels"))
    assert {"licence", "source", "role", "labels"} <= set(facts)


def test_images_and_labels_fit_together(converted):
    for name in ("headneck_ct", "fetal_brain_mr", "macaque_mr", "colin27_mr"):
        for case in list_cases(converted / name):
            read_pair(case)


# -- OpenKBP ----------------------------------------------------------------------------------------------------------


def test_openkbp_voxels_keep_value_and_place(converted):
    labels, affine = volume(converted / "headneck_ct" / "labels" / "pt_1.nii.gz")
    image, image_affine = volume(converted / "headneck_ct" / "images" / "pt_1.nii.gz")
    assert labels.shape == image.shape == (44, 44, 44)  # 2 voxels wider than the body
    assert np.array_equal(affine, image_affine)
    assert sorted(set(image.ravel().tolist())) == [-1000, 30, 3095] and (image == 30).sum() == 40**3 - 1
    for value in range(1, 8):  # index (60, 55, 52 + ...): to the back by 4 mm, to the left by 3 mm, to the feet by 2 mm
        assert at(labels, affine, (-55 * 3, -60 * 4, -2 * (52 + 5 * (value - 1)))) == value
        assert (labels == value).sum() == 27
    assert at(image, affine, (-150, -200, -100)) == 3095


def test_openkbp_structures_that_are_not_there_are_not_annotated(converted):
    labels, _ = volume(converted / "headneck_ct" / "labels" / "pt_12.nii.gz")
    assert sorted(set(labels.ravel().tolist())) == [0, 1, 2, 3, 4]


def test_openkbp_only_training_patients_may_be_trained_on(converted):
    split = json.loads((converted / "headneck_ct" / "dataset.json").read_text())["split"]
    assert split == {"train": ["pt_1", "pt_12"], "evaluation": ["pt_245"], "report": ["pt_245"], "select": []}
    assert len(load_sources(converted).cohorts["headneck_ct"].subjects) == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("ct.csv", ",data\n5,7.0\n2097152,3.0\n"),
        ("ct.csv", ",data\n5,7.0\n2097"),
        ("ct.csv", "version 1\n5,7.0\n"),
        ("Mandible.csv", ",data\n-1,\n"),
        ("Mandible.csv", ",data\n1.5,\n"),
        ("voxel_dimensions.csv", "4.0\n3.0\n"),
        ("voxel_dimensions.csv", "4.0\n3.0\n0.0\n"),
        ("ct.csv", None),
        ("voxel_dimensions.csv", None),
    ],
)
def test_openkbp_damaged_tables_are_named(tmp_path, capsys, file, text):
    good, bad = tmp_path / "kbp" / "train-pats" / "pt_1", tmp_path / "kbp" / "train-pats" / "pt_2" / file
    kbp_patient(good)
    kbp_patient(bad.parent)
    bad.unlink() if text is None else bad.write_text(text)
    assert convert(tmp_path / "kbp", "headneck_ct", tmp_path / "out" / "headneck_ct") == 2
    said = capsys.readouterr().err
    assert str(bad) in said and "expected" in said and "found" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.shared_data
def test_splits_are_those_that_results_were_measured_on(shared_data):
    split = json.loads((shared_data / "headneck_ct" / "dataset.json").read_text())["split"]
    assert LAYOUTS["headneck_ct"].splits == {name: tuple(split[name]) for name in ("select", "report")}


# -- organs on TCIA CT ------------------------------------------------------------------------------------------------


def test_organs_get_the_values_of_their_place_and_missing_ones_none(converted):
    assert names_of(converted / "headneck_labels" / "labels") == ["test_0522c0017", "validation_TCGA-CV-5977"]
    labels, affine = volume(converted / "headneck_labels" / "labels" / "test_0522c0017.nii.gz")
    organs = list(filter(None, ORGANS[:16]))
    assert sorted(set(labels.ravel().tolist()) - {0}) == [ORGANS.index(name) + 1 for name in organs]
    for place, organ in enumerate(organs):  # voxel (10, 12, 3 + ...) of spacing 2, 1.5, 1 mm, LPS turned to RAS
        assert at(labels, affine, (30 - 20, 20 - 18, 7 + 3 + 5 * place)) == ORGANS.index(organ) + 1


def test_organ_maps_are_cropped_eight_voxels_around(converted):
    labels, _ = volume(converted / "headneck_labels" / "labels" / "test_0522c0017.nii.gz")
    assert labels.shape == (20, 20, 3 + 5 * 14 + 4 + 8)  # the grid begins 3 voxels before the first organ


def test_later_organs_lie_over_earlier_ones(tmp_path):
    folder = tmp_path / "nrrds" / "test" / "oncologist" / "p" / "segmentations"
    save_nrrd(folder / "Spinal-Canal.nrrd", block(side=6))
    save_nrrd(folder / "Spinal-Cord.nrrd", block(side=4))
    assert convert(tmp_path / "nrrds", "headneck_labels", tmp_path / "out") == 0
    labels, _ = volume(tmp_path / "out" / "labels" / "test_p.nii.gz")
    assert (labels == 19).sum() == 4**3 and (labels == 18).sum() == 6**3 - 4**3


def test_masks_lie_where_the_reader_of_label_maps_puts_them(tmp_path):
    organ = tmp_path / "nrrds" / "test" / "oncologist" / "p" / "segmentations" / "Brain.nrrd"
    save_nrrd(organ, block())
    volume_of = sitk.ReadImage(str(organ))
    volume_of.SetDirection((0, 1, 0, 0, 0, 1, 1, 0, 0))
    sitk.WriteImage(volume_of, str(organ), True)
    assert convert(tmp_path / "nrrds", "headneck_labels", tmp_path / "out") == 0
    expected, found = (read_label(path) for path in (organ, tmp_path / "out" / "labels" / "test_p.nii.gz"))
    first = [part.affine.numpy() @ [*np.argwhere(part.numpy()[0])[0], 1] for part in (expected, found)]
    assert np.allclose(*first) and np.allclose(expected.affine[:3, :3], found.affine[:3, :3])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def point_to_lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:81437bbd\nsize 41785\n")


def shift(path: Path) -> None:
    moved = sitk.ReadImage(str(path))
    moved.SetOrigin((0, 0, 0))
    sitk.WriteImage(moved, str(path), True)


@pytest.mark.parametrize("spoil", [truncate, point_to_lfs, shift])
def test_a_damaged_organ_is_named(tmp_path, capsys, spoil):
    deepmind(tmp_path / "tcia")
    bad = tmp_path / "tcia/nrrds/validation/oncologist/TCGA-CV-5977/segmentations/Parotid-Lt.nrrd"
    spoil(bad)
    assert convert(tmp_path / "tcia", "headneck_labels", tmp_path / "out" / "headneck_labels") == 2
    said = capsys.readouterr().err
    assert str(bad) in said and "expected" in said and "found" in said
    assert list((tmp_path / "out").iterdir()) == []


# -- the others -------------------------------------------------------------------------------------------------------


def test_synthseg_maps_keep_their_values_and_are_cropped(original, converted):
    name = "training_seg_02.nii.gz"
    whole, affine = volume(original / "brain_labels" / "data" / "training_label_maps" / name)
    labels, moved = volume(converted / "brain_labels" / "labels" / name)
    assert labels.shape == (10, 10, 6) and np.array_equal(labels, whole[2:12, 3:13, 4:10])
    assert set(labels.ravel().tolist()) == {0, 3, 17, 506} and np.allclose(moved[:, 3], affine @ [2, 3, 4, 1])


def test_atlas_values_are_renumbered_in_their_order_and_named(converted):
    labels, affine = volume(converted / "atlas_labels" / "labels" / "knee.nii.gz")
    assert labels.shape == (12, 14, 16)
    assert [at(labels, affine, (30 - 2 * i, 20 - 1.5 * j, 12)) for i, j in ((3, 4), (3, 8), (7, 4))] == [1, 2, 3]
    assert json.loads((converted / "atlas_labels" / "knee.json").read_text()) == {"2": "fat_body", "3": "patella"}
    labels, _ = volume(converted / "atlas_labels" / "labels" / "abdomen.nii.gz")
    assert sorted(set(labels.ravel().tolist())) == [1, 2, 3, 4]
    assert json.loads((converted / "atlas_labels" / "abdomen.json").read_text()) == {"3": "fat_body", "4": "patella"}


def test_lesions_of_evaluated_patients_and_tiny_ones_are_left_out(converted):
    assert names_of(converted / "lesion_labels" / "labels") == ["ms_patient01", "stroke_000", "stroke_001"]
    for name, side in (("ms_patient01", 4), ("stroke_000", 6), ("stroke_001", 7)):
        labels, affine = volume(converted / "lesion_labels" / "labels" / f"{name}.nii.gz")
        assert labels.shape == (side + 6,) * 3 and labels.sum() == side**3
        assert at(labels, affine, (AXES @ [8, 8, 8, 1])[:3]) == 1


def test_no_more_strokes_than_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_hyper.data.layouts.STROKES", 1)
    lesions(tmp_path / "download")
    assert convert(tmp_path / "download", "lesion_labels", tmp_path / "out") == 0
    assert names_of(tmp_path / "out" / "labels") == ["ms_patient01", "stroke_000"]


def test_fetal_templates(converted):
    labels, affine = volume(converted / "fetal_brain_mr" / "labels" / "fetal_SB_atlas_GA25_operated.nii.gz")
    image, _ = volume(converted / "fetal_brain_mr" / "images" / "fetal_SB_atlas_GA25_operated.nii.gz")
    assert np.array_equal(labels, block(value=8) + block(start=(7, 4, 5), value=1)) and np.array_equal(affine, AXES)
    assert np.array_equal(image, block(side=6).astype(int) * 4000)


def test_macaque_templates_come_at_one_mm_without_hippocampi(converted):
    assert names_of(converted / "macaque_mr" / "labels") == ["J_Macaque_4mo_nACQ", "MacaqueYerkes19"]
    for name in names_of(converted / "macaque_mr" / "labels"):
        labels, affine = volume(converted / "macaque_mr" / "labels" / f"{name}.nii.gz")
        image, _ = volume(converted / "macaque_mr" / "images" / f"{name}.nii.gz")
        assert np.array_equal(labels, block((6, 7, 8), (3, 2, 2), 2, 12))
        assert np.array_equal(image, block((6, 7, 8), (1, 2, 2), 4).astype(int) * 4000)
        assert np.allclose(np.diag(affine), 1) and np.allclose(affine[:3, 3], 0.25)


def test_colin27_loses_its_hippocampi(converted):
    labels, affine = volume(converted / "colin27_mr" / "labels" / "colin27.nii.gz")
    image, _ = volume(converted / "colin27_mr" / "images" / "colin27.nii.gz")
    assert np.array_equal(labels, block(start=(3, 8, 5), value=116)) and np.array_equal(affine, AXES)
    assert set(image.ravel().tolist()) == {0, 74, 76, 232}


# -- anything else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_plain_folders_keep_values_grid_and_names(tmp_path, kind):
    save(tmp_path / "in" / "whole.nii.gz", block(value=7))
    for part in ("labels", "images"):
        (tmp_path / "in" / part).mkdir()
        volume_of = sitk.ReadImage(str(tmp_path / "in" / "whole.nii.gz")) * (1 if part == "labels" else 20)
        sitk.WriteImage(volume_of, str(tmp_path / "in" / part / f"case.one{kind}"))
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": {"7": "liver"}, "cases": 9}))
    assert convert(tmp_path / "in", "plain", tmp_path / "out") == 0
    labels, affine = volume(tmp_path / "out" / "labels" / "case.one.nii.gz")
    assert np.array_equal(labels, block(value=7)) and np.allclose(affine, AXES)
    (case,) = list_cases(tmp_path / "out")
    assert case.name == "case.one" and read_pair(case)[0].max() == 140
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert facts == {"labels": {"7": "liver"}, "cases": 1, "name": "out"}


def test_plain_label_maps_need_no_images(tmp_path):
    save(tmp_path / "in" / "a.nii.gz", block(value=3))
    assert convert(tmp_path / "in", "plain", tmp_path / "out") == 0
    assert names_of(tmp_path / "out") == ["dataset.json", "labels"]


def test_plain_images_without_label_maps_are_named(tmp_path, capsys):
    save(tmp_path / "in" / "labels" / "a.nii.gz", block())
    save(tmp_path / "in" / "images" / "b.nii.gz", block())
    assert convert(tmp_path / "in", "plain", tmp_path / "out") == 2
    assert str(tmp_path / "in" / "images" / "b.nii.gz") in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_says_what_was_expected(tmp_path, capsys, layout):
    (tmp_path / "in").mkdir()
    assert convert(tmp_path / "in", layout, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "in") in said and "expected" in said and "docs/data.md" in said
    assert names_of(tmp_path) == ["in"]


@pytest.mark.parametrize("name", ["fetal_brain_mr", "colin27_mr", "macaque_mr", "brain_labels", "atlas_labels"])
def test_a_damaged_volume_is_named(tmp_path, capsys, name):
    ORIGINALS[name](tmp_path / "in")
    files = ("aal.nii.gz", "parcellation.nii.gz", "Segmentation.nii.gz", "training_seg_02.nii.gz", "seg.nrrd")
    bad = sorted(path for path in (tmp_path / "in").rglob("*") if path.name in files)[0]
    truncate(bad)
    assert convert(tmp_path / "in", name, tmp_path / "out" / name) == 2
    assert str(bad) in capsys.readouterr().err and list((tmp_path / "out").iterdir()) == []


def test_results_are_replaced_only_when_allowed_and_complete(tmp_path, capsys):
    mricron(tmp_path / "in")
    output = tmp_path / "data" / "colin27_mr"
    save(output / "labels" / "old.nii.gz", block())
    assert convert(tmp_path / "in", "colin27_mr", output) == 2
    assert "--overwrite" in capsys.readouterr().err and names_of(output / "labels") == ["old"]
    good = next((tmp_path / "in").rglob("ch2.nii.gz"))
    kept = good.read_bytes()
    truncate(good)
    assert convert(tmp_path / "in", "colin27_mr", output, "--overwrite") == 2
    assert names_of(output / "labels") == ["old"] and names_of(tmp_path / "data") == ["colin27_mr"]
    good.write_bytes(kept)
    assert convert(tmp_path / "in", "colin27_mr", output, "--overwrite") == 0
    assert names_of(output / "labels") == ["colin27"] and names_of(tmp_path / "data") == ["colin27_mr"]


def test_nothing_but_a_data_set_is_replaced(tmp_path, capsys):
    mricron(tmp_path / "in")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a")
    for output in (tmp_path / "letters", tmp_path / "in", tmp_path):
        assert convert(tmp_path / "in", "colin27_mr", output, "--overwrite") == 2
        assert "another --output" in capsys.readouterr().err
    assert (tmp_path / "letters" / "a.txt").exists() and any((tmp_path / "in").rglob("aal.nii.gz"))


def test_unknown_layouts_and_missing_folders_are_refused(tmp_path, capsys):
    assert convert(tmp_path, "moon", tmp_path / "out") == 2
    assert "headneck_ct" in capsys.readouterr().err
    assert convert(tmp_path / "nowhere", "plain", tmp_path / "out") == 2
    assert "nowhere" in capsys.readouterr().err
