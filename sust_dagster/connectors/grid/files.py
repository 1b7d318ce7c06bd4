"""Grid intensity from one or more files, as one source.

Belongs here: several files together, which of them wins where they overlap, what they cover, and what was left
aside. Layouts and cells are in ``layouts``; a region or hour no file holds simply has no row.

Where several files hold the same region, hour, signal and method, the first in the order given wins (in a folder:
by name), hour by hour; each row's ``source_version`` is the SHA-256 of its file, and a notice says so. One region
never changes its zone between files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.grid import zones_to_regions
from sust_dagster.connectors.grid.layouts import TIMESTAMP, IntensityMethod, UnknownLayoutError, load
from sust_dagster.connectors.grid.protocol import SOURCE_SCHEMA, GridError
from sust_dagster.reference import region_zones

_HOUR_US = 3_600_000_000
_SHOWN = 8


@dataclass(frozen=True)
class FileGrid:
    """Intensity from one or more files of any known layout.

    ``method``: see :func:`open_grid`. ``found``: paths met in a folder rather than named; one that is no grid file
    is passed over with a notice.
    """

    paths: tuple[Path, ...]
    method: IntensityMethod | None = None
    signal: str = "average"
    found: frozenset[Path] = frozenset()
    _zones: pa.Table = field(default_factory=region_zones, repr=False, compare=False)
    _regions: dict[str, pa.Table] = field(default_factory=dict, init=False, repr=False, compare=False)
    _overlaps: dict[tuple[str, str], set[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, start: datetime, end: datetime, regions: Sequence[str]) -> pa.Table:
        """Rows of ``SOURCE_SCHEMA`` for the regions the files hold; see the protocol.

        Raises :class:`GridError` for an unusable file.
        """
        if start.tzinfo is None or end.tzinfo is None:
            raise GridError("times need a time zone", fix="give UTC times")
        low, high = pa.scalar(start, TIMESTAMP), pa.scalar(end, TIMESTAMP)
        pieces = [SOURCE_SCHEMA.empty_table()]
        for region in sorted(set(regions)):
            rows = self._region(region)
            pieces.append(rows.filter(pc.and_(pc.greater_equal(rows["ts"], low), pc.less(rows["ts"], high))))
        return pa.concat_tables(pieces)

    @property
    def loaded(self) -> pa.Table:
        """Every row of every file, in ``SOURCE_SCHEMA``; ``region`` is empty where the file speaks of zones."""
        return self._content.rows

    @property
    def files(self) -> dict[str, str]:
        """Version (SHA-256) of each file that is read, by name, in order of precedence."""
        return {self._content.names[version]: version for version in self._content.names}

    @property
    def methods(self) -> list[str]:
        """Methods of the intensities read: one, whatever the files hold beside it."""
        return sorted(pc.unique(self.loaded["method"]).to_pylist())

    @property
    def notices(self) -> list[str]:
        """What a person should know about the files so far: passed over, left out, overlapping."""
        notes = list(self._content.notes)
        for (first, second), regions in self._overlaps.items():
            notes.append(
                f"{first} and {second} both hold hours of {_some(regions)}: {first} comes first and is taken there"
            )
        return notes

    @property
    def coverage(self) -> str:
        """The hours and places the files hold, for people."""
        extremes = pc.min_max(self.loaded["ts"]).as_py()
        first, last = extremes["min"], extremes["max"]
        places = _names(self.loaded)
        many = "place" if len(places) == 1 else "places"
        return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC for {len(places):,} {many}: {_some(places)}"

    def holds(self, region: str) -> bool:
        """Whether any hour of a region is in the files."""
        return self._region(region).num_rows > 0

    def hint(self) -> str:
        """A likely cause, when the files hold none of the regions asked for; else nothing."""
        mistaken = set(pc.unique(self.loaded["region"]).to_pylist()) & set(self._zones["zone"].to_pylist())
        return f"the column region holds grid zones ({_some(mistaken)}): name it zone" if mistaken else ""

    @cached_property
    def _content(self) -> _Content:
        return _read_all(self.paths, self.found, self.method, self.signal)

    def _region(self, region: str) -> pa.Table:
        """All hours of one region, overlaps of files resolved; made once."""
        if region not in self._regions:
            direct = self.loaded.filter(pc.equal(self.loaded["region"], region))
            by_zone = zones_to_regions(self._by_zone, self._zones, [region])
            self._regions[region] = self._first_wins(region, pa.concat_tables([direct, by_zone]))
        return self._regions[region]

    @cached_property
    def _by_zone(self) -> pa.Table:
        return self.loaded.filter(pc.equal(self.loaded["region"], ""))

    def _first_wins(self, region: str, rows: pa.Table) -> pa.Table:
        names = self._content.names
        if len(names) < 2 or not rows.num_rows:
            return rows
        order = pa.array(list(names), pa.string())
        file = pc.index_in(rows["source_version"], order).to_numpy()
        hour = rows["ts"].cast(pa.int64()).to_numpy() // _HOUR_US
        series = pc.binary_join_element_wise(rows["signal"], rows["method"], "\x1f").dictionary_encode()
        code = np.concatenate([c.indices.to_numpy() for c in series.unify_dictionaries().chunks])
        span = int(hour.max() - hour.min()) + 1
        cell = code.astype(np.int64) * span + (hour - hour.min())
        first = np.full(int(cell.max()) + 1, len(names), dtype=np.int64)
        np.minimum.at(first, cell, file)
        winner = first[cell]
        lost = winner < file
        if not lost.any():
            return rows
        given = list(names.values())
        for a, b in {(int(w), int(f)) for w, f in np.unique(np.stack([winner[lost], file[lost]], axis=1), axis=0)}:
            self._overlaps.setdefault((given[a], given[b]), set()).add(region)
        return rows.filter(pa.array(~lost))


@dataclass(frozen=True)
class _Content:
    """Every row of the files that count, their names by version, and what was left aside."""

    rows: pa.Table
    names: dict[str, str]
    notes: tuple[str, ...]


def _read_all(paths: Sequence[Path], found: frozenset[Path], method: IntensityMethod | None, signal: str) -> _Content:
    tables: list[pa.Table] = [SOURCE_SCHEMA.empty_table()]
    names: dict[str, str] = {}
    foreign: list[str] = []
    notes: list[str] = []
    labels = _labels(paths)
    for path in paths:
        try:
            rows = load(path, method, signal)
        except UnknownLayoutError:
            if path not in found:
                raise
            foreign.append(labels[path])
            continue
        version = rows["source_version"][0].as_py()
        if version in names:
            notes.append(f"{labels[path]} is the same file as {names[version]}")
            continue
        names[version] = labels[path]
        tables.append(rows)
    if paths and not names:
        raise GridError(
            f"no file of the folder is a grid file: {_some(foreign)}",
            file=str(paths[0].parent),
            fix="give ts, region (or zone), intensity_g_per_kwh; or an Electricity Maps download",
        )
    if foreign:
        notes.insert(0, f"passed over, no grid file by their columns: {', '.join(foreign)}")
    return _one_method(pa.concat_tables(tables), names, notes, method)


def _one_method(rows: pa.Table, names: dict[str, str], notes: list[str], method: IntensityMethod | None) -> _Content:
    """One method throughout: life-cycle and direct figures never stand in one series."""
    methods = pc.unique(rows["method"]).to_pylist()
    wanted = method or ("lifecycle" if len(methods) > 1 else None)
    if wanted is None or methods in ([], [wanted]):
        return _Content(rows, names, tuple(notes))
    kept = rows.filter(pc.equal(rows["method"], wanted))
    if not kept.num_rows:
        raise GridError(
            f"{', '.join(names.values())} hold {' and '.join(map(str, methods))} intensity only, not {wanted}",
            fix="ask for the intensity method the file holds",
        )
    left = set(pc.unique(kept["source_version"]).to_pylist())
    out = [name for version, name in names.items() if version not in left]
    others = " and ".join(str(m) for m in methods if m != wanted)
    notes.append(f"{others} intensity is left out beside {wanted}" + (f": {', '.join(out)}" if out else ""))
    return _Content(kept, {version: name for version, name in names.items() if version in left}, tuple(notes))


def _labels(paths: Sequence[Path]) -> dict[Path, str]:
    """File names; with their folder where two files have one name."""
    names = [p.name for p in paths]
    return {p: p.name if names.count(p.name) == 1 else str(p) for p in paths}


def _names(rows: pa.Table) -> list[str]:
    return sorted({n for c in ("region", "zone") for n in pc.unique(rows[c]).to_pylist() if n})


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
