"""Mapping files: read, checked, and errors that name file and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bills import FOCUS_ROW, INSTANCES, csv_text, ingest_paths

from sust_dagster.agents.ingestor import IngestOptions
from sust_dagster.connectors.billing import BillingError, load_mapping


def test_without_a_file_the_shipped_mapping_holds():
    assert load_mapping().category_of("ci-nightly") == "sustainable"
    assert load_mapping("").category_of("Production") == "urgent"


def test_a_file_is_laid_over_it(write):
    path = write("tags: {team: [squad]}\nservices: {index: production}\n", "mapping.yaml")
    options = IngestOptions(mapping=load_mapping(path), instances=INSTANCES)
    tags = '{"squad":"blue","team":"red","service":"index","tier":"batch"}'
    row = ingest_paths(write(csv_text([{**FOCUS_ROW, "Tags": tags}])), options).row
    assert (row["team_id"], row["service_tier"], row["workload_category"]) == ("blue", "production", "urgent")
    assert row["quality"] == "tier_tag_ignored"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tags: [a", "is no YAML"),
        ("- a", "no table of keys"),
        ("tagz: {}", r"unknown keys \['tagz'\]"),
        ("tags: {colour: [a]}", r"tags: unknown fields \['colour'\]"),
        ("tiers: {whenever: [x]}", "'whenever' is no category"),
        ("tiers: {urgent: [x], balanced: [X]}", "'X' stands under urgent and under balanced"),
        ("rules: [{match: {colour: red}, set: {team: a}}]", r"rules\[0\]: cannot match on \['colour'\]"),
        ("rules: [{set: {category: sustainable}}]", r"rules\[0\]: cannot set \['category'\].*follows from the tier"),
        ("version: 2", "version 2 is not 1"),
    ],
)
def test_errors_name_file_and_key(write, text, message):
    with pytest.raises(BillingError, match=r"mapping\.yaml: .*" + message):
        load_mapping(write(text, "mapping.yaml"))


def test_a_missing_file(tmp_path):
    with pytest.raises(BillingError, match="check the path of the mapping"):
        load_mapping(tmp_path / "no.yaml")


def test_the_example_in_the_docs_is_a_mapping(write):
    text = (Path(__file__).parents[3] / "docs" / "mapping.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        load_mapping(write(example, "example.yaml"))
