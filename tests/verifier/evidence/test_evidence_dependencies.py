"""What a moved run waited for: observed in the lake, judged, and judged the same from the bundle alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence_worlds import HOUR, INPUT, READER, document, make_reader, verify

from sust_dagster.agents.verifier.evidence import recompute
from sust_dagster.agents.verifier.evidence.recompute import canonical, check, named_by_hash

NORMALS = recompute.Normals()


@pytest.mark.parametrize(("shift_hours", "kept"), [(0.0, True), (5.0, False), (None, None)])
def test_a_run_waits_for_what_it_reads(tmp_path: Path, shift_hours: float | None, kept: bool | None) -> None:
    """Put off for hours, its input was not there when it began; without a trace of it nobody can tell."""
    day = verify(made := make_reader(tmp_path / "project", shift_hours))
    (claim,) = day.claims.to_pylist()
    assert claim["sla_compliant"] is kept
    detail = json.loads(claim["sla_detail"])
    found = detail["promises"]["promises"]["dependencies"]
    assert (found["promised"], found["kept"], found["broken"], found["unknown"]) == (
        1, kept is True, kept is False, kept is None,
    )  # fmt: skip
    assert detail["reason"] == ("not_observed: dependencies 1" if kept is None else None)

    (path,) = made.evidence_root.glob("*.json")
    assert check(path.read_bytes(), named_by_hash(path), NORMALS).differences == []
    bundle = document(path)
    needs = bundle["promises"]["needs"]
    assert {run for run, _, _ in needs} == set(day.moved.runs["run_id"].to_pylist())
    assert (None in [end for _, _, end in needs]) is (kept is None)
    if kept is not False:
        return
    # The input that was put off is the one that is named, though nobody moved it by a change; it ended after the start.
    late = day.emissions["started_at"].to_pylist()[0]
    assert needs[0][2] > late.timestamp() * 1e6 > (INPUT[1] + HOUR).timestamp() * 1e6 and late >= READER[1]
    # A forger who leaves it out, and hashes everything anew, is found.
    bundle["promises"]["needs"] = []
    bundle["digests"]["promises"] = recompute.sha256(bundle["promises"])
    found = check(canonical(bundle).encode(), "", NORMALS).differences
    assert any(d.path.startswith("outputs.sla_") or d.path.startswith("claim.sla_") for d in found)
