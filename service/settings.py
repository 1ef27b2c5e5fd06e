"""Settings of the server: from the environment (`KNET_...`) and the options of `knet serve`."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

BUNDLED_REPOSITORY = Path(__file__).resolve().parent.parent / "repository"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How one model is run, nothing left open but what the server finds out itself."""

    variant: str | None
    max_batch: int
    batch_delay_ms: float
    engine_threads: int | None
    replicas: int | None
    memory_mb: int | None


class Settings(BaseSettings):
    """Every setting, each also an environment variable with the prefix `KNET_`."""

    model_config = SettingsConfigDict(env_prefix="KNET_", frozen=True, extra="forbid")

    repository: Path = Field(default=BUNDLED_REPOSITORY, description="folder of models: NAME/VERSION/artifact.json")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys taken in `Authorization: Bearer KEY`, separated by commas; empty: open"
    )
    allow_unauthenticated: bool = Field(
        default=False, description="listen on other addresses than loopback without any key"
    )
    max_body_bytes: int = Field(default=64 * 1024 * 1024, gt=0, description="largest request body")
    max_pixels: int = Field(default=100_000_000, gt=0, description="largest image, in pixels")
    max_images: int = Field(default=16, gt=0, description="most images in one request")
    max_queue: int = Field(default=64, gt=0, description="most images that wait or run at once, of all requests")
    engine_threads: int | None = Field(
        default=None, gt=0, description="threads of one engine process; default: the CPUs that may be used"
    )
    engine_timeout_s: float = Field(
        default=120.0, gt=0, description="seconds after which a run of the engine counts as hung and is ended"
    )
    request_timeout_s: float = Field(default=60.0, gt=0, description="seconds that a request may take, its body read")
    drain_delay_s: float = Field(
        default=0.0, ge=0, description="seconds after SIGTERM that all goes on but readiness, for load balancers to see"
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="seconds that accepted requests have to finish after SIGTERM"
    )
    max_inflight_pixels: int = Field(default=100_000_000, gt=0, description="most pixels decoded at once")
    max_batch: int = Field(default=8, gt=0, le=64, description="most canvases in one run of an engine")
    batch_delay_ms: float = Field(default=0.0, ge=0, description="milliseconds that a batch waits to become full")
    engine_memory_mb: int | None = Field(default=None, gt=0, description="memory at which an engine is started anew")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")

    def of_model(self, name: str) -> ModelOptions:
        """What holds for one model."""
        return ModelOptions(
            variant=None,
            max_batch=self.max_batch,
            batch_delay_ms=self.batch_delay_ms,
            engine_threads=self.engine_threads,
            replicas=None,
            memory_mb=self.engine_memory_mb,
        )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return tuple(key.strip() for key in value.split(",") if key.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        for key in self.api_keys:
            if len(key.get_secret_value()) < 16:
                raise ValueError("each API key must have at least 16 characters")
        if self.max_images > self.max_queue:
            raise ValueError(f"max_images {self.max_images} must not exceed max_queue {self.max_queue}")
        if not (is_loopback(self.host) or self.api_keys or self.allow_unauthenticated):
            raise ValueError(
                f"refusing to listen on {self.host} without API keys: set KNET_API_KEYS, listen on 127.0.0.1, "
                "or say KNET_ALLOW_UNAUTHENTICATED=true where something in front authenticates"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
