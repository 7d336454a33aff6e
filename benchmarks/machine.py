"""The machine that a benchmark ran on, as its table names it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def processor(device: torch.device | str = "cpu") -> str:
    """The name of the GPU, or of the processor where the system tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
