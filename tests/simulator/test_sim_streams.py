"""Counter-based random numbers: the generator, and the distributions built on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.simulator.streams import Stream, poisson

COUNTERS = st.integers(0, 2**62)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), a=COUNTERS, b=COUNTERS, c=COUNTERS, d=COUNTERS)
def test_words_are_those_of_numpy_philox(seed: int, a: int, b: int, c: int, d: int) -> None:
    stream = Stream.of(seed, "any")
    # numpy steps its counter before it draws; a step back borrows from the higher words.
    wide = (a | b << 64 | c << 128 | d << 192) - 1
    counter = np.array([(wide >> (64 * k)) & (2**64 - 1) for k in range(4)], np.uint64)
    reference = np.random.Philox(key=np.array(stream.key, np.uint64), counter=counter)
    assert stream.words(a, b, c, d)[0].tolist() == reference.random_raw(4).tolist()


@settings(deadline=None, max_examples=25)
@given(cells=st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 99)), min_size=1, max_size=40))
def test_a_cell_does_not_depend_on_its_neighbours(cells: list[tuple[int, int]]) -> None:
    stream = Stream.of(7, "cells")
    hours, lanes = np.array([c[0] for c in cells]), np.array([c[1] for c in cells])
    together = stream.uniforms(hours, lanes)
    alone = np.concatenate([stream.uniforms(h, k) for h, k in cells])
    assert np.array_equal(together, alone)


def test_long_arrays_are_cut_into_chunks_without_a_seam() -> None:
    stream = Stream.of(7, "long")
    whole = stream.words(np.arange(40_000))
    assert np.array_equal(whole[30_000:30_100], stream.words(np.arange(30_000, 30_100)))


def test_seed_and_name_both_matter() -> None:
    base = Stream.of(1, "a").words(0)
    assert not np.array_equal(base, Stream.of(2, "a").words(0))
    assert not np.array_equal(base, Stream.of(1, "b").words(0))


def test_uniforms_and_normals_have_their_moments() -> None:
    n = 200_000
    u = Stream.of(3, "u").uniforms(np.arange(n))
    assert u.min() >= 0 and u.max() < 1
    assert np.abs(u.mean(axis=0) - 0.5).max() < 4 * np.sqrt(1 / 12 / n)
    z = Stream.of(3, "z").normals(np.arange(n))
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    # Neighbouring counters are uncorrelated.
    assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("mean", [0.0, 0.05, 1.3, 16.0])
def test_poisson_has_mean_and_variance(mean: float) -> None:
    n = 200_000
    counts = poisson(Stream.of(5, "p").uniforms(np.arange(n))[:, 0], np.full(n, mean))
    assert abs(counts.mean() - mean) <= 4 * np.sqrt(mean / n)
    # Var of a sample variance of Poisson counts: (mean + 2 mean^2) / n.
    assert abs(counts.var() - mean) <= 4 * np.sqrt((mean + 2 * mean**2) / n)
