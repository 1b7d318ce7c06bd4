"""Instance types the fake cloud rents, with their size and price.

Belongs here: shape and us-east-1 on-demand price of each type, and which smaller size a right-sizing leads to.
Prices follow the founding design's cost per job (section 6: cost per job / mean duration), not a price list: a CI
runner at $0.75/h is a managed runner's price. Region and hour are prices.py's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """One instance type; ``smaller`` maps a vCPU scale to the type that has that share of the vCPUs."""

    instance_type: str
    vcpus: int
    memory_gib: float
    usd_per_hour: float
    gpus: int = 0
    gpu_model: str | None = None
    smaller: tuple[tuple[float, str], ...] = ()

    @property
    def series(self) -> str:
        """The family, e.g. ``c5``."""
        return self.instance_type.split(".", maxsplit=1)[0]


INSTANCES: tuple[Instance, ...] = (
    Instance("c5.xlarge", 4, 8, 0.15 / 0.2, smaller=((0.5, "c5.large"),)),
    Instance("c5.large", 2, 4, 0.15 / 0.2 / 2),
    Instance("m5.4xlarge", 16, 64, 2.40 / 2, smaller=((0.5, "m5.2xlarge"), (0.25, "m5.xlarge"))),
    Instance("m5.2xlarge", 8, 32, 2.40 / 2 / 2),
    Instance("m5.xlarge", 4, 16, 2.40 / 2 / 4),
    Instance("p3.2xlarge", 8, 61, 18.00 / 6, gpus=1, gpu_model="V100"),
    Instance("t3.large", 2, 8, 0.80 / 8),
    Instance("m6i.xlarge", 4, 16, 3.50 / 24, smaller=((0.5, "m6i.large"),)),
    Instance("m6i.large", 2, 8, 3.50 / 24 / 2),
)

INSTANCE_INDEX: dict[str, int] = {x.instance_type: i for i, x in enumerate(INSTANCES)}


def scaled_instance(index: int, vcpus_scale: float) -> int | None:
    """Position of the type with ``vcpus_scale`` times the vCPUs, or ``None`` where there is none."""
    if vcpus_scale == 1.0:
        return index
    for scale, name in INSTANCES[index].smaller:
        if scale == vcpus_scale:
            return INSTANCE_INDEX[name]
    return None
