"""Keys of lines, and the memory of what was seen, against a plain dictionary."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normal import normal_rows

from sust_dagster.agents.ingestor import duplicates as duplicates_module
from sust_dagster.agents.ingestor.duplicates import ContentOrder, Duplicates, KeyCounts
from sust_dagster.agents.ingestor.keys import CONTENT_COLUMNS, LineKeys, key_parts, line_keys

small = st.integers(0, 6)
batches = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.tuples(small, small, st.booleans()), min_size=1, max_size=12)),
    min_size=1,
    max_size=8,
)


def keys_of(entries) -> LineKeys:
    return LineKeys(
        np.array([h for h, _, _ in entries], np.uint64),
        np.array([low for _, low, _ in entries], np.uint64),
        np.array([i for _, _, i in entries], bool),
    )


@settings(max_examples=300, deadline=None)
@given(batches)
def test_duplicates_are_as_the_rules_say(given_batches):
    """High parts collide often here, so keys that differ in their low part alone are told apart."""
    given_batches = sorted(given_batches, key=lambda b: b[0])  # a delivery's batches come together
    memory = Duplicates()
    earlier: dict[tuple, int] = {}
    current: Counter = Counter()
    delivery = None
    for number, entries in given_batches:
        entries = [(h, low, (h + low) % 2 == 0) for h, low, _ in entries]  # an id or none is the key's own
        if number != delivery:
            for key, count in current.items():
                earlier[key] = max(earlier.get(key, 0), count)
            current, delivery = Counter(), number
        wanted = []
        for h, low, has_id in entries:
            ordinal = current[(h, low)]
            known = earlier.get((h, low), 0)
            wanted.append((ordinal, (known > 0 or ordinal > 0) if has_id else ordinal < known))
            current[(h, low)] += 1
        ordinal, duplicate = memory.see(keys_of(entries), np.full(len(entries), number))
        assert list(zip(ordinal.tolist(), duplicate.tolist(), strict=True)) == wanted


def test_deliveries_inside_one_batch():
    keys = keys_of([(1, 1, False)] * 5)
    ordinal, duplicate = Duplicates().see(keys, np.array([0, 0, 1, 1, 1]))
    assert ordinal.tolist() == [0, 1, 0, 1, 2]
    assert duplicate.tolist() == [False, False, True, True, False]


contents = st.lists(st.tuples(st.integers(0, 2), small, st.integers(0, 2)), max_size=14)


def numbered(entries, order):
    """(delivery, key, content, ordinal, duplicate) of lines in the order given, taken in batches of three."""
    memory, found = Duplicates(order=order), []
    for i in range(0, len(entries), 3):
        part = entries[i : i + 3]
        key, rest = (np.array([e[n] for e in part], np.uint64) for n in (1, 2))
        keys = LineKeys(key, key, key % 2 == 0, rest)
        seen = memory.see(keys, np.array([e[0] for e in part]))
        found += [(*e, *s) for e, s in zip(part, zip(*(a.tolist() for a in seen), strict=True), strict=True)]
    return found


@settings(max_examples=200, deadline=None)
@given(contents, st.randoms(use_true_random=False))
def test_lines_are_numbered_by_their_content_whatever_the_order(entries, random):
    def settled(lines):
        order = ContentOrder()
        first = numbered(lines, order)
        return sorted(numbered(lines, order)) if order.settle() else sorted(first)

    entries = sorted(entries, key=lambda e: e[0])  # a delivery's batches come together
    shuffled = sorted(random.sample(entries, len(entries)), key=lambda e: e[0])
    assert settled(shuffled) == settled(entries)
    by_line = Counter((d, k) for d, k, *_ in entries)
    for (delivery, key), count in by_line.items():
        mine = sorted(o for d, k, _, o, _ in settled(entries) if (d, k) == (delivery, key))
        assert mine == list(range(count))


def test_a_second_pass_is_asked_for_only_where_the_order_decides():
    same, other = [(0, 1, 5), (0, 1, 5)], [(0, 1, 5), (0, 1, 6)]
    apart = [(0, 1, 5), (1, 1, 6)]
    for lines, wanted in ((same, False), (other, True), (apart, False), ([], False)):
        order = ContentOrder()
        numbered(lines, order)
        assert order.settle() is wanted


def test_what_a_key_leaves_out_is_in_its_rest():
    base = normal_rows({})
    reference = line_keys(base, rest=True).rest
    for name, value in (("BilledCost", 2.0), ("x_VCpus", 8.0), ("BillingCurrency", "CAD"), ("x_Flags", 1)):
        changed = line_keys(normal_rows({name: value}), rest=True)
        assert changed.rest != reference, name
        assert changed.hexadecimal() == line_keys(base).hexadecimal(), name
    for name, value in (("x_Bill", "other"), ("x_File", "other"), ("x_Row", 9), ("x_Delivery", 3)):
        assert line_keys(normal_rows({name: value}), rest=True).rest == reference, name
    with_id = {"x_LineId": "a"}
    one, two = (line_keys(normal_rows({**with_id, "ConsumedQuantity": q}), rest=True) for q in (1.0, 2.0))
    assert one.hexadecimal() == two.hexadecimal() and one.rest != two.rest


@pytest.mark.parametrize("largest", [100, 2_000_000])
def test_many_runs_count_as_one(monkeypatch, largest):
    monkeypatch.setattr(duplicates_module, "LARGEST_MERGE", largest)
    memory = KeyCounts()
    rng = np.random.default_rng(1)
    model: Counter = Counter()
    for _ in range(60):
        high = np.unique(rng.integers(0, 5000, 300).astype(np.uint64))
        before = memory.bump(high, high, np.ones(len(high), np.int64))
        assert before.tolist() == [model[i] for i in high.tolist()]
        model.update(high.tolist())
    assert len(memory) == len(model)
    if largest > 5000:
        assert len(memory.runs) <= 12
    everything = np.arange(5000, dtype=np.uint64)
    assert memory.count(everything, everything).tolist() == [model[i] for i in range(5000)]


def test_every_content_column_makes_another_key():
    base = normal_rows({})
    (reference,) = line_keys(base).high.tolist()
    for name in CONTENT_COLUMNS:
        assert line_keys(normal_rows({name: "something else"})).high[0] != reference, name
    for name, value in (("ConsumedQuantity", 2.0),):
        assert line_keys(normal_rows({name: value})).high[0] != reference
    for name, value in (("BilledCost", 2.0), ("EffectiveCost", 3.0), ("x_File", "other"), ("x_Row", 9)):
        assert line_keys(normal_rows({name: value})).high[0] == reference, name


def test_null_and_empty_and_swapped_values_differ():
    keys = line_keys(
        normal_rows(
            {"SkuId": None},
            {"SkuId": ""},
            {"SkuId": "a", "SkuPriceId": "b"},
            {"SkuId": "b", "SkuPriceId": "a"},
            {"SkuId": "ab", "SkuPriceId": None},
        )
    )
    assert len(set(keys.high.tolist())) == 5
    assert len(set(keys.low.tolist())) == 5


def test_keys_do_not_depend_on_the_batch():
    together = line_keys(normal_rows({"ResourceId": "a"}, {"ResourceId": "b"}, {"ResourceId": "c"}))
    alone = line_keys(normal_rows({"ResourceId": "c"}))
    assert together.high[2] == alone.high[0]
    assert together.low[2] == alone.low[0]


def test_minus_zero_is_zero():
    keys = line_keys(normal_rows({"ConsumedQuantity": 0.0}, {"ConsumedQuantity": -0.0}))
    assert keys.high[0] == keys.high[1]


def test_keys_as_text():
    keys = LineKeys(np.array([0xABC], np.uint64), np.array([1], np.uint64), np.array([False]))
    assert keys.hexadecimal().to_pylist() == ["0000000000000abc0000000000000001"]
    assert key_parts(keys, np.array([2])).to_pylist() == ["0000000000000abc0000000000000001#2"]


def test_a_key_is_the_same_on_every_machine_and_day():
    """Keys go into ids: this value may change only with a migration."""
    assert line_keys(normal_rows({})).hexadecimal() == pa.array(["b317838bff3b6e45d3b62dd5cd17730a"])
