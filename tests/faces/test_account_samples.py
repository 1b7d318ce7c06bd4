"""`sust account` on every real and generated sample of the data folder."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from sust_cli import sust

from sust_dagster.world.schemas import ACCOUNT_COLUMNS

SAMPLES = {
    "focus/focus_1.0_sample_1000.csv": 1000,
    "aws/aws_cur_legacy_anonymous.csv": 1281,
    "aws/aws_cur_legacy_nise_16k_hourly.csv.gz": 16032,
    "azure/azure_EA_ActualCost_small.csv": 11,
    "azure/azure_EA_AmortizedCost_small.csv": 28,
    "azure/azure_ea_export_anonymous.csv": 27,
    "azure/azure_export_nise.csv": 24,
    "azure/opencost_azure_export_template.csv": 87,
    "gcp/gcp_standard_export_nise_576.csv": 576,
    "oci_cost_report.csv": 506,
}


def checked(said, path):
    """What must hold for any bill."""
    assert said["rows_ledger"] + said["rows_quarantined"] + said["rows_skipped"] == said["rows_read"]
    table = pq.read_table(path)
    assert tuple(table.column_names[: len(ACCOUNT_COLUMNS)]) == ACCOUNT_COLUMNS
    assert table.num_rows == said["ledger_slices"]
    assert pq.read_table(path.with_suffix(".quarantine.parquet")).num_rows == said["rows_quarantined"]
    for row in table.to_pylist():
        if row["kg_location"] is not None:
            assert row["kg_location_lower"] <= row["kg_location"] <= row["kg_location_upper"]
        else:
            assert {"no_intensity", "no_energy_model", "memory_in_vcpu", "no_pue"} & set(row["quality"].split(";"))
    assert said["slices_no_intensity"] <= said["slices_not_estimated"] <= said["ledger_slices"]
    if said["kg_location"] is not None:
        assert said["kg_location_lower"] <= said["kg_location"] <= said["kg_location_upper"]
    return table


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_accounted_the_same_way_twice(shared_data, tmp_path, name):
    path = shared_data / "billing" / name
    if not path.is_file():
        pytest.skip(f"{name} is not in the data folder")
    once, again = tmp_path / "1.parquet", tmp_path / "2.parquet"
    said = sust("account", "--billing", path, "--out", once, "--json").json
    assert said["rows_read"] == SAMPLES[name]
    checked(said, once)
    assert sust("account", "--billing", path, "--out", again).code == 0
    for suffix in (".parquet", ".quarantine.parquet"):
        assert once.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()


def test_the_whole_folder_with_the_whole_folder_of_traces(shared_data, tmp_path):
    traces = shared_data / "traces"
    if not traces.is_dir():
        pytest.skip("grid traces are licensed for internal use and not redistributed")
    out = tmp_path / "all.parquet"
    ran = sust(
        "account", "--billing", shared_data / "billing", "--grid", traces, "--grid-fallback", "static", "--out", out,
        "--json",
    )  # fmt: skip
    table = checked(ran.json, out)
    assert "azure_finops_toolkit_Regions.csv" in ran.json["files_passed_over"][0]
    assert ran.json["rows_read"] == sum(SAMPLES.values())
    assert set(ran.json["grid_files"]) >= {"US-MIDA-PJM_2023_hourly.csv.gz"}
    assert "zone_region_map.csv" in ran.err
    flagged = [q for q in table["quality"].to_pylist() if "grid_fallback" in q]
    assert len(flagged) == ran.json["slices_grid_fallback"] > 0
    assert ran.json["cost_by_currency"].keys() >= {"CAD", "USD"}
