"""`hades images`, as a person at a terminal uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.executors.image_archives import config, digest, docker_save, file, layer, tar_of
from tests.executors.registries import RunningRegistry, running_registry
from workers.images import main

BASE = layer(file("bin/sh", b"x" * 1234))
DIGEST = digest(config([BASE]))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "app.tar"
    path.write_bytes(tar_of(docker_save(["app:1", "app:2"], [BASE])))
    return path


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HADES_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HADES_SANDBOX_UID", "61003")
    return tmp_path / "data"


def hades_images(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_load_names_each_image_it_has_unpacked(archive: Path, data_dir: Path) -> None:
    result = hades_images("load", archive)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "docker.io/library/app:1",
        "docker.io/library/app:2",
    ]
    [shell] = data_dir.glob("images/*/rootfs/bin/sh")
    assert shell.stat().st_uid == (61003 if os.geteuid() == 0 else os.geteuid())


def test_list_shows_references_digests_and_sizes(archive: Path) -> None:
    assert hades_images("list").stdout == "REFERENCE  DIGEST  SIZE\n"
    hades_images("load", archive)
    lines = [line.split() for line in hades_images("list").stdout.splitlines()]
    assert lines == [
        ["REFERENCE", "DIGEST", "SIZE"],
        ["docker.io/library/app:1", DIGEST, "1.23kB"],
        ["docker.io/library/app:2", DIGEST, "1.23kB"],
    ]


def test_pull_brings_images_from_their_registry(registry: RunningRegistry) -> None:
    references = [registry.push_image(name, [BASE]) for name in ("a:1", "b:1")]
    result = hades_images("pull", *references)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"{reference} {DIGEST}" for reference in references]


def test_rm_forgets_references_and_digests(archive: Path, data_dir: Path) -> None:
    hades_images("load", archive)
    assert hades_images("rm", "app:1").exit_code == 0
    assert hades_images("rm", DIGEST).exit_code == 0
    assert len(hades_images("list").stdout.splitlines()) == 1
    assert list(data_dir.glob("images/*/rootfs")) == []


def test_errors_are_one_line_on_stderr_and_exit_code_1(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no archive")
    for arguments, why in (
        (["load", tmp_path / "text"], f"{tmp_path}/text: its archive is damaged"),
        (["pull", f"{registry.address}/none"], "answered 404"),
        (["pull", "NOT VALID"], "invalid reference format"),
        (["rm", "app:1"], "no such image: app:1"),
    ):
        result = hades_images(*arguments)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert why in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_setting_that_makes_no_sense_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HADES_SANDBOX_UID", "nobody")
    result = hades_images("list")
    assert result.exit_code == 1
    assert "HADES_SANDBOX_UID" in result.stderr
    assert "Traceback" not in result.output


def test_it_runs_as_a_module() -> None:
    argv = [sys.executable, "-m", "workers.images", "list"]
    assert subprocess.check_output(argv, text=True).startswith("REFERENCE")
