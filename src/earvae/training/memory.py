"""How much memory is free, before anything large is taken."""

from __future__ import annotations

from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be taken on ``device`` now; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    return _smallest(_available_to_the_machine(), _available_to_the_container())


def _available_to_the_machine() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _available_to_the_container() -> int | None:
    """What a limit on the control group leaves. Pages of files count as free: they can go."""
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if not (limit and used and limit[0].isdigit()):
        return None
    pages = [line for line in _lines("/sys/fs/cgroup/memory.stat") if "inactive_file " in line]
    return int(limit[0]) - int(used[0]) + (int(pages[0].split()[1]) if pages else 0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _smallest(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
