import pytest
from pydantic import ValidationError

from service.settings import BUNDLED_REPOSITORY, Settings, is_loopback

KEY = "a key of 16 bytes"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org")),
    ],
)
def test_loopback_is_known(host, expected):
    assert is_loopback(host) == expected


def test_an_open_server_on_another_address_is_refused():
    with pytest.raises(ValidationError, match="without API keys"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_keys=(KEY,)).host == "0.0.0.0"
    assert Settings(host="0.0.0.0", allow_unauthenticated=True).host == "0.0.0.0"


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("KNET_API_KEYS", f"{KEY}, {KEY}2")
    monkeypatch.setenv("KNET_PORT", "9000")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == [KEY, KEY + "2"]
    assert settings.port == 9000
    assert KEY not in repr(settings)


def test_short_keys_are_refused():
    with pytest.raises(ValidationError, match="at least 16"):
        Settings(api_keys=("short",))


def test_bundled_models_are_the_default():
    assert Settings().repository == BUNDLED_REPOSITORY
    assert BUNDLED_REPOSITORY.name == "repository"
