"""DECIDE: may this happen? Typed positive rules: what is not known, and proven, to be allowed is not done."""

from __future__ import annotations

from sust_dagster.agents.governance.contradictions import check_policy, contradictions
from sust_dagster.agents.governance.decide import Check, Decision, decide
from sust_dagster.agents.governance.execution import may_execute
from sust_dagster.agents.governance.inputs import governed
from sust_dagster.agents.governance.policy import Policy, PolicyError, default_policy, read_policy
from sust_dagster.agents.governance.policy_file import Change, differences, read_policy_file, write_policy_file
from sust_dagster.agents.governance.risk import REASONS, Risk, assess, risk_of
from sust_dagster.agents.governance.versions import PolicyVersion, VersionState, policy_of, version_states

__all__ = [
    "REASONS",
    "Change",
    "Check",
    "Decision",
    "Policy",
    "PolicyError",
    "PolicyVersion",
    "Risk",
    "VersionState",
    "assess",
    "check_policy",
    "contradictions",
    "decide",
    "default_policy",
    "differences",
    "governed",
    "may_execute",
    "policy_of",
    "read_policy",
    "read_policy_file",
    "risk_of",
    "version_states",
    "write_policy_file",
]
