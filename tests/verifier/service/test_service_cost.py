"""The measured cost delta: the bill against the home region's price at the original time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.causal.inputs import CheckInputError
from sust_dagster.agents.verifier.service.cost import COSTS, at_home, cost_delta
from sust_dagster.world.schemas import FLOAT, STRING, TIMESTAMP

T0 = datetime(2026, 3, 1, tzinfo=UTC)
SLICES = pa.schema(
    [
        ("outcome_id", STRING),
        ("sku", STRING),
        ("home_region", STRING),
        ("original_at", TIMESTAMP),
        ("usage_amount", FLOAT),
        ("billed_usd", FLOAT),
    ]
)
EGRESS = pa.schema([("outcome_id", STRING), ("billed_usd", FLOAT)])
PRICES = pa.schema(
    [
        ("region", STRING),
        ("sku", STRING),
        ("valid_from", TIMESTAMP),
        ("valid_to", TIMESTAMP),
        ("usd_per_unit", FLOAT),
    ]
)


def at(hours: float | None) -> datetime | None:
    return None if hours is None else T0 + timedelta(hours=hours)


def deltas(slices: list[tuple], egress: list[tuple] = (), prices: list[tuple] = (), outcomes=("o",)) -> list[dict]:
    """Slices (outcome, sku, region, hour, usage, billed); prices (region, sku, from, to, usd)."""
    s = [dict(zip(SLICES.names, (*r[:3], at(r[3]), *r[4:]), strict=True)) for r in slices]
    p = [dict(zip(PRICES.names, (*r[:2], at(r[2]), at(r[3]), r[4]), strict=True)) for r in prices]
    e = [dict(zip(EGRESS.names, r, strict=True)) for r in egress]
    out = cost_delta(
        pa.Table.from_pylist(s, schema=SLICES),
        pa.Table.from_pylist(e, schema=EGRESS),
        pa.Table.from_pylist(p, schema=PRICES),
        pa.array(outcomes),
    )
    assert out.schema == COSTS
    return out.to_pylist()


HOME = [("us", "cpu", 0, 5, 0.10), ("us", "cpu", 5, None, 0.20), ("eu", "cpu", 0, None, 9.0)]


def test_the_bill_less_the_bill_at_home_with_egress():
    row = deltas([("o", "cpu", "us", 4, 10.0, 0.6), ("o", "cpu", "us", 5, 10.0, 0.7)], [("o", 0.25)], HOME)[0]
    assert row["actual_usd"] == pytest.approx(1.55) and row["egress_usd"] == pytest.approx(0.25)
    # The first slice at the price before the change, the second at the one from it on: intervals are half-open.
    assert row["counterfactual_usd"] == pytest.approx(3.0)
    assert row["measured_cost_delta_usd"] == pytest.approx(-1.45) and row["reason"] is None


def test_egress_can_turn_a_cheaper_region_into_a_dearer_move():
    slices = [("o", "cpu", "us", 1, 10.0, 0.5)]
    assert deltas(slices, [], HOME)[0]["measured_cost_delta_usd"] == pytest.approx(-0.5)
    assert deltas(slices, [("o", 0.8)], HOME)[0]["measured_cost_delta_usd"] == pytest.approx(0.3)


def test_a_missing_price_names_itself_and_no_number_is_made():
    rows = deltas(
        [("o", "cpu", "us", 1, 1.0, 1.0), ("o", "gpu", "us", 2, 1.0, 1.0), ("p", "cpu", "us", 1, 1.0, 1.0)],
        [],
        HOME,
        outcomes=("o", "p"),
    )
    assert rows[0]["reason"] == "price_missing: us, gpu at 2026-03-01T02:00Z (1 of 2 slices)"
    assert rows[0]["measured_cost_delta_usd"] is None and rows[0]["counterfactual_usd"] is None
    assert rows[0]["actual_usd"] == 2.0
    assert rows[1]["reason"] is None and rows[1]["measured_cost_delta_usd"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("prices", "hour"),
    [
        ([("us", "cpu", 2, None, 0.1)], 1),  # not yet
        ([("us", "cpu", 0, 1, 0.1)], 1),  # no longer
        ([("us", "cpu", 0, None, None)], 1),  # not on offer
        ([("eu", "cpu", 0, None, 0.1)], 1),  # elsewhere
        ([], 1),
        ([("us", "cpu", 0, None, 0.1)], None),  # original time unknown
    ],
)
def test_a_price_that_was_not_in_force_is_none(prices: list, hour: float | None):
    row = deltas([("o", "cpu", "us", hour, 1.0, 1.0)], [], prices)[0]
    assert row["reason"].startswith("price_missing: us, cpu at") and row["counterfactual_usd"] is None


def test_a_bill_that_has_not_come_is_named():
    row = deltas([("o", "cpu", "us", 1, 1.0, None), ("o", "cpu", "us", 1, 1.0, 1.0)], [("o", None)], HOME)[0]
    assert row["reason"] == "bill_missing: 2 of 3 charges"
    assert row["actual_usd"] is row["egress_usd"] is row["measured_cost_delta_usd"] is None
    assert row["counterfactual_usd"] == pytest.approx(0.2)
    empty = deltas([], [("o", 1.0)], HOME)[0]
    assert empty["reason"] == "no_usage" and empty["measured_cost_delta_usd"] is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_it_is_what_a_plain_loop_says(seed: int):
    rng = np.random.default_rng(seed)
    prices = []
    for region in ("a", "b"):
        for sku in ("x", "y"):
            edges = np.sort(rng.choice(20, 4, replace=False)).tolist()
            spans = [(edges[0], edges[1]), (edges[1], edges[2]), (edges[3], None)]
            prices += [(region, sku, lo, hi, float(rng.random())) for lo, hi in spans if rng.random() < 0.8]
    rng.shuffle(prices)
    slices = [
        (str(rng.choice(["o", "p", "q"])), str(rng.choice(["x", "y"])), str(rng.choice(["a", "b"])),
         int(rng.integers(0, 24)), float(rng.random()), float(rng.random()))
        for _ in range(int(rng.integers(0, 12)))
    ]  # fmt: skip
    prices = [(str(r), str(s), int(lo), None if hi is None else int(hi), float(u)) for r, s, lo, hi, u in prices]
    for row in deltas(slices, [("p", 0.5)], prices, outcomes=("o", "p")):
        mine = [s for s in slices if s[0] == row["outcome_id"]]
        home = [
            next((u for r, k, lo, hi, u in prices if (r, k) == (s[2], s[1]) and lo <= s[3] < (hi or 99)), None)
            for s in mine
        ]
        if not mine or None in home:
            assert row["measured_cost_delta_usd"] is None and row["reason"]
        else:
            want = sum(s[5] for s in mine) + 0.5 * (row["outcome_id"] == "p")
            want -= sum(s[4] * h for s, h in zip(mine, home, strict=True))
            assert row["measured_cost_delta_usd"] == pytest.approx(want, abs=1e-12)


def test_prices_that_contradict_are_refused():
    with pytest.raises(CheckInputError, match="row 1 overlaps another price of us, cpu"):
        deltas([], [], [("us", "cpu", 0, None, 1.0), ("us", "cpu", 3, None, 2.0)])
    with pytest.raises(CheckInputError, match="row 0 ends before"):
        deltas([], [], [("us", "cpu", 3, 3, 1.0)])


USAGE = pa.schema(
    [
        ("outcome_id", STRING),
        ("instance_type", STRING),
        ("home_region", STRING),
        ("original_at", TIMESTAMP),
        ("usage_hours", FLOAT),
        ("cost_usd", FLOAT),
    ]
)


def test_usage_is_priced_as_the_size_it_had_at_home():
    usage = pa.Table.from_pylist(
        [
            dict(zip(USAGE.names, (o, kind, "us", T0, hours, 1.0), strict=True))
            for o, kind, hours in (("p", "small", 2.0), ("o", "small", 1.0), ("q", None, 1.0), ("r", "small", 1.0))
        ],
        schema=USAGE,
    )
    cases = pa.table({"outcome_id": ["o", "p", "q", "r"], "home_instance_type": ["large", None, None, ""]})
    slices = at_home(usage, cases)
    # Where the plan names no size before, it is the size it ran in; nobody knows the one that has neither.
    assert slices["sku"].to_pylist() == ["small", "large", None, "small"]
    assert slices["usage_amount"].to_pylist() == [2.0, 1.0, 1.0, 1.0]
    prices = [("us", "small", T0, None, 1.0), ("us", "large", T0, None, 4.0)]
    table = pa.Table.from_pylist([dict(zip(PRICES.names, p, strict=True)) for p in prices], schema=PRICES)
    known = slices.filter(pc.is_valid(slices["sku"]))
    found = cost_delta(known, EGRESS.empty_table(), table, cases["outcome_id"]).to_pylist()
    assert [r["measured_cost_delta_usd"] for r in found] == [-3.0, -1.0, None, 0.0]
    # As if it had been small before: no saving.
    same = at_home(usage, cases.set_column(1, "home_instance_type", pa.nulls(4, STRING)))
    found = cost_delta(same.slice(1, 1), EGRESS.empty_table(), table, pa.array(["o"])).to_pylist()
    assert found[0]["measured_cost_delta_usd"] == 0.0


def test_no_usage_is_no_slices():
    cases = pa.table({"outcome_id": ["o"], "home_instance_type": ["large"]})
    assert at_home(USAGE.empty_table(), cases).num_rows == 0
    with pytest.raises(CheckInputError, match="cases: no column home_instance_type"):
        at_home(USAGE.empty_table(), cases.drop_columns(["home_instance_type"]))
