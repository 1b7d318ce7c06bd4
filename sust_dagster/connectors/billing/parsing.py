"""Texts of bills to instants, numbers and JSON, whole columns at a time; what cannot be read is masked.

Belongs here: parsing of single columns. Texts repeat, so each distinct text is parsed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, one_chunk, query

DateOrder = Literal["mdy", "dmy"]

_CLOCK = r"[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?"
_ZONED = rf"^\d{{4}}-\d{{2}}-\d{{2}}{_CLOCK} ?([Zz]|UTC|[+-]\d{{2}}(:?\d{{2}})?)$"
_NAIVE = rf"^\d{{4}}-\d{{2}}-\d{{2}}{_CLOCK}$"
_DATE = r"^\d{4}-\d{2}-\d{2}$"
_COMPACT_DATE = r"^\d{8}$"
_SLASHED = rf"^\d{{1,2}}/\d{{1,2}}/\d{{4}}({_CLOCK})?$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NOT_FINITE = r"(?i)^[+-]?(inf(inity)?|nan)$"


class Times(NamedTuple):
    """Instants (int64 µs since 1970, UTC), and masks: readable, written without a zone, date only."""

    micros: np.ndarray
    valid: np.ndarray
    naive: np.ndarray


def parse_times(texts: pa.Array, order: DateOrder | None = None) -> Times:
    """Instants of texts: ISO 8601 with or without zone, ``... UTC``, dates, and slashed dates in ``order``.

    A time without a zone is UTC, and masked as naive; a date is midnight UTC. Null and unreadable texts are not
    valid.
    """
    texts = pc.utf8_trim_whitespace(texts.cast(pa.string()))
    slashed = {"mdy": "%m/%d/%Y", "dmy": "%d/%m/%Y", None: ""}[order]
    formats = [f"{slashed} %H:%M:%S", f"{slashed} %H:%M", slashed]
    when_slashed = f"when regexp_matches(t, '{_SLASHED}') then epoch_us(try_strptime(t, {formats}))" * bool(slashed)
    found = query(
        f"""
        select coalesce(case
            when regexp_matches(t, '{_ZONED}')
                then epoch_us(try_cast(regexp_replace(upper(t), ' ?UTC$', 'Z') as timestamptz))
            when regexp_matches(t, '{_NAIVE}') or regexp_matches(t, '{_DATE}')
                then epoch_us(try_cast(t as timestamp))
            when regexp_matches(t, '{_COMPACT_DATE}') then epoch_us(try_strptime(t, '%Y%m%d'))
            {when_slashed}
            end, -9223372036854775807) as micros,
            coalesce(regexp_matches(t, '{_NAIVE}') or (regexp_matches(t, '{_SLASHED}') and contains(t, ':')), false)
                as naive
        from texts
        """,
        {"texts": pa.table({"t": texts})},
    )
    micros = one_chunk(found.column("micros")).to_numpy(zero_copy_only=False)
    naive = one_chunk(found.column("naive")).to_numpy(zero_copy_only=False)
    valid = micros != -9223372036854775807
    return Times(np.where(valid, micros, 0), valid, naive)


def date_order(texts: pa.Array) -> DateOrder | None:
    """Order of slashed dates that these texts prove, or ``None``.

    A first part over 12 is a day, and so is a second part over 12. Texts that prove both prove nothing.
    """
    parts = pc.extract_regex(texts.drop_null().cast(pa.string()), r"^\s*(?P<a>\d{1,2})/(?P<b>\d{1,2})/\d{4}")
    parts = parts.drop_null()
    if not len(parts):
        return None
    first = pc.max(pc.struct_field(parts, "a").cast(pa.int64())).as_py()
    second = pc.max(pc.struct_field(parts, "b").cast(pa.int64())).as_py()
    if (first > 12) == (second > 12):
        return None
    return "dmy" if first > 12 else "mdy"


def has_slashed_dates(texts: pa.Array) -> bool:
    """Whether any text is a date with slashes."""
    return bool(pc.any(pc.match_substring_regex(texts.drop_null().cast(pa.string()), _SLASHED)).as_py())


def parse_numbers(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Float64 of texts (null where null, a word for nothing or unreadable), and a mask of the unreadable ones."""
    texts = one_chunk(texts)
    try:
        return pc.cast(texts, pa.float64()), np.zeros(len(texts), bool)
    except pa.ArrowInvalid:
        pass
    trimmed = pc.utf8_trim_whitespace(texts)
    trimmed = pc.if_else(pc.is_in(trimmed, pa.array(["", "None", "N/A", "n/a", "-"])), None, trimmed)
    good = pc.or_(pc.match_substring_regex(trimmed, _NUMBER), pc.match_substring_regex(trimmed, _NOT_FINITE))
    plain = pc.if_else(good, pc.replace_substring_regex(trimmed, r"^\+", ""), pa.scalar(None, pa.string()))
    bad = pc.and_(pc.is_valid(trimmed), pc.invert(pc.fill_null(good, False)))
    return pc.cast(plain, pa.float64()), bad.to_numpy(zero_copy_only=False)


def json_values(texts: pa.DictionaryArray, keys: Sequence[str]) -> dict[str, pa.DictionaryArray]:
    """Values of top-level keys of JSON objects, as text; null where absent, empty or where it is no JSON."""
    distinct = texts.dictionary.cast(pa.string())
    nothing = pa.DictionaryArray.from_arrays(pa.nulls(len(texts), pa.int32()), pa.array([], pa.string()))
    if not len(distinct) or texts.null_count == len(texts):
        return dict.fromkeys(keys, nothing)
    wanted = ", ".join(f"""nullif(json_extract_string(j, '$."{key}"'), '') as k{i}""" for i, key in enumerate(keys))
    found = query(
        f"select {wanted} from (select case when json_valid(t) then t else null end as j from texts)",
        {"texts": pa.table({"t": distinct})},
    )
    return {key: through(texts, one_chunk(found.column(i))) for i, key in enumerate(keys)}


def through(texts: pa.DictionaryArray, values: pa.Array) -> pa.DictionaryArray:
    """A dictionary array with another value per dictionary entry (equal and null values allowed)."""
    encoded = as_dictionary(values)
    table = np.append(codes(encoded), -1)
    found = table[codes(texts)]
    mask = found < 0
    return pa.DictionaryArray.from_arrays(
        pa.array(found.astype(np.int32), mask=mask if mask.any() else None), encoded.dictionary
    )


def tags_as_objects(texts: pa.Array) -> pa.Array:
    """Tags as JSON objects, whatever their shape: objects, key-value lists, Azure's pairs without braces.

    Null where there are none or where the text is none of these.
    """
    if not len(texts) or texts.null_count == len(texts):
        return pa.nulls(len(texts), pa.string())
    return one_chunk(
        query(
            """
            with shaped as (
                select pos, coalesce(
                    case when json_valid(t) then t end,
                    case when json_valid('{' || t || '}') then '{' || t || '}' end,
                    case when json_valid(replace(t, '''', '"')) then replace(t, '''', '"') end) as j
                from texts
            ), lists as (
                select pos, json_group_object(pair.key, pair.value) as j
                from (select pos, unnest(from_json(case when json_type(j) = 'ARRAY' then j else '[]' end,
                        '[{"key": "VARCHAR", "value": "VARCHAR"}]')) as pair from shaped)
                where pair.key is not null group by pos
            )
            select case when json_type(shaped.j) = 'OBJECT' and shaped.j <> '{}' then shaped.j else lists.j end as j
            from shaped left join lists using (pos) order by pos
            """,
            {"texts": pa.table({"pos": np.arange(len(texts)), "t": texts.cast(pa.string())})},
        ).column(0)
    ).cast(pa.string())


def merged_objects(weak: pa.Array, strong: pa.Array) -> pa.Array:
    """JSON objects of two columns in one; on equal keys ``strong`` wins. Null only where both are."""
    if weak.null_count == len(weak):
        return strong
    if strong.null_count == len(strong):
        return weak
    return one_chunk(
        query(
            # What stands alone is kept as it is written, whatever the rows beside it have.
            "select case when w is null then s when s is null then w else json_merge_patch(w, s) end as j from pairs",
            {"pairs": pa.table({"w": weak.cast(pa.string()), "s": strong.cast(pa.string())})},
        ).column(0)
    ).cast(pa.string())


def nested_as_json(values: pa.Array) -> pa.Array:
    """Lists and maps as JSON text."""
    return one_chunk(query("select to_json(v) as j from t", {"t": pa.table({"v": values})}).column(0)).cast(pa.string())
