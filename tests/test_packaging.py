import ast
import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from dotenv import dotenv_values
from environs import Env

from app.cli_settings import CliSettings
from app.settings import ApiSettings, CallbackSettings, LogsSettings
from executors.settings import ExecutorSettings

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("app", "brokers", "executors", "workers")
PRIVATE_ROOT = "hades_scheduler"


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def requirement_names(requirements: list[str]) -> set[str]:
    """Names in their normal form, without versions and markers."""
    return {normal(re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]) for line in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constrained() -> list[str]:
    text = (ROOT / "constraints.txt").read_text()
    return [line for line in lines(text) if not line.startswith("#")]


def packages_on_disk() -> set[str]:
    """Dotted names of all directories below our four rooms that hold Python files."""
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    return {".".join(file.parent.relative_to(ROOT).parts) for file in files}


def imported_names() -> set[str]:
    """Top-level names of all that our code imports from elsewhere."""
    names: set[str] = set()
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - set(ROOMS)


def test_every_package_on_disk_is_installed(setup_cfg: ConfigParser) -> None:
    listed = set(lines(setup_cfg["options"]["packages"]))

    assert {f"{PRIVATE_ROOT}.{package}" for package in packages_on_disk()} <= listed


def test_every_installed_package_is_mapped_to_its_directory(setup_cfg: ConfigParser) -> None:
    mapped = dict(re.split(r"\s*=\s*", line) for line in lines(setup_cfg["options"]["package_dir"]))

    assert set(mapped) == set(lines(setup_cfg["options"]["packages"]))
    for package, directory in mapped.items():
        assert package == f"{PRIVATE_ROOT}.{directory.replace('/', '.')}"


def test_no_installed_dependency_ships_one_of_our_names() -> None:
    taken = packages_distributions()

    owners = {owner for room in ROOMS for owner in taken.get(room, [])}
    assert owners <= {"hades-scheduler"}


def test_app_is_no_more_than_a_docstring() -> None:
    body = ast.parse((ROOT / "app" / "__init__.py").read_text()).body

    assert len(body) == 1 and ast.get_docstring(ast.Module(body, []))


def test_the_changelog_knows_the_version(setup_cfg: ConfigParser) -> None:
    version = setup_cfg["metadata"]["version"]

    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_every_requirement_is_pinned_by_the_constraints(setup_cfg: ConfigParser) -> None:
    required = lines(setup_cfg["options"]["install_requires"])
    required += lines(setup_cfg["options.extras_require"]["dev"])

    assert requirement_names(required) <= requirement_names(constrained())


def test_the_constraints_are_exact_versions() -> None:
    assert [line for line in constrained() if not re.fullmatch(r"[\w.-]+==[\w.+!]+", line)] == []


def test_everything_that_is_imported_is_required_by_name(setup_cfg: ConfigParser) -> None:
    extras = dict(setup_cfg["options.extras_require"])
    extras.pop("dev")
    required = requirement_names(lines(setup_cfg["options"]["install_requires"]))
    required |= {name for extra in extras.values() for name in requirement_names(lines(extra))}
    owners = packages_distributions()

    missing = {
        name
        for name in imported_names()
        if not required & {normal(owner) for owner in owners.get(name, [name])}
    }
    assert missing == set()


def test_the_installed_dependencies_are_all_pinned() -> None:
    """What constraints.txt leaves open would differ from one build to the next."""
    pinned = requirement_names(constrained())
    needed, found = {"hades-scheduler"}, True
    installed = {normal(str(dist.name)): dist for dist in distributions()}
    if "hades-scheduler" not in installed:
        pytest.skip("hades-scheduler is not installed here: use `make test`")
    while found:
        found = {
            name
            for dist in needed
            for name in requirement_names(unconditional(installed[dist].requires or []))
            if name in installed and name not in needed
        }
        needed |= found

    assert needed - pinned == {"hades-scheduler"}


def unconditional(requirements: list[str]) -> list[str]:
    return [line for line in requirements if "extra ==" not in line]


def test_the_example_environment_names_every_variable_that_is_read() -> None:
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*settings.py")]
    read = {
        name for file in files for name in re.findall(r'"([A-Z][A-Z0-9_]{3,})"', file.read_text())
    }
    named = set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.M))

    assert read - named == set()


def test_the_example_environment_holds_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dotenv_values(ROOT / ".env.example").items():
        monkeypatch.setenv(name, value or "")

    assert CliSettings.from_env(Env()) == CliSettings()
    assert ApiSettings.from_env(Env()) == ApiSettings()
    assert LogsSettings.from_env(Env()) == LogsSettings()
    assert CallbackSettings.from_env(Env()) == CallbackSettings()
    assert ExecutorSettings.from_env(Env()) == ExecutorSettings()


@pytest.mark.slow
def test_the_wheel_holds_every_module_under_the_private_root_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."]
    copy = tmp_path / "checkout"
    subprocess.run(["cp", "-r", str(ROOT), str(copy)], check=True)
    subprocess.run(build, cwd=copy, check=True)
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {file for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    expected = {f"{PRIVATE_ROOT}/{file.relative_to(ROOT)}" for file in modules}
    assert expected <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {PRIVATE_ROOT}
