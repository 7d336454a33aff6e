"""Every reader on damaged files for a few seconds; ``make fuzz`` does the same for long."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.readers import READERS, attempt, limited_memory


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused_in_a_line(reader, tmp_path):
    inputs, taken = reader.inputs(), []

    @settings(
        max_examples=reader.few,
        derandomize=True,  # the same files every time; the long run draws new ones
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # which looks for no smaller files, the long run does
    )
    @given(files=inputs)
    def tried(files):
        taken.append(attempt(reader, files, tmp_path))

    with limited_memory():
        tried()
    assert any(taken), "not one was read: the files that are damaged are no good ones"
