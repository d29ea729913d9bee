"""Random keys of a home, created once and reused by every later start."""

from __future__ import annotations

import secrets
import shlex
import stat

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import HomeRefused
from headrace.platform.home import Home, write_private


class Keys(BaseModel):
    """A home's secrets; `cluster_id` names the head's cluster, and its folder in the bucket."""

    model_config = ConfigDict(frozen=True)

    s3_access_key: str = Field(default_factory=lambda: secrets.token_hex(10).upper())
    s3_secret_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    models_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    volume_write_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    volume_read_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    filer_write_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    filer_read_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    signing_key: str = Field(default_factory=lambda: secrets.token_hex(32))
    cluster_id: str = Field(default_factory=lambda: f"headrace-{secrets.token_hex(8)}")


def keys_of(home: Home) -> Keys:
    """The keys of `home`, created with mode 0600 if it has none.

    Raises `HomeRefused` if the file is damaged or readable by others: in a home that came with a cloned or unpacked folder, keys
    and API keys are known to someone else.
    """
    try:
        if (mode := stat.S_IMODE(home.keys.stat().st_mode)) & (stat.S_IRWXG | stat.S_IRWXO):
            raise HomeRefused(
                f"Other users may read this home's keys, {home.keys}: its mode is {mode:04o}.",
                hint=f"Name another home with --home DIR. If this one is yours: chmod 600 {shlex.quote(str(home.keys))}",
            )
        keys = Keys.model_validate_json(written := home.keys.read_text(encoding="utf-8"))
    except FileNotFoundError:
        keys, written = Keys(), ""
    except (ValidationError, ValueError, OSError) as error:
        # Do not create new keys: the head would use a new, empty cluster, and the old records would stay unread.
        raise HomeRefused(
            f"This home's keys, {home.keys}, cannot be read: {type(error).__name__}.",
            hint="Restore the file from a backup, or name another home with --home DIR.",
        ) from None
    if written != (whole := keys.model_dump_json(indent=1)):  # an older home has fewer keys
        write_private(home.keys, whole)
    return keys
