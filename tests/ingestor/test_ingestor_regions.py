"""Regions, zones, usage-type prefixes and dirty locations."""

from __future__ import annotations

import pytest

from sust_dagster.agents.ingestor.regions import azure_aliases, region_id


@pytest.mark.parametrize(
    ("provider", "region", "zone", "meter", "wanted"),
    [
        ("aws", "us-east-1", None, None, "us-east-1"),
        ("aws", "US-EAST-1", None, None, "us-east-1"),
        ("aws", "us-east-1a", None, None, "us-east-1"),
        ("aws", "us-west-2-lax-1a", None, None, "us-west-2"),
        ("aws", "US West (Oregon)", None, None, "us-west-2"),
        ("aws", "global", None, None, "global"),
        ("gcp", "europe-north1", None, None, "europe-north1"),
        ("gcp", "europe-north1-b", None, None, "europe-north1"),
        ("gcp", "us", None, None, "us"),
        ("azure", "EastUS2", None, None, "eastus2"),
        ("azure", "US East 2", None, None, "eastus2"),
        ("azure", "uk south", None, None, "uksouth"),
        ("azure", "EU West", None, None, "westeurope"),
        ("azure", "south_east_asia", None, None, "southeastasia"),
        ("azure", "AU Southeast", None, None, "australiasoutheast"),
        ("azure", "DE West Central", None, None, "germanywestcentral"),
        ("oci", "us-sanjose-1", None, None, "us-sanjose-1"),
        ("other", "Region One", None, None, "region-one"),
    ],
)
def test_recognised(provider, region, zone, meter, wanted):
    assert region_id(provider, region, zone, meter) == (wanted, False, False)


@pytest.mark.parametrize(
    ("provider", "zone", "meter", "wanted"),
    [
        ("aws", "eu-west-1b", None, "eu-west-1"),
        ("aws", None, "USW2-BoxUsage:m5.large", "us-west-2"),
        ("aws", None, "EU-BoxUsage:m5.large", "eu-west-1"),
        ("aws", None, "APS3-EBS:VolumeUsage.gp3", "ap-south-1"),
        ("aws", None, "CAN1-MEC1-AWS-In-Bytes", "ca-central-1"),
        ("aws", None, "ca-central-1-KMS-Requests", "ca-central-1"),
        ("aws", None, "BoxUsage:m5.large", "us-east-1"),
        ("gcp", "us-central1-f", None, "us-central1"),
        ("oci", "fjrQ:US-SANJOSE-1-AD-1", None, "us-sanjose-1"),
        ("oci", "qqjL:PHX-AD-3", None, "us-phoenix-1"),
    ],
)
def test_inferred(provider, zone, meter, wanted):
    assert region_id(provider, None, zone, meter) == (wanted, False, True)


@pytest.mark.parametrize(
    ("provider", "region", "meter", "wanted"),
    [
        ("aws", None, "Requests-Tier1", "unknown"),
        ("aws", "", None, "unknown"),
        ("aws", "N/A", None, "unknown"),
        ("azure", "Atlantis West", None, "atlantiswest"),
        ("aws", "mars-east-1", None, "mars-east-1"),
        ("gcp", None, "USW2-BoxUsage:m5.large", "unknown"),
    ],
)
def test_unknown_is_said_and_never_replaced(provider, region, meter, wanted):
    assert region_id(provider, region, None, meter) == (wanted, True, False)


def test_every_azure_region_is_its_own_alias():
    aliases = azure_aliases()
    assert {aliases[name] for name in set(aliases.values())} == set(aliases.values())
