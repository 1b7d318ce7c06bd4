"""What executed changes truly saved: the report's part on verified outcomes, and the truth where it is known.

Belongs here: which outcomes are added up, beside what, and which are named one by one. Does not belong here: reading
them (``report_record``), the sum of a portfolio and its interval (``agents.verifier.portfolio``).

Only outcomes with a number are added up. What was claimed of the others stands nowhere in the same sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.portfolio import Portfolio, portfolio_of
from sust_dagster.agents.verifier.status import STATUSES
from sust_dagster.agents.verifier.sufficiency import GATES
from sust_dagster.faces.charts import Groups
from sust_dagster.faces.report_parts import Cell, Part, Table, counted, estimate, exact, figure, money
from sust_dagster.faces.report_plan import estimated
from sust_dagster.faces.report_record import Decision, LoopRecord
from sust_dagster.orchestration.verification_desk import SETTLE_DAYS, UNSETTLED

#: Most outcomes that are named one by one, and most teams in the chart; the tables of sums hold all.
MOST_NAMED = 20
MOST_TEAMS = 12

#: Whether the promises to the runs (deadline, latency, start, order) were kept.
_PROMISES = {True: "promises kept", False: "promise broken", None: "promises unknown"}

_FIGURES_NOTE = (
    "Verified: the original region and time with the usage that was metered, against what ran; 90 % accounting "
    "interval of the factors. An error that outcomes share does not shrink with their number, so intervals of teams "
    "do not add up to that of the whole. Claimed: the same outcomes as their plans promised them, plan intervals "
    "added up as if all forecasts erred the same way. Credited: shares of a lower bound of what a team saved in a "
    "month; they add up to it."
)
_STATUS_NOTE = (
    "Confirmed: saved for certain, no less than claimed. Partial: saved, but less than claimed or only roughly known. "
    "Inconclusive: the interval holds 0. Refuted: it emitted more for certain. Disqualified: a named gate closed, and "
    "no number is made up. “For certain” is at 95 %, one-sided."
)
_TRUTH_NOTE = (
    "The truth is the simulator's: the same jobs in two worlds, with and without the product, by the true factors "
    "that no product sees. It counts everything carried out, settled or not: hold it against what was claimed of "
    "everything, and only a part of it against what is verified so far. The plain region table moves every workload "
    "at once to the cleanest region it may use, whatever it costs. Shares are of what would have been emitted without "
    "the product."
)

_CLAIMED, _VERIFIED, _CREDITED = "claimed", "verified, 90 % interval", "credited"


@dataclass(frozen=True)
class Sum:
    """Some outcomes added up: those with a number, kg as savings (before − after), and how many have none."""

    outcomes: int
    waiting: int
    """Without a number because their data is not settled."""
    without: int
    """Without a number for another reason."""
    claimed_kg: float
    claimed_lower_kg: float
    claimed_upper_kg: float
    """Plan intervals, added up as if all forecasts erred the same way."""
    portfolio: Portfolio | None
    credited_kg: float
    cost_delta_usd: float | None


def summed(outcomes: pa.Table) -> Sum:
    """Add up rows of OUTCOMES; ``portfolio`` is none where no row has a number."""
    known = _known(outcomes)
    late = pc.sum(pc.fill_null(pc.match_substring(outcomes.column("reason"), UNSETTLED), False)).as_py() or 0
    return Sum(
        outcomes=known.num_rows,
        waiting=late,
        without=outcomes.num_rows - known.num_rows - late,
        claimed_kg=-_total(known, "claimed_delta_kg") + 0.0,
        claimed_lower_kg=-_total(known, "plan_ci_upper") + 0.0,
        claimed_upper_kg=-_total(known, "plan_ci_lower") + 0.0,
        portfolio=portfolio_of(known),
        credited_kg=_total(known, "credited_kg"),
        cost_delta_usd=_total(known, "measured_cost_delta_usd") if known.num_rows else None,
    )


def _known(outcomes: pa.Table) -> pa.Table:
    return outcomes.filter(pc.is_valid(outcomes.column("measured_carbon_delta_kg")))


def _total(rows: pa.Table, name: str) -> float:
    return math.fsum(rows.column(name).drop_null().to_pylist())


def verified_part(record: LoopRecord) -> Part:
    """Claimed, verified and credited kilograms with intervals, in sum and one by one."""
    outcomes = record.outcomes
    if not outcomes.num_rows:
        text = "Nothing was carried out, so there is nothing to verify." if not _carried_out(record) else (
            "No outcome has been judged yet: `sust verify` does it from data that has settled."
        )  # fmt: skip
        return Part("verified", "Verified", [text], _truth_table(record, None))
    whole = summed(outcomes)
    lines = [_in_words(whole, outcomes)]
    if whole.waiting:
        lines.append(
            f"{counted(whole.waiting, 'outcome')} of {outcomes.num_rows:,} {'is' if whole.waiting == 1 else 'are'} not "
            f"settled and counted nowhere below: usage settles {SETTLE_DAYS} days after the day of execution."
        )
    teams = {team: summed(rows) for team, rows in _by(outcomes, "team_id").items()}
    decisions = {d.recommendation_id: d for d in record.decisions}
    tables: list[Table] = []
    if whole.portfolio is not None:
        tables.append(_sums_table(outcomes, whole))
    tables += _truth_table(record, whole)
    if whole.portfolio is not None:
        tables.append(_named_table(outcomes, decisions))
    tables += _without_table(outcomes) + _disqualified_table(outcomes, decisions)
    return Part("verified", "Verified", lines, tables, _chart(teams), _notes(whole, record.truth))


def _carried_out(record: LoopRecord) -> bool:
    return any(d.ended == "executed" for d in record.decisions)


def _in_words(whole: Sum, outcomes: pa.Table) -> str:
    found = Counter(outcomes.column("verification_status").to_pylist())
    statuses = ", ".join(f"{found[s]:,} {s}" for s in reversed(STATUSES) if found[s])
    if whole.portfolio is None:
        return f"None of {counted(outcomes.num_rows, 'outcome')} has a number yet ({statuses})."
    saved = saved_of(whole.portfolio)
    return (
        f"{counted(whole.outcomes, 'outcome')} with a number: {saved.inline} kg verified, of "
        f"{promised(whole).inline} kg claimed for the same outcomes; {figure(whole.credited_kg)} kg credited. "
        f"All outcomes by status: {statuses}."
    )


def _notes(whole: Sum, truth: Mapping[str, Any] | None) -> list[str]:
    if whole.portfolio is None:
        return []
    return [_FIGURES_NOTE, _STATUS_NOTE, *([_TRUTH_NOTE] if truth is not None else [])]


def promised(found: Sum) -> Cell:
    """What was claimed of outcomes, with its summed plan interval."""
    return estimate(found.claimed_kg, found.claimed_lower_kg, found.claimed_upper_kg)


def saved_of(portfolio: Portfolio) -> Cell:
    """What a portfolio saved, with its 90 % accounting interval."""
    return estimate(portfolio.savings_kg, portfolio.lower_kg, portfolio.upper_kg)


def _by(outcomes: pa.Table, *names: str) -> dict[Any, pa.Table]:
    """Outcomes by the values of columns, in their order."""
    keys = list(zip(*(outcomes.column(n).to_pylist() for n in names), strict=True))
    places: dict[Any, list[int]] = {}
    for at, key in enumerate(keys):
        places.setdefault(key if len(names) > 1 else key[0], []).append(at)
    return {key: outcomes.take(places[key]) for key in sorted(places)}


# -- the picture --------------------------------------------------------------------------------------------


def _chart(teams: Mapping[str, Sum]) -> Groups | None:
    """Claimed, verified and credited of the teams with the most; none where no team has a number."""
    known = {t: (s, s.portfolio) for t, s in teams.items() if s.portfolio is not None}
    shown = sorted(known, key=lambda t: (-abs(known[t][1].savings_kg), t))[:MOST_TEAMS]
    if not shown:
        return None
    sums, portfolios = [known[t][0] for t in shown], [known[t][1] for t in shown]
    return Groups(
        title="Claimed, verified and credited by team",
        unit="kgCO2e saved",
        labels=shown,
        series={
            _CLAIMED: [s.claimed_kg for s in sums],
            _VERIFIED: [p.savings_kg for p in portfolios],
            _CREDITED: [s.credited_kg for s in sums],
        },
        intervals={_VERIFIED: ([p.lower_kg for p in portfolios], [p.upper_kg for p in portfolios])},
    )


# -- tables of sums -----------------------------------------------------------------------------------------


def _sums_table(outcomes: pa.Table, whole: Sum) -> Table:
    months = _by(outcomes, "month", "team_id")
    return Table(
        "Savings by month and team: claimed, verified and credited for the same outcomes, and how many have no number",
        ("team", "month", "claimed, kg [90\u00a0%]", "verified, kg [90\u00a0%]", "credited, kg", "cost, USD",
         "outcomes", "not settled", "no number"),
        [[team, f"{month:%Y-%m}", *_sum_cells(summed(rows))] for (month, team), rows in months.items()],
        ["all", "", *_sum_cells(whole)],
        left=2,
    )  # fmt: skip


def _sum_cells(found: Sum) -> list[str | Cell]:
    counts = [f"{n:,}" for n in (found.outcomes, found.waiting, found.without)]
    if found.portfolio is None:
        return ["–", "–", "–", "–", *counts]
    return [
        promised(found), saved_of(found.portfolio), exact(found.credited_kg), money(found.cost_delta_usd), *counts,
    ]  # fmt: skip


def _truth_table(record: LoopRecord, whole: Sum | None) -> list[Table]:
    """What was claimed and verified beside what truly happened, where a scorecard says so."""
    card = record.truth
    if card is None:
        return []
    base = card["baseline_kg"]

    def share(kg: float) -> str:
        return f"{figure(100 * kg / base)} %" if base else "–"

    static = base - card["static_table_kg"]
    done = [d for d in record.decisions if d.ended == "executed"]
    claimed, price = estimated(done)
    everything = f"{len(done):,}"
    rows: list[list[str | Cell]] = [
        ["claimed, all that was carried out", claimed, price, everything, ""],
        ["simulator's truth, all that was carried out", exact(card["true_kg"]), money(card["true_cost_delta_usd"]),
         everything, share(card["true_kg"])],
        ["simulator's truth of a plain region table", exact(static), money(card["static_table_cost_delta_usd"]),
         "–", share(static)],
    ]  # fmt: skip
    if whole is not None and whole.portfolio is not None:
        saved, cost = saved_of(whole.portfolio), money(whole.cost_delta_usd)
        rows.insert(1, ["verified, what has settled so far", saved, cost, f"{whole.outcomes:,}", ""])
    stale = card.get("outcomes") != record.outcomes.num_rows
    caption = "Beside the truth, which only a simulated cloud knows (scorecard.json"
    caption += f", written when there were {card.get('outcomes') or 0:,} outcomes)" if stale else ")"
    header = ("figure", "saved, kg [90\u00a0%]", "cost, USD", "changes", f"share of {figure(base)} kg")
    return [Table(caption, header, rows)]


# -- outcomes one by one ------------------------------------------------------------------------------------


def _named_table(outcomes: pa.Table, decisions: Mapping[str, Decision]) -> Table:
    known = _known(outcomes).to_pylist()
    known.sort(key=lambda r: (-abs(r["measured_carbon_delta_kg"]), r["outcome_id"]))
    shown = known[:MOST_NAMED]
    refuted = [r for r in known[MOST_NAMED:] if r["verification_status"] == "refuted"][:MOST_NAMED]
    caption = f"The {counted(len(shown), 'largest outcome')} of {len(known):,} with a number"
    caption += f", and {len(refuted)} smaller that were refuted" if refuted else ""
    return Table(
        caption,
        ("change", "status, promises", "claimed, kg [90\u00a0%]", "verified, kg [90\u00a0%]", "credited, kg",
         "cost, USD", "evidence"),
        [_outcome_row(r, decisions) for r in [*shown, *refuted]],
        left=2,
    )  # fmt: skip


def _outcome_row(row: Mapping[str, Any], decisions: Mapping[str, Decision]) -> list[str | Cell]:
    delta = [-row[n] + 0.0 for n in ("measured_carbon_delta_kg", "carbon_ci_upper", "carbon_ci_lower")]
    return [
        _change(row, decisions),
        Cell(row["verification_status"], small=_PROMISES[row["sla_compliant"]]),
        _claimed(row),
        estimate(delta[0], delta[1], delta[2]),
        exact(row["credited_kg"]),
        money(row["measured_cost_delta_usd"]),
        _evidence(row),
    ]


def _change(row: Mapping[str, Any], decisions: Mapping[str, Decision]) -> Cell:
    decision = decisions.get(row["recommendation_id"])
    proposal = decision.proposal if decision else {}
    small = f"{row['team_id']}, {proposal.get('action_type', 'action unknown')}, {row['executed_on']:%Y-%m-%d}"
    return Cell(str(proposal.get("workload_id", "unknown")), f"recommendation {row['recommendation_id']}", small)


def _claimed(row: Mapping[str, Any]) -> Cell:
    names = ("claimed_delta_kg", "plan_ci_upper", "plan_ci_lower")
    if any(row[n] is None for n in names):
        return Cell("nothing" if row["claimed_delta_kg"] is None else figure(-row["claimed_delta_kg"]))
    point, lower, upper = (-row[n] + 0.0 for n in names)
    return estimate(point, lower, upper)


def _evidence(row: Mapping[str, Any]) -> Cell:
    sha = row["evidence_chain"]
    return Cell("none") if sha is None else Cell(sha[:12], sha, code=True)


def _without_table(outcomes: pa.Table) -> list[Table]:
    """Why outcomes have no number, gate by gate; one may have failed several."""
    reasons = Counter(g for r in outcomes.column("reason").drop_null().to_pylist() for g in r.split(";"))
    if not reasons:
        return []
    order = {gate: at for at, gate in enumerate(GATES)}
    rows = [
        [Cell(gate, code=True), GATES.get(gate, ""), f"{n:,}"]
        for gate, n in sorted(reasons.items(), key=lambda g: (-g[1], order.get(g[0], len(order)), g[0]))
    ]
    return [
        Table("Why outcomes have no number: the gates that closed; several may close on one outcome",
              ("gate", "what it says", "outcomes"), rows, left=2)
    ]  # fmt: skip


def _disqualified_table(outcomes: pa.Table, decisions: Mapping[str, Decision]) -> list[Table]:
    """Outcomes that will not get a number by waiting."""
    rows = [
        r
        for r in outcomes.filter(pc.is_null(outcomes.column("measured_carbon_delta_kg"))).to_pylist()
        if UNSETTLED not in (r["reason"] or "")
    ]
    if not rows:
        return []
    rows.sort(key=lambda r: (-abs(r["claimed_delta_kg"] or 0.0), r["outcome_id"]))
    return [
        Table(
            f"Settled, and yet without a number: the {counted(min(len(rows), MOST_NAMED), 'largest claim')} of "
            f"{counted(len(rows), 'disqualified outcome')}",
            ("change", "status", "why", "claimed, kg [90\u00a0%]", "evidence"),
            [
                [_change(r, decisions), r["verification_status"], (r["reason"] or "not said").replace(";", ", "),
                 _claimed(r), _evidence(r)]
                for r in rows[:MOST_NAMED]
            ],
            left=3,
        )
    ]  # fmt: skip
