"""From metered runs to verified outcomes: gates, saving, split, interval, status and credit in one pass.

Belongs here: the order of the steps and the tables that come out. Does not belong here: any formula (each has its
module), which tables of the world model the inputs come from, or evidence.

Signs in the tables: ``*_delta_*`` is after - before, ``*_savings_*`` before - after. Disqualified outcomes have null in
every computed column, and take no part in a portfolio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Floats, encode, to_arrow
from sust_dagster.agents.accountant.factors import NamedFactor
from sust_dagster.agents.verifier.arrays import Bools, Ints, count_by, sum_by
from sust_dagster.agents.verifier.counterfactual import Pieces, cut
from sust_dagster.agents.verifier.credit import euler_credits, lower_bound
from sust_dagster.agents.verifier.inputs import LEAKAGE_COMPONENTS, Inputs, Leakage, read
from sust_dagster.agents.verifier.sensitivity import LeakageTerms, Sensitivities, sensitivities, terms
from sust_dagster.agents.verifier.signal import HourlySignal, MixedSignalsError
from sust_dagster.agents.verifier.status import statuses
from sust_dagster.agents.verifier.sufficiency import gates, plan_interval
from sust_dagster.agents.verifier.uncertainty import (
    DRAWS,
    LINEAR,
    MONTE_CARLO,
    Intervals,
    Portfolios,
    box_bounds,
    group_codes,
    intervals,
    portfolios,
)
from sust_dagster.world.schemas import TIMESTAMP

#: Name and version of this calculation; a change of any formula is a new version.
VERIFICATION_METHOD = "counterfactual/v2"

#: How the causes were split.
SPLIT, SPLIT_GUARDED = "shapley;lmdi", "shapley;shapley (lmdi guard)"

_TEXT, _FLOAT, _INT, _BOOL = pa.string(), pa.float64(), pa.int64(), pa.bool_()

#: The outcome table: names of the ``outcomes`` declaration first, then the columns this calculation adds.
OUTCOME_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=nullable)
        for name, kind, nullable in (
            ("outcome_id", _TEXT, False),
            ("decision_id", _TEXT, False),
            ("recommendation_id", _TEXT, False),
            ("executed_on", TIMESTAMP, False),
            ("measured_carbon_delta_kg", _FLOAT, True),
            ("counterfactual_carbon_kg", _FLOAT, True),
            ("actual_carbon_kg", _FLOAT, True),
            ("carbon_ci_lower", _FLOAT, True),
            ("carbon_ci_upper", _FLOAT, True),
            ("plan_ci_lower", _FLOAT, True),
            ("plan_ci_upper", _FLOAT, True),
            ("measured_cost_delta_usd", _FLOAT, True),
            ("sla_compliant", _BOOL, True),
            ("sla_detail", _TEXT, True),
            ("verification_method", _TEXT, False),
            ("evidence_chain", _TEXT, True),
            ("verification_status", _TEXT, False),
            ("reason", _TEXT, True),
            ("credited_kg", _FLOAT, True),
            ("sensitivities", _TEXT, True),
            ("scaled_sensitivities", _TEXT, True),
            ("team_id", _TEXT, False),
            ("month", TIMESTAMP, False),
            ("runs", _INT, False),
            ("claimed_delta_kg", _FLOAT, True),
            ("leakage_kg", _FLOAT, True),
            ("leakage_detail", _TEXT, True),
            ("spatial_savings_kg", _FLOAT, True),
            ("temporal_savings_kg", _FLOAT, True),
            ("energy_savings_kg", _FLOAT, True),
            ("usage_savings_kg", _FLOAT, True),
            ("pue_savings_kg", _FLOAT, True),
            ("intensity_savings_kg", _FLOAT, True),
            ("decomposition_method", _TEXT, True),
            ("seed_savings_kg", _FLOAT, True),
            ("carbon_sd_kg", _FLOAT, True),
            ("uncertainty_method", _TEXT, True),
            ("carbon_bounds_lower", _FLOAT, True),
            ("carbon_bounds_upper", _FLOAT, True),
            ("fractional_uncertainty", _FLOAT, True),
            ("signal", _TEXT, False),
            ("signal_method", _TEXT, False),
            ("consequential_delta_kg", _FLOAT, True),
            ("consequential_signal", _TEXT, True),
        )
    ]
)

#: One row per team and month: the total of its verified outcomes.
PORTFOLIO_SCHEMA = pa.schema(
    [
        pa.field("team_id", _TEXT, nullable=False),
        pa.field("month", TIMESTAMP, nullable=False),
        pa.field("outcomes", _INT, nullable=False),
        pa.field("savings_kg", _FLOAT, nullable=False),
        pa.field("sd_kg", _FLOAT, nullable=False),
        pa.field("savings_ci_lower", _FLOAT, nullable=False),
        pa.field("savings_ci_upper", _FLOAT, nullable=False),
        pa.field("credit_bound_kg", _FLOAT, nullable=False),
        pa.field("credited_kg", _FLOAT, nullable=False),
    ]
)


@dataclass(frozen=True)
class Verified:
    """What a verification says.

    ``outcomes``: :data:`OUTCOME_SCHEMA`, one row per claim, order kept. ``sensitivities``: ``SENSITIVITY_SCHEMA``.
    ``gates``: one row per outcome and failed gate (outcome_id, gate, count, text). ``portfolios``:
    :data:`PORTFOLIO_SCHEMA`.
    """

    outcomes: pa.Table
    sensitivities: pa.Table
    gates: pa.Table
    portfolios: pa.Table


def verify(
    claims: pa.Table,
    slices: pa.Table,
    leakage: pa.Table,
    signal: HourlySignal,
    factors: Mapping[str, NamedFactor],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    consequential: HourlySignal | None = None,
) -> Verified:
    """Verify outcomes from their metered runs.

    ``claims``, ``slices``, ``leakage``: the schemas in ``inputs``. ``signal``: the settled inventory signal, for both
    sides. ``factors``: every power, PUE, leakage and ratio factor by key (grid factors come with the signal).
    ``consequential``: a second (marginal) signal; its figure stands in columns of its own and enters nothing else.
    Raises ``InputError`` for tables that break their contract, ``SliceError`` for a slice that ends before it starts,
    ``MixedSignalsError`` for a consequential signal of the same type as the inventory's.
    """
    if consequential is not None and consequential.signal == signal.signal:
        raise MixedSignalsError(
            f"the consequential figure needs another signal than {signal.signal}: pass a marginal one"
        )
    every = read(claims, slices, leakage, signal)
    everything = cut(every.slices, signal)
    gated = gates(every, everything, signal, set(factors))
    qualified = ~gated.disqualified
    inputs = _only(every, qualified)
    pieces = cut(inputs.slices, signal)
    t = terms(pieces, inputs.slices, inputs.leakage.terms, signal, factors)
    s = sensitivities(t)
    saving = _savings(inputs, pieces)
    interval = intervals(t, s, saving.counterfactual, saving.actual + saving.leakage, seed=seed, draws=draws)
    group, first = _team_months(inputs.claims)
    # An outcome that is disqualified has no figures: it adds exact zeros to its group.
    total = portfolios(saving.net, group, len(first), s.outcome, s.key, s.scaled_kg, len(s.keys))
    credit = euler_credits(saving.net, group, s.outcome, s.scaled_kg, total)
    table = _table(
        inputs=inputs,
        leakage=every.leakage,
        runs=_runs(every),
        gate_names=gated.reasons(),
        qualified=qualified,
        saving=saving,
        pieces=pieces,
        interval=interval,
        bounds=box_bounds(t, inputs.outcomes),
        credit=credit,
        s=s,
        signal=signal,
        second=_consequential(claims, slices, leakage, consequential, qualified),
    )
    ids = inputs.claims["outcome_id"].combine_chunks()
    return Verified(
        outcomes=table,
        sensitivities=s.table(ids.to_pylist()),
        gates=gated.table(ids),
        portfolios=_portfolio_table(table, first, group, qualified, total, credit),
    )


@dataclass(frozen=True)
class _Savings:
    """Per outcome, kg."""

    counterfactual: Floats
    actual: Floats
    leakage: Floats

    @property
    def net(self) -> Floats:
        return self.counterfactual - (self.actual + self.leakage)


def _savings(inputs: Inputs, pieces: Pieces) -> _Savings:
    n, leak = inputs.outcomes, inputs.leakage.terms
    return _Savings(
        counterfactual=sum_by(pieces.outcome, pieces.counterfactual_kg, n),
        actual=sum_by(pieces.outcome, pieces.actual_kg, n),
        leakage=sum_by(leak.outcome, leak.kg, n),
    )


def _only(inputs: Inputs, qualified: Bools) -> Inputs:
    """The inputs with slices and leakage of qualified outcomes alone; codes unchanged."""
    leak = inputs.leakage.terms
    kept = qualified[leak.outcome]
    rows = qualified[inputs.slices.outcome]
    terms_kept = LeakageTerms(leak.outcome[kept], leak.kg[kept], leak.key[kept], leak.cell[kept])
    return replace(
        inputs,
        slices=inputs.slices.take(rows),
        kg_location=inputs.kg_location[rows],
        leakage=replace(inputs.leakage, terms=terms_kept, component=inputs.leakage.component[kept]),
    )


def _runs(inputs: Inputs) -> Ints:
    pairs = np.unique(np.stack([inputs.slices.outcome, inputs.slices.run]), axis=1)
    return count_by(pairs[0], inputs.outcomes)


def _months(claims: pa.Table) -> pa.ChunkedArray:
    return pc.floor_temporal(claims["executed_on"], unit="month")


def _team_months(claims: pa.Table) -> tuple[Ints, Ints]:
    """Portfolio code of each outcome, and the first row of each portfolio."""
    team = encode(claims["team_id"]).codes.astype(np.int64)
    months, month = np.unique(_months(claims).cast(pa.int64()).to_numpy(), return_inverse=True)
    del months
    return group_codes([team, month])


def _consequential(
    claims: pa.Table, slices: pa.Table, leakage: pa.Table, signal: HourlySignal | None, qualified: Bools
) -> tuple[Floats, str] | None:
    """Delta in kg by another signal, NaN where one of its hours is missing or leakage has no energy; and its name."""
    if signal is None:
        return None
    inputs = _only(read(claims, slices, leakage, signal), qualified)
    saving = _savings(inputs, cut(inputs.slices, signal))
    leak = inputs.leakage.terms
    # A mass was stated with the inventory's signal: it cannot enter a figure of another one.
    foreign = count_by(leak.outcome[(leak.cell < 0) & (leak.kg != 0)], inputs.outcomes) > 0
    return np.where(foreign, np.nan, -saving.net), f"{signal.signal}/{signal.method}"


def _table(
    *,
    inputs: Inputs,
    leakage: Leakage,
    runs: Ints,
    gate_names: list[str | None],
    qualified: Bools,
    saving: _Savings,
    pieces: Pieces,
    interval: Intervals,
    bounds: tuple[Floats, Floats],
    credit: Floats,
    s: Sensitivities,
    signal: HourlySignal,
    second: tuple[Floats, str] | None,
) -> pa.Table:
    claims, n = inputs.claims, inputs.outcomes
    claimed, plan_lower, plan_upper = plan_interval(claims)
    net = saving.net
    half = (interval.upper - interval.lower) / 2
    parts = pieces.parts()
    factor_parts, guarded = pieces.factor_parts()
    any_guarded = count_by(pieces.outcome[guarded], n) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        fractional = np.where(net > 0, half / net, np.nan)

    def known(values: Floats) -> pa.Array:
        # Adding 0.0 makes -0.0 a plain zero.
        return to_arrow(np.where(qualified, values, np.nan) + 0.0)

    def total(values: Floats) -> pa.Array:
        return known(sum_by(pieces.outcome, values, n))

    def chosen(when: Bools, yes: str, no: str) -> pa.Array:
        return pa.array(np.where(when, yes, no), pa.string(), mask=~qualified)

    columns: dict[str, object] = {
        name: claims[name].cast(OUTCOME_SCHEMA.field(name).type)
        for name in (
            "outcome_id", "decision_id", "recommendation_id", "executed_on", "measured_cost_delta_usd",
            "sla_compliant", "sla_detail", "team_id",
        )
    }  # fmt: skip
    columns |= {
        "measured_carbon_delta_kg": known(-net),
        "counterfactual_carbon_kg": known(saving.counterfactual),
        "actual_carbon_kg": known(saving.actual),
        "carbon_ci_lower": known(-interval.upper),
        "carbon_ci_upper": known(-interval.lower),
        "plan_ci_lower": to_arrow(plan_lower),
        "plan_ci_upper": to_arrow(plan_upper),
        "verification_method": pa.repeat(VERIFICATION_METHOD, n),
        "evidence_chain": pa.nulls(n, _TEXT),
        "verification_status": pa.array(
            statuses(net, interval.lower, interval.upper, -claimed, ~qualified), pa.string()
        ),
        "reason": pa.array(gate_names, pa.string()),
        "credited_kg": known(credit),
        "sensitivities": _sensitivity_json(s, s.kg, qualified),
        "scaled_sensitivities": _sensitivity_json(s, s.scaled_kg, qualified),
        "month": _months(claims),
        "runs": runs,
        "claimed_delta_kg": to_arrow(claimed),
        "leakage_kg": known(saving.leakage),
        "leakage_detail": _leakage_json(inputs.leakage, leakage, qualified),
        "spatial_savings_kg": total(parts.spatial),
        "temporal_savings_kg": total(parts.temporal),
        "energy_savings_kg": total(parts.energy),
        "usage_savings_kg": total(factor_parts[:, 0]),
        "pue_savings_kg": total(factor_parts[:, 1]),
        "intensity_savings_kg": total(factor_parts[:, 2]),
        "decomposition_method": chosen(any_guarded, SPLIT_GUARDED, SPLIT),
        "seed_savings_kg": total(pieces.seed_savings_kg),
        "carbon_sd_kg": known(interval.sd),
        "uncertainty_method": chosen(interval.monte_carlo, MONTE_CARLO, LINEAR),
        "carbon_bounds_lower": known(-bounds[1]),
        "carbon_bounds_upper": known(-bounds[0]),
        "fractional_uncertainty": known(fractional),
        "signal": pa.repeat(signal.signal, n),
        "signal_method": pa.repeat(signal.method, n),
        "consequential_delta_kg": known(second[0]) if second else pa.nulls(n, _FLOAT),
        "consequential_signal": pa.repeat(second[1], n) if second else pa.nulls(n, _TEXT),
    }
    return pa.table({name: columns[name] for name in OUTCOME_SCHEMA.names}, schema=OUTCOME_SCHEMA)


def _sensitivity_json(s: Sensitivities, values: Floats, qualified: Bools) -> pa.Array:
    """``{"<factor key>":<value>, ...}`` per outcome, keys in order of name, factors that cancel left out."""
    kept = np.flatnonzero(s.kg != 0)
    rank = np.argsort(np.argsort(np.array(s.keys))) if s.keys else np.empty(0, np.int64)
    kept = kept[np.lexsort((rank[s.key[kept]], s.outcome[kept]))]
    names = pa.array([json.dumps(k) + ":" for k in s.keys], pa.string())
    members = pc.binary_join_element_wise(
        names.take(pa.array(s.key[kept])), pc.cast(pa.array(values[kept]), pa.string()), ""
    )
    return _objects(s.outcome[kept], members, qualified)


def _leakage_json(kept: Leakage, every: Leakage, qualified: Bools) -> pa.Array:
    """``{"<component>":<kg> or "<reason for zero>", ...}`` per outcome, in the order of the components."""
    n, k = len(qualified), len(LEAKAGE_COMPONENTS)
    cell = kept.terms.outcome * k + kept.component
    mass = sum_by(cell, kept.terms.kg, n * k)
    texts = np.array([""], dtype=object)
    code = np.zeros(n * k, dtype=np.int64)
    if every.reasons:
        where = np.array([o * k + LEAKAGE_COMPONENTS.index(c) for o, c, _ in every.reasons])
        words, inverse = np.unique([json.dumps(reason) for _, _, reason in every.reasons], return_inverse=True)
        texts = np.concatenate([texts, words.astype(object)])
        code[where] = inverse + 1
    numbered = count_by(cell, n * k) > 0
    value = pc.if_else(
        pa.array(numbered), pc.cast(pa.array(mass), pa.string()), pa.array(texts, pa.string()).take(pa.array(code))
    )
    rows = np.flatnonzero((numbered | (code > 0)) & np.repeat(qualified, k))
    names = pa.array([json.dumps(c) + ":" for c in LEAKAGE_COMPONENTS], pa.string())
    members = pc.binary_join_element_wise(names.take(pa.array(rows % k)), value.take(pa.array(rows)), "")
    return _objects(rows // k, members, qualified)


def _objects(outcome: Ints, members: pa.Array, qualified: Bools) -> pa.Array:
    """JSON objects from their members, which stand in order of outcome; null for disqualified outcomes."""
    offsets = np.concatenate([[0], np.cumsum(count_by(outcome, len(qualified)))])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), members)
    text = pc.binary_join_element_wise("{", pc.binary_join(lists, ","), "}", "")
    return pc.if_else(pa.array(qualified), text, pa.scalar(None, pa.string()))


def _portfolio_table(
    table: pa.Table, first: Ints, group: Ints, qualified: Bools, total: Portfolios, credit: Floats
) -> pa.Table:
    size = len(first)
    rows = table.select(["team_id", "month"]).take(pa.array(first))
    filled = pa.table(
        {
            "team_id": rows["team_id"],
            "month": rows["month"],
            "outcomes": count_by(group[qualified], size),
            "savings_kg": total.savings,
            "sd_kg": total.sd,
            "savings_ci_lower": total.lower,
            "savings_ci_upper": total.upper,
            "credit_bound_kg": lower_bound(total.savings, total.sd).kg,
            "credited_kg": sum_by(group, credit, size),
        },
        schema=PORTFOLIO_SCHEMA,
    )
    return filled.sort_by([("team_id", "ascending"), ("month", "ascending")])


def aggregate(sensitivity_rows: pa.Table, savings_kg: Mapping[str, float], outcome_ids: Sequence[str]) -> Portfolios:
    """Total of any choice of outcomes from stored rows alone: the same figures as the SQL in docs/methodology.md.

    ``sensitivity_rows``: ``SENSITIVITY_SCHEMA``; ``savings_kg``: saving of each outcome by id. Raises ``KeyError``
    for an outcome without a saving (disqualified ones have none: leave them out).
    """
    ids = pa.array(outcome_ids, pa.string())
    outcome = pc.index_in(sensitivity_rows["outcome_id"], ids)
    rows = sensitivity_rows.filter(outcome.is_valid())
    key = encode(rows["factor_key"])
    savings = np.array([savings_kg[i] for i in outcome_ids], dtype=np.float64)
    return portfolios(
        savings,
        np.zeros(len(savings), dtype=np.int64),
        1,
        outcome.drop_null().to_numpy().astype(np.int64),
        key.codes.astype(np.int64),
        rows["scaled_kg"].to_numpy(),
        len(key.values),
    )
