"""What is shown and stored of a job has no secrets in it, and all the rest."""

from __future__ import annotations

import base64
import json
import random
import re
from dataclasses import replace

import pytest
from environs import Env, EnvError
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.job import Job, Retry, RetryOn, Step
from executors.redaction import RedactMode, Redactor
from executors.redaction_settings import RedactionSettings
from executors.secrets import MASK, is_secret_key, secrets_of

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIEvQ\n-----END RSA PRIVATE KEY-----"
)
OPAQUE = base64.b64encode(random.Random(5).randbytes(33)).decode()
HEX = random.Random(5).randbytes(20).hex()

smart = Redactor()


def job_of(*steps: Step, **fields) -> Job:
    return Job(**{"id": "7", "name": "n", "steps": steps or (Step(image="i"),), **fields})


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("API_TOKEN", "x"),
        ("DB_PASSWORD", "a b"),
        ("Authorization", "Bearer x"),
        ("URL", "https://user:pass@example.org/repository.git"),
        ("NOTE", f"the key is {PEM}"),
        ("NOTE", JWT),
        ("NOTE", OPAQUE),
        ("NOTE", HEX),
        ("NOTE", f" {HEX}\n"),
        ("NOTE", "ghp_abcdefghijklmnopqrstuvwxyzabcdefghij"),
    ],
)
def test_values_that_are_secrets_by_their_key_or_their_looks_are_masked(key, value) -> None:
    assert smart.metadata({key: value}) == {key: MASK}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("API_TOKEN", ""),
        ("AUTHOR", "Ada Lovelace"),
        ("GIT_AUTHOR_EMAIL", "ada@example.org"),
        ("REGISTRY", "registry.internal.example1"),
        ("IMAGE", "registry.example.org:5000/artemis/artemis-maven-template:java17-18"),
        ("REPOSITORY_DIR", "/shared/example/build/test-results/test"),
        ("URL", "https://git.example.org:8443/courses/exercise-one.git"),
        ("TEST", "SortingAlgorithmBehaviorTest"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/lib/x86_64-linux-gnu/openssl"),
    ],
)
def test_other_values_are_shown(key, value) -> None:
    assert smart.metadata({key: value}) == {key: value}


def test_what_is_assigned_within_a_value_is_masked_there() -> None:
    shown = smart.metadata({"JAVA_OPTS": "-Xmx1g -Ddb.password=hunter2 -Dx=y"})
    assert shown == {"JAVA_OPTS": f"-Xmx1g -Ddb.password={MASK} -Dx=y"}


def test_all_values_may_be_masked() -> None:
    assert Redactor("all").metadata({"A": "b", "C": ""}) == {"A": MASK, "C": ""}


def test_an_installation_names_the_keys_of_its_secrets() -> None:
    redactor = Redactor(key_patterns=["^pin$", "(?i)geheim"])
    metadata = {"PIN": "1234", "DAS_GEHEIMNIS": "x", "SPINE": "y", "TOKEN": "z"}
    assert redactor.metadata(metadata) == {**metadata, "PIN": MASK, "DAS_GEHEIMNIS": MASK}
    assert redactor.text("PIN=1234 TOKEN=z") == f"PIN={MASK} TOKEN=z"


@pytest.mark.parametrize(("mode", "patterns"), [("some", None), ("smart", ["("])])
def test_a_redactor_that_cannot_work_is_not_made(mode, patterns) -> None:
    with pytest.raises((ValueError, re.error)):
        Redactor(mode, patterns)


# --- scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("export TOKEN=abc; run", f"export TOKEN={MASK}; run"),
        ("TOKEN='a b' run", f"TOKEN='{MASK}' run"),
        ('TOKEN="a\\"b c" run', f'TOKEN="{MASK}" run'),
        ("TOKEN=abc\"def\"'ghi' run", f"TOKEN={MASK} run"),
        ('TOKEN="abc"$def run', f"TOKEN={MASK} run"),
        ("set DB_PASSWORD = abc", f"set DB_PASSWORD = {MASK}"),
        ("docker run -e API_KEY=abc i", f"docker run -e API_KEY={MASK} i"),
        ("login --password hunter2 -u me", f"login --password {MASK} -u me"),
        ("login --password=hunter2 -u me", f"login --password={MASK} -u me"),
        ("login --no-password --verbose", "login --no-password --verbose"),
        ('{"password": "x y", "user": "bob"}', f'{{"password": "{MASK}", "user": "bob"}}'),
        ('{"token":"abc","user":"bob"}', f'{{"token":"{MASK}","user":"bob"}}'),
        ('-d "{\\"token\\":\\"abc\\"}"', f'-d "{{\\"token\\":{MASK}}}"'),
        ('env: "PASSWORD=abc"', f'env: "PASSWORD={MASK}"'),
        ("URL=password=abc", f"URL=password={MASK}"),
        (
            'curl -H "Authorization: Bearer abc" -d "x y"',
            f'curl -H "Authorization: Bearer {MASK}" -d "x y"',
        ),
        ("git clone https://me:pa@ss@host/x.git", f"git clone https://me:{MASK}@host/x.git"),
        ("wget 'https://host/x?token=abc'", f"wget 'https://host/x?token={MASK}'"),
        (f"cat <<E\n{PEM}\nE", f"cat <<E\n{MASK}\nE"),
        ("cat <<E\n-----BEGIN PRIVATE KEY-----\nMIIEvQ", f"cat <<E\n{MASK}"),
        (f"echo {JWT} | base64 -d", f"echo {MASK} | base64 -d"),
        (f"COMMIT={HEX}; x", f"COMMIT={MASK}; x"),
        (f'x="{OPAQUE}"', f'x="{MASK}"'),
        (f"curl https://host/hooks/{HEX}", f"curl https://host/hooks/{MASK}"),
    ],
)
def test_what_looks_like_a_secret_in_a_script_is_masked(script, shown) -> None:
    assert smart.text(script) == shown


@pytest.mark.parametrize(
    "script",
    [
        "set -e && cd /shared/example && ./gradlew --status && ./gradlew clean test",
        "docker pull ghcr.io/hades-scheduler/artemis-maven-template:java17-18",
        f"docker pull alpine@sha256:{HEX}{HEX[:24]}",
        "ls /usr/lib/x86_64-linux-gnu/openssl/engines /opt/java/jdk-17/bin/java",
        "ping registry.internal.example1",
        "curl https://token.example.org:8080/auth:1",
        "git log --author=Ada --format=authority",
        "./gradlew test --tests SortingAlgorithmBehaviorTest --continue-on-collection-errors",
        "echo ======================== ------------------------",
        "echo $TOKEN | wc -c",
        "token=",
        "",
    ],
)
def test_the_rest_of_a_script_is_shown(script) -> None:
    assert smart.text(script) == script


def test_an_assignment_ends_with_its_line() -> None:
    assert smart.text("TOKEN=\nmake test") == "TOKEN=\nmake test"
    assert smart.text('TOKEN="abc\nmake test') == f"TOKEN={MASK}\nmake test"


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "aA1", "token", "token=", 'token="', "token='", 'token=\\"\n', "token   ", "a="),
        *("--token ", "token: bearer ", "-----BEGIN", "-----BEGIN X-----", "-----BEGIN X-----\n-"),
        *("://", "://a:", "://a:@", "eyJ", "eyJaaaaaa.", "ghp_", "-ghp_a ", "sha256:", "a/", " "),
    ],
)
def test_no_text_takes_long(piece) -> None:
    """In quadratic time, a single one would take longer than the tests may."""
    text = piece * (2_000_000 // len(piece))
    smart.text(text)
    smart.metadata({"A": text})


def test_neither_many_nor_long_secrets_take_long() -> None:
    texts = tuple(Step(image="i", script="a" * 100_000) for _ in range(50))
    shorter = {f"TOKEN_{size}": "a" * size for size in range(4, 120)}
    longer = {f"TOKEN_{size}": "a" * 1000 + f"b{size}" for size in range(100)}
    lines = {"TOKEN": "\n".join(f"line {number}" for number in range(10_000))}
    for metadata in (shorter, longer, lines):
        shown = smart.job(job_of(*texts, metadata=metadata))
        assert set(shown["metadata"].values()) == {MASK}


# --- jobs ----------------------------------------------------------------------------------------


def test_a_job_without_secrets_is_shown_as_it_is() -> None:
    job = job_of(
        Step(id=1, name="Build", image="alpine:3", script="make", memory_limit=2**30),
        Step(image="alpine", metadata={"A": "b"}, timeout_seconds=3, retry=Retry(max=1)),
        metadata={"COURSE": "algorithms"},
        callback_url="https://example.org:8443/adapter/logs",
        retry=Retry(max=2, backoff_seconds=1.5, on=(RetryOn.OOM, RetryOn.IMAGE)),
        submitted_by="moodle",
    )
    shown = smart.job(job)
    assert json.loads(json.dumps(shown)) == shown == job.to_dict()


def test_a_secret_is_masked_wherever_the_job_repeats_it() -> None:
    job = job_of(
        Step(
            name="as hunter2!", image="i/hunter2!", script="x hunter2!", metadata={"A": "hunter2!"}
        ),
        name="job of hunter2!",
        metadata={"PASSWORD": "hunter2!", "DEBUG_AUTH": "true", "PIN_TOKEN": "123"},
        callback_url="https://example.org/hunter2!/x?y=hunter2!",
    )
    shown = smart.job(job)
    assert "hunter2!" not in json.dumps(shown)
    assert shown["name"] == f"job of {MASK}"
    assert shown["steps"][0]["image"] == f"i/{MASK}"
    assert shown["callback_url"] == f"https://example.org/{MASK}/x"


def test_short_secrets_and_switches_are_masked_under_their_key_alone() -> None:
    script = "while true; do echo 123; done"
    job = job_of(Step(image="i", script=script), metadata={"AUTH": "true", "TOKEN": "123"})
    shown = smart.job(job)
    assert shown["metadata"] == {"AUTH": MASK, "TOKEN": MASK}
    assert shown["steps"][0]["script"] == script


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("http://h", "http://h"),
        ("https://me:pass@Host.example:8443/logs?key=x#y", "https://Host.example:8443/logs"),
        ("http://[::1]:80/?a=b", "http://[::1]:80/"),
        (f"https://hooks.example.org/services/{HEX}", f"https://hooks.example.org/services/{MASK}"),
        ("http://me:pa/ss@host/", MASK),
        ("http://[::1", MASK),
        ("no url", MASK),
    ],
)
def test_of_a_callback_scheme_host_port_and_path_are_shown(url, shown) -> None:
    job = job_of(callback_url=url, status_callback_url=url)
    found = smart.job(job)
    assert (found["callback_url"], found["status_callback_url"]) == (shown, shown)


def test_a_job_is_recognised_when_it_comes_again_with_its_secrets() -> None:
    job = job_of(
        Step(image="i", script="curl -H 'X-Token: abc'", retry=Retry(max=1)),
        metadata={"TOKEN": "t0ps3cret", "A": "b"},
        callback_url="https://me:pw@example.org/x?y",
    )
    stored = json.loads(json.dumps(smart.job(job)))
    assert smart.matches(stored, replace(job, id="8"))
    assert smart.matches(stored, replace(job, metadata={"TOKEN": "rotated", "A": "b"}))
    for other in (
        replace(job, name="other"),
        replace(job, metadata={"TOKEN": "t0ps3cret", "A": "c"}),
        replace(job, metadata={"A": "b"}),
        replace(job, timeout_seconds=1),
        replace(job, callback_url="https://example.org/y"),
        replace(job, steps=(*job.steps, Step(image="i"))),
    ):
        assert not smart.matches(stored, other)


SECRET_KEYS = ("API_TOKEN", "db.password", "x-api-key", "AUTH", "CERT", "SESSION_ID")
FREE = st.text(st.characters(exclude_characters="•"), max_size=30)
MAPS = st.dictionaries(st.sampled_from((*SECRET_KEYS, "A", "LONG_NAME", "")) | FREE, FREE)
PIECES = st.sampled_from(
    ["token=", "--password ", '"', "'", "\\", "://a:", "@", "-----BEGIN X-----", "eyJhbGci.", "\0"]
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Secrets of some keys turn up in other places too."""
    maps = [draw(MAPS) for _ in range(3)]
    found = [value for metadata in maps for value in metadata.values()]
    text = st.lists(FREE | PIECES | st.sampled_from(found or [""])).map("".join)
    maps[0]["REPEATED"] = draw(text)
    steps = tuple(
        Step(name=draw(text), image=draw(text), script=draw(text), metadata=metadata)
        for metadata in maps[1:]
    )
    urls = {name: draw(text) for name in ("callback_url", "status_callback_url")}
    return job_of(*steps, name=draw(text), metadata=maps[0], **urls)


def leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value] if isinstance(value, str) else []


@settings(deadline=None)
@given(job=jobs(), mode=st.sampled_from(RedactMode))
def test_no_secret_value_is_left_anywhere(job: Job, mode: RedactMode) -> None:
    redactor = Redactor(mode)
    shown = json.loads(json.dumps(redactor.job(job)))
    fixed = ("timestamp", "retry")
    written = leaves({key: value for key, value in shown.items() if key not in fixed})
    for secret in secrets_of(job):
        assert not any(secret in leaf for leaf in written if leaf != "failure")
    for before, after in zip((job, *job.steps), (shown, *shown["steps"]), strict=True):
        assert list(after["metadata"]) == list(before.metadata)
        for key, value in before.metadata.items():
            assert not value or not is_secret_key(key) or after["metadata"][key] == MASK
    assert redactor.matches(shown, job)


@settings(deadline=None)
@given(text=st.lists(FREE | PIECES).map("".join))
def test_any_text_can_be_redacted(text: str) -> None:
    assert isinstance(smart.text(text), str)
    assert set(smart.metadata({text: text})) == {text}


# --- settings ------------------------------------------------------------------------------------


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> RedactionSettings:
    for name in ("SECRET_REDACT_MODE", "SECRET_KEY_PATTERNS"):
        monkeypatch.setenv(name, variables.get(name, ""))
    return RedactionSettings.from_env(Env())


def test_empty_variables_leave_the_defaults(monkeypatch) -> None:
    found = read(monkeypatch)
    assert found == RedactionSettings() == RedactionSettings(mode=RedactMode.SMART)
    assert found.redactor().metadata({"TOKEN": "x", "A": "y"}) == {"TOKEN": MASK, "A": "y"}


def test_mode_and_patterns_are_read(monkeypatch) -> None:
    found = read(monkeypatch, SECRET_REDACT_MODE="all", SECRET_KEY_PATTERNS="^pin$, geheim,,")
    assert found == RedactionSettings(mode=RedactMode.ALL, key_patterns=("^pin$", "geheim"))
    assert found.redactor().text("PIN=1 TOKEN=2") == f"PIN={MASK} TOKEN=2"


@pytest.mark.parametrize(
    ("name", "value"), [("SECRET_REDACT_MODE", "some"), ("SECRET_KEY_PATTERNS", "ok,(")]
)
def test_a_setting_that_makes_no_sense_is_named(monkeypatch, name, value) -> None:
    with pytest.raises(EnvError, match=name):
        read(monkeypatch, **{name: value})
