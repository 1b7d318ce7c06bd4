"""Where a CSV may be cut: never inside a quoted value, whatever quotes stand around."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from bills import FOCUS_ROW, csv_text, ingest_paths
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.connectors.billing.delimited import last_row_end


@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (b"a,b\nc,d\ne", b"e"),
        (b"a,b\n", b""),
        (b"a,b", b"a,b"),
        (b'a,"x\ny"\nc', b"c"),
        (b'a,"x\ny', b'a,"x\ny'),
        (b'q,r\na,"x\ny', b'a,"x\ny'),
        (b'a,"say ""hi""\nyes"\nb,"open\n', b'b,"open\n'),
        (b'a,5" disk\nb,c\nd', b"d"),  # a stray quote opens nothing
        (b'a,5" disk\nb,"x\ny"\nd,"z\n', b'd,"z\n'),
        (b'a,5" and 6"\nb,"x\n', b'b,"x\n'),
        (b'"a","b"\r\n"c","d\r\n', b'"c","d\r\n'),
        (b"a\rb\rc", b"c"),
    ],
)
def test_cuts(data, rest):
    assert data[last_row_end(data, ",") :] == rest


cells = st.text(st.sampled_from(['"', ",", "\n", "a", " ", "\r", "é"]), max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=12), st.integers(0, 400))
def test_a_cut_is_a_row_end(rows, length):
    """Rows before a cut parse to rows of the whole: checked with the csv module."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    text = out.getvalue()
    head = text.encode()[:length]
    end = last_row_end(head, ",")
    parsed = list(csv.reader(io.StringIO(head[:end].decode(errors="strict"), newline="")))
    assert parsed == list(csv.reader(io.StringIO(text, newline="")))[: len(parsed)]


def test_stray_quotes_in_a_large_file(write):
    rows = [{**FOCUS_ROW, "ResourceId": "i-@@"} for _ in range(3000)]
    text = csv_text(rows)
    for i in range(3000):
        text = text.replace("i-@@", f'5" disk {i}' if i % 7 == 0 else f"i-{i}", 1)
    got = ingest_paths(write(text), block_bytes=40_000)
    assert got.counts == (3000, 3000, 0, 0)
    assert got.rows[7]["resource_id"] == '5" disk 7'


def test_leaving_in_the_middle_of_a_bill_ends_the_process_cleanly(write):
    path = write(csv_text([FOCUS_ROW] * 20_000))
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from sust_dagster.connectors.billing import FileBilling\n"
        "batches = FileBilling(sys.argv[1], block_bytes=100_000).read()\n"
        "next(batches)\n"
        "raise SystemExit(3)\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", code, str(path), root], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, b"")
