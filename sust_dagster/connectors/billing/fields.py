"""The columns of one raw batch, asked for by meaning; rows that cannot be read are noted on the way.

Belongs here: finding a column under its several names, clearing null marks, and collecting what is wrong with which
row. The formats' own knowledge is in their modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, instants, one_chunk, rows_as_json
from sust_dagster.agents.ingestor.normal_form import TIME, Flag, Rejects
from sust_dagster.connectors.billing.delimited import NULL_MARKS, RawBatch, faulty_rows
from sust_dagster.connectors.billing.parsing import (
    DateOrder,
    json_values,
    merged_objects,
    nested_as_json,
    parse_numbers,
    parse_times,
    tags_as_objects,
    through,
)
from sust_dagster.connectors.billing.text import INVALID


def plain_name(name: str) -> str:
    """A column name without case, blanks and underscores, for comparing."""
    return re.sub(r"[\s_]+", "", name.strip().lower())


@dataclass(frozen=True)
class Column:
    """A column by meaning: the names it has in the wild, best first, and how its values are written.

    ``many`` says that values hardly repeat, so a dictionary would not pay. A ``required`` one must be there.
    """

    names: tuple[str, ...]
    required: bool = False
    many: bool = False


def find_columns(wanted: Mapping[str, Column], present: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The file's own names of wanted columns, best first; absent ones are left out."""
    by_plain: dict[str, str] = {}
    for name in present:
        by_plain.setdefault(plain_name(name), name)
    found = {
        meaning: tuple(by_plain[plain_name(n)] for n in column.names if plain_name(n) in by_plain)
        for meaning, column in wanted.items()
    }
    return {meaning: names for meaning, names in found.items() if names}


@dataclass
class Fields:
    """One raw batch, read by meaning."""

    raw: RawBatch
    found: Mapping[str, tuple[str, ...]]
    date_order: DateOrder | None = None
    tag_columns: Sequence[str] = ()
    bad: list[tuple[np.ndarray, str, str, pa.Array]] = field(default_factory=list)
    flags: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.flags = np.zeros(self.rows, np.uint32)

    @property
    def rows(self) -> int:
        return self.raw.batch.num_rows

    def has(self, meaning: str) -> bool:
        """Whether the file has a column of this meaning."""
        return meaning in self.found

    def column_name(self, meaning: str) -> str | None:
        """The file's name of a column."""
        return self.found[meaning][0] if meaning in self.found else None

    def _column(self, name: str) -> pa.Array:
        return self.raw.batch.column(self.raw.batch.schema.get_field_index(name))

    def nothing(self) -> pa.DictionaryArray:
        """A text column without values."""
        return pa.DictionaryArray.from_arrays(pa.nulls(self.rows, pa.int32()), pa.array([], pa.string()))

    def constant(self, text: str) -> pa.DictionaryArray:
        """A text column with one value."""
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(self.rows, np.int32)), pa.array([text]))

    def text(self, meaning: str) -> pa.DictionaryArray:
        """A text column; where several columns have the meaning, the first that holds a value."""
        names = self.found.get(meaning, ())
        result: pa.DictionaryArray | None = None
        for name in names:
            values = self._text(name)
            result = values if result is None else coalesce(result, values)
            if not result.null_count:
                break
        return result if result is not None else self.nothing()

    def _text(self, name: str) -> pa.DictionaryArray:
        values = self._column(name)
        if self.raw.faulty:
            self._note(faulty_rows(values), "not_utf8", name, values)
        if _is_nested(values.type):
            values = nested_as_json(values)
        if pa.types.is_dictionary(values.type) and not pa.types.is_string(values.type.value_type):
            values = values.cast(pa.string())
        return without_marks(as_dictionary(values))

    def plain(self, meaning: str) -> pa.Array:
        """A text column whose values hardly repeat, as strings."""
        name = self.column_name(meaning)
        if name is None:
            return pa.nulls(self.rows, pa.string())
        values = self._column(name)
        if self.raw.faulty:
            self._note(faulty_rows(values), "not_utf8", name, values)
        return values.cast(pa.string())

    def number(self, meaning: str) -> pa.Array:
        """A number column as float64, null where there is none; unreadable values are noted."""
        name = self.column_name(meaning)
        if name is None:
            return pa.nulls(self.rows, pa.float64())
        values = self._column(name)
        if not _is_textual(values.type):
            return values.cast(pa.float64())
        if pa.types.is_dictionary(values.type):
            distinct, bad = parse_numbers(without_marks(values).dictionary.cast(pa.string()))
            at = codes(without_marks(values))
            mask = np.append(bad, False)[at]
            found = distinct.take(pa.array(at, mask=at < 0))
        else:
            texts = values.cast(pa.string())
            found, mask = parse_numbers(pc.if_else(pc.is_in(texts, pa.array(NULL_MARKS)), None, texts))
        self._note(mask, "bad_number", name, values)
        return found

    def number_of(self, texts: pa.DictionaryArray, pattern: str | None = None) -> pa.Array:
        """Numbers in derived texts (``8 GiB`` by a ``pattern`` with group ``n``); others are null, never noted."""
        distinct = texts.dictionary.cast(pa.string())
        if pattern is not None and len(distinct):
            plain = pc.replace_substring(distinct, ",", "")
            distinct = pc.struct_field(pc.extract_regex(plain, pattern), "n")
        values, _ = parse_numbers(distinct)
        at = codes(texts)
        return values.take(pa.array(at, mask=at < 0))

    def time(self, meaning: str) -> pa.Array:
        """An instant column (UTC); unreadable values are noted, times without a zone flagged."""
        name = self.column_name(meaning)
        if name is None:
            return pa.nulls(self.rows, TIME)
        values = self._column(name)
        if pa.types.is_timestamp(values.type):
            if values.type.tz is None:
                self.flags |= np.uint32(Flag.NAIVE_TIMESTAMP)
                values = values.cast(pa.timestamp("us"))
                return pc.assume_timezone(values, "UTC")
            return values.cast(TIME)
        if pa.types.is_date(values.type):
            return pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
        texts = without_marks(as_dictionary(values))
        times = parse_times(texts.dictionary, self.date_order)
        at = codes(texts)
        missing = at < 0
        valid = np.append(times.valid, True)[at]
        self._note(~valid, "bad_time", name, values)
        self.flags[np.append(times.naive, False)[at]] |= np.uint32(Flag.NAIVE_TIMESTAMP)
        return instants(np.append(times.micros, 0)[at], missing | ~valid)

    def json(self, meaning: str, keys: Sequence[str]) -> dict[str, pa.DictionaryArray]:
        """Values of keys of a JSON column."""
        return json_values(self.text(meaning), keys)

    def tags(self, *meanings: str) -> pa.DictionaryArray:
        """Tags of one or several columns as JSON objects; on equal keys the first column wins."""
        result: pa.DictionaryArray | None = None
        for meaning in meanings:
            texts = self.text(meaning)
            shaped = through(texts, tags_as_objects(texts.dictionary))
            if result is None or result.null_count == self.rows:
                result = shaped
            elif shaped.null_count < self.rows:
                result = as_dictionary(merged_objects(shaped.cast(pa.string()), result.cast(pa.string())))
        return result if result is not None else self.nothing()

    def _note(self, mask: np.ndarray, reason: str, name: str, values: pa.Array) -> None:
        if mask.any():
            self.bad.append((mask, reason, name, values))

    def outcome(self, start: pa.Array) -> tuple[np.ndarray, Rejects]:
        """Mask of the rows that were read, and the rejects: unreadable values and malformed rows."""
        rows = self.rows
        free = np.ones(rows, bool)
        code = np.full(rows, -1, np.int64)
        for i, (mask, *_) in enumerate(self.bad):
            hit = mask & free
            code[hit] = i
            free &= ~mask
        rejects = self._malformed()
        if free.all():
            return free, rejects
        index = np.flatnonzero(~free)
        at = pa.array(index)
        value = pa.nulls(len(index), pa.string())
        for i, (_, _, _, values) in enumerate(self.bad):
            texts = clean(values.take(at).cast(pa.string()))
            value = pc.if_else(pa.array(code[index] == i), texts, value)
        which = pa.array(code[index])
        raw = pa.Table.from_batches([self.raw.batch.take(at)])
        mine = Rejects(
            rows=pa.array(self.raw.rows[index]),
            reason=pa.array([reason for _, reason, _, _ in self.bad]).take(which),
            column=pa.array([name for _, _, name, _ in self.bad]).take(which),
            value=value,
            raw=clean(rows_as_json(raw)),
            hour=start.take(at),
        )
        return free, mine.with_rows(rejects)

    def _malformed(self) -> Rejects:
        found = self.raw.malformed
        if not found:
            return Rejects()
        texts = clean(pa.array([m.text for m in found], pa.string()))
        return Rejects(
            rows=pa.array([m.row for m in found], pa.int64()),
            reason=pa.array(["wrong_number_of_fields"] * len(found)),
            column=pa.nulls(len(found), pa.string()),
            value=pa.array([f"{m.actual} fields instead of {m.expected}" for m in found]),
            raw=rows_as_json(pa.table({"text": texts})),
            hour=pa.nulls(len(found), TIME),
        )


def clean(texts: pa.Array) -> pa.Array:
    """Texts with the mark of undecodable bytes shown as a replacement character."""
    return pc.replace_substring(texts, INVALID, "\ufffd")


def without_marks(values: pa.DictionaryArray) -> pa.DictionaryArray:
    """A dictionary array in which ``""`` and ``NULL`` are nulls."""
    if not len(values.dictionary):
        return values
    marks = pc.fill_null(pc.is_in(values.dictionary, pa.array(NULL_MARKS, values.dictionary.type)), True)
    if not pc.any(marks).as_py():
        return values
    table = np.append(marks.to_numpy(zero_copy_only=False), True)
    at = codes(values)
    mask = table[at]
    return pa.DictionaryArray.from_arrays(pa.array(np.maximum(at, 0).astype(np.int32), mask=mask), values.dictionary)


def coalesce(first: pa.DictionaryArray, second: pa.DictionaryArray) -> pa.DictionaryArray:
    """``first`` where it has a value, else ``second``."""
    if not first.null_count or second.null_count == len(second):
        return first
    if first.null_count == len(first):
        return second
    return as_dictionary(pc.coalesce(first.cast(pa.string()), second.cast(pa.string())))


def mapped(values: pa.DictionaryArray, look_up: Callable[[str], str | None]) -> pa.DictionaryArray:
    """A text look-up once per distinct value; null stays null."""
    answers = [look_up(v) if v is not None else None for v in values.dictionary.to_pylist()]
    return through(values, pa.array(answers, pa.string()))


def choose(condition: np.ndarray, yes: str, no: pa.DictionaryArray) -> pa.DictionaryArray:
    """``yes`` where the condition holds, else ``no``."""
    if not condition.any():
        return no
    return as_dictionary(pc.if_else(pa.array(condition), pa.scalar(yes), no.cast(pa.string())))


def present(values: pa.Array) -> np.ndarray:
    """Rows that hold a value."""
    return one_chunk(values).is_valid().to_numpy(zero_copy_only=False)


def equals(values: pa.DictionaryArray, *texts: str) -> np.ndarray:
    """Rows whose text is one of these, without regard to case."""
    wanted = {t.lower() for t in texts}
    hit = [i for i, v in enumerate(values.dictionary.to_pylist()) if v is not None and v.lower() in wanted]
    return np.isin(codes(values), hit)


def _is_nested(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind)


def _is_textual(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(inner) or pa.types.is_large_string(inner)
