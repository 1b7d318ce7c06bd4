"""Units of billed quantities: text to a dimension and a factor.

Belongs here: how '10K', '100 Hours', 'GB-Mo', 'byte-seconds' or '1 GiB MONTHS STORAGE_SIZE' are read. Does not
belong here: what the quantity means for a resource (skus.py).

GB is 2**30 bytes, as the providers bill it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Dimension = Literal[
    "hour",
    "month",
    "vcpu_hour",
    "ocpu_hour",
    "gpu_hour",
    "gb",
    "gb_hour",
    "gb_month",
    "lambda_gb_hour",
    "count",
    "unknown",
]


@dataclass(frozen=True)
class Unit:
    """``quantity * factor`` is in ``dimension``."""

    dimension: Dimension
    factor: float


_DATA = {
    "byte": 1 / 2**30,
    "kb": 1 / 2**20,
    "kib": 1 / 2**20,
    "kibibyte": 1 / 2**20,
    "mb": 1 / 2**10,
    "mib": 1 / 2**10,
    "megabyte": 1 / 2**10,
    "mebibyte": 1 / 2**10,
    "gb": 1.0,
    "gib": 1.0,
    "gigabyte": 1.0,
    "gibibyte": 1.0,
    "tb": 2.0**10,
    "tib": 2.0**10,
    "terabyte": 2.0**10,
    "tebibyte": 2.0**10,
    "pb": 2.0**20,
    "pib": 2.0**20,
    "pebibyte": 2.0**20,
}
#: Hours per unit of time; a month is no fixed number of hours and is kept apart.
_TIME = {
    "second": 1 / 3600,
    "sec": 1 / 3600,
    "s": 1 / 3600,
    "minute": 1 / 60,
    "min": 1 / 60,
    "hour": 1.0,
    "hr": 1.0,
    "h": 1.0,
    "day": 24.0,
    "month": 0.0,
    "mo": 0.0,
}
_CORES = {"vcpu", "core", "vcore", "cpu"}
#: Words that mark a count of something, or that say nothing.
_COUNTED = {
    "acu", "alarm", "api", "api call", "call", "check", "count", "dashboard", "datapoint", "document", "event",
    "execution", "io", "iop", "key", "lcu", "message", "metric", "node", "obj", "object", "operation", "query",
    "querie", "rcu", "request", "rotation", "secret", "security", "statetransition", "transaction", "transition",
    "unit", "user", "wcu", "million", "thousand", "free", "run", "domain", "zone", "page", "image", "character",
    "token", "dtu", "du", "ru", "job", "quantity", "each", "iops", "none",
    "performance", "catalog", "state", "read", "write", "capacity",
}  # fmt: skip
_NOISE = {"per", "of", "instance", "storage", "size", "memory", "ocpus", "transferred", "none", "data", "free"}
_NUMBER = re.compile(r"^\s*(\d[\d,]*(?:\.\d+)?)\s*([kKmMbB](?![a-zA-Z]))?")
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


@lru_cache(maxsize=4096)
def parse_unit(text: str | None) -> Unit:
    """Read a unit of measure. Unreadable ones are ``unknown`` with factor 1."""
    if not text or not text.strip():
        return Unit("unknown", 1.0)
    lowered = text.strip()
    number = _NUMBER.match(lowered)
    factor = 1.0
    if number:
        factor = float(number.group(1).replace(",", "")) * _SCALE[(number.group(2) or "").lower()]
        lowered = lowered[number.end() :]
    words = [_singular(w) for w in re.findall(r"[a-z]+", re.sub(r"([a-z]{3})([A-Z])", r"\1 \2", lowered).lower())]
    if not words:
        return Unit("count", factor) if number else Unit("unknown", 1.0)
    return _from_words(words, factor)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 2 and word.endswith("s") and word not in ("iops", "none") else word


def _from_words(words: list[str], factor: float) -> Unit:
    data = [w for w in words if w in _DATA]
    times = [w for w in words if w in _TIME]
    rest = [w for w in words if w not in _DATA and w not in _TIME]
    if data and len(times) <= 1 and "performance" not in rest and not ({"iop", "iops"} & set(rest)):
        return _data_unit(data[0], times, rest, factor)
    if data or len(times) > 1:
        return Unit("count", factor)  # throughput bought by the month, performance units: not bytes held
    return _other_unit(times, rest, factor)


def _data_unit(data: str, times: list[str], rest: list[str], factor: float) -> Unit:
    amount = factor * _DATA[data]
    if not times or "transferred" in rest or "transferr" in rest:
        return Unit("gb", amount)
    hours = _TIME[times[0]]
    if hours == 0.0:
        return Unit("gb_month", amount)
    return Unit("lambda_gb_hour" if "lambda" in rest else "gb_hour", amount * hours)


def _other_unit(times: list[str], rest: list[str], factor: float) -> Unit:
    hours = _TIME[times[0]] if times else None
    subject = set(rest)
    if hours:
        if subject & {"ocpu"}:
            return Unit("ocpu_hour", factor * hours)
        if subject & {"gpu"}:
            return Unit("gpu_hour", factor * hours)
        if subject & _CORES:
            return Unit("vcpu_hour", factor * hours)
        if not subject - _NOISE:
            return Unit("hour", factor * hours)
        return Unit("count", factor)
    if hours == 0.0 and not subject - _NOISE:
        return Unit("month", factor)
    return Unit("count", factor) if times or subject <= _COUNTED | _NOISE else Unit("unknown", factor)
