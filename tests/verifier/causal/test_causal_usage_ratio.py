"""The usage ratio: recovered from a hold-out, honest about its error, silent where nothing was compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sust_dagster.agents.verifier.causal.inputs import CheckInputError
from sust_dagster.agents.verifier.causal.usage_ratio import (
    PRIOR_LOG_SD,
    USAGE_RATIOS,
    counterfactual_energy_kwh,
    usage_ratio,
)


def runs_of(
    rng: np.random.Generator,
    *,
    ratio: float = 1.0,
    share: float = 0.1,
    workloads: int = 20,
    hours: int = 60,
    per: int = 2,
    cv: float = 0.15,
    hour_sd: float = 0.0,
    pool: str = "m5",
) -> pa.Table:
    """Workloads of very different size; a draw per workload and hour says who stays."""
    w, h, _ = (x.reshape(-1) for x in np.meshgrid(range(workloads), range(hours), range(per), indexing="ij"))
    group = w * hours + h
    moved = (rng.random(workloads * hours) >= share)[group]
    size = np.exp(rng.normal(0, 2, workloads))[w]
    common = rng.normal(0, hour_sd, workloads * hours)[group]
    energy = size * np.where(moved, ratio, 1.0) * np.exp(rng.normal(0, cv, len(w)) + common)
    return pa.table(
        {
            "pool": [pool] * len(w),
            "stratum": [f"w{i}" for i in w],
            "cluster": [f"g{i}" for i in group],
            "moved": moved,
            "energy_kwh": energy,
        }
    )


def one(table: pa.Table) -> dict:
    assert table.schema == USAGE_RATIOS and table.num_rows == 1
    return table.to_pylist()[0]


def test_a_hungrier_move_is_found_though_workloads_differ_in_size():
    row = one(usage_ratio(runs_of(np.random.default_rng(1), ratio=1.08)))
    assert row["reason"] is None and row["factor_key"] == "usage_ratio:energy_kwh:m5"
    assert abs(row["log_ratio"] - np.log(1.08)) < 3 * row["log_se"]
    assert row["log_se"] < 0.02 and row["n_treated"] > 8 * row["n_control"]
    # Negative control: without strata the sizes of the workloads drown it.
    flat = runs_of(np.random.default_rng(1), ratio=1.08)
    assert one(usage_ratio(flat.set_column(1, "stratum", pa.array(["all"] * flat.num_rows))))["log_se"] > 0.1


def test_the_ratio_is_the_weighted_mean_of_runs_and_prior():
    row = one(usage_ratio(runs_of(np.random.default_rng(2), ratio=1.3, workloads=3, hours=40)))
    df = min(row["treated_clusters"], row["control_clusters"]) - 1
    v = row["log_se"] ** 2 * df / (df - 2)
    w = PRIOR_LOG_SD**2 / (PRIOR_LOG_SD**2 + v)
    assert row["weight"] == pytest.approx(w) and 0 < w < 1
    assert np.log(row["ratio"]) == pytest.approx(w * row["log_ratio"])
    assert row["log_sd"] == pytest.approx(np.sqrt(w * v))
    assert row["log_sd"] < PRIOR_LOG_SD and 1 < row["ratio"] < np.exp(row["log_ratio"])
    # The more the prior allows, the more the runs say.
    assert one(usage_ratio(runs_of(np.random.default_rng(2), ratio=1.3, workloads=3, hours=40), prior_log_sd=10.0))[
        "ratio"
    ] == pytest.approx(np.exp(row["log_ratio"]), rel=1e-3)


def test_more_runs_shrink_less():
    weights = [
        one(usage_ratio(runs_of(np.random.default_rng(3), workloads=5, hours=h)))["weight"] for h in (30, 120, 480)
    ]
    assert weights == sorted(weights) and weights[-1] > 0.9


def coverage(cluster: str, worlds: int = 400) -> float:
    """Share of worlds whose unshrunk 90 % interval holds the truth; runs of an hour move together."""
    tables = [
        runs_of(np.random.default_rng(w), workloads=4, hours=60, per=6, hour_sd=0.2, pool=f"{w:04d}", share=0.3)
        for w in range(worlds)
    ]
    runs = pa.concat_tables(tables)
    if cluster == "run":
        runs = runs.set_column(2, "cluster", pa.array([str(i) for i in range(runs.num_rows)]))
    out = usage_ratio(runs, prior_log_sd=100.0)
    z = np.log(out["ratio"].to_numpy()) / out["log_sd"].to_numpy()
    return float((np.abs(z) < 1.645).mean())


def test_the_interval_covers_by_draw_and_would_not_by_run():
    assert 0.85 <= coverage("draw") <= 0.95
    assert coverage("run") < 0.75


def test_nothing_compared_leaves_the_prior_and_says_so():
    runs = runs_of(np.random.default_rng(4), ratio=2.0)
    moved, stay = (runs.filter(pa.array(runs["moved"].to_numpy() == m)) for m in (True, False))
    for table, reason in ((moved, "no_unmoved_runs"), (stay, "no_moved_runs")):
        row = one(usage_ratio(table))
        assert row["reason"] == reason
        assert (row["ratio"], row["log_sd"], row["log_ratio"], row["weight"]) == (1.0, PRIOR_LOG_SD, None, 0.0)
        assert row["runs_left_out"] == table.num_rows
    few = pa.concat_tables([moved, stay.slice(0, 2)])
    row = one(usage_ratio(few))
    assert row["reason"].startswith("too_few_clusters: unmoved has") and row["ratio"] == 1.0
    # Moved runs of one workload and unmoved runs of another compare with nothing.
    split = pa.concat_tables(
        [
            moved.filter(pa.array([s == "w1" for s in moved["stratum"].to_pylist()])),
            stay.filter(pa.array([s != "w1" for s in stay["stratum"].to_pylist()])),
        ]
    )
    assert one(usage_ratio(split))["reason"].startswith("too_few_clusters: unmoved has 0")


def test_runs_that_are_all_alike_keep_their_ratio_and_the_priors_error():
    row = one(usage_ratio(runs_of(np.random.default_rng(5), ratio=1.1, cv=0.0)))
    assert row["reason"] == "zero_variance" and row["ratio"] == pytest.approx(1.1) and row["log_sd"] == PRIOR_LOG_SD


def test_missing_and_zero_energy_is_left_out_and_counted():
    runs = runs_of(np.random.default_rng(6))
    energy = runs["energy_kwh"].to_numpy().copy()
    energy[:5] = 0.0
    holes = np.zeros(len(energy), bool)
    holes[5:12] = True
    row = one(usage_ratio(runs.set_column(4, "energy_kwh", pa.array(energy, mask=holes))))
    kept = one(usage_ratio(runs.slice(12)))
    assert row["runs_left_out"] == 12 and kept["log_ratio"] == pytest.approx(row["log_ratio"], rel=1e-12)


def test_the_counterfactual_is_the_actual_over_the_ratio():
    assert counterfactual_energy_kwh(np.array([11.0, 5.0]), np.array([1.1, 1.0])) == pytest.approx([10.0, 5.0])
    with pytest.raises(CheckInputError, match="not above 0"):
        counterfactual_energy_kwh(np.array([1.0]), np.array([0.0]))
    with pytest.raises(CheckInputError, match="prior_log_sd"):
        usage_ratio(runs_of(np.random.default_rng(7)), prior_log_sd=0.0)
