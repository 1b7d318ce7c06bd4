"""The regression behind the default: its normal equations are those of the plain samples."""

from __future__ import annotations

import numpy as np
import pytest
from forecast_series import START, grid

from sust_dagster.agents.planner.forecast import ridge
from sust_dagster.agents.planner.forecast.features import daily, pooled

FIRST = int(START.timestamp()) // 3600


def by_hand(u: np.ndarray, observed: np.ndarray, member: ridge._Member, origin: int, step: int) -> tuple[float, int]:
    """One forecast by stacking the samples and solving once; and how many samples there were."""
    fit = (FIRST + origin) // ridge.REFIT_HOURS
    fitted_at = fit * ridge.REFIT_HOURS + (FIRST + origin) % 24 - FIRST
    oldest = fitted_at - 48 - member.fits * ridge.REFIT_HOURS
    xs, ys = [], []
    for o in range(oldest, fitted_at - 48, member.hours_between_origins):
        if o < 28 * 24 or np.isnan(observed[o + step % 24 : o + 48 : 24]).any():
            continue
        x, profile = member.inputs(u, FIRST, np.array([o]))
        xs.append(x[step % 24, 0])
        ys.append(observed[o + step] - profile[0, step % 24])
    x, y = np.array(xs), np.array(ys)
    mean, scale = x.mean(0), x.std(0)
    scale[scale <= 1e-7] = np.inf
    z = (x - mean) / scale
    penalty = member.shrinkage(np.array([float(len(y))]))[0]
    weights = np.linalg.solve(z.T @ z / len(y) + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()) / len(y))
    now, profile = member.inputs(u, FIRST, np.array([origin]))
    return float((now[step % 24, 0] - mean) / scale @ weights + y.mean() + profile[0, step % 24]), len(y)


@pytest.mark.parametrize("step", [0, 13, 24, 47])
@pytest.mark.parametrize("hours_unknown", [0, 200])
def test_a_forecast_is_the_mean_of_two_regressions_on_the_plain_samples(step, hours_unknown):
    u = np.log(grid(150, 3))
    observed = u.copy()
    observed[np.random.default_rng(1).integers(0, 100 * 24, hours_unknown)] = np.nan
    origins = np.array([d * 24 + 3 for d in (120, 121, 140)])
    found = ridge.ridge(u, observed, FIRST, origins, 2)
    for i, origin in enumerate(origins.tolist()):
        many, _ = by_hand(u, observed, ridge.POOLED, origin, step)
        few, samples = by_hand(u, observed, ridge.DAILY, origin, step)
        weight = 0.5 * min(samples / 364, 1.0)
        assert found[i, step] == pytest.approx(many * (1 - weight) + few * weight, abs=1e-7)


def test_too_little_training_says_nothing():
    u = np.log(grid(150, 3))
    origins = np.arange(40, 120) * 24 + 3
    known = ~np.any(np.isnan(ridge.ridge(u, u, FIRST, origins, 2)), axis=1)
    assert known.tolist() == sorted(known.tolist()), "once there is enough, there is"
    assert known.sum() in range(40, 68)


def test_inputs_hold_nothing_from_the_origin_on():
    u = np.log(grid(60, 3))
    origins = np.array([40 * 24 + 5, 50 * 24])
    for inputs in (pooled, daily):
        whole, profile = inputs(u, FIRST, origins)
        for k, origin in enumerate(origins.tolist()):
            cut, own = inputs(u[:origin], FIRST, np.array([origin]))
            assert np.array_equal(whole[:, k], cut[:, 0]) and np.array_equal(profile[k], own[0])
