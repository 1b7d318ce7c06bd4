"""What the report says of the loop: sums that count what is settled and nothing else, intervals beside every point."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.faces.charts import Groups, plotly_div, png
from sust_dagster.faces.report_loop import loop_pages
from sust_dagster.faces.report_outcomes import summed, verified_part
from sust_dagster.faces.report_parts import Cell, Part, Table, estimate, exact, figure, money
from sust_dagster.faces.report_plan import executed_part, named, planned_part
from sust_dagster.faces.report_record import DayBound, LoopRecord, decisions_of
from sust_dagster.world.schemas import EXECUTIONS, OUTCOMES

Z90 = 1.6448536269514722
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
WAITS = "sufficiency.unsettled_data"


def outcome(name: str, saved: float | None, **other: Any) -> dict[str, Any]:
    """A row of OUTCOMES: savings in kg with one shared factor, whose spread is ``sd`` kg."""
    sd = other.pop("sd", 0.1)
    known = saved is not None
    row = {
        "outcome_id": name,
        "decision_id": f"d-{name}",
        "recommendation_id": f"r-{name}",
        "executed_on": JANUARY,
        "measured_carbon_delta_kg": -saved if known else None,
        "carbon_ci_lower": -saved - Z90 * sd if known else None,
        "carbon_ci_upper": -saved + Z90 * sd if known else None,
        "plan_ci_lower": -3.0,
        "plan_ci_upper": 1.0,
        "claimed_delta_kg": -2.0,
        "measured_cost_delta_usd": 0.5 if known else None,
        "sla_compliant": True if known else None,
        "verification_method": "counterfactual",
        "evidence_chain": f"{name:0<64}",
        "verification_status": "partial" if known else "disqualified",
        "reason": None if known else WAITS,
        "credited_kg": saved - Z90 * sd if known else None,
        "scaled_sensitivities": json.dumps({"power": sd}) if known else None,
        "team_id": "search",
        "month": JANUARY,
        "runs": 1,
        "signal": "average",
        "signal_method": "lifecycle",
    }
    return {**row, **other}


def outcomes(*rows: dict[str, Any]) -> pa.Table:
    filled = [{c.name: r.get(c.name) for c in OUTCOMES.stored} for r in rows]
    return OUTCOMES.conform(pa.Table.from_pylist(filled, OUTCOMES.arrow)) if rows else OUTCOMES.empty()


def event(name: str, sequence: int, to: str, reason: str, **proposal: Any) -> dict[str, Any]:
    payload = json.dumps(proposal) if proposal else None
    return {"recommendation_id": name, "sequence": sequence, "to_status": to, "reason": reason, "payload": payload}


def proposal(**other: Any) -> dict[str, Any]:
    return {
        "workload_id": "train", "team_id": "search", "action_type": "region_shift", "planned_for": "2026-01-01",
        "est_carbon_delta_kg": -2.0, "est_carbon_delta_kg_lower": -3.0, "est_carbon_delta_kg_upper": 1.0,
        "est_cost_delta_usd": 0.5, **other,
    }  # fmt: skip


def record(*rows: dict[str, Any], events: list[dict[str, Any]] | None = None, **other: Any) -> LoopRecord:
    return LoopRecord(decisions_of(events or []), EXECUTIONS.empty(), outcomes(*rows), **other)


def as_cell(value: str | Cell) -> Cell:
    return Cell(value) if isinstance(value, str) else value


def table_of(part: Part, caption: str) -> Table:
    return next(t for t in part.tables if caption in t.caption)


def text(part: Part) -> str:
    """Everything a part says, as it stands on the page."""

    def cell(value: str | Cell) -> str:
        return f"{as_cell(value).text} {as_cell(value).small}".strip()

    rows = [r for t in part.tables for r in ([t.caption, *t.header], *t.rows, t.total)]
    return "\n".join([*part.lines, *(" | ".join(map(cell, r)) for r in rows), *part.notes])


# -- sums ---------------------------------------------------------------------------------------------------


def test_a_shared_error_is_added_up_before_it_is_squared() -> None:
    found = summed(outcomes(outcome("a", 10.0, sd=1.0), outcome("b", 20.0, sd=2.0)))
    assert found.portfolio is not None
    assert found.portfolio.savings_kg == pytest.approx(30.0)
    assert found.portfolio.lower_kg == pytest.approx(30.0 - Z90 * 3.0)
    assert found.portfolio.upper_kg == pytest.approx(30.0 + Z90 * 3.0)
    # As if each erred on its own it would be narrower:
    assert found.portfolio.upper_kg - 30.0 > Z90 * math.hypot(1.0, 2.0)


def test_what_is_not_settled_is_said_and_not_counted() -> None:
    rows = [outcome("a", 10.0), outcome("b", None, claimed_delta_kg=-100.0, measured_cost_delta_usd=7.0)]
    found = summed(outcomes(*rows))
    assert (found.outcomes, found.waiting, found.without) == (1, 1, 0)
    assert found.claimed_kg == 2.0, "100 kg were promised of an outcome that nobody knows"
    assert found.cost_delta_usd == 0.5
    said = text(verified_part(record(*rows)))
    assert "1 outcome of 2 is not settled" in said
    assert "102" not in said
    settled = summed(outcomes(rows[0], outcome("b", 5.0, claimed_delta_kg=-100.0)))
    assert settled.claimed_kg == 102.0, "once it has a number it counts"


def test_a_gate_that_waiting_does_not_open_is_another_thing() -> None:
    rows = [outcome("a", 1.0), outcome("b", None, reason="sufficiency.missing_runs")]
    found = summed(outcomes(*rows))
    assert (found.outcomes, found.waiting, found.without) == (1, 0, 1)
    part = verified_part(record(*rows))
    assert "not settled and counted" not in text(part)
    named_one_by_one = table_of(part, "disqualified outcome")
    assert "sufficiency.missing_runs" in named_one_by_one.rows[0]


def test_every_point_has_its_interval_and_all_its_digits() -> None:
    rows = [outcome("a", 10.123456, sd=1.0), outcome("b", -0.5, sd=0.1, verification_status="refuted")]
    events = [event("r-a", 0, "proposed", "planned", **proposal(workload_id="nightly <b>"))]
    part = verified_part(record(*rows, events=events))
    largest = [[as_cell(v) for v in row] for row in table_of(part, "largest outcome").rows]
    verified = largest[0][3]
    assert (verified.text, verified.small) == ("10.1", "[8.5 to 11.8]")
    assert "10.123456" in verified.title
    assert largest[1][3].text == "−0.500"
    assert largest[0][0].text == "nightly <b>"
    sha = largest[0][-1]
    assert (sha.text, sha.title) == ("a" + "0" * 11, "a" + "0" * 63)
    assert "9.62 [7.81 to 11.43] kg verified" in part.lines[0]


def test_small_refuted_outcomes_are_named_beside_the_largest() -> None:
    rows = [outcome(f"big{i:02}", 5.0 + i) for i in range(25)]
    few = verified_part(record(*rows, outcome("bad", -0.01, verification_status="refuted")))
    table = table_of(few, "largest outcome")
    assert "20 largest outcomes of 26" in table.caption and "1 smaller that were refuted" in table.caption
    assert as_cell(table.rows[-1][1]).text == "refuted"
    assert len(table.rows) == 21
    without = verified_part(record(*rows))
    assert len(table_of(without, "largest outcome").rows) == 20


# -- the picture --------------------------------------------------------------------------------------------


def test_the_chart_has_an_interval_per_team_and_starts_at_zero(tmp_path: Path) -> None:
    rows = [outcome("a", 10.0), outcome("b", -1.0, team_id="ml", verification_status="refuted"),
            outcome("c", None, team_id="late")]  # fmt: skip
    chart = verified_part(record(*rows)).chart
    assert isinstance(chart, Groups)
    assert list(chart.labels) == ["search", "ml"], "a team without a number has no bar"
    assert [list(v) for v in chart.series.values()] == [
        [2.0, 2.0],
        [10.0, -1.0],
        pytest.approx([9.8355, -1.1645], 1e-3),
    ]
    (name,) = chart.intervals
    assert name.startswith("verified")
    down, up = chart.errors(name) or ([], [])
    assert down == pytest.approx([Z90 * 0.1] * 2) and up == pytest.approx([Z90 * 0.1] * 2)
    assert chart.errors("claimed") is None
    page = plotly_div(chart, "c", script=False)
    assert '"rangemode":"tozero"' in page and page.count('"arrayminus"') == 1
    png(chart, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_done_is_a_sentence_and_no_empty_chart() -> None:
    pages = loop_pages(record())
    assert [len(p.tables) for p in pages.parts] == [0, 0, 0]
    assert all(p.chart is None and len(p.lines) == 1 and p.lines[0].endswith(".") for p in pages.parts)
    assert not pages.tiles and not pages.bundle


def test_nothing_settled_yet_draws_nothing_and_says_so() -> None:
    events = [event("r-a", 0, "proposed", "planned", **proposal()), event("r-a", 1, "executed", "carried out")]
    part = verified_part(record(outcome("a", None), events=events))
    assert part.chart is None
    assert "has a number yet" in part.lines[0] and "not settled" in part.lines[1]
    assert "usage settles" in text(part)


# -- the truth ----------------------------------------------------------------------------------------------

CARD = {
    "outcomes": 1, "true_kg": 46.5, "baseline_kg": 213.0, "static_table_kg": 34.0, "true_cost_delta_usd": 37.0,
    "static_table_cost_delta_usd": 970.0,
}  # fmt: skip


def test_the_truth_stands_beside_what_was_verified_and_is_named() -> None:
    said = text(verified_part(record(outcome("a", 10.0), truth=CARD)))
    assert "simulator's truth, all that was carried out | 46.5" in said
    assert "21.8 %" in said
    assert "simulator's truth of a plain region table | 179" in said
    assert "written when there were" not in said
    assert "simulator" not in text(verified_part(record(outcome("a", 10.0)))), "no scorecard, no truth"


def test_a_scorecard_of_other_outcomes_is_said_to_be_so() -> None:
    said = text(verified_part(record(outcome("a", 10.0), outcome("b", 1.0), truth=CARD)))
    assert "written when there were 1 outcomes" in said


# -- plan and execution -------------------------------------------------------------------------------------


def test_recommendations_by_action_and_state_with_what_they_promised() -> None:
    events = [
        event("a", 0, "proposed", "planned", **proposal()),
        event("b", 0, "proposed", "planned", **proposal(est_carbon_delta_kg=-4.0, est_cost_delta_usd=-1.5)),
        event("b", 1, "rejected", "not now"),
        event("c", 0, "proposed", "planned", **proposal(action_type="time_shift")),
    ]
    part = planned_part(record(events=events))
    table = part.tables[0]
    assert list(table.header[3:]) == ["all", "proposed", "rejected"]
    shift = table.rows[0]
    assert shift[0] == "region_shift" and shift[3:] == ["2", "1", "1"]
    assert as_cell(shift[1]).inline == "6.00 [−2.00 to 6.00]"
    assert as_cell(shift[2]).text == "−1.00"
    assert table.total[3:] == ["3", "2", "1"]
    assert "proven gap" in part.notes[-1], "no run log: the page says where the gap stands"


def test_the_gap_of_each_day_is_shown_where_the_run_log_has_it() -> None:
    events = [event("a", 0, "proposed", "planned", **proposal())]
    said = {"formulation": "cp-sat", "expected_runs": 9.0, "kg_before": 2.0, "kg_after": 1.0, "kg_static_table": 0.5,
            "objective": 1.0, "lower_bound": 0.98, "gap": 0.02}  # fmt: skip
    bounds = [DayBound("2026-01-01", said), DayBound("2026-01-02", {**said, "gap": None, "lower_bound": None})]
    table = planned_part(record(events=events, bounds=bounds)).tables[1]
    assert table.folded.endswith("largest proven gap 2.00 %")
    assert [r[-1] for r in table.rows] == ["2.00 %", "not proven"]


def test_executions_by_how_they_ended_and_why() -> None:
    events = [
        event("a", 0, "proposed", "planned", **proposal()),
        event("a", 1, "executed", "the canary did well: p99 1 ms after 2 ms"),
        event("a", 2, "verified", "partial"),
        event("b", 0, "proposed", "planned", **proposal()),
        event("b", 1, "executed", "the canary did well: p99 3 ms after 4 ms"),
        event("c", 0, "proposed", "planned", **proposal()),
        event("c", 1, "failed", "failed: approval_expired: it counted until noon"),
        event("d", 0, "proposed", "planned", **proposal()),
        event("d", 1, "executing", "the intent is written"),
    ]
    part = executed_part(record(events=events))
    assert part.lines == ["Of 4 recommendations 2 were carried out, 1 failed, 1 under way."]
    rows = [(r[0], as_cell(r[1]).text, r[2]) for r in part.tables[0].rows]
    assert rows == [("executed", "the canary did well", "2"), ("failed", "failed: approval_expired", "1")]


@pytest.mark.parametrize(
    ("why", "name"),
    [
        ("carried out and read back", "carried out and read back"),
        ("the canary did well: p99 1 ms", "the canary did well"),
        ("failed: approval_expired: it counted until noon", "failed: approval_expired"),
        ("not executed: capacity: no room", "not executed: capacity"),
        ("failed", "failed"),
    ],
)
def test_reasons_are_counted_by_their_names(why: str, name: str) -> None:
    assert named(why) == name


# -- figures ------------------------------------------------------------------------------------------------


def read_back(written: str) -> float:
    return float(written.replace("−", "-").replace(",", ""))


sizes = st.floats(min_value=1e-9, max_value=1e9).flatmap(lambda x: st.sampled_from([x, -x]))


@given(sizes)
def test_a_figure_keeps_three_digits_and_its_sign(value: float) -> None:
    assert read_back(figure(value)) == pytest.approx(value, rel=5.1e-3)


@given(sizes, st.floats(min_value=0, max_value=1e9))
def test_no_end_of_an_interval_is_rounded_to_zero(point: float, half: float) -> None:
    cell = estimate(point, point - half, point + half)
    low, high = (read_back(v) for v in cell.small.strip("[]").split(" to "))
    for written, value in ((read_back(cell.text), point), (low, point - half), (high, point + half)):
        assert (written == 0) == (value == 0)
        assert written * value >= 0
        assert abs(written - value) <= 5.1e-3 * max(abs(point), half, abs(value))


def test_money_shows_its_sign_and_never_hides_a_change() -> None:
    assert [money(v).text for v in (1234.5, -0.5, 0.0, 0.0004, -0.0004, None)] == [
        "+1,234.50", "−0.50", "0.00", "+0.0004", "−0.0004", "unknown",
    ]  # fmt: skip
    assert exact(22.0).text == "22.0"
    assert figure(None) == "not estimated"
