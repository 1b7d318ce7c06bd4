"""Units of measure, as the providers write them."""

from __future__ import annotations

import pytest

from sust_dagster.agents.ingestor.units import parse_unit


@pytest.mark.parametrize(
    ("text", "dimension", "factor"),
    [
        ("Hrs", "hour", 1),
        ("Hours", "hour", 1),
        ("hour", "hour", 1),
        ("1 Hour", "hour", 1),
        ("100 Hours", "hour", 100),
        ("seconds", "hour", 1 / 3600),
        ("1/Day", "hour", 24),
        ("1/Month", "month", 1),
        ("1 NONE HOURS INSTANCE", "hour", 1),
        ("Instance per hour", "hour", 1),
        ("vCPU-Hours", "vcpu_hour", 1),
        ("1 vCPU Second", "vcpu_hour", 1 / 3600),
        ("OCPU Per Hour", "ocpu_hour", 1),
        ("1 NONE HOURS OCPUS", "ocpu_hour", 1),
        ("GPU-Hours", "gpu_hour", 1),
        ("GB", "gb", 1),
        ("10 GB", "gb", 10),
        ("bytes", "gb", 2**-30),
        ("gibibyte", "gb", 1),
        ("TB", "gb", 1024),
        ("1 GiB NONE DATA_TRANSFERRED", "gb", 1),
        ("GB-Mo", "gb_month", 1),
        ("GB-Months", "gb_month", 1),
        ("1 GB/Month", "gb_month", 1),
        ("gibibyte month", "gb_month", 1),
        ("1 TiB MONTHS STORAGE_SIZE", "gb_month", 1024),
        ("byte-seconds", "gb_hour", 2**-30 / 3600),
        ("GB Hours", "gb_hour", 1),
        ("1 GiB HOURS MEMORY", "gb_hour", 1),
        ("50000 GB Seconds", "gb_hour", 50000 / 3600),
        ("Lambda-GB-Second", "lambda_gb_hour", 1 / 3600),
        ("10K", "count", 1e4),
        ("1M", "count", 1e6),
        ("1,000", "count", 1e3),
        ("Requests", "count", 1),
        ("Units", "count", 1),
        ("1000000 NONE NONE DATAPOINTS", "count", 1e6),
        ("IOPS-Months", "count", 1),
        ("GiB/Second-Months", "count", 1),
        ("1 GiB MONTHS PERFORMANCE_UNITS", "count", 1),
        ("WriteCapacityUnit-Hours", "count", 1),
        ("StateTransitions", "count", 1),
        ("Furlongs", "unknown", 1),
        ("", "unknown", 1),
        (None, "unknown", 1),
    ],
)
def test_units(text, dimension, factor):
    unit = parse_unit(text)
    assert unit.dimension == dimension
    assert unit.factor == pytest.approx(factor)
