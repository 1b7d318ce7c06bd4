"""From what a grid source says to hourly ``GRID_INTENSITY`` rows: resampled, checked, gaps declared.

Belongs here: the source contract (columns), value checks, zone to region, hourly means, gap policy, default
error boxes. Does not belong here: reading files or services (``connectors.grid``).

Rules, each said in the row's ``quality``: values finer than an hour become their plain mean (``hourly_mean``;
``partial_hour`` where some are missing); an hour nobody reports is either left out, and its emissions are
null, or filled with the last known value for at most three hours (``gap_last_known``, box widened). Nothing
is interpolated, no duplicate is resolved in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Floats, dictionary, encode, floats
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.accountant.quality import merge
from sust_dagster.world.schemas import GRID_INTENSITY, TIMESTAMP

GapPolicy = Literal["flag_missing", "last_known"]

#: Columns every grid source emits, in g/kWh; one row per (ts, region, signal, method), any step up to an hour.
SOURCE_SCHEMA = pa.schema(
    [
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("region", pa.string(), nullable=False),
        pa.field("zone", pa.string()),
        pa.field("intensity_g_per_kwh", pa.float64(), nullable=False),
        pa.field("lower", pa.float64()),
        pa.field("upper", pa.float64()),
        pa.field("signal", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("estimated", pa.bool_(), nullable=False),
        pa.field("quality", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_version", pa.string()),
        pa.field("system_rel_lower", pa.float64()),
        pa.field("system_rel_upper", pa.float64()),
        pa.field("hour_rel_lower", pa.float64()),
        pa.field("hour_rel_upper", pa.float64()),
    ]
)

#: No grid is dirtier than this; lignite alone is about 1,200.
ABSURD_G_PER_KWH = 3000.0

#: A whole series at or below this looks like kg/kWh.
LOOKS_LIKE_KG = 2.0

#: Region-systematic error of a published average signal: what restatements (AT -18 %, CY +27 %, BG +27 %) and
#: different sources for one place (Frankfurt 276 to 422 g) show. Reading: 95% lognormal.
SYSTEM_BOX = (0.80, 1.25)

#: The hour's own error, measured and estimated hours.
HOUR_BOX = (0.95, 1.05)
ESTIMATED_HOUR_BOX = (0.80, 1.25)

#: 99 % range of g(t+k)/g(t), k = 1, 2, 3 hours, over 88 zones of 2022 (Electricity Maps lifecycle).
LAST_KNOWN_BOXES = ((0.73, 1.36), (0.59, 1.67), (0.51, 1.94))


class GridDataError(ValueError):
    """A grid value that cannot be used: which row and column, what stands there, and the remedy."""

    def __init__(self, message: str, *, row: int | None = None, column: str | None = None, fix: str = "") -> None:
        where = ", ".join(
            p for p in (f"row {row}" if row is not None else "", f"column {column}" if column else "") if p
        )
        super().__init__(f"{where}: {message}. {fix}".strip(": ").strip())
        self.message, self.row, self.column, self.fix = message, row, column, fix


@dataclass(frozen=True)
class HourlyGrid:
    """Normalised hours, and the hours nobody reported.

    ``gaps``: region, signal, method, started_at, ended_at, hours, handled (``last_known`` or ``missing``).
    """

    table: pa.Table
    gaps: pa.Table


def check_source(table: pa.Table) -> pa.Table:
    """A source table in :data:`SOURCE_SCHEMA`; missing optional columns become null.

    Raises :class:`GridDataError` for a missing column, a null in a required one, or values no grid has
    (NaN, negative, above 3,000 g/kWh, a series that looks like kg/kWh).
    """
    columns = []
    for field in SOURCE_SCHEMA:
        if field.name not in table.column_names:
            if not field.nullable:
                raise GridDataError(
                    "the source gives no such column", column=field.name, fix=f"columns: {SOURCE_SCHEMA.names}"
                )
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        values = pc.cast(table[field.name], field.type)
        if not field.nullable and values.null_count:
            at = int(np.flatnonzero(values.is_null().to_numpy())[0])
            raise GridDataError("is empty", row=at, column=field.name, fix="leave the row out: a missing hour is a gap")
        columns.append(values)
    checked = pa.table(columns, schema=SOURCE_SCHEMA)
    check_values(floats(checked["intensity_g_per_kwh"]))
    return checked


def check_values(grams: Floats, *, column: str = "intensity_g_per_kwh", rows: NDArray[np.int64] | None = None) -> None:
    """Refuse intensities no grid has; ``rows`` are the numbers to name instead of positions."""

    def name(at: int) -> int:
        return at if rows is None else int(rows[at])

    for bad, message, fix in (
        (~np.isfinite(grams), "is not a finite number", "leave the row out: a missing hour is a gap"),
        (grams < 0, "is negative", "an average intensity cannot be; drop the row or correct the source"),
        (
            grams > ABSURD_G_PER_KWH,
            f"is above {ABSURD_G_PER_KWH:.0f} g/kWh",
            "check the unit: lb/MWh x 0.45359237 is g/kWh",
        ),
    ):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise GridDataError(f"{grams[at]} {message}", row=name(at), column=column, fix=fix)
    if len(grams) and 0 < grams.max() <= LOOKS_LIKE_KG:
        raise GridDataError(
            f"no value is above {LOOKS_LIKE_KG} g/kWh: this looks like kg/kWh",
            column=column,
            fix="multiply by 1000, or name the column intensity_kgco2_kwh",
        )


def zones_to_regions(table: pa.Table, region_zones: pa.Table, regions: Sequence[str]) -> pa.Table:
    """Rows by grid zone as rows by cloud region.

    ``table`` is in :data:`SOURCE_SCHEMA` but for ``region``. ``region_zones`` (region, zone, rank) is the
    reference table; of a region's zones the one of lowest rank that the table holds is taken, and a zone
    that is not the region's first choice is said (``zone_alternate``). A region without any zone gets no rows.
    """
    held = set(pc.unique(table["zone"]).to_pylist())
    wanted = set(regions)
    chosen: dict[str, tuple[str, int]] = {}
    for r in sorted(region_zones.to_pylist(), key=lambda r: (r["region"], r["rank"])):
        if r["region"] in wanted and r["zone"] in held:
            chosen.setdefault(r["region"], (r["zone"], r["rank"]))
    pieces = []
    for region, (zone, rank) in sorted(chosen.items()):
        rows = table.filter(pc.equal(table["zone"], zone))
        if rank:
            rows = _add_flag(rows, "zone_alternate")
        region_column = pa.array([region] * rows.num_rows, pa.string())
        rows = rows.drop_columns(["region"]) if "region" in rows.column_names else rows
        pieces.append(rows.append_column("region", region_column).select(SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA))
    return pa.concat_tables(pieces) if pieces else SOURCE_SCHEMA.empty_table()


def _add_flag(rows: pa.Table, flag: str) -> pa.Table:
    quality = encode(rows["quality"])
    words = [merge(v, flag) for v in quality.values]
    return rows.set_column(
        rows.column_names.index("quality"), "quality", dictionary(quality.codes, words).cast(pa.string())
    )


def normalise(
    source: pa.Table,
    *,
    start: datetime,
    end: datetime,
    regions: Sequence[str],
    gap_policy: GapPolicy = "last_known",
    max_gap_hours: int = 3,
) -> HourlyGrid:
    """Hourly ``GRID_INTENSITY`` rows of ``[start, end)`` for the regions, ordered by ts and region.

    ``source`` may reach back before ``start``, so that a gap at the start can be filled. ``gap_policy``
    ``last_known`` (default) carries the last value over at most ``max_gap_hours`` (1 to 3) hours of a gap with a
    widened hour box; ``flag_missing`` leaves every unreported hour out. Raises :class:`GridDataError` for
    unusable values, duplicates (equal or conflicting), bounds that do not hold their value, or a bad range.
    """
    if not 1 <= max_gap_hours <= len(LAST_KNOWN_BOXES):
        raise GridDataError(f"max_gap_hours {max_gap_hours} is not between 1 and {len(LAST_KNOWN_BOXES)}")
    first, last = _hour_of(start), _hour_of(end)
    if last <= first:
        raise GridDataError(f"the range [{start}, {end}) holds no hour")
    rows = check_source(source)
    rows = rows.filter(pc.is_in(rows["region"], pa.array(sorted(set(regions)), pa.string())))
    _refuse_duplicates(rows)
    lead = first - max_gap_hours
    micros = rows["ts"].cast(pa.int64()).to_numpy()
    inside = (micros >= lead * HOUR_US) & (micros < last * HOUR_US)
    hourly = _hourly(rows.filter(pa.array(inside)), lead, last)
    return _with_gaps(hourly, sorted(set(regions)), first, max_gap_hours, gap_policy)


def _hour_of(at: datetime) -> int:
    if at.tzinfo is None:
        raise GridDataError(f"{at} has no time zone", fix="times are UTC and say so")
    seconds = at.timestamp()
    if seconds % 3600:
        raise GridDataError(f"{at} is not the start of an hour")
    return int(seconds // 3600)


def _refuse_duplicates(rows: pa.Table) -> None:
    """Refuse two rows for one (ts, region, signal, method), naming the later one and whether they agree."""
    if rows.num_rows == 0:
        return
    keys = ["ts", "region", "signal", "method"]
    counted = rows.group_by(keys).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if twice.num_rows == 0:
        return
    key = twice.sort_by([("ts", "ascending"), ("region", "ascending")]).slice(0, 1)
    same = pc.and_(pc.equal(rows["ts"], key["ts"][0]), pc.equal(rows["region"], key["region"][0]))
    same = pc.and_(same, pc.equal(rows["signal"], key["signal"][0]))
    same = pc.and_(same, pc.equal(rows["method"], key["method"][0]))
    at = np.flatnonzero(same.to_numpy())
    values = [rows["intensity_g_per_kwh"][int(i)].as_py() for i in at[:2]]
    kind = "duplicate" if values[0] == values[1] else "conflicting duplicate"
    raise GridDataError(
        f"{kind} of row {int(at[0])}: {key['region'][0]} at {key['ts'][0]} has {values[0]} and {values[1]} g/kWh",
        row=int(at[1]),
        column="ts",
        fix="keep one row per time and region",
    )


@dataclass(frozen=True)
class _Hours:
    """Hourly values by series (region, signal, method) and hour; NaN where nobody reports."""

    series: list[dict[str, str | None]]
    first: int
    grams: Floats
    system: tuple[Floats, Floats]
    hour: tuple[Floats, Floats]
    estimated: NDArray[np.bool_]
    quality: NDArray[np.int64]
    quality_words: tuple[str, ...]
    origin: NDArray[np.int64]
    #: (source, zone, source_version) by origin code.
    origins: tuple[tuple[str, str, str], ...]


def _hourly(rows: pa.Table, first: int, last: int) -> _Hours:
    """Mean of each hour, with boxes and flags. Arrays have shape (series, hours)."""
    keys = (
        rows.group_by(["region", "signal", "method"], use_threads=False)
        .aggregate([])
        .sort_by([("region", "ascending"), ("signal", "ascending"), ("method", "ascending")])
    )
    series = keys.to_pylist()
    span, count = last - first, len(series)
    wide = pc.binary_join_element_wise(rows["region"], rows["signal"], rows["method"], "\x1f")
    coded = encode(wide)
    place = {"\x1f".join((s["region"], s["signal"], s["method"])): i for i, s in enumerate(series)}
    row = np.array([place.get(v, 0) for v in coded.values], dtype=np.int64)[coded.codes]
    micros = rows["ts"].cast(pa.int64()).to_numpy()
    cell = row * span + (micros // HOUR_US - first)
    size = span * count
    n = np.bincount(cell, minlength=size)
    grams = floats(rows["intensity_g_per_kwh"])
    low, high, hour_low, hour_high = _boxes(rows, grams)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cell, grams, size) / n
        boxes = [np.bincount(cell, b, size) / n for b in (low, high, hour_low, hour_high)]
    estimated = np.bincount(cell, rows["estimated"].to_numpy().astype(float), size) > 0
    shape = (count, span)
    quality, words, origin, origins = _texts(rows, cell, n.reshape(shape), _expected_per_hour(row, micros))
    return _Hours(
        series=series,
        first=first,
        grams=mean.reshape(shape),
        system=(boxes[0].reshape(shape), boxes[1].reshape(shape)),
        hour=(boxes[2].reshape(shape), boxes[3].reshape(shape)),
        estimated=estimated.reshape(shape),
        quality=quality.reshape(shape),
        quality_words=words,
        origin=origin.reshape(shape),
        origins=origins,
    )


def _boxes(rows: pa.Table, grams: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """System and hour boxes of each source row.

    Given boxes first; else the row's own lower and upper, split evenly in logarithms between the two (a
    file that states one bound does not say how much of it its hours share); else the declared defaults.
    """
    lower, upper = floats(rows["lower"]), floats(rows["upper"])
    bad = (lower > grams) | (upper < grams) | (lower < 0)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise GridDataError(
            f"{grams[at]} lies outside its bounds [{lower[at]}, {upper[at]}]",
            row=at,
            column="lower",
            fix="swap or drop them",
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        half_low = np.sqrt(np.maximum(lower / grams, 1e-6))
        half_high = np.sqrt(upper / grams)
    half_low[~np.isfinite(half_low)] = np.nan
    half_high[~np.isfinite(half_high)] = np.nan
    estimated = rows["estimated"].to_numpy()
    hour_default = [np.where(estimated, e, m) for e, m in zip(ESTIMATED_HOUR_BOX, HOUR_BOX, strict=True)]

    def choose(name: str, own: Floats, default: Floats | float) -> Floats:
        given = floats(rows[name])
        chosen = np.where(np.isnan(given), own, given)
        return np.where(np.isnan(chosen), default, chosen)

    return (
        choose("system_rel_lower", half_low, SYSTEM_BOX[0]),
        choose("system_rel_upper", half_high, SYSTEM_BOX[1]),
        choose("hour_rel_lower", half_low, hour_default[0]),
        choose("hour_rel_upper", half_high, hour_default[1]),
    )


def _texts(
    rows: pa.Table, cell: NDArray[np.int64], n: NDArray[np.int64], expected: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.int64], tuple[tuple[str, str, str], ...]]:
    """Quality (every flag of every value of the hour) and origin of each cell, as codes with their words.

    ``n``: values per cell, shape (series, hours); ``expected``: values per hour of each series.
    """
    quality = encode(rows["quality"])
    own = ("hourly_mean", "partial_hour")
    flags = list(dict.fromkeys([*(f for v in quality.values for f in v.split(";") if f not in {"", "ok"}), *own]))
    if len(flags) > 64:
        raise GridDataError(f"the source has {len(flags)} different quality flags", column="quality")
    bits = {f: np.uint64(1) << np.uint64(i) for i, f in enumerate(flags)}
    by_value = np.array([sum(int(bits[f]) for f in set(v.split(";")) if f in bits) for v in quality.values], np.uint64)
    mask = np.zeros(n.size, dtype=np.uint64)
    np.bitwise_or.at(mask, cell, by_value[quality.codes])
    mask |= np.where((n > 1).reshape(-1), bits["hourly_mean"], np.uint64(0))
    mask |= np.where(((n > 0) & (n < expected[:, None])).reshape(-1), bits["partial_hour"], np.uint64(0))
    distinct, codes = np.unique(mask, return_inverse=True)
    words = tuple(merge(*(f for f in flags if int(m) & int(bits[f]))) for m in distinct)
    packed = encode(
        pc.binary_join_element_wise(*(pc.fill_null(rows[c], "") for c in ("source", "zone", "source_version")), "\x1f")
    )
    origin = np.full(n.size, len(packed.values) - 1, dtype=np.int64)
    origin[cell] = packed.codes
    parts = [v.split("\x1f") if v else ["", "", ""] for v in packed.values]
    return codes, words, origin, tuple((s[0], s[1], s[2]) for s in parts)


def _expected_per_hour(row: NDArray[np.int64], micros: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values per hour a series has where it is complete: from its most frequent step."""
    if not len(row):
        return np.empty(0, np.int64)
    order = np.lexsort((micros, row))
    r, t = row[order], micros[order]
    step = np.diff(t)
    same = r[1:] == r[:-1]
    out = np.ones(int(row.max()) + 1, dtype=np.int64)
    for i in range(len(out)):
        steps = step[same & (r[1:] == i)]
        if len(steps):
            values, counts = np.unique(steps, return_counts=True)
            out[i] = max(1, HOUR_US // max(int(values[counts.argmax()]), 1))
    return out


def _with_gaps(hours: _Hours, regions: Sequence[str], first: int, max_gap: int, policy: GapPolicy) -> HourlyGrid:
    lead = first - hours.first
    known = ~np.isnan(hours.grams)
    span = hours.grams.shape[1]
    index = np.arange(span)
    last_known = (
        np.maximum.accumulate(np.where(known, index, -1), axis=1) if len(hours.series) else np.zeros((0, span), int)
    )
    age = index - last_known
    fill = ~known & (last_known >= 0) & (age <= max_gap) & (policy == "last_known")
    source = np.where(fill, last_known, index)
    take = np.take_along_axis

    def filled(values: NDArray) -> NDArray:
        return take(values, source, axis=1)

    widen = [np.concatenate([[1.0], [b[k] for b in LAST_KNOWN_BOXES]]) for k in (0, 1)]
    step = np.where(fill, age, 0)
    hour_low, hour_high = filled(hours.hour[0]) * widen[0][step], filled(hours.hour[1]) * widen[1][step]
    keep = (known | fill) & (index >= lead)
    at = np.nonzero(keep)
    grams = filled(hours.grams)[at]
    filled_here = fill[at]
    estimated = filled(hours.estimated)[at]
    system = [filled(b)[at] for b in hours.system]
    hour = [hour_low[at], hour_high[at]]
    origin = filled(hours.origin)[at].astype(np.int32)
    quality = _final_quality(filled(hours.quality)[at], hours.quality_words, estimated, filled_here)
    kg = grams / 1000
    table = pa.table(
        {
            "ts": pa.array((hours.first + at[1]) * HOUR_US).cast(TIMESTAMP),
            "region": _by_series(hours, at[0], "region"),
            "intensity_kgco2_kwh": kg,
            "intensity_lower": kg * system[0] * hour[0],
            "intensity_upper": kg * system[1] * hour[1],
            "source": _words(origin, [o[0] for o in hours.origins]),
            "zone": _words(origin, [o[1] or None for o in hours.origins]),
            "signal": _by_series(hours, at[0], "signal"),
            "method": _by_series(hours, at[0], "method"),
            "estimated": estimated | filled_here,
            "quality": quality,
            "source_version": _words(origin, [o[2] or None for o in hours.origins]),
            "system_rel_lower": system[0],
            "system_rel_upper": system[1],
            "hour_rel_lower": hour[0],
            "hour_rel_upper": hour[1],
        }
    )
    table = GRID_INTENSITY.conform(table).sort_by([(c, "ascending") for c in ("ts", "region", "signal", "method")])
    return HourlyGrid(table, _gap_table(hours, regions, known[:, lead:], fill[:, lead:], first))


def _words(codes: NDArray[np.int32], words: Sequence[str | None]) -> pa.Array:
    return dictionary(codes, words or [""]).cast(pa.string())


def _by_series(hours: _Hours, codes: NDArray[np.int64], name: str) -> pa.Array:
    return _words(codes.astype(np.int32), [s[name] for s in hours.series])


def _final_quality(
    codes: NDArray[np.int64], words: Sequence[str], estimated: NDArray[np.bool_], filled: NDArray[np.bool_]
) -> pa.Array:
    distinct, again = np.unique(codes * 4 + estimated * 2 + filled, return_inverse=True)
    texts = [
        merge(words[c // 4], "estimated" if c & 2 else "", "gap_last_known" if c & 1 else "") for c in distinct.tolist()
    ]
    return _words(again.astype(np.int32), texts)


_GAP_SCHEMA = pa.schema(
    [
        ("region", pa.string()),
        ("signal", pa.string()),
        ("method", pa.string()),
        ("started_at", TIMESTAMP),
        ("ended_at", TIMESTAMP),
        ("hours", pa.int64()),
        ("handled", pa.string()),
    ]
)


def _gap_table(
    hours: _Hours, regions: Sequence[str], known: NDArray[np.bool_], fill: NDArray[np.bool_], first: int
) -> pa.Table:
    """Runs of unreported hours by series; a region without any series is one gap over the whole range."""
    # 0 reported, 1 filled, 2 missing: runs of equal state are the gaps.
    state = np.where(known, 0, np.where(fill, 1, 2))
    absent = sorted(set(regions) - {str(s["region"]) for s in hours.series})
    span = known.shape[1]
    state = np.concatenate([state, np.full((len(absent), span), 2, dtype=state.dtype)])
    names = [(str(s["region"]), s["signal"], s["method"]) for s in hours.series] + [(r, None, None) for r in absent]
    edge = np.ones((len(state), 1), dtype=bool)
    starts = np.nonzero(np.concatenate([edge, state[:, 1:] != state[:, :-1]], axis=1))
    ends = np.nonzero(np.concatenate([state[:, 1:] != state[:, :-1], edge], axis=1))
    kind = state[starts]
    gap = kind > 0
    who, begin, until = starts[0][gap], starts[1][gap], ends[1][gap] + 1
    picked = [names[i] for i in who.tolist()]
    return pa.table(
        [
            pa.array([p[0] for p in picked], pa.string()),
            pa.array([p[1] for p in picked], pa.string()),
            pa.array([p[2] for p in picked], pa.string()),
            pa.array((first + begin) * HOUR_US).cast(TIMESTAMP),
            pa.array((first + until) * HOUR_US).cast(TIMESTAMP),
            pa.array(until - begin),
            pa.array(["last_known" if k == 1 else "missing" for k in kind[gap].tolist()], pa.string()),
        ],
        schema=_GAP_SCHEMA,
    )
