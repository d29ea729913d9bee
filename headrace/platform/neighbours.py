"""Who else can log in to this machine: what the embedded servers do not keep from them is said, and so is whose programs run."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from headrace.settings import EmbeddedPart, Settings

_FIRST_UID = 1000
"""From here on users are people, by the custom of every large distribution (`UID_MIN` of /etc/login.defs)."""
_NOBODY = 65_534
_NO_SHELLS = ("nologin", "false", "sync", "shutdown", "halt")


def other_users() -> list[str]:
    """Names of the other users who can log in here, by the local list of users: not root, and not a service's."""
    return sorted(
        user.pw_name
        for user in pwd.getpwall()
        if user.pw_uid >= _FIRST_UID and user.pw_uid not in (_NOBODY, os.geteuid()) and Path(user.pw_shell).name not in _NO_SHELLS
    )


def trust(settings: Settings) -> str:
    """What other users of this machine can do to the embedded head, in a sentence; empty where there is neither."""
    if not isinstance(settings.head, EmbeddedPart) or not (others := other_users()):
        return ""
    return (
        f"This machine has other users ({_some(others)}): they can read what passes through the embedded Kafka, questions and"
        " answers among it, and delete what has not landed (SECURITY.md)."
    )


def started_notes(settings: Settings) -> list[str]:
    """What is said when the embedded servers have started."""
    chosen = settings.platform
    own = [
        f"{name} is a program of your own, {path}."
        for name, path in (("SeaweedFS", chosen.weed), ("Tansu", chosen.tansu))
        if path is not None
    ]
    return [*own, *filter(None, [trust(settings)])]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
