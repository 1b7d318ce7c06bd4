from __future__ import annotations

import pytest

from sust_dagster.agents.accountant import FactorSet
from sust_dagster.reference import shipped_factors


@pytest.fixture(scope="session")
def factors() -> FactorSet:
    return FactorSet.from_table(shipped_factors())
