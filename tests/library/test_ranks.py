"""Which share is whose, as torchrun and SLURM tell it."""

from __future__ import annotations

import pytest

from earvae.library.items import LibraryError
from earvae.library.ranks import find_rank, local_rank


def array(own, first, last, count):
    names = ("ID", "MIN", "MAX", "COUNT")
    values = (own, first, last, count)
    return {f"SLURM_ARRAY_TASK_{name}": str(v) for name, v in zip(names, values, strict=True)}


STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    "environment,rank,world",
    [
        ({}, 0, 1),
        ({"RANK": "2", "WORLD_SIZE": "4"}, 2, 4),
        (STEP, 3, 8),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4"}, 3, 4),  # a step of part of the allocation
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 0, 1),  # the batch script itself, not srun
        ({"SLURM_ARRAY_TASK_ID": "4294967294"}, 0, 1),  # no array
        ({"RANK": "0", "WORLD_SIZE": ""}, 0, 1),
        (array(5, 0, 9, 10), 5, 10),
        (array(1, 1, 10, 10), 0, 10),
        (array(14, 10, 18, 5), 2, 5),  # --array=10-18:2
        (array(5, 0, 9, 10) | STEP, 43, 80),
        ({"RANK": "0", "WORLD_SIZE": "2"} | array(5, 0, 9, 10), 0, 2),
    ],
)
def test_ranks_by_environment(environment, rank, world):
    found = find_rank(None, None, environment)
    assert (found.rank, found.world) == (rank, world)
    assert (find_rank(1, 3, environment).rank, find_rank(1, 3, environment).world) == (1, 3)


UNEVEN = array(4, 1, 9, 3), array(3, 1, 9, 5) | {"SLURM_ARRAY_TASK_ID": "4"}


@pytest.mark.parametrize(
    "options,environment",
    [((2, 2), {}), ((-1, 2), {}), ((None, 2), {}), ((0, None), {}),
     ((None, None), UNEVEN[0]), ((None, None), UNEVEN[1]),
     ((None, None), {"RANK": "x", "WORLD_SIZE": "2"}),
     ((None, None), {"SLURM_STEP_ID": "0", "SLURM_PROCID": "a"}),
     ((None, None), array(5, 0, 9, 10) | {"SLURM_ARRAY_TASK_ID": "-1"})],
)  # fmt: skip
def test_ranks_that_make_no_sense_are_refused(options, environment):
    with pytest.raises(LibraryError):
        find_rank(*options, environment)


def test_the_processes_of_a_machine_number_its_gpus():
    assert local_rank({"LOCAL_RANK": "3"}) == 3
    assert local_rank({"SLURM_STEP_ID": "0", "SLURM_LOCALID": "2"}) == 2
    assert local_rank({"SLURM_LOCALID": "2"}) == local_rank({}) == 0
