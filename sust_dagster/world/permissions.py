"""Who may do what to which table: one table, and everything that is derived from it.

Belongs here: the matrix, the check, and its forms for PostgreSQL (roles, GRANTs, row-level security), object
stores (S3 policies) and people (``docs/permissions.md``). Does not belong here: holding anyone to it at run
time (``access``) or storage.

Run this module to write the docs page anew; a test holds it current.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sust_dagster.world.decisions import TRANSITIONS, VERB_BY_STATUS
from sust_dagster.world.schemas import AGENTS, TABLES, Agent, tables

Verb = Literal["read", "write", "propose", "approve", "execute", "verify"]

VERBS: tuple[Verb, ...] = ("read", "write", "propose", "approve", "execute", "verify")
DECISION_VERBS: tuple[Verb, ...] = ("propose", "approve", "execute", "verify")

#: Evidence bundles lie beside the lake as files and are no table; they are guarded like one.
EVIDENCE = "evidence"

#: Tables whose rows name the agent they come from: nobody writes in another's name.
SIGNED = ("decision_events", "access_log", "alerts")

#: Other names of a table: those of the founding design, and the views.
ALIASES: Mapping[str, str] = {
    "grid_intensity_ts": "grid_intensity",
    "grid_intensity_timeseries": "grid_intensity",
    "decision_log": "decision_events",
    "outcome_log": "outcomes",
}

# The matrix. r: read. w: append. On decision_events a verb stands for its own transitions and no others.
# A '-' is a refusal. The six tables of the founding design are as it has them, with the learner added.
_MATRIX = """
table                ingestor  accountant  planner    governance  executor   verifier  learner  copilot
activity_ledger      rw        r           r          r           r          r         r        r
quarantine           rw        r           -          r           -          r         r        -
ingest_counts        rw        r           -          r           -          r         r        -
grid_intensity       r         rw          r          r           -          r         r        -
emissions            -         rw          r          r           -          r         r        r
emission_factors     r         rw          r          r           -          r         r        -
factor_reviews       r         rw          r          r           -          r         r        -
grid_forecast        -         -           rw         r           -          r         r        r
upcoming_jobs        -         -           rw         r           r          r         r        -
recommendations      -         -           rw         r           r          r         r        r
placements           -         -           rw         r           r          r         r        r
decision_events      -         -           r+propose  r+approve   r+execute  r+verify  r        r
approvals            -         -           r          rw          r          r         r        r
executions           -         -           r          r           rw         r         r        r
outcomes             -         -           r          r           -          rw        r        r
calibration          -         -           r          r           -          -         rw       r
strategy_posteriors  -         -           r          r           -          -         rw       -
drift_report         -         r           r          r           -          -         rw       r
points_ledger        -         -           -          r           -          -         -        rw
nudges               -         -           -          r           -          -         r        rw
policies             r         r           r          rw          r          r         r        r
policy_reviews       r         r           r          rw          r          r         r        r
alerts               rw        rw          rw         rw          rw         rw        rw       rw
outbox               -         -           -          r           rw         r         -        -
access_log           w         w           w          rw          w          w         w        w
log_commitments      rw        rw          rw         rw          rw         rw        rw       rw
audit_report         -         -           -          rw          -          -         r        r
factor_review        -         rw          -          r           -          r         r        -
evidence             -         -           -          r           -          rw        r        r
"""

_CELLS: Mapping[str, tuple[Verb, ...]] = {
    "-": (),
    "r": ("read",),
    "w": ("write",),
    "rw": ("read", "write"),
    **{f"r+{v}": ("read", v) for v in DECISION_VERBS},
}


def _parse(text: str) -> dict[str, dict[str, frozenset[Verb]]]:
    head, *rows = [line.split() for line in text.strip().splitlines()]
    return {r[0]: {a: frozenset(_CELLS[c]) for a, c in zip(head[1:], r[1:], strict=True)} for r in rows}


#: table → agent → verbs it may use on it.
MATRIX: Mapping[str, Mapping[str, frozenset[Verb]]] = _parse(_MATRIX)


class PermissionRefused(PermissionError):  # noqa: N818 - a refusal is an answer, not a fault
    """An agent asked for what is not its own; says who may."""

    def __init__(self, agent: str, table: str, verb: str, why: str | None = None) -> None:
        self.agent, self.table, self.verb = agent, table, verb
        self.who_may = may(table, verb)
        if why is None:
            why = f"who may: {', '.join(self.who_may) or 'nobody'}"
        super().__init__(f"{agent} may not {verb} {table}; {why}")


def resolve(table: str) -> str:
    """The declared table behind a name of the founding design or a view."""
    return ALIASES.get(table, table)


def verbs_of(table: str) -> tuple[Verb, ...]:
    """The verbs there are on a table."""
    return ("read", *DECISION_VERBS) if resolve(table) == "decision_events" else ("read", "write")


def may(table: str, verb: str) -> tuple[str, ...]:
    """The agents that may use ``verb`` on ``table``."""
    return tuple(a for a, verbs in MATRIX.get(resolve(table), {}).items() if verb in verbs)


def allowed(agent: str, table: str, verb: str) -> bool:
    """Whether the matrix says so; what it does not know is refused."""
    return agent in may(table, verb)


def check(agent: str, table: str, verb: str) -> None:
    """Raise :class:`PermissionRefused` unless ``agent`` may use ``verb`` on ``table``."""
    if not allowed(agent, table, verb):
        raise PermissionRefused(agent, table, verb)


# -- PostgreSQL ---------------------------------------------------------------------------------------------


def role(agent: str) -> str:
    """PostgreSQL role of an agent."""
    return f"sust_{agent}"


def postgres_grants() -> str:
    """SQL that gives each agent a role with exactly its cells of the matrix; safe to run again.

    Nobody is granted UPDATE, DELETE or TRUNCATE. Row-level security limits ``decision_events`` to an agent's
    own transitions, ``access_log`` and ``alerts`` to entries in its own name. The roles cannot log in: the service's
    account is granted those it acts as. The owner of the tables is not bound by any of this.
    """
    lines = [
        "DO $$ BEGIN",
        *(
            f"  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role(a)}') THEN "
            f"CREATE ROLE {role(a)} NOLOGIN; END IF;"
            for a in AGENTS
        ),
        "END $$;",
    ]
    everyone = ", ".join(role(a) for a in AGENTS)
    lines.append(f"GRANT USAGE ON SCHEMA public TO {everyone};")
    for spec in tables("books"):
        lines.append(f"REVOKE ALL ON {spec.name} FROM PUBLIC, {everyone};")
        readers = may(spec.name, "read")
        writers = agents_of(spec.name)
        if readers:
            lines.append(f"GRANT SELECT ON {spec.name} TO {', '.join(map(role, readers))};")
        if writers:
            lines.append(f"GRANT INSERT ON {spec.name} TO {', '.join(map(role, writers))};")
    lines.append(f"REVOKE ALL ON decision_log FROM PUBLIC, {everyone};")
    lines.append(f"GRANT SELECT ON decision_log TO {', '.join(map(role, may('decision_log', 'read')))};")
    lines.append(f"GRANT SELECT ON books_version TO {everyone};")
    lines += _row_security()
    return "\n".join(lines) + "\n"


def _row_security() -> list[str]:
    lines = []
    for table in SIGNED:
        lines.append(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;")
        lines += _policy(table, "readable", f"FOR SELECT TO {', '.join(map(role, may(table, 'read')))} USING (true)")
    for agent in AGENTS:
        states = sorted(t for t, v in VERB_BY_STATUS.items() if allowed(agent, "decision_events", v))
        if states:
            own = ", ".join(f"'{s}'" for s in states)
            rule = f"FOR INSERT TO {role(agent)} WITH CHECK (agent = '{agent}' AND to_status IN ({own}))"
            lines += _policy("decision_events", f"own_{agent}", rule)
        for table in SIGNED[1:]:
            if allowed(agent, table, "write"):
                rule = f"FOR INSERT TO {role(agent)} WITH CHECK (agent = '{agent}')"
                lines += _policy(table, f"own_{agent}", rule)
    return lines


def _policy(table: str, name: str, rule: str) -> list[str]:
    return [f"DROP POLICY IF EXISTS {name} ON {table};", f"CREATE POLICY {name} ON {table} {rule};"]


# -- object stores ------------------------------------------------------------------------------------------


def object_store_policy(prefix: str, evidence: str | None = None) -> dict[str, dict[str, Any]]:
    """What each agent may reach under a lake's URL: agent → ``read`` and ``write`` prefixes and an S3 ``policy``.

    ``prefix`` is the lake's URL (``s3://bucket/path``), ``evidence`` that of the evidence bundles; elsewhere than
    on S3 there are prefixes and no ``policy``. Objects are put and read, never deleted; turn the bucket's
    versioning on, since S3 has no permission that tells a new object from an overwritten one.
    """
    places = {spec.name: f"{prefix.rstrip('/')}/{spec.name}/" for spec in tables("lake")}
    if evidence is not None:
        places[EVIDENCE] = f"{evidence.rstrip('/')}/"
    policies: dict[str, dict[str, Any]] = {}
    for agent in AGENTS:
        read = [p for t, p in places.items() if allowed(agent, t, "read")]
        write = [p for t, p in places.items() if allowed(agent, t, "write")]
        policies[agent] = {"read": read, "write": write}
        if prefix.startswith("s3://"):
            policies[agent]["policy"] = _s3_policy(read, write)
    return policies


def _s3_policy(read: list[str], write: list[str]) -> dict[str, Any]:
    def path(url: str) -> str:
        return url.split("://", 1)[-1]

    statements: list[dict[str, Any]] = []
    for bucket in sorted({path(p).split("/", 1)[0] for p in read}):
        inside = [path(p).split("/", 1)[1] for p in read if path(p).split("/", 1)[0] == bucket]
        statements.append(
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
                "Condition": {"StringLike": {"s3:prefix": [f"{p}*" for p in inside]}},
            }
        )
    if read:
        everything = [f"arn:aws:s3:::{path(p)}*" for p in read]
        statements.append({"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": everything})
    if write:
        own = [f"arn:aws:s3:::{path(p)}*" for p in write]
        actions = ["s3:PutObject", "s3:AbortMultipartUpload"]
        statements.append({"Effect": "Allow", "Action": actions, "Resource": own})
    statements.append({"Effect": "Deny", "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"], "Resource": ["*"]})
    return {"Version": "2012-10-17", "Statement": statements}


# -- people -------------------------------------------------------------------------------------------------

DOCS_FILE = Path(__file__).parents[2] / "docs" / "permissions.md"

_DOCS_HEAD = """\
<!-- Derived from sust_dagster/world/permissions.py by `python -m sust_dagster.world.permissions`. -->

# Who may do what

Each step of the loop receives a handle that can do what its agent's column says and nothing else: anything
else raises and is recorded in `access_log`. Everything is append-only; nobody may change or remove a row.
On `decision_events` an agent can make its own transitions only: the planner never verifies, the executor
never approves. `decision_log` and `outcome_log` are views of `decision_events` and `outcomes`.

The same table makes the PostgreSQL roles, grants and row-level security (`postgres_grants()`) and the
object-store policies (`object_store_policy()`). What is not in it is refused.
"""


def markdown_table() -> str:
    """The matrix as a Markdown table, one row per table, one column per agent."""

    def cell(table: str, agent: str) -> str:
        verbs = MATRIX[table][agent]
        strong = [f"**{v}**" for v in VERBS if v in verbs and v != "read"]
        return " + ".join((["read"] if "read" in verbs else []) + strong) or "–"

    lines = [f"| table | home | {' | '.join(AGENTS)} |", f"|---|---|{'---|' * len(AGENTS)}"]
    for table in MATRIX:
        home = TABLES[table].home if table in TABLES else "files"
        lines.append(f"| {table} | {home} | {' | '.join(cell(table, a) for a in AGENTS)} |")
    return "\n".join(lines) + "\n"


def transitions_table() -> str:
    """The state machine of decisions as a Markdown table."""
    lines = ["| from | to | by | verb |", "|---|---|---|---|"]
    lines += [f"| {f or '–'} | {t} | {a} | {VERB_BY_STATUS[t]} |" for f, t, a in TRANSITIONS]
    return "\n".join(lines) + "\n"


def docs_page() -> str:
    """``docs/permissions.md``."""
    machine = (
        "An approval and an execution name the hash of the plan they are about; another plan is refused. What a\n"
        "person rejected stays rejected for that plan. A high-risk plan is approved over the signatures of two\n"
        "people in `approvals`, neither of them its author, or not at all: see [governance.md](governance.md).\n"
    )
    return f"{_DOCS_HEAD}\n{markdown_table()}\n## Transitions of a decision\n\n{transitions_table()}\n{machine}"


def agents_of(table: str) -> tuple[Agent, ...]:
    """The agents that may append to a table, in the order of the loop."""
    return tuple(a for a in AGENTS if MATRIX[resolve(table)][a] - {"read"})


if __name__ == "__main__":
    DOCS_FILE.write_text(docs_page())
