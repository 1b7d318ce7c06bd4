"""A bill that changed restates the hours its changed rows touch, and no other: whatever else moved in its files."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from loop_worlds import HOUR, START, bars

from sust_dagster.agents.accountant import FactorSet, account
from sust_dagster.agents.ingestor import HISTORY, HISTORY_COLUMNS, IngestOptions, ServiceHours, ingest_range
from sust_dagster.connectors.billing import FileBilling
from sust_dagster.connectors.grid import StaticGrid, hourly
from sust_dagster.faces.backfill import run_backfill
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.reference import instances, shipped_factors
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake

HOURS = 8
WINDOW = (START, START + HOURS * HOUR)
COLUMNS = (
    "BilledCost", "BillingCurrency", "ChargeCategory", "ChargePeriodStart", "ChargePeriodEnd", "ConsumedQuantity",
    "ConsumedUnit", "ProviderName", "RegionId", "ResourceId", "ServiceName", "SkuPriceDetails",
)  # fmt: skip
Row = tuple[str, ...]
TABLES = ("activity_ledger", "quarantine", "ingest_counts", "emissions")


def row_of(hour: int, length: int, resource: str, quantity: str, cost: str, category: str) -> Row:
    start = START + hour * HOUR
    return (
        cost, "USD", category, f"{start:%Y-%m-%dT%H:%M:%SZ}", f"{start + length * HOUR:%Y-%m-%dT%H:%M:%SZ}", quantity,
        "Hours", "AWS", "us-east-1", resource, "Amazon Elastic Compute Cloud", '{"InstanceType":"t.4","CoreCount":4}',
    )  # fmt: skip


#: Usage, long usage, tax, and what goes to quarantine; few distinct values, so that there are equal rows, and rows
#: that are equal but for their cost. Costs are alike: a spike would be judged by the hours before it.
rows = st.builds(
    row_of,
    st.integers(0, HOURS - 3),
    st.sampled_from([1, 1, 1, 3]),
    st.sampled_from(["i-1", "i-2"]),
    st.sampled_from(["1", "0.5", "0.5", "a lot", "inf"]),
    st.sampled_from(["1.0", "1.5"]),
    st.sampled_from(["Usage", "Usage", "Usage", "Tax"]),
)


def bill(folder: Path, content: Iterable[Row], files: int, seed: int) -> Path:
    """The rows in any order, spread over the parts of one export."""
    shuffled = list(content)
    rng = random.Random(seed)
    rng.shuffle(shuffled)
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    borders = [0, *sorted(rng.randrange(len(shuffled) + 1) for _ in range(files - 1)), len(shuffled)]
    for part, (first, last) in enumerate(pairwise(borders)):
        with (folder / f"export-{part:05}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(shuffled[first:last])
    return folder


@cache
def world_outside() -> tuple[FactorSet, pa.Table]:
    return FactorSet.from_table(shipped_factors()), hourly(StaticGrid(), *WINDOW, ["us-east-1"]).table


def store(lake: Lake, folder: Path, reason: str) -> None:
    """What a range run does, without Dagster: sense and model the window and write it to the lake."""
    factors, grid = world_outside()
    history = ServiceHours()
    history.add(lake.read("activity_ledger", WINDOW[0] - HISTORY, WINDOW[0], columns=HISTORY_COLUMNS))
    sensed = ingest_range(
        FileBilling(folder).read(*WINDOW), *WINDOW, IngestOptions(instances=instances()), undated=START, history=history
    )
    tables = {"activity_ledger": sensed.ledger, "quarantine": sensed.quarantine, "ingest_counts": sensed.counts}
    for name, table in tables.items():
        lake.write(name, table, *WINDOW, writer="ingestor", reason=reason)
    ledger = lake.read("activity_ledger", *WINDOW)
    emissions = account(ledger, grid, factors, method="simple/v1", instances=instances())
    lake.write("emissions", emissions, *WINDOW, writer="accountant", reason=reason)


def fate(row: Row) -> str:
    """Where a row goes. An unreadable number is refused before anyone looks at what kind of charge it is."""
    category, quantity = row[COLUMNS.index("ChargeCategory")], row[COLUMNS.index("ConsumedQuantity")]
    if quantity == "a lot" or (quantity == "inf" and category == "Usage"):
        return f"quarantine {quantity}"
    return "ledger" if category == "Usage" else "skipped"


def hours_of(row: Row) -> list[str]:
    start, end = (datetime.fromisoformat(row[COLUMNS.index(f"ChargePeriod{side}")]) for side in ("Start", "End"))
    return [f"{start + n * HOUR:%Y-%m-%dT%H}" for n in range((end - start) // HOUR)]


def touched(before: Iterable[Row], after: Iterable[Row]) -> dict[str, set[str]]:
    """Slots that rows which came or went have a part in, by table; of the counts, those that do not come out even."""
    old, new = Counter(before), Counter(after)
    changed = [*(old - new), *(new - old)]
    ledger = {hour for row in changed if fate(row) == "ledger" for hour in hours_of(row)}
    counts = [Counter((hours_of(row)[0], fate(row)) for row in rows.elements()) for rows in (old, new)]
    return {
        "activity_ledger": ledger,
        "quarantine": {hours_of(row)[0] for row in changed if fate(row).startswith("quarantine")},
        "ingest_counts": {key[0] for key in counts[0] | counts[1] if counts[0][key] != counts[1][key]},
        "emissions": ledger,
    }


# Without shrinking: one example writes a lake three times.
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(rows, min_size=1, max_size=12),
    st.lists(rows, max_size=3),
    st.data(),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_the_touched_hours_and_no_others(tmp_path_factory, first, inserted, data, files, seed):
    root = tmp_path_factory.mktemp("touched")
    lake = Lake(root / "lake")
    store(lake, bill(root / "bill", first, 1, 0), "first load")
    versions = {t: lake.version(t) for t in TABLES}
    then = {t: (lake.slots(t), lake.read(t)) for t in TABLES}

    store(lake, bill(root / "bill", first, files, seed), "shuffled")
    assert {t: lake.version(t) for t in TABLES} == versions, "the order of rows and their files changed something"

    deleted = data.draw(st.sets(st.integers(0, len(first) - 1), max_size=3))
    second = [*inserted, *(row for i, row in enumerate(first) if i not in deleted)]
    store(lake, bill(root / "bill", second, files, seed + 1), "the bill changed")
    for table, expected in touched(first, second).items():
        slots, rows_then = then[table]
        now = lake.slots(table)
        assert {s for s in slots.keys() | now.keys() if slots.get(s) != now.get(s)} == expected, table
        restated = [r for version, r, _ in lake.restatements(table) if version > (versions[table] or 0)]
        assert Counter(r.slot for r in restated) == Counter(expected & slots.keys()), "one restatement per hour"
        if versions[table] is not None:
            assert lake.read(table, as_of=versions[table]).equals(rows_then)
        commits = (lake.version(table) or 0) - (versions[table] or 0)
        assert commits == bool(expected) or versions[table] is None


def through_dagster(root: Path, content: list[Row], files: int, seed: int, reason: str) -> dict[str, dict[str, int]]:
    project = Project(
        root=root / "project", source="files", billing=[str(bill(root / "bill", content, files, seed))], grid="static",
        start=WINDOW[0], end=WINDOW[1], schema_pass_rate=0.5,
    )  # fmt: skip
    project.save()
    result = run_backfill(project, None, None, reason, bars(), marts=False)
    return {"commits": result["commits"], "restated": result["restated_hours"]}


def test_a_reordered_bill_is_no_restatement_through_dagster_either(tmp_path: Path) -> None:
    content = [
        row_of(hour, 1, f"i-{machine}", "0.5", cost, "Usage")
        for hour in range(HOURS)
        for machine in range(2)
        for cost in ("1.0", "1.5", "1.5")
    ]
    content += [row_of(2, 1, "i-1", "a lot", "1.0", "Usage"), row_of(1, 3, "i-3", "3", "4.0", "Usage")]
    through_dagster(tmp_path, content, 1, 0, "first load")
    lake = Lake(tmp_path / "project" / "lake")
    version, rows_then = lake.version("activity_ledger"), lake.read("activity_ledger")

    nothing = dict.fromkeys(HOURLY_ASSETS, 0)
    assert through_dagster(tmp_path, content, 3, 1, "shuffled") == {"commits": nothing, "restated": nothing}

    changed = [row_of(0, 1, "i-0", "1", "1.0", "Usage"), *content[:-1]]  # one more in hour 0, none in hours 1 to 3
    result = through_dagster(tmp_path, changed, 2, 2, "the bill changed")
    assert result["restated"] == {**nothing, "activity_ledger": 4, "ingest_counts": 2, "emissions": 4}
    assert lake.read("activity_ledger", as_of=version).equals(rows_then)
    assert {s for _, r, _ in lake.restatements("emissions") for s in [r.slot]} == {
        f"{START + h * HOUR:%Y-%m-%dT%H}" for h in range(4)
    }


def test_a_row_number_in_a_reference_would_be_found(tmp_path: Path) -> None:
    """Negative control: with the place of a row in what is stored, a row in front restates every hour behind it."""
    content = [row_of(hour, 1, "i-1", "1", "1.0", "Usage") for hour in range(HOURS)]
    slots = []
    for lines in (content, [content[0], *content]):
        lake = Lake(tmp_path / str(len(lines)))
        folder = bill(tmp_path / "bill", lines, 1, 0)
        (folder / "export-00000.csv").write_text("\n".join([",".join(COLUMNS), *(quoted(r) for r in lines)]) + "\n")
        store(lake, folder, "load")
        ledger = lake.read("activity_ledger")
        numbered = ledger.set_column(
            ledger.column_names.index("raw_record_ref"), "raw_record_ref",
            pa.array([f"export-00000.csv#row={n}" for n in number_of(ledger, lines)]),
        )  # fmt: skip
        lake.write("activity_ledger", numbered, *WINDOW, writer="a test", reason="by row number")
        slots.append(lake.slots("activity_ledger"))
    assert all(slots[0][slot] != slots[1][slot] for slot in slots[0])


def quoted(row: Row) -> str:
    return ",".join('"' + value.replace('"', '""') + '"' for value in row)


def number_of(ledger: pa.Table, lines: list[Row]) -> list[int]:
    starts = [datetime.fromisoformat(r[COLUMNS.index("ChargePeriodStart")]) for r in lines]
    seen: Counter[datetime] = Counter()
    numbers = []
    for at in ledger.column("started_at").to_pylist():
        numbers.append([i for i, s in enumerate(starts, start=1) if s == at][seen[at]])
        seen[at] += 1
    return numbers
