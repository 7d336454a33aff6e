"""Which part of a job this process does: from options, torchrun or SLURM."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from earvae.library.items import LibraryError

NO_VALUE = 2**32 - 2  # and the number after it: what SLURM calls a task of no array


@dataclass(frozen=True)
class Rank:
    """Process ``rank`` (from 0) of ``world``; ``origin`` says who said so, empty if nobody."""

    rank: int = 0
    world: int = 1
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.world}"

    def files(self, total: int, block: int) -> int:
        """How many of ``total`` files are this rank's, dealt in blocks of ``block``."""
        starts = range(self.rank * block, total, self.world * block)
        return sum(min(block, total - start) for start in starts)


def find_rank(
    rank: int | None = None, world: int | None = None, environment: Mapping[str, str] = os.environ
) -> Rank:
    """The options if given, else torchrun's RANK and WORLD_SIZE, else SLURM's, else rank 0 of 1.

    SLURM: the index in an array (SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT), the task that
    ``srun`` started (SLURM_PROCID of SLURM_NTASKS), or both together. The tasks of an allocation
    count only below ``srun`` (SLURM_STEP_ID is set there): a batch script that runs the command
    itself runs it once. Raises LibraryError for options or an array that make no sense.
    """
    if rank is not None or world is not None:
        if rank is None or world is None:
            raise LibraryError("--rank and --world-size belong together; give both")
        return _checked(rank, world, "options")
    if environment.get("RANK") and environment.get("WORLD_SIZE"):
        own, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        return _checked(own, world, "torchrun")
    index, arrays = _array(environment)
    task, tasks = 0, 1
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        task = _number(environment, "SLURM_PROCID")
        tasks = _number(environment, "SLURM_NTASKS", 1)
        tasks = _number(environment, "SLURM_STEP_NUM_TASKS", tasks)
    if arrays * tasks == 1:
        return Rank()
    return _checked(index * tasks + task, arrays * tasks, "SLURM")


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's number on its machine, for the choice of a GPU."""
    if "LOCAL_RANK" in environment:
        return _number(environment, "LOCAL_RANK", 0)
    if "SLURM_STEP_ID" in environment:
        return _number(environment, "SLURM_LOCALID", 0)
    return 0


def _array(environment: Mapping[str, str]) -> tuple[int, int]:
    """Index and size of a SLURM array; (0, 1) where there is none."""
    if (own := _number(environment, "SLURM_ARRAY_TASK_ID", NO_VALUE)) >= NO_VALUE:
        return 0, 1
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX", own)
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT", last - first + 1)
    step = max(1, (last - first) // max(1, count - 1))
    if first + step * (count - 1) != last or (own - first) % step:
        raise LibraryError(
            "the indices of this SLURM array are not evenly spaced, so they say no rank; use "
            "--array=0-N, or give --rank and --world-size"
        )
    return (own - first) // step, count


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A whole number of the environment; ``default`` where it is not set, or empty."""
    value = environment.get(name, "")
    if value == "" and default is not None:
        return default
    if not re.fullmatch("[0-9]{1,10}", value):
        raise LibraryError(
            f"{name}={value!r} in the environment is no number; unset it, or give --rank and "
            "--world-size"
        )
    return int(value)


def _checked(rank: int, world: int, origin: str) -> Rank:
    if world < 1:
        raise LibraryError(f"{world} ranks ({origin}): there is at least one")
    if not 0 <= rank < world:
        raise LibraryError(f"rank {rank} of {world} ({origin}): ranks count from 0 to {world - 1}")
    return Rank(rank, world, origin)
