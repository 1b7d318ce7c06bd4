"""The first policy of a project: its own ``policy.toml``, else the one that ships.

Belongs here: choosing it and putting it in force once. From then on only signed versions change it: neither the file
nor the settings are read again.
"""

from __future__ import annotations

from datetime import datetime

from sust_dagster.agents.governance import Policy, PolicyError, default_policy, read_policy_file
from sust_dagster.agents.governance.policy import Residency, Roles
from sust_dagster.orchestration.policy_desk import PolicyDesk
from sust_dagster.settings import Project
from sust_dagster.world.access import World

#: A project's own first policy, in its folder.
POLICY_FILE = "policy.toml"


def seed_policy(world: World, project: Project, now: datetime) -> bool:
    """Put the first policy in force, unless there is one; whether this call did.

    The project has it from its first hour on. Raises ``PolicyError`` when ``policy.toml`` cannot be used.
    """
    handle = world.handle("governance")
    if handle.read_books("policies", columns=["version"]).num_rows:
        return False
    at = project.start if project.source == "simulated" else now
    return PolicyDesk(handle).seed(first_policy(project), at, valid_from=project.start)


def first_policy(project: Project) -> Policy:
    """The project's own policy file, else the shipped policy at the project's carbon price.

    A simulated project also has the fake organisation's people in it: the first developer of a team leads it, two of
    the platform team sign for the platform, and its regulated workloads stay in their regions.
    """
    path = project.root / POLICY_FILE
    if path.exists():
        from sust_dagster.connectors.sources import regions_of

        try:
            return read_policy_file(path.read_text(encoding="utf-8"), regions_of(project))
        except PolicyError as error:
            raise PolicyError([f"{path}: {p}" for p in error.problems]) from error
    policy = default_policy()
    planning = policy.planning.model_copy(update={"carbon_price_usd_per_t": project.carbon_price_usd_per_t})
    policy = policy.model_copy(update={"planning": planning})
    return _simulated(policy, project.seed) if project.source == "simulated" else policy


def _simulated(policy: Policy, seed: int) -> Policy:
    from sust_dagster.simulator.organisation import DEVELOPERS, TEAM_IDS, developer_range
    from sust_dagster.simulator.workloads import catalogue

    leads: dict[str, tuple[str, ...]] = {team: (DEVELOPERS[developer_range(team)[0]],) for team in TEAM_IDS}
    first = developer_range("platform")[0]
    platform = DEVELOPERS[first + 1 : first + 3]
    signers = {*platform, *(a for names in leads.values() for a in names)}
    members = tuple(d for d in DEVELOPERS if d not in signers)
    residency = tuple(
        Residency(applies_to="workload", name=w.workload_id, regions=w.allowed_regions, reason="regulated data")
        for w in catalogue(seed)
        if w.allowed_regions is not None
    )
    return policy.model_copy(
        update={
            "places": policy.places.model_copy(update={"residency": residency}),
            "roles": Roles(platform=platform, members=members, team_leads=leads),
        }
    )
