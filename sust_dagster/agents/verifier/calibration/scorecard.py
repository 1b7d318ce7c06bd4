"""All lines of the calibration scorecard together.

Belongs here: which lines there are, and the document they make. Does not belong here: how a line is counted
(``coverage``, ``null_fleets``, ``selection``), how it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sust_dagster.agents.verifier.calibration.bands import ALPHA, NOMINAL, OVERCLAIM, band, ceiling
from sust_dagster.agents.verifier.calibration.coverage import LINES, FleetLine, Tick, score_fleet, score_observed
from sust_dagster.agents.verifier.calibration.null_fleets import NULL_FLEETS, NullLine, score_null
from sust_dagster.agents.verifier.calibration.selection import FORECAST_ERRORS, SelectionLine, score_selection
from sust_dagster.agents.verifier.outcome import VERIFICATION_METHOD

#: Below so many worlds a band accepts nearly anything.
FEWEST_WORLDS = 100

#: Lines over worlds; each ticks once per world.
LINE_COUNT = len(LINES) + 1 + len(NULL_FLEETS) + len(FORECAST_ERRORS)


@dataclass(frozen=True)
class Scorecard:
    """Every line of one seed; the same seed and number of worlds make the same card."""

    worlds: int
    seed: int
    fleets: Sequence[FleetLine]
    null_fleets: Sequence[NullLine]
    selection: Sequence[SelectionLine]

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        return all(line.passed for line in (*self.fleets, *self.null_fleets, *self.selection))

    def document(self) -> dict[str, Any]:
        """The card as plain values: lines with ``passed`` and ``reasons``, the limits they were held to."""
        accepted = band(self.worlds)
        return {
            "method": VERIFICATION_METHOD,
            "worlds": self.worlds,
            "seed": self.seed,
            "nominal": NOMINAL,
            "alpha": ALPHA,
            "band": [accepted.lower, accepted.upper],
            "overclaim_nominal": OVERCLAIM,
            "overclaim_limit": ceiling(self.worlds),
            "passed": self.passed,
            "fleets": [_row(line) for line in self.fleets],
            "null_fleets": [_row(line) for line in self.null_fleets],
            "winners_curse": [_row(line) for line in self.selection],
        }


def _row(line: FleetLine | NullLine | SelectionLine) -> dict[str, Any]:
    return {**asdict(line), "passed": line.passed, "reasons": list(line.reasons)}


def scorecard(worlds: int, seed: int, tick: Tick = lambda _: None) -> Scorecard:
    """Score every fleet over ``worlds`` hidden worlds of ``seed``.

    ``tick`` is told of worlds done, ``worlds`` for each of :data:`LINE_COUNT` lines. Raises ``ValueError`` below
    :data:`FEWEST_WORLDS` worlds.
    """
    if worlds < FEWEST_WORLDS:
        raise ValueError(f"{worlds} worlds can not tell 90 % from much else; take at least {FEWEST_WORLDS}")
    fleets = [score_fleet(mix, systematic, worlds, seed, tick) for mix, systematic in LINES]
    fleets.append(score_observed(worlds, seed, tick))
    null = [score_null(kind, worlds, seed, tick) for kind in NULL_FLEETS]
    selection = []
    for error in FORECAST_ERRORS:
        selection.append(score_selection(error, worlds, seed))
        tick(worlds)
    return Scorecard(worlds, seed, fleets, null, selection)
