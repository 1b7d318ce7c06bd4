"""Quality flags of emission rows: what was assumed, replaced or missing, said in the row.

Belongs here: the flags, their meaning and how a row's flags become its ``quality`` text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Coded, compact, dictionary

#: Flag -> meaning, in the order they are written.
FLAGS: dict[str, str] = {
    "no_energy_model": "no method covers the row: energy and kg are null",
    "memory_in_vcpu": "memory billed apart: simple/v1 has it in the vCPU figure, so the row has no energy of its own",
    "utilisation_default": "CPU load not metered: half load assumed, power box widened",
    "unknown_family": "CPU family unknown: declared stand-in with a wide box",
    "unknown_gpu": "GPU model unknown: declared stand-in with a wide box",
    "accelerator_not_modelled": "the instance carries an accelerator no figure is held for",
    "gpu_outside_bound": "the GPU's half-load watts lie outside simple/v1's box: prefer instance-power/v1",
    "memory_not_counted": "memory size unknown: its power is not in the figure",
    "storage_unknown": "storage class unknown: declared stand-in with a wide box",
    "pue_provider_average": "the site publishes no PUE: the provider's average stands in, box widened",
    "no_pue": "no PUE for the region: facility energy and kg are null",
    "no_intensity": "no grid intensity for the region and hour: location-based kg is null",
    "no_embodied_model": "server unknown or not modelled: embodied kg is null",
    "open_end": "the ledger row has no end: the end of its clock hour is written",
}

_BIT = {name: np.uint32(1 << i) for i, name in enumerate(FLAGS)}

Mask = NDArray[np.uint32]


def bit(flag: str) -> np.uint32:
    """The bit of one flag; ``KeyError`` for a name that is not declared."""
    return _BIT[flag]


def merge(*texts: str) -> str:
    """Join flag texts: ``ok`` vanishes beside others, no flag stands twice, order is kept."""
    seen: dict[str, None] = {}
    for text in texts:
        for flag in text.split(";"):
            if flag and flag != "ok":
                seen[flag] = None
    return ";".join(seen) or "ok"


def quality_column(ledger: Coded, mask: Mask, grid: Coded) -> pa.DictionaryArray:
    """The quality text of each row from its ledger flags, its method flags and its grid flags.

    One text is built per distinct combination, not per row.
    """
    masks, mask_codes = _distinct(mask)
    wide = (ledger.codes.astype(np.int64) * len(masks) + mask_codes) * len(grid.values) + grid.codes
    size = len(ledger.values) * len(masks) * len(grid.values)
    present, codes = compact(wide, size)
    words = [_word(int(p), ledger, masks, grid) for p in present]
    return dictionary(codes, words)


def _distinct(mask: Mask) -> tuple[list[int], NDArray[np.int32]]:
    if not mask.any():
        return [0], np.zeros(len(mask), dtype=np.int32)
    present, codes = compact(mask, 1 << len(FLAGS))
    return [int(p) for p in present], codes


def _word(combination: int, ledger: Coded, masks: list[int], grid: Coded) -> str:
    rest, g = divmod(combination, len(grid.values))
    led, m = divmod(rest, len(masks))
    own = ";".join(name for name, b in _BIT.items() if masks[m] & int(b))
    return merge(ledger.values[led], own, grid.values[g])
