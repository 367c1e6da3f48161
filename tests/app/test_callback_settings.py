"""How callbacks are configured."""

from __future__ import annotations

import base64

import pytest
from environs import Env, EnvError

from app.logs.callbacks.signatures import secret_of
from app.settings import CallbackSettings

SECRET = base64.b64encode(b"s" * 24).decode()
VALUES = {
    "HADES_CALLBACK_SECRETS": f"whsec_{SECRET}, whsec_{base64.b64encode(b't' * 64).decode()}",
    "HADES_CALLBACK_ALLOW": "10.0.0.0/8, inside.example,fd00::/8",
    "HADES_CALLBACK_TIMEOUT": "3s",
    "HADES_CALLBACK_BACKOFF": "50ms",
    "HADES_CALLBACK_MAX_BACKOFF": "1m",
    "HADES_CALLBACK_MAX_AGE": "2h",
    "HADES_CALLBACK_PERMANENT": "410,404",
    "HADES_CALLBACK_THREADS": "0",
    "HADES_CALLBACK_PER_HOST": "1",
}


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VALUES:
        monkeypatch.delenv(name, raising=False)


def read() -> CallbackSettings:
    return CallbackSettings.from_env(Env())


def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
    assert read() == CallbackSettings(
        secrets=(b"s" * 24, b"t" * 64),
        allow=("10.0.0.0/8", "inside.example", "fd00::/8"),
        timeout=3.0,
        backoff=0.05,
        max_backoff=60.0,
        max_age=7200.0,
        permanent=(410, 404),
        threads=0,
        per_host=1,
    )


@pytest.mark.parametrize("value", [None, ""])
def test_by_default_nothing_is_signed_and_nothing_private_called(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    for name in VALUES if value is not None else ():
        monkeypatch.setenv(name, value)
    assert read() == CallbackSettings()
    assert (read().secrets, read().allow, read().permanent) == ((), (), (410,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HADES_CALLBACK_SECRETS", SECRET),
        ("HADES_CALLBACK_SECRETS", "whsec_notbase64!"),
        ("HADES_CALLBACK_SECRETS", "whsec_" + base64.b64encode(b"short").decode()),
        ("HADES_CALLBACK_SECRETS", "whsec_" + base64.b64encode(b"l" * 65).decode()),
        ("HADES_CALLBACK_ALLOW", "10.0.0.0/99"),
        ("HADES_CALLBACK_TIMEOUT", "0"),
        ("HADES_CALLBACK_TIMEOUT", "soon"),
        ("HADES_CALLBACK_BACKOFF", "-1"),
        ("HADES_CALLBACK_PERMANENT", "200"),
        ("HADES_CALLBACK_PERMANENT", "gone"),
        ("HADES_CALLBACK_THREADS", "-1"),
        ("HADES_CALLBACK_PER_HOST", "0"),
    ],
)
def test_what_is_useless_is_refused_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvError, match=name) as refused:
        read()
    if name == "HADES_CALLBACK_SECRETS":
        assert value not in str(refused.value)


def test_secrets_do_not_show() -> None:
    settings = CallbackSettings(secrets=(b"s3cret",))

    assert "s3cret" not in repr(settings)
    assert secret_of(f"whsec_{SECRET}") == b"s" * 24
