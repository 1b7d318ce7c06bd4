"""The bill: FOCUS columns, grain, sums, and the rows that are not usage."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.network import egress_table
from sust_dagster.simulator.organisation import DEVELOPERS

START = datetime(2026, 1, 1, tzinfo=UTC)
# FOCUS 1.2: columns that are mandatory, those of them that may not be null first.
NOT_NULL = [
    "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory",
    "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
]  # fmt: skip
MANDATORY = [*NOT_NULL, "BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"]


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


@pytest.fixture(scope="module")
def month(cloud: FakeCloud) -> pd.DataFrame:
    return cloud.focus_rows(START, at(720)).to_pandas()


@settings(deadline=None, max_examples=20)
@given(first=st.integers(-100, 800), left=st.integers(0, 40), right=st.integers(0, 40))
def test_any_split_of_a_range_gives_the_same_bill(
    cloud: FakeCloud, placed_cloud: FakeCloud, first: int, left: int, right: int
) -> None:
    a, b, c = at(first), at(first + left), at(first + left + right)
    for world in (cloud, placed_cloud):
        parts = [world.focus_rows(a, b), world.focus_rows(b, c)]
        assert world.focus_rows(a, c).equals(pa.concat_tables(parts))


def test_batches_are_the_same_bill(cloud: FakeCloud) -> None:
    pieces = list(cloud.focus_batches(START, at(100), hours=7))
    assert len(pieces) == 15
    assert pa.concat_tables(pieces).equals(cloud.focus_rows(START, at(100)))


def test_mandatory_columns_are_there_and_filled(month: pd.DataFrame) -> None:
    assert set(MANDATORY) <= set(month.columns)
    assert list(month.columns) == sorted(month.columns)
    assert not month[NOT_NULL].isna().any().any()


def test_grain_is_one_job_and_clock_hour(month: pd.DataFrame) -> None:
    compute = month[(month["ConsumedUnit"] == "Hours") & month["ChargeClass"].isna()]
    assert (compute["ChargePeriodEnd"] - compute["ChargePeriodStart"] == timedelta(hours=1)).all()
    assert (compute["ChargePeriodStart"] == compute["ChargePeriodStart"].dt.floor("h")).all()
    assert compute["ConsumedQuantity"].between(0, 1, inclusive="right").all()
    assert not compute.duplicated(["ResourceId", "ChargePeriodStart"]).any()
    assert str(month["ChargePeriodStart"].dtype.tz) == "UTC"


def test_rows_are_sorted(cloud: FakeCloud) -> None:
    rows = cloud.focus_rows(START, at(60)).select(["ChargePeriodStart", "ResourceId"]).to_pandas()
    keys = list(zip(rows["ChargePeriodStart"], rows["ResourceId"].fillna("~"), strict=True))
    assert keys == sorted(keys)


def test_usage_adds_up_to_jobs_plus_egress_less_corrections(placed_cloud: FakeCloud) -> None:
    # The bill runs on until the last job of the window has ended.
    jobs = placed_cloud.jobs(at(24), at(240)).to_pandas()
    rows = placed_cloud.focus_rows(at(24), at(240 + 100)).to_pandas()
    own = rows[rows["ResourceName"].isin(jobs["job_id"])]
    regular = own[own["ChargeClass"].isna()]
    compute = regular[regular["ConsumedUnit"] == "Hours"].groupby("ResourceName")["BilledCost"].sum()
    np.testing.assert_allclose(compute.loc[jobs["job_id"]], jobs["cost_usd"], rtol=1e-9)
    egress = regular[regular["ConsumedUnit"] == "GB"]
    assert egress["BilledCost"].sum() == pytest.approx(jobs["egress_usd"].sum())
    assert (jobs["egress_usd"] > 0).sum() == len(egress) > 50
    moved = jobs[jobs["region"] != jobs["home_region"]]
    assert set(moved["job_id"]) == set(egress["ResourceName"])


def test_rows_that_are_not_regular_usage_are_there_and_tiny(month: pd.DataFrame) -> None:
    usage = month[month["ChargeCategory"] == "Usage"]
    other = month[month["ChargeCategory"] != "Usage"]
    assert sorted(other["ChargeCategory"]) == ["Credit", "Tax"]
    assert other["BilledCost"].sum() == 0
    unused = usage[usage["CommitmentDiscountStatus"] == "Unused"]
    assert 10 <= len(unused) <= 55
    assert unused["BilledCost"].sum() == 0 and (unused["EffectiveCost"] > 0).all()
    assert unused["ConsumedQuantity"].isna().all()
    corrections = usage[usage["ChargeClass"] == "Correction"]
    assert 1 <= len(corrections) <= 20
    assert (corrections["BilledCost"] < 0).all() and (corrections["ConsumedQuantity"] < 0).all()
    assert month["BilledCost"].sum() == pytest.approx(18_000, rel=0.10)


def test_tags_and_sku_details_are_json_with_the_agreed_keys(month: pd.DataFrame, cloud: FakeCloud) -> None:
    compute = month[month["ConsumedUnit"] == "Hours"].sample(500, random_state=0)
    workloads = cloud.workloads().to_pandas().set_index("workload_id")
    for _, row in compute.iterrows():
        tags = json.loads(row["Tags"])
        assert set(tags) == {"job", "owner", "service", "team", "tier", "workload"}
        workload = workloads.loc[tags["workload"]]
        assert tags["tier"] == workload["service_tier"]
        assert tags["team"] == workload["team_id"]
        assert tags["owner"] in DEVELOPERS
        assert row["ResourceName"] == tags["job"]
        details = json.loads(row["SkuPriceDetails"])
        assert details["InstanceType"] == workload["instance_type"]
        assert details["CoreCount"] == workload["vcpus"]
        assert details["MemorySize"] == workload["memory_gib"]
        assert details.get("GpuCount", 0) == workload["gpus"]


def test_prices_are_the_listed_ones(cloud: FakeCloud, month: pd.DataFrame) -> None:
    prices = cloud.prices(START, at(1)).to_pandas().set_index(["region", "instance_type"])
    compute = month[(month["ConsumedUnit"] == "Hours") & (month["ChargePeriodStart"] < at(24))]
    for _, row in compute.drop_duplicates("SkuId").iterrows():
        kind = row["SkuMeter"].split(":")[1]
        assert row["ListUnitPrice"] == prices.loc[(row["RegionId"], kind), "on_demand_usd_per_hour"]
    ratio = prices["spot_usd_per_hour"] / prices["on_demand_usd_per_hour"]
    assert ratio.between(0.30, 0.40).all()
    home = prices["on_demand_usd_per_hour"].xs("c5.xlarge", level="instance_type")
    assert home["us-east-1"] == pytest.approx(0.15 / 0.2)
    assert home["eu-west-1"] / home["us-east-1"] == pytest.approx(1.115)


def test_egress_prices_are_those_of_the_transmission_matrix(shared_data: Path) -> None:
    path = shared_data / "traces" / "aws_transmission_cost_matrix.csv"
    if not path.exists():
        pytest.skip("the AWS transmission cost matrix is not in ../shared/data/traces")
    matrix = pd.read_csv(path, index_col=0)
    ours = egress_table().to_pandas()
    listed = ours[ours["from_region"].isin(matrix.index) & ours["to_region"].isin(matrix.columns)]
    assert len(listed) >= 9
    for _, row in listed.iterrows():
        assert row["usd_per_gb"] == matrix.loc[row["from_region"], row["to_region"]]
    assert ours[ours["from_region"] != ours["to_region"]]["usd_per_gb"].between(0.01, 0.09).all()


def test_latency_is_symmetric_and_shortest_within_a_continent(cloud: FakeCloud) -> None:
    rtt = cloud.latency().to_pandas().pivot_table(index="from_region", columns="to_region", values="rtt_ms")
    assert rtt.equals(rtt.T)
    assert rtt.loc["eu-west-1"].drop("eu-west-1").idxmin() == "eu-north-1"
    assert rtt.loc["us-east-1"].drop("us-east-1").idxmin() == "us-west-2"


def test_a_month_of_bill_takes_less_than_three_seconds(cloud: FakeCloud) -> None:
    began = time.process_time()
    rows = cloud.focus_rows(START, at(720)).num_rows
    assert rows > 80_000
    assert time.process_time() - began < 3.0
