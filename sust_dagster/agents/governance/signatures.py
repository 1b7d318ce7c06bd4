"""Signatures of people: which ones count, and whether they fill the roles that are asked for.

Belongs here: what both the approval of a plan and that of a policy rest on. Does not belong here: what is signed
(``decide``, ``versions``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product

from sust_dagster.agents.governance.contradictions import RELEASE
from sust_dagster.agents.governance.policy import Role
from sust_dagster.world.decisions import is_human

#: (account, role it signed in).
Signed = tuple[str, Role]


def is_person(account: str) -> bool:
    """Whether a name can be that of a person: no agent's, not the release's."""
    return bool(account.strip()) and is_human(account) and account != RELEASE


def open_roles(wanted: Collection[Role], signed: Iterable[Signed]) -> tuple[Role, ...]:
    """Roles that no signature fills when each is to be filled by another person; empty when all are filled."""
    by_role = {role: sorted({who for who, as_role in signed if as_role == role}) for role in wanted}
    missing = tuple(role for role, people in by_role.items() if not people)
    if missing:
        return missing
    if any(len(set(people)) == len(people) for people in product(*by_role.values())):
        return ()
    return tuple(by_role)[-1:]  # each role has a signature, but by the same person
