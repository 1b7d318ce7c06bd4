"""The tables a verification is made from, and their columns as arrays.

Belongs here: the input contracts, their checks, text columns as codes. Does not belong here: which table of the
world model a column comes from (the orchestration joins them), formulas or gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Coded, Floats, encode, floats
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.verifier.arrays import Bools, Ints
from sust_dagster.agents.verifier.counterfactual import Slices
from sust_dagster.agents.verifier.sensitivity import LeakageTerms
from sust_dagster.agents.verifier.signal import HourlySignal
from sust_dagster.world.schemas import TIMESTAMP

#: What a move may cost elsewhere. Each needs a number or a reason why it is zero.
LEAKAGE_COMPONENTS: tuple[str, ...] = ("egress", "retries", "warm_up", "duplicated_storage")

_TEXT, _FLOAT, _INT, _BOOL = pa.string(), pa.float64(), pa.int64(), pa.bool_()


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


#: One row per executed recommendation to verify. A column that may be null may also be left out.
CLAIM_SCHEMA = pa.schema(
    [
        _field("outcome_id", _TEXT, "id of the outcome"),
        _field("decision_id", _TEXT, "the 'executed' event"),
        _field("recommendation_id", _TEXT, "the recommendation"),
        _field("team_id", _TEXT, "team: with the month of executed_on, the portfolio"),
        _field("executed_on", TIMESTAMP, "day of execution"),
        _field("claimed_delta_kg", _FLOAT, "what was promised, after - before", nullable=True),
        _field("claimed_delta_kg_lower", _FLOAT, "plan interval, ci90 of the delta", nullable=True),
        _field("claimed_delta_kg_upper", _FLOAT, "plan interval, ci90 of the delta", nullable=True),
        _field("measured_cost_delta_usd", _FLOAT, "actual bill - counterfactual bill", nullable=True),
        _field("sla_compliant", _BOOL, "SLA kept", nullable=True),
        _field("sla_detail", _TEXT, "JSON", nullable=True),
        _field("executed_at", TIMESTAMP, "instant the change took effect", nullable=True),
        _field("baseline_frozen_at", TIMESTAMP, "instant the baseline was frozen", nullable=True),
        _field("baseline_signal", _TEXT, "signal the baseline was frozen with", nullable=True),
        _field("baseline_method", _TEXT, "method the baseline was frozen with", nullable=True),
        _field("settled", _BOOL, "every input is past its settling time"),
        _field("restated", _BOOL, "an input changed after it was pinned for this verification"),
        _field("runs_expected", _INT, "runs the baseline says there must be", nullable=True),
        _field("runs_ambiguous", _INT, "runs that match no baseline run, or several"),
    ]
)

#: One row per metered usage slice of an executed run.
SLICE_SCHEMA = pa.schema(
    [
        _field("outcome_id", _TEXT, "the outcome"),
        _field("run_id", _TEXT, "the run"),
        _field("started_at", TIMESTAMP, "actual start of the slice"),
        _field("ended_at", TIMESTAMP, "actual end, exclusive"),
        _field("energy_kwh", _FLOAT, "metered IT energy of the actual run", nullable=True),
        _field("region_before", _TEXT, "region of the frozen baseline"),
        _field("region_after", _TEXT, "region it ran in"),
        _field("shift_us", _INT, "actual start - counterfactual start, microseconds"),
        _field("pue_before", _FLOAT, "PUE of the baseline's region", nullable=True),
        _field("pue_after", _FLOAT, "PUE of the region it ran in", nullable=True),
        _field("power_factor_key", _TEXT, "named factor of the actual energy", nullable=True),
        _field("provider_pue_factor_key", _TEXT, "of pue_after, shared by the provider", nullable=True),
        _field("region_pue_factor_key", _TEXT, "of pue_after, the site's own", nullable=True),
        _field("power_factor_key_before", _TEXT, "null: as power_factor_key (same hardware)", nullable=True),
        _field("provider_pue_factor_key_before", _TEXT, "of pue_before, shared by the provider", nullable=True),
        _field("region_pue_factor_key_before", _TEXT, "of pue_before, the site's own", nullable=True),
        _field("energy_ratio", _FLOAT, "counterfactual over actual usage energy; column left out: 1", nullable=True),
        _field(
            "ratio_factor_key", _TEXT, "named factor of an estimated energy_ratio; null: known exactly", nullable=True
        ),
        _field("kg_location", _FLOAT, "what the accountant booked for the slice, to be reproduced", nullable=True),
    ]
)

#: Rows of leakage: an energy with place and hour, or a mass, or a reason why it is zero.
LEAKAGE_SCHEMA = pa.schema(
    [
        _field("outcome_id", _TEXT, "the outcome"),
        _field("component", _TEXT, f"one of {', '.join(LEAKAGE_COMPONENTS)}"),
        _field("energy_kwh", _FLOAT, "energy at the meter", nullable=True),
        _field("region", _TEXT, "where that energy was used", nullable=True),
        _field("at", TIMESTAMP, "when: its hour's intensity counts", nullable=True),
        _field("kg", _FLOAT, "emissions, where they are known without an energy", nullable=True),
        _field("factor_key", _TEXT, "named factor of the energy or mass", nullable=True),
        _field("reason", _TEXT, "why it is zero", nullable=True),
    ]
)


class InputError(ValueError):
    """An input table that breaks its contract; the message names the table, row, column and remedy."""


@dataclass(frozen=True)
class Inputs:
    """The three tables as arrays; outcome codes are rows of ``claims``.

    ``leak``: leakage items of :class:`LeakageTerms` with their energy; ``leak_stated``: shape (outcomes, components),
    whether a component has a row. ``kg_location``: per slice, NaN where not given.
    """

    claims: pa.Table
    slices: Slices
    kg_location: Floats
    leakage: Leakage

    @property
    def outcomes(self) -> int:
        return self.claims.num_rows


@dataclass(frozen=True)
class Leakage:
    """Leakage rows as arrays (n): the terms with a number, and what was stated of each component."""

    terms: LeakageTerms
    component: Ints
    stated: Bools
    reasons: tuple[tuple[int, str, str], ...]


def read(claims: pa.Table, slices: pa.Table, leakage: pa.Table, signal: HourlySignal) -> Inputs:
    """Check and encode the tables (schemas above).

    Raises :class:`InputError` for a missing column, a null in a required one, an outcome twice or unknown, a
    leakage row that states neither a number nor a reason, or both.
    """
    claims = _checked(claims, CLAIM_SCHEMA, "claims")
    ids = claims["outcome_id"].combine_chunks()
    if pc.count_distinct(ids).as_py() != len(ids):
        twice = pc.value_counts(ids).to_pylist()
        raise InputError(f"claims: outcome {next(v['values'] for v in twice if v['counts'] > 1)} stands twice")
    has_ratio = "energy_ratio" in slices.column_names
    slices = _checked(slices, SLICE_SCHEMA, "slices")
    leakage = _checked(leakage, LEAKAGE_SCHEMA, "leakage")
    key_columns = {
        "after": ("power_factor_key", "provider_pue_factor_key", "region_pue_factor_key"),
        "before": ("power_factor_key_before", "provider_pue_factor_key_before", "region_pue_factor_key_before"),
    }
    before_power = pc.coalesce(slices["power_factor_key_before"], slices["power_factor_key"])
    coded = {
        "after": [*(encode(slices[c]) for c in key_columns["after"]), None],
        "before": [
            encode(before_power),
            *(encode(slices[c]) for c in key_columns["before"][1:]),
            encode(slices["ratio_factor_key"]),
        ],
    }
    leak_key = encode(leakage["factor_key"])
    every = [c for side in coded.values() for c in side if c is not None] + [leak_key]
    names = tuple(sorted({v for c in every for v in c.values if v}))
    rows = slices.num_rows
    arrays = Slices(
        outcomes=claims.num_rows,
        outcome=_outcome_codes(slices["outcome_id"], ids, "slices"),
        run=encode(slices["run_id"]).codes.astype(np.int64),
        start_us=_micros(slices["started_at"]),
        end_us=_micros(slices["ended_at"]),
        energy_kwh=floats(slices["energy_kwh"]),
        energy_ratio=floats(slices["energy_ratio"]) if has_ratio else np.ones(rows),
        region_before=_regions(encode(slices["region_before"]), signal),
        region_after=_regions(encode(slices["region_after"]), signal),
        shift_us=slices["shift_us"].to_numpy(),
        pue_before=floats(slices["pue_before"]),
        pue_after=floats(slices["pue_after"]),
        keys_before=_key_matrix(coded["before"], names, rows),
        keys_after=_key_matrix(coded["after"], names, rows),
        key_names=names,
    )
    leak = _leakage(leakage, ids, names, leak_key, signal)
    return Inputs(claims, arrays, floats(slices["kg_location"]), leak)


def _checked(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise InputError(f"{name}: no column {field.name} ({field.metadata[b'doc'].decode()})")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        text_codes = pa.types.is_dictionary(column.type) and pa.types.is_string(field.type)
        try:
            column = column if text_codes and field.name != "outcome_id" else pc.cast(column, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{name}, column {field.name}: {error}") from error
        if not field.nullable and column.null_count:
            at = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise InputError(f"{name} row {at}, column {field.name}: is empty ({field.metadata[b'doc'].decode()})")
        columns.append(column)
    return pa.table(columns, names=schema.names)


def _outcome_codes(column: pa.ChunkedArray, ids: pa.Array, name: str) -> Ints:
    codes = pc.index_in(column, ids)
    if codes.null_count:
        at = int(np.flatnonzero(codes.is_null().to_numpy())[0])
        raise InputError(f"{name} row {at}: outcome {column[at]} is not among the claims; claim it or drop the row")
    return codes.to_numpy().astype(np.int64)


def _micros(column: pa.ChunkedArray) -> Ints:
    return column.cast(pa.int64()).to_numpy()


def _regions(column: Coded, signal: HourlySignal) -> Ints:
    return signal.region_codes(column.values)[column.codes]


def _key_matrix(columns: Sequence[Coded | None], names: tuple[str, ...], rows: int) -> Ints:
    position: Mapping[str, int] = {n: i for i, n in enumerate(names)}
    out = np.full((rows, len(columns)), -1, dtype=np.int64)
    for i, column in enumerate(columns):
        if column is not None:
            out[:, i] = np.array([position.get(v, -1) for v in column.values], dtype=np.int64)[column.codes]
    return out


def _leakage(table: pa.Table, ids: pa.Array, names: tuple[str, ...], key: Coded, signal: HourlySignal) -> Leakage:
    outcome = _outcome_codes(table["outcome_id"], ids, "leakage")
    component = encode(table["component"])
    known = np.array([LEAKAGE_COMPONENTS.index(v) if v in LEAKAGE_COMPONENTS else -1 for v in component.values])
    codes = known[component.codes].astype(np.int64)
    energy, kg = floats(table["energy_kwh"]), floats(table["kg"])
    with_energy, with_kg = ~np.isnan(energy), ~np.isnan(kg)
    reason = table["reason"].is_valid().to_numpy()
    placed = table["region"].is_valid().to_numpy() & table["at"].is_valid().to_numpy()
    named = key.codes != len(key.values) - 1
    for bad, message in (
        (codes < 0, f"its component is not one of {', '.join(LEAKAGE_COMPONENTS)}"),
        (
            with_energy.astype(int) + with_kg + reason != 1,
            "state exactly one of energy_kwh, kg, or the reason why it is zero",
        ),
        (with_energy & ~placed, "an energy needs region and at, to meet an intensity"),
        ((with_energy | with_kg) & ~named, "a number needs the factor_key of its error"),
    ):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise InputError(f"leakage row {at} ({table['outcome_id'][at]}, {table['component'][at]}): {message}")
    position = {n: i for i, n in enumerate(names)}
    key_codes = np.array([position.get(v, -1) for v in key.values], dtype=np.int64)[key.codes]
    hour = _micros(pc.fill_null(table["at"].cast(pa.int64()), 0)) // HOUR_US
    cell = np.where(with_energy, signal.cells(_regions(encode(table["region"]), signal), hour), -1)
    numbers = with_energy | with_kg
    mass = np.where(with_energy, energy * signal.at(np.maximum(cell, 0)), kg)
    stated = np.zeros((len(ids), len(LEAKAGE_COMPONENTS)), bool)
    stated[outcome, codes] = True
    texts = table["reason"].to_pylist() if reason.any() else []
    reasons = tuple((int(outcome[i]), LEAKAGE_COMPONENTS[codes[i]], texts[i]) for i in np.flatnonzero(reason))
    terms = LeakageTerms(outcome[numbers], mass[numbers], key_codes[numbers], cell[numbers])
    return Leakage(terms, codes[numbers], stated, reasons)
