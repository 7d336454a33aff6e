import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start, too

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("default", deadline=None)  # first calls warm caches; time is no test
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    """Small tensors gain nothing from threads, and busy machines lose by them."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers():
    """What a test draws does not depend on the tests before it, nor on which process it is in."""
    torch.manual_seed(0)
