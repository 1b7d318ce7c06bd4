"""Hidden worlds: streams, errors and the plain truth, each against something that shares no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from sust_dagster.agents.verifier.calibration.coverage import by_world, verified_worlds
from sust_dagster.agents.verifier.calibration.fleets import (
    CLEAN,
    DIRTY,
    HOURS,
    IN_TIME,
    MIXES,
    REGIONS,
    Fleet,
    fleet,
    joined,
    signal_of,
    stated_grid,
    tables,
)
from sust_dagster.agents.verifier.calibration.streams import integers, normals, uniforms
from sust_dagster.agents.verifier.calibration.worlds import (
    Bounds,
    drawn_errors,
    observed_errors,
    shared_out,
    true_savings,
)
from sust_dagster.simulator import truth


def plain_savings(moves: Fleet, grid: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Job by job, hour by hour, world by world."""
    out = np.zeros((moves.jobs, errors.shape[2]))
    for j in range(moves.jobs):
        for step in range(moves.length[j]):
            ran = moves.start[j] + step
            would = ran - moves.shift[j]
            a, b = moves.before[j], moves.after[j]
            out[j] += moves.kw[j] * 1.1 * (grid[a, would] * errors[a, would] - grid[b, ran] * errors[b, ran])
    return out


@given(st.integers(0, 5), st.integers(0, 200), st.integers(1, 50))
@settings(max_examples=40)
def test_any_stretch_of_a_stream_alone(seed, start, count):
    assert (uniforms(seed, "a", count, start) == uniforms(seed, "a", start + count)[start:]).all()


def test_streams_are_what_they_are_called():
    assert kstest(uniforms(1, "u", 20_000), "uniform").pvalue > 1e-4
    assert kstest(normals(1, "n", 20_000), "norm").pvalue > 1e-4
    assert set(integers(1, "i", 1000, 3, 7).tolist()) == {3, 4, 5, 6}
    one, other = normals(1, "n", 20_000), normals(2, "n", 20_000)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(one, normals(1, "m", 20_000))[0, 1]) < 0.03


def test_bounds_are_those_of_the_simulated_cloud():
    assert Bounds() == Bounds(
        truth.POWER_BOUND, truth.PUE_PROVIDER_BOUND, truth.PUE_REGION_BOUND, truth.GRID_SYSTEM_BOUND,
        truth.GRID_HOUR_BOUND, truth.GRID_HOUR_ESTIMATED_BOUND, truth.ESTIMATED_SHARE,
    )  # fmt: skip


@pytest.mark.parametrize("systematic", [0.0, 0.5, 1.0])
def test_the_share_of_the_grids_variance_that_is_common(systematic):
    bounds = shared_out(systematic)
    common, own = math.log(bounds.system) ** 2, math.log(bounds.hour) ** 2
    assert common + own == pytest.approx(math.log(1.2) ** 2)
    assert common == pytest.approx(systematic * math.log(1.2) ** 2)


def test_errors_have_the_spread_of_their_bounds_and_share_what_is_shared():
    bounds = Bounds(1.42, 1.06, 1.04, 1.15, 1.10)
    logs = np.log(drawn_errors(3, "x", bounds, 0, 4000))
    assert logs.shape == (len(REGIONS), HOURS, 4000)

    def spread(*given_bounds: float) -> float:
        return math.sqrt(sum((math.log(b) / 1.96) ** 2 for b in given_bounds))

    assert logs.std(axis=2).mean() == pytest.approx(spread(1.42, 1.06, 1.04, 1.15, 1.10), rel=0.03)
    # Two hours of a region differ by their own errors, two regions by what is not power or provider.
    assert (logs[0, 3] - logs[0, 4]).std() == pytest.approx(spread(1.10, 1.10), rel=0.06)
    assert (logs[0, 3] - logs[1, 3]).std() == pytest.approx(spread(*[1.04, 1.15, 1.10] * 2), rel=0.06)
    assert np.abs(logs.mean(axis=2)).max() < 0.02


def test_a_world_is_the_same_whichever_stretch_it_is_drawn_in():
    bounds = shared_out(0.5)
    whole = drawn_errors(3, "x", bounds, 0, 30)
    assert (drawn_errors(3, "x", bounds, 7, 11) == whole[:, :, 7:18]).all()
    seen, part = observed_errors(3, "x", Bounds(), 0, 30), observed_errors(3, "x", Bounds(), 7, 11)
    assert (part.place == seen.place[7:18]).all()
    assert (part.signal == seen.signal[7:18]).all() and (part.estimated == seen.estimated[7:18]).all()
    assert not (drawn_errors(4, "x", bounds, 0, 30) == whole).any()


def test_observed_worlds_have_estimated_hours_with_wider_errors():
    bounds = Bounds(system=1.0)
    seen = observed_errors(5, "x", bounds, 0, 400)
    assert seen.estimated.mean() == pytest.approx(0.02, rel=0.1)
    logs = np.log(seen.signal)
    assert logs[seen.estimated].std() == pytest.approx(math.log(1.20) / 1.96, rel=0.05)
    assert logs[~seen.estimated].std() == pytest.approx(math.log(1.10) / 1.96, rel=0.02)
    assert np.log(seen.place).std() == pytest.approx(
        math.sqrt(sum((math.log(b) / 1.96) ** 2 for b in (1.42, 1.06, 1.04))), rel=0.1
    )


@pytest.mark.parametrize("mix", MIXES)
def test_fleets_stay_on_the_grid_and_go_where_they_say(mix):
    moves = fleet(mix, 300, 2)
    _, hour = moves.hours_run()
    job, _ = moves.hours_run()
    assert (hour >= 0).all() and (hour < HOURS).all() and (hour - moves.shift[job] >= 0).all()
    dirty_before, dirty_after = np.isin(moves.before, DIRTY), np.isin(moves.after, DIRTY)
    if mix == "both ways":
        assert 0.4 < dirty_before.mean() < 0.6
        assert (dirty_before != dirty_after).all()
    elif mix.startswith("in time"):
        assert (moves.before == moves.after).all() and dirty_before.all() and (moves.shift == 12).all()
    else:
        assert dirty_before.all() and np.isin(moves.after, CLEAN).all()
    assert ((moves.length >= 1) & (moves.length <= 5)).all() and ((moves.kw > 0.5) & (moves.kw < 2)).all()


def test_an_unknown_fleet_is_named():
    with pytest.raises(ValueError, match="fleet 'sideways' is none of one-way"):
        fleet("sideways", 1, 1)


@pytest.mark.parametrize("mix", MIXES)
def test_the_truth_is_the_plain_sum_over_hours(mix):
    moves, grid = fleet(mix, 15, 4), stated_grid(4)
    errors = drawn_errors(4, mix, shared_out(0.5), 0, 6)
    assert true_savings(moves, grid, errors) == pytest.approx(plain_savings(moves, grid, errors), rel=1e-12, abs=1e-12)


def test_a_world_without_errors_is_what_the_verifier_says():
    moves, grid = joined([fleet(m, 20, 6) for m in MIXES], "all"), stated_grid(6)
    signal = signal_of(grid[None], system_bound=1.15, hour_bound=1.1)
    result = verified_worlds(tables(moves), signal, Bounds(), seed=1, draws=50)
    truth_kg = true_savings(moves, grid, np.ones((*grid.shape, 1)))
    assert -by_world(result, "measured_carbon_delta_kg", 1) == pytest.approx(truth_kg, rel=1e-9)


def test_many_worlds_in_one_table_are_each_as_if_alone():
    moves = fleet(IN_TIME, 6, 6)
    seen = observed_errors(6, "x", Bounds(), 0, 5)
    grid = stated_grid(6) * seen.signal
    together = verified_worlds(
        tables(joined([moves] * 5, "x"), 5),
        signal_of(grid, system_bound=1.15, hour_bound=1.1),
        Bounds(),
        seed=1,
        draws=50,
    )
    for w in range(5):
        alone = verified_worlds(
            tables(moves), signal_of(grid[w : w + 1], system_bound=1.15, hour_bound=1.1), Bounds(), seed=1, draws=50
        )
        for column in ("measured_carbon_delta_kg", "carbon_sd_kg", "credited_kg", "carbon_bounds_lower"):
            assert by_world(together, column, 5)[:, w] == pytest.approx(by_world(alone, column, 1)[:, 0], rel=1e-9)
        for column in ("savings_kg", "savings_ci_lower", "credited_kg"):
            assert together.portfolios[column][w].as_py() == pytest.approx(
                alone.portfolios[column][0].as_py(), rel=1e-9
            )


def test_a_fleet_that_closes_a_gate_is_refused():
    moves, flat = fleet(IN_TIME, 4, 6), np.full((1, len(REGIONS), HOURS), 0.3)
    with pytest.raises(ValueError, match=r"sufficiency\.constant_series"):
        verified_worlds(tables(moves), signal_of(flat, system_bound=1.15, hour_bound=1.1), Bounds(), seed=1, draws=50)
