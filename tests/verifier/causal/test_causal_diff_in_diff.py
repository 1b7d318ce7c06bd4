"""Difference-in-differences on runs: exact on exact data, calibrated errors, named refusals, and its blind spot."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from sust_dagster.agents.verifier.causal.diff_in_diff import EFFECTS, comparison_group, diff_in_diff
from sust_dagster.agents.verifier.causal.inputs import CheckInputError


def runs_of(
    rng: np.random.Generator,
    *,
    effect: float = 0.0,
    clusters: int = 20,
    per: int = 6,
    cluster_sd: float = 0.0,
    noise: float = 1.0,
    trend_gap: float = 0.0,
    pool: str = "m5",
) -> pa.Table:
    """Runs at level 50 + 5 for treated, common change of +3; ``trend_gap`` breaks the parallel trends."""
    treated = np.repeat(np.arange(2 * clusters) % 2 == 0, 2 * per)
    cluster = np.repeat(np.arange(2 * clusters), 2 * per)
    after = np.tile(np.repeat([False, True], per), 2 * clusters)
    # What a cluster does between before and after is its own.
    shift = rng.normal(0, cluster_sd, (2 * clusters))[cluster] * after
    value = 50 + 5 * treated + 3 * after + (effect + trend_gap) * (treated & after) + shift
    return pa.table(
        {
            "pool": [pool] * len(value),
            "cluster": [f"w{c}" for c in cluster],
            "treated": treated,
            "after": after,
            "energy_kwh": value + rng.normal(0, noise, len(value)),
        }
    )


def one(table: pa.Table) -> dict:
    assert table.schema == EFFECTS and table.num_rows == 1
    return table.to_pylist()[0]


def test_a_known_effect_is_recovered_exactly_without_noise():
    row = one(diff_in_diff(runs_of(np.random.default_rng(0), effect=-2.0, noise=0.0)))
    assert row["effect"] == pytest.approx(-2.0, abs=1e-12)
    assert row["ratio"] == pytest.approx(56 / 58, rel=1e-12)
    # Runs that are all alike say nothing about the error: no interval is made up.
    assert row["reason"] == "zero_variance" and row["se"] is None and row["ci90_lower"] is None


def test_the_log_form_gives_the_ratio():
    rng = np.random.default_rng(1)
    table = runs_of(rng, noise=0.0)
    factor = 1.1 ** (table["treated"].to_numpy() & table["after"].to_numpy())
    base = np.where(table["treated"].to_numpy(), 7.0, 2.0) * np.where(table["after"].to_numpy(), 0.9, 1.0)
    scatter = np.exp(rng.normal(0, 0.001, len(base)))
    table = table.set_column(4, "energy_kwh", pa.array(base * factor * scatter))
    row = one(diff_in_diff(table, form="log"))
    assert row["ratio"] == pytest.approx(1.1, rel=1e-3) and row["reason"] is None
    # On the natural scale the same move is not a difference of parallel lines.
    assert one(diff_in_diff(table))["ratio"] != pytest.approx(1.1, rel=1e-2)


def test_the_clustered_error_is_the_regression_sandwich():
    table = runs_of(np.random.default_rng(2), clusters=8, cluster_sd=2.0)
    row = one(diff_in_diff(table))
    t, a = table["treated"].to_numpy().astype(float), table["after"].to_numpy().astype(float)
    x, y = np.stack([np.ones_like(t), t, a, t * a], 1), table["energy_kwh"].to_numpy()
    b = np.linalg.lstsq(x, y, rcond=None)[0]
    e, bread = y - x @ b, np.linalg.inv(x.T @ x)
    who = np.array(table["cluster"].to_pylist())
    scores = np.stack([x[who == c].T @ e[who == c] for c in np.unique(who)])
    g, n = len(scores), len(y)
    v = bread @ scores.T @ scores @ bread * g / (g - 1) * (n - 1) / (n - 4)
    assert row["effect"] == pytest.approx(b[3], rel=1e-12)
    assert row["se"] == pytest.approx(np.sqrt(v[3, 3]), rel=1e-12)
    assert row["df"] == 7 and row["treated_clusters"] == row["control_clusters"] == 8


def test_welch_agrees_with_the_two_sample_test_where_nothing_was_before():
    rng = np.random.default_rng(3)
    table = runs_of(rng, clusters=5)
    # Runs before that hardly scatter leave the two-sample comparison of the runs after.
    before = ~table["after"].to_numpy()
    value = np.where(before, 10 + 1e-9 * rng.normal(size=len(before)), table["energy_kwh"].to_numpy())
    row = one(diff_in_diff(table.set_column(4, "energy_kwh", pa.array(value)), standard_error="welch"))
    t = table["treated"].to_numpy()
    test = ttest_ind(value[t & ~before], value[~t & ~before], equal_var=False)
    ci = test.confidence_interval(0.90)
    assert (row["ci90_lower"], row["ci90_upper"]) == pytest.approx((ci.low, ci.high), rel=1e-6)
    assert row["df"] == pytest.approx(test.df, rel=1e-6)


def covered(standard_error: str, worlds: int = 400) -> float:
    hits = 0
    tables = [runs_of(np.random.default_rng(100 + w), cluster_sd=1.5, pool=f"{w:04d}") for w in range(worlds)]
    out = diff_in_diff(pa.concat_tables(tables), standard_error=standard_error)
    hits = (out["ci90_lower"].to_numpy() <= 0) & (out["ci90_upper"].to_numpy() >= 0)
    return float(hits.mean())


def test_the_clustered_interval_covers_and_the_independent_one_does_not():
    # 400 worlds: 0.90 +- 3.3 sd = [.85, .95].
    assert 0.85 <= covered("cluster") <= 0.95
    # Negative control: runs of one workload that move together, taken as independent.
    assert covered("welch") < 0.70


def test_broken_parallel_trends_bias_by_their_gap_and_no_error_shows_it():
    straight = one(diff_in_diff(runs_of(np.random.default_rng(4), effect=-2.0)))
    broken = one(diff_in_diff(runs_of(np.random.default_rng(4), effect=-2.0, trend_gap=1.25)))
    assert broken["effect"] - straight["effect"] == pytest.approx(1.25, abs=1e-9)
    assert broken["se"] == pytest.approx(straight["se"], rel=1e-9)
    assert not broken["ci90_lower"] <= -2.0 <= broken["ci90_upper"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), shift=st.floats(-1e3, 1e3))
def test_units_scale_levels_drop_out_and_order_does_not_matter(seed: int, scale: float, shift: float):
    rng = np.random.default_rng(seed)
    table = runs_of(rng, clusters=5, per=2, cluster_sd=1.0)
    row = one(diff_in_diff(table))
    moved = table.set_column(4, "energy_kwh", pa.array(table["energy_kwh"].to_numpy() * scale + shift))
    other = one(diff_in_diff(moved.take(rng.permutation(table.num_rows))))
    assert other["effect"] == pytest.approx(row["effect"] * scale, rel=1e-6, abs=1e-8)
    assert other["se"] == pytest.approx(row["se"] * scale, rel=1e-6)


def test_pools_do_not_touch_each_other():
    a, b = (runs_of(np.random.default_rng(s), effect=s, pool=p) for s, p in ((1, "b"), (2, "a")))
    both = diff_in_diff(pa.concat_tables([a, b])).to_pylist()
    assert both == [one(diff_in_diff(b)), one(diff_in_diff(a))]


def test_what_cannot_be_estimated_is_named():
    table = runs_of(np.random.default_rng(5))
    few = table.filter(pa.array(~(table["treated"].to_numpy() & table["after"].to_numpy()) | (np.arange(480) < 9)))
    row = one(diff_in_diff(few))
    assert row["reason"] == "too_few_runs: treated after has 3, needs 5"
    assert row["effect"] is None and row["se"] is None and row["ratio"] is None
    alone = table.set_column(1, "cluster", pa.array(np.where(table["treated"].to_numpy(), "one", "two")))
    assert one(diff_in_diff(alone))["reason"] == "too_few_clusters: control has 1, needs 5"
    assert one(diff_in_diff(alone, standard_error="welch"))["reason"] is None
    negative = table.set_column(4, "energy_kwh", pa.array(table["energy_kwh"].to_numpy() - 50))
    assert one(diff_in_diff(negative, form="log"))["reason"] == "not_positive"
    assert one(diff_in_diff(negative))["reason"] is None
    empty = diff_in_diff(table.slice(0, 0))
    assert empty.num_rows == 0 and empty.schema == EFFECTS


def test_runs_without_a_value_are_counted_not_guessed():
    table = runs_of(np.random.default_rng(6))
    holes = np.arange(table.num_rows) % 10 == 0
    row = one(diff_in_diff(table.set_column(4, "energy_kwh", pa.array(table["energy_kwh"].to_numpy(), mask=holes))))
    kept = one(diff_in_diff(table.filter(pa.array(~holes))))
    assert row.pop("runs_without_value") == holes.sum() and kept.pop("runs_without_value") == 0
    assert row == kept


def test_malformed_columns_are_errors_that_name_them():
    table = runs_of(np.random.default_rng(7))
    with pytest.raises(CheckInputError, match="no column treated"):
        diff_in_diff(table.drop_columns(["treated"]))
    with pytest.raises(CheckInputError, match="energy_kwh, row 3: an infinite"):
        diff_in_diff(table.set_column(4, "energy_kwh", pa.array(np.where(np.arange(480) == 3, np.inf, 1.0))))
    with pytest.raises(CheckInputError, match="cluster, row 0 is null"):
        diff_in_diff(table.set_column(1, "cluster", pa.nulls(480, pa.string())))


def test_the_comparison_group_takes_off_what_the_model_got_wrong():
    v = {"var_modelled": 4.0, "var_group_modelled": 1.0, "var_group_observed": 2.25}
    got = comparison_group(100.0, 50.0, 55.0, **v)
    assert (got.value, got.variance) == (105.0, 7.25)
    percent = comparison_group(100.0, 50.0, 55.0, **v, adjustment="percent")
    assert percent.value == pytest.approx(110.0)
    rng = np.random.default_rng(8)
    m, g, o = 100 + 2 * rng.normal(size=10**6), 50 + rng.normal(size=10**6), 55 + 1.5 * rng.normal(size=10**6)
    assert percent.variance == pytest.approx((m - m / g * (g - o)).var(), rel=0.01)
    # A group that the model met exactly corrects nothing, and nothing is divided by that zero.
    exact = comparison_group(100.0, 50.0, 50.0, **v, adjustment="percent")
    assert exact.value == 100.0 and np.isfinite(exact.variance)
    bad = comparison_group(np.array([1.0, np.nan]), np.array([0.0, 1.0]), 1.0, **v, adjustment="percent")
    assert bad.reason.tolist() == ["zero_model", "missing_value"] and np.isnan(bad.value).all()
