import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.key_file import read_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def keys(path: Path, *arguments: str) -> Result:
    variables = {"HADES_API_KEYS_FILE": str(path)}
    return CliRunner().invoke(main, ["keys", *arguments], env=variables)


def test_a_key_is_printed_once_and_only_its_hash_is_kept(path):
    created = keys(path, "create", "ci", "--scope", "submit", "--scope", "read")
    assert created.exit_code == 0
    secret = created.stdout.strip()
    assert re.fullmatch(r"hades_[\w-]{43}", secret)
    assert secret not in path.read_text()
    found = read_keys(path).find(secret)
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("ci", ["read", "submit"])


def test_rate_burst_and_last_day_are_kept_and_listed(path):
    options = ["--scope", "admin", "--rate", "50/s", "--burst", "9", "--expires", "2001-02-03"]
    assert keys(path, "create", "ops", *options).exit_code == 0
    listed = keys(path, "list").stdout
    assert re.fullmatch(r"ops +[0-9a-f]{8}  admin +50/s \(burst 9\) +expired 2001-02-03\n", listed)


def test_another_file_can_be_named(path, tmp_path):
    other = tmp_path / "other"
    created = keys(path, "create", "ci", "--scope", "read", "--file", str(other))
    assert created.exit_code == 0
    assert other.exists() and not path.exists()


def test_a_key_is_replaced_without_a_gap(path):
    old = keys(path, "create", "ci", "--scope", "submit").stdout.strip()
    old_id = keys(path, "list").stdout.split()[1]
    assert keys(path, "create", "ci", "--scope", "submit").exit_code == 1
    new = keys(path, "create", "ci", "--scope", "submit", "--another").stdout.strip()
    assert keys(path, "revoke", "ci", "--id", old_id).exit_code == 0
    ring = read_keys(path)
    assert ring.find(old) is None
    assert ring.find(new) is not None


def test_what_is_revoked_is_gone(path):
    secret = keys(path, "create", "ci", "--scope", "submit").stdout.strip()
    assert keys(path, "revoke", "ci").exit_code == 0
    assert read_keys(path).find(secret) is None
    again = keys(path, "revoke", "ci")
    assert (again.exit_code, "there is no such key" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["create", "CI", "--scope", "read"], "a name has 1 to 63"),
        (["create", "hades", "--scope", "read"], "belongs to AUTH_KEY"),
        (["create", "ci", "--scope", "write"], "--scope"),
        (["create", "ci"], "--scope"),
        (["create", "ci", "--scope", "read", "--rate", "fast"], "a rate is written"),
        (["create", "ci", "--scope", "read", "--burst", "5"], "burst needs a rate"),
        (["create", "ci", "--scope", "read", "--expires", "soon"], "expires is a day"),
        (["list"], "No such file"),
        (["revoke", "ci"], "No such file"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_no_file(path, arguments, why):
    refused = keys(path, *arguments)
    assert refused.exit_code != 0
    assert why in refused.stderr
    assert not path.exists()


def test_without_a_file_the_variable_is_named():
    refused = CliRunner().invoke(main, ["keys", "list"], env={"HADES_API_KEYS_FILE": ""})
    assert refused.exit_code == 2
    assert "HADES_API_KEYS_FILE" in refused.stderr


@pytest.mark.parametrize("content", [None, "ci nonsense\n"])
def test_the_api_does_not_start_with_keys_that_it_cannot_read(path, content):
    if content is not None:
        path.write_text(content)
    variables = {"HADES_API_KEYS_FILE": str(path)}
    refused = CliRunner().invoke(main, ["api"], env=variables)
    assert refused.exit_code == 1
    assert str(path) in refused.stderr
