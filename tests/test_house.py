"""The rules of the house: what may import what, what every module, table and lock file holds."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sust_dagster.orchestration.dbt_lake import SOURCES_FILE, sources_yaml
from sust_dagster.world import schemas

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sust_dagster"
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))
LOCKS = ("requirements.lock", "requirements-dev.lock")

#: The only places that may import dagster (whole folders, and two files).
DAGSTER_ROOMS = ("orchestration", "faces", "definitions.py", "cli.py")


def module_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path) -> set[str]:
    """Full names of everything a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_import_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("agents/accountant/methods.py", "import sust_dagster.world.lake", "Domain code is pure"),
        ("agents/accountant/methods.py", "import dagster", "Domain code is pure"),
        ("agents/ingestor/units.py", "import sust_dagster.agents.accountant", "Data flows one way"),
        ("connectors/sources.py", "import sust_dagster.orchestration.jobs", "Only the faces"),
        ("settings.py", "import sust_dagster.faces.runs", "Only the faces"),
        ("orchestration/jobs.py", "import sust_dagster.faces.runs", "The orchestration knows no face"),
        ("world/ids.py", "import sust_dagster.agents.ingestor", "The world model knows"),
        ("world/ids.py", "import sust_dagster.simulator.clock", "Only the connectors reach"),
    ],
)
def test_a_violation_of_a_contract_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    """Negative control: the same rules over a copy of the package with one import too many."""
    shutil.copytree(PACKAGE, tmp_path / "sust_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "sust_dagster" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    broken = [text for text in done.stdout.splitlines() if text.endswith(" BROKEN")]
    assert any(text.startswith(contract) for text in broken) or contract in done.stdout.split("Broken contracts")[1]


def test_every_package_is_under_a_contract() -> None:
    """A new room of the house must say which imports it may have."""
    known = {
        "agents", "connectors", "faces", "orchestration", "reference", "simulator", "world",
        "cli.py", "definitions.py", "settings.py", "__init__.py",
    }  # fmt: skip
    found = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__" and (p.is_dir() or p.suffix == ".py")}
    assert found <= known, "add it to the import contracts of pyproject.toml, then here"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_a_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_dagster_is_imported_in_its_rooms_only() -> None:
    users = {p for p in MODULES if any(n.split(".")[0].startswith("dagster") for n in imported(p))}
    assert users, "the search finds nothing at all"
    assert not {module_id(p) for p in users if p.relative_to(PACKAGE).parts[0] not in DAGSTER_ROOMS}


def test_help_does_not_wait_for_dagster() -> None:
    """Commands import what is heavy when they run."""
    code = (
        "import sys, sust_dagster.cli; print([m for m in ('dagster', 'pandas', 'pyarrow', 'dbt') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_that_define_assets_keep_their_annotations() -> None:
    """Dagster reads the type of ``context`` at definition time; a postponed one is a string to it."""
    for path in (PACKAGE / "orchestration").rglob("*.py"):
        tree = ast.parse(path.read_text())
        defines = any(
            isinstance(n, ast.arg) and n.arg == "context" and n.annotation is not None for n in ast.walk(tree)
        )
        assert not (defines and "__future__" in imported(path)), path


def test_the_sources_of_dbt_are_current() -> None:
    assert SOURCES_FILE.read_text() == sources_yaml()


def test_no_file_holds_a_private_key() -> None:
    for path in text_files():
        for name in ("AWS_SECRET_ACCESS_KEY" + "=", "PRIVATE KEY" + "-----"):
            assert name not in path.read_text(errors="replace"), path


def pins(lock: str) -> dict[str, list[str]]:
    """Pin → its hashes."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if pin := re.match(r"([A-Za-z0-9_.\-]+)(\[[^\]]*\])?==(\S+)", line):
            name = pin.group(0)
            found[name] = []
        elif hashed := re.match(r"\s+--hash=sha256:([0-9a-f]{64})\b", line):
            found[name].append(hashed.group(1))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text and " @ " not in text
    found = pins(lock)
    assert len(found) > 50
    assert not [pin for pin, hashes in found.items() if not hashes]
    loose = [line for line in text.splitlines() if line and line[0].isalpha() and "==" not in line]
    assert loose == []


def test_the_two_locks_agree() -> None:
    runtime, dev = (set(pins(lock)) for lock in LOCKS)
    names = {p.split("==")[0].split("[")[0] for p in runtime}
    assert not {p for p in dev if p.split("==")[0].split("[")[0] in names} - runtime


def test_the_locks_hold_what_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = {lock: {p.split("==")[0].split("[")[0] for p in pins(lock)} for lock in LOCKS}

    def names(requirements: list[str]) -> set[str]:
        return {re.sub(r"[._-]+", "-", re.split(r"[^A-Za-z0-9._-]", r, maxsplit=1)[0].lower()) for r in requirements}

    assert names([*project["dependencies"], *extras["build"]]) <= locked["requirements.lock"]
    assert names(extras["dev"]) <= locked["requirements-dev.lock"]


def test_tables_are_declared_once_and_every_column_has_a_meaning() -> None:
    specs = [v for v in vars(schemas).values() if isinstance(v, schemas.TableSpec)]
    assert sorted(s.name for s in specs) == sorted(schemas.TABLES)
    for spec in schemas.TABLES.values():
        assert spec.doc.endswith("."), spec.name
        assert set(spec.key) <= set(spec.column_names), spec.name
        assert len(set(spec.column_names)) == len(spec.column_names), spec.name
        assert spec.arrow.names == [c.name for c in spec.stored], spec.name
        for c in spec.stored:
            assert c.doc.strip(), (spec.name, c.name)
            assert spec.arrow.field(c.name).metadata[b"doc"].decode() == c.doc
        if spec.home == "lake":
            assert spec.time_column in spec.column_names, spec.name
            assert spec.partition != "none", spec.name


def test_no_module_but_the_declarations_lists_the_columns_of_a_table() -> None:
    """A second list of a table's columns would drift from the first."""
    for path in MODULES:
        if path == PACKAGE / "world" / "schemas.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List):
                words = {e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)}
                for spec in schemas.TABLES.values():
                    assert len(spec.columns) < 8 or not words >= set(spec.column_names), (path, spec.name)


def text_files() -> list[Path]:
    """What belongs to the repository, tracked or about to be, as far as it is text."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:4096]:
            found.append(path)
    return found


#: Hosts that packages come from, and folders of one machine; written so that this file does not hold them.
_HOSTS = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "conda" + ".anaconda.org",
    "registry" + ".npmjs",
    "proxy" + ".golang",
)
_PATHS = re.compile(r"(?<![\w.~/$}-])/(?:ho" + r"me|Us" + r"ers|ro" + r"ot|wo" + r"rk|mn" + r"t)/[\w.-]+")


def offences(text: str) -> list[str]:
    return [h for h in _HOSTS if h in text] + _PATHS.findall(text)


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    files = text_files()
    assert len(files) > 100
    assert {str(p.relative_to(ROOT)): o for p in files if (o := offences(p.read_text(errors="replace")))} == {}


@pytest.mark.parametrize(
    "text",
    ["https://pypi" + ".org/simple", "see /ho" + "me/ada/project", 'open("/wo' + 'rk/main/x")', "cd /Us" + "ers/ada"],
)
def test_a_registry_or_a_folder_is_found(text: str) -> None:
    """Negative control of the search above."""
    assert offences(text)


@pytest.mark.parametrize("text", ["docs/homepage", "{root}/home/lake", "a/home/b", "~/home/main", "https://a.b/home/x"])
def test_a_relative_path_is_no_offence(text: str) -> None:
    assert not offences(text)
