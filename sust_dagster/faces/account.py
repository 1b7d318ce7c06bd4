"""`sust account` and `sust ingest`: a bill from plain files, streamed to plain files.

Belongs here: the flow from bill to ledger to emissions without a project, its totals and its notices. Memory holds
a few batches, whatever the size of the bill. The results take the place of older ones only when all went well; the
quarantine is always written beside them, empty where no row was refused, so that an old one never stays.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress

from sust_dagster import reference
from sust_dagster.agents.accountant import account_stream
from sust_dagster.agents.ingestor import Ingestion, IngestOptions, IngestResult, ingest
from sust_dagster.agents.ingestor.sorting import POSITIONS
from sust_dagster.connectors.billing import BillingError, FileBilling, load_mapping
from sust_dagster.connectors.billing.errors import UnknownFormatError
from sust_dagster.connectors.grid import GapPolicy, IntensityMethod, StaticGrid, open_grid
from sust_dagster.connectors.instruments import read_instruments
from sust_dagster.faces.calculation import Calculation
from sust_dagster.faces.simulate import replaced
from sust_dagster.world.schemas import ACCOUNT_COLUMNS, ACTIVITY_LEDGER, EMISSIONS, QUARANTINE

#: Columns of the emissions file: the contract's, in its order, then the rest.
_COLUMNS = (*ACCOUNT_COLUMNS, *(c.name for c in EMISSIONS.columns if c.name not in ACCOUNT_COLUMNS))


@dataclass(frozen=True)
class GridChoice:
    """Which grid, which of its figures, and what stands in where it has none."""

    sources: Sequence[str] = ("static",)
    method: IntensityMethod | None = None
    gap_policy: GapPolicy = "last_known"
    fallback: bool = False


def ingest_files(
    billing: Sequence[str], out: Path, *, mapping: str, fx: Mapping[str, float], bars: Progress
) -> dict[str, Any]:
    """Write the activity ledger of a bill to ``out`` and its quarantine beside it; returns the counts."""
    started = time.perf_counter()
    _refuse_overwriting(billing, out)
    bill = _Bill(billing)
    costs = _Costs()
    with _Output(out, ACTIVITY_LEDGER.arrow) as output:
        run = bill.ingestion(mapping, fx)
        for result in _followed(run, bars, "ingest"):
            costs.add(result.ledger)
            output.write(result.ledger)
            output.quarantine(result)
    return {
        **_counts(run),
        "cost_usd": costs.usd,
        "cost_by_currency": costs.by_currency,
        "files_passed_over": bill.passed_over,
        "notices": [*bill.notices, *_quarantine_notice(run, out)],
        "out": str(out),
        "quarantine": str(quarantine_path(out)),
        "seconds": round(time.perf_counter() - started, 3),
    }


def account_files(
    billing: Sequence[str],
    grid: GridChoice,
    out: Path,
    *,
    method: str,
    mapping: str,
    instruments: str,
    fx: Mapping[str, float],
    bars: Progress,
) -> dict[str, Any]:
    """Write the emissions of a bill to ``out`` and its quarantine beside it; returns counts, totals and notices.

    One row per ledger slice. A total is None where no slice has a figure: nothing is taken as zero. Raises the
    connectors' errors, each naming file, row, column and fix.
    """
    started = time.perf_counter()
    _refuse_overwriting([*billing, *grid.sources], out)
    calculate = Calculation(
        open_grid(grid.sources, method=grid.method),
        method=method,
        instruments=read_instruments(instruments) if instruments else None,
        gap_policy=grid.gap_policy,
        fallback=StaticGrid() if grid.fallback else None,
    )
    bill = _Bill(billing)
    totals, costs = _Totals(), _Costs()
    with _Output(out, pa.schema([EMISSIONS.arrow.field(c) for c in _COLUMNS])) as output:
        run = bill.ingestion(mapping, fx)

        def ledgers() -> Iterator[pa.Table]:
            for result in _followed(run, bars, "ingest and account"):
                output.quarantine(result)
                costs.add(result.ledger)
                if result.ledger.num_rows:
                    yield result.ledger

        def keep(emissions: pa.Table) -> None:
            totals.add(emissions)
            output.write(emissions.select(list(_COLUMNS)))

        account_stream(ledgers(), keep, calculate)
    source, coverage = calculate.source, calculate.coverage
    notices = [*bill.notices, *source.notices, *coverage.notices(), *_quarantine_notice(run, out)]
    return {
        **_counts(run),
        **totals.as_dict(),
        "cost_usd": costs.usd,
        "cost_by_currency": costs.by_currency,
        "slices_no_intensity": coverage.no_intensity,
        "slices_grid_fallback": coverage.fallback,
        "method": method,
        "grid": list(grid.sources),
        "grid_files": dict(source.files),
        "intensity_method": " and ".join(source.methods),
        "gap_policy": grid.gap_policy,
        "grid_fallback": "static" if grid.fallback else "none",
        "files_passed_over": bill.passed_over,
        "notices": notices,
        "out": str(out),
        "quarantine": str(quarantine_path(out)),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _counts(run: Ingestion) -> dict[str, Any]:
    return dict(run.summary.as_dict())


def _refuse_overwriting(inputs: Sequence[str], out: Path) -> None:
    """A result must not take the place of an input, nor be found as a bill by the next run."""
    if out.is_dir():
        raise BillingError("is a folder; the result is one Parquet file", file=str(out), fix="give --out FILE.parquet")
    target = out.absolute().resolve()
    for given in inputs:
        if "://" in given or given == "static":
            continue
        path = Path(given).expanduser().absolute().resolve()
        if path in (target, quarantine_path(target)):
            raise BillingError("the result would overwrite an input", file=given, fix="give another --out")
        if path.is_dir() and path in target.parents:
            raise BillingError(
                f"the result {out} would lie inside an input folder, where the next run would read it",
                file=given,
                fix="give an --out elsewhere",
            )


def _quarantine_notice(run: Ingestion, out: Path) -> list[str]:
    refused = run.summary.rows_quarantined
    return [f"{refused:,} rows are quarantined, each with its reason: {quarantine_path(out)}"] if refused else []


class _Bill:
    """The bill files; those of a folder that are in no format of bills are passed over, and said."""

    def __init__(self, billing: Sequence[str]) -> None:
        self._source = FileBilling(billing)
        self.passed_over: list[str] = []
        if any("://" in b or Path(b).expanduser().is_dir() for b in billing):
            self._pass_over({str(Path(b).expanduser().absolute()) for b in billing if "://" not in b} | set(billing))

    def _pass_over(self, named: set[str]) -> None:
        kept = []
        for file in self._source.files:
            probe = copy(self._source)
            probe.files = [file]
            try:
                probe.describe()
            except UnknownFormatError:
                if file.path in named or any(n.endswith(f"://{file.path}") for n in named):
                    raise
                self.passed_over.append(file.label)
                continue
            kept.append(file)
        if not kept:
            raise BillingError(
                f"no file of the folder is a bill: {', '.join(self.passed_over[:8])}",
                fix="export FOCUS 1.0-1.3, AWS CUR or CUR 2.0, a GCP billing export, Azure cost details or OCI",
            )
        self._source.files = kept

    @property
    def notices(self) -> list[str]:
        if not self.passed_over:
            return []
        return [f"passed over, no bill by their columns: {', '.join(self.passed_over)}"]

    def ingestion(self, mapping: str, fx: Mapping[str, float]) -> Ingestion:
        options = IngestOptions(mapping=load_mapping(mapping or None), instances=reference.instances(), fx_usd=fx)
        return ingest(self._source.read(), options)


def _followed(run: Ingestion, bars: Progress, title: str) -> Iterator[IngestResult]:
    """The results, with a bar that counts rows: how many there will be is known only at the end."""
    task = bars.add_task(title, total=None)
    for result in run:
        bars.advance(task, result.rows_read)
        yield result
    bars.update(task, total=run.summary.rows_read or 1, completed=run.summary.rows_read or 1)


_SUMS = (
    "energy_kwh", "facility_kwh", "kg_location", "kg_location_lower", "kg_location_upper", "kg_market",
    "kg_market_lower", "kg_market_upper", "kg_embodied", "kg_embodied_lower", "kg_embodied_upper",
)  # fmt: skip


@dataclass
class _Totals:
    """Sums over the emissions written so far; rows that have no figure are counted, not taken as zero."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SUMS, 0.0))
    figures: Counter[str] = field(default_factory=Counter)
    slices: int = 0
    not_estimated: int = 0

    def add(self, emissions: pa.Table) -> None:
        self.slices += emissions.num_rows
        for name in _SUMS:
            column = emissions.column(name)
            self.sums[name] += pc.sum(column).as_py() or 0.0
            self.figures[name] += emissions.num_rows - column.null_count
        self.not_estimated += emissions.column("kg_location").null_count

    def as_dict(self) -> dict[str, Any]:
        known = {n: v if self.figures[n] or not self.slices else None for n, v in self.sums.items()}
        return {**known, "slices_not_estimated": self.not_estimated}


class _Costs:
    """Cost of the ledger rows so far: in USD where it is known, and as billed in each currency."""

    def __init__(self) -> None:
        self._usd = 0.0
        self._figures = self._rows = 0
        self._billed: dict[str, list[float]] = {}

    def add(self, ledger: pa.Table) -> None:
        usd = ledger.column("cost_usd")
        self._usd += pc.sum(usd).as_py() or 0.0
        self._figures += len(usd) - usd.null_count
        self._rows += len(usd)
        sums = ledger.group_by("billing_currency", use_threads=False).aggregate([("billed_cost", "sum")])
        for row in sums.to_pylist():
            if row["billing_currency"] and row["billed_cost_sum"] is not None:
                self._billed.setdefault(row["billing_currency"], []).append(row["billed_cost_sum"])

    @property
    def usd(self) -> float | None:
        return self._usd if self._figures or not self._rows else None

    @property
    def by_currency(self) -> dict[str, float]:
        return {currency: math.fsum(parts) for currency, parts in sorted(self._billed.items())}


class _Output:
    """The result file and the quarantine beside it, both put in place at the end.

    Text comes as dictionaries, which Parquet writes cheaply; without Arrow's own schema in the file, every reader
    sees plain strings. The quarantine also says in which file and row each record stands, for whoever mends it.
    """

    def __init__(self, out: Path, schema: pa.Schema) -> None:
        self._out = out
        self._schema = schema.remove_metadata()
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._cast = self._schema

    def __enter__(self) -> _Output:
        with ExitStack() as opening:
            self._part = opening.enter_context(replaced(self._out))
            part = opening.enter_context(replaced(quarantine_path(self._out)))
            self._rejected_schema = pa.schema([*QUARANTINE.arrow, *POSITIONS]).remove_metadata()
            self._rejected = opening.enter_context(pq.ParquetWriter(part, self._rejected_schema, compression="zstd"))
            opening.push(self._close)
            self._stack = opening.pop_all()
        return self

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._open(table.schema)
        if table.num_rows and self._writer is not None:
            self._writer.write_table(table.cast(self._cast))

    def quarantine(self, result: IngestResult) -> None:
        table = result.quarantine
        if table.num_rows:
            for name in POSITIONS.names:
                table = table.append_column(name, result.quarantine_at.column(name))
            self._rejected.write_table(table.cast(self._rejected_schema))

    def _open(self, given: pa.Schema) -> None:
        """Columns as declared, but for text that comes as dictionaries."""
        text = pa.dictionary(pa.int32(), pa.string())
        self._cast = pa.schema(
            [f.with_type(text) if pa.types.is_dictionary(given.field(f.name).type) else f for f in self._schema]
        )
        self._writer = pq.ParquetWriter(self._part, self._cast, compression="zstd", store_schema=False)

    def _close(self, kind: object, *_: object) -> None:
        if self._writer is None and kind is None:
            self._open(self._schema)
        if self._writer is not None:
            self._writer.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


def quarantine_path(out: Path) -> Path:
    """Where the quarantine of a result file lies."""
    return out.with_name(f"{out.stem}.quarantine.parquet")
