"""What lies between regions: round-trip times and the price of moving data.

Belongs here: figures by pair of regions.

Round-trip times are approximate public medians between AWS regions. (The latency file of sustain-cluster lists
three of our ten pairs, and with connection set-up: 226 ms for us-east-1 to us-west-2, some 65 ms of which is one
round trip; so it is not used.) Egress is $0.02/GB, but $0.086/GB out of ap-south-1, as in sustain-cluster's
transmission cost matrix of AWS, which agrees with the founding design's 0.01 to 0.09.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from sust_dagster.simulator.columns import pick
from sust_dagster.simulator.regions import REGION_IDS, REGION_INDEX
from sust_dagster.simulator.streams import Floats

DEFAULT_EGRESS_USD_PER_GB = 0.02
_EGRESS_FROM = {"ap-south-1": 0.086}
WITHIN_REGION_MS = 1.0
_ROUND_TRIP_MS: dict[tuple[str, str], float] = {
    ("us-east-1", "us-west-2"): 65.0,
    ("us-east-1", "eu-west-1"): 70.0,
    ("us-east-1", "eu-north-1"): 110.0,
    ("us-east-1", "ap-south-1"): 190.0,
    ("us-west-2", "eu-west-1"): 125.0,
    ("us-west-2", "eu-north-1"): 160.0,
    ("us-west-2", "ap-south-1"): 220.0,
    ("eu-west-1", "eu-north-1"): 42.0,
    ("eu-west-1", "ap-south-1"): 125.0,
    ("eu-north-1", "ap-south-1"): 145.0,
}


def round_trip_ms() -> Floats:
    """Round-trip time in ms, shape ``(regions, regions)``, symmetric."""
    matrix = np.full((len(REGION_IDS), len(REGION_IDS)), WITHIN_REGION_MS)
    for (a, b), ms in _ROUND_TRIP_MS.items():
        matrix[REGION_INDEX[a], REGION_INDEX[b]] = matrix[REGION_INDEX[b], REGION_INDEX[a]] = ms
    return matrix


def egress_usd_per_gb() -> Floats:
    """Price of moving data, row = from, column = to; 0 within a region."""
    n = len(REGION_IDS)
    by_origin = np.array([_EGRESS_FROM.get(r, DEFAULT_EGRESS_USD_PER_GB) for r in REGION_IDS])
    return np.where(np.eye(n, dtype=bool), 0.0, by_origin[:, None])


def _pairs(name: str, matrix: Floats) -> pa.Table:
    n = len(REGION_IDS)
    return pa.table(
        {
            "from_region": pick(REGION_IDS, np.repeat(np.arange(n), n)),
            "to_region": pick(REGION_IDS, np.tile(np.arange(n), n)),
            name: matrix.reshape(-1),
        }
    )


def latency_table() -> pa.Table:
    """``from_region, to_region, rtt_ms``: 25 rows."""
    return _pairs("rtt_ms", round_trip_ms())


def egress_table() -> pa.Table:
    """``from_region, to_region, usd_per_gb``: 25 rows."""
    return _pairs("usd_per_gb", egress_usd_per_gb())
