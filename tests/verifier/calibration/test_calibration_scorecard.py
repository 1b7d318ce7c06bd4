"""The scorecard passes a verifier that is right, and finds out errors that are not as stated."""

from __future__ import annotations

import json

import pytest

from sust_dagster.agents.verifier.calibration import Scorecard, score_fleet, scorecard
from sust_dagster.agents.verifier.calibration.bands import band, ceiling
from sust_dagster.agents.verifier.calibration.coverage import LINES, OBSERVED
from sust_dagster.agents.verifier.calibration.null_fleets import score_null
from sust_dagster.agents.verifier.calibration.scorecard import LINE_COUNT
from sust_dagster.agents.verifier.calibration.worlds import Bounds, shared_out

WORLDS = 600


@pytest.fixture(scope="module")
def ticks() -> list[int]:
    return []


@pytest.fixture(scope="module")
def card(ticks: list[int]) -> Scorecard:
    return scorecard(WORLDS, 42, ticks.append)


def test_every_line_passes(card):
    assert card.passed
    assert [(f.fleet, f.systematic_share) for f in card.fleets] == [*LINES, (OBSERVED, None)]


def test_progress_adds_up(card, ticks):
    assert sum(ticks) == card.worlds * LINE_COUNT


def test_the_document_is_plain_and_always_the_same(card):
    document = card.document()
    text = json.dumps(document, allow_nan=False)
    accepted = band(WORLDS)
    assert document["band"] == [accepted.lower, accepted.upper]
    assert document["overclaim_limit"] == ceiling(WORLDS)
    again = scorecard(WORLDS, 42)
    assert json.dumps(again.document(), allow_nan=False) == text
    assert score_fleet(*LINES[0], WORLDS, 43) != card.fleets[0]


def test_too_few_worlds_are_refused():
    with pytest.raises(ValueError, match="99 worlds can not tell 90 %"):
        scorecard(99, 1)


def test_wrong_methods_are_far_off(card):
    by_name = {(f.fleet, f.systematic_share): f for f in card.fleets}
    for name in (("one-way", 1.0), ("one route", 1.0), ("one-way", 0.5), ("one-way", 0.0)):
        assert by_name[name].quadrature_share < 0.2
    assert by_name["both ways", 1.0].quadrature_share > 0.95
    for line in card.fleets:
        assert line.box_portfolio_share > 0.97 and line.box_width_of_interval > 1.9
        assert 0.4 < line.point_overclaim_share < 0.6
        assert line.overclaim_share < line.point_overclaim_share / 5


def test_fleets_that_save_nothing_earn_less_than_nothing(card):
    for line in card.null_fleets:
        assert line.credited_kg + 3 * line.credited_se_kg < 0
        assert line.founding_percent > 1


WIDER = [
    ("power", Bounds(1.9, 1.06, 1.04, 1.2, 1.0)),
    ("grid", Bounds(1.42, 1.06, 1.04, 1.6, 1.0)),
]


@pytest.mark.parametrize(("what", "hidden"), WIDER, ids=[w for w, _ in WIDER])
def test_errors_larger_than_stated_are_found_out(what, hidden):
    """Negative control of the scorecard itself."""
    line = score_fleet("one-way", 1.0, WORLDS, 42, hidden=hidden)
    assert not line.passed
    assert any(r.startswith("coverage per portfolio") and r.endswith("too narrow") for r in line.reasons)
    assert line.coverage_portfolio < line.band_lower


def test_errors_smaller_than_stated_are_found_out():
    line = score_fleet("one-way", 1.0, WORLDS, 42, hidden=Bounds(1.2, 1.03, 1.02, 1.1, 1.0))
    assert [r.rsplit(": ", 1)[1] for r in line.reasons[:2]] == ["the interval is too wide"] * 2


def test_errors_that_hours_share_in_truth_but_not_as_stated_are_found_out():
    """Stated as each hour's own error, hidden as the region's: hours do not average out as the verifier was told."""
    line = score_fleet("one-way", 0.0, 2 * WORLDS, 42, hidden=shared_out(1.0))
    assert not line.passed and line.coverage_portfolio < line.band_lower


def test_an_overclaim_is_found_out():
    """The same with power: where much less was emitted than stated, much less was saved than was credited."""
    line = score_fleet("in time", 1.0, WORLDS, 42, hidden=Bounds(2.2, 1.06, 1.04, 1.2, 1.0))
    assert line.overclaim_share > line.overclaim_limit
    assert any(r.startswith("credit above the truth") for r in line.reasons)


def test_an_unknown_null_fleet_is_named():
    with pytest.raises(ValueError, match="null fleet 'lucky' is none of any moves"):
        score_null("lucky", 100, 1)


@pytest.mark.slow
def test_the_scorecard_at_5000_worlds():
    card = scorecard(5000, 42)
    assert card.passed, [line.reasons for line in card.fleets]
    for line in card.fleets:
        assert 0.886 <= line.coverage_jobs <= 0.914 and 0.885 <= line.coverage_portfolio <= 0.914
        assert line.overclaim_share <= 0.055
