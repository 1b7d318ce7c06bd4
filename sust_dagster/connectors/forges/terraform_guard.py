"""What a Terraform plan would do, judged before anybody is asked to merge it.

Belongs here: reading the JSON of ``terraform show``, the verdict with its reasons, running a plan in a folder. Does
not belong here: editing configuration (``hcl_edits``); applying anything, which is never done here.

The trap this exists for: when a provider's region changes, Terraform looks for the old resource in the new region,
does not find it, notes it as deleted outside, and plans one plain creation. Applied, both run and the old one is out
of sight. In the plan that shows as a drift 'delete' of an address that is created, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable

#: Resources that hold what cannot be made again.
STATEFUL = re.compile(
    r"aws_(db_instance|rds_\w+|docdb_\w+|neptune_\w+|dynamodb_table|dynamodb_global_table|ebs_volume|ebs_snapshot"
    r"|efs_file_system|fsx_\w+|s3_bucket|s3_object|elasticache_\w+|memorydb_\w+|redshift_\w+|opensearch_domain"
    r"|elasticsearch_domain|kinesis_stream|msk_cluster|mq_broker|sqs_queue|kms_key|secretsmanager_secret|backup_vault"
    r"|timestreamwrite_\w+|keyspaces_table|glacier_vault|ecr_repository|cloudwatch_log_group)"
    r"|google_(sql_\w+|storage_bucket|storage_bucket_object|compute_disk|bigtable_\w+|bigquery_dataset|bigquery_table"
    r"|spanner_\w+|firestore_\w+|redis_\w+|filestore_instance|pubsub_topic|kms_\w+|secret_manager_\w+|alloydb_\w+)"
    r"|azurerm_(storage_\w+|managed_disk|mssql_\w+|mysql_\w+|postgresql_\w+|mariadb_\w+|cosmosdb_\w+|redis_cache"
    r"|key_vault\w*|netapp_\w+|kusto_\w+|eventhub\w*|servicebus_\w+|synapse_\w+|snapshot)"
    r"|oci_(database_\w+|core_volume|core_boot_volume|objectstorage_\w+|file_storage_\w+|mysql_\w+|nosql_\w+)"
)


@dataclass(frozen=True)
class Objection:
    """Why a plan is refused: a named reason, the resource and a sentence."""

    reason: str
    address: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What a plan does, and what speaks against it."""

    add: int
    change: int
    destroy: int
    replaced: tuple[str, ...]
    objections: tuple[Objection, ...]

    @property
    def ok(self) -> bool:
        return not self.objections

    def sentence(self) -> str:
        """One line for people."""
        text = f"terraform: {self.add} add · {self.change} change · {self.destroy} destroy"
        if self.replaced:
            return f"{text} — replaces {', '.join(self.replaced)}"
        return f"{text} — no replacement, no orphan" if self.ok else text


def judge(plan: Mapping[str, Any]) -> Verdict:
    """The verdict on the JSON of ``terraform show -json``. Refuses (``unreadable_plan``) what is not a whole plan."""
    changes, drifts = plan.get("resource_changes", []), plan.get("resource_drift", [])
    if not str(plan.get("format_version", "")).startswith("1.") or not isinstance(changes, list):
        raise TargetRefused(
            "unreadable_plan", "not the JSON of a Terraform plan; run terraform show -json on a plan file"
        )
    if plan.get("errored") or plan.get("complete") is False or plan.get("deferred_changes"):
        raise TargetRefused("unreadable_plan", "the plan is not complete: it failed, or part of it is put off")
    try:
        done = [(str(c["address"]), str(c.get("type", "")), tuple(c["change"]["actions"])) for c in changes]
        gone = {str(d["address"]) for d in drifts if "delete" in d["change"]["actions"]}
    except (KeyError, TypeError) as error:
        raise TargetRefused("unreadable_plan", f"a resource without {error}") from None
    objections: list[Objection] = []
    for address, kind, actions in done:
        if "create" in actions and address in gone:
            text = "is looked for elsewhere and made anew: the present one would keep running, out of Terraform's sight"
            objections.append(Objection("orphans_resource", address, text))
        if "forget" in actions:
            objections.append(Objection("orphans_resource", address, "would be forgotten, and keep running"))
        if "delete" in actions and STATEFUL.fullmatch(kind):
            verb = "replaced" if "create" in actions else "destroyed"
            objections.append(Objection("destroys_state", address, f"holds data and would be {verb}"))
    return Verdict(
        add=sum("create" in a for _, _, a in done),
        change=sum(a == ("update",) for _, _, a in done),
        destroy=sum("delete" in a for _, _, a in done),
        replaced=tuple(address for address, _, a in done if "create" in a and "delete" in a),
        objections=tuple(objections),
    )


def check(plan: Mapping[str, Any]) -> Verdict:
    """The verdict; refused with the first objection's reason, naming all resources."""
    verdict = judge(plan)
    if not verdict.ok:
        text = "; ".join(f"{o.address} {o.text}" for o in verdict.objections)
        raise TargetRefused(verdict.objections[0].reason, text)
    return verdict


@dataclass(frozen=True)
class TerraformPlanner:
    """Runs ``terraform plan`` in a folder and gives its JSON. Changes nothing: it neither applies nor locks."""

    binary: str = "terraform"
    environment: Mapping[str, str] | None = None
    """Of the program, credentials included; by default this process's."""
    timeout_seconds: float = 300

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sust-plan-") as temp:
            plan = str(Path(temp) / "plan.bin")
            self._run(folder, "init", "-input=false", "-no-color")
            self._run(folder, "plan", "-input=false", "-no-color", "-lock=false", "-refresh=true", f"-out={plan}")
            shown = self._run(folder, "show", "-json", plan)
        # Terraform may print a warning about its own settings before the document.
        start = shown.find('{"format_version"')
        try:
            return json.loads(shown[max(start, 0) :])
        except ValueError:
            raise TargetRefused("unreadable_plan", f"{self.binary} show gave no JSON") from None

    def _run(self, folder: Path, *arguments: str) -> str:
        environment = {**(self.environment or os.environ), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
        try:
            done = subprocess.run(
                [self.binary, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                timeout=self.timeout_seconds, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError:
            raise TargetRefused(
                "no_terraform", f"{self.binary} is not installed; install it or plan elsewhere"
            ) from None
        except subprocess.TimeoutExpired:
            raise TargetUnavailable(f"terraform {arguments[0]} took more than {self.timeout_seconds:g} s") from None
        if done.returncode:
            # Its output may show values of variables: the first line of the error says enough.
            said = next((line for line in done.stderr.splitlines() if "Error:" in line), "no message").strip("│ ")
            raise TargetRefused("plan_failed", f"terraform {arguments[0]}: {said}")
        return done.stdout
