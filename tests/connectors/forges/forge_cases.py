"""The sample repository and the orders that the tests of the forges share."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sust_dagster.connectors.targets import Order
from sust_dagster.world.canonical import content_hash
from sust_dagster.world.ids import uuid5

CRONJOB = """\
# Nightly training; ask #ml before touching it.
apiVersion: batch/v1
kind: CronJob
metadata:
  name: nightly-train
spec:
  schedule: "0 2 * * *"      # 02:00 UTC, before the reports
  concurrencyPolicy: Forbid  # never two at once
  jobTemplate:
    spec:
      template:
        spec:
          containers:
          - name: train
            image: registry.example/train:1.4   # pinned
            resources:
              requests: {cpu: 4, memory: 8Gi}
              limits:
                cpu: "8"    # twice the request
                memory: 8Gi
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: nightly-train
data:
  schedule: "0 2 * * *"
"""

WORKFLOW = """\
name: reports
on:
  push: {branches: [main]}
  schedule:
    # two of them
    - cron: '30 4 * * 1-5'   # sust: bi/reports
    - cron: '0 5 * * 0'      # sust: bi/weekly
jobs:
  run:
    runs-on: ubuntu-latest
    steps:
    - run: echo ${{ github.ref }}   # keep
"""

MAIN_TF = """\
# The batch fleet.
variable "enabled_regions" {
  type    = list(string)
  default = ["us-east-1"] # home: us-east-1
}

variable "size" { default = "m5.2xlarge" }

module "batch" {
  source   = "./batch"
  for_each = toset(var.enabled_regions)
  region   = each.key
}

resource "aws_instance" "worker" {
  ami           = "ami-1" # hardened
  instance_type = "m5.4xlarge"   # was m4.4xlarge until 2024

  tags = { team = "ml" }
}

resource "aws_instance" "other" {
  ami           = "ami-1"
  instance_type = var.size
}
"""

PROVIDER_TF = """\
provider "aws" {
  region = "us-east-1"
}
"""

ARGO = """\
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: api}
spec:
  destination:
    name: cluster-us   # us-east-1
    namespace: api
"""

MAPPING = """\
version: 1
workloads:
  ml/nightly-train:
    schedule:
      - {kind: cronjob, file: k8s/train.yaml, document: {kind: CronJob}}
    size:
      - {kind: cronjob, file: k8s/train.yaml, document: {kind: CronJob}, container: train}
    region:
      - {kind: cronjob, file: k8s/train.yaml, document: {kind: CronJob}}
  bi/reports:
    schedule:
      - {kind: actions, file: .github/workflows/reports.yaml}
  ml/worker:
    size:
      - kind: terraform
        file: infra/main.tf
        address: aws_instance.worker.instance_type
        vcpus: {m5.4xlarge: 16, m5.2xlarge: 8, m5.xlarge: 4}
    region:
      - {kind: terraform, file: infra/provider.tf, address: provider.aws.region}
  ml/other:
    size:
      - {kind: terraform, file: infra/main.tf, address: aws_instance.other.instance_type,
         vcpus: {m5.2xlarge: 8, m5.xlarge: 4}}
  ml/batch:
    region:
      - {kind: terraform, file: infra/main.tf, address: var.enabled_regions}
  web/api:
    region:
      - {kind: argo, file: argo/api.yaml, path: spec.destination.name,
         values: {us-east-1: cluster-us, eu-north-1: cluster-eu}}
"""

FILES = {
    "k8s/train.yaml": CRONJOB,
    ".github/workflows/reports.yaml": WORKFLOW,
    "infra/main.tf": MAIN_TF,
    "infra/provider.tf": PROVIDER_TF,
    "argo/api.yaml": ARGO,
    ".sust/workloads.yaml": MAPPING,
    "README.md": "A platform.\n",
}

DAY = datetime(2026, 11, 23, tzinfo=UTC)  # a Monday
FACTS = {
    "est_carbon_delta_kg": -41.25,
    "est_carbon_delta_kg_lower": -52.0,
    "est_carbon_delta_kg_upper": -29.5,
    "est_cost_delta_usd": 0.031,
    "kg_before": 108.0,
    "confidence": 0.93,
    "risk_level": "low",
    "rationale_text": "Start 1 of 1 hourly groups of ml/nightly-train 9.0 h later on average, in us-east-1.",
}


def order(
    workload: str = "ml/nightly-train", action: str = "time_shift", *, starts: tuple[str, ...] = ("02:00",),
    delay: float | tuple[float, ...] = 9, region: str = "us-east-1", scale: str = "1", day: datetime = DAY,
    facts: dict[str, Any] | None = None,
) -> Order:  # fmt: skip
    """An approved change of a workload at home in us-east-1."""
    delays = delay if isinstance(delay, tuple) else (delay,) * len(starts)
    proposed = {
        "action_type": action,
        "vcpus_scale": scale,
        "spot": action == "spot_convert",
        "placements": [
            {
                "job_id": f"{workload}@{start}",
                "requested_start": f"{day.date().isoformat()}T{start}:00Z",
                "region": region,
                "delay_hours": later,
            }
            for start, later in zip(starts, delays, strict=True)
        ],
    }
    plan = content_hash({"workload": workload, "proposed": proposed, "day": day.isoformat()})
    return Order(
        intent_id=str(uuid5("intent", plan)), recommendation_id=str(uuid5("recommendation", plan)), plan_hash=plan,
        workload_id=workload, team_id=workload.split("/")[0], service_tier="batch", action_type=action,
        planned_for=day, current={"regions": ["us-east-1"], "start": "as requested"}, proposed=proposed,
        facts=FACTS if facts is None else facts,
    )  # fmt: skip


def resized(workload: str, scale: str = "0.5") -> Order:
    return order(workload, "right_size", delay=0, scale=scale)


def moved(workload: str, region: str = "eu-north-1") -> Order:
    return order(workload, "region_shift", delay=0, region=region)


def again(one: Order, **fields: Any) -> Order:
    return replace(one, **fields)
