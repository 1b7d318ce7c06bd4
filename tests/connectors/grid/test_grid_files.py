from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sust_dagster.agents.accountant.grid import SOURCE_SCHEMA
from sust_dagster.connectors.grid import FileGrid, GridError, GridSource, StaticGrid, hourly, open_grid
from sust_dagster.reference import regions

T0 = datetime(2025, 1, 1, tzinfo=UTC)
DAY = T0 + timedelta(days=1)

NEW = (
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
    "Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%),"
    "Renewable energy percentage (RE%),Data source,Data estimated,Data estimation method"
)
OLD = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),Carbon Intensity gCO₂eq/kWh (LCA),"
    "Low Carbon Percentage,Renewable Percentage,Data Source,Data Estimated,Data Estimation Method"
)
ROWS = [
    "2025-01-01 00:00:00,USA,PJM,US-MIDA-PJM,299.81,365.01,45,7,pjm.com,false,",
    "2025-01-01 01:00:00,USA,PJM,US-MIDA-PJM,290.74,353.97,47,8,pjm.com,true,TIME_SLICER",
    "2025-01-01 00:00:00,Ireland,Ireland,IE,201.0,251.5,45,40,eirgrid,false,",
]


def write(path, *lines: str):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path, names=("us-east-1",), **options) -> list[dict]:
    return open_grid(path, **options).read(T0, DAY, list(names)).to_pylist()


@pytest.mark.parametrize(
    "header",
    [NEW, OLD, NEW.replace("₂", "2"), OLD.upper(), "\ufeff" + NEW],
    ids=["new", "old", "plain 2", "upper", "bom"],
)
def test_electricity_maps_headers_of_every_year(tmp_path, header):
    path = write(tmp_path / "pjm.csv", header, *ROWS)
    rows = read(path, ["us-east-1", "eu-west-1", "us-east4"])
    assert len(rows) == 5
    first = next(r for r in rows if r["region"] == "us-east-1")
    assert first["intensity_g_per_kwh"] == 365.01
    assert (first["method"], first["signal"], first["zone"], first["source"]) == (
        "lifecycle",
        "average",
        "US-MIDA-PJM",
        "electricity_maps",
    )
    assert [r["estimated"] for r in rows if r["region"] == "us-east-1"] == [False, True]
    assert first["source_version"].startswith("sha256:")


def test_direct_is_taken_only_when_asked_for(tmp_path):
    path = write(tmp_path / "pjm.csv", NEW, *ROWS)
    rows = read(path, method="direct")
    assert rows[0]["intensity_g_per_kwh"] == 299.81
    assert rows[0]["method"] == "direct"


def test_gz_several_files_and_folders_are_the_same(tmp_path):
    with gzip.open(tmp_path / "a.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write("\n".join([NEW, *ROWS[:2]]) + "\n")
    write(tmp_path / "b.csv", OLD, ROWS[2])
    both = ["us-east-1", "eu-west-1"]
    folder = read(tmp_path, both)
    assert folder == read([tmp_path / "a.csv.gz", tmp_path / "b.csv"], both)
    assert len(folder) == 3


def test_plain_csv_by_region_with_bounds(tmp_path):
    path = write(
        tmp_path / "grid.csv",
        "ts,region,intensity_g_per_kwh,lower,upper",
        "2025-01-01T00:00:00Z,my-region,350,300,420",
        "2025-01-01 01:00,my-region,360,,",
    )
    rows = read(path, ["my-region"])
    assert [(r["intensity_g_per_kwh"], r["lower"], r["upper"]) for r in rows] == [(350, 300, 420), (360, None, None)]


def test_plain_csv_by_zone_is_mapped(tmp_path):
    path = write(tmp_path / "grid.csv", "ts,zone,intensity_g_per_kwh", "2025-01-01T00:00:00Z,SE-SE3,23")
    assert [r["region"] for r in read(path, ["eu-north-1", "swedencentral", "europe-north2"])] == [
        "eu-north-1",
        "europe-north2",
        "swedencentral",
    ]


def test_kg_are_taken_where_the_column_says_kg(tmp_path):
    path = write(tmp_path / "grid.csv", "ts,region,intensity_kgco2_kwh", "2025-01-01T00:00:00Z,us-east-1,0.35")
    assert read(path)[0]["intensity_g_per_kwh"] == pytest.approx(350)


def test_only_the_signal_asked_for_is_read(tmp_path):
    path = write(
        tmp_path / "grid.csv",
        "ts,region,intensity_g_per_kwh,signal",
        "2025-01-01T00:00Z,us-east-1,350,average",
        "2025-01-01T00:00Z,us-east-1,700,marginal",
    )
    assert [r["intensity_g_per_kwh"] for r in read(path)] == [350]
    assert [r["intensity_g_per_kwh"] for r in read(path, signal="marginal")] == [700]


def test_wide_parquet_by_zone_and_region(tmp_path):
    table = pa.table(
        {
            "datetime": [T0, T0 + timedelta(hours=1)],
            "IE": [250.0, None],
            "my-zone": [1.0, 2.5],
            "us-west-2": [90.0, 91.0],
        }
    )
    pq.write_table(table, tmp_path / "wide.parquet")
    assert len(read(tmp_path / "wide.parquet", ["eu-west-1"])) == 1
    assert [r["intensity_g_per_kwh"] for r in read(tmp_path / "wide.parquet", ["us-west-2"])] == [90.0, 91.0]


def test_an_empty_cell_is_a_gap_and_told(tmp_path):
    lines = [f"2025-01-01T{h:02}:00Z,us-east-1,{'' if h in (2, 3, 4, 5, 6) else 300 + h}" for h in range(24)]
    source = open_grid(write(tmp_path / "grid.csv", "ts,region,intensity_g_per_kwh", *lines))
    done = hourly(source, T0, DAY, ["us-east-1"])
    assert done.table.num_rows == 22
    assert [(g["hours"], g["handled"]) for g in done.gaps.to_pylist()] == [(3, "last_known"), (2, "missing")]
    strict = hourly(source, T0, DAY, ["us-east-1"], gap_policy="flag_missing")
    assert [(g["hours"], g["handled"]) for g in strict.gaps.to_pylist()] == [(5, "missing")]


def test_our_own_intensity_table_comes_back_as_it_was(tmp_path):
    done = hourly(StaticGrid(), T0, DAY, ["us-east-1", "eu-north-1"]).table
    pq.write_table(done, tmp_path / "grid.parquet")
    again = hourly(open_grid(tmp_path / "grid.parquet"), T0, DAY, ["us-east-1", "eu-north-1"]).table
    for name in ("ts", "region", "quality", "estimated", "method"):
        assert again[name].equals(done[name]), name
    for name in ("intensity_kgco2_kwh", "intensity_lower", "system_rel_upper", "hour_rel_lower"):
        assert again[name].to_pylist() == pytest.approx(done[name].to_pylist()), name


PLAIN = "ts,region,intensity_g_per_kwh"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [PLAIN, "2025-01-01T00:00Z,us-east-1,350", "2025-01-01T01:00Z,us-east-1,-4"],
            r"row 3, column intensity_g_per_kwh: -4\.0 is negative",
        ),
        ([PLAIN, "2025-01-01T00:00Z,us-east-1,3500"], r"row 2, .*above 3000.*lb/MWh"),
        ([PLAIN, "2025-01-01T00:00Z,us-east-1,nan"], r"row 2, .*'nan' is not a number"),
        ([PLAIN, "2025-01-01T00:00Z,us-east-1,12;5"], r"row 2, .*'12;5' is not a number"),
        (
            [PLAIN, "2025-01-01T00:00Z,us-east-1,0.35", "2025-01-01T01:00Z,us-east-1,0.36"],
            r"looks like kg/kWh.*intensity_kgco2_kwh",
        ),
        ([PLAIN, "1 Jan 2025,us-east-1,350"], r"row 2, column ts: '1 Jan 2025' is not a time.*YYYY-MM-DD"),
        ([PLAIN, "2025-01-01T00:00+02:00,us-east-1,350"], r"row 2, column ts: .*is not in UTC"),
        ([PLAIN, "2025-01-01T00:00Z,,350"], r"row 2, .*no region in the row"),
        (
            [PLAIN, "2025-01-01T00:00Z,us-east-1,350", "2025-01-01T00:00Z,us-east-1,350"],
            r"row 3, column ts: duplicate of row 2",
        ),
        (
            [PLAIN, "2025-01-01T00:00Z,us-east-1,350", "2025-01-01T00:00Z,us-east-1,351"],
            r"row 3, .*conflicting duplicate of row 2 \(350\.0 and 351\.0",
        ),
        ([PLAIN, "2025-01-01T00:00Z,us-east-1,"], r"holds no intensity"),
        (["ts,intensity_g_per_kwh", "2025-01-01T00:00Z,350"], r"no region and no zone column"),
        (["region,intensity_g_per_kwh", "us-east-1,350"], r"no time column"),
        (["when,where,what", "now,here,1"], r"unknown layout.*ts, region"),
        ([NEW.replace("(Life cycle)", "(other)"), ROWS[0]], r"no lifecycle intensity column"),
        ([PLAIN, "2025-01-01T00:00Z,us-east-1"], r"not a readable CSV"),
    ],
)
def test_a_bad_file_is_refused_with_file_row_column_and_remedy(tmp_path, lines, said):
    path = write(tmp_path / "bad.csv", *lines)
    with pytest.raises(GridError, match=said) as refusal:
        read(path)
    assert "bad.csv" in str(refusal.value)


def test_regions_the_file_does_not_hold_have_no_rows_and_a_likely_cause_is_named(tmp_path):
    mistaken = open_grid(write(tmp_path / "zones.csv", PLAIN, "2025-01-01T00:00Z,US-MIDA-PJM,350"))
    assert mistaken.read(T0, DAY, ["us-east-1"]).num_rows == 0
    assert "name it zone" in mistaken.hint()
    other = open_grid(write(tmp_path / "other.csv", PLAIN, "2025-01-01T00:00Z,eu-west-9,350"))
    assert other.read(T0, DAY, ["us-east-1"]).num_rows == 0
    assert (other.hint(), other.holds("us-east-1"), other.holds("eu-west-9")) == ("", False, True)
    assert other.coverage == "2025-01-01 00:00 to 2025-01-01 00:00 UTC for 1 place: eu-west-9"


def test_the_first_file_wins_hour_by_hour_and_a_notice_says_so(tmp_path):
    lines = [f"2025-01-01T{h:02}:00Z,us-east-1,{{}}" for h in range(4)]
    write(tmp_path / "b.csv", PLAIN, *(line.format(200) for line in lines[1:]))
    write(tmp_path / "a.csv", PLAIN, *(line.format(100) for line in lines[:2]))
    source = open_grid(tmp_path)
    rows = sorted(source.read(T0, DAY, ["us-east-1"]).to_pylist(), key=lambda r: r["ts"])
    assert [r["intensity_g_per_kwh"] for r in rows] == [100, 100, 200, 200]
    assert [r["source_version"] for r in rows] == [source.files[n] for n in ("a.csv", "a.csv", "b.csv", "b.csv")]
    assert source.notices == ["a.csv and b.csv both hold hours of us-east-1: a.csv comes first and is taken there"]
    turned = open_grid([tmp_path / "b.csv", tmp_path / "a.csv"])
    assert sorted(r["intensity_g_per_kwh"] for r in turned.read(T0, DAY, ["us-east-1"]).to_pylist()) == [
        100, 200, 200, 200,
    ]  # fmt: skip


def test_files_that_do_not_overlap_and_the_same_file_twice_are_told_apart(tmp_path):
    write(tmp_path / "a.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,100")
    write(tmp_path / "b.csv", PLAIN, "2025-01-01T01:00Z,us-east-1,200")
    apart = open_grid(tmp_path)
    assert (apart.read(T0, DAY, ["us-east-1"]).num_rows, apart.notices) == (2, [])
    write(tmp_path / "c.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,100")
    same = open_grid(tmp_path)
    assert (same.read(T0, DAY, ["us-east-1"]).num_rows, same.notices) == (2, ["c.csv is the same file as a.csv"])


def test_sub_hourly_values_of_the_losing_file_are_left_out_whole(tmp_path):
    write(tmp_path / "a.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,100")
    write(tmp_path / "b.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,300", "2025-01-01T00:30Z,us-east-1,500")
    rows = hourly(open_grid(tmp_path), T0, T0 + timedelta(hours=1), ["us-east-1"]).table.to_pylist()
    assert [r["intensity_kgco2_kwh"] for r in rows] == [0.1]


def test_other_files_of_a_folder_are_passed_over_but_not_a_bad_grid_file(tmp_path):
    write(tmp_path / "grid.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,350")
    write(tmp_path / "prices.csv", "timestamp,instance_type,price", "2025-01-01,m5.large,0.1")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "ragged.csv").write_text("a,b\n1,2,3\n")
    source = open_grid(tmp_path)
    assert source.read(T0, DAY, ["us-east-1"]).num_rows == 1
    assert source.notices == ["passed over, no grid file by their columns: empty.csv, prices.csv, ragged.csv"]
    with pytest.raises(GridError, match="unknown layout"):
        open_grid([tmp_path / "grid.csv", tmp_path / "prices.csv"]).read(T0, DAY, ["us-east-1"])
    write(tmp_path / "later.csv", PLAIN, "2025-01-01T01:00Z,us-east-1,x")
    with pytest.raises(GridError, match=r"later\.csv: row 2, column intensity_g_per_kwh: 'x' is not a number"):
        open_grid(tmp_path).read(T0, DAY, ["us-east-1"])


def test_a_folder_without_any_grid_file_is_refused(tmp_path):
    write(tmp_path / "prices.csv", "timestamp,instance_type,price", "2025-01-01,m5.large,0.1")
    with pytest.raises(GridError, match=r"no file of the folder is a grid file: prices\.csv\. give ts, region"):
        open_grid(tmp_path).read(T0, DAY, ["us-east-1"])


def test_methods_never_mix(tmp_path):
    write(tmp_path / "a_direct.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,300")
    write(tmp_path / "b.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,350", "2025-01-01T01:00Z,us-east-1,351")
    both = open_grid(tmp_path)
    assert [r["intensity_g_per_kwh"] for r in both.read(T0, DAY, ["us-east-1"]).to_pylist()] == [350, 351]
    assert both.notices == ["direct intensity is left out beside lifecycle: a_direct.csv"]
    assert both.methods == ["lifecycle"]
    alone = open_grid(tmp_path / "a_direct.csv")
    assert [r["method"] for r in alone.read(T0, DAY, ["us-east-1"]).to_pylist()] == ["direct"]
    with pytest.raises(GridError, match="hold direct intensity only, not lifecycle"):
        open_grid(tmp_path / "a_direct.csv", method="lifecycle").read(T0, DAY, ["us-east-1"])
    with pytest.raises(GridError, match="annual means are life-cycle figures"):
        open_grid("static", method="direct")


def test_a_stand_in_gives_only_the_hours_the_source_lacks(tmp_path):
    source = open_grid(write(tmp_path / "grid.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,350"))
    done = hourly(source, T0, T0 + timedelta(hours=6), ["us-east-1", "eu-west-1"], fallback=StaticGrid()).table
    words = {(r["region"], r["ts"].hour): r["quality"].split(";") for r in done.to_pylist()}
    assert len(words) == done.num_rows == 12
    assert words["us-east-1", 0] == ["ok"]
    assert "gap_last_known" in words["us-east-1", 3]
    assert {"annual_mean", "grid_fallback"} <= set(words["us-east-1", 4])
    assert all("grid_fallback" in words["eu-west-1", h] for h in range(6))
    assert not any("grid_fallback" in w for k, w in words.items() if k < ("us-east-1", 4) and k[0] == "us-east-1")
    plain = hourly(source, T0, T0 + timedelta(hours=6), ["us-east-1", "eu-west-1"])
    assert plain.table.num_rows == 4
    direct = open_grid(tmp_path / "grid.csv", method="direct")
    with pytest.raises(GridError, match="do not mix"):
        hourly(direct, T0, T0 + timedelta(hours=6), ["us-east-1"], fallback=StaticGrid())


def test_a_cut_off_file_and_a_ragged_row_are_refused_with_the_remedy(tmp_path):
    good = gzip.compress("\n".join([NEW, *(ROWS[0] for _ in range(2000))]).encode())
    (tmp_path / "cut.csv.gz").write_bytes(good[: len(good) // 2])
    with pytest.raises(GridError, match=r"cut\.csv\.gz.*cut off or damaged"):
        read(tmp_path / "cut.csv.gz")
    (tmp_path / "no.csv.gz").write_text("not gzip")
    with pytest.raises(GridError, match="cut off or damaged"):
        read(tmp_path / "no.csv.gz")
    write(tmp_path / "ragged.csv", PLAIN, "2025-01-01T00:00Z,us-east-1,1", "2025-01-01T01:00Z,us-east-1")
    with pytest.raises(GridError, match=r"Row #3.*every row needs"):
        read(tmp_path / "ragged.csv")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(GridError, match="no such file or folder"):
        open_grid(tmp_path / "nothing.csv")
    with pytest.raises(GridError, match="holds no grid file"):
        open_grid(tmp_path)
    with pytest.raises(GridError, match="unknown file type"):
        read(write(tmp_path / "grid.xlsx", "x"))
    with pytest.raises(GridError, match="not a Parquet file"):
        read(write(tmp_path / "grid.parquet", "x"))
    with pytest.raises(GridError, match="no grid file given"):
        open_grid([])
    with pytest.raises(GridError, match="time zone"):
        open_grid("static").read(datetime(2025, 1, 1), DAY, ["us-east-1"])  # noqa: DTZ001 - the refusal of it


def test_electricity_maps_has_no_marginal_signal(tmp_path):
    with pytest.raises(GridError, match="average signal"):
        read(write(tmp_path / "pjm.csv", NEW, *ROWS), signal="marginal")


def test_static_means_fit_any_hour_of_any_year():
    for start in (datetime(2019, 6, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)):
        rows = open_grid("static").read(start, start + timedelta(hours=3), ["us-east-1", "nowhere"]).to_pylist()
        assert [r["intensity_g_per_kwh"] for r in rows] == [396.25] * 3
        assert {r["quality"] for r in rows} == {"annual_mean"}
        assert [r["ts"] for r in rows] == [start + timedelta(hours=h) for h in range(3)]


def test_static_boxes_are_wide_and_hold_one():
    rows = open_grid("static").read(T0, T0 + timedelta(hours=1), regions()["region"].to_pylist()).to_pylist()
    assert len(rows) == regions().num_rows
    for row in rows:
        assert 0 < row["system_rel_lower"] <= 0.81
        assert row["system_rel_upper"] >= 1.24
        assert row["hour_rel_lower"] <= 0.8
        assert row["hour_rel_upper"] >= 1.25


@pytest.mark.parametrize("source", [StaticGrid(), FileGrid(())])
def test_sources_keep_the_protocol(source):
    assert isinstance(source, GridSource)


def test_static_has_the_source_schema():
    assert StaticGrid().read(T0, DAY, ["us-east-1"]).schema.equals(SOURCE_SCHEMA)
    assert StaticGrid().read(T0, DAY, ["nowhere"]).schema.equals(SOURCE_SCHEMA)


TRACES = [
    (
        "electricity_maps_2022_lifecycle_hourly_wide.parquet",
        2022,
        ["us-east-1", "us-west-2", "eu-west-1", "eu-north-1", "ap-south-1"],
        {},
        8759,
        425.3,
    ),
    (
        "electricity_maps_2021_2023_original_columns.parquet",
        2023,
        ["us-east-1", "ap-south-1", "eu-central-1"],
        {},
        8760,
        392.4,
    ),
    (
        "electricity_maps_2021_2023_original_columns.parquet",
        2023,
        ["us-east-1", "ap-south-1"],
        {"method": "direct"},
        8760,
        None,
    ),
    ("US-MIDA-PJM_2023_hourly.csv.gz", 2023, ["us-east-1", "us-east-2"], {}, 8760, 392.4),
    ("us-west-2_2022_average_marginal_forecast.parquet", 2022, ["us-west-2"], {}, 8760, 235.8),
    ("us-west-2_2022_average_marginal_forecast.parquet", 2022, ["us-west-2"], {"signal": "marginal"}, 8760, None),
    (
        "direct_intensity_2019_2021_hourly.parquet",
        2021,
        ["us-east-1", "us-west-1", "eu-central-1"],
        {"method": "direct"},
        8760,
        None,
    ),
]


@pytest.mark.parametrize(("name", "year", "names", "options", "hours", "mean"), TRACES)
def test_real_traces_are_read_whole(shared_data, name, year, names, options, hours, mean):
    path = shared_data / "traces" / name
    if not path.is_file():
        pytest.skip(f"{name} is licensed for internal use and not redistributed")
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    source = open_grid(path, **options)
    raw = source.read(start, end, names)
    assert raw.schema.equals(SOURCE_SCHEMA)
    assert raw.num_rows == hours * len(names)
    done = hourly(source, start, end, names)
    missing = 8760 - hours
    assert done.table.num_rows == 8760 * len(names)
    assert sum(done.gaps["hours"].to_pylist()) == missing * len(names)
    assert set(done.table["method"].to_pylist()) == {options.get("method", "lifecycle")}
    if mean is not None:
        first = [r["intensity_g_per_kwh"] for r in raw.to_pylist() if r["region"] == names[0]]
        assert sum(first) / len(first) == pytest.approx(mean, abs=0.1)


def test_estimated_hours_of_real_data_keep_their_flag(shared_data):
    path = shared_data / "traces" / "electricity_maps_2021_2023_original_columns.parquet"
    if not path.is_file():
        pytest.skip("licensed for internal use and not redistributed")
    start, end = datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 2, 1, tzinfo=UTC)
    rows = hourly(open_grid(path), start, end, ["ap-south-1"]).table
    assert all(rows["estimated"].to_pylist())
    assert set(rows["quality"].to_pylist()) == {"estimated"}
