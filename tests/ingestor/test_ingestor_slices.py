"""Cutting periods at clock hours: nothing is lost, nothing leaves its hour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.ingestor.slices import HOUR_US, SHAPES, ShapeError, cut, shape_weights, slice_counts

BASE = 1_790_812_800_000_000  # 2026-10-01T00:00Z
periods = st.lists(st.tuples(st.integers(0, 40 * 24 * HOUR_US), st.integers(1, 50 * HOUR_US)), min_size=1, max_size=20)
shapes = st.one_of(
    st.sampled_from(sorted(SHAPES)),
    st.lists(st.floats(0.01, 100, allow_nan=False), min_size=24, max_size=24),
)


@settings(max_examples=200, deadline=None)
@given(periods, shapes)
def test_slices_cover_the_period_and_stay_in_their_hours(given_periods, shape):
    start = np.array([BASE + s for s, _ in given_periods])
    end = start + np.array([d for _, d in given_periods])
    slices = cut(start, end, shape_weights(shape))
    assert (slices.start < slices.end).all()
    assert (slices.start // HOUR_US == (slices.end - 1) // HOUR_US).all()
    assert (slices.share > 0).all()
    rows = len(start)
    assert np.bincount(slices.row, minlength=rows).tolist() == slice_counts(start, end).tolist()
    covered = np.bincount(slices.row, weights=slices.end - slices.start, minlength=rows)
    assert covered.tolist() == (end - start).tolist()
    assert np.bincount(slices.row, weights=slices.share, minlength=rows) == pytest.approx(np.ones(rows), abs=1e-12)
    for row in range(rows):  # end to end, in order
        mine = slices.row == row
        assert slices.start[mine][0] == start[row]
        assert (slices.start[mine][1:] == slices.end[mine][:-1]).all()


def test_a_period_inside_an_hour_keeps_its_own_ends():
    start, end = np.array([BASE + 10]), np.array([BASE + HOUR_US - 5])
    slices = cut(start, end, shape_weights("flat"))
    assert (slices.start[0], slices.end[0], slices.share[0]) == (start[0], end[0], 1.0)


def test_flat_follows_the_time_in_each_hour():
    start = np.array([BASE + HOUR_US // 2])
    slices = cut(start, start + 2 * HOUR_US, shape_weights("flat"))
    assert slices.share.tolist() == [0.25, 0.5, 0.25]


def test_a_shape_moves_the_load():
    weights = np.ones(24)
    weights[3] = 3.0
    slices = cut(np.array([BASE]), np.array([BASE + 24 * HOUR_US]), shape_weights(weights))
    assert slices.share[3] == pytest.approx(3 / 26)
    assert slices.share[4] == pytest.approx(1 / 26)


@pytest.mark.parametrize("shape", ["lunar", [1.0] * 23, [0.0] * 24, [1.0] * 23 + [float("nan")], [-1.0] * 24])
def test_bad_shapes(shape):
    with pytest.raises(ShapeError):
        shape_weights(shape)
