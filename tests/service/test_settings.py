import pytest
from pydantic import ValidationError

from service.settings import BUNDLED_REPOSITORY, ModelSettings, Settings, is_loopback, unknown_variables
from service.settings_text import print_config

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


def test_keys_that_no_header_can_carry_are_refused():
    with pytest.raises(ValidationError, match="must be ASCII"):
        Settings(admin_keys=(f"{KEY} für alle",))


def test_bundled_models_are_the_default():
    assert Settings().repository == BUNDLED_REPOSITORY
    assert BUNDLED_REPOSITORY.name == "repository"


@pytest.fixture
def file(tmp_path):
    """Writes a file of settings; gives its path."""

    def write(text: str):
        (tmp_path / "knet.toml").write_text(text)
        return tmp_path / "knet.toml"

    return write


def test_options_come_before_the_environment_before_the_file_before_defaults(file, monkeypatch):
    path = file('port = 1\nmax_queue = 101\nmax_images = 11\napi_keys = ["a key of 16 bytes"]\n')
    monkeypatch.setenv("KNET_PORT", "2")
    monkeypatch.setenv("KNET_MAX_QUEUE", "102")
    settings = Settings(config=path, port=3)
    assert (settings.port, settings.max_queue, settings.max_images, settings.max_batch) == (3, 102, 11, 8)
    assert settings.api_keys[0].get_secret_value() == KEY


def test_the_environment_names_the_file(file, monkeypatch):
    monkeypatch.setenv("KNET_CONFIG", str(file("port = 1")))
    assert Settings().port == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", r"unknown setting 'prot'; legal: .*port, api_keys"),
        ("[models.nuclei]\nmaxbatch = 1", r"unknown setting 'maxbatch'; legal: variant, max_batch"),
        ("[models.nuclei]\nmax_batch = 0", "greater than 0"),
        ("port = ", "knet.toml cannot be read: Invalid value"),
        ("config = 'other.toml'", "`config` cannot stand in the file itself"),
        ("request_timeout_s = inf", "finite"),
        ("max_images = 8\nmax_queue = 4", "max_images 8 must not exceed max_queue 4"),
        ("max_queue_per_client = 8", "max_queue_per_client 8 must lie between max_images 16 and max_queue 64"),
        ("max_queue_per_client = 65", "max_queue_per_client 65 must lie between max_images 16 and max_queue 64"),
        ("max_inflight_pixels = 9", "max_pixels 100000000 must not exceed max_inflight_pixels 9"),
        ("batch_delay_ms = 2\nmax_batch = 1", "batch_delay_ms 2 waits for nothing where max_batch is 1"),
        ("batch_delay_ms = 2\n[models.a]\nmax_batch = 1", "models.a: batch_delay_ms 2 waits for nothing"),
        ("batch_delay_ms = 5000\nrequest_timeout_s = 5", "batch_delay_ms 5000 must be less than request_timeout_s 5"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(file, text, words):
    with pytest.raises(ValueError, match=words):
        Settings(config=file(text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml does not exist"):
        Settings(config=tmp_path / "none.toml")


def test_models_have_settings_of_their_own(file, monkeypatch):
    path = file('max_batch = 4\nengine_memory_mb = 900\n[models."nuclei.v2"]\nvariant = "x"\nmax_batch = 2\n')
    monkeypatch.setenv("KNET_MODELS__crops__replicas", "3")
    settings = Settings(config=path)
    assert settings.of_model("nuclei.v2") == ModelSettings(variant="x", max_batch=2, batch_delay_ms=0, memory_mb=900)
    assert settings.of_model("crops") == ModelSettings(replicas=3, max_batch=4, batch_delay_ms=0, memory_mb=900)
    assert settings.of_model("other") == ModelSettings(max_batch=4, batch_delay_ms=0, memory_mb=900)


def test_misspelt_variables_are_found():
    variables = {"KNET_PROT": "1", "KNET_PORT": "1", "knet_host": "", "KNET_API_KEY": "", "KNET_MODELS__a__variant": ""}
    assert unknown_variables({**variables, "HOME": ""}) == ["KNET_PROT"]


def test_no_error_tells_a_key():
    with pytest.raises(ValidationError) as caught:
        Settings(api_keys=("0123456789abcde",))
    assert "0123456789" not in str(caught.value)


def test_printed_settings_tell_origins_and_no_secret(file, monkeypatch):
    path = file(f'port = 1\napi_keys = ["{KEY}"]\n[models."nuclei.v2"]\nvariant = "x"\n')
    monkeypatch.setenv("KNET_MODELS__NUCLEI__MAX_BATCH", "3")
    monkeypatch.setenv("KNET_MAX_IMAGES", "7")
    text = print_config({"config": path, "log_level": "debug"})
    assert KEY not in text
    for line in (
        f"port = 1  # file {path}",
        f'api_keys = ["**********"]  # file {path}',
        "max_images = 7  # environment KNET_MAX_IMAGES",
        'log_level = "debug"  # option --log-level',
        "max_queue = 64  # default",
        "# engine_threads is not set",
        f'[models."nuclei.v2"]\nvariant = "x"  # file {path}',
        '[models."nuclei"]\nmax_batch = 3  # environment KNET_MODELS__NUCLEI__MAX_BATCH',
    ):
        assert f"\n{line}\n" in f"\n{text}\n"


def test_printed_settings_are_a_file_of_settings(file, tmp_path):
    options = {"port": 7, "engine_threads": 2, "models": {'ä "b"': {"batch_delay_ms": 1.5}}, "log_format": "json"}
    path = file(print_config(options))
    assert Settings(config=path) == Settings(**options).model_copy(update={"config": path})
