"""Random keys of a home, made once and used again by every later start."""

from __future__ import annotations

import secrets
import shlex
import stat

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import HomeRefused
from headrace.platform.home import Home, write_private


class Keys(BaseModel):
    """What only the owner of a home knows; `cluster_id` names the head's cluster and the place of its data."""

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
    """The keys of `home`, made at mode 0600 if it has none yet.

    Raises `HomeRefused` if the file is damaged, or others may read it: a home that came with a cloned or unpacked folder has
    keys, and holders of API keys, of somebody else's.
    """
    try:
        if (mode := stat.S_IMODE(home.keys.stat().st_mode)) & (stat.S_IRWXG | stat.S_IRWXO):
            raise HomeRefused(
                f"Others may read the keys of this home, {home.keys}: its mode is {mode:04o}.",
                hint=f"Name another home with --home DIR. If this one is yours: chmod 600 {shlex.quote(str(home.keys))}",
            )
        keys = Keys.model_validate_json(written := home.keys.read_text(encoding="utf-8"))
    except FileNotFoundError:
        keys, written = Keys(), ""
    except (ValidationError, ValueError, OSError) as error:
        # Fresh keys would point the head at an empty cluster and leave the old one's records unread: say so instead.
        raise HomeRefused(
            f"The keys of this home, {home.keys}, cannot be read: {type(error).__name__}.",
            hint="Put the file back from a copy, or name another home with --home DIR.",
        ) from None
    if written != (whole := keys.model_dump_json(indent=1)):  # an older home has fewer
        write_private(home.keys, whole)
    return keys
