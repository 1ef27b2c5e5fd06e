"""Settings of the server: from the environment (`KNET_...`) and the options of `knet serve`."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

BUNDLED_REPOSITORY = Path(__file__).resolve().parent.parent / "repository"


class Settings(BaseSettings):
    """Every setting, each also an environment variable with the prefix `KNET_`."""

    model_config = SettingsConfigDict(env_prefix="KNET_", frozen=True, extra="forbid")

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
    engine_threads: int | None = Field(
        default=None, gt=0, description="threads of one engine process; default: the CPUs that may be used"
    )
    engine_timeout_s: float = Field(
        default=120.0, gt=0, description="seconds after which a run of the engine counts as hung and is ended"
    )
    shutdown_grace_s: int = Field(
        default=20, ge=0, description="seconds that running requests have to finish after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")

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

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        for key in (*self.api_keys, *self.admin_keys):
            if len(key.get_secret_value()) < 16:
                raise ValueError("each API key must have at least 16 characters")
        if self.max_body_bytes > self.max_buffered_bytes:
            raise ValueError(
                f"max_body_bytes {self.max_body_bytes} must not exceed max_buffered_bytes {self.max_buffered_bytes}"
            )
        if self.max_images > self.max_queue:
            raise ValueError(f"max_images {self.max_images} must not exceed max_queue {self.max_queue}")
        has_keys = bool(self.api_keys or self.admin_keys or self.api_keys_file)
        if not (is_loopback(self.host) or has_keys or self.allow_unauthenticated):
            raise ValueError(
                f"refusing to listen on {self.host} without API keys: set KNET_API_KEYS or KNET_API_KEYS_FILE, "
                "listen on 127.0.0.1, or say KNET_ALLOW_UNAUTHENTICATED=true where something in front authenticates"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
