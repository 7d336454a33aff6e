import pytest
import torch
from hypothesis import settings

settings.register_profile("default", deadline=None)  # first calls warm caches; time is no test
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    """Small tensors gain nothing from threads, and busy machines lose by them."""
    torch.set_num_threads(1)
