from __future__ import annotations

import pyarrow as pa
import pytest
from accountant_tables import grid_rows, ledger, ledger_row

from sust_dagster.agents.accountant import LedgerError, account
from sust_dagster.agents.accountant.restate import REPORT_SCHEMA, diff_report


@pytest.fixture(scope="module")
def before(factors):
    rows = [
        ledger_row(0),
        ledger_row(1, region="eu-north-1", team_id="data"),
        ledger_row(2, team_id="data"),
        ledger_row(3, region="nowhere"),
    ]
    return account(ledger(*rows), grid_rows({"us-east-1": [0.3], "eu-north-1": [0.02]}), factors)


def lines(report: pa.Table) -> dict[tuple[str, str | None], dict]:
    return {(r["scope"], r["item"]): r for r in report.to_pylist()}


def test_a_new_factor_version_is_reported_by_region_and_team(before, factors):
    grid = grid_rows({"us-east-1": [0.6], "eu-north-1": [0.02]})
    rows = [
        ledger_row(0),
        ledger_row(1, region="eu-north-1", team_id="data"),
        ledger_row(2, team_id="data"),
        ledger_row(3, region="nowhere"),
    ]
    report = diff_report(before, account(ledger(*rows), grid, factors))
    assert report.schema.equals(REPORT_SCHEMA)
    got = lines(report)
    total = got[("total", None)]
    assert (total["rows"], total["rows_changed"], total["rows_added"], total["rows_removed"]) == (4, 2, 0, 0)
    assert total["rows_without_kg_before"] == total["rows_without_kg_after"] == 1
    assert total["kg_location_before"] == pytest.approx(0.0044 * (0.3 + 0.3 + 0.02))
    assert total["kg_location_delta"] == pytest.approx(0.0044 * 0.6)
    assert got[("region", "us-east-1")]["kg_location_delta"] == pytest.approx(0.0044 * 0.6)
    assert got[("region", "eu-north-1")]["rows_changed"] == 0
    assert got[("team_id", "data")]["rows_changed"] == 1
    by_region = [r for (scope, _), r in got.items() if scope == "region"]
    assert sum(r["kg_location_delta"] for r in by_region) == pytest.approx(total["kg_location_delta"])


def test_nothing_changed_is_nothing(before):
    total = lines(diff_report(before, before))[("total", None)]
    assert total["rows_changed"] == 0
    assert total["kg_location_delta"] == 0.0


def test_a_figure_that_appears_or_vanishes_is_a_change(before):
    place = before.column_names.index("kg_location")
    kg = before["kg_location"].to_pylist()
    after = before.set_column(place, before.schema.field(place), pa.array([None, kg[1], kg[2], 1.0]))
    total = lines(diff_report(before, after))[("total", None)]
    assert total["rows_changed"] == 2


def test_added_and_removed_rows_are_counted(before):
    total = lines(diff_report(before.slice(0, 3), before.slice(1)))[("total", None)]
    assert (total["rows"], total["rows_added"], total["rows_removed"]) == (4, 1, 1)
    assert total["rows_changed"] == 0


def test_two_versions_in_one_table_are_refused(before):
    with pytest.raises(LedgerError, match="twice"):
        diff_report(before, pa.concat_tables([before, before]))


def test_empty_tables_have_a_total(before):
    assert diff_report(before.slice(0, 0), before.slice(0, 0)).to_pylist()[0]["rows"] == 0
