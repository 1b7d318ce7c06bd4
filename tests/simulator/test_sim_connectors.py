"""The simulated sources, as the loop meets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sust_dagster.connectors.billing.simulated import SimulatedBilling
from sust_dagster.connectors.grid.protocol import SOURCE_SCHEMA, GridError, GridSource
from sust_dagster.connectors.grid.simulated import SimulatedGrid
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.replay import Replay

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(hours=6)


def test_billing_hands_over_the_bill(cloud: FakeCloud) -> None:
    assert SimulatedBilling(cloud).read(START, END).equals(cloud.focus_rows(START, END))


def test_grid_hands_over_the_observed_signal_only(cloud: FakeCloud) -> None:
    table = SimulatedGrid(cloud).read(START, END, ["eu-west-1", "us-east-1"])
    assert isinstance(SimulatedGrid(cloud), GridSource)
    assert table.schema.equals(SOURCE_SCHEMA)
    rows = table.to_pandas()
    assert len(rows) == 12
    assert set(rows["region"]) == {"eu-west-1", "us-east-1"}
    assert dict(zip(rows["region"], rows["zone"], strict=True)) == {"eu-west-1": "IE", "us-east-1": "US-MIDA-PJM"}
    assert set(rows["signal"]) == {"average"} and set(rows["method"]) == {"lifecycle"}
    assert ((rows["quality"] == "estimated") == rows["estimated"]).all()
    assert set(rows["source_version"]) == {"seed 42"}
    seen = cloud.grid_signal(START, END).to_pandas()
    both = rows.merge(seen, on=["ts", "region"], suffixes=("", "_cloud"))
    assert (both["intensity_g_per_kwh"] == both["intensity_g_per_kwh_cloud"]).all()
    truth = cloud.true_intensity(START, END).to_pandas()
    hidden = rows.merge(truth, on=["ts", "region"], suffixes=("", "_true"))
    assert not (hidden["intensity_g_per_kwh"] == hidden["intensity_g_per_kwh_true"]).any()


def test_grid_gives_all_regions_unless_told_and_no_row_for_strangers(cloud: FakeCloud) -> None:
    assert SimulatedGrid(cloud).read(START, END).num_rows == 30
    assert SimulatedGrid(cloud).read(START, END, ["mars-1", "eu-north-1"]).num_rows == 6
    assert SimulatedGrid(cloud).read(START, END, []).num_rows == 0
    assert SimulatedGrid(cloud).read(START, START).num_rows == 0


def test_a_gap_of_a_replayed_trace_is_a_grid_error(cloud: FakeCloud) -> None:
    trace = cloud.grid_signal(START, END).select(["ts", "region", "intensity_g_per_kwh"])
    source = SimulatedGrid(FakeCloud(42, replay=Replay(trace)))
    assert source.read(START, END)["intensity_g_per_kwh"].equals(trace["intensity_g_per_kwh"])
    assert source.read(START, END)["source_version"][0].as_py().startswith("trace ")
    with pytest.raises(GridError, match="no us-east-1 intensity for 2026-01-01T06:00Z"):
        source.read(START, END + timedelta(hours=1))
