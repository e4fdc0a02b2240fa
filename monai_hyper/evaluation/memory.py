"""How much memory a piece of work takes."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch


class Peak:
    """Peak memory since construction: of the GPU, or the resident memory of the process.

    Where the operating system cannot forget the peak of earlier work (all but Linux), it is the peak since the
    process began.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # the peak of earlier work stays in

    def megabytes(self) -> float:
        """Peak so far, MB."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)
        try:
            return round(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6, 1)
        except OSError:
            unit = 1 if sys.platform == "darwin" else 1024
            return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
