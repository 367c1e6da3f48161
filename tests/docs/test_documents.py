"""Documents and code say the same."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click import Group
from flask import Flask

from app.cli import main
from app.factory import create_api, create_logs
from app.settings import ApiSettings
from executors.job import Job, Step
from executors.schema import load_job

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOB_ID = "00000000-0000-4000-8000-000000000000"
VARIABLE = re.compile(r'"([A-Z][A-Z0-9]*_[A-Z0-9_]+|DEBUG|CONCURRENCY)"')


def variables_read() -> set[str]:
    rooms = [path for path in ROOT.glob("*/*settings.py") if path.parent.name != "tests"]
    rooms.append(ROOT / "app/cli.py")  # defaults of options
    return {name for room in rooms for name in VARIABLE.findall(room.read_text())}


def blocks(document: Path, language: str = "") -> list[str]:
    """Fenced blocks of the language; odd pieces between fences are blocks."""
    pieces = re.split(r"^```", document.read_text(), flags=re.MULTILINE)[1::2]
    return [
        text for name, _, text in (piece.partition("\n") for piece in pieces) if name == language
    ]


def test_every_variable_that_is_read_is_documented():
    text = (ROOT / "docs/configuration.md").read_text()
    missing = {name for name in variables_read() if f"`{name}`" not in text}
    assert variables_read() and not missing


def test_every_documented_variable_is_read():
    table = (ROOT / "docs/configuration.md").read_text().splitlines()
    documented = {
        name
        for line in table
        if line.startswith("| `")
        for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", line.split("|")[1])
    }
    assert documented - variables_read() == set()


@pytest.mark.parametrize("kind", ["api", "logs"])
def test_every_route_is_documented(kind):
    api = whole_api() if kind == "api" else create_logs(None, None)
    text = (ROOT / "docs/api.md").read_text()
    for method, rule in routes(api):
        assert f"`{method} {rule}`" in text


def whole_api() -> Flask:
    return create_api(None, ApiSettings(), services=object())


def routes(app: Flask) -> set[tuple[str, str]]:
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def curls() -> list[tuple[str, str, str]]:
    """Method, URL without its query, and body of each example on the API's page."""
    text = "".join(blocks(ROOT / "docs/api.md", "sh")).replace("\\\n", " ")
    return [curl(line) for line in re.findall(r"^.*(curl .*)$", text, flags=re.MULTILINE)]


def curl(line: str) -> tuple[str, str, str]:
    words = shlex.split(line)
    body = words[words.index("-d") + 1] if "-d" in words else ""
    method = "POST" if body or "-X" in words else "GET"
    assert "-X" not in words or words[words.index("-X") + 1] == "POST"
    (url,) = [word for word in words if word.startswith("$API")]
    return method, url.removeprefix("$API").partition("?")[0], body


def test_every_route_of_v1_has_an_example_that_reaches_it():
    app = whole_api()
    urls = app.url_map.bind("localhost")
    reached = set()
    for method, path, body in curls():
        rule, _ = urls.match(path.replace("$JOB", JOB_ID), method, return_rule=True)
        reached.add((method, rule.rule))
        if body.startswith("@examples"):
            assert (ROOT / body[1:]).exists()
        elif body.startswith("{"):
            json.loads(body)
    assert {route for route in routes(app) if route[1].startswith("/v1/")} <= reached


@pytest.mark.parametrize("model", [Job, Step])
def test_every_field_of_a_job_is_documented(model):
    text = (ROOT / "docs/api.md").read_text()
    for field in model.__slots__:
        assert f"`{field}`" in text


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.json")), ids=lambda p: p.name)
def test_every_example_is_a_valid_job(path):
    assert load_job(json.loads(path.read_text()), job_id=JOB_ID).steps


def test_every_job_in_a_document_is_valid():
    jobs = [json.loads(block) for document in DOCUMENTS for block in blocks(document, "json")]
    assert jobs
    for job in jobs:
        assert load_job(job, job_id=JOB_ID).steps


def test_every_command_in_the_readme_exists():
    assert isinstance(main, Group)
    commands = [
        shlex.split(line, comments=True)
        for block in blocks(ROOT / "README.md")
        for line in block.splitlines()
        if re.match(r"(\.venv/bin/)?hades |make |hades$", line)
    ]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert len(commands) > 8
    for program, verb, *_ in commands:
        assert verb in (targets if program == "make" else main.commands)


def test_every_link_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
