"""The matrix is the founding design's, agrees with the declarations, and everything is derived from it."""

from __future__ import annotations

import fnmatch

import pytest

from sust_dagster.world.decisions import TRANSITIONS, VERB_BY_STATUS
from sust_dagster.world.permissions import (
    ALIASES,
    DOCS_FILE,
    EVIDENCE,
    MATRIX,
    VERBS,
    PermissionRefused,
    agents_of,
    allowed,
    check,
    docs_page,
    markdown_table,
    may,
    object_store_policy,
    postgres_grants,
    resolve,
    verbs_of,
)
from sust_dagster.world.schemas import AGENTS, DECISION_STATES, TABLES, tables

#: The founding design's table, word for word: store → agents in its order, '-' for its dash.
SEED_AGENTS = ("ingestor", "accountant", "planner", "executor", "verifier", "copilot", "governance")
SEED = {
    "activity_ledger": "write read read read read read read",
    "emission_factors": "read write read - read - read",
    "grid_intensity_ts": "read write read - read - read",
    "decision_log": "- - propose execute verify read approve",
    "outcome_log": "- - read - write read read",
    "points_ledger": "- - - - - write read",
}


@pytest.mark.parametrize(("store", "cells"), SEED.items())
def test_the_founding_designs_cells_are_kept(store: str, cells: str) -> None:
    for agent, cell in zip(SEED_AGENTS, cells.split(), strict=True):
        beyond_reading = MATRIX[resolve(store)][agent] - {"read"}
        assert beyond_reading == ({cell} if cell not in ("-", "read") else set())
        assert allowed(agent, store, "read") == (cell != "-"), "whoever writes may read what it wrote"


def test_every_table_and_every_agent_has_its_cell() -> None:
    assert set(MATRIX) == {*TABLES, EVIDENCE}
    for table, cells in MATRIX.items():
        assert tuple(cells) == AGENTS
        assert all(verbs <= set(verbs_of(table)) for verbs in cells.values())
    assert set(ALIASES.values()) <= set(MATRIX)


@pytest.mark.parametrize("table", TABLES)
def test_the_matrix_and_the_declarations_name_the_same_writers(table: str) -> None:
    assert set(agents_of(table)) == set(TABLES[table].writers)


def test_each_transition_belongs_to_the_agent_that_holds_its_verb() -> None:
    assert {t for _, t, _ in TRANSITIONS} == set(DECISION_STATES) == set(VERB_BY_STATUS)
    for _, to_status, agent in TRANSITIONS:
        assert may("decision_events", VERB_BY_STATUS[to_status]) == (agent,)


def test_nobody_judges_their_own_work() -> None:
    for verb in ("propose", "approve", "execute", "verify"):
        assert len(may("decision_log", verb)) == 1
    assert len({may("decision_log", v) for v in ("propose", "approve", "execute", "verify")}) == 4
    assert not allowed("planner", "outcomes", "write")
    assert not allowed("verifier", "recommendations", "write")


@pytest.mark.parametrize("table", MATRIX)
@pytest.mark.parametrize("agent", AGENTS)
def test_check_says_what_the_matrix_says(agent: str, table: str) -> None:
    for verb in VERBS:
        if verb in MATRIX[table][agent]:
            check(agent, table, verb)
            continue
        with pytest.raises(PermissionRefused) as refusal:
            check(agent, table, verb)
        message = str(refusal.value)
        assert agent in message and table in message and verb in message
        assert all(a in message for a in may(table, verb))


@pytest.mark.parametrize(
    ("agent", "table", "verb"),
    [
        ("planner", "decision_log", "verify"),
        ("executor", "decision_log", "approve"),
        ("root", "activity_ledger", "read"),
        ("planner", "sqlite_master", "read"),
        ("governance", "policies", "delete"),
        ("governance", "decision_events", "write"),
        ("", "", ""),
    ],
)
def test_what_the_matrix_does_not_know_is_refused(agent: str, table: str, verb: str) -> None:
    with pytest.raises(PermissionRefused):
        check(agent, table, verb)


def test_grants_never_allow_a_change() -> None:
    sql = postgres_grants()
    granted = [line for line in sql.splitlines() if line.startswith("GRANT")]
    assert not [g for g in granted if any(v in g for v in ("UPDATE", "DELETE", "TRUNCATE", " ALL "))]
    for spec in tables("books"):
        insert = next(g for g in granted if g.startswith(f"GRANT INSERT ON {spec.name} "))
        assert {a for a in AGENTS if f"sust_{a}" in insert} == set(spec.writers)


def test_object_store_policies_follow_the_matrix() -> None:
    policies = object_store_policy("s3://bucket/project/lake/", "s3://bucket/project/evidence")
    assert tuple(policies) == AGENTS
    for agent, policy in policies.items():
        for table in MATRIX:
            if table != EVIDENCE and TABLES[table].home == "books":
                continue
            place = f"s3://bucket/project/{'' if table == EVIDENCE else 'lake/'}{table}/"
            key = f"arn:aws:s3:::{place.removeprefix('s3://')}part.parquet"
            for verb, action in (("read", "s3:GetObject"), ("write", "s3:PutObject")):
                permitted = allowed(agent, table, verb)
                assert (place in policy[verb]) == permitted
                assert _s3_allows(policy["policy"], action, key) == permitted
            assert not _s3_allows(policy["policy"], "s3:DeleteObject", key)
    assert "policy" not in object_store_policy("/srv/lake")["planner"]


def test_one_tables_prefix_is_not_anothers() -> None:
    policy = object_store_policy("s3://bucket")["planner"]["policy"]
    assert _s3_allows(policy, "s3:PutObject", "arn:aws:s3:::bucket/recommendations/x")
    assert not _s3_allows(policy, "s3:PutObject", "arn:aws:s3:::bucket/recommendations_of_others/x")


def _s3_allows(policy: dict, action: str, resource: str) -> bool:
    """AWS's rule: an explicit deny wins, else some allow must match."""

    def matches(statement: dict) -> bool:
        return action in statement["Action"] and any(fnmatch.fnmatchcase(resource, r) for r in statement["Resource"])

    effects = {s["Effect"] for s in policy["Statement"] if matches(s)}
    return effects == {"Allow"}


def test_the_docs_page_is_current() -> None:
    assert DOCS_FILE.read_text() == docs_page(), "run python -m sust_dagster.world.permissions"
    assert markdown_table().count("\n") == len(MATRIX) + 2
