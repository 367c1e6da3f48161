"""Keys and limits as they are served: two processes of gunicorn over a real NATS."""

import http.client
import json
import socket
import subprocess
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.cli_settings import environment
from app.commands import API_APP, web_command
from app.key_file import add_key, remove_keys
from app.keys import describe, digest_of

JOB = json.dumps({"name": "job", "steps": [{"image": "alpine"}]}).encode()
PROCESSES = 2
BROKEN = "keys, line 4: a key has a name, a hash and scopes"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    add(path, "slow", rate="1/h", burst="40")
    add(path, "ci")
    return path


def add(path: Path, name: str, **options: str) -> None:
    """A key that is its own name."""
    add_key(path, describe(name, digest_of(name), ["submit"], **options))


@contextmanager
def serving(log: Path, **variables: str) -> Iterator[int]:
    """The port of the API, which writes to `log`."""
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("w") as output:
        bind = f"fd://{listening.fileno()}"
        command = web_command(API_APP, bind=bind, processes=PROCESSES, threads=8)
        with subprocess.Popen(
            command.argv,
            env=environment(**command.env, **variables),
            stderr=output,
            pass_fds=(listening.fileno(),),
        ) as process:
            try:
                yield listening.getsockname()[1]
            finally:
                process.terminate()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def port(own_server, path, log) -> Iterator[int]:
    with serving(log, NATS_URL=own_server.url, HADES_API_KEYS_FILE=str(path)) as port:
        yield port


def submit(port: int, key: str) -> tuple[int, str]:
    credentials = b64encode(f"{key}:{key}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/build", JOB, {"Authorization": f"Basic {credentials}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def status(port: int, key: str) -> int:
    return submit(port, key)[0]


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def everywhere(port: int, key: str, wanted: int) -> None:
    """Until all processes agree."""
    until(lambda: all(status(port, key) == wanted for _ in range(10 * PROCESSES)))


def test_processes_share_the_limit_of_a_key(port):
    with ThreadPoolExecutor(16) as pool:
        seen = Counter(pool.map(lambda _: status(port, "slow"), range(120)))
    assert seen == {200: 40, 429: 80}
    assert status(port, "ci") == 200


def test_keys_come_and_go_while_the_api_serves(port, path, log):
    assert status(port, "new") == 401
    add(path, "new")
    everywhere(port, "new", 200)
    path.write_text(path.read_text() + "nonsense\n")
    until(lambda: [status(port, "new"), log.read_text().count(BROKEN)] == [200, PROCESSES])
    path.write_text(path.read_text().replace("nonsense\n", ""))
    remove_keys(path, "new")
    everywhere(port, "new", 401)
    assert status(port, "ci") == 200


def test_a_nats_that_is_away_is_no_matter_of_limits(port, own_server):
    assert status(port, "slow") == 200
    own_server.kill()
    assert submit(port, "slow") == (500, "Failed to enqueue job")
    own_server.start()
    until(lambda: status(port, "slow") == 200)


def test_a_queue_takes_no_more_jobs_than_it_may_hold(own_server, log):
    with serving(log, NATS_URL=own_server.url, HADES_MAX_QUEUED_JOBS="10") as port:
        seen = Counter(status(port, "") for _ in range(30))
        assert 10 <= seen[200] <= 10 + PROCESSES
        assert seen[503] == 30 - seen[200]
