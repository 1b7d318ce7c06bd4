from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sust_dagster import reference
from sust_dagster.agents.accountant import FactorSet
from sust_dagster.agents.accountant.lookups import STORAGE_MATCHES, gpu_model, instance_name, storage_class
from sust_dagster.agents.accountant.methods import server_embodied_kg
from sust_dagster.reference import azure_size
from sust_dagster.reference.factors import UnreadBoundError, shipped_rows
from sust_dagster.world.schemas import EMISSION_FACTORS

TABLES = {
    "regions": reference.regions,
    "cpu_families": reference.cpu_families,
    "gpus": reference.gpus,
    "instance_types": reference.instances,
    "conventions": reference.conventions,
    "embodied": reference.embodied,
    "network": reference.network,
    "storage": reference.storage,
}


def by(table: pa.Table, *key: str) -> dict:
    return {tuple(r[k] for k in key) if len(key) > 1 else r[key[0]]: r for r in table.to_pylist()}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_says_where_it_comes_from(name):
    for row in TABLES[name]().to_pylist():
        assert row["source"], row
        assert row["licence"], row
        assert 2018 <= row["source_year"] <= 2026, row


@pytest.mark.parametrize("name", TABLES)
def test_no_cell_names_a_machine(name):
    text = (Path(reference.__file__).parent / f"{name}.csv").read_text()
    assert not re.search(r"/(home|work|tmp|Users)/", text)


def test_every_csv_of_the_package_is_loaded():
    assert {p.stem for p in Path(reference.__file__).parent.glob("*.csv")} == set(TABLES)


def test_the_numbers_of_rows_are_what_was_carried_over():
    providers = Counter(reference.instances()["provider"].to_pylist())
    assert providers["aws"] >= 1195
    assert providers["gcp"] == 339
    assert providers["azure"] > 200
    assert reference.regions().num_rows > 150


def test_regions_are_plausible_and_their_bounds_hold():
    for row in reference.regions().to_pylist():
        assert 5 < row["annual_intensity_g_per_kwh"] < 1000, row
        assert row["annual_lower_g_per_kwh"] <= row["annual_intensity_g_per_kwh"] <= row["annual_upper_g_per_kwh"], row
        assert 1.0 <= row["pue_lower"] <= row["pue"] <= row["pue_upper"] < 1.6, row
        assert row["hour_rel_lower"] < 1 < row["hour_rel_upper"], row
        assert row["signal"] == "average"
        assert row["method"] == "lifecycle"
        assert -12 <= row["utc_offset_hours"] <= 14


def test_the_home_regions_have_their_zones():
    zones = {r: v["grid_zone"] for r, v in by(reference.regions(), "region").items()}
    assert zones["us-east-1"] == "US-MIDA-PJM"
    assert zones["us-west-2"] == "US-NW-PACW"
    assert zones["eu-west-1"] == "IE"
    assert zones["eu-north-1"] == "SE-SE3"
    assert zones["ap-south-1"] == "IN-WE"


def test_known_errors_of_the_sources_are_not_carried_over():
    regions = by(reference.regions(), "region")
    # "2024" grid values of AWS regions are those of 2023: they carry the year they are of.
    assert {r["source_year"] for r in regions.values() if "Electricity Maps annual average" in r["source"]} == {2023}
    # Multi-regions are means of their members, not sums (2.805 kg/kWh for the US).
    members = [v for k, v in regions.items() if k in {"us-central1", "us-east1"}]
    assert regions["nam4"]["annual_intensity_g_per_kwh"] == pytest.approx(
        np.mean([m["annual_intensity_g_per_kwh"] for m in members]), abs=0.01
    )
    assert all(regions[k]["annual_intensity_g_per_kwh"] < 1000 for k in ("us", "eu", "asia"))
    # Azure factors that miss "0." in their source: Finland and Frankfurt.
    assert 50 < regions["finlandcentral"]["annual_intensity_g_per_kwh"] < 150
    assert 300 < regions["germanywestcentral"]["annual_intensity_g_per_kwh"] < 450
    # Stockholm is not in Spain, Doha not in the Emirates, North Europe not in Finland, West US not in Washington.
    assert regions["eu-north-1"]["grid_zone"].startswith("SE")
    assert regions["me-central1"]["grid_zone"] == "QA"
    assert regions["northeurope"]["grid_zone"] == "IE"
    assert regions["westus"]["grid_zone"] == "US-CAL-CISO"


def test_epyc_5_is_the_corrected_figure():
    row = by(reference.cpu_families(), "cpu_family")["EPYC 5th Gen"]
    assert row["min_w_per_vcpu"] == pytest.approx(0.267, abs=0.001)
    assert row["max_w_per_vcpu"] == pytest.approx(1.481, abs=0.001)


def test_cpu_boxes_hold_one_and_the_unknown_family_spans_all():
    families = by(reference.cpu_families(), "cpu_family")
    half = {k: (v["min_w_per_vcpu"] + v["max_w_per_vcpu"]) / 2 for k, v in families.items()}
    for name, row in families.items():
        assert row["rel_lower"] <= 0.8, name
        assert row["rel_upper"] >= 1.25, name
        assert row["min_w_per_vcpu"] < row["max_w_per_vcpu"], name
    unknown = families["unknown"]
    assert half["unknown"] * unknown["rel_lower"] <= min(half.values())
    assert half["unknown"] * unknown["rel_upper"] >= max(half.values())


def test_epyc_5_recomputes_from_the_measurements(shared_data):
    """Mean over the servers whose CPU is one of the family's models; blank lines of the list are no models."""
    path = shared_data / "region_factors" / "ccf2026_SPECpower-2026-03-09.csv"
    if not path.is_file():
        pytest.skip("the SPECpower results are not redistributed")
    models = re.compile(r"EPYC (9965|9845|9825|9755|9745|9655P?|9645|9575F|9565|9555P?|9535|4[2-5]\d5PX?)$")
    with path.open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if models.search(r["CPU Description"])]
    assert len(rows) == 41
    watts = [
        np.mean([float(r[f"avg. watts @ {load}"]) / float(r["Total Threads"]) for r in rows])
        for load in ("active idle", "100%")
    ]
    row = by(reference.cpu_families(), "cpu_family")["EPYC 5th Gen"]
    assert [row["min_w_per_vcpu"], row["max_w_per_vcpu"]] == pytest.approx(watts, abs=1e-4)


def test_published_figures_are_what_the_source_says(shared_data):
    path = shared_data / "region_factors" / "gsf_rtc_Cloud_Region_Metadata_b2858aa.csv"
    if not path.is_file():
        pytest.skip("the region table is not redistributed")
    with path.open(newline="") as stream:
        said = {
            r["cloud-region"]: float(r["grid-carbon-intensity-average-consumption-annual"])
            for r in csv.DictReader(stream)
            if r["year"] == "2023"
            and r["cloud-provider"] == "Amazon Web Services"
            and r["grid-carbon-intensity-average-consumption-annual"]
        }
    ours = by(reference.regions(), "region")
    checked = [k for k in said if ours[k]["source_year"] == 2023]
    assert len(checked) > 20
    for region in checked:
        assert ours[region]["annual_intensity_g_per_kwh"] == said[region], region


def test_instances_refer_to_what_is_known():
    families = set(reference.cpu_families()["cpu_family"].to_pylist())
    models = set(reference.gpus()["model"].to_pylist())
    for row in reference.instances().to_pylist():
        assert row["cpu_family"] in families, row
        assert row["vcpus"] > 0, row
        assert (row["gpu_model"] in models) == (row["gpus"] > 0), row
        assert (row["embodied_kg"] is None) == (row["server_vcpus"] is None), row
        if row["server_vcpus"] is not None:
            assert row["vcpus"] <= row["server_vcpus"], row
            assert 1000 <= row["embodied_kg"] < 60_000, row


def test_server_kg_is_the_formula():
    factors = FactorSet.from_table(reference.shipped_factors())
    rows = by(reference.instances(), "provider", "instance_type")
    assert rows["aws", "m5.large"]["embodied_kg"] == pytest.approx(server_embodied_kg(factors, memory_gb=384), abs=0.05)
    assert rows["aws", "c5.xlarge"]["embodied_kg"] == pytest.approx(
        server_embodied_kg(factors, memory_gb=192), abs=0.05
    )
    p4d = server_embodied_kg(factors, memory_gb=1152, ssds=8, gpus=8)
    assert rows["aws", "p4d.24xlarge"]["embodied_kg"] == pytest.approx(p4d, abs=0.05)


@pytest.mark.parametrize(
    ("name", "gpus", "model"),
    [
        ("p3.2xlarge", 1, "V100"),
        ("p4d.24xlarge", 8, "A100"),
        ("p5.48xlarge", 8, "H100"),
        ("g4dn.12xlarge", 4, "T4"),
        ("g5.48xlarge", 8, "A10G"),
        ("m5.large", 0, ""),
    ],
)
def test_gpus_of_known_machines(name, gpus, model):
    row = by(reference.instances(), "provider", "instance_type")["aws", name]
    assert (row["gpus"], row["gpu_model"]) == (gpus, model)


def test_a_burstable_type_is_not_a_whole_server():
    rows = by(reference.instances(), "provider", "instance_type")
    assert rows["aws", "t3.2xlarge"]["server_vcpus"] == 96
    assert rows["gcp", "e2-standard-4"]["server_vcpus"] is None


def test_shipped_factors_are_valid_and_the_same_each_time():
    first = reference.shipped_factors()
    assert first.schema.equals(EMISSION_FACTORS.arrow)
    assert len(set(first["factor_id"].to_pylist())) == first.num_rows
    reference.shipped_factors.cache_clear()
    assert reference.shipped_factors().equals(first)
    assert set(first["version"].to_pylist()) == {1}
    FactorSet.from_table(first)


def test_a_bound_without_a_reading_is_refused_at_load():
    tables = {n: f() for n, f in TABLES.items() if n != "instance_types"}
    network = tables["network"]
    place = network.column_names.index("bound_reading")
    for reading in ("", "give or take"):
        unread = network.set_column(place, "bound_reading", pa.array([reading]))
        with pytest.raises(UnreadBoundError, match=r"egress.*state how it is to be read"):
            shipped_rows(**(tables | {"network": unread}))


@pytest.mark.parametrize(
    ("name", "vcpus"),
    [
        ("Standard_D2s_v5", 2),
        ("Standard_E8-4s_v4", 4),
        ("Standard_NC24ads_A100_v4", 24),
        ("Standard_B2ms", 2),
        ("Standard_M128s", 128),
        ("D4as v4", 4),
        ("Standard_HB120rs_v3", 120),
        ("Standard_A8m_v2", 8),
    ],
)
def test_azure_names_say_their_vcpus(name, vcpus):
    size = azure_size(name)
    assert size is not None
    assert size.vcpus == vcpus


@pytest.mark.parametrize(
    "name", ["Standard_DS3_v2", "Standard_D2_v2", "Standard_A3", "Standard_G5", "m5.large", "", "Standard_"]
)
def test_azure_names_with_an_index_or_none_are_not_guessed(name):
    assert azure_size(name) is None


def test_the_azure_rule_agrees_with_the_table():
    for row in reference.instances().to_pylist():
        size = azure_size(row["instance_type"]) if row["provider"] == "azure" else None
        if size is not None:
            assert size.vcpus == row["vcpus"], row["instance_type"]


@pytest.mark.parametrize(
    ("billed", "model"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA_L4", "L4"),
        ("nvidia l40s", "L40S"),
        ("A10G", "A10G"),
        ("NVIDIA Tesla V100 GPU", "V100"),
        ("Radeon Pro V520", "Radeon Pro V520"),
        ("TPU v4", "unknown"),
        ("", ""),
    ],
)
def test_gpu_names_of_bills(billed, model):
    assert gpu_model(billed) == model


def test_storage_names_of_bills():
    assert storage_class("gp3", "AmazonEC2") == "ebs"
    assert storage_class("", "Amazon Simple Storage Service") == "s3"
    assert storage_class("", "Blob Storage") == "blob"
    assert storage_class("ebs st1", "EC2") == "hdd"
    assert storage_class("managed disk standard hdd", "") == "hdd"
    assert storage_class("", "warehouse") == "unknown"
    known = set(reference.storage()["name"].to_pylist())
    assert {meaning for _, meaning in STORAGE_MATCHES} <= known


def test_databases_run_on_the_shapes_of_their_cloud():
    assert instance_name("aws", "db.m5.large") == "m5.large"
    assert instance_name("aws", "cache.r6g.xlarge") == "r6g.xlarge"
    assert instance_name("aws", "c5.large.elasticsearch") == "c5.large"
    assert instance_name("gcp", "db-n1-standard-1") == "db-n1-standard-1"
