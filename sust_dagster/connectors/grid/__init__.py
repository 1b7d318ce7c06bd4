"""Grid carbon intensity: static table, files, the simulated grid.

Belongs here: sources behind one protocol, and the function that opens one by name. Hourly resampling, gap
policy and error boxes are the accountant's: ``agents.accountant.grid.normalise`` takes what a source reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sust_dagster.agents.accountant.grid import GapPolicy, HourlyGrid, normalise
from sust_dagster.connectors.grid.files import FileGrid, IntensityMethod
from sust_dagster.connectors.grid.protocol import GridError, GridSource
from sust_dagster.connectors.grid.static import StaticGrid

__all__ = ["FileGrid", "GridError", "GridSource", "IntensityMethod", "StaticGrid", "hourly", "open_grid"]

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def open_grid(
    source: str | Path | Sequence[str | Path],
    *,
    method: IntensityMethod = "lifecycle",
    signal: str = "average",
) -> GridSource:
    """Open ``'static'``, a file, a folder of files, or several files as one grid source.

    ``method`` chooses between the two intensities of an Electricity Maps download and names that of a file
    which does not say; ``signal`` likewise. Raises :class:`GridError` where nothing readable is there; a
    file's content is checked when it is first read.
    """
    if source == "static":
        return StaticGrid()
    given = [source] if isinstance(source, str | Path) else list(source)
    paths: list[Path] = []
    for entry in given:
        path = Path(entry)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith(_SUFFIXES))
            if not inside:
                raise GridError(
                    "the folder holds no grid file", file=str(path), fix=f"it needs {' or '.join(_SUFFIXES)}"
                )
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise GridError("no such file or folder", file=str(path), fix="or give 'static' for annual means")
    if not paths:
        raise GridError("no grid file given", fix="give a path, or 'static' for annual means")
    return FileGrid(tuple(paths), method=method, signal=signal)


def hourly(
    source: GridSource,
    start: datetime,
    end: datetime,
    regions: Sequence[str],
    *,
    gap_policy: GapPolicy = "last_known",
    max_gap_hours: int = 3,
) -> HourlyGrid:
    """Hourly ``GRID_INTENSITY`` rows of ``[start, end)`` from a source, and its gaps.

    Reads a few hours before ``start`` too, so that a gap there is treated like any other. Raises
    :class:`GridError` or ``GridDataError``.
    """
    raw = source.read(start - timedelta(hours=max_gap_hours), end, regions)
    return normalise(raw, start=start, end=end, regions=regions, gap_policy=gap_policy, max_gap_hours=max_gap_hours)
