"""Structures of SEG and RTSTRUCT come to lie where they were drawn, or it is said why not."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from monai_hyper.data.rtstruct import fill
from monai_hyper.data.structures import is_structures, read_structures, structure_names
from monai_hyper.data.volumes import read_image, read_label
from monai_hyper.types import InputError

SHAPE, SPACING = (9, 7, 6), (1.0, 2.0, 3.0)
ORIGIN = (-20.0, 10.0, 5.0)


def image(shape=SHAPE, spacing=SPACING, origin=ORIGIN) -> MetaTensor:
    """An empty axial volume whose axes run to the patient's left, back and head; origin in DICOM's mm."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = np.array(origin) * [-1, -1, 1]
    return MetaTensor(torch.zeros(1, *shape), affine=torch.from_numpy(affine))


def item(**values) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def saved(data: Dataset, path: Path, kind: str, syntax=ExplicitVRLittleEndian) -> Path:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = {
        "SEG": "1.2.840.10008.5.1.4.1.1.66.4", "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
        "CT": "1.2.840.10008.5.1.4.1.1.2"}[kind]  # fmt: skip
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Modality, data.PatientName, data.PatientID = kind, "Doe^Jane", "P-4711-X"
    data.save_as(path, enforce_file_format=True)
    return path


def seg(path: Path, masks: list[np.ndarray], labels=("a",), *, kind="BINARY", slices=None, origin=ORIGIN,
        spacing=SPACING, told=True, shared_segment=False, **changes) -> Path:  # fmt: skip
    """A Segmentation with frames for the slices of every mask that are not empty."""
    data = item(SegmentationType=kind, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
    data.PixelRepresentation, data.Columns, data.Rows, _ = 0, *masks[0].shape
    numbers = range(1, len(labels) + 1)
    data.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=label) for n, label in zip(numbers, labels)]
    measures = item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])
    if told:
        measures.SpacingBetweenSlices = spacing[2]
    shared = item(PixelMeasuresSequence=[measures])
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    if shared_segment:
        shared.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=1)]
    frames, groups = [], []
    for number, mask in zip(numbers, masks):
        for k in range(mask.shape[2]) if slices is None else slices:
            if mask[..., k].any():
                place = item(ImagePositionPatient=[*origin[:2], origin[2] + k * spacing[2]])
                group = item(PlanePositionSequence=[place])
                if kind != "LABELMAP" and not shared_segment:
                    group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number)]
                groups.append(group)
                frames.append(mask[..., k].T)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], groups
    data.NumberOfFrames, pixels = len(frames), np.array(frames)
    bits = 1 if kind == "BINARY" else 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    if kind == "FRACTIONAL":
        data.MaximumFractionalValue = 200
    stored = np.packbits(pixels.ravel(), bitorder="little") if bits == 1 else pixels.astype(np.uint8)
    data.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    for name, value in changes.items():
        setattr(data, name, value)
    return saved(data, path, "SEG")


def random_mask(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) > 0.5


def refused(match: str, path: Path, grid: MetaTensor | None = None, names=None) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_structures(path, image() if grid is None else grid, names)
    assert str(path) in str(error.value)
    assert "Doe" not in str(error.value) and "P-4711-X" not in str(error.value)


def test_overlapping_segments_come_back_and_those_of_one_name_are_united(tmp_path):
    masks = [random_mask(seed) for seed in range(3)]
    path = seg(tmp_path / "s.dcm", masks, ("a", "b", " a"))
    assert structure_names(path) == ("a", "b")
    found = read_structures(path, image())
    np.testing.assert_array_equal(found["a"], masks[0] | masks[2])
    np.testing.assert_array_equal(found["b"], masks[1])
    assert list(read_structures(path, image(), ["b"])) == ["b"]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("slices", [(2,), (1, 3), (0, 3, 5), (5, 0, 2)])
def test_few_and_gapped_frames_stay_where_they_are(tmp_path, slices, told):
    mask = random_mask()
    found = read_structures(seg(tmp_path / "s.dcm", [mask], slices=slices, told=told), image())["a"]
    rest = [k for k in range(SHAPE[2]) if k not in slices]
    np.testing.assert_array_equal(found[..., list(slices)], mask[..., list(slices)])
    assert not found[..., rest].any()


def test_frames_that_share_their_segment_are_read(tmp_path):
    path = seg(tmp_path / "s.dcm", [random_mask()], shared_segment=True)
    np.testing.assert_array_equal(read_structures(path, image())["a"], random_mask())


def test_fractions_count_from_one_half(tmp_path):
    mask = np.random.default_rng(0).integers(1, 201, SHAPE)
    mask[:2, 0, 0] = 99, 100
    path = seg(tmp_path / "s.dcm", [mask], kind="FRACTIONAL")
    np.testing.assert_array_equal(read_structures(path, image())["a"], mask >= 100)


def test_label_maps_hold_many_segments_and_no_background(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, SHAPE)
    segments = [item(SegmentNumber=n, SegmentLabel=name) for n, name in ((0, "Background"), (1, "a"), (2, "b"))]
    path = seg(tmp_path / "s.dcm", [mask], kind="LABELMAP", SegmentSequence=segments)
    found = read_structures(path, image())
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"], mask == 2)


def test_images_that_are_crops_turned_or_flipped_get_their_part(tmp_path):
    mask, whole = random_mask(), image()
    path = seg(tmp_path / "s.dcm", [mask])
    crop = image((5, 4, 3), origin=(ORIGIN[0] + 2, ORIGIN[1] + 2, ORIGIN[2] + 6))
    np.testing.assert_array_equal(read_structures(path, crop)["a"], mask[2:7, 1:5, 2:5])
    larger = image((12, 9, 8), origin=(ORIGIN[0] - 2, ORIGIN[1] - 2, ORIGIN[2] - 3))
    np.testing.assert_array_equal(read_structures(path, larger)["a"][2:11, 1:8, 1:7], mask)
    affine = whole.affine.numpy() @ np.array([[0, 0, -1, 8], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = MetaTensor(torch.zeros(1, 7, 6, 9), affine=torch.from_numpy(affine))
    np.testing.assert_array_equal(read_structures(path, turned)["a"], mask[::-1].transpose(1, 2, 0))


@pytest.mark.parametrize("shift", [0.2, -0.3, 0.5])
def test_offsets_below_a_voxel_move_all_voxels_alike(tmp_path, shift):
    mask = random_mask()
    mask[[0, -1]] = mask[:, [0, -1]] = mask[..., [0, -1]] = False
    origin = np.array(ORIGIN) + shift * np.array(SPACING) * (1, 1, 0)
    found = read_structures(seg(tmp_path / "s.dcm", [mask], origin=tuple(origin)), image())["a"].numpy()
    expected = [np.roll(mask, (step, step), (0, 1)) for step in ((0, 1) if shift == 0.5 else (0,))]
    assert any(np.array_equal(found, each) for each in expected)


def test_coarser_segmentations_fill_the_voxels_they_cover(tmp_path):
    mask = random_mask()
    fine = image(tuple(2 * n for n in SHAPE), tuple(s / 2 for s in SPACING),
                 tuple(o - s / 4 for o, s in zip(ORIGIN, SPACING)))  # fmt: skip
    found = read_structures(seg(tmp_path / "s.dcm", [mask]), fine)["a"]
    np.testing.assert_array_equal(found, mask.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_segments_without_frames_are_empty(tmp_path):
    found = read_structures(seg(tmp_path / "s.dcm", [random_mask()], ("a", "b")), image())
    assert not found["b"].any()


def rtstruct(path: Path, regions: dict, origin=ORIGIN, syntax=ImplicitVRLittleEndian) -> Path:
    """A Structure Set; contours are (corners in voxels, slice) or (corners, slice, type)."""
    data = item(StructureSetROISequence=[], ROIContourSequence=[])
    for number, (name, contours) in enumerate(regions.items(), 1):
        data.StructureSetROISequence.append(item(ROINumber=number, ROIName=name.partition("#")[0]))
        drawn = item(ReferencedROINumber=number, ContourSequence=[])
        for corners, place, *kind in contours:
            voxels = np.c_[np.array(corners, float), np.broadcast_to(place, len(corners))]
            contour = item(ContourGeometricType=kind[0] if kind else "CLOSED_PLANAR")
            contour.NumberOfContourPoints = len(corners)
            contour.ContourData = [f"{v:.6f}" for v in (voxels * SPACING + origin).flatten()]
            drawn.ContourSequence.append(contour)
        data.ROIContourSequence.append(drawn)
    return saved(data, path, "RTSTRUCT", syntax)


def box(x0, y0, x1, y1) -> list:
    """Corners around the pixels x0 to x1 and y0 to y1."""
    return [(x0 - 0.5, y0 - 0.5), (x1 + 0.5, y0 - 0.5), (x1 + 0.5, y1 + 0.5), (x0 - 0.5, y1 + 0.5)]


def filled(*boxes, but=()) -> np.ndarray:
    mask = np.zeros(SHAPE[:2], bool)
    for x0, y0, x1, y1 in boxes:
        mask[x0 : x1 + 1, y0 : y1 + 1] = True
    for x0, y0, x1, y1 in but:
        mask[x0 : x1 + 1, y0 : y1 + 1] = False
    return mask


OUTER, INNER, CORE = (1, 1, 7, 5), (2, 2, 6, 4), (4, 3, 4, 3)
KEYHOLE = [*box(*OUTER), box(*OUTER)[0], box(*INNER)[0], *box(*INNER)[:0:-1], box(*INNER)[0]]


@pytest.mark.parametrize(
    ("contours", "expected"),
    [
        ([box(*OUTER)], filled(OUTER)),
        ([box(*OUTER), box(*INNER)], filled(OUTER, but=[INNER])),
        ([box(*INNER), box(*CORE), box(*OUTER)], filled(OUTER, but=[INNER]) | filled(CORE)),
        ([KEYHOLE], filled(OUTER, but=[INNER])),
        ([box(*OUTER), box(*OUTER)], filled(OUTER)),
        ([box(*OUTER), box(*OUTER)[::-1], box(*INNER), box(*INNER)[1:] + box(*INNER)[:1]], filled(OUTER, but=[INNER])),
        ([box(0, 0, 4, 4), box(3, 2, 8, 6)], filled((0, 0, 4, 4), (3, 2, 8, 6))),
        ([box(-9, -9, 3, 3)], filled((0, 0, 3, 3))),
        ([box(*INNER), box(20, 20, 30, 30)], filled(INNER)),
    ],
)
def test_contours_enclose_what_was_meant(tmp_path, contours, expected):
    path = rtstruct(tmp_path / "r.dcm", {"a": [(each, 2) for each in contours]})
    found = read_structures(path, image())["a"].numpy()
    np.testing.assert_array_equal(found[..., 2], expected)
    assert found.sum() == expected.sum()


def test_exclusive_contours_cancel_where_they_overlap():
    first, second = np.array(box(0, 0, 4, 4)), np.array(box(3, 2, 8, 6))
    expected = filled((0, 0, 4, 4)) ^ filled((3, 2, 8, 6))
    np.testing.assert_array_equal(fill([first, second], SHAPE[:2], union=False), expected)


def test_regions_of_one_name_are_united_and_points_ignored(tmp_path):
    regions = {"a#1": [(box(*OUTER), 1)], "a#2": [(box(*INNER), 1)], "b": [([(1, 1)], 1, "POINT")],
               "c": [(box(*CORE), 4), ([(1, 1), (2, 2), (3, 1)], 4, "OPEN_PLANAR")]}  # fmt: skip
    path = rtstruct(tmp_path / "r.dcm", regions)
    assert structure_names(path) == ("a", "c")
    found = read_structures(path, image())
    np.testing.assert_array_equal(found["a"][..., 1], filled(OUTER))
    assert found["c"].sum() == 1
    refused("expected structures b, found a, c", path, names=["b"])


def test_contours_between_slices_go_to_the_nearest(tmp_path):
    places = {"a": [(box(*OUTER), 1.3), (box(*INNER), 2.4), (box(*CORE), 2.1), (box(*OUTER), 5.8)]}
    found = read_structures(rtstruct(tmp_path / "r.dcm", places), image())["a"]
    np.testing.assert_array_equal(found[..., 1], filled(OUTER))
    np.testing.assert_array_equal(found[..., 2], filled(CORE))
    assert not found[..., 3:].any()


def test_between_contours_on_every_other_slice_shapes_are_interpolated(tmp_path):
    path = rtstruct(tmp_path / "r.dcm", {"a": [(box(*OUTER), 0), (box(*INNER), 2), (box(*OUTER), 4)]})
    found = read_structures(path, image())["a"].numpy()
    for between in (1, 3):
        assert (found[..., between] >= filled(INNER)).all() and (found[..., between] <= filled(OUTER)).all()
        assert filled(INNER).sum() <= found[..., between].sum() < filled(OUTER).sum()


def test_a_gap_among_contours_on_every_slice_stays(tmp_path):
    path = rtstruct(tmp_path / "r.dcm", {"a": [(box(*OUTER), k) for k in (0, 1, 3, 4)]})
    found = read_structures(path, image())["a"].numpy()
    assert not found[..., 2].any() and all(found[..., k].any() for k in (0, 1, 3, 4))


def test_other_axes_of_the_tensor_can_be_slices(tmp_path):
    path = rtstruct(tmp_path / "r.dcm", {"a": [(box(*OUTER), 1), (box(*CORE), 2)]})
    whole, swap = image(), np.eye(4)[[2, 0, 1, 3]]
    turned = MetaTensor(torch.zeros(1, 7, 6, 9), affine=torch.from_numpy(whole.affine.numpy() @ swap))
    found = read_structures(path, turned)["a"]
    expected = read_structures(path, whole)["a"]
    voxels = np.argwhere(found.numpy()) @ swap[:3, :3].T
    assert {tuple(each) for each in voxels.astype(int)} == {tuple(each) for each in np.argwhere(expected.numpy())}


def test_contours_across_slices_are_refused(tmp_path):
    path = rtstruct(tmp_path / "r.dcm", {"a": [(box(*OUTER), (0, 1, 2, 1))]})
    refused("parallel to slices of the image", path)


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_structures_of_another_place_are_refused(tmp_path, kind):
    path, far = tmp_path / "x.dcm", (500.0, 500.0, 500.0)
    if kind == "SEG":
        seg(path, [random_mask()], origin=far)
    else:
        rtstruct(path, {"a": [(box(*OUTER), 1)]}, origin=far)
    refused("found a outside of it", path)


def test_files_without_structures_are_refused(tmp_path):
    refused("with segments, found none", seg(tmp_path / "a.dcm", [random_mask()], SegmentSequence=[]))
    refused("found 1 regions without", rtstruct(tmp_path / "b.dcm", {"a": []}))
    refused("found CT", saved(Dataset(), tmp_path / "c.dcm", "CT"))
    (tmp_path / "d.dcm").write_text("no DICOM")
    refused("found no DICOM", tmp_path / "d.dcm")
    refused("found nothing", tmp_path / "e.dcm")


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
def test_truncated_files_are_refused(tmp_path, kind, part):
    path = tmp_path / "x.dcm"
    if kind in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        rtstruct(path, {"a": [(box(*OUTER), k) for k in range(6)]}, syntax=kind)
    else:
        seg(path, [random_mask() * 200 if kind == "FRACTIONAL" else random_mask()], kind=kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    refused("expected", path)


def test_frames_that_fit_no_grid_are_refused(tmp_path):
    path = seg(tmp_path / "s.dcm", [random_mask()])
    data = pydicom.dcmread(path)
    data.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[2] += 1.1
    data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient[2] += 0.6
    data.save_as(path)
    refused("equal distances", path)


def test_folders_of_structures_are_told_from_images(tmp_path):
    assert not is_structures(tmp_path)
    seg(tmp_path / "s.dcm", [random_mask()], ("a",))
    rtstruct(tmp_path / "r.dcm", {"b": [(box(*OUTER), 1)], "a": [(box(*CORE), 1)]})
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert is_structures(tmp_path) and is_structures(tmp_path / "s.dcm") and not is_structures(tmp_path / "notes.txt")
    assert structure_names(tmp_path) == ("b", "a")
    found = read_structures(tmp_path, image())
    assert found["b"].sum() == 35 and torch.equal(found["a"], found["a"] | torch.from_numpy(random_mask()))
    saved(Dataset(), tmp_path / "c.dcm", "CT")
    assert not is_structures(tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "reference", "values"),
    [
        ("liver", "liver_seg", {"Liver": 1}),
        ("partial_overlaps", "partial_overlaps-1", {"GREEN": 1, "LIGHT_BLUE": 4, "DARK_BLUE": 5}),
        ("partial_overlaps", "partial_overlaps-2", {"ORANGE": 2}),
        ("partial_overlaps", "partial_overlaps-3", {"PURPLE": 3}),
        ("sparse-labelmap-noppv", "sparse_labelmap_noppv_seg", {"Liver": 1}),
        ("sparse-labelmap-ppv5", "sparse_labelmap_ppv5_seg", {"Liver": 1}),
    ],
)
def test_real_segments_equal_their_references(shared_data, file, reference, values):
    folder = shared_data / "dicom" / "dcmqi"
    image, label = (
        read_image(folder / ("ct-3slice" if "label" not in file else "24x38x3/image")),
        read_label(folder / f"{reference}.nrrd"),
    )
    for grid in (label, image):
        found = read_structures(folder / f"{file}.dcm", grid, values)
        turn = ornt_transform(io_orientation(label.affine), io_orientation(grid.affine))
        for name, value in values.items():
            np.testing.assert_array_equal(found[name], apply_orientation(label[0].numpy() == value, turn))


@pytest.mark.shared_data
@pytest.mark.parametrize("scan", ["CT", "PET", "MR_T1"])
def test_real_contours_fill_their_references(shared_data, scan):
    folder = shared_data / "dicom" / "rtstruct" / "STS_001"
    assert is_structures(folder / scan / "mask") and not is_structures(folder / scan / "image")
    image, reference = read_image(folder / scan / "image"), nibabel.load(folder / f"{scan}_mask_reference.nii.gz")
    turn = ornt_transform(io_orientation(reference.affine), io_orientation(image.affine))
    expected = apply_orientation(reference.get_fdata(), turn) > 0
    (found,) = read_structures(folder / scan / "mask", image).values()
    assert 2 * (found.numpy() & expected).sum() / (found.sum() + expected.sum()) >= 0.999


@pytest.mark.shared_data
def test_all_real_segmentations_equal_their_frames(shared_data):
    files = [path for path in (shared_data / "dicom").rglob("*.dcm") if is_structures(path)]
    assert len(files) == 13
    for path in files:
        data = pydicom.dcmread(path)
        if data.Modality == "SEG" and "labelmap" not in path.name:
            measures = data.SharedFunctionalGroupsSequence[0]
            groups = data.PerFrameFunctionalGroupsSequence
            places = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float)
            axes = np.array(measures.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
            row, column = measures.PixelMeasuresSequence[0].PixelSpacing
            affine, stored = np.eye(4), np.atleast_3d(data.pixel_array.T).T
            normal = np.cross(*axes)
            for frame, place, group in zip(stored, places, groups):
                affine[:3] = np.stack([axes[0] * column, axes[1] * row, normal, place], 1) * [[-1], [-1], [1]]
                grid = MetaTensor(torch.zeros(1, data.Columns, data.Rows, 1), affine=torch.from_numpy(affine.copy()))
                shared = group.get("SegmentIdentificationSequence") or measures.SegmentIdentificationSequence
                name = data.SegmentSequence[shared[0].ReferencedSegmentNumber - 1].SegmentLabel
                if (expected := 2 * frame.T.astype(int) >= data.get("MaximumFractionalValue", 1)).any():
                    found = read_structures(path, grid, [name])[name][..., 0]
                    np.testing.assert_array_equal(found, expected)


@pytest.mark.shared_data
def test_a_real_segmentation_lies_on_its_series(shared_data):
    folder = shared_data / "dicom" / "seg_fractional" / "UCSF-BR-06"
    image = read_image(folder / "image_dce_pe1")
    found = read_structures(folder / "mask", image)["Breast"]
    assert found.sum() == (pydicom.dcmread(folder / "mask" / "1-1.dcm").pixel_array >= 128).sum()
    assert image[0][found].mean() > 2 * image[0][~found].mean()
