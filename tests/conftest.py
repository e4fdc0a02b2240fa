"""What all tests share: one thread, fixed seeds, and the folder of real volumes where it exists."""

from pathlib import Path

import numpy as np
import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs ``../shared/data`` where that folder is absent."""
    if SHARED_DATA.is_dir():
        return
    absent = pytest.mark.skip(reason="../shared/data is absent")
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def shared_data() -> Path:
    """Folder of real volumes; for tests that carry the marker ``shared_data``."""
    return SHARED_DATA
