"""The settings file: which one is read, whether it may be used, and what is said of it.

A `headrace.toml` in the current directory may have come with a folder that somebody unpacked or cloned.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headrace.errors import BadSettings

# Settings that decide where data, keys or questions are sent, and what is read.
_ELSEWHERE = {
    "objects",
    "tables",
    "head",
    "files",
    "vectors",
    "metadata",
    "models",
    "telemetry",
    "home",
    "api",
    "sources",
    "triggers",
}
# Settings that make a program run, or librdkafka or pyiceberg load code.
_RUNS = re.compile(
    r"platform\.(weed|tansu)|triggers\.action\.command"
    r"|(head|sources\.notifications|triggers\.(action|events))\.properties\.(plugin\.library\.paths|ssl\.(engine\.location|providers)|.*\.cmd)"
    r"|tables\.properties\.(.*impl|auth\..*)"
)


def settings_path() -> str:
    """The path of the settings file, which need not exist."""
    return os.environ.get("HEADRACE_SETTINGS", "headrace.toml")


def settings_notice() -> str:
    """A notice that a settings file in the current directory is used, which its user may not expect.

    Given if it configures endpoints or models, or belongs to root; empty otherwise, and if `HEADRACE_SETTINGS` names a file.
    """
    file = _here()
    if file is None:
        return ""
    names = sorted(_ELSEWHERE & tomllib.loads(file.read_text("utf-8-sig")).keys())
    owned = file.stat().st_uid == os.geteuid()
    if not names and owned:
        return ""
    what = f"configures {', '.join(names)}" if names else "contains settings"
    return f"{file.resolve()}{'' if owned else ', which is not yours,'} {what} and is used."


def _here() -> Path | None:
    """The settings file in the current directory, if that one is used."""
    file = Path(settings_path())
    return file if "HEADRACE_SETTINGS" not in os.environ and file.is_file() else None


def require_trusted() -> None:
    """Raise `BadSettings` for a settings file in the current directory that somebody else may have put there.

    The file may have come with an unpacked or cloned folder, so it may not make code run unless `HEADRACE_SETTINGS` names it.
    """
    if (file := _here()) is None:
        return
    hint = f"If you trust it, say so: HEADRACE_SETTINGS={file}"
    for status in (file.lstat(), file.stat()):
        if status.st_uid not in (0, os.geteuid()):
            owner = f"belongs to another user (uid {status.st_uid}, you are {os.geteuid()})"
            raise BadSettings(f"{file.resolve()} {owner}, so it is not used.", hint=hint)
    if file.stat().st_mode & stat.S_IWOTH:
        raise BadSettings(f"Everybody may write to {file.resolve()}, so it is not used.", hint=f"chmod o-w {file}")
    if runs := [name for name in _names(tomllib.loads(file.read_text("utf-8-sig"))) if _RUNS.fullmatch(name.lower())]:
        raise BadSettings(
            f"{file.resolve()} makes code run ({', '.join(runs)}) and was not named explicitly, so it is not used.", hint=hint
        )


def _names(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The full names of the keys that a settings file sets."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{before}{name}.")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            for one in value:
                yield from _names(one, f"{before}{name}.") if isinstance(one, Mapping) else (f"{before}{name}",)
        else:
            yield f"{before}{name}"
