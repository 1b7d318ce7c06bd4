"""What a billed SKU means as a resource: machine hours, vCPU-hours, memory, GPU, storage, network, or something else.

Belongs here: the reading of meters, operations and descriptions of AWS, Azure, GCP and OCI, once per distinct
SKU. Does not belong here: units (units.py), regions, tags, or any arithmetic on rows.

Rules that keep energy from being counted twice: software and licence hours, CPU credits, EBS optimisation and EMR
surcharges ride on a machine that has its own line; of a transfer between two places the sender's line counts, so
inbound bytes are ``other``; the total of a capacity reservation, what is unused of it, commitments and split
allocations are skip classes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from sust_dagster.agents.ingestor.units import Unit, parse_unit

Role = Literal["instance", "vcpu", "memory", "gpu", "storage", "network", "other"]

#: vCPU that AWS gives a Lambda function per GB of memory (1,769 MB are one vCPU).
LAMBDA_VCPU_PER_GB = 1024 / 1769
#: OCI bills physical cores: two vCPUs each, but one on Arm.
OCI_VCPU_PER_OCPU = 2.0
#: OCI's month of storage has a fixed number of hours.
OCI_MONTH_HOURS = 744.0


class Sku(NamedTuple):
    """One SKU. ``quantity * factor`` is in the role's unit; ``by_month`` says it still has to be multiplied by hours.

    Units: instance h, vcpu vCPU-h, memory GB-h, gpu GPU-h, storage GB-h, network GB, other ``unit``.
    """

    role: Role
    factor: float
    unit: str
    by_month: bool = False
    month_hours: float = 0.0  #: 0: the calendar month of the charge
    instance_type: str | None = None
    gpu_model: str | None = None
    skip: str | None = None
    derived: bool = False
    unknown_unit: bool = False
    hours: bool = False  #: quantity is hours of one resource, so it can exceed its period


class Billed(NamedTuple):
    """What the bill says of a SKU; texts, ``""`` where null."""

    provider: str
    service: str
    code: str
    category: str
    meter: str
    operation: str
    description: str
    unit: str
    instance_type: str

    @property
    def text(self) -> str:
        return " | ".join((self.service, self.operation, self.meter, self.description))


_AWS_TYPE = (
    r"(?:(?:db|cache|ml|dax|search)\.)?[a-z][a-z0-9-]*\d[a-z0-9-]*\."
    r"(?:nano|micro|small|medium|large|\d*xlarge|\d*xlplus|metal(?:-\d+xl)?)(?:\.(?:search|elasticsearch))?"
)
_AWS_COMPUTE_METER = re.compile(
    r"(?:^|[-_:])(?:BoxUsage|SpotUsage|DedicatedUsage|DedicatedSpotUsage|HostBoxUsage|SchedUsage|InstanceUsage"
    r"|InstanceUsageIOOptimized|Multi-AZUsage|Multi-AZUsageIOOptimized|Multi-AZClusterUsage|NodeUsage|Node"
    r"|ESInstance|KafkaInstance|Kafka|BrokerUsage|Host|Train|Studio|Notebk|Tsform|Processing)(?::(?P<type>[\w.\-]+))?$"
)
_AWS_IN_TEXT = re.compile(rf"(?<![\w.])({_AWS_TYPE})(?![\w.])")
_AWS_RIDES_ALONG = re.compile(
    r"SoftwareUsage|Marketplace|CPU ?Credits|EBSOptimized|Mbps|EMR-|EKS-Auto|HostUsage|ElasticGPU|ElasticInference"
    r"|Extended Support|ExtendedSupport|Provisioned-Concurrency",
    re.IGNORECASE,
)
_AWS_SKIP = (
    (re.compile(r"(?:^|[-_])(?:ECS|EKS)-EC2-(?:vCPU|GB|GPU|memory)", re.IGNORECASE), "split_allocation"),
    (re.compile(r"(?:^|[-_])Unused(?:Box|Ded)(?:[:-]|$)"), "unused_capacity_reservation"),
    (re.compile(r"(?:^|[-_])(?:Ded)?Reservation:"), "capacity_reservation"),
)
_FEE = re.compile(r"EarlyDelete|TagStorage|early delet|pro-rated fee", re.IGNORECASE)
_INBOUND = re.compile(
    r"-In-Bytes|DataTransfer-In|-In$|InterZone-In|PublicIP-In|DataTrIn\b|data transfer in\b|\bingress\b|inbound"
    r"|transfer in to|transfer in from|data transfer from ",
    re.IGNORECASE,
)
_NETWORK = re.compile(
    r"DataTransfer|data transfer|-Bytes|Out-Bytes|AWS-Out|\begress\b|\bingress\b|bandwidth|peering|Data Processed"
    r"|network|internet|outbound|inter-?region|intra-?region|inter-?zone|NatGateway-Bytes|CloudFront|Transfer",
    re.IGNORECASE,
)
_LICENCE = re.compile(r"licen[cs]", re.IGNORECASE)
_MEMORY = re.compile(r"\bram\b|memory", re.IGNORECASE)
_CORE = re.compile(r"\b(?:v?cores?|v?cpus?)\b", re.IGNORECASE)
_GPU = re.compile(r"\bgpus?\b", re.IGNORECASE)
_GPU_MODEL = re.compile(r"(?:nvidia\s+)?(?:tesla\s+)?([A-Z]{1,2}\d{1,4}S?G?)\b(?=.*gpu)", re.IGNORECASE)
_AZURE_PRODUCT = re.compile(r"^Virtual Machines? .*?(?:Series(?: \w+)*?|VM) - (?P<meter>[^-]+?)(?: - .*)?$")
_AZURE_DISK = re.compile(r"(?:^|- )(?P<size>[PES]\d+)(?: (?:LRS|ZRS))?(?: Disks?)?(?: - |$)")
_AZURE_DISK_GB = {
    1: 4, 2: 8, 3: 16, 4: 32, 6: 64, 10: 128, 15: 256, 20: 512, 30: 1024, 40: 2048, 50: 4096, 60: 8192,
    70: 16384, 80: 32767,
}  # fmt: skip
_VCORES = re.compile(r"^(?:(\d+) )?v?Core", re.IGNORECASE)
_STORAGE_CLASSES = (
    (re.compile(r"snapshot", re.IGNORECASE), "snapshot"),
    (re.compile(r"EBS.*?(gp\d|io\d|st1|sc1)"), "ebs {0}"),
    (re.compile(r"\((gp\d|io\d|st1|sc1)\) provisioned"), "ebs {0}"),
    (re.compile(r"EBS|Elastic Block|provisioned storage", re.IGNORECASE), "ebs"),
    (re.compile(r"EFS|Elastic File", re.IGNORECASE), "efs"),
    (re.compile(r"AmazonS3|Simple Storage|\bS3\b|Glacier", re.IGNORECASE), "s3"),
    (re.compile(r"(standard hdd|standard ssd|premium ssd|ultra).*disk", re.IGNORECASE), "managed disk {0}"),
    (re.compile(r"managed disk|\bdisks?\b.*azure", re.IGNORECASE), "managed disk"),
    (re.compile(r"blob|files|queues|tables", re.IGNORECASE), "blob"),
    (re.compile(r"ssd.*\bPD\b|\bPD\b.*ssd", re.IGNORECASE), "persistent disk ssd"),
    (re.compile(r"\bPD\b|persistent disk", re.IGNORECASE), "persistent disk"),
    (re.compile(r"cloud storage|standard storage|nearline|coldline|archive", re.IGNORECASE), "cloud storage"),
)
_ACCELERATED = {
    "aws": re.compile(r"^(?:ml\.)?(?:p\d|g\d|gr\d)[a-z0-9-]*\."),
    "azure": re.compile(r"^(?:standard_)?n[cdvgp]", re.IGNORECASE),
    "gcp": re.compile(r"^(?:a2|a3|a4|g2|g4)-"),
}


def carries_gpus(provider: str, instance_type: str) -> bool:
    """Whether the name of a machine type says that it has GPUs, without saying how many."""
    pattern = _ACCELERATED.get(provider)
    return bool(pattern and pattern.match(instance_type))


@lru_cache(maxsize=200_000)
def read_sku(billed: Billed) -> Sku:
    """The meaning of one SKU; the provider's rules first, then its unit alone."""
    unit = parse_unit(billed.unit)
    rules = {"aws": _aws, "azure": _azure, "gcp": _gcp, "oci": _oci}.get(billed.provider)
    found = rules(billed, unit) if rules else None
    return found or _by_unit(billed, unit)


def _other(unit: Unit) -> Sku:
    names = {"hour": "h", "vcpu_hour": "h", "gb": "GB", "gb_hour": "GB-h"}
    if unit.dimension in names:
        return Sku("other", unit.factor, names[unit.dimension], hours=unit.dimension == "hour")
    return Sku("other", unit.factor, "count", unknown_unit=unit.dimension == "unknown")


def _by_unit(billed: Billed, unit: Unit) -> Sku:
    """What the unit alone says."""
    match unit.dimension:
        case "vcpu_hour":
            return Sku("vcpu", unit.factor, "vCPU-h")
        case "ocpu_hour":
            return Sku("vcpu", unit.factor * OCI_VCPU_PER_OCPU, "vCPU-h")
        case "gpu_hour":
            return Sku("gpu", unit.factor, "GPU-h", gpu_model=_gpu_model(billed))
        case "hour" if billed.instance_type and not _LICENCE.search(billed.text):
            return _instance(unit, billed.instance_type)
        case "gb_hour" | "gb_month":
            return _held(billed, unit)
        case "lambda_gb_hour":
            return Sku("vcpu", unit.factor * LAMBDA_VCPU_PER_GB, "vCPU-h", derived=True)
        case "gb":
            return _sent(billed, unit)
    return _other(unit)


def _instance(unit: Unit, instance_type: str | None) -> Sku:
    return Sku("instance", unit.factor, "h", instance_type=instance_type or None, hours=True)


def _held(billed: Billed, unit: Unit) -> Sku:
    """GB over time: memory where the SKU says so, else storage."""
    if _LICENCE.search(billed.text) or _FEE.search(billed.text):
        return Sku("other", unit.factor, "count")
    if unit.dimension == "gb_hour" and _MEMORY.search(billed.text):
        return Sku("memory", unit.factor, "GB-h")
    return Sku(
        "storage", unit.factor, "GB-h", by_month=unit.dimension == "gb_month", instance_type=_storage_class(billed)
    )


def _storage_class(billed: Billed) -> str | None:
    text = f"{billed.text} | {billed.code} | {billed.provider}"
    for pattern, name in _STORAGE_CLASSES:
        match = pattern.search(text)
        if match:
            return name.format(*(g.lower() for g in match.groups()))
    return None


def _sent(billed: Billed, unit: Unit) -> Sku:
    """GB that moved: the sender's line is network, everything else (inbound, scanned, ingested) is other."""
    text = billed.text
    if (_NETWORK.search(text) or billed.category == "Networking") and not _INBOUND.search(text):
        return Sku("network", unit.factor, "GB")
    return Sku("other", unit.factor, "GB")


def _gpu_model(billed: Billed) -> str | None:
    match = _GPU_MODEL.search(billed.description or billed.meter)
    return match.group(1).upper() if match else None


def _aws(billed: Billed, unit: Unit) -> Sku | None:
    text = billed.text
    for pattern, kind in _AWS_SKIP:
        if pattern.search(billed.meter):
            return _other(unit)._replace(skip=kind)
    if not billed.unit and _AWS_COMPUTE_METER.search(billed.meter):
        unit = Unit("hour", 1.0)
    if "Fargate" in text and unit.dimension in ("hour", "vcpu_hour", "gb_hour"):
        return _fargate(text, unit)
    if "Lambda-GB-Second" in billed.meter or unit.dimension == "lambda_gb_hour":
        return _lambda(text, unit)
    if unit.dimension not in ("hour", "vcpu_hour"):
        return None
    if _AWS_RIDES_ALONG.search(text) or "MapReduce" in billed.service + billed.code:
        return _other(unit)
    return _aws_machine(billed, unit) if unit.dimension == "hour" else None


def _aws_machine(billed: Billed, unit: Unit) -> Sku | None:
    match = _AWS_COMPUTE_METER.search(billed.meter)
    if match:
        return _instance(unit, billed.instance_type or match.group("type"))
    if billed.instance_type:
        return _instance(unit, billed.instance_type)
    if not billed.meter and re.search(r"instance[- ]hour|reserved instance", billed.description, re.IGNORECASE):
        match = _AWS_IN_TEXT.search(billed.description)
        return _instance(unit, match.group(1)) if match else None
    return None


def _lambda(text: str, unit: Unit) -> Sku:
    """Function memory over time; vCPU follows from memory. Provisioned concurrency is readiness, not running."""
    if _AWS_RIDES_ALONG.search(text):
        return _other(Unit("count", unit.factor))
    gb_hours = unit.factor if unit.dimension in ("lambda_gb_hour", "hour", "gb_hour") else 1 / 3600
    return Sku("vcpu", gb_hours * LAMBDA_VCPU_PER_GB, "vCPU-h", derived=True)


def _fargate(text: str, unit: Unit) -> Sku:
    if "EphemeralStorage" in text or "Ephemeral" in text:
        return Sku("storage", unit.factor, "GB-h", instance_type="ssd")
    if re.search(r"vCPU", text):
        return Sku("vcpu", unit.factor, "vCPU-h")
    if re.search(r"GB-Hours|Memory", text):
        return Sku("memory", unit.factor, "GB-h")
    return _other(unit)


def _azure(billed: Billed, unit: Unit) -> Sku | None:
    text = billed.text
    if _LICENCE.search(text) or "Defender" in text:
        return _other(unit)
    disk = _AZURE_DISK.search(billed.meter) or _AZURE_DISK.search(billed.description)
    if unit.dimension in ("month", "count") and disk and "disk" in text.lower() and "operation" not in text.lower():
        gb = _AZURE_DISK_GB.get(int(disk.group("size")[1:]))
        if gb:
            return Sku("storage", unit.factor * gb, "GB-h", by_month=True, instance_type=_storage_class(billed))
    if unit.dimension != "hour":
        return None
    if re.search(r"\bvCPU Duration", text):
        return Sku("vcpu", unit.factor, "vCPU-h")
    cores = _VCORES.match(billed.meter)
    if cores:
        return Sku("vcpu", unit.factor * float(cores.group(1) or 1), "vCPU-h")
    product = _AZURE_PRODUCT.match(billed.description)
    if product and billed.meter and product.group("meter") != billed.meter:
        product = None
    machine = billed.service == "Virtual Machines" and not re.search(r"IP Address|Disk|Bandwidth|Data", text)
    if machine or product:
        meter = product.group("meter") if product and not (machine and billed.meter) else billed.meter
        return _instance(unit, billed.instance_type or azure_size_of_meter(meter))
    return _other(unit)  # a machine type beside a public address or a balancer is no machine


def azure_size_of_meter(meter: str) -> str | None:
    """``Standard_D2_v3`` of the meter name ``D2 v3/D2s v3 Spot``; ``None`` where it names no size."""
    name = re.sub(r"\s+(?:Spot|Low Priority|Hours?|Expired)$", "", meter.split("/")[0].strip())
    if re.match(r"^[A-Z]{1,3}\d+[A-Za-z0-9\-]*(?: v\d+)?$", name):
        return "Standard_" + name.replace(" ", "_")
    return None


def _gcp(billed: Billed, unit: Unit) -> Sku | None:
    text = billed.description or billed.meter
    if text.startswith("Commitment"):
        return _other(unit)._replace(skip="commitment")
    if _LICENCE.search(text):
        return _other(unit)
    if unit.dimension != "hour":
        return None
    if _GPU.search(text):
        return Sku("gpu", unit.factor, "GPU-h", gpu_model=_gpu_model(billed))
    if "mCPU" in text:  # Autopilot bills thousandths
        return Sku("vcpu", unit.factor / 1000, "vCPU-h")
    if _CORE.search(text):
        return Sku("vcpu", unit.factor, "vCPU-h", instance_type=billed.instance_type or None)
    if re.search(r"\b(?:Micro|Small) Instance\b", text) or (billed.instance_type and "VM" in text):
        return _instance(unit, billed.instance_type)
    return _other(unit)


def _oci(billed: Billed, unit: Unit) -> Sku | None:
    text = billed.text
    if unit.dimension == "ocpu_hour":
        per_core = 1.0 if re.search(r"\bA[12]\b|Arm", text) else OCI_VCPU_PER_OCPU
        return Sku("vcpu", unit.factor * per_core, "vCPU-h", instance_type=billed.instance_type or None)
    if unit.dimension == "gb_hour" and re.search(r"Data Transfer", text):
        return _sent(billed, Unit("gb", unit.factor))
    if unit.dimension == "gb_month":
        if re.search(r"Data Transfer", text):
            return _sent(billed, Unit("gb", unit.factor))
        if "Performance" in text:
            return _other(Unit("count", unit.factor))
        return _held(billed, unit)._replace(month_hours=OCI_MONTH_HOURS)
    return None
