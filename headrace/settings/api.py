"""The API, the limits of its tenants, and its traces."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from headrace.settings.section import Section

_ORIGIN = re.compile(r"https?://[^/?#@\s]+")
_MOST = (1 << 63) - 1  # the largest integer that a database stores


class ApiSettings(Section):
    """The API and the page of `headrace up`."""

    host: str = "127.0.0.1"
    """Address to listen on: an address of this machine, or `0.0.0.0` for all of its networks."""
    hosts: tuple[str, ...] = ()
    """Names that requests may call the service by, besides `127.0.0.1`, `localhost` and `host`, e.g. `rag.example.net`."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers that may call the API from a browser (CORS), e.g. `https://chat.example.net`; `*` for all."""
    certificate: Path | None = None
    """Certificate chain (PEM) to serve TLS with. Unset: plain HTTP."""
    key: Path | None = None
    """Private key (PEM) of the certificate."""

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            return str(ip_address(value))
        except ValueError:
            raise ValueError(f"{value!r} is not an IP address; names go into `hosts`") from None

    @field_validator("origins")
    @classmethod
    def _origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value != "*" and _ORIGIN.fullmatch(value) is None:
                raise ValueError(
                    f"{value!r} is not an origin; write scheme, name and port alone, as in https://chat.example.net:8443"
                )
        return values

    @property
    def everywhere(self) -> bool:
        """Whether it listens on all of this machine's networks."""
        return ip_address(self.host).is_unspecified

    @property
    def named(self) -> tuple[str, ...]:
        """Names that requests may call the service by."""
        own = () if self.everywhere else (f"[{self.host}]" if ":" in self.host else self.host,)
        return (*dict.fromkeys(("127.0.0.1", "localhost", *own, *self.hosts)),)

    @property
    def open_without_tls(self) -> bool:
        """Whether other machines may reach it, and what they send is not encrypted."""
        return self.certificate is None and not ip_address(self.host).is_loopback

    def url(self, port: int) -> str:
        """Its address for this machine."""
        host = ("::1" if ":" in self.host else "127.0.0.1") if self.everywhere else self.host
        return f"{'http' if self.certificate is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` go together: set both or neither")
        return self


class TenantLimits(Section):
    """Limits of each tenant in the API; `headrace tenant quota` sets others for one tenant."""

    requests_per_minute: int = Field(default=600, ge=1, le=_MOST)
    """Requests per minute; all of them may come at once. A large chat counts as one for each 64 KiB."""
    questions: int = Field(default=16, ge=1, le=_MOST)
    """Concurrent questions, including waiting ones; the whole service accepts 32."""
    documents: int = Field(default=100_000, ge=0, le=_MOST)
    """Documents stored."""
    stored_bytes: int = Field(default=50 << 30, ge=0, le=_MOST)
    """Bytes of stored documents, as they were put, including earlier versions."""
    versions: int = Field(default=1_000, ge=1, le=_MOST)
    """Versions of one document; deleting it deletes all of them. Each change to it takes time for each of them."""
    kv_cache_bytes: int = Field(default=1 << 30, ge=0, le=_MOST)
    """Bytes of the KV cache, within `files.kv_cache_bytes`."""
    put_bytes_per_day: int = Field(default=100 << 30, ge=1, le=_MOST)
    """Bytes of documents put per day, counted by the running service: replaced and deleted ones leave their text in tables."""
    retention_days: int = Field(default=0, ge=0, le=36_500)
    """Days that a version of a document is kept; older documents are deleted by maintenance. 0 keeps them."""
    keys: int = Field(default=200, ge=1, le=_MOST)
    """API keys that are not revoked; at this number the tenant's admin cannot create more."""


class Telemetry(Section):
    """Traces for an OpenTelemetry collector; created only if an endpoint is set."""

    otlp_endpoint: str = ""
    """URL that accepts OTLP over HTTP, e.g. `http://127.0.0.1:4318/v1/traces`; or set `OTEL_EXPORTER_OTLP_ENDPOINT`."""
