"""A plan as rows: one per job of the input, what happens to it, why, and from which price on it pays.

Belongs here: the columns of the plan file, action types, the reason a job stays, break-even figures, totals. Does not
belong here: recommendations by workload (``recommend``), files, printing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import dictionary, to_arrow
from sust_dagster.agents.planner.candidates import INPUT_REASONS, Candidates
from sust_dagster.agents.planner.jobs import HOUR_US
from sust_dagster.agents.planner.problem import REASONS, Figures, Flags, Floats, Ints, Objective, Problem, evaluate
from sust_dagster.world.schemas import ACTION_TYPES, FLOAT, INT, STRING, TIMESTAMP, Column

#: The plan file: the contract's eleven columns in its order, then ours.
PLAN_FILE: tuple[Column, ...] = (
    Column("job_id", STRING, "the job"),
    Column("region", STRING, "where it runs"),
    Column("start", TIMESTAMP, "when it starts"),
    Column("action_type", STRING, "region_shift (also with a delay), time_shift or do_nothing"),
    Column("kg_before", FLOAT, "estimated, status quo; null where it has no figure", "kgCO2e", True),
    Column("kg_after", FLOAT, "estimated, as planned", "kgCO2e", True),
    Column("cost_before_usd", FLOAT, "status quo", "USD", True),
    Column("cost_after_usd", FLOAT, "as planned, egress included", "USD", True),
    Column("egress_usd", FLOAT, "egress part", "USD"),
    Column("score_before", FLOAT, "the objective, status quo", "", True),
    Column("score_after", FLOAT, "the objective, as planned", "", True),
    Column("reason", STRING, "why it stays as it is; '' where it moves of its own accord"),
    Column("delay_hours", INT, "start less requested start", "h"),
    Column("home_region", STRING, "where it would have run"),
    Column("break_even_usd_per_t", FLOAT, "carbon price from which the move pays; null: saves none", "USD/t", True),
    Column("break_even_egress_gb", FLOAT, "data that would cancel the move's worth", "GB", True),
    Column("latency_delta_ms", FLOAT, "after - before; null where not known", "ms", True),
    Column("latency_penalty_usd", FLOAT, "price of the latency above the SLA, in the score", "USD"),
    Column("kg_savings_worst_case", FLOAT, "carbon saved in the worst case; null without it", "kgCO2e", True),
)
PLAN_SCHEMA = pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in PLAN_FILE])

#: Reasons that come from the choice itself, beside those of the inputs and of the solver.
OWN_REASONS = (
    "best_as_it_is",  # nothing it may do has a lower score
    "no_other_place",  # it may neither run elsewhere nor later
    "not_robust",  # the saving of its best move does not survive the worst case
    "no_own_gain",  # its move would have gained it nothing
    "makes_room",  # (a move) it gains nothing itself, but lets others gain more
)
#: Every word of the reason column, by code.
WORDS: tuple[str, ...] = tuple(dict.fromkeys((*INPUT_REASONS, *REASONS[1:], *OWN_REASONS)))


def word(name: str) -> int:
    """Code of a reason."""
    return WORDS.index(name)


def words_of(reason: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes of ``problem.REASONS``, as a ``Plan`` has them, as codes of WORDS."""
    return np.array([word(name) if name else 0 for name in REASONS], np.uint8)[reason]


@dataclass(frozen=True)
class Choice:
    """A place for every job of a problem, and why jobs stay."""

    problem: Problem
    objective: Objective
    region: Ints
    delay: Ints
    why: NDArray[np.uint8]
    """Position in WORDS; 0 where nothing special is to be said."""
    worst_savings_kg: Floats | None = None

    @cached_property
    def before(self) -> Figures:
        """Figures of the status quo."""
        return evaluate(self.problem, self.problem.home, np.zeros(len(self.problem), np.int64))

    @cached_property
    def after(self) -> Figures:
        """Figures of the choice."""
        return evaluate(self.problem, self.region, self.delay)

    @property
    def moved(self) -> Flags:
        return (self.region != self.problem.home) | (self.delay > 0)

    @property
    def planned(self) -> Flags:
        """Jobs whose status quo has figures."""
        return ~np.isnan(self.before.kg + self.before.compute_usd)


@dataclass(frozen=True)
class Totals:
    """Sums over the jobs whose status quo has figures."""

    kg: float
    cost_usd: float
    egress_usd: float
    latency_penalty_usd: float
    score: float

    @classmethod
    def of(cls, figures: Figures, planned: Flags, objective: Objective) -> Totals:
        """``planned``: the jobs to sum over."""
        parts = (figures.kg, figures.cost_usd, figures.egress_usd, figures.penalty_usd, figures.score(objective))
        return cls(*(float(np.sum(p, where=planned)) for p in parts))


def plan_table(found: Candidates, choice: Choice, carbon_price_usd_per_t: float) -> pa.Table:
    """PLAN_FILE rows, one per job of the input in its order; the carbon price is that of the break-even GB."""
    rows, n = found.rows, len(found.jobs)
    problem, before, after = choice.problem, choice.before, choice.after
    action = np.where(choice.region != problem.home, 0, np.where(choice.delay > 0, 1, 2))
    egress = after.egress_usd
    pays, gigabytes = break_even(choice, carbon_price_usd_per_t)
    names = [ACTION_TYPES.index(a) for a in ("region_shift", "time_shift", "do_nothing")]
    delay = _whole(n, rows, choice.delay, 0)
    home = found.jobs.region
    region = np.array([problem.regions.index(v) if v in problem.regions else -1 for v in home.values])[home.codes]
    region = _whole(n, rows, choice.region, region)
    cost_before, cost_after = _costs(found, before), _costs(found, after)
    score_before, score_after = (
        _whole(n, rows, f.score(choice.objective) + 0.0 * cost[rows], np.nan)
        for f, cost in ((before, cost_before), (after, cost_after))
    )
    latency = problem.places.latency_delta_ms[problem.place, choice.region]
    columns: Mapping[str, pa.Array] = {
        "job_id": found.jobs.ids,
        "region": _regions(found, region, problem.regions),
        "start": pa.array(found.jobs.start_us + delay * HOUR_US).cast(TIMESTAMP),
        "action_type": _texts(_whole(n, rows, np.array(names)[action], ACTION_TYPES.index("do_nothing")), ACTION_TYPES),
        "kg_before": to_arrow(_whole(n, rows, before.kg, np.nan)),
        "kg_after": to_arrow(_whole(n, rows, after.kg, np.nan)),
        "cost_before_usd": to_arrow(cost_before),
        "cost_after_usd": to_arrow(cost_after),
        "egress_usd": to_arrow(_whole(n, rows, egress, 0.0)),
        "score_before": to_arrow(score_before),
        "score_after": to_arrow(score_after),
        "reason": _texts(reasons(found, choice), WORDS),
        "delay_hours": pa.array(delay),
        "home_region": _texts(home.codes, home.values),
        "break_even_usd_per_t": to_arrow(_whole(n, rows, pays, np.nan)),
        "break_even_egress_gb": to_arrow(_whole(n, rows, gigabytes, np.nan)),
        "latency_delta_ms": to_arrow(_whole(n, rows, latency, 0.0)),
        "latency_penalty_usd": to_arrow(_whole(n, rows, after.penalty_usd, 0.0)),
        "kg_savings_worst_case": to_arrow(_worst(choice, rows, n)),
    }
    return pa.table([columns[c.name].cast(c.type) for c in PLAN_FILE], schema=PLAN_SCHEMA)


def reasons(found: Candidates, choice: Choice) -> Ints:
    """Position in WORDS by job of the input: the first of input, solver, choice that says why it stays."""
    rows, n = found.rows, len(found.jobs)
    default = np.where(choice.problem.movable, word("best_as_it_is"), word("no_other_place"))
    why = np.where(choice.why > 0, choice.why, np.where(choice.moved, 0, default))
    own = _whole(n, rows, why.astype(np.int64), 0)
    return np.where(found.reason > 0, found.reason, own).astype(np.int64)


def break_even(choice: Choice, carbon_price_usd_per_t: float) -> tuple[Floats, Floats]:
    """Per job: the carbon price from which its move pays, and the GB of egress that would cancel its worth.

    ``USD/t = (USD after - USD before) / t saved``, 0 where it costs nothing more; NaN where it saves no carbon or does
    not move. ``GB = (price x t saved - compute USD more) / USD per GB``, 0 where it is worth nothing even without
    data; NaN where no data moves.
    """
    saved_t = np.where(choice.moved, choice.before.kg - choice.after.kg, np.nan) / 1000.0
    dearer = choice.after.cost_usd - choice.before.cost_usd
    with np.errstate(divide="ignore", invalid="ignore"):
        pays = np.where(saved_t > 0, np.maximum(dearer, 0.0) / saved_t, np.nan)
        worth = carbon_price_usd_per_t * saved_t - (choice.after.compute_usd - choice.before.compute_usd)
        per_gb = choice.problem.places.egress_usd_per_gb[choice.problem.place, choice.region]
        gigabytes = np.where(per_gb > 0, np.maximum(worth, 0.0) / per_gb, np.nan)
    return pays, gigabytes


def _costs(found: Candidates, figures: Figures) -> Floats:
    """USD by job of the input, egress included; NaN where there is none.

    A cost that was given (no prices) is that very number, not one divided and multiplied by the run's length.
    """
    jobs, rows = found.jobs, found.rows
    given = jobs.cost_usd * jobs.count
    if not found.priced:
        out = given.copy()
        out[rows] += figures.egress_usd
        return out
    return _whole(len(jobs), rows, figures.cost_usd, np.nan)


def _worst(choice: Choice, rows: Ints, n: int) -> Floats:
    if choice.worst_savings_kg is None:
        return np.full(n, np.nan)
    return _whole(n, rows, np.where(choice.moved, choice.worst_savings_kg, np.nan), np.nan)


def _whole(n: int, rows: Ints, values: NDArray, rest: NDArray | float) -> NDArray:
    """``values`` of the problem's jobs at their rows of the input, ``rest`` elsewhere."""
    out = np.full(n, rest, np.result_type(values, np.asarray(rest)))
    out[rows] = values
    return out


def _texts(codes: NDArray[np.integer], words: tuple[str, ...]) -> pa.Array:
    return dictionary(codes.astype(np.int32), words)


def _regions(found: Candidates, region: Ints, names: tuple[str, ...]) -> pa.Array:
    """Region names; a home that is in no candidate's list keeps the name the input gave it."""
    home = found.jobs.region
    codes = np.where(region >= 0, region, len(names) + home.codes)
    return _texts(codes, (*names, *home.values))
