"""A whole bill, batch by batch: running totals, duplicates over batches, bounded memory.

Belongs here: the loop over batches and the summary of what became of the rows. Both `sust account` and the Dagster
asset use it. Does not belong here: opening bills, storing results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.anomalies import ServiceHours, mark
from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, microseconds
from sust_dagster.agents.ingestor.duplicates import ContentOrder, Duplicates, Seen
from sust_dagster.agents.ingestor.ledger import IngestOptions, IngestResult, to_ledger
from sust_dagster.agents.ingestor.normal_form import BillBatch, Rejects
from sust_dagster.agents.ingestor.quarantine import NO_HOUR
from sust_dagster.agents.ingestor.slices import HOUR_US, slice_counts
from sust_dagster.agents.ingestor.sorting import OUTSIDE
from sust_dagster.world.schemas import ACTIVITY_LEDGER, INGEST_COUNTS, QUARANTINE

#: Most slices made at once; a batch of month-long rows is taken in smaller steps.
MAX_SLICES = 1_000_000
#: Rows that small batches are put together to.
GATHERED_ROWS = 65_536


@dataclass
class IngestSummary:
    """Totals over the batches so far. The three row counts always add up to ``rows_read``."""

    rows_read: int = 0
    rows_ledger: int = 0
    rows_quarantined: int = 0
    rows_skipped: int = 0
    ledger_slices: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    quality: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    cost_usd: float = 0.0
    vcpu_hours: float = 0.0
    first: datetime | None = None
    last: datetime | None = None
    service_hours: ServiceHours = field(default_factory=ServiceHours)

    def add(self, result: IngestResult) -> None:
        """Count one more result."""
        self.rows_read += result.rows_read
        self.rows_ledger += result.rows_ledger
        self.rows_quarantined += result.rows_quarantined
        self.rows_skipped += result.rows_skipped
        self.ledger_slices += result.ledger.num_rows
        self.skipped.update(result.skipped)
        _tally(self.quarantined, result.quarantine.column("reason"))
        texts: Counter[str] = Counter()
        _tally(texts, result.ledger.column("quality"))
        for text, n in texts.items():
            for flag in text.split(";"):
                self.quality[flag] += n
        for label, n in zip(*(result.counts.column(c).to_pylist() for c in ("file", "rows")), strict=True):
            self.files[label] += n
        self.cost_usd += pc.sum(result.ledger.column("cost_usd")).as_py() or 0.0
        self.vcpu_hours += pc.sum(result.ledger.column("vcpu_hours")).as_py() or 0.0
        if result.ledger.num_rows:
            first = pc.min(result.ledger.column("started_at")).as_py()
            last = pc.max(result.ledger.column("ended_at")).as_py()
            self.first = min(self.first, first) if self.first else first
            self.last = max(self.last, last) if self.last else last
            self.service_hours.add(result.ledger)

    def as_dict(self) -> dict[str, object]:
        """The summary as plain values, ready for JSON."""
        return {
            "rows_read": self.rows_read,
            "rows_ledger": self.rows_ledger,
            "rows_quarantined": self.rows_quarantined,
            "rows_skipped": self.rows_skipped,
            "ledger_slices": self.ledger_slices,
            "skipped": dict(sorted(self.skipped.items())),
            "quarantined": dict(sorted(self.quarantined.items())),
            "quality": dict(sorted(self.quality.items())),
            "files": dict(sorted(self.files.items())),
            "cost_usd": self.cost_usd,
            "vcpu_hours": self.vcpu_hours,
            "first": self.first.isoformat() if self.first else None,
            "last": self.last.isoformat() if self.last else None,
        }


def _tally(counter: Counter[str], column: pa.ChunkedArray) -> None:
    if len(column):
        found = pc.value_counts(column)
        counter.update(
            dict(
                zip(found.field("values").to_pylist(), (int(n) for n in found.field("counts").to_pylist()), strict=True)
            )
        )


class Ingestion:
    """An iterator of results over batches; ``summary`` grows as it is consumed."""

    def __init__(
        self,
        batches: Iterable[BillBatch],
        options: IngestOptions | None = None,
        *,
        window: tuple[datetime, datetime] | None = None,
        undated: datetime | None = None,
        max_slices: int = MAX_SLICES,
        order: ContentOrder | None = None,
    ) -> None:
        self.options = options or IngestOptions()
        self.summary = IngestSummary()
        self._batches = gathered(batches)
        self._seen = Seen(Duplicates(order=order))
        self._window = (_micros(window[0]), _micros(window[1])) if window else None
        self._undated = _micros(undated) if undated else (self._window[0] if self._window else None)
        self._max_slices = max_slices
        self._ready: Iterator[IngestResult] = iter(())

    def __iter__(self) -> Iterator[IngestResult]:
        return self

    def __next__(self) -> IngestResult:
        while True:
            result = next(self._ready, None)
            if result is not None:
                self.summary.add(result)
                return result
            self._ready = self._results(next(self._batches))

    def _results(self, batch: BillBatch) -> Iterator[IngestResult]:
        if self._undated is None and batch.normal.num_rows:
            start, missing = microseconds(batch.normal.column("ChargePeriodStart"))
            if not missing.all():
                self._undated = int(start[~missing].min()) // HOUR_US * HOUR_US
        undated = NO_HOUR if self._undated is None else self._undated
        for low, high in _steps(batch.normal, self._max_slices):
            step = replace(
                batch,
                normal=batch.normal.slice(low, high - low),
                raw=batch.raw.slice(low, high - low) if batch.raw is not None else None,
                rejects=batch.rejects if low == 0 else Rejects(),
            )
            yield to_ledger(step, self.options, seen=self._seen, window=self._window, undated=undated)


def gathered(batches: Iterable[BillBatch], rows: int = GATHERED_ROWS) -> Iterator[BillBatch]:
    """The same rows in fewer batches: small neighbours of one shape become one, because work per batch has a fixed
    part. A batch with rejects stays alone: its rejects belong to its file.
    """
    held: list[BillBatch] = []
    for batch in batches:
        small = batch.normal.num_rows < rows and not len(batch.rejects)
        fits = small and (not held or _alike(held[0], batch))
        if held and (not fits or sum(b.normal.num_rows for b in held) + batch.normal.num_rows > rows):
            yield _together(held)
            held = []
        if small:
            held.append(batch)
        else:
            yield batch
    if held:
        yield _together(held)


def _alike(first: BillBatch, second: BillBatch) -> bool:
    if first.source_columns != second.source_columns or (first.raw is None) != (second.raw is None):
        return False
    return first.raw is None or second.raw is None or first.raw.schema.equals(second.raw.schema)


def _together(batches: list[BillBatch]) -> BillBatch:
    if len(batches) == 1:
        return batches[0]
    raw = [b.raw for b in batches if b.raw is not None]
    return BillBatch(
        label=batches[0].label,
        normal=pa.concat_tables([b.normal for b in batches]).unify_dictionaries().combine_chunks(),
        raw=pa.concat_tables(raw).unify_dictionaries().combine_chunks() if raw else None,
        source_columns=batches[0].source_columns,
        bill=batches[0].bill,
    )


def ingest(
    batches: Iterable[BillBatch],
    options: IngestOptions | None = None,
    *,
    window: tuple[datetime, datetime] | None = None,
    undated: datetime | None = None,
) -> Ingestion:
    """Turn batches into ledger rows, quarantine and counts, one result at a time.

    Memory is bounded by the batch, plus 20 bytes per distinct usage line for duplicates. ``window`` keeps only
    slices that start in it. ``undated`` is the hour of quarantined rows that claim none (default: the window's
    first, else the first hour met). Of lines with one key and different content, which is numbered first, and which
    is left out as a duplicate, follows the order of the rows here, unlike in :func:`ingest_range`.
    """
    return Ingestion(batches, options, window=window, undated=undated)


def ingest_in_any_order(
    batches: Iterable[BillBatch],
    options: IngestOptions | None = None,
    *,
    window: tuple[datetime, datetime] | None = None,
    undated: datetime | None = None,
) -> tuple[list[IngestResult], IngestSummary]:
    """All results at once, the same (but for their order) whatever the order of the rows within a delivery.

    The batches are held in memory: where the number of a line depended on the order of the rows, they are gone
    through a second time. Arguments as for :func:`ingest`.
    """
    held: list[BillBatch] = []
    order = ContentOrder()
    run = Ingestion(_holding(batches, held), options, window=window, undated=undated, order=order)
    results = list(run)
    if order.settle():
        run = Ingestion(held, options, window=window, undated=undated, order=order)
        results = list(run)
    return results, run.summary


def _holding(batches: Iterable[BillBatch], held: list[BillBatch]) -> Iterator[BillBatch]:
    """The batches as they come, which they do while earlier ones are worked on; each is kept in ``held``."""
    for batch in batches:
        held.append(batch)
        yield batch


@dataclass(frozen=True)
class RangeResult:
    """A range of hours, ready to be stored: ledger, quarantine and counts in their declared schemas."""

    ledger: pa.Table
    quarantine: pa.Table
    counts: pa.Table
    totals: IngestSummary

    @property
    def rows_read(self) -> int:
        """Input rows whose charge period starts in the range (undated ones included in their range)."""
        return pc.sum(self.counts.column("rows")).as_py() or 0

    def summary(self) -> dict[str, int]:
        """Row counts of the range by outcome, and slices."""
        outcome = self.counts.column("outcome")
        rows = {
            name: pc.sum(self.counts.column("rows").filter(pc.equal(outcome, key))).as_py() or 0
            for name, key in (
                ("rows_ledger", "ledger"),
                ("rows_quarantined", "quarantine"),
                ("rows_skipped", "skipped"),
            )
        }
        return {"rows_read": self.rows_read, **rows, "ledger_slices": self.ledger.num_rows}


def ingest_range(
    batches: Iterable[BillBatch],
    start: datetime,
    end: datetime,
    options: IngestOptions | None = None,
    *,
    undated: datetime | None = None,
    history: ServiceHours | None = None,
) -> RangeResult:
    """One range of hours ``[start, end)`` in memory, for storing by hour.

    A row is counted, and quarantined, in the hour its charge period starts; its slices go to their own hours.
    So ranges side by side give what one range over all gives, and the content of an hour does not depend on the
    order of the bill's rows or on the files of one bill they are in. ``undated`` is the project's hour for rows that
    claim none (default ``start``). Cost spikes are marked against the services' hours of the range and
    ``history``.
    """
    undated = undated or start
    results, summary = ingest_in_any_order(batches, options, window=(start, end), undated=undated)
    low, high = _micros(start), _micros(end)
    ledger = pa.concat_tables([ACTIVITY_LEDGER.empty(), *(r.ledger for r in results)]).combine_chunks()
    quarantine = pa.concat_tables([QUARANTINE.empty(), *(r.quarantine for r in results)])
    quarantine = quarantine.filter(_inside(quarantine.column("quarantined_for"), low, high))
    return RangeResult(
        ledger=mark(ledger, history),
        quarantine=quarantine.combine_chunks(),
        counts=_range_counts([r.counts for r in results], low, high, _micros(undated)),
        totals=summary,
    )


def _range_counts(tables: list[pa.Table], low: int, high: int, undated: int) -> pa.Table:
    if not tables:
        return INGEST_COUNTS.empty()
    table = pa.concat_tables(tables)
    hour = pc.fill_null(table.column("hour"), pa.scalar(undated // HOUR_US * HOUR_US, pa.timestamp("us", tz="UTC")))
    table = table.set_column(0, "hour", hour)
    table = table.filter(pc.and_(_inside(hour, low, high), pc.not_equal(table.column("class_name"), OUTSIDE)))
    keys = ["hour", "source_label", "outcome", "class_name"]
    grouped = table.group_by(keys).aggregate([("rows", "sum")]).rename_columns([*keys, "rows"])
    return INGEST_COUNTS.conform(grouped.sort_by([(k, "ascending") for k in keys]))


def _inside(times: pa.ChunkedArray, low: int, high: int) -> pa.Array:
    at, missing = microseconds(times)
    return pa.array((at >= low) & (at < high) & ~missing)


def _steps(normal: pa.Table, most: int) -> Iterator[tuple[int, int]]:
    """Row ranges that make at most ``most`` slices each (a single row may make more)."""
    rows = normal.num_rows
    start, no_start = microseconds(normal.column("ChargePeriodStart"))
    end, no_end = microseconds(normal.column("ChargePeriodEnd"))
    counts = np.where(no_start | no_end, 1, np.clip(slice_counts(start, end), 1, 366 * 24))
    kind = as_dictionary(normal.column("x_ChargeKind"))
    usage = [i for i, v in enumerate(kind.dictionary.to_pylist()) if v == "usage"]
    counts = np.where(np.isin(codes(kind), usage), counts, 1)
    total = np.cumsum(counts)
    if not rows or total[-1] <= most:
        yield 0, rows
        return
    step = (total - 1) // most
    borders = [0, *(np.flatnonzero(np.diff(step)) + 1).tolist(), rows]
    yield from pairwise(borders)


def _micros(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no zone; times are UTC, e.g. 2026-10-01T00:00:00+00:00")
    whole = moment.astimezone(UTC)
    delta = whole - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
