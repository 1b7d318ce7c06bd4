"""All benchmarks, one after the other: ``python -m benchmarks [--quick]``.

``--quick`` takes small sizes and is over in about a minute; the figures in the documentation come from the full sizes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Benchmark → its arguments in full, and for a quick look.
BENCHMARKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ingest": ((), ("--rows", "200000")),
    "account": (("1_000_000", "10_000_000"), ("200_000",)),
    "backfill": (("30", "365"), ("7",)),
    "forecast": ((), ("60",)),
    "plan_rules": ((), ("100000",)),
    "plan_scale": ((), ("--jobs", "10000")),
    "plan_traces": ((), ("--coupled-days", "2")),
    "portfolio_interval": ((), ("100_000",)),
}


def main(*, quick: bool = False) -> None:
    """Run every benchmark in a process of its own, so that the peak memory of each is its own."""
    for name, (full, small) in BENCHMARKS.items():
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(small if quick else full)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
