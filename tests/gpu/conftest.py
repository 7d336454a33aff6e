"""Tests that need a GPU. They skip without one; on a new one they are the first thing to run:

pytest -m gpu
"""

import pytest
import torch


def pytest_collection_modifyitems(items):
    for item in items:
        if "/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda")
