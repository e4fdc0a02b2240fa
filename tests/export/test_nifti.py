"""NIfTI output: exact affine, small type, all or nothing."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_hyper.export.nifti import save_label
from monai_hyper.types import InputError

AFFINE = torch.tensor([[0.0, 0.0, 3.0, -20.0], [-1.5, 0, 0, 31], [0, 2, 0, 7], [0, 0, 0, 1]], dtype=torch.float64)


@pytest.fixture
def label() -> MetaTensor:
    return MetaTensor(torch.randint(0, 4, (1, 5, 6, 7)), affine=AFFINE)


@pytest.mark.parametrize("name", ["a.nii.gz", "deeper/a.nii"])
def test_voxels_and_affine_come_back(tmp_path, label, name):
    read = nibabel.load(save_label(label, tmp_path / name))
    assert np.array_equal(np.asarray(read.dataobj), label[0].numpy())
    for affine in (read.affine, read.get_sform(), read.get_qform()):
        np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    assert np.array_equal(read.affine, AFFINE)


@pytest.mark.parametrize(("largest", "dtype"), [(3, np.uint8), (300, np.uint16), (70000, np.uint32)])
def test_the_smallest_type_holds_the_values(tmp_path, label, largest, dtype):
    label[0, 0, 0, 0] = largest
    read = nibabel.load(save_label(label, tmp_path / "a.nii.gz"))
    assert read.get_data_dtype() == dtype and np.asarray(read.dataobj).max() == largest


def test_existing_files_stay_without_overwrite(tmp_path, label):
    path = save_label(label, tmp_path / "a.nii.gz")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save_label(label * 0, path)
    assert path.read_bytes() == before
    save_label(label * 0, path, overwrite=True)
    assert not np.asarray(nibabel.load(path).dataobj).any()


def test_a_failure_leaves_nothing_behind(tmp_path, label, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_label(label, tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())


def test_other_names_and_shapes_are_refused(tmp_path, label):
    with pytest.raises(InputError, match="ends in .nii.gz"):
        save_label(label, tmp_path / "a.mha")
    with pytest.raises(InputError, match="from 0 upward"):
        save_label(label[0], tmp_path / "a.nii")
    with pytest.raises(InputError, match="from 0 upward"):
        save_label(label - 1, tmp_path / "a.nii")
