"""Last known good hours: which one stands in, how much wider its box is, and what nothing stands in for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.accountant.known_good import BOXES, FLAG, REACH, stand_in
from sust_dagster.world.schemas import GRID_INTENSITY

DAY = datetime(2026, 1, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


def rows(values: dict[datetime, float], region: str = "us-east-1", quality: str = "ok") -> pa.Table:
    made = [
        {
            "ts": ts, "region": region, "intensity_kgco2_kwh": kg, "intensity_lower": 0.8 * 0.95 * kg,
            "intensity_upper": 1.25 * 1.05 * kg, "source": "file", "zone": "Z", "signal": "average",
            "method": "lifecycle", "estimated": False, "quality": quality, "source_version": "v",
            "system_rel_lower": 0.8, "system_rel_upper": 1.25, "hour_rel_lower": 0.95, "hour_rel_upper": 1.05,
        }
        for ts, kg in values.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(made, GRID_INTENSITY.arrow)


def days(count: int, before: datetime = DAY) -> dict[datetime, float]:
    """Every hour of the days before, each with a value of its own."""
    return {before - h * HOUR: 0.1 + h / 10_000 for h in range(1, 24 * count + 1)}


def test_an_hour_takes_its_own_hour_of_the_day_before_with_a_wider_box() -> None:
    known = days(3)
    made = stand_in(rows(known), DAY, DAY + 24 * HOUR, ["us-east-1"])
    assert made.schema.equals(GRID_INTENSITY.arrow)
    assert made.num_rows == 24
    for row in made.to_pylist():
        kg = known[row["ts"] - 24 * HOUR]
        low, high = 0.95 * BOXES[0][0], 1.05 * BOXES[0][1]
        assert (row["intensity_kgco2_kwh"], row["quality"], row["estimated"]) == (kg, FLAG, True)
        assert (row["hour_rel_lower"], row["hour_rel_upper"]) == (pytest.approx(low), pytest.approx(high))
        assert row["intensity_lower"] == pytest.approx(kg * 0.8 * low)
        assert row["intensity_upper"] == pytest.approx(kg * 1.25 * high)


def test_the_longer_the_outage_the_wider_the_box_until_nothing_stands_in() -> None:
    end = DAY + 16 * 24 * HOUR
    made = stand_in(rows(days(1)), DAY, DAY + 14 * 24 * HOUR, ["us-east-1"]).to_pylist()
    assert len(made) == 14 * 24
    widths = [r["hour_rel_upper"] / r["hour_rel_lower"] for r in made if r["ts"].hour == 5]
    assert widths == sorted(widths) and widths[-1] > 2 * widths[0]
    late = stand_in(rows(days(1)), end - 24 * HOUR, end, ["us-east-1"])
    assert late.num_rows == 0, "older than two weeks is no longer good"


def test_hours_that_are_there_are_never_replaced() -> None:
    known = {**days(2), DAY + 3 * HOUR: 0.9}
    made = stand_in(rows(known), DAY, DAY + 6 * HOUR, ["us-east-1"])
    assert [t.hour for t in made.column("ts").to_pylist()] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("flag", ["gap_last_known", "grid_fallback", FLAG])
def test_a_value_that_stood_in_is_not_carried_on(flag: str) -> None:
    old, new = days(1, DAY - 24 * HOUR), days(1)
    known = pa.concat_tables([rows(old), rows(new, quality=f"estimated;{flag}")])
    made = stand_in(known, DAY, DAY + HOUR, ["us-east-1"])
    assert made.column("intensity_kgco2_kwh").to_pylist() == [old[DAY - 48 * HOUR]]
    assert made.column("hour_rel_upper")[0].as_py() == pytest.approx(1.05 * BOXES[1][1])


def test_what_was_said_of_the_hour_stays_said() -> None:
    made = stand_in(rows(days(1), quality="zone_alternate"), DAY, DAY + HOUR, ["us-east-1"])
    assert made.column("quality").to_pylist() == [f"zone_alternate;{FLAG}"]


def test_regions_without_a_known_hour_stay_missing() -> None:
    assert stand_in(rows(days(2)), DAY, DAY + HOUR, ["eu-west-1"]).num_rows == 0
    assert stand_in(GRID_INTENSITY.empty(), DAY, DAY + HOUR, ["us-east-1"]).num_rows == 0


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=60, unique_by=lambda c: c[0]))
def test_any_cut_of_the_hours_gives_the_same(cells: list[tuple[int, bool]]) -> None:
    """Hour by hour, each over what the hours before it left stored, or the whole range at once."""
    end = DAY + 30 * HOUR
    known = pa.concat_tables(
        [rows({end - h * HOUR: 0.1 + h / 1e4}, quality="ok" if own else "gap_last_known") for h, own in cells]
    )
    whole = stand_in(known, DAY, end, ["us-east-1"])
    stored, parts = known, []
    for k in range(30):
        at = DAY + k * HOUR
        inside = pa.array([at - REACH <= t < at + HOUR for t in stored["ts"].to_pylist()])
        part = stand_in(stored.filter(inside), at, at + HOUR, ["us-east-1"])
        parts.append(part)
        stored = pa.concat_tables([stored, part])
    assert pa.concat_tables(parts).equals(whole)
