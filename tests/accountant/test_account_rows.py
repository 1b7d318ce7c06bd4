"""What a row must keep: bounds around its value, its own hour, honest gaps, refusals."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from accountant_tables import HOUR, T0, grid_rows, ledger, ledger_row
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.accountant import (
    FactorSet,
    LedgerError,
    account,
    account_batches,
    account_stream,
    named_factor,
    prepare,
)
from sust_dagster.reference import instances, shipped_factors
from sust_dagster.world.schemas import EMISSIONS

FACTORS = FactorSet.from_table(shipped_factors())
REGIONS = ("us-east-1", "eu-north-1", "ap-south-1")
HOURS = 48
#: Every region and hour different, so that a slice that meets a wrong hour is seen.
VALUES = {r: [round(0.05 + 0.01 * i + 0.002 * h, 6) for h in range(HOURS)] for i, r in enumerate(REGIONS)}
GRID = grid_rows(VALUES)
METHODS = ("simple/v1", "instance-power/v1")

slices = st.lists(
    st.fixed_dictionaries(
        {
            "region": st.sampled_from(REGIONS),
            "hour": st.integers(0, HOURS - 1),
            "vcpus": st.floats(0.25, 512),
            "gpus": st.sampled_from([0.0, 1.0, 8.0]),
            "used": st.floats(0.01, 1.0),
            "load": st.none() | st.floats(0, 1),
            "correction": st.booleans(),
            "type": st.sampled_from(["m5.large", "p4d.24xlarge", "c7g.xlarge", "nobody.knows", None]),
        }
    ),
    min_size=1,
    max_size=30,
)


def table(drawn: list[dict]) -> pa.Table:
    rows = []
    for i, s in enumerate(drawn):
        sign = -1 if s["correction"] else 1
        started = T0 + s["hour"] * HOUR
        rows.append(
            ledger_row(
                i,
                region=s["region"],
                started_at=started,
                ended_at=started + timedelta(hours=s["used"]),
                vcpus=s["vcpus"],
                gpus=s["gpus"],
                usage_hours=s["used"],
                vcpu_hours=sign * s["vcpus"] * s["used"],
                gpu_hours=sign * s["gpus"] * s["used"],
                resource_qty=sign * s["vcpus"] * s["used"],
                utilisation=s["load"],
                instance_type=s["type"],
                memory_gib=None,
            )
        )
    return ledger(*rows)


def numbers(emissions: pa.Table, *names: str) -> list[np.ndarray]:
    return [emissions[n].to_numpy() for n in names]


@pytest.mark.parametrize("method", METHODS)
@given(drawn=slices)
@settings(max_examples=40, deadline=None)
def test_every_bound_holds_its_point(method, drawn):
    emissions = account(table(drawn), GRID, FACTORS, method=method, instances=instances())
    for name in ("kg_location", "kg_market", "kg_embodied"):
        value, lower, upper = numbers(emissions, name, f"{name}_lower", f"{name}_upper")
        known = ~np.isnan(value)
        assert (lower[known] <= value[known]).all()
        assert (value[known] <= upper[known]).all()


@pytest.mark.parametrize("method", METHODS)
@given(drawn=slices, scale=st.floats(0.001, 1000))
@settings(max_examples=25, deadline=None)
def test_units_are_homogeneous(method, drawn, scale):
    """k times the work, or a k times dirtier grid, is k times the kg, bounds too."""
    small = account(table(drawn), GRID, FACTORS, method=method, instances=instances())
    rows = table(drawn)
    for name in ("vcpu_hours", "gpu_hours", "resource_qty", "usage_hours"):
        rows = rows.set_column(rows.column_names.index(name), name, pc.multiply(rows[name], scale))
    dirtier = grid_rows({r: [v * scale for v in values] for r, values in VALUES.items()})
    for other in (
        account(rows, GRID, FACTORS, method=method, instances=instances()),
        account(table(drawn), dirtier, FACTORS, method=method, instances=instances()),
    ):
        for name in ("kg_location", "kg_location_lower", "kg_location_upper"):
            a, b = numbers(small, name)[0], numbers(other, name)[0]
            np.testing.assert_allclose(b, a * scale, rtol=1e-9, equal_nan=True)


@given(drawn=slices, seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_order_does_not_matter(drawn, seed):
    rows = table(drawn)
    order = pa.array(np.random.default_rng(seed).permutation(rows.num_rows))
    straight = account(rows, GRID, FACTORS, instances=instances())
    shuffled = account(rows.take(order), GRID, FACTORS, instances=instances())
    assert shuffled.equals(straight.take(order))


@given(drawn=slices)
@settings(max_examples=25, deadline=None)
def test_a_slice_meets_its_own_hour(drawn):
    emissions = account(table(drawn), GRID, FACTORS)
    expected = [VALUES[s["region"]][s["hour"]] for s in drawn]
    assert emissions["intensity_kgco2_kwh"].to_pylist() == expected
    keys = [f"grid/{s['region']}/{(T0 + s['hour'] * HOUR).strftime('%Y-%m-%dT%HZ')}" for s in drawn]
    assert emissions["grid_hour_factor_key"].to_pylist() == keys


def test_the_next_hour_would_be_seen():
    rows = ledger(ledger_row(started_at=T0 + 5 * HOUR))
    shifted = grid_rows({r: values[1:] for r, values in VALUES.items()})
    here = account(rows, GRID, FACTORS)["kg_location"][0].as_py()
    assert account(rows, shifted, FACTORS)["kg_location"][0].as_py() != here


@pytest.mark.parametrize("method", METHODS)
def test_the_box_is_the_product_of_the_named_factors(method):
    rows = table(
        [
            {"region": r, "hour": 3, "vcpus": 4, "gpus": g, "used": 0.5, "load": u, "correction": False, "type": t}
            for r in REGIONS
            for g in (0.0, 1.0)
            for u in (None, 0.3)
            for t in ("m5.large", "p4d.24xlarge", None)
        ]
    )
    for row in account(rows, GRID, FACTORS, method=method, instances=instances()).to_pylist():
        low, high = 0.8 * 0.95, 1.25 * 1.05
        for key in ("power_factor_key", "provider_pue_factor_key", "region_pue_factor_key"):
            factor = named_factor(FACTORS, row[key])
            low, high = low * factor.rel_lower, high * factor.rel_upper
            assert factor.log_sd > 0
        assert row["kg_location_lower"] == pytest.approx(row["kg_location"] * low, rel=1e-12)
        assert row["kg_location_upper"] == pytest.approx(row["kg_location"] * high, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_correction_undoes_its_row(method):
    usage, correction = ledger_row(0), ledger_row(1, resource_qty=-0.8, charge_class="correction")
    for signs in ({}, {"vcpu_hours": -0.8, "usage_hours": -0.2}):
        rows = account(
            ledger(usage, correction | signs), GRID, FACTORS, method=method, instances=instances()
        ).to_pylist()
        for name in ("energy_kwh", "facility_kwh", "kg_location", "kg_market", "kg_embodied"):
            assert rows[1][name] == -rows[0][name]
        assert rows[1]["kg_location_lower"] == -rows[0]["kg_location_upper"]
        assert rows[1]["kg_location_upper"] == -rows[0]["kg_location_lower"]


def flags(row: dict) -> set[str]:
    return set(row["quality"].split(";"))


@pytest.mark.parametrize(
    ("columns", "flag", "null"),
    [
        ({"region": "unknown"}, "no_intensity", "kg_location"),
        ({"started_at": T0 - HOUR}, "no_intensity", "kg_location"),
        ({"resource_type": "other"}, "no_energy_model", "energy_kwh"),
        (
            {"vcpus": None, "vcpu_hours": None, "instance_type": "nobody.knows", "resource_unit": "count"},
            "no_energy_model",
            "energy_kwh",
        ),
        ({"resource_type": "storage", "resource_unit": "requests"}, "no_energy_model", "energy_kwh"),
        ({"instance_type": "nobody.knows"}, "no_embodied_model", "kg_embodied"),
    ],
)
def test_what_is_missing_is_null_and_named_never_zero(columns, flag, null):
    row = account(ledger(ledger_row(**columns)), GRID, FACTORS, instances=instances()).to_pylist()[0]
    assert row[null] is None
    assert flag in flags(row)
    if flag != "no_embodied_model":
        assert row["kg_location"] is None
        assert row["kg_location_lower"] is None


def test_a_region_without_pue_has_no_kg():
    row = account(
        ledger(ledger_row(cloud_provider="oci", utilisation=0.5)),
        GRID,
        FACTORS,
        method="instance-power/v1",
        instances=instances(),
    ).to_pylist()[0]
    assert row["energy_kwh"] > 0
    assert row["facility_kwh"] is None
    assert row["kg_location"] is None
    assert "no_pue" in flags(row)


@pytest.mark.parametrize(
    ("columns", "flag"),
    [
        ({"utilisation": None}, "utilisation_default"),
        ({"instance_type": "nobody.knows"}, "unknown_family"),
        ({"gpus": 1.0, "gpu_hours": 0.2, "gpu_model": "Acme X1"}, "unknown_gpu"),
        ({"instance_type": None, "memory_gib": None}, "memory_not_counted"),
        ({"region": "eu-west-2"}, "pue_provider_average"),
    ],
)
def test_what_is_assumed_is_named_and_widens_the_box(columns, flag):
    grid = grid_rows({"us-east-1": [0.3], "eu-west-2": [0.3]})
    known = ledger_row(0, utilisation=0.5)
    both = account(
        ledger(known, known | {"activity_id": "b"} | columns),
        grid,
        FACTORS,
        method="instance-power/v1",
        instances=instances(),
    )
    plain, assumed = both.to_pylist()
    assert flags(plain) == {"ok"}
    assert flag in flags(assumed)
    if flag != "memory_not_counted":
        width = [r["kg_location_upper"] / r["kg_location_lower"] for r in (plain, assumed)]
        assert width[1] > width[0]


def test_an_accelerator_without_figures_has_no_energy_by_instance_power():
    row = ledger_row(instance_type="trn1.32xlarge", vcpus=128.0, vcpu_hours=25.6, utilisation=0.5)
    powered = account(ledger(row), GRID, FACTORS, method="instance-power/v1", instances=instances()).to_pylist()[0]
    assert powered["energy_kwh"] is None
    assert "accelerator_not_modelled" in flags(powered)
    simple = account(ledger(row), GRID, FACTORS, instances=instances()).to_pylist()[0]
    assert simple["energy_kwh"] == pytest.approx(25.6 * 0.005)
    assert "accelerator_not_modelled" in flags(simple)


def test_a_small_gpu_is_outside_the_simple_box():
    row = ledger_row(instance_type="g4dn.xlarge", gpus=1.0, gpu_hours=0.2, gpu_model=None)
    assert "gpu_outside_bound" in flags(account(ledger(row), GRID, FACTORS, instances=instances()).to_pylist()[0])
    big = row | {"instance_type": "p4d.24xlarge"}
    assert "gpu_outside_bound" not in flags(account(ledger(big), GRID, FACTORS, instances=instances()).to_pylist()[0])


def test_ledger_and_grid_flags_are_kept():
    grid = grid_rows({"us-east-1": [0.3]}, quality="gap_last_known;estimated")
    row = account(ledger(ledger_row(quality="shaped;estimated")), grid, FACTORS, instances=instances()).to_pylist()[0]
    assert row["quality"] == "shaped;estimated;gap_last_known"
    assert row["grid_quality"] == "gap_last_known;estimated"


def test_an_open_end_is_closed_and_said():
    row = account(ledger(ledger_row(ended_at=None)), GRID, FACTORS).to_pylist()[0]
    assert row["ended_at"] == T0 + HOUR
    assert "open_end" in flags(row)


def test_counts_come_from_the_instance_when_the_bill_is_silent():
    columns = {"vcpus": None, "vcpu_hours": None, "gpus": None, "gpu_hours": None, "instance_type": "db.m5.xlarge"}
    row = account(
        ledger(ledger_row(**columns, resource_unit="count")), GRID, FACTORS, instances=instances()
    ).to_pylist()[0]
    assert row["vcpu_hours"] == pytest.approx(0.8)
    assert row["kg_embodied"] > 0


def test_a_slice_over_two_hours_is_refused():
    long = ledger_row(7, ended_at=T0 + 2 * HOUR)
    with pytest.raises(LedgerError, match=r"row 1 \(activity-7\).*split it"):
        account(ledger(ledger_row(), long), GRID, FACTORS)


def test_a_percentage_as_utilisation_is_refused():
    with pytest.raises(LedgerError, match="fraction"):
        account(ledger(ledger_row(utilisation=55.0)), GRID, FACTORS, method="instance-power/v1", instances=instances())


def test_a_missing_ledger_column_is_named():
    with pytest.raises(LedgerError, match="started_at"):
        account(ledger(ledger_row()).drop_columns(["started_at"]), GRID, FACTORS)


def test_an_unknown_method_lists_the_known():
    with pytest.raises(ValueError, match=r"simple/v1, instance-power/v1"):
        account(ledger(ledger_row()), GRID, FACTORS, method="guess/v1")


def test_two_intensities_for_one_hour_are_refused():
    with pytest.raises(LedgerError, match="two average intensities for us-east-1 at 2026-01-01T00Z"):
        account(ledger(ledger_row()), pa.concat_tables([GRID, GRID]), FACTORS)


def test_two_grid_methods_need_a_choice():
    both = pa.concat_tables([GRID, grid_rows({"us-east-1": [0.9] * 4}, method="direct")])
    with pytest.raises(LedgerError, match="grid_method"):
        account(ledger(ledger_row()), both, FACTORS)
    chosen = account(ledger(ledger_row()), both, FACTORS, grid_method="direct").to_pylist()[0]
    assert chosen["intensity_kgco2_kwh"] == 0.9


def test_a_marginal_signal_is_no_inventory():
    row = account(ledger(ledger_row()), grid_rows({"us-east-1": [0.9]}, signal="marginal"), FACTORS).to_pylist()[0]
    assert row["kg_location"] is None
    assert "no_intensity" in flags(row)


def test_a_box_that_does_not_hold_one_is_refused():
    with pytest.raises(LedgerError, match="system_rel_lower"):
        account(ledger(ledger_row()), grid_rows({"us-east-1": [0.3]}, system=(1.1, 1.2)), FACTORS)


def test_grid_off_the_hour_is_refused():
    with pytest.raises(LedgerError, match="start of an hour"):
        account(ledger(ledger_row()), grid_rows({"us-east-1": [0.3]}, start=T0 + timedelta(minutes=5)), FACTORS)


def test_nothing_in_nothing_out():
    nothing = account(ledger(ledger_row()).slice(0, 0), GRID, FACTORS, instances=instances())
    assert nothing.num_rows == 0
    assert nothing.schema.equals(EMISSIONS.arrow)
    row = account(ledger(ledger_row()), GRID.slice(0, 0), FACTORS).to_pylist()[0]
    assert row["energy_kwh"] == 0.004
    assert row["kg_location"] is None


INSTRUMENTS = {
    "provider": ["aws", "aws", "gcp"],
    "region": ["us-east-1", None, None],
    "vintage": [2026, 2026, 2025],
    "factor_kg_per_kwh": [0.0, 0.2, 0.1],
    "source": ["hydro certificates", "residual mix", "supplier"],
}


def test_market_based_beside_location_based():
    rows = ledger(
        ledger_row(0), ledger_row(1, region="eu-north-1"), ledger_row(2, region="us-east4", cloud_provider="gcp")
    )
    grid = pa.concat_tables([GRID, grid_rows({"us-east4": [0.4]})])
    own, provider, none = account(rows, grid, FACTORS, instruments=pa.table(INSTRUMENTS)).to_pylist()
    assert own["kg_market"] == 0.0
    assert own["market_basis"] == "hydro certificates (2026)"
    assert provider["kg_market"] == pytest.approx(0.0044 * 0.2)
    assert provider["kg_market_lower"] < provider["kg_market"] < provider["kg_market_upper"]
    assert provider["market_basis"] == "residual mix (2026)"
    # The gcp instrument is of another year: location stands in, and says so.
    assert none["kg_market"] == none["kg_location"]
    assert none["market_basis"] == "location (no instrument)"
    assert own["kg_location"] == account(rows, grid, FACTORS).to_pylist()[0]["kg_location"]


def test_market_correction_is_ordered():
    rows = ledger(ledger_row(0, region="eu-north-1", resource_qty=-0.8))
    bounds = pa.table(INSTRUMENTS | {"factor_lower": [0.0, 0.1, 0.1], "factor_upper": [0.0, 0.3, 0.1]})
    row = account(rows, GRID, FACTORS, instruments=bounds).to_pylist()[0]
    assert row["kg_market_lower"] < row["kg_market"] < row["kg_market_upper"] < 0
    assert row["kg_market_lower"] == pytest.approx(row["kg_market"] * 1.42 * 1.4 / 1.1 * 1.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factor_kg_per_kwh": [0.0, -0.2, 0.1]}, "not usable"),
        ({"region": [None, None, None]}, "two instruments"),
        ({"vintage": [2026, None, 2025]}, "empty cells"),
    ],
)
def test_unusable_instruments_are_refused(change, said):
    with pytest.raises(LedgerError, match=said):
        account(ledger(ledger_row()), GRID, FACTORS, instruments=pa.table(INSTRUMENTS | change))


def test_batches_and_stream_equal_the_whole():
    drawn = [
        {
            "region": REGIONS[i % 3],
            "hour": i % HOURS,
            "vcpus": 1 + i % 7,
            "gpus": float(i % 2),
            "used": 0.5,
            "load": None,
            "correction": i % 11 == 0,
            "type": ["m5.large", None][i % 2],
        }
        for i in range(500)
    ]
    rows = table(drawn)
    whole = account(rows, GRID, FACTORS, instances=instances())
    ready = prepare(GRID, FACTORS, instances=instances())
    parts = [rows.slice(i, 70) for i in range(0, 500, 70)]
    joined = pa.concat_tables([EMISSIONS.conform(t) for t in account_batches(parts, ready)])
    assert joined.equals(whole)
    written: list[pa.Table] = []
    assert account_stream(iter(parts), lambda t: written.append(EMISSIONS.conform(t)), ready) == 500
    assert pa.concat_tables(written).equals(whole)


def test_an_error_ends_the_stream():
    ready = prepare(GRID, FACTORS)

    def source():
        yield ledger(ledger_row())
        raise OSError("disk gone")

    def sink(_: pa.Table) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="gone"):
        account_stream(source(), lambda _: None, ready)
    with pytest.raises(OSError, match="full"):
        account_stream([ledger(ledger_row())], sink, ready)


def test_dictionary_columns_give_the_same():
    drawn = [
        {"region": r, "hour": 1, "vcpus": 2, "gpus": 0.0, "used": 0.5, "load": None, "correction": False, "type": None}
        for r in REGIONS
    ]
    rows = table(drawn)
    coded = pa.table(
        {n: pc.dictionary_encode(rows[n]) if pa.types.is_string(rows[n].type) else rows[n] for n in rows.column_names}
    )
    assert account(coded, GRID, FACTORS).equals(account(rows, GRID, FACTORS))
    chunked = pa.concat_tables([coded.slice(0, 1), coded.slice(1)])
    assert account(chunked, GRID, FACTORS).equals(account(rows, GRID, FACTORS))
