"""The commands: what is listed, who signs, exit codes, one JSON object."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from governance_world import make_precedents, open_world, propose
from typer.testing import CliRunner

from sust_dagster.cli import app
from sust_dagster.settings import Project, simulated_project

# The fake organisation's people: the leads of data and ml, and two of the platform team.
DATA_LEAD, ML_LEAD, PLATFORM, OTHER_PLATFORM = "dev-053", "dev-065", "dev-042", "dev-043"


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A simulated project with three plans for the day after its last hour."""
    made = simulated_project(tmp_path / "demo", days=2, seed=7)
    made.save()
    now = made.last_hour_end()
    with open_world(made.root / "books.db") as world:
        make_precedents(world)
        day = {"planned_for": (now + timedelta(days=1)).isoformat(), "issued_at": now.isoformat()}
        propose(world, "harmless", at=now, **day)
        propose(world, "heavy", at=now, **day, service_tier="production", est_carbon_delta_kg=-1.2)
        propose(world, "urgent", at=now, **day, workload_category="urgent")
    return made


def sust(project: Project, *arguments: object) -> Ran:
    done = CliRunner().invoke(app, ["--project", str(project.root), *map(str, arguments)], env={"COLUMNS": "240"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


def test_the_way_of_a_recommendation(project: Project) -> None:
    listed = sust(project, "proposals", "--json").json["proposals"]
    assert {p["recommendation_id"]: p["verdict"] for p in listed} == {
        "harmless": "approve", "heavy": "needs_signatures", "urgent": "deny",
    }  # fmt: skip
    heavy = next(p for p in listed if p["recommendation_id"] == "heavy")
    assert (heavy["risk_level"], heavy["risk_reasons"]) == ("high", ["production"])
    assert set(heavy["waits_for"]) == {"team-lead", "platform"} and heavy["expires_at"]
    shown = sust(project, "proposals").out
    assert "3 proposed" in shown and "team-lead and platform of data" in shown and "production" in shown

    done = sust(project, "review", "--json").json
    assert (done["approved"], set(done["rejected"]), done["policy_version"]) == (["harmless"], {"urgent"}, 1)
    assert [w["recommendation_id"] for w in done["waiting"]] == ["heavy"]
    (alert,) = sust(project, "alerts", "--json").json["alerts"]
    assert (alert["kind"], alert["subject"]) == ("approval_wanted", "heavy")

    first = sust(project, "approve", "heavy", "--as", DATA_LEAD, "--reason", "fine", "--json")
    assert first.code == 0
    assert first.json["results"] == [
        {"recommendation_id": "heavy", "state": "proposed", "role": "team-lead", "waits_for": ["platform"], "new": True}
    ]
    assert len(sust(project, "alerts", "--json").json["alerts"]) == 1
    second = sust(project, "approve", "heavy", "--as", PLATFORM)
    assert second.code == 0 and "approved, signed as platform" in second.out
    (row,) = [p for p in sust(project, "proposals", "--status", "approved", "--json").json["proposals"]
              if p["recommendation_id"] == "heavy"]  # fmt: skip
    assert set(row["approved_by"].split(", ")) == {DATA_LEAD, PLATFORM}
    assert sust(project, "alerts", "--json").json["alerts"] == [], "nobody is asked any more"
    assert len(sust(project, "alerts", "--all", "--json").json["alerts"]) == 1
    withdrawn = sust(project, "reject", "heavy", "--as", PLATFORM, "--reason", "freeze")
    assert withdrawn.code == 0 and "expired" in withdrawn.out
    assert "expired" in sust(project, "proposals", "--status", "all").out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("approve", "heavy"), 2, "Missing option '--as'"),
        (("approve", "--as", "x"), 2, "Missing argument"),
        (("reject", "heavy", "--as", PLATFORM), 2, "Missing option '--reason'"),
        (("approve", "heavy", "--as", "mallory"), 1, "'mallory' may not sign for team data"),
        (("approve", "heavy", "--as", ML_LEAD), 1, f"team-lead of data: {DATA_LEAD}"),
        (("approve", "heavy", "--as", DATA_LEAD, "--role", "platform"), 1, "as platform"),
        (("approve", "heavy", "--as", DATA_LEAD, "--role", "king"), 2, "king"),
        (("approve", "urgent", "--as", DATA_LEAD), 1, "window_is_kept"),
        (("approve", "heavy", "--as", DATA_LEAD, "--plan-hash", "0" * 64), 1, "look at it again"),
        (("approve", "no-such", "--as", DATA_LEAD), 3, "there is no recommendation no-such"),
        (("proposals", "--status", "lost"), 3, "'lost' is none of proposed"),
        (("policy", "approve", "9", "--as", PLATFORM), 3, "there is no version 9"),
        (("policy", "propose", "nowhere.toml", "--as", PLATFORM), 3, "nowhere.toml"),
        (("alerts", "--acknowledge", "x"), 2, "--as"),
        (("alerts", "--acknowledge", "x", "--as", "mallory"), 3, "no account"),
    ],
)
def test_what_is_refused_says_why(project: Project, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = sust(project, *arguments)
    assert ran.code == code, ran.out + ran.err
    assert said in ran.out + ran.err


def test_one_refusal_does_not_hold_up_the_others(project: Project) -> None:
    ran = sust(project, "approve", "heavy", "urgent", "harmless", "--as", DATA_LEAD, "--json")
    assert ran.code == 1
    assert [("refused" in r, r.get("state")) for r in ran.json["results"]] == [
        (False, "proposed"), (True, None), (False, "approved"),
    ]  # fmt: skip
    assert ran.json["refused"] == 1


def test_a_policy_is_shown_edited_proposed_and_signed(project: Project, tmp_path: Path) -> None:
    shown = sust(project, "policy", "show").out
    assert "# internal carbon price, USD per tCO2e\ncarbon_price_usd_per_t = 75.0" in shown
    file = tmp_path / "new.toml"
    file.write_text(shown.replace("carbon_price_usd_per_t = 75.0", "carbon_price_usd_per_t = 90.0"))
    assert sust(project, "policy", "diff", file, "--json").json["changes"] == [
        {"field": "planning.carbon_price_usd_per_t", "before": 75.0, "after": 90.0}
    ]
    ran = sust(project, "policy", "propose", file, "--as", "dev-100", "--json")
    assert (ran.json["version"], ran.json["state"], ran.json["author"]) == (2, "draft", "dev-100")
    assert sust(project, "policy", "approve", "2", "--as", "dev-100").code == 3
    assert sust(project, "policy", "approve", "2", "--as", OTHER_PLATFORM).code == 0
    done = sust(project, "policy", "approve", "2", "--as", ML_LEAD, "--reason", "agreed", "--json").json
    assert (done["state"], set(done["signed_by"])) == ("in force", {OTHER_PLATFORM, ML_LEAD})
    history = sust(project, "policy", "history").out
    assert "superseded" in history and "in force" in history
    assert sust(project, "policy", "show", "--json").json["policy"]["planning"]["carbon_price_usd_per_t"] == 90
    assert sust(project, "policy", "show", "1", "--json").json["version"] == 1
    assert "carbon_price" in sust(project, "policy", "diff", "1", "2").out
    kinds = [a["kind"] for a in sust(project, "alerts", "--json").json["alerts"]]
    assert sorted(kinds) == ["policy_changed", "policy_proposed"]
    ids = [a["alert_id"] for a in sust(project, "alerts", "--json").json["alerts"]]
    seen = sust(project, "alerts", "--acknowledge", ids[0], "--as", DATA_LEAD, "--text", "known", "--json")
    assert seen.json == {"acknowledged": 1}
    assert len(sust(project, "alerts", "--json").json["alerts"]) == 1
    assert len(sust(project, "alerts", "--all", "--json").json["alerts"]) == 2


def test_a_file_that_cannot_be_used_names_every_fault(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    shown = sust(project, "policy", "show").out
    file.write_text(shown.replace("balanced_hours = 4.0", "balanced_hours = 9.0").replace('["*"]', '["mars-1"]'))
    ran = sust(project, "policy", "propose", file, "--as", "dev-100")
    assert ran.code == 3
    assert "window_too_long" in ran.err and "unknown_region: 'mars-1'" in ran.err
    assert len(sust(project, "policy", "history", "--json").json["versions"]) == 1
