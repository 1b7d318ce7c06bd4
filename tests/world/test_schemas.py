"""The declarations hold together, and conform() refuses what does not fit."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from sust_dagster.world.schemas import (
    ACCOUNT_COLUMNS,
    ACTIVITY_LEDGER,
    AGENTS,
    EMISSIONS,
    POINTS_LEDGER,
    POLICIES,
    TABLES,
    TIMESTAMP,
    SchemaError,
    TableSpec,
    tables,
)

#: The founding design's columns: added to, never removed.
SEED_COLUMNS = {
    "activity_ledger": (
        "activity_id job_id service_name team_id cloud_provider region instance_type resource_type resource_qty "
        "resource_unit cost_usd workload_category started_at ended_at ingested_at source raw_record_ref"
    ),
    "emission_factors": (
        "factor_id factor_type region provider value value_lower value_upper unit source source_url valid_from "
        "valid_to version created_at"
    ),
    "grid_intensity": "ts region intensity_kgco2_kwh intensity_lower intensity_upper source",
    "outcomes": (
        "outcome_id decision_id recommendation_id measured_carbon_delta_kg counterfactual_carbon_kg actual_carbon_kg "
        "carbon_ci_lower carbon_ci_upper measured_cost_delta_usd sla_compliant sla_detail verification_method "
        "evidence_chain verification_status"
    ),
    "points_ledger": "entry_id team_id outcome_id points reason awarded_at",
}


@pytest.mark.parametrize("spec", TABLES.values(), ids=lambda s: s.name)
def test_a_declaration_holds_together(spec: TableSpec) -> None:
    names = spec.column_names
    assert len(set(names)) == len(names)
    assert spec.doc and all(c.doc for c in spec.columns)
    assert spec.key and set(spec.key) <= set(names)
    assert spec.writers and set(spec.writers) <= set(AGENTS)
    assert (spec.partition == "none") == (spec.home == "books")
    if spec.home == "lake":
        assert spec.time_column is not None
        time = spec.column(spec.time_column)
        assert time.type == TIMESTAMP and not time.nullable and not time.from_commit
    assert all(c.type.tz == "UTC" for c in spec.columns if pa.types.is_timestamp(c.type))


@pytest.mark.parametrize(("table", "columns"), SEED_COLUMNS.items())
def test_no_column_of_the_founding_design_is_lost(table: str, columns: str) -> None:
    assert set(columns.split()) <= set(TABLES[table].column_names)


def test_units_and_docs_travel_with_the_arrow_schema() -> None:
    metadata = EMISSIONS.arrow.field("kg_location").metadata
    assert metadata[b"unit"] == b"kgCO2e" and metadata[b"doc"]


def test_the_homes_share_out_the_tables() -> None:
    lake, books = ({t.name for t in tables(h)} for h in ("lake", "books"))
    assert lake | books == set(TABLES) == {t.name for t in tables()}
    assert not lake & books


def test_the_plain_file_contract_of_account() -> None:
    assert ACCOUNT_COLUMNS[:3] == ("activity_id", "started_at", "ended_at")
    assert ACCOUNT_COLUMNS[-3:] == ("methodology", "emission_factor_id", "quality")


def policy(**changes: object) -> dict[str, list[object]]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    row: dict[str, object] = {"policy_id": "p", "version": 1, "document": "{}", "document_hash": "h", "author": "a"}
    row |= {"valid_from": now, "created_at": now, **changes}
    return {k: [v] for k, v in row.items()}


def test_conform_orders_casts_and_fills() -> None:
    given = pa.table(policy(version=None)).set_column(1, "version", pa.array([3], pa.int8()))
    table = POLICIES.conform(given.select(reversed(given.column_names)))
    assert table.column_names == list(POLICIES.column_names)
    assert table.schema.equals(POLICIES.arrow)
    assert table.to_pylist()[0]["version"] == 3
    assert table.to_pylist()[0]["approved_by"] is None


def test_conform_leaves_out_what_the_commit_gives() -> None:
    assert "ingested_at" in ACTIVITY_LEDGER.column_names
    assert "ingested_at" not in ACTIVITY_LEDGER.empty().column_names
    with pytest.raises(KeyError, match="activity_ledger has no column cost_eur"):
        ACTIVITY_LEDGER.column("cost_eur")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (policy(surprise=1), r"unknown columns \['surprise'\]"),
        ({k: v for k, v in policy().items() if k != "author"}, "required column author .* is missing"),
        (policy(author=None), "null values in required column author"),
        (policy(version="three"), "column version"),
    ],
)
def test_conform_refuses_by_name(data: dict[str, list[object]], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        POLICIES.conform(data)


def test_an_empty_table_fits() -> None:
    assert POINTS_LEDGER.conform(POINTS_LEDGER.empty()).num_rows == 0
