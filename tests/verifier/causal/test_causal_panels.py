"""Panels: published figures of Proposition 99, panels with a known effect, exact weights, named refusals."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from sust_dagster.agents.verifier.causal.diff_in_diff import diff_in_diff
from sust_dagster.agents.verifier.causal.inputs import CheckInputError
from sust_dagster.agents.verifier.causal.panel import Panel, panel_of
from sust_dagster.agents.verifier.causal.simplex import nearest_mix
from sust_dagster.agents.verifier.causal.synthetic_control import synthetic_control
from sust_dagster.agents.verifier.causal.synthetic_did import panel_did, synthetic_did

PROP99 = Path(__file__).parent / "data" / "prop99_packs_per_capita.csv"
PUBLISHED_DID = -27.349111083614947


@pytest.fixture(scope="module")
def prop99() -> pa.Table:
    lines = [line for line in PROP99.read_text().splitlines() if not line.startswith("#")]
    head, *rows = list(csv.reader(lines))
    return pa.Table.from_pylist(
        [
            {
                "unit": state,
                "period": int(row[0]),
                # As published: single precision, ten digits.
                "value": float(f"{np.float32(value):.10g}"),
                "treated": state == "California" and int(row[0]) >= 1989,
            }
            for row in rows
            for state, value in zip(head[1:], row[1:], strict=True)
        ]
    )


def long_of(values: np.ndarray, treated: int, before: int) -> pa.Table:
    units, periods = values.shape
    return pa.table(
        {
            "unit": [f"u{i:03d}" for i in np.repeat(np.arange(units), periods)],
            "period": np.tile(np.arange(periods), units),
            "value": values.reshape(-1),
            "treated": ((np.arange(units) >= units - treated)[:, None] & (np.arange(periods) >= before)[None]).reshape(
                -1
            ),
        }
    )


def test_proposition_99_by_difference_in_differences(prop99: pa.Table):
    panel = panel_of(prop99)
    assert (panel.controls, panel.treated, panel.before, panel.after, panel.reason) == (38, 1, 19, 12, None)
    assert abs(panel_did(panel).effect - PUBLISHED_DID) < 1e-9
    treated = np.array(prop99["unit"].to_pylist()) == "California"
    runs = pa.table(
        {
            "pool": ["us"] * len(treated),
            "cluster": prop99["unit"],
            "treated": treated,
            "after": prop99["period"].to_numpy() >= 1989,
            "packs": prop99["value"],
        }
    )
    row = diff_in_diff(runs, measure="packs", standard_error="welch").to_pylist()[0]
    assert abs(row["effect"] - PUBLISHED_DID) < 1e-9
    # One treated state is one cluster: no clustered error can be taken from it.
    assert diff_in_diff(runs, measure="packs")["reason"][0].as_py() == "too_few_clusters: treated has 1, needs 5"


def test_proposition_99_by_synthetic_control(prop99: pa.Table):
    effect = synthetic_control(panel_of(prop99))
    assert effect.effect == pytest.approx(-19.51, abs=0.01)
    top = sorted(effect.unit_weights, key=lambda u: -effect.unit_weights[u])[:4]
    # The donors of Abadie, Diamond and Hainmueller 2010, table 2.
    assert set(top) == {"Utah", "Montana", "Nevada", "Connecticut"}
    assert sum(effect.unit_weights.values()) == pytest.approx(1.0) and effect.rmse_before < 2
    assert effect.gaps[19:].mean() == pytest.approx(effect.effect) and effect.placebos == 38
    assert effect.p_value < 0.10


def test_proposition_99_by_synthetic_difference_in_differences(prop99: pa.Table):
    effect = synthetic_did(panel_of(prop99))
    assert effect.effect == pytest.approx(-15.605, abs=0.01)
    # Published time weights: only 1986 to 1988 count.
    assert effect.time_weights[-3:] == pytest.approx([0.366, 0.206, 0.427], abs=0.002)
    assert effect.time_weights[:-3].max() < 1e-6
    assert 7.0 < effect.se < 12.0 and effect.ci90_upper < 0
    assert effect.gaps[19:].mean() == pytest.approx(effect.effect)
    assert synthetic_did(panel_of(prop99), se_method="jackknife").reason.startswith("no_se: jackknife needs")


def test_rows_in_any_order_give_the_same_numbers(prop99: pa.Table):
    shuffled = prop99.take(np.random.default_rng(0).permutation(prop99.num_rows))
    for method in (synthetic_did, synthetic_control, panel_did):
        assert method(panel_of(shuffled)).effect == method(panel_of(prop99)).effect


def factor_panel(seed: int, *, effect: float, treated: int = 3, controls: int = 20, noise: float = 0.0) -> Panel:
    """Interactive effects: treated units load differently, so plain differences are off; a mix of controls is not."""
    rng = np.random.default_rng(seed)
    periods, before = 30, 20
    load = rng.uniform(0, 1, (controls, 2))
    mixed = rng.dirichlet(np.ones(controls) * 0.3, treated) @ load
    course = np.stack([np.linspace(0, 20, periods), 10 * np.sin(np.arange(periods))])
    values = 100 + np.vstack([load, mixed]) @ course + noise * rng.normal(size=(controls + treated, periods))
    values[controls:, before:] += effect
    return panel_of(long_of(values, treated, before))


@pytest.mark.parametrize("seed", range(4))
def test_a_known_effect_is_recovered_where_plain_differences_miss_it(seed: int):
    panel = factor_panel(seed, effect=-5.0, treated=1)
    assert synthetic_control(panel).effect == pytest.approx(-5.0, abs=1e-3)
    # The negative control: the treated unit's course is not the mean of the others'.
    plain = panel_did(panel).effect
    assert abs(plain + 5.0) > 0.1 and abs(synthetic_did(panel).effect + 5.0) < abs(plain + 5.0)


def test_level_differences_drop_out_of_synthetic_did_but_not_of_synthetic_control():
    panel = factor_panel(1, effect=-5.0, treated=1)
    values = panel.values.copy()
    values[panel.controls :] += 1_000.0
    lifted = Panel(values, panel.units, panel.periods, panel.controls, panel.before)
    assert synthetic_did(lifted).effect == pytest.approx(synthetic_did(panel).effect, abs=1e-6)
    assert synthetic_control(lifted).effect > 900


def test_the_null_effect_is_covered_by_placebo_and_jackknife():
    for se_method, low in (("placebo", 0.82), ("jackknife", 0.82)):
        hits = []
        for seed in range(60):
            out = synthetic_did(
                factor_panel(seed, effect=0.0, treated=6, controls=16, noise=1.0), se_method=se_method, placebos=40
            )
            hits.append(out.ci90_lower <= 0 <= out.ci90_upper)
        assert np.mean(hits) >= low, se_method


def test_the_jackknife_is_the_estimate_with_units_left_out():
    panel = factor_panel(3, effect=-2.0, treated=3, controls=6, noise=1.0)
    out = synthetic_did(panel, se_method="jackknife")
    w, t = np.array(list(out.unit_weights.values())), out.time_weights
    taus = []
    for i in range(9):
        keep = np.arange(9) != i
        ww = np.where(keep[:6], w, 0) / w[keep[:6]].sum()
        contrast = panel.values[:, 20:].mean(axis=1) - panel.values[:, :20] @ t
        taus.append(contrast[6:][keep[6:]].mean() - ww @ contrast[:6])
    assert out.se == pytest.approx(np.sqrt(8 / 9 * np.sum((taus - np.mean(taus)) ** 2)), rel=1e-9)


def test_placebos_of_several_treated_units_repeat_with_the_seed():
    panel = factor_panel(4, effect=0.0, treated=3, noise=1.0)
    a, b, c = (synthetic_did(panel, placebos=20, seed=s) for s in (1, 1, 2))
    assert a.se == b.se != c.se and a.effect == c.effect and a.placebos == 20


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), m=st.integers(1, 12), n=st.integers(1, 15), ridge=st.sampled_from([1e-3, 0.3, 5.0]))
def test_the_mix_is_on_the_simplex_and_nobody_finds_a_nearer_one(seed: int, m: int, n: int, ridge: float):
    rng = np.random.default_rng(seed)
    columns, target = rng.normal(0, 3, (m, n)), rng.normal(0, 3, m)
    got = nearest_mix(columns, target, ridge)
    assert (got.weights >= 0).all() and got.weights.sum() == pytest.approx(1.0, abs=1e-12)

    def objective(w: np.ndarray) -> float:
        return float(((columns @ w - target) ** 2).sum() + ridge**2 * (w**2).sum())

    assert got.objective == pytest.approx(objective(got.weights), rel=1e-9, abs=1e-12)
    tries = rng.dirichlet(np.ones(n), 200)
    assert min(map(objective, tries)) >= got.objective - 1e-9 * (1 + got.objective)
    peer = minimize(
        objective,
        np.full(n, 1 / n),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    assert got.objective <= objective(np.clip(peer.x, 0, 1) / np.clip(peer.x, 0, 1).sum()) + 1e-6 * (1 + got.objective)


def test_a_target_among_the_columns_is_met():
    columns = np.random.default_rng(0).normal(size=(8, 5))
    assert nearest_mix(columns, columns[:, 2]).weights == pytest.approx(np.eye(5)[2], abs=1e-9)
    assert nearest_mix(np.ones((3, 4)), np.ones(3)).weights.tolist() == [0.25] * 4


def test_what_cannot_be_estimated_is_named():
    table = long_of(np.random.default_rng(0).normal(size=(6, 8)), 1, 5)
    methods = (synthetic_did, synthetic_control, panel_did)

    def reasons(t: pa.Table) -> set:
        out = [m(panel_of(t)) for m in methods]
        assert all(o.effect is None and o.se is None and o.gaps.size == 0 for o in out)
        return {o.reason for o in out}

    off = table.set_column(3, "treated", pa.array(np.zeros(48, bool)))
    assert reasons(off) == {"no_treated_unit"}
    assert reasons(table.slice(40)) == {"no_control_unit"}
    two = table["treated"].to_numpy() | ((np.arange(48) >= 38) & (np.arange(48) < 40))
    assert reasons(table.set_column(3, "treated", pa.array(two))) == {"staggered_start"}
    ends = table["treated"].to_numpy() & (np.arange(48) != 47)
    assert reasons(table.set_column(3, "treated", pa.array(ends))) == {"treatment_ends"}
    hole = pa.array(table["value"].to_numpy(), mask=np.arange(48) == 41)
    assert reasons(table.set_column(2, "value", hole)) == {"treated_value_missing: u005, 1"}
    assert synthetic_did(panel_of(table.slice(32))).reason == "too_few_controls: 1, needs 2"
    assert synthetic_control(panel_of(long_of(np.ones((6, 8)), 1, 1))).reason == "too_few_periods_before: 1, needs 2"


def test_controls_with_a_hole_are_dropped_and_named_and_a_flat_panel_has_no_error():
    table = long_of(np.random.default_rng(0).normal(size=(6, 8)), 1, 5)
    hole = pa.array(table["value"].to_numpy(), mask=np.arange(48) == 9)
    out = synthetic_did(panel_of(table.set_column(2, "value", hole)))
    assert out.dropped == ("u001",) and "u001" not in out.unit_weights and out.effect is not None
    flat = synthetic_did(panel_of(long_of(np.ones((6, 8)), 1, 5)))
    assert flat.effect == 0.0 and flat.se is None and flat.reason == "no_se: zero_variance"


def test_a_cell_given_twice_is_an_error():
    table = long_of(np.ones((3, 4)), 1, 2)
    with pytest.raises(CheckInputError, match="row 12 gives u000 in 0 again"):
        panel_of(pa.concat_tables([table, table.slice(0, 1)]))
