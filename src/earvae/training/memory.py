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
    machine = _number("/proc/meminfo", "MemAvailable:")
    free = [] if machine is None else [1024 * machine]
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:  # of a container; pages of files can go
        free.append(limit - used + (_number("/sys/fs/cgroup/memory.stat", "inactive_file") or 0))
    return min(free, default=None)


def _number(path: str, name: str | None = None) -> int | None:
    """The number in a file, or after ``name`` in it; None if there is none."""
    try:
        words = Path(path).read_text().split()
        return int(words[words.index(name) + 1 if name else 0])
    except (OSError, ValueError):  # no such file or name, or the word "max"
        return None
