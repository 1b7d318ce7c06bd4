"""Tags that a bill gives as one column per tag, as JSON objects.

Belongs here: putting such columns together, once per distinct combination.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, combinations, one_chunk, query
from sust_dagster.connectors.billing.fields import Fields, coalesce, without_marks


def tags_of_columns(f: Fields, pattern: re.Pattern[str]) -> pa.DictionaryArray:
    """JSON objects of the tag columns; the tag's key is the ``key`` group of ``pattern`` in the column name."""
    texts: dict[str, pa.DictionaryArray] = {}
    for name in f.tag_columns:
        match = pattern.match(name)
        values = without_marks(as_dictionary(f.raw.batch.column(f.raw.batch.schema.get_field_index(name))))
        if match:
            key = re.sub(r"^user[:_]", "", match.group("key"))
            texts[key] = coalesce(texts[key], values) if key in texts else values
    # The order of the keys is that of the columns, whichever of them these rows use.
    texts = {key: values for key, values in texts.items() if values.null_count < len(values)}
    if not texts:
        return f.nothing()
    group, first = combinations(list(texts.values()))
    at = pa.array(first)
    distinct = pa.table({f"t{i}": values.take(at).cast(pa.string()) for i, values in enumerate(texts.values())})
    distinct = distinct.append_column("n", pa.array(np.arange(len(first))))
    # Built as text, key by key: a tag that a row does not have must not become a null value.
    parts = ", ".join(
        f"case when t{i} is not null then {_quoted(json.dumps(key, ensure_ascii=False) + ':')} || to_json(t{i}) end"
        for i, key in enumerate(texts)
    )
    made = query(f"select '{{' || concat_ws(',', {parts}) || '}}' as j from d order by n", {"d": distinct}).column(0)
    objects = one_chunk(made).cast(pa.string())
    objects = pc.if_else(pc.equal(objects, "{}"), None, objects)
    return as_dictionary(objects.take(pa.array(group)))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
