"""Every sample bill at hand is read, and every row of it ends in one place."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pyarrow.compute as pc
import pytest
from bills import INSTANCES, ingest_paths

from sust_dagster.agents.ingestor import IngestOptions
from sust_dagster.agents.ingestor.regions import region_id

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "billing"

#: file: (format's rows read, ledger, quarantined, skipped)
EXPECTED = {
    "aws/aws_cur_legacy_anonymous.csv": (1281, 1269, 0, 12),
    "aws/aws_cur_legacy_nise_16k_hourly.csv.gz": (16032, 16032, 0, 0),
    "azure/azure_EA_ActualCost_small.csv": (11, 9, 0, 2),
    "azure/azure_EA_AmortizedCost_small.csv": (28, 27, 0, 1),
    "azure/azure_ea_export_anonymous.csv": (27, 27, 0, 0),
    "azure/azure_export_nise.csv": (24, 24, 0, 0),
    # Its rows lack their last field; nothing may be guessed.
    "azure/opencost_azure_export_template.csv": (87, 0, 87, 0),
    "focus/focus_1.0_sample_1000.csv": (1000, 997, 0, 3),
    "gcp/gcp_standard_export_nise_576.csv": (576, 576, 0, 0),
    "oci_cost_report.csv": (506, 506, 0, 0),
}


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"the sample bill {name} is not here: the shared data folder is no part of the repository")
    return path


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_add_up(name):
    got = ingest_paths(sample(name), IngestOptions(instances=INSTANCES))
    assert got.counts == EXPECTED[name]
    units = set(got.ledger.column("resource_unit").to_pylist())
    assert units <= {"vCPU-h", "GPU-h", "GB-h", "GB", "h", "count"}


def column_sum(path: Path, value: str, keep) -> float:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    return sum(float(r[value]) for r in rows if keep(r))


@pytest.mark.parametrize(
    ("name", "cost", "keep"),
    [
        ("aws/aws_cur_legacy_anonymous.csv", "lineItem/UnblendedCost", lambda r: r["lineItem/LineItemType"] == "Usage"),
        ("aws/aws_cur_legacy_nise_16k_hourly.csv.gz", "lineItem/UnblendedCost", lambda _: True),
        ("focus/focus_1.0_sample_1000.csv", "BilledCost", lambda r: r["ChargeCategory"] == "Usage"),
        ("gcp/gcp_standard_export_nise_576.csv", "cost", lambda _: True),
        ("oci_cost_report.csv", "cost/myCost", lambda _: True),
        (
            "azure/azure_EA_AmortizedCost_small.csv",
            "Cost",
            lambda r: r["ChargeType"] == "Usage" and "capacityReservationGroups" not in r["ResourceId"],
        ),
    ],
)
def test_cost_of_usage_is_kept_to_the_cent(name, cost, keep):
    """An outside reader (the csv module) and the ledger agree on what the usage rows cost."""
    got = ingest_paths(sample(name), IngestOptions(instances=INSTANCES))
    assert pc.sum(got.ledger.column("cost_usd")).as_py() == pytest.approx(column_sum(sample(name), cost, keep))


def test_focus_sample_knows_its_machines():
    got = ingest_paths(sample("focus/focus_1.0_sample_1000.csv"), IngestOptions(instances=INSTANCES))
    assert got.skipped == {"adjustment": 2, "credit": 1}
    machines = {r["instance_type"] for r in got.rows if r["resource_type"] in ("compute", "gpu")}
    assert {"c5.2xlarge", "t3.medium", "m7i-flex.xlarge", "g5.4xlarge", "db.t3.micro", "Standard_D11_v2"} <= machines
    corrections = {r["raw_record_ref"] for r in got.rows if r["charge_class"] == "correction"}
    assert len(corrections) == 12
    assert {r["region"] for r in got.rows if r["cloud_provider"] == "oci"} == {"us-sanjose-1", "us-phoenix-1"}


def test_azure_locations_are_normalised():
    path = sample("azure/azure_finops_toolkit_Regions.csv")
    with path.open(encoding="utf-8") as file:
        pairs = [(r["OriginalValue"], r["RegionId"]) for r in csv.DictReader(file)]
    right = sum(region_id("azure", text, None, None)[0] == wanted for text, wanted in pairs)
    guessed = [
        (text, wanted)
        for text, wanted in pairs
        if not region_id("azure", text, None, None)[1] and region_id("azure", text, None, None)[0] != wanted
    ]
    assert right >= 0.97 * len(pairs)
    assert len(guessed) <= 3  # the table itself is unsure of these: chnorth, unitedkingdomsouth2, useast2euap
