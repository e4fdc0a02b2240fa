"""MONAI transforms of our own: an array class each, and its dictionary twin that ends in ``d``."""

from monai_hyper.transforms.augment import (
    RandFieldOfView,
    RandFieldOfViewd,
    RandSupportAugment,
    RandSupportAugmentd,
)
from monai_hyper.transforms.classes import RenameClasses, RenameClassesd, SelectClasses, SelectClassesd
from monai_hyper.transforms.grid import InvertToGrid, InvertToGridd, ResampleToGrid, ResampleToGridd
from monai_hyper.transforms.intensity import HarmoniseIntensity, HarmoniseIntensityd, harmonise_ct, harmonise_mr
from monai_hyper.transforms.labels import LogitsToLabels, LogitsToLabelsd
from monai_hyper.transforms.pictures import PreparePictured, ReadPictured, prepare

__all__ = [
    "HarmoniseIntensity",
    "HarmoniseIntensityd",
    "InvertToGrid",
    "InvertToGridd",
    "LogitsToLabels",
    "LogitsToLabelsd",
    "PreparePictured",
    "RandFieldOfView",
    "RandFieldOfViewd",
    "RandSupportAugment",
    "RandSupportAugmentd",
    "ReadPictured",
    "RenameClasses",
    "RenameClassesd",
    "ResampleToGrid",
    "ResampleToGridd",
    "SelectClasses",
    "SelectClassesd",
    "harmonise_ct",
    "harmonise_mr",
    "prepare",
]
