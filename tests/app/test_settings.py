import pytest
from environs import Env, EnvError

from app.settings import ApiSettings, LogsSettings

NAMES = ("API_PORT", "AUTH_KEY", "DEBUG", "HADES_MAX_BODY_BYTES", "HADESLOGMANAGER_API_PORT")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in NAMES:
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


def test_a_body_may_have_960_kib_by_default():
    assert api().max_body_bytes == 983_040


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
