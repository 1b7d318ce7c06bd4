"""Grid carbon intensity: static table, files, the simulated grid.

Belongs here: sources behind one protocol, the function that opens one by name, and the one way to stand in for
hours a source does not hold. Hourly resampling, gap policy and error boxes are the accountant's:
``agents.accountant.grid.normalise`` takes what a source reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.grid import GapPolicy, HourlyGrid, normalise
from sust_dagster.agents.accountant.quality import merge
from sust_dagster.connectors.grid.files import FileGrid
from sust_dagster.connectors.grid.layouts import IntensityMethod
from sust_dagster.connectors.grid.protocol import GridError, GridSource
from sust_dagster.connectors.grid.static import StaticGrid

__all__ = [
    "FALLBACK_FLAG", "FileGrid", "GapPolicy", "GridError", "GridSource", "IntensityMethod", "StaticGrid", "hourly",
    "open_grid",
]  # fmt: skip

#: Flag of an hour that a stand-in source gave, because the source asked for does not hold it.
FALLBACK_FLAG = "grid_fallback"

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def open_grid(
    source: str | Path | Sequence[str | Path],
    *,
    method: IntensityMethod | None = None,
    signal: str = "average",
) -> FileGrid | StaticGrid:
    """Open ``'static'``, a file, a folder of files, or several of them as one grid source.

    ``method`` chooses between the two intensities of an Electricity Maps download, names that of a file which does
    not say, and then nothing else is taken; ``None`` takes life-cycle figures where there are any. ``signal``
    likewise. Files of a folder that are no grid files are passed over. Raises :class:`GridError` where nothing
    readable is there; a file's content is checked when it is first read.
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    if given == ["static"]:
        return _static(method)
    if "static" in given:
        raise GridError("'static' is given beside files", fix="give files alone, and --grid-fallback static")
    paths: list[Path] = []
    found: set[Path] = set()
    for entry in given:
        path = Path(entry).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if _is_candidate(p))
            if not inside:
                raise GridError(
                    "the folder holds no grid file", file=str(path), fix=f"it needs {' or '.join(_SUFFIXES)}"
                )
            paths += inside
            found |= set(inside)
        elif path.exists():
            paths.append(path)
        else:
            raise GridError("no such file or folder", file=str(path), fix="or give 'static' for annual means")
    if not paths:
        raise GridError("no grid file given", fix="give a path, or 'static' for annual means")
    named = frozenset(found) - {Path(e).expanduser() for e in given}
    return FileGrid(tuple(dict.fromkeys(paths)), method=method, signal=signal, found=named)


def _static(method: IntensityMethod | None) -> StaticGrid:
    if method == "direct":
        raise GridError("the annual means are life-cycle figures", fix="give a grid file that holds direct intensity")
    return StaticGrid()


def _is_candidate(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_SUFFIXES) and not path.name.startswith((".", "_"))


def hourly(
    source: GridSource,
    start: datetime,
    end: datetime,
    regions: Sequence[str],
    *,
    gap_policy: GapPolicy = "last_known",
    max_gap_hours: int = 3,
    fallback: GridSource | None = None,
) -> HourlyGrid:
    """Hourly ``GRID_INTENSITY`` rows of ``[start, end)`` from a source, and its gaps.

    Reads a few hours before ``start`` too, so that a gap there is treated like any other. Hours that are still
    missing then come from ``fallback``, if there is one, each flagged ``grid_fallback``; the gaps are the source's
    own. Raises :class:`GridError` or ``GridDataError``.
    """
    raw = source.read(start - timedelta(hours=max_gap_hours), end, regions)
    hours = normalise(raw, start=start, end=end, regions=regions, gap_policy=gap_policy, max_gap_hours=max_gap_hours)
    if fallback is None:
        return hours
    stand_in = normalise(fallback.read(start, end, regions), start=start, end=end, regions=regions).table
    return HourlyGrid(_completed(hours.table, stand_in, start, end, regions), hours.gaps)


def _completed(table: pa.Table, stand_in: pa.Table, start: datetime, end: datetime, regions: Sequence[str]) -> pa.Table:
    """The table, and from the stand-in the (region, hour) cells it lacks."""
    names = pa.array(sorted(set(regions)), pa.string())
    first, span = int(start.timestamp()) // 3600, int((end - start).total_seconds()) // 3600

    def cells(rows: pa.Table) -> np.ndarray:
        hour = rows["ts"].cast(pa.int64()).to_numpy() // 3_600_000_000 - first
        return pc.index_in(rows["region"], names).to_numpy().astype(np.int64) * span + hour

    held = np.zeros(len(names) * span, dtype=bool)
    held[cells(table)] = True
    added = stand_in.filter(pa.array(~held[cells(stand_in)]))
    if not added.num_rows:
        return table
    methods = {m for t in (table, added) for m in pc.unique(t["method"]).to_pylist()}
    if len(methods) > 1:
        raise GridError(
            f"the grid file holds {pc.unique(table['method'])[0]} intensity, the annual means are life-cycle figures: "
            "they do not mix",
            fix="leave --grid-fallback out, or give a grid file of life-cycle intensity",
        )
    at = added.column_names.index("quality")
    quality = pc.dictionary_encode(added["quality"].combine_chunks())
    words = pa.array([merge(w or "", FALLBACK_FLAG) for w in quality.dictionary.to_pylist()], pa.string())
    added = added.set_column(at, added.schema.field(at), words.take(quality.indices))
    keys = [(c, "ascending") for c in ("ts", "region", "signal", "method")]
    return pa.concat_tables([table, added]).sort_by(keys)
