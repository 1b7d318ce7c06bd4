"""How risky a proposal is: low, medium or high, each with its reasons by name.

Belongs here: the rules, over a whole table of recommendations at once and over a single proposal. Does not belong
here: who must sign what (``decide``), thresholds (``policy``).

The level of a row is the highest of its action's own risk and of every rule that holds. Whatever is missing, null,
not finite, of another type or no known word makes the row high, with the reason ``<column>_missing`` or
``<column>_unknown``: what is not known is never low.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.governance.policy import Policy
from sust_dagster.agents.governance.versions import PolicyVersion
from sust_dagster.world.decisions import RISK_LEVELS
from sust_dagster.world.schemas import ACTION_TYPES, CATEGORIES, FLOAT, INT, STRING, TIMESTAMP

Flags = NDArray[np.bool_]
#: The values that rules look at, each with its name and type: 1, 1.0 and True are not the same here.
Cells = tuple[tuple[str, type, Any], ...]
Floats = NDArray[np.float64]

LOW, MEDIUM, HIGH = range(3)
_OFTEN = np.iinfo(np.int64).max
_LEVEL = {name: i for i, name in enumerate(RISK_LEVELS)}

#: Reasons by name → what they say, with the level they lead to at least.
REASONS: Mapping[str, tuple[str, int]] = {
    "action_risk": ("the policy gives this action a risk of its own", MEDIUM),
    "action_disabled": ("the policy does not allow this action", HIGH),
    "production": ("the workload's service tier is a production tier", HIGH),
    "high_cost_delta": ("cost changes by more than the policy's upper threshold, up or down", HIGH),
    "cost_delta": ("cost changes by more than the policy's lower threshold, up or down", MEDIUM),
    "cost_increase_over_limit": ("cost rises by more than the policy's share of the status quo", HIGH),
    "carbon_rises": ("carbon is estimated to rise", HIGH),
    "carbon_interval_wrong": ("the estimate does not lie within its own bounds", HIGH),
    "very_low_confidence": ("confidence is below the policy's lower floor", HIGH),
    "low_confidence": ("confidence is below the policy's upper floor", MEDIUM),
    "novel": ("among the first approvals of this action type, which a person reviews", MEDIUM),
    "old_plan": ("the plan was made longer before its day than the policy allows", HIGH),
    "another_policy": ("the plan was made under another policy than the one in force", HIGH),
    "precedents_missing": ("it is not known how often this action type was approved before", HIGH),
}


@dataclass(frozen=True)
class Risk:
    """The level of one proposal and its reasons by name; a low one has none."""

    level: str
    reasons: tuple[str, ...]


def assess(recommendations: pa.Table, policy: PolicyVersion, history_counts: Mapping[str, int]) -> pa.Table:
    """The table with ``risk_level`` and ``risk_reasons`` (names joined by ';', 'ok' where there are none).

    ``recommendations``: rows by the names of RECOMMENDATIONS; any column may be missing, which is a reason.
    ``history_counts``: action type → how many recommendations of it were approved so far; a type without a count is
    a reason too. Both columns replace those that are there.
    """
    sheet = _Sheet(recommendations)
    _rules(sheet, policy, history_counts)
    level, reasons = sheet.result()
    table = recommendations.drop_columns([c for c in _OUTPUT if c in recommendations.column_names])
    for name, values in zip(_OUTPUT, (level, reasons), strict=True):
        table = table.append_column(name, values)
    order = [*recommendations.column_names, *(c for c in _OUTPUT if c not in recommendations.column_names)]
    return table.select(order)


_OUTPUT = ("risk_level", "risk_reasons")

#: What the rules look at, by the names of the recommendations table.
INPUTS: Mapping[str, pa.DataType] = {
    "action_type": STRING,
    "service_tier": STRING,
    "workload_category": STRING,
    "est_carbon_delta_kg": FLOAT,
    "est_carbon_delta_kg_lower": FLOAT,
    "est_carbon_delta_kg_upper": FLOAT,
    "est_cost_delta_usd": FLOAT,
    "cost_before_usd": FLOAT,
    "confidence": FLOAT,
    "planned_for": TIMESTAMP,
    "issued_at": TIMESTAMP,
    "policy_version": INT,
}


def risk_of(proposal: Mapping[str, Any], policy: PolicyVersion, history_counts: Mapping[str, int]) -> Risk:
    """The risk of one proposal by the same rules; a value of the wrong type counts as missing."""
    cells = tuple((name, type(value), value) for name in INPUTS for value in (proposal.get(name),))
    # Of a count only the few that people review matter: the same proposal is looked at several times a day.
    most = policy.policy.risk.reviewed_first
    counts = tuple((a, type(n), min(n, most) if type(n) is int else n) for a, n in history_counts.items())
    key = (cells, policy.version, policy.document_hash, counts)
    try:
        known = _known.get(key)
    except TypeError:  # a list or an object where a value belongs: it will be found missing
        return _risk_of(cells, policy, history_counts)
    if known is None:
        known = _known[key] = _risk_of(cells, policy, history_counts)
        while len(_known) > _KEPT:
            _known.pop(next(iter(_known)), None)
    return known


#: Risks found last, by everything they follow from.
_known: dict[Any, Risk] = {}
_KEPT = 1_024


def _risk_of(cells: Cells, policy: PolicyVersion, history_counts: Mapping[str, int]) -> Risk:
    columns = {name: _cell(value, INPUTS[name]) for name, _, value in cells}
    row = assess(pa.table(columns), policy, history_counts).to_pylist()[0]
    reasons = tuple(row["risk_reasons"].split(";")) if row["risk_reasons"] != "ok" else ()
    return Risk(row["risk_level"], reasons)


def _cell(value: Any, kind: pa.DataType) -> pa.Array:
    """One value as a column of the declared type; null where it is of another."""
    fits: Callable[[Any], bool] = {
        STRING: lambda v: isinstance(v, str),
        FLOAT: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
        INT: lambda v: isinstance(v, int) and not isinstance(v, bool),
        TIMESTAMP: lambda v: isinstance(v, datetime) and v.tzinfo is not None,
    }[kind]
    try:
        return pa.array([value if fits(value) else None], kind)
    except (pa.ArrowInvalid, OverflowError):
        return pa.nulls(1, kind)


def _rules(sheet: _Sheet, policy: PolicyVersion, history_counts: Mapping[str, int]) -> None:
    p: Policy = policy.policy
    action = sheet.words("action_type", ACTION_TYPES)
    own = np.array([_LEVEL[p.actions.of(a).risk] for a in ACTION_TYPES] + [LOW])[action]
    sheet.raise_to("action_risk", own, own > LOW)
    enabled = np.array([p.actions.of(a).enabled for a in ACTION_TYPES] + [True])[action]
    sheet.flag("action_disabled", ~enabled)
    counts, known = _precedents(history_counts)
    sheet.flag("precedents_missing", ~known[action])
    sheet.flag("novel", known[action] & (counts[action] < p.risk.reviewed_first))

    sheet.words("workload_category", CATEGORIES)
    tiers = (*p.risk.production_tiers, *p.risk.other_tiers)
    tier = sheet.words("service_tier", tiers, lower=True)
    sheet.flag("production", tier < len(p.risk.production_tiers))

    kg, lower, upper = (sheet.numbers(f"est_carbon_delta_kg{end}") for end in ("", "_lower", "_upper"))
    sheet.flag("carbon_rises", kg > 0)
    sheet.flag("carbon_interval_wrong", (lower > kg) | (kg > upper))

    usd, before = sheet.numbers("est_cost_delta_usd"), sheet.numbers("cost_before_usd", least=0.0)
    high = np.abs(usd) > p.risk.high_cost_delta_usd_per_day
    sheet.flag("high_cost_delta", high)
    sheet.flag("cost_delta", ~high & (np.abs(usd) > p.risk.medium_cost_delta_usd_per_day))
    sheet.flag("cost_increase_over_limit", (usd > 0) & (usd > before * p.planning.max_cost_increase_percent / 100.0))

    confidence = sheet.numbers("confidence", least=0.0, most=1.0)
    very_low = confidence < p.risk.medium_needs_confidence
    sheet.flag("very_low_confidence", very_low)
    sheet.flag("low_confidence", ~very_low & (confidence < p.risk.low_needs_confidence))

    age_hours = sheet.hours("planned_for") - sheet.hours("issued_at")
    sheet.flag("old_plan", age_hours > p.planning.max_forecast_age_hours)
    sheet.flag("another_policy", sheet.numbers("policy_version", whole=True) != policy.version)


def _precedents(history_counts: Mapping[str, int]) -> tuple[NDArray[np.int64], Flags]:
    """Count by action and whether it is known; the last place stands for an unknown action, a reason of its own."""
    given = [history_counts.get(a) for a in ACTION_TYPES]
    known = [isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in given]
    counts = [int(n) if ok and n is not None else 0 for n, ok in zip(given, known, strict=True)]
    return np.array([*counts, _OFTEN], np.int64), np.array([*known, True])


class _Sheet:
    """Columns read with suspicion, and what was found about each row."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.level = np.zeros(table.num_rows, np.int64)
        self.reasons: dict[str, Flags] = {}

    def flag(self, reason: str, rows: Flags) -> None:
        """A rule: these rows have this reason, and at least its level."""
        self.raise_to(reason, np.where(rows, REASONS[reason][1], LOW), rows)

    def raise_to(self, reason: str, level: NDArray[np.int64], rows: Flags) -> None:
        """Lift rows to a level of their own for one reason."""
        self.level = np.maximum(self.level, np.where(rows, level, LOW))
        self.reasons[reason] = rows

    def _missing(self, name: str, rows: Flags) -> None:
        self.raise_to(f"{name}_missing", np.full(len(rows), HIGH), rows)

    def _column(self, name: str, fits: Callable[[pa.DataType], bool]) -> pa.Array | None:
        """The column as one array if it is there and of a fitting type; else every row lacks it."""
        if name not in self.table.column_names or not fits(self.table.schema.field(name).type):
            self._missing(name, np.ones(self.table.num_rows, bool))
            return None
        return self.table.column(name).combine_chunks()

    def numbers(self, name: str, *, least: float = -np.inf, most: float = np.inf, whole: bool = False) -> Floats:
        """A column of finite numbers within limits; NaN, and the row flagged, where it is none."""
        column = self._column(name, pa.types.is_integer if whole else _is_number)
        if column is None:
            return np.full(self.table.num_rows, np.nan)
        values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
        usable = np.isfinite(values) & (values >= least) & (values <= most)
        self._missing(name, ~usable)
        return np.where(usable, values, np.nan)

    def words(self, name: str, known: tuple[str, ...], *, lower: bool = False) -> NDArray[np.int64]:
        """Position of each row's word among the known ones; their number, and the row flagged, where it is none."""
        column = self._column(name, _is_text)
        if column is None:
            return np.full(self.table.num_rows, len(known))
        text = column.cast(pa.string())
        text = pc.utf8_lower(pc.utf8_trim_whitespace(text)) if lower else text
        missing = pc.is_null(text).to_numpy(zero_copy_only=False)
        self._missing(name, missing)
        at = pc.fill_null(pc.index_in(text, pa.array(known, pa.string())), len(known))
        found = at.to_numpy(zero_copy_only=False).astype(np.int64)
        found[missing] = len(known)
        self.raise_to(f"{name}_unknown", np.full(len(found), HIGH), (found == len(known)) & ~missing)
        return found

    def hours(self, name: str) -> Floats:
        """A column of instants as hours since 1970; NaN, and the row flagged, where there is none."""
        column = self._column(name, lambda t: pa.types.is_timestamp(t) and t.tz is not None)
        if column is None:
            return np.full(self.table.num_rows, np.nan)
        missing = pc.is_null(column).to_numpy(zero_copy_only=False)
        self._missing(name, missing)
        ticks = pc.fill_null(column.cast(TIMESTAMP, safe=False).cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return np.where(missing, np.nan, ticks / 3.6e9)

    def result(self) -> tuple[pa.Array, pa.Array]:
        """Level and joined reasons by row; each combination of reasons is put into words once."""
        held = np.packbits(np.column_stack(list(self.reasons.values())), axis=1)
        patterns, at = np.unique(held, axis=0, return_inverse=True)
        names = np.array(list(self.reasons))
        words = [";".join(names[np.unpackbits(p, count=len(names)).astype(bool)].tolist()) or "ok" for p in patterns]
        levels = pa.array(RISK_LEVELS, pa.string()).take(pa.array(self.level))
        return levels, pa.array(words, pa.string()).take(pa.array(at.reshape(-1)))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
