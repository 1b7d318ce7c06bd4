from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from accountant_tables import grid_rows, ledger, ledger_row

from sust_dagster.agents.accountant import (
    FactorError,
    FactorSet,
    account,
    cross_check,
    log_sd,
    method_set_id,
    named_factor,
)
from sust_dagster.reference import SHIPPED_AT, instances, shipped_factors
from sust_dagster.world.schemas import EMISSION_FACTORS


def changed(name: str, **columns) -> pa.Table:
    """The shipped rows with the first row of one name changed."""
    rows = shipped_factors().to_pylist()
    at = next(i for i, r in enumerate(rows) if r["name"] == name)
    rows[at] |= columns
    return pa.Table.from_pylist(rows, EMISSION_FACTORS.arrow)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"bound_reading": ""}, "no known reading"),
        ({"bound_reading": "about"}, "no known reading"),
        ({"value_lower": 0.006}, "outside its own bounds"),
        ({"value_upper": 0.004}, "outside its own bounds"),
        ({"value": math.nan}, "not finite"),
        ({"value_lower": -0.001}, "negative"),
        ({"factor_type": "magic"}, "type is unknown"),
    ],
)
def test_a_factor_that_cannot_be_read_is_refused(columns, said):
    with pytest.raises(FactorError, match=said) as refusal:
        FactorSet.from_table(changed("simple/v1 vcpu", **columns))
    assert "simple/v1 vcpu" in str(refusal.value)


def test_two_active_versions_are_refused():
    row = next(r for r in shipped_factors().to_pylist() if r["name"] == "simple/v1 vcpu")
    second = pa.Table.from_pylist([row | {"factor_id": "other", "version": 2}], EMISSION_FACTORS.arrow)
    with pytest.raises(FactorError, match="two active versions of factor power 'simple/v1 vcpu'"):
        FactorSet.from_table(pa.concat_tables([shipped_factors(), second]))


def test_a_missing_factor_is_named(factors):
    assert factors.find("power", "abacus") is None
    with pytest.raises(FactorError, match=r"gpu 'Acme/idle' \(aws\)"):
        factors.get("gpu", "Acme/idle", provider="aws")


def test_there_is_no_fallback_to_a_wider_scope(factors):
    assert factors.find("pue", "site", provider="aws") is None


def test_the_set_cannot_be_changed(factors):
    with pytest.raises(dataclasses.FrozenInstanceError):
        factors.table = None
    with pytest.raises(TypeError):
        factors.index[("power", "", "", "x")] = None


def test_versions_are_chosen_by_instant():
    at = datetime(2026, 6, 1, tzinfo=UTC)
    table = changed("simple/v1 vcpu", valid_to=at)
    assert FactorSet.from_table(table, at=at - timedelta(days=1)).find("power", "simple/v1 vcpu")
    assert FactorSet.from_table(table, at=at).find("power", "simple/v1 vcpu") is None


def test_age_is_told_from_the_given_now_only(factors):
    assert factors.stale(SHIPPED_AT + timedelta(days=30)).num_rows == 0
    old = factors.stale(SHIPPED_AT + timedelta(days=31))
    assert old.num_rows == len(factors.index)
    assert old["age_days"][0].as_py() == 31.0


def test_sources_that_disagree_by_more_than_their_bounds_are_told():
    other = next(r for r in shipped_factors().to_pylist() if r["name"] == "site" and r["region"] == "us-east-1")
    other |= {"factor_id": "x", "source": "somebody else", "version": 2}
    near = pa.Table.from_pylist(
        [other | {"value": 1.2, "value_lower": 1.1, "value_upper": 1.3}], EMISSION_FACTORS.arrow
    )
    far = pa.Table.from_pylist([other | {"value": 1.5, "value_lower": 1.4, "value_upper": 1.6}], EMISSION_FACTORS.arrow)
    assert cross_check(shipped_factors()).num_rows == 0
    assert cross_check(pa.concat_tables([shipped_factors(), near])).num_rows == 0
    told = cross_check(pa.concat_tables([shipped_factors(), far])).to_pylist()
    assert len(told) == 1
    assert told[0]["region"] == "us-east-1"
    assert told[0]["gap"] == pytest.approx(1.4 - 1.2075)


def test_the_spread_of_a_bound_follows_its_reading():
    assert log_sd(1 / 1.3, 1.3, "95% lognormal") == pytest.approx(math.log(1.3) / 1.96, rel=1e-4)
    assert log_sd(0.99, 1.01, "uniform") == pytest.approx(0.01 / math.sqrt(3), rel=1e-4)
    with pytest.raises(FactorError, match="reading"):
        log_sd(0.9, 1.1, "90%")
    with pytest.raises(FactorError, match="logarithm"):
        log_sd(0.0, 1.1, "uniform")


def test_the_set_id_names_method_factors_and_instances(factors):
    ids = {method_set_id(factors, m) for m in ("simple/v1", "instance-power/v1")}
    assert len(ids) == 2
    assert method_set_id(factors, "simple/v1") == method_set_id(FactorSet.from_table(shipped_factors()), "simple/v1")
    newer = FactorSet.from_table(changed("simple/v1 vcpu", factor_id="newer"))
    assert method_set_id(newer, "simple/v1") != method_set_id(factors, "simple/v1")
    # A CPU family is nothing to simple/v1: its rows keep their id and need no restatement.
    assert method_set_id(newer, "instance-power/v1") == method_set_id(factors, "instance-power/v1")
    rows, grid = ledger(ledger_row()), grid_rows({"us-east-1": [0.3]})
    with_table = account(rows, grid, factors, instances=instances())["emission_factor_id"][0]
    assert with_table != account(rows, grid, factors)["emission_factor_id"][0]


def test_a_new_version_changes_the_figure_it_is_for():
    rows, grid = ledger(ledger_row()), grid_rows({"us-east-1": [0.35]})
    newer = FactorSet.from_table(changed("simple/v1 vcpu", factor_id="newer", value=0.006))
    assert account(rows, grid, newer)["kg_location"][0].as_py() == pytest.approx(0.00154 * 1.2)


@pytest.mark.parametrize(
    "key",
    [
        "power/simple/v1",
        "power/network",
        "power/memory",
        "power/storage/s3",
        "power/instance-power/v1/EPYC 3rd Gen/metered",
        "power/instance-power/v1/unknown/unmetered/H100",
        "pue/simple/v1/aws",
        "pue/simple/v1/aws/us-east-1",
        "pue/aws",
        "pue/aws/us-east-1",
        "pue/gcp/us-west2",
    ],
)
def test_every_key_has_a_box_around_one(factors, key):
    named = named_factor(factors, key)
    assert 0 < named.rel_lower <= 1 <= named.rel_upper
    assert named.log_sd > 0


@pytest.mark.parametrize("key", ["power/guess", "grid/us-east-1", "pue/aws/nowhere", ""])
def test_an_unknown_key_is_refused(factors, key):
    with pytest.raises(FactorError):
        named_factor(factors, key)


def test_simple_pue_halves_multiply_to_the_range(factors):
    shared, site = (named_factor(factors, k) for k in ("pue/simple/v1/aws", "pue/simple/v1/aws/us-east-1"))
    assert 1.1 * shared.rel_lower * site.rel_lower == pytest.approx(1.05)
    assert 1.1 * shared.rel_upper * site.rel_upper == pytest.approx(1.4)


def test_no_site_falls_below_a_pue_of_one(factors):
    shared = named_factor(factors, "pue/aws")
    for factor in factors.of_type("pue"):
        if factor.region:
            assert factor.lower * shared.rel_lower >= 1.0
