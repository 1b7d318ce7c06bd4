"""`sust account` and what the grid file does not hold: rows stay, flagged, and the reader is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sust_cli import T0, emissions, sust, usage, write_bill, write_grid

HOUR = timedelta(hours=1)


def account(tmp_path, grid, *options, rows=None):
    rows = rows or [usage(T0 + h * HOUR, region=r) for h in range(6) for r in ("us-east-1", "eu-west-1")]
    bill = write_bill(tmp_path / "bill.csv", rows)
    grids = [x for g in (grid if isinstance(grid, list) else [grid]) for x in ("--grid", g)]
    ran = sust("account", "--billing", bill, *grids, "--out", tmp_path / "e.parquet", "--json", *options)
    return ran, (emissions(tmp_path / "e.parquet") if ran.code == 0 else [])


def full(tmp_path, name="grid.csv", regions=("us-east-1", "eu-west-1"), hours=range(6), grams=300):
    return write_grid(tmp_path / name, *((T0 + h * HOUR, r, grams) for h in hours for r in regions))


def test_a_file_that_holds_everything_needs_no_notice(tmp_path):
    ran, rows = account(tmp_path, full(tmp_path))
    assert (ran.json["slices_no_intensity"], ran.json["notices"], "note" in ran.err) == (0, [], False)
    assert {r["quality"] for r in rows} == {rows[0]["quality"]}
    assert all(r["kg_location"] is not None for r in rows)


def test_a_region_that_is_not_in_the_file_is_flagged_and_said(tmp_path):
    ran, rows = account(tmp_path, full(tmp_path, regions=("us-east-1",)))
    outside = [r for r in rows if r["kg_location"] is None]
    assert {r["region"] for r in outside} == {"eu-west-1"}
    assert all("no_intensity" in r["quality"].split(";") and r["energy_kwh"] > 0 for r in outside)
    assert ran.json["slices_no_intensity"] == len(outside) == 6
    assert "6 of 12 slices meet no grid intensity" in ran.err
    assert "regions it does not hold: eu-west-1 (6)" in ran.err
    assert "hours it does not hold" not in ran.err
    assert "covers 2026-10-01 00:00 to 2026-10-01 05:00 UTC for 1 place: us-east-1" in ran.err
    assert "--grid-fallback static" in ran.err
    assert ran.err.count("note:") == 1


def test_hours_outside_the_file_are_named(tmp_path):
    ran, rows = account(tmp_path, full(tmp_path, hours=range(2)), "--gap-policy", "flag_missing")
    assert [r["kg_location"] is None for r in rows if r["region"] == "us-east-1"] == [False] * 2 + [True] * 4
    assert "us-east-1 (4 from 2026-10-01 02:00 to 2026-10-01 05:00)" in ran.err
    assert "regions it does not hold" not in ran.err


def test_the_gap_policy_is_passed_on(tmp_path):
    grid = full(tmp_path, hours=(0, 5))
    carried, rows = account(tmp_path, grid)
    assert carried.json["slices_no_intensity"] == 2
    assert sum("gap_last_known" in r["quality"] for r in rows) == 6
    strict, rows = account(tmp_path, grid, "--gap-policy", "flag_missing")
    assert (strict.json["slices_no_intensity"], strict.json["gap_policy"]) == (8, "flag_missing")
    assert not any("gap_last_known" in r["quality"] for r in rows)


def test_a_file_of_quite_another_time_is_no_error(tmp_path):
    grid = write_grid(tmp_path / "grid.csv", (T0.replace(year=2020), "us-east-1", 300))
    ran, rows = account(tmp_path, grid)
    assert ran.code == 0
    assert ran.json["slices_no_intensity"] == len(rows) == 12
    assert ran.json["kg_location"] is None  # no slice has a figure: that is not zero kg
    assert ran.json["energy_kwh"] > 0
    assert "12 of 12 slices" in ran.err


def test_zones_given_as_regions_are_recognised(tmp_path):
    grid = write_grid(tmp_path / "grid.csv", *((T0 + h * HOUR, "US-MIDA-PJM", 300) for h in range(6)))
    ran, _ = account(tmp_path, grid)
    assert "holds grid zones (US-MIDA-PJM): name it zone" in ran.err
    mended = write_grid(
        tmp_path / "zones.csv",
        *((T0 + h * HOUR, z, 300) for h in range(6) for z in ("US-MIDA-PJM", "IE")),
        place="zone",
    )
    assert account(tmp_path, mended)[0].json["slices_no_intensity"] == 0


def test_one_batch_outside_the_file_does_not_stop_the_others(tmp_path):
    from sust_dagster.connectors.billing import files

    rows = [
        usage(T0 + h * HOUR, region=r, vcpus=v) for r in ("eu-west-1", "us-east-1") for h in range(6) for v in (2, 4)
    ]
    grid = full(tmp_path, regions=("us-east-1",))
    whole, _ = account(tmp_path, grid, rows=rows)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(files.FileBilling.__init__, "__kwdefaults__", {"dates": None, "block_bytes": 2000})
        ran, found = account(tmp_path, grid, rows=rows)
    assert (ran.code, len(found), ran.json["slices_no_intensity"]) == (0, 24, 12)
    assert ran.json["kg_location"] == pytest.approx(whole.json["kg_location"])


def test_the_fallback_is_explicit_flagged_and_wide(tmp_path):
    grid = full(tmp_path, regions=("us-east-1",), hours=range(2))
    ran, rows = account(tmp_path, grid, "--grid-fallback", "static", "--gap-policy", "flag_missing")
    assert (ran.json["slices_no_intensity"], ran.json["slices_grid_fallback"]) == (0, 10)
    assert ran.json["grid_fallback"] == "static"
    own = [r for r in rows if r["region"] == "us-east-1" and r["started_at"] < T0 + 2 * HOUR]
    stood_in = [r for r in rows if r not in own]
    assert all({"annual_mean", "grid_fallback"} <= set(r["quality"].split(";")) for r in stood_in)
    assert not any("grid_fallback" in r["quality"] or "annual_mean" in r["quality"] for r in own)

    def width(row):
        return row["kg_location_upper"] / row["kg_location_lower"]

    assert min(width(r) for r in stood_in) > 1.2 * max(width(r) for r in own)
    plain, _ = account(tmp_path, grid)
    assert plain.json["grid_fallback"] == "none"
    assert plain.json["slices_grid_fallback"] == 0


def test_the_fallback_does_not_mix_methods_and_means_nothing_for_static(tmp_path):
    ran, _ = account(tmp_path, full(tmp_path), "--grid-fallback", "static", "--intensity-method", "direct")
    assert (ran.code, "they do not mix" in ran.err) == (3, True)
    ran, _ = account(tmp_path, "static", "--grid-fallback", "static")
    assert ran.code == 2
    ran, _ = account(tmp_path, "static", "--intensity-method", "direct")
    assert (ran.code, "annual means are life-cycle figures" in ran.err) == (3, True)
    ran, _ = account(tmp_path, ["static", full(tmp_path)])
    assert (ran.code, "--grid-fallback static" in ran.err) == (3, True)


def test_the_intensity_method_chooses_the_column(tmp_path):
    header = "Datetime (UTC),Zone id,Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle)"
    lines = [f"2026-10-01 {h:02}:00:00,US-MIDA-PJM,200,300" for h in range(6)]
    grid = tmp_path / "em.csv"
    grid.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    one = [usage(T0)]
    for options, grams, named in (((), 0.3, "lifecycle"), (("--intensity-method", "direct"), 0.2, "direct")):
        ran, (row,) = account(tmp_path, grid, *options, rows=one)
        assert row["intensity_kgco2_kwh"] == pytest.approx(grams)
        assert ran.json["intensity_method"] == named


def intensities(rows):
    return [r["intensity_kgco2_kwh"] for r in rows if r["region"] == "us-east-1"]


def test_several_files_the_first_wins_and_both_are_named(tmp_path):
    a = full(tmp_path, "a.csv", hours=range(3), grams=100)
    b = full(tmp_path, "b.csv", hours=range(1, 6), grams=500)
    ran, rows = account(tmp_path, [b, a])
    assert intensities(rows) == pytest.approx([0.1] + [0.5] * 5)
    assert "b.csv and a.csv both hold hours of eu-west-1, us-east-1: b.csv comes first and is taken there" in ran.err
    assert list(ran.json["grid_files"]) == ["b.csv", "a.csv"]
    assert all(v.startswith("sha256:") for v in ran.json["grid_files"].values())
    ran, rows = account(tmp_path, [a, b])
    assert [r["intensity_kgco2_kwh"] for r in rows if r["region"] == "us-east-1"] == pytest.approx(
        [0.1] * 3 + [0.5] * 3
    )


def test_a_folder_passes_over_what_is_no_grid_file_and_says_so(tmp_path):
    full(tmp_path, "grids/grid.csv")
    (tmp_path / "grids" / "prices.csv").write_text("timestamp,type,price\n2026-10-01,m5.large,1\n")
    ran, rows = account(tmp_path, tmp_path / "grids")
    assert (ran.code, ran.json["slices_no_intensity"], len(rows)) == (0, 0, 12)
    assert "passed over, no grid file by their columns: prices.csv" in ran.err
    (tmp_path / "grids" / "grid.csv").unlink()
    ran, _ = account(tmp_path, tmp_path / "grids")
    assert (ran.code, "no file of the folder is a grid file: prices.csv" in ran.err) == (3, True)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("-5", "row 2, column intensity_g_per_kwh: -5.0 is negative"),
        ("n/a", "row 2, column intensity_g_per_kwh: 'n/a'"),
    ],
)
def test_a_bad_grid_file_is_refused_with_its_row_and_leaves_nothing(tmp_path, value, said):
    ran, _ = account(tmp_path, write_grid(tmp_path / "grid.csv", (T0, "us-east-1", value)))
    assert ran.code == 3
    assert str(tmp_path / "grid.csv") in ran.err
    assert said in ran.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bill.csv", "grid.csv"]
