"""The measured cost delta: the bill as it came less the bill as it would have come at home, at the original time.

Belongs here: which size usage had at home, joining it to the price in force, adding up by outcome. Does not belong
here: reading bills or price lists, currencies other than USD, what a plan expected.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Floats, to_arrow
from sust_dagster.agents.verifier.causal.inputs import (
    CheckInputError,
    Flags,
    Ints,
    instants,
    keys,
    numbers,
    require,
)
from sust_dagster.world.schemas import FLOAT, INT, STRING

#: One row per outcome, USD. delta = actual - counterfactual; null, with the reason, where a price or a bill is missing.
COSTS = pa.schema(
    [
        ("outcome_id", STRING),
        ("measured_cost_delta_usd", FLOAT),
        ("actual_usd", FLOAT),
        ("egress_usd", FLOAT),
        ("counterfactual_usd", FLOAT),
        ("slices", INT),
        ("slices_without_price", INT),
        ("slices_without_bill", INT),
        ("reason", STRING),
    ]
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at_home(usage: pa.Table, cases: pa.Table) -> pa.Table:
    """The usage of moved runs (``runs.Moved.usage``) as the ``slices`` of :func:`cost_delta`, in the same order.

    ``cases``: outcome_id, home_instance_type (the size the plan says the workload had; null or empty where it says
    none). The same hours would have been billed at home for that size, or for the size they ran in where none is said.
    Raises :class:`CheckInputError` for missing columns.
    """
    require(usage, ("outcome_id", "instance_type", "home_region", "original_at", "usage_hours", "cost_usd"), "usage")
    require(cases, ("outcome_id", "home_instance_type"), "cases")
    said = cases["home_instance_type"].combine_chunks().cast(STRING)
    said = pc.if_else(pc.equal(said, ""), pa.scalar(None, STRING), said)
    case = pc.index_in(usage["outcome_id"].cast(STRING), cases["outcome_id"].combine_chunks().cast(STRING))
    return pa.table(
        {
            "outcome_id": usage["outcome_id"],
            "sku": pc.coalesce(pc.take(said, case), usage["instance_type"].cast(STRING)),
            "home_region": usage["home_region"],
            "original_at": usage["original_at"],
            "usage_amount": usage["usage_hours"],
            "billed_usd": usage["cost_usd"],
        }
    )


def cost_delta(slices: pa.Table, egress: pa.Table, prices: pa.Table, outcomes: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The cost delta of each of ``outcomes``: schema :data:`COSTS`, in their order.

    ``slices``, one row per billed slice of a run (at most an hour, so that a price that changes within a run meets the
    hours it held for): outcome_id, sku, home_region, original_at (UTC: when this usage would have happened),
    usage_amount (in the price's unit; what the run would have used at home), billed_usd (as billed where it ran; null
    not billed yet). ``egress``, one row per egress charge of moving: outcome_id, billed_usd. ``prices``: region, sku,
    valid_from, valid_to (half-open, null valid_to for still), usd_per_unit (null: not on offer).

    ``reason``: 'no_usage', 'price_missing: region, sku at time (n of m slices)' naming the first, or
    'bill_missing: n of m charges'. Raises :class:`CheckInputError` for missing columns, null keys, prices that
    overlap.
    """
    what = "slices of cost_delta"
    require(slices, ("outcome_id", "sku", "home_region", "original_at", "usage_amount", "billed_usd"), what)
    require(egress, ("outcome_id", "billed_usd"), "egress of cost_delta")
    wanted = outcomes.to_pylist()
    if len(set(wanted)) != len(wanted) or None in wanted:
        raise CheckInputError("cost_delta: outcomes has a null or an id twice; each outcome is asked for once")
    n = len(wanted)
    at, paid_at = _place(slices, wanted, what), _place(egress, wanted, "egress of cost_delta")
    usage, billed = numbers(slices, "usage_amount", what), numbers(slices, "billed_usd", what)
    moved = numbers(egress, "billed_usd", "egress of cost_delta")
    when, known = instants(slices, "original_at", what)
    price = _price_at(slices, when, prices, what)
    at_home = usage * np.where(known, price, np.nan)
    unpriced = (at >= 0) & np.isnan(at_home)
    unbilled = _count(at, np.isnan(billed), n) + _count(paid_at, np.isnan(moved), n)
    counted, no_price = _count(at, np.ones(len(at), bool), n), _count(at, unpriced, n)
    charges = counted + _count(paid_at, np.ones(len(paid_at), bool), n)
    no_bill, no_egress = unbilled > 0, _count(paid_at, np.isnan(moved), n) > 0
    egress_usd = np.where(no_egress, np.nan, _total(paid_at, moved, n))
    actual = np.where(no_bill | (counted == 0), np.nan, _total(at, billed, n) + _total(paid_at, moved, n))
    home = np.where((no_price > 0) | (counted == 0), np.nan, _total(at, at_home, n))
    reasons: list[str | None] = [None] * n
    for i in np.flatnonzero((counted == 0) | (no_price > 0) | no_bill):
        if counted[i] == 0:
            reasons[i] = "no_usage"
        elif no_price[i]:
            first = int(((at == i) & unpriced).argmax())
            reasons[i] = f"price_missing: {_named(slices, first, when, known)} ({no_price[i]} of {counted[i]} slices)"
        else:
            reasons[i] = f"bill_missing: {unbilled[i]} of {charges[i]} charges"
    return pa.table(
        {
            "outcome_id": pa.array(wanted, STRING),
            "measured_cost_delta_usd": to_arrow(actual - home),
            "actual_usd": to_arrow(actual),
            "egress_usd": to_arrow(egress_usd),
            "counterfactual_usd": to_arrow(home),
            "slices": counted,
            "slices_without_price": no_price,
            "slices_without_bill": unbilled,
            "reason": pa.array(reasons, STRING),
        },
        schema=COSTS,
    )


def _place(table: pa.Table, wanted: list[str], what: str) -> Ints:
    """The position of each row's outcome among ``wanted``, -1 for others."""
    outcome = keys(table, "outcome_id", what)
    place = {name: i for i, name in enumerate(wanted)}
    return np.array([place.get(v, -1) for v in outcome.values], np.int64)[outcome.codes]


def _count(at: Ints, which: Flags, n: int) -> Ints:
    return np.bincount(at[(at >= 0) & which], minlength=n)


def _total(at: Ints, values: Floats, n: int) -> Floats:
    mine = (at >= 0) & ~np.isnan(values)
    return np.bincount(at[mine], values[mine], minlength=n).astype(np.float64)


def _price_at(slices: pa.Table, when: Ints, prices: pa.Table, what: str) -> Floats:
    """USD per unit in force at each slice's original time, NaN where there is none."""
    of = "prices of cost_delta"
    require(prices, ("region", "sku", "valid_from", "valid_to", "usd_per_unit"), of)
    both = {
        "place": pa.chunked_array(
            [*pc.cast(prices["region"], STRING).chunks, *pc.cast(slices["home_region"], STRING).chunks], STRING
        ),
        "sku": pa.chunked_array(
            [*pc.cast(prices["sku"], STRING).chunks, *pc.cast(slices["sku"], STRING).chunks], STRING
        ),
    }
    together = pa.table(both)
    sku = keys(together, "sku", f"{of} and {what}")
    item = keys(together, "place", f"{of} and {what}").codes * max(sku.n, 1) + sku.codes
    usd = numbers(prices, "usd_per_unit", of)
    start, started = instants(prices, "valid_from", of)
    end, ended = instants(prices, "valid_to", of)
    if not started.all():
        raise CheckInputError(f"{of}: column valid_from, row {int((~started).argmax())} is null; every price begins")
    end = np.where(ended, end, np.iinfo(np.int64).max)
    if (end <= start).any():
        raise CheckInputError(f"{of}: row {int((end <= start).argmax())} ends before it begins")
    of_price, of_slice = item[: len(usd)], item[len(usd) :]
    order = np.lexsort((start, of_price))
    of_price, start, end, usd = of_price[order], start[order], end[order], usd[order]
    overlap = (of_price[1:] == of_price[:-1]) & (start[1:] < end[:-1])
    if overlap.any():
        row = int(order[1:][overlap.argmax()])
        raise CheckInputError(
            f"{of}: row {row} overlaps another price of {prices['region'][row]}, {prices['sku'][row]}"
        )
    return _in_force(of_price, start, end, usd, of_slice, when)


def _in_force(of_price: Ints, start: Ints, end: Ints, usd: Floats, item: Ints, when: Ints) -> Floats:
    """The last price of the same item that began at or before ``when``, unless it has ended."""
    if len(usd) == 0 or len(when) == 0:
        return np.full(len(when), np.nan)
    # One sort of prices and slices together; a price comes before a slice of the same instant.
    n = len(usd)
    order = np.lexsort((np.arange(n + len(when)) >= n, np.append(start, when), np.append(of_price, item)))
    is_price = order < n
    last = np.maximum.accumulate(np.where(is_price, np.arange(len(order)), -1))
    asked = np.flatnonzero(~is_price)
    found = last[asked] >= 0
    row = order[np.where(found, last[asked], 0)]
    row = np.where(found & (row < n), row, 0)
    slice_of = order[asked] - n
    good = found & (of_price[row] == item[slice_of]) & (when[slice_of] < end[row])
    price = np.empty(len(when))
    price[slice_of] = np.where(good, usd[row], np.nan)
    return price


def _named(slices: pa.Table, row: int, when: Ints, known: Flags) -> str:
    at = f"{_EPOCH + timedelta(microseconds=int(when[row])):%Y-%m-%dT%H:%MZ}" if known[row] else "an unknown time"
    return f"{slices['home_region'][row]}, {slices['sku'][row]} at {at}"
