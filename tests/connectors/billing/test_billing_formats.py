"""One small bill per format, by hand: what each column becomes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bills import FOCUS_ROW, INSTANCES, csv_text, ingest_paths

from sust_dagster.agents.ingestor import IngestOptions
from sust_dagster.connectors.billing import BillingError, FileBilling, from_arrow


def at(hour: int, day: int = 1) -> datetime:
    return datetime(2026, 10, day, hour, tzinfo=UTC)


def format_of(path: Path) -> str:
    (info,) = FileBilling(path).describe()
    return info.format


class TestFocus:
    def test_a_usage_row(self, focus):
        row = focus({}).row
        assert row["cloud_provider"] == "aws"
        assert row["region"] == "us-east-1"
        assert row["instance_type"] == "m5.large"
        assert (row["resource_type"], row["resource_qty"], row["resource_unit"]) == ("compute", 2.0, "vCPU-h")
        assert (row["vcpus"], row["memory_gib"], row["vcpu_hours"], row["usage_hours"]) == (2.0, 8.0, 2.0, 1.0)
        assert row["gpus"] == 0.0
        assert (row["cost_usd"], row["billed_cost"], row["billing_currency"]) == (0.096, 0.096, "USD")
        assert (row["started_at"], row["ended_at"]) == (at(5), at(6))
        assert row["team_id"] == "search"
        assert row["service_name"] == "index"
        assert row["workload_id"] == "rank"
        assert row["job_id"] == "rank-7"
        assert (row["service_tier"], row["workload_category"]) == ("batch", "sustainable")
        assert re.fullmatch(r"bill\.csv#[0-9a-f]{32}", row["raw_record_ref"])
        assert row["source"] == "billing_api"
        assert row["charge_class"] == "usage"
        assert row["quality"] == "ok"
        assert row["anomaly"] is None

    @pytest.mark.parametrize(
        ("extra", "version"),
        [
            ({}, "focus-1.1"),
            ({"InvoiceId": "x"}, "focus-1.2"),
            ({"ServiceProviderName": "AWS", "ContractApplied": ""}, "focus-1.3"),
        ],
    )
    def test_version_by_columns(self, write, extra, version):
        assert format_of(write(csv_text([{**FOCUS_ROW, **extra}]))) == version

    def test_version_1_0_takes_the_instance_from_the_description(self, write):
        columns = [c for c in FOCUS_ROW if c not in ("SkuMeter", "SkuPriceDetails")]
        row = {c: FOCUS_ROW[c] for c in columns}
        row["ChargeDescription"] = "$0.096 per On Demand Linux m5.large Instance Hour"
        path = write(csv_text([row]))
        assert format_of(path) == "focus-1.0"
        found = ingest_paths(path).row
        assert (found["instance_type"], found["vcpus"]) == ("m5.large", 2.0)

    def test_version_1_3_without_provider_name(self, write):
        row = {**FOCUS_ROW, "ServiceProviderName": "Amazon Web Services", "HostProviderName": "AWS"}
        del row["ProviderName"]
        assert ingest_paths(write(csv_text([row]))).row["cloud_provider"] == "aws"

    def test_null_words_blanks_and_marks(self, write):
        row = {**FOCUS_ROW, "ChargePeriodStart": "2026-10-01 05:00:00", "ChargePeriodEnd": "2026-10-01 06:00:00"}
        row |= {"ChargeClass": "NULL", "ResourceId": "NULL", "AvailabilityZone": "NULL", "Tags": "NULL"}
        found = ingest_paths(write("\ufeff" + csv_text([row]))).row
        assert found["resource_id"] is None
        assert found["team_id"] == "unmapped"
        assert found["started_at"] == at(5)
        assert found["quality"] == "naive_timestamp;unmapped_team;no_tier"
        assert found["workload_category"] == "urgent"

    def test_kinds_of_charge(self, focus):
        got = focus(
            {},
            {"ChargeCategory": "Purchase"},
            {"ChargeCategory": "Tax"},
            {"ChargeCategory": "Credit"},
            {"ChargeCategory": "Adjustment"},
            {"CommitmentDiscountStatus": "Unused"},
        )
        assert got.counts == (6, 1, 0, 5)
        assert got.skipped == {"purchase": 1, "tax": 1, "credit": 1, "adjustment": 1, "unused_commitment": 1}

    def test_unused_commitments_and_reservations_carry_no_energy(self, write):
        rows = [
            {**FOCUS_ROW, "CommitmentDiscountStatus": s, "CapacityReservationStatus": c}
            for s, c in (("Used", ""), ("Unused", ""), ("", "Unused"), ("", "Used"))
        ]
        got = ingest_paths(write(csv_text(rows)))
        assert got.counts == (4, 2, 0, 2)
        assert got.skipped == {"unused_commitment": 1, "unused_capacity_reservation": 1}

    def test_corrections_are_negative_rows(self, focus):
        got = focus({}, {"ChargeClass": "Correction", "ConsumedQuantity": "-0.25", "BilledCost": "-0.024"})
        usage, correction = got.rows
        assert usage["charge_class"] == "usage"
        assert correction["charge_class"] == "correction"
        assert correction["resource_qty"] == -0.5
        assert correction["vcpu_hours"] == -0.5
        assert correction["cost_usd"] == -0.024
        assert correction["quality"] == "ok"

    def test_negative_usage_that_is_not_called_a_correction(self, focus):
        row = focus({"ConsumedQuantity": "-1", "BilledCost": "-0.096"}).row
        assert (row["charge_class"], row["quality"]) == ("correction", "negative_usage")

    def test_a_correction_of_cost_alone_is_skipped(self, focus):
        got = focus({"ChargeClass": "Correction", "ConsumedQuantity": ""})
        assert got.skipped == {"cost_correction": 1}

    def test_gpu_machine(self, focus):
        details = '{"InstanceType":"p3.2xlarge","CoreCount":8,"MemorySize":61,"GpuCount":1,"x_GpuModel":"V100"}'
        row = focus({"SkuPriceDetails": details, "SkuMeter": "BoxUsage:p3.2xlarge", "ConsumedQuantity": "0.5"}).row
        assert (row["resource_type"], row["resource_qty"], row["resource_unit"]) == ("gpu", 0.5, "GPU-h")
        assert (row["vcpus"], row["gpus"], row["gpu_model"]) == (8.0, 1.0, "V100")
        assert (row["vcpu_hours"], row["gpu_hours"]) == (4.0, 0.5)

    def test_effective_cost_on_demand(self, focus):
        assert focus({}, options=IngestOptions(cost_basis="effective")).row["cost_usd"] == 0.08

    def test_unknown_instance_is_said_and_not_guessed(self, focus):
        row = focus({"SkuPriceDetails": "", "SkuMeter": "BoxUsage:z9.huge"}).row
        assert row["quality"] == "unknown_instance"
        assert row["vcpus"] is None
        assert row["vcpu_hours"] is None
        assert (row["resource_type"], row["resource_qty"], row["resource_unit"]) == ("compute", 1.0, "h")

    def test_unknown_gpu_count_is_said(self, focus):
        row = focus({"SkuPriceDetails": '{"CoreCount":4}', "SkuMeter": "BoxUsage:g9.xlarge"}).row
        assert (row["vcpus"], row["gpus"], row["quality"]) == (4.0, None, "unknown_gpus")

    def test_parquet_and_arrow_give_the_same_as_csv(self, write, tmp_path):
        csv_ledger = ingest_paths(write(csv_text([FOCUS_ROW, FOCUS_ROW]))).ledger
        typed = pa.Table.from_pylist([FOCUS_ROW, FOCUS_ROW])
        for name in ("ConsumedQuantity", "BilledCost", "EffectiveCost"):
            place = typed.column_names.index(name)
            typed = typed.set_column(place, name, typed.column(name).cast(pa.float64()))
        for name in ("ChargePeriodStart", "ChargePeriodEnd"):
            place = typed.column_names.index(name)
            times = pa.array([datetime.fromisoformat(FOCUS_ROW[name])] * 2, pa.timestamp("ms", tz="UTC"))
            typed = typed.set_column(place, name, times)
        path = tmp_path / "bill.parquet"
        pq.write_table(typed, path)
        parquet_ledger = ingest_paths(path).ledger
        drop = ["raw_record_ref"]
        assert parquet_ledger.drop_columns(drop).equals(csv_ledger.drop_columns(drop))
        from sust_dagster.agents.ingestor import ingest

        (result,) = ingest([from_arrow(typed, "memory")], IngestOptions(instances=INSTANCES))
        assert result.ledger.drop_columns(drop).equals(csv_ledger.drop_columns(drop))
        refs = [r["raw_record_ref"] for r in result.ledger.to_pylist()]
        assert refs == [r["raw_record_ref"].replace("bill.csv", "memory") for r in csv_ledger.to_pylist()]
        assert refs[1] == f"{refs[0]}#1"


CUR_ROW = {
    "identity/LineItemId": "abc",
    "identity/TimeInterval": "2026-10-01T05:00:00Z/2026-10-01T06:00:00Z",
    "bill/PayerAccountId": "1",
    "lineItem/UsageAccountId": "2",
    "lineItem/LineItemType": "Usage",
    "lineItem/UsageStartDate": "2026-10-01T05:00:00Z",
    "lineItem/UsageEndDate": "2026-10-01T06:00:00Z",
    "lineItem/ProductCode": "AmazonEC2",
    "lineItem/UsageType": "USW2-BoxUsage:m5.large",
    "lineItem/Operation": "RunInstances",
    "lineItem/AvailabilityZone": "us-west-2b",
    "lineItem/ResourceId": "i-1",
    "lineItem/UsageAmount": "1",
    "lineItem/CurrencyCode": "USD",
    "lineItem/UnblendedCost": "0.096",
    "lineItem/LineItemDescription": "$0.096 per On Demand Linux m5.large Instance Hour",
    "product/ProductName": "Amazon Elastic Compute Cloud",
    "product/instanceType": "m5.large",
    "product/vcpu": "2",
    "product/memory": "8 GiB",
    "product/region": "us-west-2",
    "pricing/unit": "Hrs",
    "reservation/EffectiveCost": "",
    "savingsPlan/SavingsPlanEffectiveCost": "",
    "resourceTags/user:Team": "search",
    "resourceTags/user:tier": "ci",
    "resourceTags/aws:createdBy": "",
}


class TestCur:
    def ingest(self, write, *changes, options=None):
        rows = [{**CUR_ROW, "identity/LineItemId": f"id{i}", **c} for i, c in enumerate(changes)]
        return ingest_paths(write(csv_text(rows)), options)

    def test_a_usage_row(self, write):
        row = self.ingest(write, {}).row
        assert (row["region"], row["instance_type"], row["vcpus"], row["memory_gib"]) == ("us-west-2", "m5.large", 2, 8)
        assert (row["team_id"], row["service_tier"], row["workload_category"]) == ("search", "ci", "balanced")
        assert row["resource_id"] == "i-1"
        assert row["quality"] == "ok"

    def test_line_item_types(self, write):
        types = [
            "Usage", "DiscountedUsage", "SavingsPlanCoveredUsage", "Tax", "Credit", "Refund", "Fee", "RIFee",
            "SavingsPlanNegation", "SavingsPlanUpfrontFee", "SavingsPlanRecurringFee", "EdpDiscount",
            "BundledDiscount", "Something New",
        ]  # fmt: skip
        got = self.ingest(write, *({"lineItem/LineItemType": t} for t in types))
        assert got.counts == (14, 3, 1, 10)
        assert got.skipped == {
            "tax": 1, "credit": 1, "refund": 1, "fee": 2, "negation": 1, "purchase": 2, "discount": 2,
        }  # fmt: skip
        assert got.reasons == {"unknown_charge_type": 1}
        (bad,) = got.quarantine.to_pylist()
        assert (bad["column"], bad["value"]) == ("lineItem/LineItemType", "Something New")
        assert got.bad == [("bill.csv", 14)]

    def test_effective_cost_of_commitments(self, write):
        got = self.ingest(
            write,
            {"lineItem/LineItemType": "SavingsPlanCoveredUsage", "savingsPlan/SavingsPlanEffectiveCost": "0.05"},
            {"lineItem/LineItemType": "DiscountedUsage", "reservation/EffectiveCost": "0.06"},
            {},
            options=IngestOptions(cost_basis="effective"),
        )
        assert [r["cost_usd"] for r in got.rows] == [0.05, 0.06, 0.096]

    def test_region_from_zone_and_usage_type(self, write):
        got = self.ingest(
            write,
            {"product/region": ""},
            {"product/region": "", "lineItem/AvailabilityZone": ""},
            {"product/region": "", "lineItem/AvailabilityZone": "", "lineItem/UsageType": "BoxUsage:m5.large"},
            {"product/region": "", "lineItem/AvailabilityZone": "", "lineItem/UsageType": "Requests-Tier1",
             "pricing/unit": "Requests"},
        )  # fmt: skip
        assert [r["region"] for r in got.rows] == ["us-west-2", "us-west-2", "us-east-1", "unknown"]
        assert [r["quality"] for r in got.rows] == ["inferred_region"] * 3 + ["unknown_region"]

    def test_what_rides_on_a_machine_is_no_machine(self, write):
        usage_types = ("SoftwareUsage:m5.large", "EBSOptimized:m5.large", "CPUCredits:t3", "USE1-EKS-Auto:m5.large")
        got = self.ingest(
            write,
            *({"lineItem/UsageType": u} for u in usage_types),
            {"lineItem/ProductCode": "ElasticMapReduce", "product/ProductName": "Amazon Elastic MapReduce"},
        )
        assert {r["resource_type"] for r in got.rows} == {"other"}
        assert {r["vcpu_hours"] for r in got.rows} == {None}

    def test_reservations_and_split_rows_are_not_counted_twice(self, write):
        rows = [
            {**CUR_ROW, "identity/LineItemId": str(i), "lineItem/UsageType": u, "splitLineItem/ParentResourceId": p}
            for i, (u, p) in enumerate(
                (
                    ("USW2-BoxUsage:m5.large", ""),
                    ("USW2-EKS-EC2-vCPU-Hours", "i-1"),
                    ("USW2-UnusedBox:m5.large", ""),
                    ("USW2-Reservation:m5.large", ""),
                )
            )
        ]
        got = ingest_paths(write(csv_text(rows)))
        assert got.counts == (4, 1, 0, 3)
        assert got.skipped == {"split_allocation": 1, "unused_capacity_reservation": 1, "capacity_reservation": 1}

    def test_storage_network_requests_and_databases(self, write):
        got = self.ingest(
            write,
            {"lineItem/UsageType": "USW2-EBS:VolumeUsage.gp3", "pricing/unit": "GB-Mo", "product/instanceType": "",
             "product/vcpu": "", "lineItem/UsageAmount": str(20 / 744)},
            {"lineItem/UsageType": "USW2-DataTransfer-Out-Bytes", "pricing/unit": "GB", "product/instanceType": "",
             "lineItem/UsageAmount": "3"},
            {"lineItem/UsageType": "USW2-DataTransfer-In-Bytes", "pricing/unit": "GB", "product/instanceType": "",
             "lineItem/UsageAmount": "3"},
            {"lineItem/UsageType": "Requests-Tier1", "pricing/unit": "Requests", "product/instanceType": "",
             "lineItem/UsageAmount": "7"},
            {"lineItem/UsageType": "InstanceUsage:db.t3.large", "lineItem/ProductCode": "AmazonRDS",
             "product/instanceType": "db.t3.large", "product/vcpu": "", "product/memory": ""},
        )  # fmt: skip
        storage, out, inbound, requests, database = got.rows
        assert (storage["resource_type"], storage["resource_unit"], storage["instance_type"]) == (
            "storage", "GB-h", "ebs gp3",
        )  # fmt: skip
        assert storage["resource_qty"] == pytest.approx(20)
        assert storage["data_gb"] == pytest.approx(20)
        assert (out["resource_type"], out["resource_qty"], out["data_gb"]) == ("network", 3, 3)
        assert (inbound["resource_type"], inbound["data_gb"]) == ("other", 3)
        assert (requests["resource_type"], requests["resource_qty"], requests["resource_unit"]) == ("other", 7, "count")
        assert (database["resource_type"], database["vcpus"], database["memory_gib"]) == ("compute", 2, 8)

    def test_cur_2_with_maps(self, tmp_path):
        maps = pa.map_(pa.string(), pa.string())
        table = pa.table(
            {
                "identity_line_item_id": ["a", "b"],
                "identity_time_interval": ["2026-10-01T05:00:00Z/2026-10-01T06:00:00Z"] * 2,
                "bill_payer_account_id": ["1", "1"],
                "line_item_usage_account_id": ["2", "2"],
                "line_item_line_item_type": ["Usage", "Tax"],
                "line_item_usage_start_date": pa.array([at(5)] * 2, pa.timestamp("ms")),
                "line_item_usage_end_date": pa.array([at(6)] * 2, pa.timestamp("ms")),
                "line_item_product_code": ["AmazonEC2", "AmazonEC2"],
                "line_item_usage_type": ["BoxUsage:m5.large", ""],
                "line_item_operation": ["RunInstances", ""],
                "line_item_resource_id": ["i-1", None],
                "line_item_usage_amount": [1.0, 1.0],
                "line_item_currency_code": ["USD", "USD"],
                "line_item_unblended_cost": [0.096, 3.0],
                "product_instance_type": ["m5.large", None],
                "product_region_code": ["eu-north-1", None],
                "pricing_unit": ["Hrs", None],
                "product": pa.array([[("vcpu", "2"), ("memory", "8 GiB"), ("product_name", "EC2")], []], maps),
                "resource_tags": pa.array([[("user_team", "search"), ("user_tier", "ci-nightly")], []], maps),
            }
        )
        path = tmp_path / "cur2.parquet"
        pq.write_table(table, path)
        assert format_of(path) == "aws-cur-2"
        got = ingest_paths(path)
        assert got.skipped == {"tax": 1}
        row = got.row
        assert (row["region"], row["vcpus"], row["memory_gib"], row["instance_type"]) == (
            "eu-north-1",
            2,
            8,
            "m5.large",
        )
        assert (row["team_id"], row["workload_category"]) == ("search", "sustainable")
        assert row["quality"] == "naive_timestamp"

    def test_cur_2_as_csv_has_json_maps(self, write):
        row = {
            "line_item_line_item_type": "Usage",
            "line_item_usage_start_date": "2026-10-01 05:00:00.000",
            "line_item_usage_end_date": "2026-10-01 06:00:00.000",
            "line_item_product_code": "AmazonEC2",
            "line_item_usage_type": "BoxUsage:m5.large",
            "line_item_usage_amount": "1.0",
            "line_item_unblended_cost": "0.1",
            "line_item_currency_code": "USD",
            "pricing_unit": "Hrs",
            "product_region_code": "us-east-1",
            "product": '{"vcpu":"2","memory":"8 GiB"}',
            "resource_tags": '{"user_team":"ml"}',
        }
        found = ingest_paths(write(csv_text([row]))).row
        assert (found["team_id"], found["vcpus"], found["started_at"]) == ("ml", 2, at(5))

    def test_three_hundred_columns_are_read_by_the_needed_ones(self, write):
        row = CUR_ROW | {f"product/extra{i}": "x" for i in range(300)}
        assert ingest_paths(write(csv_text([row]))).counts == (1, 1, 0, 0)


GCP_ROW = {
    "billing_account_id": "01-02",
    "service.id": "6F81-5844-456A",
    "service.description": "Compute Engine",
    "sku.id": "CF4E",
    "sku.description": "E2 Instance Core running in Americas",
    "usage_start_time": "2026-10-01 05:00:00 UTC",
    "usage_end_time": "2026-10-01 06:00:00 UTC",
    "project.id": "shop",
    "project.labels": "[]",
    "labels": '[{"key": "team", "value": "search"}]',
    "system_labels": '[{"key": "compute.googleapis.com/cores", "value": "2"}, '
    '{"key": "compute.googleapis.com/machine_spec", "value": "e2-standard-2"}, '
    '{"key": "compute.googleapis.com/memory", "value": "8192"}]',
    "location.location": "us-central1",
    "location.region": "us-central1",
    "location.zone": "us-central1-a",
    "cost": "0.04",
    "currency": "USD",
    "currency_conversion_rate": "1",
    "usage.amount": "7200",
    "usage.unit": "seconds",
    "cost_type": "regular",
    "export_time": "2026-10-01T09:00:00Z",
}


class TestGcp:
    def test_cores_are_vcpu_seconds(self, write):
        row = ingest_paths(write(csv_text([GCP_ROW]))).row
        assert (row["resource_type"], row["resource_qty"], row["resource_unit"]) == ("compute", 2.0, "vCPU-h")
        assert (row["vcpus"], row["usage_hours"], row["vcpu_hours"]) == (2, 1, 2)
        assert row["memory_gib"] is None  # memory has its own line
        assert (row["region"], row["team_id"], row["cloud_provider"]) == ("us-central1", "search", "gcp")
        assert row["instance_type"] == "e2-standard-2"

    def test_memory_storage_network_licence_gpu_and_commitments(self, write):
        changes = (
            {"sku.description": "E2 Instance Ram running in Americas", "usage.unit": "byte-seconds",
             "usage.amount": str(8 * 2**30 * 3600)},
            {"sku.description": "Storage PD Capacity", "usage.unit": "byte-seconds", "system_labels": "[]",
             "usage.amount": str(10 * 2**30 * 3600)},
            {"sku.description": "Network Internet Data Transfer Out from Americas to EMEA", "usage.unit": "bytes",
             "system_labels": "[]", "usage.amount": str(3 * 2**30)},
            {"sku.description": "Network Internet Data Transfer In from EMEA to Americas", "usage.unit": "bytes",
             "system_labels": "[]", "usage.amount": str(3 * 2**30)},
            {"sku.description": "Licensing Fee for Red Hat Enterprise Linux 8 on VM with 1 to 4 VCPU"},
            {"sku.description": "Nvidia Tesla T4 GPU running in Americas", "usage.amount": "3600"},
            {"sku.description": "Commitment v1: Cpu in Americas for 1 Year"},
            {"cost_type": "tax"},
            {"cost_type": "rounding_error"},
        )  # fmt: skip
        got = ingest_paths(write(csv_text([{**GCP_ROW, **c} for c in changes])))
        memory, storage, out, inbound, licence, gpu = got.rows
        assert (memory["resource_type"], memory["resource_qty"], memory["memory_gib"]) == ("memory", 8, 8)
        assert (storage["resource_type"], storage["resource_qty"], storage["data_gb"]) == ("storage", 10, 10)
        assert (out["resource_type"], out["data_gb"]) == ("network", 3)
        assert inbound["resource_type"] == "other"
        assert (licence["resource_type"], licence["vcpu_hours"]) == ("other", None)
        assert (gpu["resource_type"], gpu["gpu_hours"], gpu["gpu_model"]) == ("gpu", 1, "T4")
        assert got.skipped == {"commitment": 1, "tax": 1, "adjustment": 1}

    def test_other_currency_has_its_own_rate(self, write):
        row = ingest_paths(write(csv_text([{**GCP_ROW, "currency": "EUR", "currency_conversion_rate": "0.8"}]))).row
        assert (row["billed_cost"], row["billing_currency"]) == (0.04, "EUR")
        assert row["cost_usd"] == pytest.approx(0.05)

    def test_detailed_export_with_nested_records(self, tmp_path):
        label = [{"key": "team", "value": "search"}]
        record = {
            "billing_account_id": "01",
            "service": {"id": "6F81", "description": "Compute Engine"},
            "sku": {"id": "CF4E", "description": "N2 Instance Core running in Finland"},
            "usage_start_time": at(5),
            "usage_end_time": at(6),
            "project": {"id": "shop", "name": "Shop", "labels": [{"key": "tier", "value": "batch"}]},
            "labels": label,
            "system_labels": [
                {"key": "compute.googleapis.com/cores", "value": "4"},
                {"key": "compute.googleapis.com/machine_spec", "value": "n2-standard-4"},
            ],
            "location": {"location": "europe-north1", "region": "europe-north1", "zone": "europe-north1-a"},
            "resource": {"name": "vm-1", "global_name": "//compute.googleapis.com/projects/1/instances/2"},
            "cost": 0.1,
            "currency": "USD",
            "currency_conversion_rate": 1.0,
            "usage": {"amount": 14400.0, "unit": "seconds"},
            "cost_type": "regular",
            "export_time": at(9),
        }
        path = tmp_path / "detailed.parquet"
        pq.write_table(pa.Table.from_pylist([record]), path)
        assert format_of(path) == "gcp-detailed"
        row = ingest_paths(path).row
        assert (row["vcpu_hours"], row["vcpus"], row["region"]) == (4, 4, "europe-north1")
        assert (row["team_id"], row["workload_category"]) == ("search", "sustainable")
        assert row["resource_id"] == "//compute.googleapis.com/projects/1/instances/2"
        assert row["quality"] == "ok"

    def test_records_as_json_text(self, write):
        row = {
            "billing_account_id": "01",
            "service": json.dumps({"id": "6F81", "description": "Compute Engine"}),
            "sku": json.dumps({"id": "CF4E", "description": "N2 Instance Core running in Finland"}),
            "usage_start_time": "2026-10-01T05:00:00Z",
            "usage_end_time": "2026-10-01T06:00:00Z",
            "project": json.dumps({"id": "shop"}),
            "labels": '[{"key":"team","value":"search"}]',
            "location": json.dumps({"region": "europe-north1"}),
            "cost": "0.1",
            "currency": "USD",
            "usage": json.dumps({"amount": 3600.0, "unit": "seconds"}),
            "cost_type": "regular",
        }
        found = ingest_paths(write(csv_text([row]))).row
        assert (found["vcpu_hours"], found["region"], found["team_id"]) == (1, "europe-north1", "search")


AZURE_ROW = {
    "BillingPeriodStartDate": "10/01/2026",
    "BillingPeriodEndDate": "10/31/2026",
    "Date": "10/05/2026",
    "SubscriptionId": "sub-1",
    "MeterCategory": "Virtual Machines",
    "MeterSubCategory": "Dv3/DSv3 Series",
    "MeterName": "D2 v3/D2s v3",
    "MeterId": "m-1",
    "UnitOfMeasure": "1 Hour",
    "Quantity": "24",
    "CostInBillingCurrency": "2.4",
    "BillingCurrency": "USD",
    "ResourceLocation": "US East 2",
    "ResourceId": "/subscriptions/sub-1/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm1",
    "ConsumedService": "Microsoft.Compute",
    "ChargeType": "Usage",
    "PricingModel": "OnDemand",
    "Product": "Virtual Machines Dv3/DSv3 Series - D2 v3/D2s v3 - US East 2",
    "AdditionalInfo": '{"UsageType":"ComputeHR","ServiceType":"Standard_D2s_v3","VCPUs":2}',
    "Tags": '"team": "search","tier": "batch"',
}


class TestAzure:
    def test_a_day_is_shaped_over_its_hours(self, write):
        got = ingest_paths(write(csv_text([AZURE_ROW])))
        assert got.ledger.num_rows == 24
        first, last = got.rows[0], got.rows[-1]
        assert (first["started_at"], last["ended_at"]) == (at(0, 5), at(0, 6))
        assert sum(r["vcpu_hours"] for r in got.rows) == pytest.approx(48)
        assert sum(r["cost_usd"] for r in got.rows) == pytest.approx(2.4)
        assert {r["quality"] for r in got.rows} == {"shaped"}
        assert (first["region"], first["instance_type"], first["vcpus"]) == ("eastus2", "Standard_D2s_v3", 2)
        assert (first["team_id"], first["workload_category"]) == ("search", "sustainable")

    def test_day_first_when_the_billing_period_says_so(self, write):
        row = {**AZURE_ROW, "BillingPeriodStartDate": "01/10/2026", "BillingPeriodEndDate": "31/10/2026"}
        got = ingest_paths(write(csv_text([{**row, "Date": "05/10/2026"}])))
        assert got.rows[0]["started_at"] == at(0, 5)

    def test_undecidable_dates_name_the_fix(self, write):
        row = {k: v for k, v in AZURE_ROW.items() if not k.startswith("BillingPeriod")}
        path = write(csv_text([{**row, "Date": "10/05/2026"}]))
        with pytest.raises(BillingError, match=r"bill\.csv, column Date: days and months.*dates='mdy'"):
            ingest_paths(path)
        assert ingest_paths(path, dates="mdy").rows[0]["started_at"] == at(0, 5)
        assert ingest_paths(path, dates="dmy").rows[0]["started_at"] == datetime(2026, 5, 10, tzinfo=UTC)

    def test_a_date_against_the_order_is_quarantined(self, write):
        got = ingest_paths(write(csv_text([AZURE_ROW, {**AZURE_ROW, "Date": "25/10/2026"}])))
        assert got.reasons == {"bad_time": 1}
        (bad,) = got.quarantine.to_pylist()
        assert (bad["column"], bad["value"], got.bad) == ("Date", "25/10/2026", [("bill.csv", 2)])

    def test_units_of_measure_multiply(self, write):
        changes = (
            {"UnitOfMeasure": "10K", "Quantity": "0.5", "MeterCategory": "Storage", "MeterName": "Read Operations"},
            {"UnitOfMeasure": "100 Hours", "Quantity": "0.24"},
            {"UnitOfMeasure": "1 GB/Month", "Quantity": str(10 / 31), "MeterCategory": "Storage",
             "MeterSubCategory": "Tiered Block Blob", "MeterName": "Hot LRS Data Stored", "AdditionalInfo": "",
             "Product": "Blob"},
            {"UnitOfMeasure": "1/Month", "Quantity": str(1 / 31), "MeterCategory": "Storage",
             "MeterSubCategory": "Premium SSD Managed Disks", "MeterName": "P10 LRS Disk", "AdditionalInfo": "",
             "Product": "Premium SSD Managed Disks - P10 LRS"},
        )  # fmt: skip
        got = ingest_paths(write(csv_text([{**AZURE_ROW, **c} for c in changes])))
        totals: dict[tuple[str, str], float] = {}
        for row, number in zip(got.rows, got.numbers, strict=True):
            key = (number, row["resource_unit"])
            totals[key] = totals.get(key, 0) + row["resource_qty"]
        assert totals[(1, "count")] == pytest.approx(5000)
        assert totals[(2, "vCPU-h")] == pytest.approx(48)
        assert totals[(3, "GB-h")] == pytest.approx(240)
        assert totals[(4, "GB-h")] == pytest.approx(128 * 24)

    def test_charge_types(self, write):
        types = ["Usage", "Purchase", "Refund", "UnusedReservation", "UnusedSavingsPlan", "RoundingAdjustment", "Tax"]
        rows = [{**AZURE_ROW, "ChargeType": t} for t in types]
        rows.append(
            {
                **AZURE_ROW,
                "ResourceId": "/x/providers/Microsoft.Compute/capacityReservationGroups/g/capacityReservations/c",
            }
        )
        got = ingest_paths(write(csv_text(rows)))
        assert got.counts == (8, 1, 0, 7)
        assert got.skipped == {
            "purchase": 1, "refund": 1, "unused_commitment": 2, "adjustment": 1, "tax": 1,
            "unused_capacity_reservation": 1,
        }  # fmt: skip

    def test_actual_and_amortised_export_of_one_month_are_not_added(self, write):
        write(csv_text([AZURE_ROW]), "actual.csv")
        path = write(csv_text([{**AZURE_ROW, "CostInBillingCurrency": "1.1"}]), "amortised.csv")
        got = ingest_paths([path.parent / "actual.csv", path])
        assert got.skipped == {"duplicate": 1}
        assert sum(r["cost_usd"] for r in got.rows) == pytest.approx(2.4)

    def test_licences_and_addresses_are_no_machines(self, write):
        changes = (
            {"MeterCategory": "Virtual Machine Licenses", "MeterName": "1 vCPU VM License"},
            {"MeterCategory": "Virtual Network", "MeterSubCategory": "IP Addresses", "MeterName": "Static Public IP"},
        )
        got = ingest_paths(write(csv_text([{**AZURE_ROW, **c} for c in changes])))
        assert {r["resource_type"] for r in got.rows} == {"other"}

    def test_older_and_lower_case_headers(self, write):
        row = {
            "subscriptionguid": "s",
            "usagedatetime": "2026-10-05",
            "metercategory": "Virtual Machines",
            "metername": "D2 v3",
            "unit": "1 Hour",
            "usagequantity": "12",
            "pretaxcost": "1.2",
            "currency": "USD",
            "instanceid": "/subscriptions/s/vm",
            "resource location": "westeurope",
            "consumedservice": "Microsoft.Compute",
        }
        path = write(csv_text([row]))
        assert format_of(path) == "azure-usage"
        got = ingest_paths(path)
        assert got.ledger.num_rows == 24
        assert got.rows[0]["instance_type"] == "Standard_D2_v3"
        assert sum(r["usage_hours"] for r in got.rows) == pytest.approx(12)

    def test_cost_in_usd_gives_the_rate(self, write):
        row = {**AZURE_ROW, "BillingCurrency": "CAD", "CostInUsd": "1.8"}
        got = ingest_paths(write(csv_text([row])))
        assert sum(r["billed_cost"] for r in got.rows) == pytest.approx(2.4)
        assert sum(r["cost_usd"] for r in got.rows) == pytest.approx(1.8)


class TestOci:
    def test_cores_are_two_vcpus(self, write):
        row = {
            "lineItem/referenceNo": "r1",
            "lineItem/tenantId": "t",
            "lineItem/intervalUsageStart": "2026-10-01T05:00Z",
            "lineItem/intervalUsageEnd": "2026-10-01T06:00Z",
            "product/service": "COMPUTE",
            "product/region": "us-sanjose-1",
            "product/resourceId": "ocid1",
            "usage/billedQuantity": "0.25",
            "product/Description": "Standard - E4",
            "cost/myCost": "0.01",
            "cost/currencyCode": "USD",
            "cost/billingUnitReadable": "1 NONE HOURS OCPUS",
            "lineItem/isCorrection": "false",
            "tags/Ops.team": "search",
        }
        path = write(csv_text([row, {**row, "lineItem/referenceNo": "r2", "product/Description": "Standard - A1"}]))
        assert format_of(path) == "oci-cost-report"
        intel, arm = ingest_paths(path).rows
        assert (intel["vcpu_hours"], arm["vcpu_hours"]) == (0.5, 0.25)
        assert (intel["region"], intel["cloud_provider"]) == ("us-sanjose-1", "oci")


def test_unknown_format_says_what_is_read(write):
    with pytest.raises(BillingError, match=r"bill\.csv: is in no format we read; its columns are a, b; export FOCUS"):
        FileBilling(write("a,b\n1,2\n")).describe()
