"""Divergence beyond three standard deviations, drift that repeats, rebound beyond a fifth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from sust_dagster.agents.verifier.causal.inputs import Z90, CheckInputError
from sust_dagster.agents.verifier.service.drift import ALERTS, DIVERGENCES, DRIFT, alerts, divergence, drift
from sust_dagster.agents.verifier.service.rebound import REBOUND, rebound
from sust_dagster.world.schemas import FLOAT, STRING, TIMESTAMP

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def outcomes_of(measured: list, *, estimated=-10.0, lower=-12.0, upper=-6.0) -> pa.Table:
    n = len(measured)
    return pa.table(
        {
            "outcome_id": [f"o{i}" for i in range(n)],
            "scope": ["time_shift"] * n,
            "executed_on": pa.array([T0 + timedelta(days=i) for i in range(n)], TIMESTAMP),
            "estimated_kg": pa.array([estimated] * n, FLOAT),
            "plan_ci_lower": pa.array([lower] * n, FLOAT),
            "plan_ci_upper": pa.array([upper] * n, FLOAT),
            "measured_kg": pa.array(measured, FLOAT),
        }
    )


def test_sigmas_are_of_the_side_the_measured_value_lies_on():
    out = divergence(outcomes_of([-6.0, -12.0, -10.0]))
    assert out.schema == DIVERGENCES
    assert out["sigmas"].to_pylist() == pytest.approx([Z90, -Z90, 0.0])
    assert out["sigma_kg"].to_pylist() == pytest.approx([4 / Z90, 2 / Z90, 4 / Z90])


@pytest.mark.parametrize(("sigmas", "alert"), [(2.99, False), (3.01, True), (-2.99, False), (-3.01, True)])
def test_an_alert_is_raised_beyond_three(sigmas: float, alert: bool):
    side = 4 if sigmas > 0 else 2
    out = divergence(outcomes_of([-10.0 + sigmas * side / Z90]))
    assert out["alert"].to_pylist() == [alert]
    raised = alerts(out)
    assert raised.schema == ALERTS and raised.num_rows == alert
    if alert:
        row = raised.to_pylist()[0]
        assert row["kind"] == ("less_than_estimated" if sigmas > 0 else "more_than_estimated")
        assert "3.0 standard deviations" in row["message"]


def test_what_cannot_be_compared_is_named_and_raises_no_alert():
    cases = [
        (outcomes_of([None]), "not_verified"),
        (outcomes_of([-1.0], estimated=None), "no_estimate"),
        (outcomes_of([-1.0], lower=None), "no_interval"),
        (outcomes_of([-1.0], upper=-11.0), "estimate_outside_interval"),
        (outcomes_of([-1.0], upper=-10.0), "zero_width_interval"),
    ]
    out = divergence(pa.concat_tables([t for t, _ in cases]))
    assert out["reason"].to_pylist() == [reason for _, reason in cases]
    assert out["alert"].null_count == out["sigmas"].null_count == 5
    assert alerts(out).num_rows == 0


def sigmas_of(daily: np.ndarray, scope: str = "s") -> pa.Table:
    days = len(daily)
    values = daily.reshape(days, -1)
    return pa.table(
        {
            "scope": [scope] * values.size,
            "executed_on": pa.array(
                np.repeat([T0 + timedelta(days=d) for d in range(days)], values.shape[1]), TIMESTAMP
            ),
            "sigmas": values.reshape(-1),
        }
    )


def test_drift_is_rarely_seen_where_there_is_none_and_soon_where_there_is():
    rng = np.random.default_rng(0)
    worlds = 300
    calm = rng.normal(size=(worlds, 60))
    moved = calm + 1.0 * (np.arange(60) >= 30)

    def share(x: np.ndarray) -> float:
        out = drift(pa.concat_tables([sigmas_of(row, f"{w:03d}") for w, row in enumerate(x)]))
        assert out.schema == DRIFT and out["scope"].to_pylist() == [f"{w:03d}" for w in range(worlds)]
        return float(np.mean(out["drifting"].to_pylist()))

    assert share(calm) < 0.2
    assert share(moved) > 0.95
    row = drift(sigmas_of(np.r_[np.zeros(10), np.full(20, 1.5)])).to_pylist()[0]
    # Sums of 1.5 - 0.5 pass 5 with the sixth day of the change.
    assert row["drifting_since"] == T0 + timedelta(days=15) and row["cusum_high"] == pytest.approx(20.0)
    assert row["cusum_low"] == 0.0
    # A change that is there from the first day counts from the first day.
    assert drift(sigmas_of(np.full(6, 1.5))).to_pylist()[0]["cusum_high"] == pytest.approx(6.0)


def test_many_outcomes_of_one_day_are_one_day():
    rng = np.random.default_rng(1)
    shared = np.repeat(rng.normal(size=(20, 1)), 50, axis=1)
    many, one = drift(sigmas_of(shared)).to_pylist()[0], drift(sigmas_of(shared[:, :1])).to_pylist()[0]
    assert many["outcomes"] == 1000 and one["outcomes"] == 20
    assert many["drift_sigmas"] == pytest.approx(one["drift_sigmas"])
    few = drift(sigmas_of(np.ones(4))).to_pylist()[0]
    assert few["reason"] == "too_few_days: 4, needs 5" and few["drifting"] is None


def months(rows: list[tuple[str, int, float]], name: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"team_id": t, "ts": datetime(2026, m, 9, 5, tzinfo=UTC), name: v} for t, m, v in rows],
        schema=pa.schema([("team_id", STRING), ("ts", TIMESTAMP), (name, FLOAT)]),
    )


def seen(footprints: list, claims: list, **kw) -> list[dict]:
    out = rebound(months(footprints, "kg"), months(claims, "saved_kg"), **kw)
    assert out.schema == REBOUND
    return out.to_pylist()


@pytest.mark.parametrize(("percent", "flagged"), [(19, False), (20, False), (21, True), (-50, False)])
def test_growth_beyond_a_fifth_while_claiming_is_flagged(percent: int, flagged: bool):
    for base in (100.0, 0.3, 7.7e6):
        rows = seen([("t", 3, base), ("t", 4, base * (100 + percent) / 100)], [("t", 4, 5.0)])
        assert rows[1]["flagged"] is flagged
        assert rows[1]["growth"] == pytest.approx(percent / 100)
        assert rows[1]["previous_footprint_kg"] == base and rows[1]["claimed_savings_kg"] == 5.0


def test_a_growth_of_exactly_the_limit_is_not_over_it_by_rounding():
    bases = np.random.default_rng(0).uniform(0.1, 1e6, 500)
    after = bases * 6 / 5
    assert (after > bases * 1.2).any(), "rounding decides none of these: the test would prove nothing"
    rows = seen(
        [
            (f"t{i}", m, v)
            for i, pair in enumerate(zip(bases, after, strict=True))
            for m, v in zip((3, 4), pair, strict=True)
        ],
        [(f"t{i}", 4, 1.0) for i in range(500)],
    )
    assert not any(r["flagged"] for r in rows)


def test_growth_without_a_claim_is_no_rebound():
    for claims in ([], [("t", 4, -5.0)], [("t", 4, 5.0), ("t", 4, -5.0)], [("t", 3, 5.0)], [("u", 4, 5.0)]):
        rows = [r for r in seen([("t", 3, 100.0), ("t", 4, 300.0)], claims) if r["team_id"] == "t"]
        assert rows[1]["flagged"] is False


def test_what_cannot_be_compared_is_named():
    rows = seen([("t", 3, 100.0), ("t", 5, 300.0), ("u", 3, 0.0), ("u", 4, 1.0)], [("t", 5, 1.0), ("u", 4, 1.0)])
    assert [(r["team_id"], r["month"].month, r["flagged"], r["reason"]) for r in rows] == [
        ("t", 3, False, "no_previous_month"),
        ("t", 5, None, "no_previous_month"),
        ("u", 3, False, "no_previous_month"),
        ("u", 4, None, "previous_zero"),
    ]
    assert seen([("t", 3, 1.0)], [("t", 4, 1.0)])[1]["reason"] == "no_footprint"
    with pytest.raises(CheckInputError, match="kg, row 0 is null"):
        seen([("t", 3, None)], [])
    assert seen([], []) == []


def test_rows_of_a_month_add_up_and_months_differ_in_length():
    rows = seen([("t", 2, 14.0), ("t", 2, 14.0), ("t", 3, 31.0)], [("t", 3, 1.0), ("t", 3, 2.0)])
    assert rows[1]["previous_footprint_kg"] == 28.0 and rows[1]["claimed_savings_kg"] == 3.0
    # A kilogram a day in both months.
    assert rows[1]["growth"] == pytest.approx(3 / 28) and rows[1]["growth_per_day"] == pytest.approx(0.0)
