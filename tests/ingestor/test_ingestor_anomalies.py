"""Anomalies: found where they are, and not where they are not."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normal import normal_rows

from sust_dagster.agents.ingestor import ServiceHours, cost_spikes, freshness, gaps, mark, to_ledger
from sust_dagster.agents.ingestor.anomalies import SERVICE_HOURS

START = datetime(2026, 10, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")


def hours(costs, service="a", start=START):
    return pa.table(
        {
            "service_name": [service] * len(costs),
            "hour": [start + timedelta(hours=i) for i in range(len(costs))],
            "cost_usd": costs,
            "slices": [1] * len(costs),
        },
        schema=SERVICE_HOURS,
    )


class TestSpikes:
    def test_ten_times_the_median_stands_out(self):
        found = cost_spikes(hours([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.0, 1.0, 12.0, 1.0])).to_pylist()
        assert [(r["hour"], r["cost_usd"]) for r in found] == [(START + timedelta(hours=9), 12.0)]
        assert found[0]["ratio"] == pytest.approx(12.0)

    @pytest.mark.parametrize(
        "costs",
        [
            [1.0] * 30,
            [1.0] * 20 + [9.0],  # less than ten times
            [1.0, 1.0, 50.0],  # nothing to judge by
            [0.0] * 20 + [5.0],  # no usual cost to compare with
            [0.01, 20.0] * 15,  # ten times the lower half, but that is how the service is
            [],
        ],
    )
    def test_nothing_stands_out(self, costs):
        assert cost_spikes(hours(costs)).num_rows == 0

    def test_a_service_is_judged_by_its_own_hours(self):
        both = pa.concat_tables([hours([1.0] * 20, "small"), hours([100.0] * 20, "large")])
        assert cost_spikes(both).num_rows == 0

    def test_a_level_that_comes_back_is_news_for_three_days(self):
        """A nightly job takes an hour in a day: too few hours to be usual by number, but usual all the same."""
        nightly = [1.0] * 24 + ([20.0] + [1.0] * 23) * 8
        days = [r["hour"].day for r in cost_spikes(hours(nightly)).to_pylist()]
        assert days == [2, 3, 4]
        runaway = [*nightly, 400.0]
        found = cost_spikes(hours(runaway)).to_pylist()
        assert [r["cost_usd"] for r in found] == [20.0, 20.0, 20.0, 400.0]

    def test_what_comes_later_does_not_change_the_verdict(self):
        costs = [1.0] * 12 + [20.0] + [20.0] * 30
        early = cost_spikes(hours(costs[:13])).to_pylist()
        assert early == cost_spikes(hours(costs)).to_pylist()[: len(early)]
        assert len(early) == 1


class TestServiceHours:
    @given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=40), st.randoms(), st.integers(1, 7))
    def test_sums_do_not_depend_on_order_or_batches(self, costs, random, size):
        def table(given_costs, step):
            seen = ServiceHours()
            for i in range(0, len(given_costs), step):
                part = given_costs[i : i + step]
                seen.add(pa.table({"service_name": ["a"] * len(part), "started_at": pa.array([START] * len(part), TIME),
                                   "cost_usd": part}))  # fmt: skip
            return seen.table()

        shuffled = random.sample(costs, len(costs))
        assert table(shuffled, size).equals(table(costs, len(costs)))
        assert table(costs, len(costs)).column("cost_usd")[0].as_py() == pytest.approx(math.fsum(costs), abs=1e-9)

    def test_an_hour_without_a_cost_has_none(self):
        seen = ServiceHours()
        seen.add(
            pa.table(
                {"service_name": ["a"], "started_at": pa.array([START], TIME), "cost_usd": pa.nulls(1, pa.float64())}
            )
        )
        assert seen.table().to_pylist() == [{"service_name": "a", "hour": START, "cost_usd": None, "slices": 1}]


class TestMarks:
    def ledger(self, *changes):
        return to_ledger(normal_rows(*changes)).ledger

    def row(self, hour, cost, **more):
        start = START + timedelta(hours=hour)
        return {"ChargePeriodStart": start, "ChargePeriodEnd": start + timedelta(hours=1), "BilledCost": cost, **more}

    def test_spikes_and_unknown_regions_are_marked_and_kept(self):
        ledger = self.ledger(
            *(self.row(h, 30.0 if h == 20 else 1.0) for h in range(24)),
            self.row(23, 0.0, RegionId="atlantis-1"),
        )
        marked = mark(ledger, ServiceHours())
        assert marked.num_rows == ledger.num_rows
        found = marked.column("anomaly").to_pylist()
        assert [i for i, a in enumerate(found) if a] == [20, 24]
        assert (found[20], found[24]) == ("cost_spike", "unknown_region")

    def test_without_a_history_spikes_are_not_judged(self):
        ledger = self.ledger(*(self.row(h, 30.0 if h == 20 else 1.0) for h in range(24)))
        assert mark(ledger).column("anomaly").null_count == 24

    def test_history_comes_from_earlier_batches(self):
        history = ServiceHours()
        for hour in range(24):
            history.add(self.ledger(self.row(hour, 1.0)))
        assert history.table().num_rows == 24
        assert mark(self.ledger(self.row(24, 15.0)), history).column("anomaly").to_pylist() == ["cost_spike"]
        assert mark(self.ledger(self.row(24, 5.0)), history).column("anomaly").to_pylist() == [None]

    def test_an_empty_ledger(self):
        assert mark(self.ledger(), ServiceHours()).num_rows == 0


class TestGaps:
    def test_missing_hours_of_a_steady_service(self):
        table = hours([1.0] * 20)
        kept = table.filter(pa.array([i not in (5, 6, 11) for i in range(20)]))
        assert gaps(kept).to_pylist() == [
            {"service_name": "a", "gap_start": START + timedelta(hours=5), "gap_end": START + timedelta(hours=7),
             "hours": 2},
            {"service_name": "a", "gap_start": START + timedelta(hours=11), "gap_end": START + timedelta(hours=12),
             "hours": 1},
        ]  # fmt: skip

    def test_a_nightly_job_has_no_gaps(self):
        table = hours([1.0] * 72)
        assert gaps(table.filter(pa.array([i % 24 == 3 for i in range(72)]))).num_rows == 0

    def test_a_steady_service_has_none(self):
        assert gaps(hours([1.0] * 48)).num_rows == 0


def test_freshness():
    assert freshness(START, START + timedelta(minutes=90)) == 1.5
    with pytest.raises(ValueError, match="need a zone"):
        freshness(START.replace(tzinfo=None), START)
