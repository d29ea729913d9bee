"""The whole tree, read from `headrace.toml` and the environment (`HEADRACE_…`)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from headrace.errors import BadSettings
from headrace.imports import when_used
from headrace.regular_file import read_regular
from headrace.settings.api import ApiSettings, Telemetry, TenantLimits
from headrace.settings.inference import Inference
from headrace.settings.models import ModelSettings
from headrace.settings.platform import PlatformSettings
from headrace.settings.section import EmbeddedPart
from headrace.settings.sources import SourceSettings
from headrace.settings.storage import S3, Files, Kafka, LandingSettings, Maintenance, PostgreSQL, RestCatalog, Vast, Vectors
from headrace.settings.training import Training
from headrace.settings.triggers import AutomaticSettings, TriggerSettings
from headrace.settings.workers import WorkerSettings
from headrace.settings_file import require_trusted, settings_path

with when_used("asyncio"):  # for commands that pydantic runs, as none is here
    from pydantic_settings import (
        BaseSettings,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
        SettingsError,
        TomlConfigSettingsSource,
    )

# Each batch that Tansu keeps slows it down, and keeping more protects nothing: table and head share one object store.
_EMBEDDED_KEPT_S, _KEPT_S = 60.0, 86_400.0

_SECRET = re.compile(r"properties\..*(password|secret|token|credential|key)", re.IGNORECASE)
"""Properties of a library that may hold a secret; the settings of Headrace itself say which of theirs do."""
HIDDEN = "**********"


class _TomlFile(TomlConfigSettingsSource):
    """The settings file; some editors begin a file with a byte order mark, which TOML does not know."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(read_regular(Path(file_path)).decode("utf-8-sig"))


class Settings(BaseSettings):
    """The whole tree, as `Settings.load()` reads it."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path(".headrace")
    """Directory of all embedded state, logs and run records."""
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Default tenant of commands."""
    platform: PlatformSettings = PlatformSettings()
    """The embedded servers."""
    objects: Annotated[EmbeddedPart | S3, Field(discriminator="type")] = EmbeddedPart()
    """The object tier."""
    tables: Annotated[EmbeddedPart | RestCatalog | Vast, Field(discriminator="type")] = EmbeddedPart()
    """The table tier: an Iceberg catalog, or VAST DB. Unset beside your own S3: tables in your bucket, catalog in the metadata
    store's database."""
    head: Annotated[EmbeddedPart | Kafka, Field(discriminator="type")] = EmbeddedPart()
    """The head: Kafka."""
    maintenance: Maintenance = Maintenance()
    """Maintenance of the tables."""
    landing: LandingSettings = LandingSettings()
    """Landing."""
    files: Files = Files()
    """The file tier."""
    vectors: Vectors = Vectors()
    """The vector tier."""
    metadata: Annotated[EmbeddedPart | PostgreSQL, Field(discriminator="type")] = EmbeddedPart()
    """The metadata store: an SQLite file under the home, or PostgreSQL."""
    models: ModelSettings = ModelSettings()
    """Model endpoints."""
    api: ApiSettings = ApiSettings()
    """The API and the page."""
    limits: TenantLimits = TenantLimits()
    """Limits of each tenant in the API."""
    telemetry: Telemetry = Telemetry()
    """Traces."""
    inference: Inference = Inference()
    """The inference pipeline."""
    sources: tuple[SourceSettings, ...] = ()
    """Folders, prefixes and Git repositories that `headrace up` follows, each a `[[sources]]`."""
    triggers: tuple[TriggerSettings, ...] = ()
    """What `headrace up` does when something happens, each a `[[triggers]]`. None: nothing."""
    automatic: AutomaticSettings = AutomaticSettings()
    """What `headrace up` starts without being told to."""
    training: Training = Training()
    """The training loop."""
    workers: WorkerSettings = WorkerSettings()
    """Workers that share a stage's work."""

    @property
    def quotes(self) -> bool:
        """Whether answers are quoted from passages, so that no generator is asked, unless a question wants it otherwise."""
        return self.inference.mode(embedded=self.models.embedded) == "extractive"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Precedence: the caller's values, the environment, headrace.toml."""
        return init_settings, env_settings, _TomlFile(settings_cls, toml_file=settings_path())

    @model_validator(mode="after")
    def _cross_field(self) -> Settings:
        tables = self.tables
        if isinstance(tables, RestCatalog) and isinstance(self.objects, EmbeddedPart) and "s3.endpoint" not in tables.properties:
            raise ValueError(
                "[tables] configures your own catalog, so its files need an endpoint too: "
                'set "s3.endpoint" and its keys under [tables.properties], or configure your S3 under [objects]'
            )
        if (self.head_kept_s or 0) >= self.maintenance.history_s:
            raise ValueError("landing.keep_s must be below maintenance.history_s: trimming looks back into that history")
        names = [trigger.name for trigger in self.triggers]
        if len(set(names)) < len(names):
            raise ValueError("two of the triggers have the same name")
        if self.inference.passages > self.inference.retrieve:
            raise ValueError("inference.passages cannot exceed inference.retrieve")
        return self

    @property
    def head_kept_s(self) -> float | None:
        """Seconds the head keeps landed events; `None` if its own retention decides."""
        embedded = isinstance(self.head, EmbeddedPart)
        if not (embedded if self.landing.trim is None else self.landing.trim):
            return None
        if self.landing.keep_s is not None:
            return self.landing.keep_s
        return _EMBEDDED_KEPT_S if embedded else _KEPT_S

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """Read `headrace.toml` (or the file `HEADRACE_SETTINGS` names) and the environment; `overrides` take precedence.

        Raises `BadSettings` with one line per fault, or for a file in the current directory that belongs to another user or
        makes code run.
        """
        try:
            require_trusted()
            return cls(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            keyed = [(_key(fault["loc"]), fault) for fault in error.errors()]
            faults = [f"  {'.'.join(key) or 'settings'}: {_fault(fault, key)}" for key, fault in keyed]
            raise BadSettings("The settings are invalid:\n" + "\n".join(faults), hint="See docs/reference/settings.md.") from None
        except SettingsError as error:
            raise BadSettings(f"The environment: {error}.", hint="A section and a list are JSON there.") from None
        except (ValueError, RecursionError) as error:  # of what is no UTF-8, no TOML, too deep, or has a number of 5,000 digits
            raise BadSettings(f"{settings_path()} is not TOML: {error}.", hint="See docs/reference/settings.md.") from None
        except OSError as error:
            raise BadSettings(f"{settings_path()} cannot be read: {error.strerror}.", hint="Check its owner and mode.") from None


def _key(place: Sequence[int | str]) -> tuple[str, ...]:
    """The key in `headrace.toml` of a place that pydantic names: without the types of sections that can be of several."""
    kinds: list[type[BaseModel]] = [Settings]
    names = []
    for part in place:
        if isinstance(part, str) and len(kinds) > 1:
            kinds = [kind for kind in kinds if part in get_args(kind.model_fields["type"].annotation)]
            continue
        names.append(str(part))
        if isinstance(part, str):
            fields = (kind.model_fields.get(part) for kind in kinds)
            kinds = [section for field in fields if field for section in _sections(field.annotation)]
    return tuple(names)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _fault(fault: Mapping[str, Any], key: Sequence[str]) -> str:
    """A validation fault in plain words, with the environment variables that set the value, or could."""
    place = fault["loc"]
    match fault["type"]:
        case "union_tag_not_found":
            said = f"it has keys but no `type`, which says what it is; set {'.'.join(key)}.type"
        case "union_tag_invalid":
            said = f"there is no type {fault['ctx']['tag']!r}; choose from {fault['ctx']['expected_tags']}"
        case "extra_forbidden":
            said = "there is no such key"
        case "missing":
            in_a_list = any(name.isdecimal() for name in key)  # which is JSON as a whole in the environment
            said = "it is missing" + ("" if in_a_list else f"; set it there, or HEADRACE_{'__'.join(key).upper()}")
        case _:
            said = str(fault["msg"])
    prefix = f"HEADRACE_{str(place[0]).upper()}" if place else "HEADRACE_"
    named = sorted(name for name in os.environ if name == prefix or name.startswith(f"{prefix}__"))
    return f"{said} (set in the environment: {', '.join(named)})" if place and named else said


def changed_settings(settings: Settings, *, whole: bool = False) -> dict[str, Any]:
    """The keys whose values are not the defaults (with `whole` all), by their full names, JSON-ready; secrets are hidden.

    Of a list of sections, such as `sources`, each has its number in the name: `sources.0.place`.
    """

    def below(values: Mapping[str, Any], defaults: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            full = f"{path}{name}"
            if isinstance(value, Mapping) and value and isinstance(defaults.get(name, {}), Mapping):
                yield from below(value, defaults.get(name, {}), f"{full}.")
            elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
                for at, (one, default) in enumerate(zip(value, _section_defaults(settings, full), strict=True)):
                    yield from below(one, default, f"{full}.{at}.")
            elif whole or name not in defaults or value != defaults[name]:
                yield full, HIDDEN if _SECRET.search(full) and value else _without_password(value)

    defaults = Settings.model_construct().model_dump(mode="json")
    return dict(below(settings.model_dump(mode="json"), defaults, ""))


def _without_password(value: Any) -> Any:
    """A value; of an address without the password in it."""
    return re.sub(r"(://[^/@:]*):[^/@]+@", rf"\1:{HIDDEN}@", value) if isinstance(value, str) else value


def _section_defaults(settings: Settings, path: str) -> list[dict[str, Any]]:
    """For each section of a list its keys that nobody set, with their values; those of sections in it too."""
    sections: Any = settings
    for name in path.split("."):
        sections = sections[int(name)] if name.isdecimal() else getattr(sections, name)

    def unset(whole: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        nested = {name: unset(whole[name], one) for name, one in given.items() if isinstance(one, Mapping)}
        return {name: value for name, value in whole.items() if name not in given} | nested

    return [unset(one.model_dump(mode="json"), one.model_dump(mode="json", exclude_unset=True)) for one in sections]
