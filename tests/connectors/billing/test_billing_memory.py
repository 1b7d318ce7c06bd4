"""Memory stays bounded however large the bill: measured, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bills import FOCUS_ROW, csv_text

MEGABYTE = 1 << 20

READ = """
import json, resource, sys
sys.path.insert(0, sys.argv[2])
from sust_dagster.agents.ingestor import ingest
from sust_dagster.connectors.billing import FileBilling
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
run = ingest(FileBilling(sys.argv[1]).read())
for _ in run:
    pass
print(json.dumps({"growth": peak() - before, "rows": run.summary.rows_read, "ledger": run.summary.rows_ledger}))
"""


def large_bill(path: Path, megabytes: int) -> int:
    """A FOCUS bill of about this size, rows told apart by resource and hour; returns its number of rows."""
    marked = {**FOCUS_ROW, "ResourceId": "i-@@@@@@@@", "ChargePeriodStart": "2026-10-##T05:00:00Z",
              "ChargePeriodEnd": "2026-10-##T06:00:00Z"}  # fmt: skip
    header, row = csv_text([marked]).splitlines()
    block = 2000
    rows = 0
    with path.open("w") as file:
        file.write(header + "\n")
        while file.tell() < megabytes * MEGABYTE:
            lines = (
                row.replace("@@@@@@@@", f"{rows + i:08d}").replace("##", f"{(rows + i) // 20000 % 28 + 1:02d}")
                for i in range(block)
            )
            file.write("\n".join(lines) + "\n")
            rows += block
    return rows


@pytest.mark.slow
def test_half_a_gigabyte_in_far_less(tmp_path):
    path = tmp_path / "large.csv"
    rows = large_bill(path, 500)
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), root], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout)
    path.unlink()
    assert (found["rows"], found["ledger"]) == (rows, rows)
    # Measured growth is about 330 MB: a few 32 MB blocks, and 20 bytes a row against duplicates.
    assert found["growth"] < 450 * MEGABYTE
