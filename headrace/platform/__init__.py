"""The embedded platform: local servers, started on demand and ended when idle.

`open_platform(settings)` gives a command the endpoints of every tier. SeaweedFS is the object store and Iceberg catalog,
Tansu the head, and the model server serves the models; a supervisor process owns them.

    platform                          the commands' side: open it, hold it, end it
    home, keys, certificates          the directory of embedded state, and its secrets
    supervisor, child, health         the process that owns the servers; one server; whether it answers
    seaweedfs, tansu, model_server    how each server is started
    address, state                    ports and endpoints; the record of what runs, and the commands' requests
    reset                             emptying a home
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.platform.platform import EVERY_PART, EmbeddedPlatform, down, open_platform, running
    from headrace.platform.state import State

__all__ = ["EVERY_PART", "EmbeddedPlatform", "State", "down", "open_platform", "running"]


def __getattr__(name: str) -> Any:
    """Import the commands' side lazily: the supervisor process does not need it and starts sooner without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headrace.platform import platform

    return getattr(platform, name)
