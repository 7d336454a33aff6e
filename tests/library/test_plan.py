"""Batches by length, and windows of long files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earvae.library.plan import Batch, Geometry, Solo, plan, windows

LENGTHS = st.lists(st.none() | st.integers(1, 130), max_size=40)
GEOMETRIES = st.builds(
    Geometry,
    budget=st.integers(1, 300),
    longest=st.integers(21, 100),
    context=st.integers(0, 10),
    padding=st.sampled_from([0, 0.2]),
)


@given(LENGTHS, GEOMETRIES)
def test_every_file_is_planned_once_within_budget_and_padding(lengths, geometry):
    parts = plan(lengths, geometry)
    seen = [n for part in parts for n in ((part.item,) if isinstance(part, Solo) else part.items)]
    assert sorted(seen) == list(range(len(lengths)))
    for part in parts:
        if isinstance(part, Solo):
            assert lengths[part.item] is None or lengths[part.item] > geometry.longest
            continue
        assert [lengths[item] for item in part.items] == list(part.lengths)
        assert len(part.items) == 1 or len(part.items) * part.frames <= geometry.budget
        assert part.frames <= (1 + geometry.padding) * min(part.lengths)
        for frames in part.lengths:  # the second pass over its end begins inside the file
            assert frames == part.frames or frames >= 2 * geometry.context


@pytest.mark.parametrize(
    "padding,expected",
    [
        (0.0, [(0, 2, 3), (1,), (4, 5), (6,), (7, 9), (8,)]),
        (0.2, [(0, 2, 3), (1, 5, 6), (4, 7, 9), (8,)]),
    ],
)
def test_files_of_equal_length_go_together_and_leftovers_with_similar_ones(padding, expected):
    lengths = [50, 80, 50, 50, 90, 90, 85, 95, 30, 95]
    if padding:
        lengths[5] = 88
        geometry = Geometry(budget=290, longest=100, context=5, padding=padding)
    else:
        geometry = Geometry(budget=190, longest=100, context=5, padding=padding)
    assert [part.items for part in plan(lengths, geometry)] == expected


def test_long_files_and_unknown_ones_are_by_themselves():
    assert plan([10, 101, None, 10], Geometry(100, 100, 5)) == [
        Batch((0, 3), (10, 10)), Solo(1), Solo(2)
    ]  # fmt: skip


@given(
    samples=st.integers(1, 900),
    blocks=st.integers(1, 97),
    hop=st.sampled_from([1, 3, 8]),
    step=st.integers(1, 30),
    context=st.integers(0, 6),
    multiple=st.sampled_from([1, 7]),
)
def test_windows_cover_a_file_once_with_context_on_both_sides(
    samples, blocks, hop, step, context, multiple
):
    audio = np.arange(1, samples + 1, dtype=np.float32)[None]
    length = step + 2 * context
    frames = -(-samples // (hop * multiple)) * multiple
    whole = np.zeros((1, frames * hop), np.float32)
    whole[:, :samples] = audio
    parts = [audio[:, start : start + blocks] for start in range(0, samples, blocks)]
    position = 0
    for window, first, last in windows(
        parts, hop, Geometry(1, length, context), lambda n: -(-n // (hop * multiple)) * multiple
    ):
        start = position - first
        assert np.array_equal(window, whole[:, start * hop : start * hop + window.shape[1]])
        assert window.shape[1] == min(length, frames) * hop
        assert first >= context or start == 0
        assert (
            last <= window.shape[1] // hop - context
            or start * hop + window.shape[1] == frames * hop
        )
        position += last - first
    assert position == frames


def test_no_audio_has_no_windows():
    with pytest.raises(ValueError, match="no samples"):
        list(windows([], 4, Geometry(1, 10, 2), lambda samples: samples))
