"""How the fake organisation's people answer what waits for them: who signs which proposal.

Belongs here: the choice of accounts for the roles a proposal waits for. Everybody signs what reaches them: a simulated
cloud is to show what the product does, not how people feel about it. Does not belong here: what needs a signature and
whether it counts, which is governance's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def signers(
    waits_for: Sequence[str], team_id: str, leads: Mapping[str, Sequence[str]], platform: Sequence[str]
) -> list[tuple[str, str]]:
    """(account, role) for each role that is waited for, no account twice; fewer where there is nobody left.

    ``waits_for``: ``team-lead`` and ``platform``, each once per signature wanted.
    """
    found: list[tuple[str, str]] = []
    for role in waits_for:
        accounts = leads.get(team_id, ()) if role == "team-lead" else platform
        taken = {account for account, _ in found}
        free = next((a for a in accounts if a not in taken), None)
        if free is not None:
            found.append((free, role))
    return found
