"""Where each billed row ends: ledger, quarantine with a reason, or a skip class with a count.

Belongs here: the rules that decide it, and the counts of it. Does not belong here: what ledger rows look like.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import (
    as_dictionary,
    codes,
    combinations,
    instants,
    microseconds,
    numbers,
    one_chunk,
    rows_as_json,
    take_text,
)
from sust_dagster.agents.ingestor.duplicates import Duplicates
from sust_dagster.agents.ingestor.keys import LineKeys
from sust_dagster.agents.ingestor.normal_form import CHARGE_KINDS, PLACE_COLUMNS, BillBatch, Rejects
from sust_dagster.agents.ingestor.resources import Resources, read_resources
from sust_dagster.agents.ingestor.slices import HOUR_US

_YEAR_2000 = 946_684_800_000_000
_YEAR_2100 = 4_102_444_800_000_000
_LONGEST = 366 * 24 * HOUR_US
_LARGEST_QUANTITY = 1e15
_LARGEST_COST = 1e12

#: Rows outside the window that was asked for: they belong to another partition.
OUTSIDE = "outside_window"
DUPLICATE = "duplicate"

#: What became of rows, by the hour they claim: null where they claim none.
COUNTS = pa.schema(
    [
        ("hour", pa.timestamp("us", tz="UTC")),
        ("source_label", pa.string()),
        ("file", pa.string()),
        ("outcome", pa.string()),
        ("class_name", pa.string()),
        ("rows", pa.int64()),
    ]
)
#: Where rows stand: for people, and never stored, because it changes without the rows changing.
POSITIONS = pa.schema([("file", pa.string()), ("row", pa.int64())])


def sort_rows(
    normal: pa.Table, instances: pa.Table | None, window: tuple[int, int] | None = None
) -> tuple[Sorting, Resources]:
    """Sort rows by all rules but that of duplicates; ``window`` (µs) skips what lies outside of it."""
    sorting = Sorting(normal)
    resources = read_resources(normal, instances)
    sorting.skip_by_kind(resources)
    if window is not None:
        sorting.skip_outside(window)
    sorting.check_rows(resources)
    return sorting, resources


class Sorting:
    """Where each row ends: free (so far bound for the ledger), skipped by class, or quarantined by reason."""

    def __init__(self, normal: pa.Table) -> None:
        self.normal = normal
        rows = normal.num_rows
        self.free = np.ones(rows, bool)
        self.quarantined = np.zeros(rows, bool)
        self.reasons: list[tuple[str, str]] = []  # (reason, column of the normal form)
        self.classes: list[str] = []
        self.code = np.full(rows, -1, np.int64)  # position in reasons or classes
        self.start, self.no_start = microseconds(normal.column("ChargePeriodStart"))
        self.end, self.no_end = microseconds(normal.column("ChargePeriodEnd"))
        self.kept_among_keyed = np.ones(0, bool)

    def skip(self, name: str, mask: np.ndarray) -> None:
        mask = mask & self.free
        if mask.any():
            if name not in self.classes:
                self.classes.append(name)
            self.code[mask] = self.classes.index(name)
            self.free &= ~mask

    def reject(self, reason: str, column: str, mask: np.ndarray) -> None:
        mask = mask & self.free
        if mask.any():
            self.reasons.append((reason, column))
            self.code[mask] = len(self.reasons) - 1
            self.quarantined |= mask
            self.free &= ~mask

    def skip_by_kind(self, resources: Resources) -> None:
        kind = as_dictionary(self.normal.column("x_ChargeKind"))
        code = codes(kind)
        for i, name in enumerate(kind.dictionary.to_pylist()):
            if name not in CHARGE_KINDS:
                self.reject("unknown_charge_type", "x_ChargeKind", code == i)
            elif name != "usage":
                self.skip(name, code == i)
        self.reject("unknown_charge_type", "x_ChargeKind", code < 0)
        for name, mask in resources.skips():
            self.skip(name, mask)

    def skip_outside(self, window: tuple[int, int]) -> None:
        dated = ~self.no_start & ~self.no_end
        start, end = np.minimum(self.start, self.end), np.maximum(self.start, self.end)
        inside = (start < window[1]) & ((end > window[0]) | (start >= window[0]))
        self.skip(OUTSIDE, dated & ~inside)

    def check_rows(self, resources: Resources) -> None:
        """Quarantine rows whose figures cannot be activity."""
        self.reject("missing_period", "ChargePeriodStart", self.no_start)
        self.reject("missing_period", "ChargePeriodEnd", self.no_end)
        self.reject("end_before_start", "ChargePeriodEnd", self.end < self.start)
        self.reject("empty_period", "ChargePeriodEnd", self.end == self.start)
        self.reject("time_out_of_range", "ChargePeriodStart", self.start < _YEAR_2000)
        self.reject("time_out_of_range", "ChargePeriodEnd", self.end > _YEAR_2100)
        self.reject("period_too_long", "ChargePeriodEnd", self.end - self.start > _LONGEST)
        quantity = one_chunk(self.normal.column("ConsumedQuantity"))
        missing = quantity.is_null().to_numpy(zero_copy_only=False)
        if missing.any():
            self.skip("cost_correction", missing & is_correction(self.normal))
            self.reject("missing_quantity", "ConsumedQuantity", missing)
        values = np.where(missing, 0.0, numbers(quantity))
        self.reject("not_finite", "ConsumedQuantity", ~np.isfinite(values))
        with np.errstate(over="ignore", invalid="ignore"):
            self.reject("out_of_range", "ConsumedQuantity", np.abs(values * resources.factor) > _LARGEST_QUANTITY)
        for column in ("BilledCost", "EffectiveCost"):
            cost = one_chunk(self.normal.column(column))
            given = cost.is_valid().to_numpy(zero_copy_only=False)
            values = np.where(given, numbers(cost), 0.0)
            self.reject("not_finite", column, ~np.isfinite(values))
            self.reject("out_of_range", column, np.abs(values) > _LARGEST_COST)

    def skip_duplicates(self, keys: LineKeys, duplicates: Duplicates) -> np.ndarray:
        """Skip lines seen before; ``keys`` are of the rows still free. Returns their ordinals."""
        rows = np.flatnonzero(self.free)
        deliveries = one_chunk(self.normal.column("x_Delivery")).to_numpy(zero_copy_only=False)[rows]
        ordinal, seen = duplicates.see(keys, deliveries)
        self.kept_among_keyed = ~seen
        mask = np.zeros(len(self.free), bool)
        mask[rows[seen]] = True
        self.skip(DUPLICATE, mask)
        return ordinal

    def skip_counts(self) -> dict[str, int]:
        skipped = ~self.free & ~self.quarantined
        found = np.bincount(self.code[skipped], minlength=len(self.classes)) if skipped.any() else []
        return {name: int(n) for name, n in zip(self.classes, found, strict=False) if n}


def is_correction(normal: pa.Table) -> np.ndarray:
    """Rows that the bill calls a correction."""
    classes = as_dictionary(normal.column("ChargeClass"))
    hit = [i for i, v in enumerate(classes.dictionary.to_pylist()) if v and v.lower() == "correction"]
    return np.isin(codes(classes), hit)


def refused_rows(batch: BillBatch, sorting: Sorting) -> tuple[Rejects, pa.Array, pa.Table]:
    """The rows of a batch that go to quarantine, first those that could not be read: the rows, the label of the
    bill of each, and where each stands (POSITIONS).
    """
    rows = np.flatnonzero(sorting.quarantined)
    found = batch.normal.take(pa.array(rows))
    refused = batch.rejects
    count = len(refused)
    if len(rows):
        refused = refused.with_rows(_checked_rejects(batch, found, rows, sorting))
    bills = as_dictionary(found.column("x_Bill")).cast(pa.string())
    unread_at = pa.table([_repeated(batch.label, count), batch.rejects.rows], schema=POSITIONS)
    at = pa.concat_tables([unread_at, positions(found)])
    return refused, pa.concat_arrays([_repeated(batch.bill_label, count), bills]), at


def positions(normal: pa.Table) -> pa.Table:
    """Where rows stand (POSITIONS)."""
    return pa.table(
        [as_dictionary(normal.column("x_File")).cast(pa.string()), normal.column("x_Row")], schema=POSITIONS
    )


def _repeated(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(count, np.int32)))


def _checked_rejects(batch: BillBatch, bad: pa.Table, rows: np.ndarray, sorting: Sorting) -> Rejects:
    """Rows refused by a rule, with the file's own names and texts where the batch has them."""
    shown = batch.raw.take(pa.array(rows)) if batch.raw is not None else bad.drop_columns(list(PLACE_COLUMNS))
    code = sorting.code[rows]
    value = pa.nulls(len(rows), pa.string())
    for i, (_, column) in enumerate(sorting.reasons):
        name = batch.source_columns.get(column, column)
        if name not in shown.column_names:
            name = column if column in shown.column_names else ""
        if name:
            text = pc.cast(one_chunk(shown.column(name)), pa.string())
            value = pc.if_else(pa.array(code == i), text, value)
    names = pa.array([batch.source_columns.get(c, c) for _, c in sorting.reasons])
    return Rejects(
        rows=one_chunk(bad.column("x_Row")),
        reason=pa.array([r for r, _ in sorting.reasons]).take(pa.array(code)),
        column=names.take(pa.array(code)),
        value=value,
        raw=rows_as_json(shown),
        hour=one_chunk(bad.column("ChargePeriodStart")),
    )


def counts(batch: BillBatch, sorting: Sorting) -> pa.Table:
    """Rows by hour claimed, bill, file, outcome and class (COUNTS)."""
    normal, rejects = batch.normal, batch.rejects
    outcome = np.where(sorting.free, 0, np.where(sorting.quarantined, 1, 2))
    correction = is_correction(normal) | (numbers(normal.column("ConsumedQuantity")) < 0)
    names = ["usage", "correction", *(r for r, _ in sorting.reasons), *sorting.classes]
    shift = np.where(outcome == 1, 2, 2 + len(sorting.reasons))
    name = np.where(outcome == 0, correction.astype(np.int64), sorting.code + shift)
    hour = np.where(sorting.no_start, np.iinfo(np.int64).min, sorting.start // HOUR_US)
    file = as_dictionary(normal.column("x_File"))
    # Rows of a stream are labelled by their hour; the stream is what is counted.
    streams = pc.replace_substring_regex(file.dictionary, r"/\d{4}-\d{2}-\d{2}T\d{2}$", "")
    file = as_dictionary(pa.DictionaryArray.from_arrays(file.indices, streams).cast(pa.string()))
    labels = [as_dictionary(normal.column("x_Bill")), file]
    tables = [_grouped(hour, labels, outcome, take_text(pa.array(names), name))]
    if len(rejects):
        start, missing = microseconds(rejects.hour)
        hour = np.where(missing, np.iinfo(np.int64).min, start // HOUR_US)
        none = np.zeros(len(rejects), np.int64)
        labels = [take_text(pa.array([text]), none) for text in (batch.bill_label, batch.label)]
        tables.append(_grouped(hour, labels, none + 1, as_dictionary(rejects.reason)))
    return pa.concat_tables(tables)


def _grouped(
    hour: np.ndarray, labels: list[pa.DictionaryArray], outcome: np.ndarray, name: pa.DictionaryArray
) -> pa.Table:
    distinct, hour_code = np.unique(hour, return_inverse=True)
    hours = pa.DictionaryArray.from_arrays(
        pa.array(hour_code.astype(np.int32)), pa.array([str(h) for h in range(len(distinct))], pa.string())
    )
    texts = [*labels, take_text(pa.array(["ledger", "quarantine", "skipped"]), outcome), name]
    group, first = combinations([hours, *texts])
    at = pa.array(first)
    hour_us = distinct[hour_code[first]] if len(first) else np.zeros(0, np.int64)
    undated = hour_us == np.iinfo(np.int64).min
    return pa.Table.from_arrays(
        [
            instants(np.where(undated, 0, hour_us) * HOUR_US, undated),
            *(text.take(at).cast(pa.string()) for text in texts),
            pa.array(np.bincount(group, minlength=len(first)).astype(np.int64)),
        ],
        schema=COUNTS,
    )
