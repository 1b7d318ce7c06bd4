"""From an order to edits: what is done exactly, and what is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from forge_cases import CRONJOB, FILES, MAIN_TF, MAPPING, moved, order, resized

from sust_dagster.connectors.forges.changes import Changes, Files, plan_changes
from sust_dagster.connectors.forges.workloads_file import read_workloads
from sust_dagster.connectors.targets import Order, TargetRefused


def planned(one: Order, **changed: str) -> Changes:
    return plan_changes(one, files({**FILES, **changed}))


def files(content: Mapping[str, str]) -> Files:
    return Files(lambda path: content[path].encode() if path in content else None, lambda folder: list(content))


def mapped(text: str, workload: str = "ml/nightly-train") -> dict[str, str]:
    return {".sust/workloads.yaml": f"version: 1\nworkloads:\n  {workload}:\n{text}"}


SCHEDULE = "    schedule:\n      - {kind: cronjob, file: k8s/train.yaml, document: {kind: CronJob}%s}\n"


@pytest.mark.parametrize(
    ("one", "reason", "named"),
    [
        (order(starts=("02:00", "02:00"), delay=(9, 5)), "groups_disagree", "2 groups move differently"),
        (order(starts=("02:00", "14:00")), "differs_from_plan", "k8s/train.yaml, line 7"),
        (order(starts=("03:00",)), "differs_from_plan", "starts at 02:00 in UTC"),
        (order(region="eu-north-1"), "groups_disagree", "eu-north-1"),
        (moved("ml/nightly-train"), "one_region_per_cluster", "k8s/train.yaml"),
        (moved("ml/worker"), "orphans_resource", "leaves the old one running"),
        (moved("ml/worker"), "orphans_resource", "infra/provider.tf"),
        (moved("ml/other"), "no_location", "ml/other has no region"),
        (moved("web/api", "ap-south-1"), "unknown_region", "us-east-1, eu-north-1"),
        (moved("ml/batch", "us-east-1"), "nothing_to_change", "ml/batch"),
        (resized("ml/worker", "0.3"), "no_such_size", "infra/main.tf, line 17"),
        (resized("bi/reports"), "no_location", "bi/reports has no size"),
        (order("bi/reports", "spot_convert"), "no_location", "capacity"),
        (order("bi/weekly"), "unknown_workload", ".sust/workloads.yaml"),
        (order(action="do_nothing"), "unsupported_change", "do_nothing"),
    ],
)
def test_what_cannot_be_done_exactly_is_refused(one: Order, reason: str, named: str) -> None:
    with pytest.raises(TargetRefused) as caught:
        planned(one)
    assert caught.value.reason == reason
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("zone", "reason"), [("Europe/Berlin", None), ("UTC", "differs_from_plan"), ("Mars/Olympus", "unresolvable_value")]
)
def test_starts_are_compared_in_the_time_zone_of_the_file(zone: str, reason: str | None) -> None:
    """02:00 in Berlin is 01:00 UTC in November."""
    content = {"k8s/train.yaml": CRONJOB.replace("  concurrencyPolicy", f"  timeZone: {zone}\n  concurrencyPolicy")}
    one = order(starts=("01:00",), delay=3)
    if reason is None:
        (edit,) = planned(one, **content).edits
        assert edit.new == "0 5 * * *"
        return
    with pytest.raises(TargetRefused) as caught:
        planned(one, **content)
    assert caught.value.reason == reason


def test_the_mapping_may_name_the_time_zone() -> None:
    text = SCHEDULE % ", time_zone: Asia/Kolkata"
    (edit,) = planned(order(starts=("20:00",), delay=1), **mapped(text)).edits
    assert edit.new == "0 3 * * *", "02:00 in Kolkata is 20:30 UTC, in the group of 20:00"


WORKFLOW_OF_ONE = "on:\n  schedule:\n  - cron: '30 4 * * *'\njobs: {}\n"


@pytest.mark.parametrize(
    ("workflow", "reason"),
    [
        (WORKFLOW_OF_ONE, None),
        (WORKFLOW_OF_ONE.replace("*'", "*' # sust: bi/other"), "ambiguous_schedule"),
        (WORKFLOW_OF_ONE.replace("jobs", "  - cron: '0 5 * * *'\njobs"), "ambiguous_schedule"),
        (WORKFLOW_OF_ONE.replace("  - cron", "  # sust: bi/reports\n  - cron"), None),
        (WORKFLOW_OF_ONE.replace("*'", "*'\n    timezone: Asia/Tokyo"), "differs_from_plan"),
        ("on: push\njobs: {}\n", "missing_value"),
    ],
)
def test_the_cron_line_of_a_workflow_is_the_marked_or_the_only_one(workflow: str, reason: str | None) -> None:
    one, content = order("bi/reports", starts=("04:00",), delay=2), {".github/workflows/reports.yaml": workflow}
    if reason is None:
        (edit,) = planned(one, **content).edits
        assert (edit.old, edit.new) == ("30 4 * * *", "30 6 * * *")
        return
    with pytest.raises(TargetRefused) as caught:
        planned(one, **content)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        (MAIN_TF, True),
        (MAIN_TF + 'output "regions" { value = var.enabled_regions }\n', True),
        (MAIN_TF + 'provider "aws" {\n  region = var.enabled_regions[0]\n}\n', False),
        (MAIN_TF + 'resource "aws_instance" "x" {\n  availability_zone = "${var.enabled_regions[0]}a"\n}\n', False),
        (MAIN_TF.replace("for_each = toset(var.enabled_regions)", "regions = var.enabled_regions"), False),
    ],
)
def test_a_region_moves_in_terraform_only_where_the_old_one_is_destroyed_too(text: str, fine: bool) -> None:
    content = {"infra/main.tf": text}
    if fine:
        (edit,) = planned(moved("ml/batch"), **content).edits
        assert (edit.old, edit.new) == ("us-east-1", "eu-north-1")
        return
    with pytest.raises(TargetRefused) as caught:
        planned(moved("ml/batch"), **content)
    assert caught.value.reason == "orphans_resource"
    assert "infra/main.tf, line" in str(caught.value)


def test_values_in_a_file_of_variables_win_over_defaults() -> None:
    content = {"infra/live.auto.tfvars": 'enabled_regions = ["us-east-1", "us-west-2"]\n'}
    (edit,) = planned(moved("ml/batch"), **content).edits
    assert edit.file == "infra/live.auto.tfvars"
    assert edit.after == 'enabled_regions = ["eu-north-1", "us-west-2"]\n'


@pytest.mark.parametrize(
    ("now", "scale", "new"),
    [
        ("4", "0.5", "2"),
        ("'500m'", "0.5", "'250m'"),
        ("1", "0.25", "250m"),
        ('"1.5"', "0.5", '"750m"'),
        ("3", "0.333333333333", "1"),
    ],
)  # fmt: skip
def test_cpu_quantities(now: str, scale: str, new: str) -> None:
    content = {"k8s/train.yaml": CRONJOB.replace("cpu: 4", f"cpu: {now}")}
    edit = planned(resized("ml/nightly-train", scale), **content).edits[0]
    assert f"requests: {{cpu: {new}, memory: 8Gi}}" in edit.after


def test_capacity_is_written_as_the_mapping_says() -> None:
    text = """\
    capacity:
      - {kind: manifest, file: k8s/train.yaml, document: {kind: CronJob}, spot: spot,
         path: 'spec.jobTemplate.spec.template.spec.containers[name=train].capacity'}
"""
    (edit,) = planned(order(action="spot_convert", delay=0), **mapped(text)).edits
    assert edit.after.replace("            capacity: spot\n", "") == CRONJOB


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("    schedule: [{kind: cron, file: a.yaml}]\n", "schedule.0.kind"),
        ("    schedule: [{kind: actions, file: ../a.yaml}]\n", "schedule.0.file"),
        ("    schedule: [{kind: actions, file: /etc/a.yaml}]\n", "schedule.0.file"),
        ("    schedule: [{kind: actions, file: .git/config}]\n", "schedule.0.file"),
        ("    schedule: [{kind: actions, file: a.yaml, colour: red}]\n", "schedule.0.colour"),
        ("    size: [{kind: terraform, file: a.tf}]\n", "size.0"),
        ("    region: [{kind: argo, file: a.yaml}]\n", "region.0"),
        ("    schedule: {\n", "line"),
    ],
)
def test_a_mapping_that_cannot_be_read_is_refused_with_its_place(text: str, where: str) -> None:
    with pytest.raises(TargetRefused) as caught:
        planned(order(), **mapped(text))
    assert caught.value.reason == "bad_mapping" and where in str(caught.value)


def test_the_example_in_the_documentation_is_a_mapping() -> None:
    page = (Path(__file__).parents[3] / "docs" / "targets-forge.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    assert set(read_workloads(example)) == {"ml/nightly-train", "bi/reports", "ml/worker", "ml/batch", "web/api"}


def test_missing_files_and_mappings_are_named() -> None:
    with pytest.raises(TargetRefused, match="no_mapping"):
        plan_changes(order(), files({}))
    with pytest.raises(TargetRefused, match=r"missing_file: k8s/train\.yaml"):
        plan_changes(order(), files({".sust/workloads.yaml": MAPPING}))
