import pytest
from environs import Env, EnvError

from app.settings import ApiSettings, LogsSettings
from brokers.settings import NatsSettings
from brokers.token_buckets import Rate

NAMES = ("API_PORT", "AUTH_KEY", "DEBUG", "HADES_MAX_BODY_BYTES", "HADESLOGMANAGER_API_PORT")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in (*NAMES, "HADES_API_KEYS_FILE", "HADES_RATE_LIMIT", "HADES_RATE_BURST"):
        monkeypatch.delenv(name, raising=False)


def api() -> ApiSettings:
    return ApiSettings.from_env(Env())


def logs() -> LogsSettings:
    return LogsSettings.from_env(Env())


def test_the_api_listens_on_8080_by_default():
    assert api().port == 8080


def test_the_api_is_open_by_default():
    assert api().auth_key == ""


def test_debug_is_off_by_default():
    assert api().debug is False
    assert logs().debug is False


def test_a_body_may_have_8_mib_by_default():
    assert api().max_body_bytes == 8 * 1024 * 1024


def test_keys_and_limits_are_off_by_default():
    assert (api().api_keys_file, api().rate_limit) == ("", None)


def test_a_rate_limit_has_its_variables(monkeypatch):
    monkeypatch.setenv("HADES_API_KEYS_FILE", "/etc/hades/keys")
    monkeypatch.setenv("HADES_RATE_LIMIT", "50/s")
    assert api().api_keys_file == "/etc/hades/keys"
    assert api().rate_limit == Rate(amount=50, unit="s", burst=50)
    monkeypatch.setenv("HADES_RATE_BURST", "200")
    assert api().rate_limit == Rate(amount=50, unit="s", burst=200)


@pytest.mark.parametrize(
    ("name", "value"), [("HADES_RATE_LIMIT", "fast"), ("HADES_RATE_BURST", "0")]
)
def test_a_limit_that_is_none_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvError, match=name):
        api()


@pytest.mark.parametrize(("value", "jobs"), [(None, 100_000), ("", 100_000), ("0", 0), ("7", 7)])
def test_so_many_jobs_may_be_queued(monkeypatch, value, jobs):
    monkeypatch.delenv("HADES_MAX_QUEUED_JOBS", raising=False)
    if value is not None:
        monkeypatch.setenv("HADES_MAX_QUEUED_JOBS", value)
    assert NatsSettings.from_env(Env()).max_queued_jobs == jobs


def test_fewer_than_no_jobs_are_refused(monkeypatch):
    monkeypatch.setenv("HADES_MAX_QUEUED_JOBS", "-1")
    with pytest.raises(EnvError, match="HADES_MAX_QUEUED_JOBS"):
        NatsSettings.from_env(Env())


def test_the_log_manager_listens_on_8081_by_default():
    assert logs().port == 8081


def test_every_setting_has_its_variable(monkeypatch):
    for name, value in zip(NAMES, ("1", "key", "true", "2", "3"), strict=True):
        monkeypatch.setenv(name, value)
    assert api() == ApiSettings(port=1, auth_key="key", debug=True, max_body_bytes=2)
    assert logs() == LogsSettings(port=3, debug=True)


def test_an_empty_variable_counts_as_unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert api() == ApiSettings()
    assert logs() == LogsSettings()


@pytest.mark.parametrize("value", ["1", "TRUE", "yes", "false"])
def test_debug_is_on_only_when_it_says_true(monkeypatch, value):
    monkeypatch.setenv("DEBUG", value)
    assert api().debug is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_PORT", "http"), ("API_PORT", "0"), ("API_PORT", "65536"), ("HADES_MAX_BODY_BYTES", "0")],
)
def test_a_useless_number_is_refused_with_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvError, match=name):
        api()


def test_the_key_does_not_show_in_the_settings_text():
    assert "s3cret" not in repr(ApiSettings(auth_key="s3cret"))
