from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from accountant_tables import HOUR, T0, ledger, ledger_row
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.accountant import account
from sust_dagster.agents.accountant.grid import (
    LAST_KNOWN_BOXES,
    SOURCE_SCHEMA,
    GridDataError,
    check_values,
    normalise,
    zones_to_regions,
)
from sust_dagster.reference import region_zones
from sust_dagster.world.schemas import GRID_INTENSITY


def source(values: dict[datetime, float], region: str = "us-east-1", **columns) -> pa.Table:
    rows = [
        {
            "ts": ts,
            "region": region,
            "intensity_g_per_kwh": g,
            "signal": "average",
            "method": "lifecycle",
            "estimated": False,
            "quality": "ok",
            "source": "test",
            **columns,
        }
        for ts, g in values.items()
    ]
    return pa.Table.from_pylist(rows, SOURCE_SCHEMA)


def hours(*grams: float | None) -> dict[datetime, float]:
    return {T0 + i * HOUR: g for i, g in enumerate(grams) if g is not None}


def run(table: pa.Table, n: int = 4, regions=("us-east-1",), **options):
    return normalise(table, start=T0, end=T0 + n * HOUR, regions=list(regions), **options)


def test_hours_pass_through_in_kg():
    done = run(source(hours(100, 200, 300, 400)))
    assert done.table.schema.equals(GRID_INTENSITY.arrow)
    assert done.table["intensity_kgco2_kwh"].to_pylist() == [0.1, 0.2, 0.3, 0.4]
    assert done.table["quality"].to_pylist() == ["ok"] * 4
    assert done.gaps.num_rows == 0
    row = done.table.to_pylist()[0]
    assert row["intensity_lower"] == pytest.approx(0.1 * 0.8 * 0.95)
    assert row["intensity_upper"] == pytest.approx(0.1 * 1.25 * 1.05)


def test_quarter_hours_become_their_mean_and_say_so():
    quarters = {T0 + timedelta(minutes=15 * i): 100.0 + i for i in range(16)}
    done = run(source(quarters))
    assert done.table["intensity_kgco2_kwh"].to_pylist() == pytest.approx([0.1015, 0.1055, 0.1095, 0.1135])
    assert done.table["quality"].to_pylist() == ["hourly_mean"] * 4


def test_an_hour_that_is_partly_there_says_so():
    quarters = {T0 + timedelta(minutes=15 * i): 100.0 for i in range(16) if i not in (5, 6)}
    assert run(source(quarters)).table["quality"].to_pylist() == [
        "hourly_mean",
        "hourly_mean;partial_hour",
        "hourly_mean",
        "hourly_mean",
    ]


def test_a_gap_is_carried_three_hours_with_a_wider_box_and_no_further():
    done = run(source(hours(100, None, None, None, None, 600)), 6)
    rows = done.table.to_pylist()
    assert [r["intensity_kgco2_kwh"] for r in rows] == [0.1, 0.1, 0.1, 0.1, 0.6]
    assert [r["quality"] for r in rows] == ["ok", *["gap_last_known"] * 3, "ok"]
    assert [r["estimated"] for r in rows] == [False, True, True, True, False]
    for age in (1, 2, 3):
        assert rows[age]["hour_rel_lower"] == pytest.approx(0.95 * LAST_KNOWN_BOXES[age - 1][0])
        assert rows[age]["hour_rel_upper"] == pytest.approx(1.05 * LAST_KNOWN_BOXES[age - 1][1])
    told = [(g["started_at"], g["hours"], g["handled"]) for g in done.gaps.to_pylist()]
    assert told == [(T0 + HOUR, 3, "last_known"), (T0 + 4 * HOUR, 1, "missing")]


def test_every_flag_within_the_hour_is_kept():
    quarters = [
        source({T0 + timedelta(minutes=15 * i): 100.0}, quality="revised" if i == 1 else "ok") for i in range(4)
    ]
    assert run(pa.concat_tables(quarters), 1).table["quality"].to_pylist() == ["revised;hourly_mean"]


def test_nothing_is_ever_interpolated():
    done = run(source(hours(100, None, 300, 400)))
    assert 0.2 not in done.table["intensity_kgco2_kwh"].to_pylist()


def test_flag_missing_leaves_the_hour_out_and_its_emissions_null(factors):
    done = run(source(hours(100, None, 300, 400)), gap_policy="flag_missing")
    assert done.table.num_rows == 3
    assert [(g["hours"], g["handled"]) for g in done.gaps.to_pylist()] == [(1, "missing")]
    rows = [ledger_row(i, started_at=T0 + i * HOUR) for i in range(3)]
    emissions = account(ledger(*rows), done.table, factors).to_pylist()
    assert [e["kg_location"] is None for e in emissions] == [False, True, False]
    assert "no_intensity" in emissions[1]["quality"].split(";")


def test_a_gap_at_the_start_is_filled_from_before_the_range():
    before = source({T0 - HOUR: 90.0} | hours(None, 200))
    done = run(before, 2)
    assert done.table["intensity_kgco2_kwh"].to_pylist() == [0.09, 0.2]
    assert done.table["ts"].to_pylist()[0] == T0


def test_a_region_without_data_is_one_gap():
    done = run(source(hours(1000, 1000, 1000, 1000)), regions=["us-east-1", "nowhere"])
    assert done.gaps.to_pylist() == [
        {
            "region": "nowhere",
            "signal": None,
            "method": None,
            "started_at": T0,
            "ended_at": T0 + 4 * HOUR,
            "hours": 4,
            "handled": "missing",
        }
    ]


def test_no_data_at_all_is_a_gap_not_an_error():
    done = run(SOURCE_SCHEMA.empty_table())
    assert done.table.num_rows == 0
    assert done.gaps["hours"].to_pylist() == [4]


@pytest.mark.parametrize(("second", "kind"), [(200.0, "duplicate of row 1"), (210.0, "conflicting duplicate of row 1")])
def test_duplicates_are_refused_with_their_row(second, kind):
    doubled = pa.concat_tables([source(hours(100, 200)), source({T0 + HOUR: second})])
    with pytest.raises(GridDataError, match=f"row 2.*{kind}"):
        run(doubled)


@pytest.mark.parametrize(
    ("grams", "said"),
    [(-1.0, "negative"), (float("nan"), "not a finite"), (float("inf"), "not a finite"), (3000.1, "above 3000")],
)
def test_values_no_grid_has_are_refused_with_their_row(grams, said):
    with pytest.raises(GridDataError, match=said) as refusal:
        run(source(hours(100, 200, grams)))
    assert refusal.value.row == 2
    assert refusal.value.column == "intensity_g_per_kwh"


def test_kg_where_grams_belong_are_refused_with_the_remedy():
    with pytest.raises(GridDataError, match=r"looks like kg/kWh.*multiply by 1000"):
        run(source(hours(0.1, 0.2, 0.35)))


def test_a_clean_hour_among_others_is_no_unit_error():
    check_values(np.array([0.0, 0.5, 12.0]))


def test_a_clean_direct_hour_of_zero_stays_zero():
    row = run(source(hours(0.0, 200))).table.to_pylist()[0]
    assert row["intensity_kgco2_kwh"] == 0.0
    assert row["intensity_lower"] == 0.0


def test_bounds_of_the_source_are_split_between_system_and_hour():
    row = run(source(hours(100), lower=81.0, upper=144.0)).table.to_pylist()[0]
    assert row["system_rel_lower"] == row["hour_rel_lower"] == pytest.approx(0.9)
    assert row["system_rel_upper"] == row["hour_rel_upper"] == pytest.approx(1.2)
    assert row["intensity_lower"] == pytest.approx(0.081)
    assert row["intensity_upper"] == pytest.approx(0.144)


def test_bounds_that_do_not_hold_the_value_are_refused():
    with pytest.raises(GridDataError, match="outside its bounds"):
        run(source(hours(100), lower=110.0, upper=120.0))


def test_boxes_of_the_source_are_kept():
    given_boxes = {"system_rel_lower": 0.7, "system_rel_upper": 1.4, "hour_rel_lower": 0.9, "hour_rel_upper": 1.2}
    row = run(source(hours(100), **given_boxes)).table.to_pylist()[0]
    assert {k: row[k] for k in given_boxes} == pytest.approx(given_boxes)


def test_an_estimated_hour_keeps_its_flag_and_has_a_wider_box():
    row = run(source(hours(100), estimated=True)).table.to_pylist()[0]
    assert row["estimated"]
    assert row["quality"] == "estimated"
    assert row["hour_rel_upper"] == 1.25


def test_two_signals_stay_apart():
    both = pa.concat_tables([source(hours(100, 100)), source(hours(700, 700), signal="marginal")])
    assert run(both, 2).table["intensity_kgco2_kwh"].to_pylist() == [0.1, 0.7, 0.1, 0.7]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": T0, "end": T0}, "holds no hour"),
        ({"start": T0 + timedelta(minutes=1), "end": T0 + HOUR}, "start of an hour"),
        ({"start": T0.replace(tzinfo=None), "end": T0 + HOUR}, "no time zone"),
        ({"start": T0, "end": T0 + HOUR, "max_gap_hours": 4}, "between 1 and 3"),
    ],
)
def test_a_bad_range_is_refused(options, said):
    with pytest.raises(GridDataError, match=said):
        normalise(source(hours(100)), regions=["us-east-1"], **options)


def test_a_missing_column_is_named():
    with pytest.raises(GridDataError, match="signal"):
        run(source(hours(100)).drop_columns(["signal"]))


@given(st.permutations(range(12)), st.sets(st.integers(0, 11), max_size=6))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_source_does_not_matter(order, missing):
    table = source({T0 + i * HOUR: 50.0 + i for i in range(12) if i not in missing})
    rows = [i for i in order if i < table.num_rows]
    straight, shuffled = run(table, 12), run(table.take(pa.array(rows, pa.int64())), 12)
    assert shuffled.table.equals(straight.table)
    assert shuffled.gaps.equals(straight.gaps)
    # Every hour is reported, filled or told.
    told = straight.gaps.to_pylist()
    assert straight.table.num_rows + sum(g["hours"] for g in told if g["handled"] == "missing") == 12


def by_zone(zone: str) -> pa.Table:
    table = source(hours(100, 200))
    place = table.column_names.index("zone")
    return table.set_column(place, "zone", pa.array([zone] * 2)).set_column(1, "region", pa.array(["", ""]))


def test_zones_become_regions():
    done = zones_to_regions(by_zone("US-MIDA-PJM"), region_zones(), ["us-east-1", "us-east4", "eastus", "eu-west-1"])
    assert sorted(set(done["region"].to_pylist())) == ["eastus", "us-east-1", "us-east4"]
    assert set(done["quality"].to_pylist()) == {"ok"}


def test_oregon_takes_pacificorp_first_and_says_when_it_cannot():
    both = pa.concat_tables([by_zone("US-NW-PACW"), by_zone("US-NW-BPAT")])
    assert set(zones_to_regions(both, region_zones(), ["us-west-2"])["zone"].to_pylist()) == {"US-NW-PACW"}
    other = zones_to_regions(by_zone("US-NW-BPAT"), region_zones(), ["us-west-2"])
    assert set(other["quality"].to_pylist()) == {"zone_alternate"}
