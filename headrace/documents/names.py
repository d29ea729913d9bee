"""What a document is called: its uri, its id, the key of its source, and the readers it names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from headrace.errors import WrongUsage
from headrace.storage.filters import NOBODY
from headrace.storage.records import NAME_BYTES
from headrace.unicode import normalized

URI_CHARACTERS = 1_024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SAME_NAME = "another one has the same name, but for how its accents are written or a slash at its end: rename or remove one"
"""Why neither is read: each would replace the other."""
_READER_CHARACTERS = 200
_READERS_CHARACTERS = 4_000  # of all readers of a document or a key: each service keeps those of all documents in memory


def is_readable(key: str) -> bool:
    """Whether an object can be read by its key: not if a part of it is empty, . or .., or it has a control character."""
    return not (_CONTROL.search(key) or {"", ".", ".."}.intersection(key.split("/")))


def printable(key: str) -> str:
    """The key, with its control characters escaped."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", key)


def composed(name: str) -> str:
    """A document's name in Unicode's form NFC: systems write the same letters in two ways, and both are one name."""
    return normalized("NFC", name)


def existing_uri(address: str) -> str:
    """A uri that some document may have, in form NFC: the command line and producers give names that `new_uri` refuses.

    Raises `WrongUsage` where no event can name it.
    """
    address = _bounded(address)
    if not 0 < len(address.encode()) <= NAME_BYTES or "\0" in address:
        raise WrongUsage(f"A document's uri has 1 to {NAME_BYTES:,} bytes of UTF-8, and no NUL.", hint="Like handbook/pump.md.")
    return address


def new_uri(address: str) -> str:
    """A uri that the API may give to a document, in form NFC. Raises `WrongUsage`.

    It is never used as a path, but one that would lead out of a folder is refused all the same. So is U+FFFD, which replaces
    bytes that are not UTF-8: names that differ only in those would be the same.
    """
    address = _bounded(address)
    if "\ufffd" in address:
        raise WrongUsage("A document's uri must be UTF-8.", hint="Write each byte of it as %XX.")
    if not address or len(address) > URI_CHARACTERS or not address.isprintable():
        raise WrongUsage(
            f"A document's uri has 1 to {URI_CHARACTERS:,} printable characters.", hint="Name it like handbook/pump.md."
        )
    if address.startswith("/") or any(part in ("", ".", "..") for part in address.split("/")) or "\\" in address:
        raise WrongUsage("A document's uri may not have an empty part, . or .. in it.", hint="Like handbook/pump.md.")
    return address


def _bounded(address: str) -> str:
    """A uri in form NFC. Raises `WrongUsage` for one that is too long."""
    if len(address.encode()) > NAME_BYTES:
        raise WrongUsage(f"A document's uri has at most {NAME_BYTES:,} bytes of UTF-8.", hint="Like handbook/pump.md.")
    return composed(address)


def document_id(tenant: str, uri: str) -> str:
    """The id of a document, the same for all its versions: 16 hex digits of sha256 over tenant and uri."""
    return hashlib.sha256(f"{tenant}\0{uri}".encode()).hexdigest()[:16]


def object_key(tenant: str, sha256: str) -> str:
    """The key of a source within the documents store."""
    return f"{tenant}/{sha256}"


def check_principals(readers: Iterable[str]) -> None:
    """Raise `WrongUsage` unless each of these can name a user or a group, and all of them together are not too long."""
    names = list(readers)
    if sum(map(len, names)) > _READERS_CHARACTERS:
        raise WrongUsage(
            f"These readers' names are longer than {_READERS_CHARACTERS:,} characters together.",
            hint="Name a group that they are in.",
        )
    for reader in names:
        if not reader.strip() or len(reader) > _READER_CHARACTERS or not reader.isprintable() or reader == NOBODY:
            raise WrongUsage(
                f"{reader!a} cannot be the name of a reader.",
                hint=f"Use the name of a user or a group, with 1 to {_READER_CHARACTERS} printable characters.",
            )
