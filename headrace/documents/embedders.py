"""Embedders by name, as an index generation notes which one made it.

The embedded model server has one embedder in versions: `embedder` is the packaged one, `embedder@v000003` what turn 3 made of it.
It can be asked for any of them, so an index goes on being filled and searched with the one that made it, whichever that is. An
endpoint that the user brought has the one model it is named with.
"""

from __future__ import annotations

import threading

from headrace.errors import BadSettings
from headrace.models.client import Embedder
from headrace.storage.endpoints import ModelEndpoint

PACKAGED = "embedder"
NONE = "none"


def name_of(version: str) -> str:
    """The embedder's name in a released version, or as it is packaged ("none")."""
    return PACKAGED if version == NONE else f"{PACKAGED}@{version}"


def version_of(name: str) -> str | None:
    """The version that a name of the embedded embedder means; `None` where it names another model."""
    model, _, version = name.partition("@")
    return (version or NONE) if model == PACKAGED else None


def resolve(endpoint: ModelEndpoint, made: str) -> ModelEndpoint | None:
    """The endpoint as it is asked for the embedder `made`; `None` where it does not have that."""
    if made == endpoint.model:
        return endpoint
    ours = version_of(made) is not None and version_of(endpoint.model) is not None
    return endpoint.model_copy(update={"model": made}) if ours else None


def endpoint_for(endpoint: ModelEndpoint, made: str) -> ModelEndpoint:
    """The endpoint that embeds for an index that `made` made. Raises `BadSettings` where it does not have that embedder."""
    found = resolve(endpoint, made)
    if found is None:
        raise BadSettings(
            f"The index was made with the embedder {made}; the settings name {endpoint.model}.",
            hint="Build one with the new embedder beside it: headrace reindex. Or name the old one under [models.embedder].",
        )
    return found


class Embedders:
    """Clients of one endpoint, one for each embedder it was asked for; safe to share between threads."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self.endpoint = endpoint
        self._clients: dict[str, Embedder] = {}
        self._making = threading.Lock()

    def of(self, made: str) -> Embedder | None:
        """The embedder of that name; `None` where the endpoint does not have it."""
        found = resolve(self.endpoint, made)
        if found is None:
            return None
        with self._making:
            if found.model not in self._clients:
                self._clients[found.model] = Embedder(found)
            return self._clients[found.model]
