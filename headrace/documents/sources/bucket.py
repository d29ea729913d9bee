"""Objects below a prefix of a bucket on the object tier's S3: which there are, the name of each as a document, and its bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headrace.documents.names import composed
from headrace.errors import AccessDenied, BadDocument, NotFound, Unavailable, WrongUsage
from headrace.storage.objects import BucketReader

_SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # no character that would mean something else in a URL


@dataclass
class FoundObject:
    """An object to put. Its uri is the bucket's name and its key, whatever prefix was listed.

    `etag` and `length` are the listed ones until the object is read, then those of what was read: it may have been replaced in
    between.
    """

    bucket: BucketReader
    key: str
    uri: str
    source: str
    etag: str
    length: int

    def stamp(self) -> str:
        """Its etag, which S3 changes with its content."""
        return self.etag

    def settled(self, stamp: str) -> bool:
        """An etag is of the content, not of the time."""
        return bool(stamp)

    def read(self, most_bytes: int) -> bytes:
        """Its bytes. Raises `BadDocument` with the reason in one clause."""
        data = b""
        if 0 < self.length <= most_bytes:
            try:
                data, self.etag, self.length = self.bucket.get_up_to(self.key, most_bytes)
            except NotFound:
                raise BadDocument(self.uri, "it was deleted while it was listed") from None
            except AccessDenied:  # of this object alone, since the bucket was listed: it may have an owner and a key of its own
                raise BadDocument(self.uri, "this access key may not read it: allow it s3:GetObject") from None
            except Unavailable as error:
                raise Unavailable(f"s3://{self.uri} cannot be read: {error.message}", hint=error.hint) from error
        if self.length > most_bytes:
            raise BadDocument(self.uri, f"larger than the limit of {most_bytes / 1e6:,.0f} MB")
        if not data:
            raise BadDocument(self.uri, "the file is empty")
        return data


def is_address(place: str | Path) -> bool:
    """Whether a place is in a bucket, and not a path."""
    return isinstance(place, str) and place.startswith(_SCHEME)


def find_objects(address: str, bucket_of: Callable[[str], BucketReader]) -> tuple[list[FoundObject], str]:
    """The objects below `s3://BUCKET/PREFIX` in key order, without hidden ones, and the id of this source.

    A prefix that does not end in a slash means the folder of that name. Below a prefix that Headrace writes to nothing is found:
    there are the documents and conversations of all tenants. Raises `WrongUsage` where the address names no bucket, no prefix
    or such a one, or an object's key cannot be read, and the object store's errors.
    """
    name, _, prefix = address.removeprefix(_SCHEME).partition("/")
    if not _BUCKET.fullmatch(name):
        raise WrongUsage(f"{address} names no bucket.", hint="s3://BUCKET or s3://BUCKET/PREFIX")
    prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    if {"", ".", ".."}.intersection(prefix.split("/")[:-1]) or not prefix.isprintable():
        raise WrongUsage(f"{address!r} names no prefix of objects that can be listed.", hint="s3://BUCKET/FOLDER")
    bucket = bucket_of(name)
    own = bucket.own_prefixes()
    if prefix.startswith(own):
        raise WrongUsage(
            f"{address} is where Headrace keeps the data of all tenants, which is not indexed.", hint="Name another bucket."
        )
    source = hashlib.sha256(f"{bucket.address}/{prefix}".encode()).hexdigest()[:16]
    found = []
    folders: set[str] = set()
    for info in bucket.list(prefix):
        # A key with a hidden part is left out as hidden files are.
        if any(part.startswith(".") for part in info.key.split("/")) or info.key.startswith(own):
            continue
        found.append(FoundObject(bucket, info.key, composed(f"{name}/{info.key}"), source, info.etag, info.bytes))
        folders.update(str(parent) for parent in PurePosixPath(info.key).parents)
    # S3's consoles mark a folder with an empty object, whose key ends in a slash; the client cuts that off.
    return [one for one in found if one.length or one.key not in folders], source
