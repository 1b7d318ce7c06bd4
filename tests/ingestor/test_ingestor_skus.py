"""What SKUs mean, and what must not be counted as a machine."""

from __future__ import annotations

import pytest

from sust_dagster.agents.ingestor.skus import Billed, carries_gpus, read_sku


def sku(provider, unit, *, service="", code="", category="", meter="", operation="", description="", instance=""):
    return read_sku(Billed(provider, service, code, category, meter, operation, description, unit, instance))


@pytest.mark.parametrize(
    ("meter", "unit", "role", "instance"),
    [
        ("BoxUsage:m5.large", "Hrs", "instance", "m5.large"),
        ("USW2-SpotUsage:c6i.4xlarge", "Hrs", "instance", "c6i.4xlarge"),
        ("DedicatedUsage:m5.large", "Hrs", "instance", "m5.large"),
        ("HostBoxUsage:m5.large", "Hrs", "instance", "m5.large"),
        ("BoxUsage:m5.large", "", "instance", "m5.large"),
        ("EUC1-InstanceUsage:db.r5.xlarge", "Hrs", "instance", "db.r5.xlarge"),
        ("NodeUsage:cache.t3.micro", "Hrs", "instance", "cache.t3.micro"),
        ("USE1-Train:ml.p3.2xlarge", "Hrs", "instance", "ml.p3.2xlarge"),
        ("HostUsage:m5", "Hrs", "other", None),
        ("SoftwareUsage:m5.large", "Hrs", "other", None),
        ("EBSOptimized:m4.large", "Hrs", "other", None),
        ("CPUCredits:t3", "vCPU-Hours", "other", None),
        ("NatGateway-Hours", "Hrs", "other", None),
        ("LoadBalancerUsage", "Hrs", "other", None),
        ("USW2-Fargate-vCPU-Hours:perCPU", "hours", "vcpu", None),
        ("USW2-Fargate-GB-Hours", "hours", "memory", None),
        ("Lambda-GB-Second", "Lambda-GB-Second", "vcpu", None),
        ("Lambda-GB-Second", "Second", "vcpu", None),
        ("Lambda-Provisioned-Concurrency", "Lambda-GB-Second", "other", None),
        ("TimedStorage-ByteHrs", "GB-Mo", "storage", None),
        ("EarlyDelete-ByteHrs", "GB-Mo", "other", None),
        ("USE1-USW2-AWS-Out-Bytes", "GB", "network", None),
        ("USE1-USW2-AWS-In-Bytes", "GB", "other", None),
        ("Requests-Tier1", "Requests", "other", None),
    ],
)
def test_aws(meter, unit, role, instance):
    found = sku("aws", unit, meter=meter, service="Amazon Elastic Compute Cloud")
    assert (found.role, found.instance_type) == (role, instance)
    assert not found.unknown_unit


@pytest.mark.parametrize(
    ("meter", "kind"),
    [
        ("USE1-EKS-EC2-vCPU-Hours", "split_allocation"),
        ("ECS-EC2-GB-Hours", "split_allocation"),
        ("USW2-UnusedBox:m5.large", "unused_capacity_reservation"),
        ("Reservation:m5.large", "capacity_reservation"),
    ],
)
def test_aws_lines_that_another_line_bills(meter, kind):
    assert sku("aws", "Hrs", meter=meter).skip == kind


def test_emr_rides_on_ec2():
    assert sku("aws", "Hrs", meter="BoxUsage:m5.xlarge", code="ElasticMapReduce").role == "other"


@pytest.mark.parametrize(
    ("description", "unit", "role", "factor"),
    [
        ("N1 Predefined Instance Core running in Americas", "seconds", "vcpu", 1 / 3600),
        ("E2 Instance Ram running in Americas", "byte-seconds", "memory", 1 / 2**30 / 3600),
        ("Autopilot Pod mCPU Requests (us-central1)", "seconds", "vcpu", 1 / 3600 / 1000),
        ("CPU Allocation Time", "seconds", "vcpu", 1 / 3600),
        ("Micro Instance with burstable CPU running in Americas", "seconds", "vcpu", 1 / 3600),
        ("Nvidia Tesla T4 GPU running in Americas", "seconds", "gpu", 1 / 3600),
        ("Licensing Fee for Windows Server (CPU cost)", "seconds", "other", 1 / 3600),
        ("Storage PD Snapshot", "byte-seconds", "storage", 1 / 2**30 / 3600),
        ("ManagedZone", "seconds", "other", 1 / 3600),
        ("Network Inter Zone Ingress", "bytes", "other", 2**-30),
        ("Network Inter Region Data Transfer Out", "bytes", "network", 2**-30),
    ],
)
def test_gcp(description, unit, role, factor):
    found = sku("gcp", unit, description=description, meter=description)
    assert found.role == role
    assert found.factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("service", "operation", "meter", "unit", "role", "factor", "instance"),
    [
        ("Virtual Machines", "Dv3/DSv3 Series", "D2 v3/D2s v3", "1 Hour", "instance", 1, "Standard_D2_v3"),
        ("Virtual Machines", "LS Series VM", "L4s Spot", "1 Hour", "instance", 1, "Standard_L4s"),
        ("Virtual Machines", "BS Series", "B2s", "100 Hours", "instance", 100, "Standard_B2s"),
        ("Virtual Machine Licenses", "Red Hat", "1 vCPU VM License", "1 Hour", "other", 1, None),
        ("SQL Managed Instance", "General Purpose - SQL License", "vCore", "1 Hour", "other", 1, None),
        ("SQL Managed Instance", "General Purpose - Compute Gen5", "vCore", "1 Hour", "vcpu", 1, None),
        ("Azure Database for MySQL", "Basic - Compute Gen5", "2 vCore", "1 Hour", "vcpu", 2, None),
        ("Container Instances", "", "Standard vCPU Duration", "1 Hour", "vcpu", 1, None),
        ("Container Instances", "", "Standard Memory Duration", "1 GB Hour", "memory", 1, None),
        (
            "Storage",
            "Premium SSD Managed Disks",
            "P30 LRS Disk",
            "1/Month",
            "storage",
            1024,
            "managed disk premium ssd",
        ),
        ("Storage", "Premium SSD Managed Disks", "Disk Operations", "10K", "other", 1e4, None),
        ("Bandwidth", "Inter-Region", "Intra Continent Data Transfer Out", "1 GB", "network", 1, None),
        ("Bandwidth", "", "Data Transfer In", "10 GB", "other", 10, None),
        ("Load Balancer", "Standard", "Standard Included LB Rules", "1 Hour", "other", 1, None),
        ("Log Analytics", "", "Pay-as-you-go Data Retention", "1 GB/Month", "storage", 1, None),
    ],
)
def test_azure(service, operation, meter, unit, role, factor, instance):
    found = sku("azure", unit, service=service, operation=operation, meter=meter)
    assert (found.role, found.factor, found.instance_type) == (role, factor, instance)


def test_other_providers_go_by_the_unit():
    assert sku("hetzner", "vCPU-Hours").role == "vcpu"
    assert sku("hetzner", "Hours", instance="cx41").role == "instance"
    assert sku("hetzner", "Hours").role == "other"
    assert sku("hetzner", "GB", category="Networking").role == "network"
    assert sku("hetzner", "GB-Months").role == "storage"
    assert sku("hetzner", "Furlongs").unknown_unit


@pytest.mark.parametrize(
    ("provider", "name", "gpus"),
    [
        ("aws", "p4d.24xlarge", True),
        ("aws", "g5.xlarge", True),
        ("aws", "m5.large", False),
        ("azure", "Standard_NC6s_v3", True),
        ("azure", "Standard_D2s_v3", False),
        ("gcp", "a2-highgpu-1g", True),
        ("gcp", "n2-standard-4", False),
        ("oci", "BM.GPU", False),
    ],
)
def test_names_that_say_gpu(provider, name, gpus):
    assert carries_gpus(provider, name) is gpus
