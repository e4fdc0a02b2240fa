"""MONAI transforms of our own: an array class each, and its dictionary twin that ends in ``d``."""

from monai_hyper.transforms.intensity import HarmoniseIntensity, HarmoniseIntensityd, harmonise_ct, harmonise_mr

__all__ = ["HarmoniseIntensity", "HarmoniseIntensityd", "harmonise_ct", "harmonise_mr"]
