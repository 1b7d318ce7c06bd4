"""`sust account` and `sust ingest`: a bill from plain files, streamed to plain files.

Belongs here: the flow from bill to ledger to emissions without a project. Memory holds a few batches, whatever the
size of the bill. The result takes the place of an older one only when all went well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress

from sust_dagster import reference
from sust_dagster.agents.accountant import FactorSet, prepare
from sust_dagster.agents.ingestor import IngestOptions, Ingestion, IngestResult, ingest
from sust_dagster.connectors.billing import FileBilling, load_mapping
from sust_dagster.connectors.grid import hourly, open_grid
from sust_dagster.connectors.instruments import read_instruments
from sust_dagster.faces.simulate import replaced
from sust_dagster.world.schemas import ACCOUNT_COLUMNS, ACTIVITY_LEDGER, EMISSIONS, QUARANTINE

#: Columns of the emissions file: the contract's, in its order, then the rest.
_COLUMNS = (*ACCOUNT_COLUMNS, *(c.name for c in EMISSIONS.columns if c.name not in ACCOUNT_COLUMNS))
_HOUR = timedelta(hours=1)


def ingest_files(
    billing: list[str], out: Path, *, mapping: str, fx: Mapping[str, float], bars: Progress
) -> dict[str, Any]:
    """Write the activity ledger of a bill to ``out`` and its quarantine beside it; returns the counts."""
    started = time.perf_counter()
    with _Output(out, ACTIVITY_LEDGER.arrow) as output:
        run = _ingestion(billing, mapping, fx)
        for result in _followed(run, bars, "ingest"):
            output.write(result.ledger)
            output.quarantine(result.quarantine)
    return {**run.summary.as_dict(), "out": str(out), "seconds": round(time.perf_counter() - started, 3)}


def account_files(
    billing: list[str],
    grid: str,
    out: Path,
    *,
    method: str,
    mapping: str,
    instruments: str,
    fx: Mapping[str, float],
    bars: Progress,
) -> dict[str, Any]:
    """Write the emissions of a bill to ``out`` and its quarantine beside it; returns counts and totals.

    One row per ledger slice. Raises the connectors' errors, each naming file, row, column and fix.
    """
    started = time.perf_counter()
    calculate = _Calculation(grid, method, read_instruments(instruments) if instruments else None)
    totals = _Totals()
    with _Output(out, pa.schema([EMISSIONS.arrow.field(c) for c in _COLUMNS])) as output:
        run = _ingestion(billing, mapping, fx)
        for result in _followed(run, bars, "ingest and account"):
            output.quarantine(result.quarantine)
            if result.ledger.num_rows:
                emissions = calculate(result.ledger).select(list(_COLUMNS))
                totals.add(emissions)
                output.write(emissions)
    return {
        **run.summary.as_dict(),
        **totals.as_dict(),
        "method": method,
        "grid": grid,
        "out": str(out),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _ingestion(billing: list[str], mapping: str, fx: Mapping[str, float]) -> Ingestion:
    options = IngestOptions(mapping=load_mapping(mapping or None), instances=reference.instances(), fx_usd=fx)
    return ingest(FileBilling(billing).read(), options)


def _followed(run: Ingestion, bars: Progress, title: str) -> Iterator[IngestResult]:
    """The results, with a bar that counts rows: how many there will be is known only at the end."""
    task = bars.add_task(title, total=None)
    for result in run:
        bars.advance(task, result.rows_read)
        yield result
    bars.update(task, total=run.summary.rows_read or 1, completed=run.summary.rows_read or 1)


class _Calculation:
    """Accounts ledger batches; the grid of the hours and regions a batch touches is read once for each span."""

    def __init__(self, grid: str, method: str, instruments: pa.Table | None) -> None:
        self._source = open_grid(grid)
        self._method = method
        self._instruments = instruments
        self._factors = FactorSet.from_table(reference.shipped_factors())
        self._ready: dict[tuple[datetime, datetime, tuple[str, ...]], Callable[[pa.Table], pa.Table]] = {}

    def __call__(self, ledger: pa.Table) -> pa.Table:
        first = pc.min(ledger.column("started_at")).as_py()
        last = pc.max(ledger.column("started_at")).as_py()
        start = first.replace(minute=0, second=0, microsecond=0)
        end = last.replace(minute=0, second=0, microsecond=0) + _HOUR
        regions = tuple(sorted(pc.unique(ledger.column("region")).to_pylist()))
        span = (start, end, regions)
        if span not in self._ready:
            self._ready.clear()
            hours = hourly(self._source, start, end, list(regions))
            self._ready[span] = prepare(
                hours.table,
                self._factors,
                method=self._method,
                instances=reference.instances(),
                instruments=self._instruments,
            )
        return EMISSIONS.conform(self._ready[span](ledger))


_SUMS = (
    "energy_kwh", "facility_kwh", "kg_location", "kg_location_lower", "kg_location_upper", "kg_market",
    "kg_market_lower", "kg_market_upper", "kg_embodied", "kg_embodied_lower", "kg_embodied_upper", "cost_usd",
)  # fmt: skip


@dataclass
class _Totals:
    """Sums over the emissions written so far; rows that have no figure are counted, not taken as zero."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SUMS, 0.0))
    not_estimated: int = 0

    def add(self, emissions: pa.Table) -> None:
        for name in _SUMS:
            self.sums[name] += pc.sum(emissions.column(name)).as_py() or 0.0
        self.not_estimated += emissions.column("kg_location").null_count

    def as_dict(self) -> dict[str, Any]:
        return {**self.sums, "slices_not_estimated": self.not_estimated}


class _Output:
    """The result file and, where there is any, the quarantine beside it: both put in place at the end."""

    def __init__(self, out: Path, schema: pa.Schema) -> None:
        self._out = out
        self._schema = schema.remove_metadata()
        self._stack = ExitStack()
        self._rejected: pq.ParquetWriter | None = None

    def __enter__(self) -> _Output:
        part = self._stack.enter_context(replaced(self._out))
        self._writer = self._stack.enter_context(pq.ParquetWriter(part, self._schema, compression="zstd"))
        part = self._stack.enter_context(replaced(quarantine_path(self._out)))
        schema = QUARANTINE.arrow.remove_metadata()
        self._rejected = self._stack.enter_context(pq.ParquetWriter(part, schema, compression="zstd"))
        return self

    def write(self, table: pa.Table) -> None:
        if table.num_rows:
            self._writer.write_table(table.cast(self._schema))

    def quarantine(self, table: pa.Table) -> None:
        if table.num_rows and self._rejected is not None:
            self._rejected.write_table(table.cast(QUARANTINE.arrow.remove_metadata()))

    def __exit__(self, *error: object) -> bool | None:
        return self._stack.__exit__(*error)  # type: ignore[arg-type]


def quarantine_path(out: Path) -> Path:
    """Where the quarantine of a result file lies."""
    return out.with_name(f"{out.stem}.quarantine.parquet")
