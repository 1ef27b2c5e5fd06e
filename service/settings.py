"""Settings of the server: options of `knet serve`, then the environment (`KNET_...`), then a file, then defaults.

docs/operation.md has them in a table; `knet serve --help` makes its own from this class.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

BUNDLED_REPOSITORY = Path(__file__).resolve().parent.parent / "repository"
PREFIX = "KNET_"
_OF_CLIENTS = frozenset({"KNET_API_KEY"})  # read by other subcommands than `knet serve`


class ModelSettings(BaseModel):
    """What may differ from model to model; None where the server-wide setting or the artifact decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: str | None = Field(
        default=None, description="the artifact's variant to run, such as openvino-bf16; default: the first that runs"
    )
    max_batch: int | None = Field(default=None, gt=0, description="most canvases in one run of an engine")
    max_batch_pixels: int | None = Field(default=None, gt=0, description="most pixels of canvases in one run")
    batch_delay_ms: float | None = Field(
        default=None, ge=0, description="milliseconds that a free engine waits for a fuller batch"
    )
    engine_threads: int | None = Field(default=None, gt=0, description="threads of each engine process")
    replicas: int | None = Field(
        default=None, gt=0, description="engine processes; default: one for each GPU, or one on the CPU"
    )
    memory_mb: int | None = Field(default=None, gt=0, description="most memory of each engine process, in MiB")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        return _known_only(values, cls.model_fields)


class Settings(BaseSettings):
    """Every setting; each but `config` may also stand in the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may hold keys
    )

    config: Path | None = Field(default=None, description="file of settings, in TOML")
    repository: Path = Field(default=BUNDLED_REPOSITORY, description="folder of models: NAME/VERSION/artifact.json")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys taken in `Authorization: Bearer KEY`, separated by commas; empty: open"
    )
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys that may also load and unload models, separated by commas"
    )
    api_keys_file: Path | None = Field(
        default=None, description="file of hashed keys, a line each (see `knet key`); read again when it changes"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="origins whose pages may use the API, separated by commas: https://app.example.org; `*`: all",
    )
    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="hosts that images may be fetched from, by commas: HOST, *.DOMAIN, HOST:PORT; empty: none",
    )
    url_allow_http: bool = Field(default=False, description="fetch images by http:// as well as https://")
    url_timeout_s: float = Field(default=10.0, gt=0, description="seconds that fetching one request's images may take")
    allow_unauthenticated: bool = Field(
        default=False, description="listen on other addresses than loopback without any key"
    )
    max_body_bytes: int = Field(default=64 * 1024 * 1024, gt=0, description="largest request body")
    max_pixels: int = Field(default=100_000_000, gt=0, description="largest image, in pixels")
    max_side: int = Field(default=32_768, gt=0, description="longest side of an image, in pixels")
    max_images: int = Field(default=16, gt=0, description="most images in one request")
    max_queue: int = Field(default=64, gt=0, description="most images that wait or run at once, of all requests")
    max_queue_per_client: int | None = Field(
        default=None,
        gt=0,
        description="most images that wait or run at once, of one client (its key, or else its address); "
        "default: as many as of all",
    )
    max_inflight_pixels: int = Field(
        default=100_000_000, gt=0, description="most pixels of decoded images in memory at once, of all requests"
    )
    max_batch: int = Field(default=8, gt=0, description="most canvases in one run of an engine")
    max_batch_pixels: int | None = Field(
        default=None,
        gt=0,
        description="most pixels of canvases in one run, unless one alone has more; default: 2**16 on the CPU, where "
        "larger batches take memory and save no time, 2**22 on a GPU",
    )
    batch_delay_ms: float = Field(
        default=0.0, ge=0, description="milliseconds that a free engine waits for a fuller batch"
    )
    request_timeout_s: float = Field(
        default=60.0, gt=0, description="seconds after which a request that is not answered gets a 504"
    )
    max_buffered_bytes: int = Field(
        default=1024 * 1024 * 1024, gt=0, description="request bodies held at once, in bytes, of all requests"
    )
    max_connections: int = Field(
        default=512, gt=0, description="open connections; above, the one idle for longest makes room for a new one"
    )
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, description="a request's line and headers, in bytes")
    max_headers: int = Field(default=100, gt=0, description="headers of a request")
    head_timeout_s: float = Field(
        default=10.0, gt=0, description="seconds that a request's line and headers may take to arrive"
    )
    stall_timeout_s: float = Field(
        default=15.0, gt=0, description="seconds without a byte after which a body or an unread answer is given up"
    )
    transfer_timeout_s: float = Field(
        default=300.0, gt=0, description="seconds that a body may take to arrive, and an answer to be read"
    )
    keep_alive_s: int = Field(default=75, gt=0, description="seconds that an idle connection is kept after an answer")
    codec_processes: int | None = Field(
        default=None,
        gt=0,
        description="processes that decode images and encode answers; default: the CPUs that may be used, at most 8",
    )
    engine_threads: int | None = Field(
        default=None, gt=0, description="threads of one engine process; default: the CPUs that may be used"
    )
    engine_timeout_s: float = Field(
        default=120.0, gt=0, description="seconds after which a run of the engine counts as hung and is ended"
    )
    engine_memory_mb: int | None = Field(
        default=None, gt=0, description="most memory of each engine process, in MiB; default: no limit"
    )
    drain_delay_s: float = Field(
        default=0.0, ge=0, description="seconds after SIGTERM that only readiness changes, for load balancers to see it"
    )
    drain_timeout_s: float = Field(
        default=20.0, ge=0, description="seconds that accepted requests have to finish after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    log_format: Literal["text", "json"] | None = Field(
        default=None, description="lines for people or for machines; default: text on a terminal, json elsewhere"
    )
    models: dict[str, ModelSettings] = Field(
        default={}, description="what differs for single models: a table [models.NAME] in the file"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from, the strongest first.

        Raises:
            ValueError: the file cannot be read, or is no TOML.
        """
        path = {**env_settings(), **init_settings()}.get("config")
        return init_settings, env_settings, file_source(settings_cls, path)

    @field_validator("api_keys", "admin_keys", "cors_origins", "url_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*?#@]+", origin):
                raise ValueError(f"origin {origin!r} must have the form https://HOST or https://HOST:PORT, or be *")
        return origins

    @field_validator("url_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?", host):
                raise ValueError(f"host {host!r} must have the form HOST, *.DOMAIN or HOST:PORT")
        return tuple(host.lower() for host in hosts)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        return _known_only(values, cls.model_fields)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        for key in (*self.api_keys, *self.admin_keys):
            if len(key.get_secret_value()) < 16:
                raise ValueError("each API key must have at least 16 characters")
            if not key.get_secret_value().isascii():
                raise ValueError("an API key must be ASCII, as it travels in a header")
        if self.max_body_bytes > self.max_buffered_bytes:
            raise ValueError(
                f"max_body_bytes {self.max_body_bytes} must not exceed max_buffered_bytes {self.max_buffered_bytes}"
            )
        if self.max_images > self.max_queue:
            raise ValueError(f"max_images {self.max_images} must not exceed max_queue {self.max_queue}")
        share = self.max_queue_per_client
        if share is not None and not self.max_images <= share <= self.max_queue:
            raise ValueError(
                f"max_queue_per_client {share} must lie between max_images {self.max_images} "
                f"and max_queue {self.max_queue}"
            )
        if self.max_pixels > self.max_inflight_pixels:
            raise ValueError(
                f"max_pixels {self.max_pixels} must not exceed max_inflight_pixels {self.max_inflight_pixels}: "
                "the largest image would never be let in"
            )
        self._check_batching("", self.of_model(""))
        for name in self.models:
            self._check_batching(f"models.{name}: ", self.of_model(name))
        has_keys = bool(self.api_keys or self.admin_keys or self.api_keys_file)
        if not (is_loopback(self.host) or has_keys or self.allow_unauthenticated):
            raise ValueError(
                f"refusing to listen on {self.host} without API keys: set KNET_API_KEYS or KNET_API_KEYS_FILE, "
                "listen on 127.0.0.1, or say KNET_ALLOW_UNAUTHENTICATED=true where something in front authenticates"
            )
        return self

    def _check_batching(self, where: str, model: ModelSettings) -> None:
        delay, batch = model.batch_delay_ms or 0, model.max_batch
        if delay and batch == 1:
            raise ValueError(f"{where}batch_delay_ms {delay:g} waits for nothing where max_batch is 1")
        if delay >= 1000 * self.request_timeout_s:
            raise ValueError(
                f"{where}batch_delay_ms {delay:g} must be less than request_timeout_s {self.request_timeout_s:g}"
            )

    def of_model(self, name: str) -> ModelSettings:
        """The settings of one model, with the server-wide ones where it has none of its own."""
        own = self.models.get(name, ModelSettings())
        shared = {
            "max_batch": self.max_batch,
            "max_batch_pixels": self.max_batch_pixels,
            "batch_delay_ms": self.batch_delay_ms,
            "engine_threads": self.engine_threads,
            "memory_mb": self.engine_memory_mb,
        }
        return own.model_copy(update={key: value for key, value in shared.items() if getattr(own, key) is None})


def file_source(settings_cls: type[BaseSettings], path: Path | str | None) -> InitSettingsSource:
    """What stands in the file; nothing without one. Raises ValueError where it cannot be read."""
    if path is None:
        return InitSettingsSource(settings_cls, {})
    if not Path(path).is_file():
        raise ValueError(f"settings file {path} does not exist")
    try:
        source = TomlConfigSettingsSource(settings_cls, Path(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"settings file {path} cannot be read: {error}") from error
    if "config" in source.toml_data:
        raise ValueError(f"settings file {path}: `config` cannot stand in the file itself")
    return source


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like settings and are none: misspelt, or put there by a container's orchestrator."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | _OF_CLIENTS
    nested = f"{PREFIX}MODELS__"
    return sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX) and name.upper() not in known and not name.upper().startswith(nested)
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _known_only(values: Any, fields: Mapping[str, Any]) -> Any:
    """The values, if all have a field."""
    unknown = [name for name in values if name not in fields] if isinstance(values, Mapping) else []
    if unknown:
        raise ValueError(f"unknown setting {', '.join(map(repr, unknown))}; legal: {', '.join(fields)}")
    return values
