import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.key_file import KeyFileError, WatchedKeys, add_key, read_keys, remove_keys
from app.keys import ApiKey, KeyInvalid, describe, digest_of, format_line

COMMENT = "# who may use the API\n\n"


def key(name: str, secret: str = "") -> ApiKey:
    return describe(name, digest_of(secret or name), ["submit"])


def line(name: str, secret: str = "") -> str:
    return format_line(key(name, secret)) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(COMMENT + line("one"))
    return path


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def watched(path, ticks) -> WatchedKeys:
    return WatchedKeys(path, ticks)


def names(path: Path) -> list[str]:
    return [key.name for key in read_keys(path)]


def test_a_new_key_is_appended_to_what_is_there(path):
    add_key(path, key("two"))
    assert path.read_text() == COMMENT + line("one") + line("two")


def test_a_line_without_an_end_is_not_joined(path):
    path.write_text(line("one").rstrip())
    add_key(path, key("two"))
    assert names(path) == ["one", "two"]


def test_a_new_file_is_its_owners_alone(tmp_path):
    add_key(tmp_path / "new", key("one"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["new"]


def test_an_old_file_keeps_its_mode_and_a_link_stays_one(path, tmp_path):
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    add_key(tmp_path / "link", key("two"))
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path) == ["one", "two"]


def test_a_name_has_one_key_unless_another_is_asked_for(path):
    with pytest.raises(KeyInvalid, match="one has a key already"):
        add_key(path, key("one", "other"))
    add_key(path, key("one", "other"), another=True)
    assert names(path) == ["one", "one"]


def test_what_is_revoked_leaves_the_rest_as_it_was(path):
    add_key(path, key("two"))
    assert remove_keys(path, "one") == 1
    assert path.read_text() == COMMENT + line("two")
    assert remove_keys(path, "one") == 0


def test_one_of_several_keys_is_revoked_by_its_id(path):
    second = key("one", "second")
    add_key(path, second, another=True)
    assert remove_keys(path, "one", key("one").id) == 1
    assert list(read_keys(path)) == [second]


def test_editors_at_the_same_time_lose_nothing(path):
    added = [f"k{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_key(path, key(name)), added))
    assert sorted(names(path)) == sorted([*added, "one"])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"# ok\nci hunter2 submit\n", "line 2: the hash"),
        (line("a").encode() + b"\xff\n", "line 2: it is not UTF-8"),
        ((line("a") + "\n" + line("b", "a")).encode(), "line 3: the same key as in line 1"),
    ],
)
def test_a_broken_file_is_refused_by_its_line_and_not_edited(path, content, why):
    path.write_bytes(content)
    for act in (read_keys, WatchedKeys, lambda path: add_key(path, key("x"))):
        with pytest.raises(KeyFileError, match=why) as refused:
            act(path)
        assert str(path) in str(refused.value)
        assert "hunter2" not in str(refused.value)
    assert path.read_bytes() == content


def test_a_file_that_is_missing_is_told_by_its_name(tmp_path):
    for act in (read_keys, WatchedKeys, lambda path: remove_keys(path, "x")):
        with pytest.raises(KeyFileError, match=r"absent: No such file"):
            act(tmp_path / "absent")
    with pytest.raises(KeyFileError, match=r"nowhere: No such file"):
        add_key(tmp_path / "nowhere" / "keys", key("x"))


def test_a_change_is_seen_within_a_second(path, watched, ticks):
    add_key(path, key("two"))
    assert watched.current().find("two") is None
    ticks.now += 1.0
    assert watched.current().find("two") == key("two")
    remove_keys(path, "one")
    ticks.now += 1.0
    assert watched.current().find("one") is None


def test_a_change_in_place_is_seen(path, watched, ticks):
    path.write_text(line("two"))
    ticks.now += 1.0
    assert watched.current().find("two") is not None


def test_a_link_that_leads_elsewhere_is_seen(tmp_path, ticks):
    """Kubernetes updates a mounted Secret so."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(line(name))
    data = tmp_path / "data"
    data.symlink_to("one")
    watched = WatchedKeys(data / "keys", ticks)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(data)
    ticks.now += 1.0
    assert watched.current().find("two") is not None
    assert watched.current().find("one") is None


def test_a_file_that_does_not_change_is_not_read(path, watched, ticks, monkeypatch):
    monkeypatch.setattr("app.key_file.read_keys", None)
    ticks.now += 1.0
    assert watched.current().find("one") is not None


def test_a_file_that_breaks_leaves_the_keys_and_is_told_once(path, watched, ticks, caplog):
    path.write_text(line("one") + "hunter2\n")
    for _ in range(3):
        ticks.now += 1.0
        assert watched.current().find("one") is not None
    path.unlink()
    for _ in range(3):
        ticks.now += 1.0
        assert watched.current().find("one") is not None
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 2
    assert "keys, line 2: a key has a name" in told[0]
    assert "No such file" in told[1]
    assert "hunter2" not in caplog.text


def test_a_file_that_is_repaired_counts_again(path, watched, ticks):
    path.write_text("broken\n")
    ticks.now += 1.0
    assert len(watched.current()) == 1
    path.write_text(line("two"))
    ticks.now += 1.0
    assert [key.name for key in watched.current()] == ["two"]
