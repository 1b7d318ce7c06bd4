"""The verdict on Terraform plans: on hand-made ones, and on those a real terraform makes against a fake cloud."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sust_dagster.connectors.forges.terraform_guard import TerraformPlanner, Verdict, check, judge
from sust_dagster.connectors.targets import TargetRefused

MIRROR = Path("/opt/tf-plugins")


def plan(*changes: tuple[str, str, list[str]], gone: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "format_version": "1.2",
        "resource_changes": [{"address": a, "type": t, "change": {"actions": x}} for a, t, x in changes],
        "resource_drift": [{"address": a, "change": {"actions": ["delete"]}} for a in gone],
        **more,
    }


INSTANCE, TABLE = ("aws_instance.a", "aws_instance"), ("aws_dynamodb_table.t", "aws_dynamodb_table")


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (plan(), []),
        (plan((*INSTANCE, ["update"])), []),
        (plan((*INSTANCE, ["delete", "create"])), []),
        (plan((*INSTANCE, ["create"])), []),
        (plan((*INSTANCE, ["create"]), gone=("aws_instance.a",)), ["orphans_resource"]),
        (plan((*INSTANCE, ["create"]), gone=("aws_instance.b",)), []),
        (plan((*INSTANCE, ["no-op"]), gone=("aws_instance.a",)), []),
        (plan((*INSTANCE, ["forget"])), ["orphans_resource"]),
        (plan((*INSTANCE, ["create", "forget"])), ["orphans_resource"]),
        (plan((*TABLE, ["delete"])), ["destroys_state"]),
        (plan((*TABLE, ["create", "delete"])), ["destroys_state"]),
        (plan((*TABLE, ["update"])), []),
        (plan((*TABLE, ["create"]), gone=("aws_dynamodb_table.t",)), ["orphans_resource"]),
    ],
)
def test_verdicts(content: dict[str, Any], reasons: list[str]) -> None:
    assert [o.reason for o in judge(content).objections] == reasons
    if reasons:
        with pytest.raises(TargetRefused) as caught:
            check(content)
        assert caught.value.reason == reasons[0] and content["resource_changes"][0]["address"] in str(caught.value)
    else:
        assert check(content).ok


def test_a_plan_is_told_in_one_sentence() -> None:
    assert judge(plan((*INSTANCE, ["update"]))).sentence() == (
        "terraform: 0 add · 1 change · 0 destroy — no replacement, no orphan"
    )
    replaced = judge(plan((*INSTANCE, ["delete", "create"])))
    assert replaced == Verdict(1, 0, 1, ("aws_instance.a",), ())
    assert "replaces aws_instance.a" in replaced.sentence()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"format_version": "2.0", "resource_changes": []},
        plan(errored=True),
        plan(complete=False),
        plan(deferred_changes=[{}]),
        {"format_version": "1.2", "resource_changes": [{"address": "a"}]},
    ],
)
def test_what_is_no_whole_plan_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(TargetRefused) as caught:
        judge(content)
    assert caught.value.reason == "unreadable_plan"


def test_a_missing_terraform_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetRefused, match="no_terraform"):
        TerraformPlanner("no-such-terraform")(tmp_path)


# A real one

CONFIGURATION = """\
terraform {
  required_providers { aws = { source = "hashicorp/aws" } }
}

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  endpoints {
    ec2 = "SERVER"
    sts = "SERVER"
    dynamodb = "SERVER"
  }
}

resource "aws_instance" "worker" {
  ami           = "ami-12c6146b"
  instance_type = "m5.4xlarge"
}

resource "aws_dynamodb_table" "kept" {
  name         = "kept"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "id"
  attribute {
    name = "id"
    type = "S"
  }
}
"""


@pytest.fixture
def terraform(tmp_path: Path) -> TerraformPlanner:
    binary = shutil.which("terraform")
    if binary is None or not MIRROR.is_dir():
        pytest.skip(f"needs terraform and the AWS provider in {MIRROR}")
    settings = tmp_path / "terraform.rc"
    settings.write_text(
        f'provider_installation {{\n  filesystem_mirror {{ path = "{MIRROR}" }}\n}}\ndisable_checkpoint = true\n'
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TF_CLI_CONFIG_FILE": str(settings)}
    return TerraformPlanner(binary, {**environment, "AWS_EC2_METADATA_DISABLED": "true"})


@pytest.mark.slow
def test_a_real_plan_that_orphans_is_refused_and_one_that_does_not_is_not(
    tmp_path: Path, terraform: TerraformPlanner, s3_server: str
) -> None:
    folder = tmp_path / "infra"
    folder.mkdir()
    file = folder / "main.tf"
    text = CONFIGURATION.replace("SERVER", s3_server)
    file.write_text(text)
    environment = {**(terraform.environment or {}), "TF_IN_AUTOMATION": "1"}
    for command in (["init"], ["apply", "-auto-approve"]):
        subprocess.run(
            [terraform.binary, *command, "-input=false", "-no-color"],
            cwd=folder, env=environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    file.write_text(text.replace("m5.4xlarge", "m5.2xlarge").replace('"kept"\n  billing', '"other"\n  billing'))
    verdict = judge(terraform(folder))
    assert (verdict.add, verdict.change, verdict.destroy) == (1, 1, 1)
    assert [(o.reason, o.address) for o in verdict.objections] == [("destroys_state", "aws_dynamodb_table.kept")]

    file.write_text(text.replace('"us-east-1"', '"eu-north-1"'))
    shown = terraform(folder)
    verdict = judge(shown)
    assert (verdict.add, verdict.change, verdict.destroy) == (2, 0, 0), "the plan alone looks harmless"
    orphans = {(o.reason, o.address) for o in verdict.objections}
    assert ("orphans_resource", "aws_instance.worker") in orphans
    with pytest.raises(TargetRefused) as caught:
        check(shown)
    assert caught.value.reason == "orphans_resource"
