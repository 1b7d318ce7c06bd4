"""The saving itself: golden vectors, both clocks, splits that add up, and what must raise."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verifier_cases import (
    FIRST_HOUR,
    HOUR_US,
    POWER,
    PROVIDER,
    START,
    Run,
    claim_table,
    factors_of,
    leakage_table,
    row,
    signal_of,
    site,
    slice_table,
    verified,
)

from sust_dagster.agents.accountant import FactorSet, LedgerError, account
from sust_dagster.agents.verifier import MixedSignalsError, SliceError, named_factors, signal_matrix
from sust_dagster.agents.verifier.counterfactual import cut, split_at_hours
from sust_dagster.agents.verifier.decomposition import lmdi, shapley, shapley_product
from sust_dagster.agents.verifier.inputs import read
from sust_dagster.reference import instances, shipped_factors
from sust_dagster.world.schemas import ACTIVITY_LEDGER, GRID_INTENSITY, TIMESTAMP

#: A day of two regions, g/kWh, whose four-hour means at 06:00 and 12:00 give the published daily-profile vectors.
WAVE = np.array([-30.0, -10.0, 10.0, 30.0])


def profile(early: float, late: float) -> list[float]:
    day = np.full(24, 333.0) + np.arange(24)
    day[6:10], day[12:16] = early + WAVE, late - WAVE
    return day.tolist()


DAY = {"A": profile(428.60, 244.71), "B": profile(102.65, 50.0)}


def test_shapley_golden_vector():
    parts = shapley(*(np.array([v]) for v in (10.0, 10.5, 400.0, 380.0, 120.0, 100.0)))
    assert [parts.spatial[0], parts.temporal[0], parts.energy[0]] == pytest.approx([2870, 205, -125], abs=1e-9)


def test_lmdi_golden_vector():
    parts, guarded = lmdi(np.array([[10.0, 1.2, 400.0]]), np.array([[11.0, 1.1, 100.0]]))
    assert parts[0] == pytest.approx([-248.30526, 226.684942, 3611.620318], abs=1e-5)
    assert parts.sum() == pytest.approx(3590, abs=1e-9)
    assert not guarded.any()


positive = st.floats(1e-3, 1e4)


@given(st.lists(positive, min_size=6, max_size=6))
def test_shapley_is_the_mean_of_all_orders(values):
    e_cf, e_act, ga0, ga1, gb0, gb1 = values
    energy, g = (e_cf, e_act), {(0, 0): ga0, (0, 1): ga1, (1, 0): gb0, (1, 1): gb1}
    mean = np.zeros(3)
    for order in itertools.permutations(range(3)):
        state = [0, 0, 0]
        for player in order:
            was = energy[state[0]] * g[state[1], state[2]]
            state[player] = 1
            mean[player] += (was - energy[state[0]] * g[state[1], state[2]]) / 6
    parts = shapley(*(np.array([v]) for v in values))
    size = max(energy) * max(g.values())
    assert [parts.energy[0], parts.spatial[0], parts.temporal[0]] == pytest.approx(mean.tolist(), abs=1e-12 * size)
    total = parts.energy[0] + parts.spatial[0] + parts.temporal[0]
    assert total == pytest.approx(e_cf * ga0 - e_act * gb1, abs=1e-9 * size)


@given(st.lists(st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)), min_size=3, max_size=5))
def test_lmdi_and_shapley_product_leave_no_residual(pairs):
    before, after = (np.array([[p[i] for p in pairs]]) for i in (0, 1))
    whole, size = before.prod() - after.prod(), max(before.prod(), after.prod())
    assert lmdi(before, after)[0].sum() == pytest.approx(whole, abs=1e-9 * size)
    assert shapley_product(before, after).sum() == pytest.approx(whole, abs=1e-9 * size)


@pytest.mark.parametrize("nearly", [0.0, 1e-15, 1e-9, 1e-7, 2e-6])
def test_lmdi_holds_where_nothing_or_next_to_nothing_changes(nearly):
    before = np.array([[10.0, 1.2, 400.0]])
    after = before * np.array([1 + nearly, 1.0, 1 / 1.0])
    parts, _ = lmdi(before, after)
    assert np.isfinite(parts).all()
    assert parts.sum() == pytest.approx(before.prod() - after.prod(), abs=1e-9)


def test_lmdi_guard_takes_shapley_where_an_intensity_is_zero():
    before, after = np.array([[10.0, 1.2, 0.0], [10.0, 1.2, 4.0]]), np.array([[11.0, 1.1, 100.0], [11.0, 1.1, 1.0]])
    parts, guarded = lmdi(before, after)
    assert guarded.tolist() == [True, False]
    assert parts[0] == pytest.approx(shapley_product(before, after)[0].tolist())
    assert parts.sum(axis=1) == pytest.approx((before.prod(axis=1) - after.prod(axis=1)).tolist(), abs=1e-9)


def test_null_action_is_exactly_nothing():
    result = verified([Run("o", "A", "A", 6.3, 5.1, kw=0.37)], signal_of(DAY))
    o = row(result)
    assert o["measured_carbon_delta_kg"] == 0.0
    assert o["carbon_sd_kg"] == 0.0
    assert (o["carbon_bounds_lower"], o["carbon_bounds_upper"]) == (0.0, 0.0)
    assert result.sensitivities.num_rows == 0
    assert o["verification_status"] == "inconclusive"


def test_pure_time_shift_vector():
    # 1 kWh at the meter over four hours, six hours later.
    o = row(verified([Run("o", "A", "A", 12, 4, 6, kw=0.25 / 1.1)], signal_of(DAY)))
    assert o["measured_carbon_delta_kg"] * 1000 == pytest.approx(-183.89, abs=1e-9)
    assert o["temporal_savings_kg"] * 1000 == pytest.approx(183.89, abs=1e-9)
    assert o["seed_savings_kg"] == 0.0


def test_both_moves_vector_and_the_seed_term():
    o = row(verified([Run("o", "A", "B", 12, 4, 6, kw=0.25 / 1.1)], signal_of(DAY)))
    assert -o["measured_carbon_delta_kg"] * 1000 == pytest.approx(378.60, abs=1e-9)
    assert o["spatial_savings_kg"] * 1000 == pytest.approx(260.33, abs=1e-9)
    assert o["temporal_savings_kg"] * 1000 == pytest.approx(118.27, abs=1e-9)
    assert o["energy_savings_kg"] == pytest.approx(0.0, abs=1e-15)
    assert o["seed_savings_kg"] * 1000 == pytest.approx(194.71, abs=1e-9)


def test_a_run_is_integrated_and_not_read_at_one_instant():
    signal = signal_of({"A": [500, 100, 100, 100] + [300] * 20, "B": [50] * 23 + [51]})
    o = row(verified([Run("o", "A", "B", 0, 4, kw=1.0)], signal))
    assert -o["measured_carbon_delta_kg"] == pytest.approx(1.1 * (0.8 - 0.2))
    at_one_instant = 4 * 1.1 * (0.5 - 0.05)
    assert at_one_instant > 2.9 * -o["measured_carbon_delta_kg"]


def test_shifts_that_are_no_whole_hours_meet_both_clocks():
    # Actual 01:15-01:45; forty minutes earlier it would have run 00:35-01:05: 25 min at 500 g, 5 min at 100 g.
    signal = signal_of({"A": [500, 100] + [300] * 22})
    o = row(verified([Run("o", "A", "A", 1.25, 0.5, 40 / 60, kw=2.0)], signal))
    assert o["counterfactual_carbon_kg"] == pytest.approx(1.1 * (0.5 * 25 + 0.1 * 5) / 30)
    assert o["actual_carbon_kg"] == pytest.approx(1.1 * 0.1)


@given(
    st.lists(
        st.tuples(st.integers(0, 10 * HOUR_US), st.integers(0, 5 * HOUR_US), st.integers(-4 * HOUR_US, 4 * HOUR_US)),
        min_size=1,
        max_size=20,
    )
)
def test_pieces_cover_their_slice_and_stay_inside_an_hour_of_each_clock(cases):
    start, length, shift = (np.array(v, dtype=np.int64) for v in zip(*cases, strict=True))
    at, begin, until = split_at_hours(start, start + length, shift)
    assert np.bincount(at, until - begin, len(start)).tolist() == length.tolist()
    assert sorted(set(at.tolist())) == list(range(len(start)))
    for clock in (0, shift[at]):
        first, last = (begin - clock) // HOUR_US, (until - clock - 1) // HOUR_US
        assert (np.maximum(last, first) == first).all()
    followed = at[1:] == at[:-1]
    assert (begin[1:][followed] == until[:-1][followed]).all()


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("AB"), st.sampled_from("AB"), st.floats(6, 12), st.floats(0.1, 5), st.floats(-5, 5),
            st.floats(0.5, 2),
        ),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_every_split_adds_up(cases):
    runs = [Run("o", *c[:5], ratio=c[5], pue_before=1.3) for c in cases]
    o = row(verified(runs, signal_of(DAY), draws=40))
    gross = o["counterfactual_carbon_kg"] - o["actual_carbon_kg"]
    size = o["counterfactual_carbon_kg"] + o["actual_carbon_kg"]
    for names in (("spatial", "temporal", "energy"), ("usage", "pue", "intensity")):
        assert sum(o[f"{n}_savings_kg"] for n in names) == pytest.approx(gross, abs=1e-9 * size)
    assert -o["measured_carbon_delta_kg"] == pytest.approx(gross - o["leakage_kg"])


def test_zero_intensity_is_a_number_and_the_row_says_which_split_it_took():
    o = row(verified([Run("o", "A", "B", 1, 2)], signal_of({"A": [100] * 23 + [101], "B": [0] * 23 + [1]})))
    assert o["decomposition_method"] == "shapley;shapley (lmdi guard)"
    assert -o["measured_carbon_delta_kg"] == pytest.approx(0.22)
    assert o["intensity_savings_kg"] == pytest.approx(0.22)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_kg_and_g_say_the_same(scale):
    runs = [Run("o", "A", "B", 12, 4, 6), Run("p", "A", "A", 7, 2.5, -3.3)]
    base, scaled = (verified([replace(r, kw=r.kw * f) for r in runs], signal_of(DAY)) for f in (1, scale))
    for name in base.outcomes.column_names:
        if name.endswith(("_kg", "_lower", "_upper")) and not name.startswith(("plan", "claimed", "conseq")):
            ours, theirs = base.outcomes[name].to_numpy(), scaled.outcomes[name].to_numpy()
            assert theirs == pytest.approx(ours * scale, rel=1e-9, abs=1e-15 * scale), name
    for name in ("verification_status", "uncertainty_method"):
        assert base.outcomes[name].to_pylist() == scaled.outcomes[name].to_pylist()


def test_leakage_is_taken_off_and_named():
    energy = {"energy_kwh": 2.0, "region": "B", "at": START, "factor_key": "power/network"}
    factors = {**named_factors(FactorSet.from_table(shipped_factors()), ["power/network"])}

    leak = leakage_table(["o"], egress=energy, retries={"kg": 0.01, "factor_key": POWER})
    o = row(verified([Run("o", "A", "B", 12, 4)], signal_of(DAY), factors | factors_of("A", "B"), leakage=leak))
    first_hour = DAY["B"][0] / 1000
    assert o["leakage_kg"] == pytest.approx(2.0 * first_hour + 0.01)
    net = o["counterfactual_carbon_kg"] - o["actual_carbon_kg"] - o["leakage_kg"]
    assert -o["measured_carbon_delta_kg"] == pytest.approx(net)
    assert '"warm_up":"none in this case"' in o["leakage_detail"]
    assert '"retries":0.01' in o["leakage_detail"]
    assert '"power/network":' in o["sensitivities"]


def test_mixed_signals_raise():
    average, marginal = signal_of(DAY), signal_of(DAY, signal="marginal")
    inputs = read(claim_table(["o"]), slice_table([Run("o", "A", "B", 1, 1)]), leakage_table(["o"]), average)
    for other in (marginal, signal_of(DAY, method="direct")):
        with pytest.raises(MixedSignalsError, match="use one signal"):
            cut(inputs.slices, average, other)
    with pytest.raises(MixedSignalsError, match="marginal"):
        verified([Run("o", "A", "B", 1, 1)], average, consequential=average)
    assert cut(inputs.slices, average, signal_of(DAY)).outcome.tolist() == [0]


def test_a_slice_that_ends_before_it_starts_raises():
    slices = slice_table([Run("o", "A", "B", 1, 1)])
    slices = slices.set_column(3, "ended_at", slices["started_at"])
    slices = slices.set_column(2, "started_at", pa.array([START.replace(hour=23)], TIMESTAMP))
    with pytest.raises(SliceError, match="before it starts"):
        verified([Run("o", "A", "B", 1, 1)], signal_of(DAY), slices=slices)


def test_consequential_stands_beside_and_changes_nothing():
    runs = [Run("o", "A", "B", 12, 4, 6)]
    alone = verified(runs, signal_of(DAY))
    marginal = signal_of({k: [2 * v for v in day] for k, day in DAY.items()}, signal="marginal")
    both = verified(runs, signal_of(DAY), consequential=marginal)
    assert row(both)["consequential_delta_kg"] == pytest.approx(2 * row(alone)["measured_carbon_delta_kg"])
    assert row(both)["consequential_signal"] == "marginal/lifecycle"
    beside = {"consequential_delta_kg", "consequential_signal"}
    assert both.outcomes.drop_columns(list(beside)).equals(alone.outcomes.drop_columns(list(beside)))
    assert both.sensitivities.equals(alone.sensitivities)


def test_consequential_is_null_where_an_hour_or_a_leaked_energy_is_not_known():
    runs = [Run("o", "A", "B", 12, 4, 6)]
    short = signal_of({"A": DAY["A"][:13], "B": DAY["B"][:13]}, signal="marginal")
    assert row(verified(runs, signal_of(DAY), consequential=short))["consequential_delta_kg"] is None
    leak = leakage_table(["o"], retries={"kg": 0.01, "factor_key": POWER})
    marginal = signal_of(DAY, signal="marginal")
    assert row(verified(runs, signal_of(DAY), leakage=leak, consequential=marginal))["consequential_delta_kg"] is None


def grid_rows(days: dict[str, list[float]]) -> pa.Table:
    rows = [(r, h, g / 1000) for r, day in days.items() for h, g in enumerate(day)]
    n = len(rows)
    return GRID_INTENSITY.conform(
        pa.table(
            {
                "ts": pa.array([(FIRST_HOUR + h) * HOUR_US for _, h, _ in rows]).cast(TIMESTAMP),
                "region": [r for r, _, _ in rows],
                "intensity_kgco2_kwh": [g for _, _, g in rows],
                "source": ["file"] * n,
                "signal": ["average"] * n,
                "method": ["lifecycle"] * n,
                "estimated": [False] * n,
                "quality": ["ok"] * n,
                "system_rel_lower": [0.8] * n,
                "system_rel_upper": [1.25] * n,
                "hour_rel_lower": [0.95] * n,
                "hour_rel_upper": [1.05] * n,
            }
        )
    )


@pytest.mark.parametrize("method", ["simple/v1", "instance-power/v1"])
def test_the_actual_side_is_what_the_accountant_booked(method):
    grid = grid_rows({"us-east-1": DAY["A"], "eu-north-1": DAY["B"]})
    factors = FactorSet.from_table(shipped_factors())
    starts = [FIRST_HOUR * HOUR_US + h * HOUR_US for h in (12, 13, 14)]
    n = len(starts)
    ledger = ACTIVITY_LEDGER.conform(
        {
            **{c.name: pa.nulls(n, c.type) for c in ACTIVITY_LEDGER.stored if c.nullable},
            **{c.name: [""] * n for c in ACTIVITY_LEDGER.stored if not c.nullable and pa.types.is_string(c.type)},
            **{c.name: [0.0] * n for c in ACTIVITY_LEDGER.stored if not c.nullable and pa.types.is_floating(c.type)},
            "activity_id": [f"a{i}" for i in range(n)],
            "job_id": ["job"] * n,
            "cloud_provider": ["aws"] * n,
            "region": ["eu-north-1"] * n,
            "instance_type": ["m5.2xlarge"] * n,
            "resource_type": ["compute"] * n,
            "started_at": pa.array(starts).cast(TIMESTAMP),
            "ended_at": pa.array([s + HOUR_US // 2 for s in starts]).cast(TIMESTAMP),
            "usage_hours": [0.5] * n,
            "vcpus": [8.0] * n,
            "vcpu_hours": [4.0] * n,
            "quality": ["ok"] * n,
        }
    )
    booked = account(ledger, grid, factors, method=method, instances=instances())
    assert booked["kg_location"].null_count == 0
    stem = "simple/v1/" if method == "simple/v1" else ""
    slices = pa.table(
        {
            "outcome_id": ["o"] * n,
            "run_id": booked["job_id"],
            "started_at": booked["started_at"],
            "ended_at": booked["ended_at"],
            "energy_kwh": booked["energy_kwh"],
            "region_before": ["us-east-1"] * n,
            "region_after": booked["region"],
            "shift_us": [5 * HOUR_US + 7] * n,
            "pue_before": [1.14] * n,
            "pue_after": booked["pue"],
            "power_factor_key": booked["power_factor_key"],
            "provider_pue_factor_key": booked["provider_pue_factor_key"],
            "region_pue_factor_key": booked["region_pue_factor_key"],
            "provider_pue_factor_key_before": booked["provider_pue_factor_key"],
            "region_pue_factor_key_before": [f"pue/{stem}aws/us-east-1"] * n,
            "kg_location": booked["kg_location"],
        }
    )
    keys = {k for c in slices.column_names if c.endswith(("_key", "_key_before")) for k in slices[c].to_pylist()}
    result = verified([Run("o", "", "", 0, 1)], signal_matrix(grid), named_factors(factors, keys), slices=slices)
    o = row(result)
    assert o["reason"] is None
    assert o["actual_carbon_kg"] == pytest.approx(sum(booked["kg_location"].to_pylist()), rel=1e-12)
    grid_keys = set(booked["grid_system_factor_key"].to_pylist()) | set(booked["grid_hour_factor_key"].to_pylist())
    assert grid_keys <= set(result.sensitivities["factor_key"].to_pylist())


def test_a_grid_table_becomes_a_matrix_with_its_gaps_and_boxes():
    rows = grid_rows({"A": [1.0, 2.0, 3.0], "B": [4.0, 5.0, 6.0]}).slice(0, 5)
    signal = signal_matrix(rows)
    assert (signal.signal, signal.method, signal.regions, signal.first_hour) == (
        "average",
        "lifecycle",
        ("A", "B"),
        FIRST_HOUR,
    )
    assert np.nan_to_num(signal.intensity * 1000).tolist() == pytest.approx(np.array([[1, 2, 3], [4, 5, 0]]))
    assert (signal.system_lower[0].tolist(), signal.hour_upper[1].tolist()) == ([0.8] * 3, [1.05, 1.05, 1.0])
    assert signal.hour_keys(np.array([4])) == ["grid/B/2026-03-02T01Z"]
    with pytest.raises(LedgerError, match="holds no marginal intensity"):
        signal_matrix(rows, signal="marginal")
    direct = rows.set_column(rows.column_names.index("method"), "method", pa.array(["direct"] * 5)).cast(rows.schema)
    with pytest.raises(LedgerError, match="choose one"):
        signal_matrix(pa.concat_tables([rows, direct]))
    assert signal_matrix(pa.concat_tables([rows, direct]), method="direct").method == "direct"


def test_names_used_here_are_those_of_the_accountant():
    factors = FactorSet.from_table(shipped_factors())
    keys = [POWER, PROVIDER, site("us-east-1")]
    assert set(named_factors(factors, [*keys, "power/none"])) == set(keys)
