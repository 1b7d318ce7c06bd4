"""MODEL: from activity and grid intensity to emissions with bounds. Strictly deterministic.

Belongs here: methods, the factor set, the calculation over ledger columns, normalising a grid source, and
the diff between two calculations. Does not belong here: any I/O, clock or randomness.
"""

from sust_dagster.agents.accountant.account import (
    DICTIONARY_COLUMNS,
    LEDGER_COLUMNS,
    Accountant,
    account,
    account_batches,
    account_stream,
    prepare,
)
from sust_dagster.agents.accountant.factors import (
    BOUND_READINGS,
    Factor,
    FactorError,
    FactorSet,
    NamedFactor,
    cross_check,
    log_sd,
)
from sust_dagster.agents.accountant.lookups import LedgerError
from sust_dagster.agents.accountant.methods import METHODS, method_set_id, named_factor

__all__ = [
    "BOUND_READINGS",
    "DICTIONARY_COLUMNS",
    "LEDGER_COLUMNS",
    "METHODS",
    "Accountant",
    "Factor",
    "FactorError",
    "FactorSet",
    "LedgerError",
    "NamedFactor",
    "account",
    "account_batches",
    "account_stream",
    "cross_check",
    "log_sd",
    "method_set_id",
    "named_factor",
    "prepare",
]
