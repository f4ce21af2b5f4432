"""What the service may be told, from four places: flag > ``SIGHTLINE_*`` variable > TOML file > default.

Built once from injected mappings; nothing here reads the environment by itself. A misspelt variable or key is an
error with a suggestion, because a setting that is silently ignored is found out in production.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from service.edge.hosts import is_host_name
from sightline.errors import SettingError
from sightline.images import ImageLimits
from sightline.texts import TextLimits

ENV_PREFIX = "SIGHTLINE_"
_OTHER_VARIABLES = frozenset({"SIGHTLINE_TEST_DATA", "SIGHTLINE_FUZZ_SECONDS", "SIGHTLINE_SOAK_REQUESTS"})
_MIB = 2**20
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_origin(origin: str) -> str:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("list whole origins like https://photos.example.org; * and paths are not taken")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]
Origins = Annotated[tuple[Origin, ...], BeforeValidator(_split)]
"""A list, or one string with commas."""


def _check_host(host: str) -> str:
    if not is_host_name(host):
        raise ValueError("list host names like images.example.org in small letters; addresses and * are not taken")
    return host


Hosts = Annotated[tuple[Annotated[str, AfterValidator(_check_host)], ...], BeforeValidator(_split)]
"""A list, or one string with commas."""


class Settings(BaseModel):
    """The effective settings: frozen, complete, passed down explicitly. Build with ``load_settings``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: Path | None = Field(default=None, description="The collection directory to serve.")
    milvus: str | None = Field(
        default=None, description="A collection in Milvus to serve instead, like milvus://host:19530/photos."
    )
    milvus_token_file: Path | None = Field(default=None, description="File with the token that Milvus asks for.")
    encoder: str | None = Field(default=None, description="Encoder spec; default: the one recorded in the collection.")
    accept_licence: str | None = Field(
        default=None, description="Accept non-commercial weights by naming their licence."
    )
    device: str = Field(default="auto", description="auto, cpu or cuda.")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="Arithmetic of the towers.")
    verify: bool = Field(default=True, description="Compare every file of the collection with its SHA-256 at start.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; only this machine by default.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys_file: Path | None = Field(
        default=None, description="File of API keys, one a line; with it every request but a probe needs one."
    )
    admin_keys_file: Path | None = Field(
        default=None, description="File of admin keys, which open /v1/admin/ and everything else."
    )
    allow_unauthenticated: bool = Field(
        default=False, description="Listen beyond this machine without API keys all the same."
    )
    cors_origins: Origins = Field(
        default=(), description="Origins whose pages may call, like https://photos.example.org; none by default."
    )
    max_connections: int = Field(
        default=2048, ge=2, description="Open connections; beyond it a new one takes the place of the longest idle."
    )
    max_header_bytes: int = Field(default=32_768, ge=4096, description="Largest request line and headers.")
    header_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="Time a client has to send its request line and headers."
    )
    watch_collection_seconds: float = Field(
        default=0.0, ge=0, le=86_400, description="How often to see whether CURRENT names another generation; 0: never."
    )
    live_writes: bool = Field(
        default=False, description="Take PUT and DELETE /v1/items/{id}; one process for each collection."
    )
    live_compact_changes: int = Field(
        default=10_000, ge=0, description="Build a new generation when so many live changes wait; 0: never by number."
    )
    live_compact_share: float = Field(
        default=0.01, ge=0, le=1, description="The same, from 1,000 changes, as a share of the pictures; 0: never."
    )
    live_max_changes: int = Field(
        default=100_000, ge=1, description="Live changes that may wait for a new generation; more get 429."
    )
    live_keep_generations: int = Field(
        default=2, ge=0, description="Generations made of live changes that are kept; 0 keeps all. Built ones stay."
    )
    canary_interval_seconds: float = Field(
        default=30.0, ge=0, le=86_400, description="How often the encoder must give its first vectors again; 0: never."
    )
    drain_delay_seconds: float = Field(
        default=1.0, ge=0, le=600, description="Time between not-ready and closing the listener after SIGTERM."
    )
    drain_timeout_seconds: float = Field(
        default=20.0, ge=0, le=600, description="Time for requests in flight after SIGTERM."
    )
    default_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="Deadline of an interactive request that names none."
    )
    max_timeout_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="The longest deadline to ask for; bulk work has it by default."
    )
    receive_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Time a client has to send its body."
    )
    min_receive_bytes_per_second: int = Field(
        default=1024, ge=1, description="Slowest body, on average, after its first 5 seconds."
    )
    max_inflight_requests: int = Field(default=256, ge=1, description="Requests worked on at once; more get 429.")
    max_body_bytes: int = Field(default=48 * _MIB, ge=1024, description="Largest request body.")
    max_buffered_bytes: int = Field(default=512 * _MIB, ge=1024, description="Request bodies held in memory at once.")
    max_queue_units: int = Field(
        default=4096, ge=64, description="Most work admitted at once, whatever the rate; a text is 1 unit, an image 8."
    )
    max_queue_seconds: float = Field(
        default=0.75, gt=0, le=60, description="Work admitted at once, as time at the encoder's rate (≥ 528 units)."
    )
    encoder_workers: int = Field(
        default=0, ge=0, le=16, description="Batches in flight; 0 is 2 where there are several cores, else 1."
    )
    max_batch_texts: int = Field(default=32, ge=1, le=4096, description="Texts in one batch.")
    """Two workers on two cores, 64 clients: 410 texts/s at 32, 380 at 16, and 260 to 390 at 64, where one worker takes
    all that waits and leaves nothing for the other."""
    max_batch_images: int = Field(default=16, ge=1, le=4096, description="Pictures in one batch.")
    bulk_from_items: int = Field(default=32, ge=2, description="A request of at least this many items is bulk work.")
    bulk_patience_seconds: float = Field(
        default=0.5, gt=0, le=60, description="How long bulk work waits behind interactive work."
    )
    max_image_bytes: int = Field(default=32 * _MIB, ge=1024, description="Largest encoded picture.")
    max_image_pixels: int = Field(default=64_000_000, ge=1, description="Largest picture, width times height.")
    max_image_side_px: int = Field(default=16_384, ge=1, description="Longest side of a picture.")
    image_url_hosts: Hosts = Field(
        default=(), description="Hosts from which pictures named by https addresses are fetched; none by default."
    )
    image_url_http: bool = Field(default=False, description="Fetch pictures over plain http too.")
    max_inflight_pixels: int = Field(
        default=256_000_000,
        ge=1,
        description="Pixels decoded at once, 4 bytes each; other than plain JPEG counts 2 to 4 times.",
    )
    max_text_chars: int = Field(default=1024, ge=1, le=100_000, description="Longest text.")
    label_sets_file: Path | None = Field(default=None, description="TOML file of label sets for zero-shot, by name.")
    cache_bytes: int = Field(default=64 * _MIB, ge=0, description="Memory for vectors of recent inputs; 0 keeps none.")
    quarantine_seconds: float = Field(
        default=300.0, ge=0, le=86_400, description="How long an input that the encoder failed on is refused."
    )

    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="Log lines on stderr; auto is console on a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is logged; info has a record for each request."
    )
    tracing: bool = Field(default=False, description="Send OpenTelemetry spans; needs the extra otel.")

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.default_timeout_seconds > self.max_timeout_seconds:
            raise ValueError("default_timeout_seconds is larger than max_timeout_seconds")
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError("max_buffered_bytes is smaller than max_body_bytes")
        if self.max_connections <= self.max_inflight_requests:
            raise ValueError("max_connections is not larger than max_inflight_requests")
        if self.collection is not None and self.milvus is not None:
            raise ValueError("collection and milvus are two places")
        return self

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(
            max_bytes=self.max_image_bytes, max_side_px=self.max_image_side_px, max_pixels=self.max_image_pixels
        )

    @property
    def text_limits(self) -> TextLimits:
        return TextLimits(max_chars=self.max_text_chars)

    def describe(self) -> list[EffectiveSetting]:
        """Every setting with its value and where the value came from."""
        return [
            EffectiveSetting(
                name=name,
                value=str(value) if isinstance(value := getattr(self, name), Path) else value,
                origin=self._origins.get(name, "default"),
                variable=ENV_PREFIX + name.upper(),
                description=info.description or "",
            )
            for name, info in type(self).model_fields.items()
        ]


@dataclass(frozen=True)
class EffectiveSetting:
    """One line of ``sightline config``. ``origin`` is flag, environment, file or default."""

    name: str
    value: Any
    origin: str
    variable: str
    description: str


def load_settings(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """Merge the sources. A flag with the value None was not given. Raises SettingError: what is wrong, and where."""
    layers = (
        ("file", _read_file(file) if file is not None else {}),
        ("environment", _from_environ(environ or {})),
        ("flag", {name: value for name, value in (flags or {}).items() if value is not None}),
    )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for name, value in layer.items():
            _check_name(name, origin)
            values[name], origins[name] = value, origin
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise _invalid(error, origins) from error
    settings._origins = origins
    return settings


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    ours = (name for name in environ if name.startswith(ENV_PREFIX) and name not in _OTHER_VARIABLES)
    return {name.removeprefix(ENV_PREFIX).lower(): environ[name] for name in ours}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"The settings file {path} cannot be read; check its path and rights.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"The settings file {path} is not valid TOML; write lines like: port = 8000.") from error


def _check_name(name: str, origin: str) -> None:
    if name in Settings.model_fields:
        return
    shown = ENV_PREFIX + name.upper() if origin == "environment" else name
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    suggestion = (ENV_PREFIX + close[0].upper() if origin == "environment" else close[0]) if close else None
    hint = f"did you mean {suggestion}?" if suggestion else "sightline config lists the settings."
    raise SettingError(f"{shown} is not a setting; {hint}")


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> SettingError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if not name:
        return SettingError(f"The settings contradict each other: {reason}; change one of them.")
    return SettingError(f"The setting {name} (from the {origins.get(name, 'default')}) is wrong: {reason}; correct it.")
