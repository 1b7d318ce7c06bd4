"""VERIFY: what executed changes truly saved, with interval, status and credit. Strictly deterministic.

Belongs here: gates, counterfactual, decomposition, intervals, credit. Does not belong here: any I/O or clock,
planning, or the tables of the world model the inputs are joined from. ``docs/methodology.md`` states every formula.
"""

from sust_dagster.agents.verifier.counterfactual import SliceError
from sust_dagster.agents.verifier.inputs import (
    CLAIM_SCHEMA,
    LEAKAGE_COMPONENTS,
    LEAKAGE_SCHEMA,
    SLICE_SCHEMA,
    InputError,
)
from sust_dagster.agents.verifier.outcome import (
    OUTCOME_SCHEMA,
    PORTFOLIO_SCHEMA,
    VERIFICATION_METHOD,
    Verified,
    aggregate,
    verify,
)
from sust_dagster.agents.verifier.sensitivity import SENSITIVITY_SCHEMA, lognormal_factor, named_factors
from sust_dagster.agents.verifier.signal import HourlySignal, MixedSignalsError, signal_matrix
from sust_dagster.agents.verifier.sufficiency import GATES

__all__ = [
    "CLAIM_SCHEMA",
    "GATES",
    "LEAKAGE_COMPONENTS",
    "LEAKAGE_SCHEMA",
    "OUTCOME_SCHEMA",
    "PORTFOLIO_SCHEMA",
    "SENSITIVITY_SCHEMA",
    "SLICE_SCHEMA",
    "VERIFICATION_METHOD",
    "HourlySignal",
    "InputError",
    "MixedSignalsError",
    "SliceError",
    "Verified",
    "aggregate",
    "lognormal_factor",
    "named_factors",
    "signal_matrix",
    "verify",
]
