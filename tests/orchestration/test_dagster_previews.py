"""What assets show of themselves: tables no cell of which is broken or empty, rows by day, columns that exist."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pytest

from sust_dagster.orchestration.assets import decide, marts, verify
from sust_dagster.orchestration.declarations import asset_properties
from sust_dagster.orchestration.previews import show_days, words_table
from sust_dagster.world.schemas import TABLES

DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_table_of_words_breaks_no_date_and_no_interval() -> None:
    found = words_table(("team", "month", "n"), [("a|b", "2026-01", 1204)], right=(2,)).value
    head, rule, row = found.splitlines()
    assert head == "| team | month | n |"
    assert rule == "|---|---|---:|"
    assert row == "| a\\|b | 2026\u201101 | 1,204 |"


def test_a_sentence_may_break_and_no_rows_are_said_to_be_none() -> None:
    sentence = "inputs are not past their settling time: they may still change"
    assert sentence in words_table(("what",), [(sentence,)]).value
    assert words_table(("what",), []).value == "none"


def test_each_day_of_a_run_shows_its_own_rows() -> None:
    days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04", timezone="UTC")

    @dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def some(context: dg.AssetExecutionContext) -> None:
        at = pa.array([FIRST, FIRST + DAY / 2, FIRST + 2 * DAY], pa.timestamp("us", tz="UTC"))
        show_days(context, "some", pa.table({"at": at}), "at")

    tags = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-03"}
    done = dg.materialize([some], tags=tags)
    found = {e.partition: e.materialization.metadata for e in done.get_asset_materialization_events()}
    rows = {day: metadata["dagster/partition_row_count"].value for day, metadata in found.items()}
    assert rows == {"2026-01-01": 2, "2026-01-02": 0, "2026-01-03": 1}


@pytest.mark.parametrize(("table", "lineage"), [("outcomes", verify._LINEAGE), ("recommendations", decide._LINEAGE)])
def test_lineage_names_columns_that_exist(table: str, lineage: dg.TableColumnLineage) -> None:
    assert set(lineage.deps_by_column) <= set(TABLES[table].column_names)
    for deps in lineage.deps_by_column.values():
        for dep in deps:
            assert dep.column_name in TABLES[dep.asset_key.path[-1]].column_names


def test_a_mart_has_the_columns_of_its_file_and_what_is_known_of_them() -> None:
    stored = pa.schema([("cost_usd", pa.float64()), ("region", pa.string()), ("its_own", pa.int64())])
    declared = dg.TableSchema([dg.TableColumn("cost_usd", description="as dbt has it")])
    found = {c.name: (c.type, c.description) for c in marts._columns("activity_ledger", stored, declared).columns}
    assert found["cost_usd"] == ("double", "as dbt has it")
    assert found["region"] == ("string", TABLES["activity_ledger"].column("region").doc)
    assert found["its_own"] == ("int64", None)


def test_an_asset_says_where_its_table_is_and_how_it_is_cut() -> None:
    said = asset_properties("outcomes", "verifier")["metadata"]
    assert (said["home"], said["partitioned_by"]) == ("lake", "executed_on, by day (UTC)")
    books = asset_properties("decision_events", "governance")["metadata"]
    assert books["home"] == "books" and "partitioned_by" not in books
