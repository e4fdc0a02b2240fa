"""Few-shot segmentation of 3D medical images by generated networks, on top of MONAI."""

__version__ = "0.1.0"
