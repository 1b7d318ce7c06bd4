"""`sust simulate`: plain files that the other commands read."""

from __future__ import annotations

import pytest
from sust_cli import sust


def test_what_is_simulated_can_be_accounted_without_a_gap(tmp_path):
    said = sust("simulate", "--days", 2, "--seed", 7, "--out", tmp_path / "sim", "--json").json
    assert sorted(p.name for p in (tmp_path / "sim").iterdir()) == ["bill.parquet", "grid.csv", "jobs.csv"]
    done = sust(
        "account", "--billing", tmp_path / "sim" / "bill.parquet", "--grid", tmp_path / "sim" / "grid.csv", "--out",
        tmp_path / "e.parquet", "--json",
    ).json  # fmt: skip
    assert done["rows_read"] == said["bill_rows"]
    assert (done["rows_quarantined"], done["slices_no_intensity"], done["slices_not_estimated"]) == (0, 0, 0)
    assert done["kg_location"] > 0
    static = sust(
        "account", "--billing", tmp_path / "sim" / "bill.parquet", "--out", tmp_path / "s.parquet", "--json"
    ).json  # fmt: skip
    assert static["energy_kwh"] == pytest.approx(done["energy_kwh"])
    assert static["kg_location"] != pytest.approx(done["kg_location"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        sust("simulate", "--days", 1, "--seed", seed, "--out", tmp_path / name)
    for file in ("bill.parquet", "grid.csv", "jobs.csv"):
        a, b, c = ((tmp_path / n / file).read_bytes() for n in "abc")
        assert a == b
        assert a != c
