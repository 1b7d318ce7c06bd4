"""Team, service, workload, job and tier; and that nobody makes their own jobs deferrable."""

from __future__ import annotations

import json

import pytest
from normal import normal_rows

from sust_dagster.agents.ingestor import IngestOptions, MappingError, MappingRules, to_ledger
from sust_dagster.agents.ingestor.default_mapping import DEFAULT_MAPPING
from sust_dagster.world.schemas import CATEGORIES


def mapped(tags, rules=None, **row):
    options = IngestOptions(mapping=MappingRules.from_dict(rules))
    result = to_ledger(normal_rows({"Tags": json.dumps(tags) if isinstance(tags, dict) else tags, **row}), options)
    (found,) = result.ledger.to_pylist()
    return found


class TestDefault:
    @pytest.mark.parametrize(
        "key",
        ["team", "Team", "TEAM", "owner-team", "owner_team", "Owner Team", "user:team", "user_team", "cost-center",
         "CostCenter"],
    )  # fmt: skip
    def test_spellings_of_team(self, key):
        assert mapped({key: "search", "tier": "batch"})["team_id"] == "search"

    def test_fields(self):
        row = mapped({"team": "t", "application": "shop", "workload": "w", "job": "j", "tier": "ci"})
        assert (row["team_id"], row["service_name"], row["workload_id"], row["job_id"]) == ("t", "shop", "w", "j")
        assert (row["service_tier"], row["workload_category"], row["quality"]) == ("ci", "balanced", "ok")

    def test_first_key_with_a_value_wins(self):
        assert mapped({"cost-center": "cc", "team": " ", "owner-team": "o", "tier": "ci"})["team_id"] == "o"

    def test_nothing_known(self):
        row = mapped(None)
        assert (row["team_id"], row["service_name"]) == ("unmapped", "Amazon Elastic Compute Cloud")
        assert (row["job_id"], row["workload_id"]) == ("i-1", "i-1")
        assert (row["workload_category"], row["service_tier"]) == ("urgent", None)
        assert row["quality"] == "unmapped_team;no_tier"

    @pytest.mark.parametrize("tags", ["not json", "[1,2]", '"text"', "{", "{}", '{"team": null}', '{"team": ""}'])
    def test_odd_tags_are_no_tags(self, tags):
        assert mapped(tags)["team_id"] == "unmapped"

    def test_values_keep_their_text(self):
        assert mapped({"team": 'q"uo\\te, ünï', "tier": "ci"})["team_id"] == 'q"uo\\te, ünï'

    def test_every_shipped_tier_has_a_category(self):
        mapping = MappingRules.from_dict()
        for category in CATEGORIES:
            for tier in DEFAULT_MAPPING["tiers"][category]:
                assert mapping.category_of(tier) == category


class TestAntiGaming:
    @pytest.mark.parametrize("key", ["category", "Category", "workload_category", "carbon-category"])
    @pytest.mark.parametrize("value", ["sustainable", "balanced", "deferrable"])
    def test_a_declared_category_is_ignored(self, key, value):
        row = mapped({"team": "t", key: value})
        assert row["workload_category"] == "urgent"
        assert row["quality"] == "no_tier;category_tag_ignored"

    def test_a_declared_category_beside_a_tier_is_ignored(self):
        row = mapped({"team": "t", "tier": "production", "category": "sustainable"})
        assert row["workload_category"] == "urgent"
        assert row["quality"] == "category_tag_ignored"

    def test_an_unknown_tier_is_urgent(self):
        row = mapped({"team": "t", "tier": "sustainable-please"})
        assert (row["workload_category"], row["quality"]) == ("urgent", "unknown_tier")

    @pytest.mark.parametrize("tier", ["sustainable", "balanced"])
    def test_a_category_is_no_tier(self, tier):
        assert mapped({"team": "t", "tier": tier})["workload_category"] == "urgent"

    def test_policy_of_the_service_is_stronger_than_a_tag_that_asks_for_more(self):
        rules = {"services": {"Shop": "production"}}
        row = mapped({"team": "t", "service": "shop", "tier": "batch"}, rules)
        assert (row["service_tier"], row["workload_category"]) == ("production", "urgent")
        assert row["quality"] == "tier_tag_ignored"

    def test_a_tag_may_ask_for_less(self):
        rules = {"services": {"shop": "batch"}}
        row = mapped({"team": "t", "service": "shop", "tier": "production"}, rules)
        assert (row["workload_category"], row["quality"]) == ("urgent", "ok")

    def test_policy_holds_where_the_tag_is_unknown(self):
        row = mapped({"team": "t", "service": "shop", "tier": "whatever"}, {"services": {"shop": "batch"}})
        assert (row["service_tier"], row["workload_category"], row["quality"]) == ("batch", "sustainable", "ok")

    def test_a_rule_may_not_set_a_category(self):
        with pytest.raises(MappingError, match=r"rules\[0\]: cannot set \['category'\]"):
            MappingRules.from_dict({"rules": [{"set": {"category": "sustainable"}}]})


class TestRules:
    def test_first_match_wins_field_by_field(self):
        rules = {
            "rules": [
                {"match": {"account": "4*"}, "set": {"team": "platform"}},
                {"match": {"account": "*"}, "set": {"team": "other", "tier": "batch"}},
            ]
        }
        row = mapped({"team": "tagged"}, rules, SubAccountId="444")
        assert (row["team_id"], row["service_tier"]) == ("platform", "batch")

    @pytest.mark.parametrize(
        ("match", "holds"),
        [
            ({"resource": "arn:aws:*:instance/i-?"}, True),
            ({"resource": "i-?"}, False),
            ({"service": "amazon elastic*"}, True),
            ({"service": ["x", "*compute*"]}, True),
            ({"provider": "gcp"}, False),
            ({"region": "us-*"}, True),
            ({"region": "eu-*"}, False),
            ({"tags": {"Env": "prod*"}}, True),
            ({"tags": {"env": "dev"}}, False),
            ({"tags": {"missing": "*"}}, False),
            ({"account": "1", "region": "us-*"}, True),
            ({"account": "1", "region": "eu-*"}, False),
            ({"resource": "a.b*"}, False),
            ({}, True),
        ],
    )
    def test_conditions(self, match, holds):
        rules = {"rules": [{"match": match, "set": {"team": "ruled"}}]}
        row = mapped({"env": "production"}, rules, SubAccountId="1", ResourceId="arn:aws:ec2:::instance/i-9")
        assert row["team_id"] == ("ruled" if holds else "unmapped")

    def test_rules_are_stronger_than_tags(self):
        rules = {"rules": [{"match": {"service": "*"}, "set": {"tier": "production"}}]}
        row = mapped({"team": "t", "tier": "batch"}, rules)
        assert (row["workload_category"], row["quality"]) == ("urgent", "tier_tag_ignored")

    def test_many_distinct_tags_are_mapped_row_by_row(self):
        table = normal_rows(
            *({"Tags": json.dumps({"team": f"t{i}", "job": f"j{i}", "tier": "ci"})} for i in range(500))
        )
        rows = to_ledger(table).ledger.to_pylist()
        assert [r["team_id"] for r in rows] == [f"t{i}" for i in range(500)]
        assert [r["job_id"] for r in rows] == [f"j{i}" for i in range(500)]
