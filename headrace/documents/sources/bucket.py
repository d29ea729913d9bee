"""Objects below a prefix of a bucket on the object tier's S3: which there are, the name of each as a document, and its bytes."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from headrace.documents.names import SAME_NAME, composed, is_readable, printable
from headrace.documents.sources.permissions import tag_labels
from headrace.documents.sources.places import BUCKET_SCHEME
from headrace.errors import AccessDenied, BadDocument, NotFound, Unavailable, WrongUsage
from headrace.settings import SourceS3, SourceSettings, TagPermissions
from headrace.storage.endpoints import S3Location
from headrace.storage.filters import NOBODY
from headrace.storage.objects import BucketReader, ObjectInfo
from headrace.storage.records import NAME_BYTES

_ASKED_AT_ONCE = 16  # objects of which the tags are asked for
_UNREADABLE = "its key has an empty part, . or .., or a control character, and cannot be read: rename it"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # no character that would mean something else in a URL


@dataclass
class FoundObject:
    """An object to put. Its uri is the bucket's name and its key, whatever prefix was listed.

    `etag` and `length` are the listed ones until the object is read, then those of what was read: it may have been replaced in
    between. `readers` are those that its tags name; `None` where these do not count. What is `refused` is not read, for that
    reason.
    """

    bucket: BucketReader
    key: str
    uri: str
    source: str
    etag: str
    length: int
    readers: tuple[str, ...] | None = None
    rule: SourceSettings | None = None
    refused: str = ""

    def stamp(self) -> str:
        """Its etag, which S3 changes with its content."""
        return self.etag

    def settled(self, stamp: str) -> bool:
        """An etag is of the content, not of the time."""
        return bool(stamp)

    def readers_now(self) -> tuple[str, ...] | None:
        """`readers`, looked at again."""
        if self.refused:
            return None if self.rule is None or not isinstance(self.rule.permissions, TagPermissions) else (NOBODY,)
        return _readers(self.bucket, self.key, self.rule)

    def read(self, most_bytes: int) -> bytes:
        """Its bytes. Raises `BadDocument` with the reason in one clause."""
        if self.refused:
            raise BadDocument(self.uri, self.refused)
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


class OpensBucket(Protocol):
    """Opens a bucket by its name, on the object tier's S3 or at another one, as `BucketReader.of` does."""

    def __call__(self, bucket: str, at: S3Location | None = None) -> BucketReader: ...


@dataclass(frozen=True)
class SourceBucket:
    """A prefix of a bucket that is a source; `id` is the source's."""

    bucket: BucketReader
    name: str
    prefix: str
    id: str
    rule: SourceSettings | None = None

    @classmethod
    def at(cls, address: str, bucket_of: OpensBucket, rule: SourceSettings | None = None) -> SourceBucket:
        """`s3://BUCKET/PREFIX`, on the S3 that the source's `rule` names.

        A prefix that does not end in a slash means the folder of that name. Raises `WrongUsage` where the address names no
        bucket, no prefix, or one that Headrace writes to, and `BadSettings` where the keys are not where they should be.
        """
        name, _, prefix = address.removeprefix(BUCKET_SCHEME).partition("/")
        if not _BUCKET.fullmatch(name):
            raise WrongUsage(f"{address} names no bucket.", hint="s3://BUCKET or s3://BUCKET/PREFIX")
        prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        if {"", ".", ".."}.intersection(prefix.split("/")[:-1]) or not prefix.isprintable():
            raise WrongUsage(f"{address!r} names no prefix of objects that can be listed.", hint="s3://BUCKET/FOLDER")
        bucket = bucket_of(name, None if rule is None or rule.s3 is None else _location(rule.s3))
        if prefix.startswith(bucket.own_prefixes()):
            raise WrongUsage(
                f"{address} is where Headrace keeps the data of all tenants, which is not indexed.", hint="Name another bucket."
            )
        source = hashlib.sha256(f"{bucket.address}/{prefix}".encode()).hexdigest()[:16]
        return cls(bucket, name, prefix, source, rule)

    def objects(self) -> list[FoundObject]:
        """Its objects in key order, without hidden ones; where tags count, each is asked for its own.

        Below a prefix that Headrace writes to nothing is found: there are the documents and conversations of all tenants. An
        object whose key cannot be read, or whose name another one has, too, is refused, and holds up no others. Raises the object
        store's errors.
        """
        found = [self._found(info) for info in self.bucket.list(self.prefix) if self._shows(info.key)]
        keys = sorted(one.key for one in found)

        def is_folder(key: str) -> bool:
            place = bisect_left(keys, f"{key}/")
            return place < len(keys) and keys[place].startswith(f"{key}/")

        # S3's consoles mark a folder with an empty object, whose key ends in a slash; the client cuts that off.
        return self._with_readers(_each_once([one for one in found if one.length or not is_folder(one.key)]))

    def look_at(self, keys: Iterable[str]) -> dict[str, FoundObject | None]:
        """uri → the object of each key that the source may have, `None` where there is none by now.

        Keys must be such that `may_look_at`: of others only a listing says what they are.
        """
        shown = [key for key in keys if key.startswith(self.prefix) and not key.endswith("/") and self._shows(key)]
        with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="look") as pool:
            infos = dict(zip(shown, pool.map(self.bucket.info, shown), strict=True))
        there = self._with_readers([self._found(info) for info in infos.values() if info is not None])
        return {self._uri(key): None for key in shown} | {one.uri: one for one in there}

    def may_look_at(self, key: str) -> bool:
        """Whether an object can be looked at by its key alone: it can be read, and no other key is the same name."""
        return is_readable(key.removesuffix("/")) and composed(key) == key

    def _found(self, info: ObjectInfo) -> FoundObject:
        refused = "" if is_readable(info.key) else _UNREADABLE
        return FoundObject(
            self.bucket, info.key, self._uri(info.key), self.id, info.etag, info.bytes, rule=self.rule, refused=refused
        )

    def _uri(self, key: str) -> str:
        uri = composed(f"{self.name}/{printable(key)}")
        if len(uri.encode()) <= NAME_BYTES:
            return uri
        return f"{uri[:200]}…{hashlib.sha256(uri.encode()).hexdigest()[:16]}"

    def _shows(self, key: str) -> bool:
        """Whether a key is no hidden one, as hidden files are left out, and none of Headrace's own."""
        hidden = any(part.startswith(".") and part not in (".", "..") for part in key.split("/"))
        return not (hidden or key.startswith(self.bucket.own_prefixes()))

    def _with_readers(self, found: list[FoundObject]) -> list[FoundObject]:
        if self.rule is None or not isinstance(self.rule.permissions, TagPermissions):
            return found
        with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="tags") as pool:
            every = list(pool.map(FoundObject.readers_now, found))
        return [replace(one, readers=readers) for one, readers in zip(found, every, strict=True)]


def _each_once(found: list[FoundObject]) -> list[FoundObject]:
    """One object of each name: of several with the same one, none could be told from the others, and they are refused."""
    named: dict[str, list[FoundObject]] = {}
    for one in found:
        named.setdefault(one.uri, []).append(one)
    return [
        ones[0] if len(ones) == 1 else replace(ones[0], etag="+".join(one.etag for one in ones), refused=SAME_NAME)
        for ones in named.values()
    ]


def find_objects(address: str, bucket_of: OpensBucket, rule: SourceSettings | None = None) -> tuple[list[FoundObject], str]:
    """The objects below `s3://BUCKET/PREFIX`, as `SourceBucket.objects` has them, and the id of this source."""
    source = SourceBucket.at(address, bucket_of, rule)
    return source.objects(), source.id


def _location(s3: SourceS3) -> S3Location:
    access_key, secret_key = s3.keys()
    return S3Location(endpoint=s3.endpoint.rstrip("/"), access_key=access_key, secret_key=secret_key, region=s3.region)


def _readers(bucket: BucketReader, key: str, rule: SourceSettings | None) -> tuple[str, ...] | None:
    """The readers that an object's tags name; nobody where its tags may not be read."""
    if rule is None or not isinstance(rule.permissions, TagPermissions):
        return None
    try:
        return tag_labels(bucket.tags(key), rule.permissions, rule.readers)
    except (AccessDenied, NotFound):
        return (NOBODY,)
