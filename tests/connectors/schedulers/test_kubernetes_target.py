"""Kubernetes CronJobs: the contract of a target, and what server-side apply adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes_double import Cluster
from target_contract import Case, Contract, an_order

from sust_dagster.connectors.http import Secret
from sust_dagster.connectors.schedulers.kubernetes import KubernetesTarget
from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable

SCHEDULE = ("f:spec", "f:schedule")


def spec(
    schedule: str = "0 2 * * *", zone: str | None = "Etc/UTC", cpu: str | None = "2", **pod: Any
) -> dict[str, Any]:
    resources = {"requests": {"cpu": cpu, "memory": "4Gi"}, "limits": {"cpu": "3500m"}} if cpu else {}
    containers = [{"name": "main", "image": "train:1", "resources": resources}, {"name": "log", "image": "log:1"}]
    made = {"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": {"containers": containers, **pod}}}}}
    return made | ({"timeZone": zone} if zone else {})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, KubernetesTarget]]:
    double = Cluster()
    monkeypatch.setenv("SUST_KUBERNETES_TOKEN", double.token)
    double.add("train", spec(), labels={"sust.ai/workload": "nightly-train"})
    for other in ("a", "b", "z"):
        double.add(other, spec(), labels={"sust.ai/workload": other})
    with double.serve() as url:
        yield double, KubernetesTarget(url, "batch", "eu-west-1", zones=("eu-west-1a", "eu-west-1b"),
                                       spot_label=("karpenter.sh/capacity-type", "spot"))  # fmt: skip


@pytest.fixture
def case(cluster: tuple[Cluster, KubernetesTarget]) -> Case:
    double, target = cluster
    return Case(target, double, (double.token,), lambda: double.edit("train", SCHEDULE, "7 7 * * *"))


class TestContract(Contract):
    pass


def live(double: Cluster, name: str = "train") -> dict[str, Any]:
    return double.snapshot()[name]


def pod(double: Cluster) -> dict[str, Any]:
    return live(double)["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def refusal(target: KubernetesTarget, *args: Any, **kwargs: Any) -> TargetRefused:
    with pytest.raises(TargetRefused) as refused:
        target.preview(an_order(*args, **kwargs))
    return refused.value


def test_the_preview_is_a_diff_of_the_touched_fields(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    preview = target.preview(an_order(vcpus_scale="0.5", action_type="right_size"))
    assert preview.text.splitlines()[3:] == [
        "-spec.schedule: 0 2 * * *", "+spec.schedule: 0 5 * * *",
        "@@ -3,2 +3,2 @@",
        "-spec.jobTemplate.spec.template.spec.containers[main].resources.requests.cpu: 2",
        "-spec.jobTemplate.spec.template.spec.containers[main].resources.limits.cpu: 3500m",
        "+spec.jobTemplate.spec.template.spec.containers[main].resources.requests.cpu: 1",
        "+spec.jobTemplate.spec.template.spec.containers[main].resources.limits.cpu: 1750m",
    ]  # fmt: skip
    patches = [c for c in double.calls if c.method == "PATCH"]
    assert [(c.query["dryRun"], c.query["force"], c.query["fieldManager"]) for c in patches] == [
        ("All", "false", "sust-ai-naible")
    ]


def test_everything_at_once_and_back(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    before = live(double)
    order = an_order(vcpus_scale="0.5", spot=True, action_type="spot_convert")
    order.proposed["placements"][0]["zone"] = "eu-west-1b"
    preview = target.preview(order)
    applied = target.apply(order, preview)
    assert target.read_back(order, preview, applied) == ()
    assert live(double)["spec"]["schedule"] == "0 5 * * *"
    assert pod(double)["nodeSelector"] == {
        "topology.kubernetes.io/zone": "eu-west-1b",
        "karpenter.sh/capacity-type": "spot",
    }
    assert pod(double)["containers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "4Gi"},
        "limits": {"cpu": "1750m"},
    }
    assert pod(double)["containers"][1] == {"name": "log", "image": "log:1"}
    target.rollback(order, preview)
    after = live(double)
    assert after["spec"] == before["spec"]
    assert "annotations" not in after["metadata"]


def test_a_field_of_another_manager_is_refused_with_its_name(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    double.add(
        "train", spec(), manager="argocd-controller", handed_over=False, labels={"sust.ai/workload": "nightly-train"}
    )
    before = double.snapshot()
    refused = refusal(target)
    assert refused.reason == "conflict"
    assert "spec.schedule of CronJob batch/train belong to argocd-controller" in str(refused)
    assert double.snapshot() == before
    assert all(c.query.get("force") == "false" for c in double.calls if c.method == "PATCH")


def test_a_second_change_keeps_what_the_first_made(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    """Leaving out a field we own would remove it."""
    double, target = cluster
    first, second = an_order(1), an_order(2, delay=0, vcpus_scale="0.5", action_type="right_size")
    one = target.preview(first)
    target.apply(first, one)
    two = target.preview(second)
    target.apply(second, two)
    assert live(double)["spec"]["schedule"] == "0 5 * * *"
    assert target.find(first, one) is not None
    with pytest.raises(TargetRefused, match="changed_since"):
        target.rollback(first, one)
    target.rollback(second, two)
    assert live(double)["spec"]["schedule"] == "0 5 * * *"
    assert pod(double)["containers"][0]["resources"]["requests"]["cpu"] == "2"
    target.rollback(first, one)
    assert live(double)["spec"]["schedule"] == "0 2 * * *"
    assert "annotations" not in live(double)["metadata"]


def test_a_change_between_preview_and_apply_is_refused(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    order = an_order()
    preview = target.preview(order)
    double.edit("train", SCHEDULE, "0 4 * * *")
    with pytest.raises(TargetRefused, match=r"changed_since.*'0 4"):
        target.apply(order, preview)
    assert live(double)["spec"]["schedule"] == "0 4 * * *"


def test_a_status_written_meanwhile_does_not_matter_but_not_for_ever(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    order = an_order()
    preview = target.preview(order)
    double.races = 2
    target.apply(order, preview)
    assert live(double)["spec"]["schedule"] == "0 5 * * *"
    double.races = 3
    with pytest.raises(TargetUnavailable, match="nothing was written"):
        target.rollback(order, preview)
    target.rollback(order, preview)
    assert live(double)["spec"]["schedule"] == "0 2 * * *"


def test_a_marker_taken_away_is_not_nothing(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    order = an_order()
    preview = target.preview(order)
    applied = target.apply(order, preview)
    double.edit("train", ("f:metadata", "f:annotations", "f:sust.ai/intent"), None)
    assert target.read_back(order, preview, applied) == ("annotation sust.ai/intent is gone",)
    with pytest.raises(TargetRefused, match="changed_since"):
        target.rollback(order, preview)


def test_deleted_or_made_anew_there_is_nothing_to_undo(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    order = an_order()
    preview = target.preview(order)
    target.apply(order, preview)
    double.add("train", spec("0 5 * * *"), labels={"sust.ai/workload": "nightly-train"})
    target.rollback(order, preview)
    assert target.find(order, preview) is None
    with pytest.raises(TargetRefused, match=r"changed_since.*made anew"):
        target.apply(order, preview)
    del double.objects["train"]
    target.rollback(order, preview)
    assert target.find(order, preview) is None
    with pytest.raises(TargetRefused, match="unknown_workload"):
        target.apply(order, preview)


def test_refusals_are_named(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    assert refusal(target, region="eu-north-1").reason == "other_cluster"
    assert refusal(target, delay=0).reason == "nothing_to_change"
    assert refusal(target, delay=0.01).reason == "not_whole_minutes"
    unlabelled = KubernetesTarget(target.base_url, "batch", "eu-west-1")
    assert refusal(unlabelled, spot=True, delay=0).reason == "no_spot_label"
    mixed = an_order()
    mixed.proposed["placements"].append(mixed.proposed["placements"][0] | {"delay_hours": 1})
    with pytest.raises(TargetRefused, match="mixed_delays"):
        target.preview(mixed)
    elsewhere = an_order()
    elsewhere.proposed["placements"][0]["zone"] = "eu-west-1f"
    with pytest.raises(TargetRefused, match="unknown_zone"):
        target.preview(elsewhere)
    double.add("train", spec(cpu=None), labels={"sust.ai/workload": "nightly-train"})
    assert refusal(target, vcpus_scale="0.5").reason == "no_cpu_request"
    double.forbidden = True
    assert refusal(target).reason == "forbidden"


@pytest.mark.parametrize(
    ("schedule", "zone", "delay", "reason"),
    [
        ("@every 6h", "Etc/UTC", 3, "interval_schedule"),
        ("TZ=UTC 0 2 * * *", None, 3, "zone_in_schedule"),
        ("0 2 1 * *", "Etc/UTC", 23, "crosses_midnight"),
        ("0 2,20 * * 1", "Etc/UTC", 5, "crosses_midnight"),
        ("0,30 2 * * *", "Etc/UTC", 0.5, "not_one_line"),
        ("0 2 * *", "Etc/UTC", 3, "unreadable_schedule"),
        ("0 0 * * *", "Europe/Berlin", 2, "clock_change"),
        ("0 0 * * *", "Mars/Olympus", 2, "unknown_time_zone"),
    ],
)
def test_what_cannot_be_shifted_exactly_is_refused(
    cluster: tuple[Cluster, KubernetesTarget], schedule: str, zone: str | None, delay: float, reason: str
) -> None:
    double, target = cluster
    double.add("train", spec(schedule, zone), labels={"sust.ai/workload": "nightly-train"})
    assert refusal(target, delay=delay).reason == reason


def test_what_the_api_finds_invalid_is_refused(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    """A zone this machine knows and the cluster does not."""
    double, target = cluster
    double.add("train", spec(zone="Pacific/Auckland"), labels={"sust.ai/workload": "nightly-train"})
    refused = refusal(target, delay=4)
    assert refused.reason == "invalid"
    assert "spec.timeZone" in str(refused)


@pytest.mark.parametrize(
    ("zone", "own", "shown", "remark"),
    [
        (None, None, None, "no spec.timeZone"),
        (None, "Etc/UTC", "Etc/UTC", ""),
        ("Europe/Berlin", "Etc/UTC", "Europe/Berlin", "changes its clock"),
    ],
)
def test_time_zones(
    cluster: tuple[Cluster, KubernetesTarget], zone: str | None, own: str | None, shown: str | None, remark: str
) -> None:
    double, target = cluster
    target = KubernetesTarget(target.base_url, "batch", "eu-west-1", time_zone=own)
    double.add("train", spec("0 4 * * *", zone), labels={"sust.ai/workload": "nightly-train"})
    order = an_order()
    preview = target.preview(order)
    target.apply(order, preview)
    assert live(double)["spec"].get("timeZone") == shown
    assert remark in preview.text
    assert ("#" in preview.text) == bool(remark)
    target.rollback(order, preview)
    assert live(double)["spec"].get("timeZone") == zone


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ({"sust.ai/window": "PT3H/PT2H"}, "outside_window"),
        ({"sust.ai/window": "[PT0H/PT2H30M]"}, "outside_window"),
        ({"sust.ai/window": "3 hours"}, "unreadable_window"),
        ({"sust.ai/opt-out": "true"}, "opted_out"),
        ({"sust.ai/window": "PT0H/PT3H"}, None),
        ({"sust.ai/window": "P0D/P1D"}, None),
        ({"sust.ai/opt-out": "false"}, None),
    ],
)
def test_what_the_owner_says(
    cluster: tuple[Cluster, KubernetesTarget], notes: dict[str, str], reason: str | None
) -> None:
    double, target = cluster
    double.add("train", spec(), labels={"sust.ai/workload": "nightly-train"}, annotations=notes)
    if reason is None:
        assert target.preview(an_order())
    else:
        assert refusal(target).reason == reason


def test_the_window_counts_earlier_moves(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    notes = {"sust.ai/window": "PT0H/PT4H"}
    double.add("train", spec(), labels={"sust.ai/workload": "nightly-train"}, annotations=notes)
    first = an_order()
    target.apply(first, target.preview(first))
    assert refusal(target, 2, delay=2).reason == "outside_window"
    assert target.preview(an_order(2, delay=1))
    assert live(double)["metadata"]["annotations"]["sust.ai/window"] == "PT0H/PT4H"


def test_which_cronjob_a_workload_is(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    del double.objects["train"]
    assert refusal(target).reason == "unknown_workload"
    double.add("noted", spec(), annotations={"sust.ai/workload": "nightly-train"})
    assert target.preview(an_order()).before["name"] == "noted"
    double.add("noted-too", spec(), annotations={"sust.ai/workload": "nightly-train"})
    assert refusal(target).reason == "ambiguous_workload"
    chosen = KubernetesTarget(target.base_url, "batch", "eu-west-1", cronjobs={"nightly-train": "z"})
    assert chosen.preview(an_order()).before["name"] == "z"


def test_an_affinity_that_forbids_the_zone_is_a_conflict(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    double, target = cluster
    only = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["eu-west-1a"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [only]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    double.add("train", spec(affinity=affinity), labels={"sust.ai/workload": "nightly-train"})
    for zone, reason in (("eu-west-1b", "conflict"), ("eu-west-1a", None)):
        order = an_order(delay=0, action_type="region_shift")
        order.proposed["placements"][0]["zone"] = zone
        if reason is None:
            assert target.preview(order)
        else:
            with pytest.raises(TargetRefused, match=reason):
                target.preview(order)


def test_the_token_may_be_a_file_and_must_be_there(
    cluster: tuple[Cluster, KubernetesTarget], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, target = cluster
    monkeypatch.delenv("SUST_KUBERNETES_TOKEN")
    assert refusal(target).reason == "no_credentials"
    (tmp_path / "token").write_text(double.token + "\n")
    token = Secret("SUST_KUBERNETES_TOKEN", str(tmp_path / "token"))
    assert KubernetesTarget(target.base_url, "batch", "eu-west-1", token=token).preview(an_order())


def test_an_address_without_encryption_is_not_taken() -> None:
    with pytest.raises(ValueError, match="https"):
        KubernetesTarget("http://api.example.org", "batch", "eu-west-1").preview(an_order())


def test_another_change_between_preview_and_apply_is_refused(cluster: tuple[Cluster, KubernetesTarget]) -> None:
    """Its fields are others, but what rollback would restore is no longer what the preview showed."""
    _, target = cluster
    first, second = an_order(1), an_order(2, delay=0, vcpus_scale="0.5", action_type="right_size")
    one, two = target.preview(first), target.preview(second)
    target.apply(second, two)
    with pytest.raises(TargetRefused, match=r"changed_since.*sust.ai/intent is"):
        target.apply(first, one)
