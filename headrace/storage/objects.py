"""Object tier: whole objects under `<store>/<key>` in one bucket, with conditional puts."""

from __future__ import annotations

import copy
import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import obstore
from obstore import exceptions as faults
from obstore.store import S3Store

from headrace.catalog import Store
from headrace.errors import AccessDenied, LostRace, NotFound, StorageFull, Unavailable, WrongUsage
from headrace.storage.connection import s3_fault
from headrace.storage.endpoints import Endpoints, S3Location
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter, Metered
from headrace.storage.reason import is_full, reason

if TYPE_CHECKING:
    from obstore import PutMode

_PART_BYTES = 8 << 20
_LIST_PAGE = 1000
_DELETE_MOST = 1000
_UNREADABLE = re.compile(r'invalid path: .*?Path "(.*)"(?: contained|: Encountered)', re.DOTALL)


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing; `bytes` is its size."""

    key: str
    bytes: int
    etag: str
    modified: datetime


def connect(endpoints: Endpoints, bucket: str | None = None) -> S3Store:
    """This process's own obstore client of one bucket (default: the object tier's). It connects on first use."""
    return _connect(endpoints.s3, bucket or endpoints.bucket)


def _connect(at: S3Location, bucket: str) -> S3Store:
    return shared(at.endpoint, at.access_key, at.secret_key, at.region, bucket)


def shared(endpoint: str, access_key: str, secret_key: str, region: str, bucket: str) -> S3Store:
    """This process's own obstore client of a bucket: making one takes 6 ms, most of it for TLS, and stages open several stores.

    A process that was forked gets another, because it must not use its parent's sockets.
    """
    return _shared(os.getpid(), endpoint, access_key, secret_key, region, bucket)


@lru_cache(maxsize=16)
def _shared(_process: int, *where: str) -> S3Store:
    return bucket_at(*where)


def bucket_at(
    endpoint: str, access_key: str, secret_key: str, region: str, bucket: str, *, timeout: str = "120s", retries: int = 4
) -> S3Store:
    """An obstore client of any bucket. It connects on first use."""
    return S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=access_key,
        secret_access_key=secret_key,
        region=region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": urlparse(endpoint).scheme == "http", "timeout": timeout},
        # obstore retries for three minutes by default, which is too long for a person at a terminal.
        retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=20)},
    )


class ObjectReader(Metered):
    """Reads one store of the object tier. Keys are relative to the store."""

    _at: S3Location | None = None  # another server than that of the object tier

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self.meter = meter
        self._endpoints = endpoints
        self._client = connect(endpoints)
        self._where = f"{endpoints.s3_endpoint}/{endpoints.bucket}"

    def __reduce__(self) -> tuple[Any, ...]:
        """A handle reconnects when it is unpickled."""
        return type(self), (self.store, self._endpoints, self.meter)

    def get(self, key: str) -> bytes:
        """The bytes of one object. Raises `NotFound`."""
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The bytes of one object and the etag that `put_if_match` takes. Raises `NotFound`."""
        with self._faults(key), self.meter.operation(self.store, Direction.READ) as operation:
            answer = obstore.get(self._client, self._path(key))
            data = bytes(answer.bytes())
            operation.bytes = len(data)
        return data, answer.meta["e_tag"] or ""

    def download(self, key: str, path: Path) -> int:
        """Stream one object into a file and return its size in bytes. Raises `NotFound`."""
        with self._faults(key), self.meter.operation(self.store, Direction.READ) as operation:
            answer = obstore.get(self._client, self._path(key))
            with path.open("wb") as file:
                for piece in answer.stream(min_chunk_size=_PART_BYTES):
                    operation.bytes += file.write(piece)
        return operation.bytes

    def info(self, key: str) -> ObjectInfo | None:
        """An object's size, etag and time, or `None` if there is none."""
        try:
            with self._faults(key), self.meter.operation(self.store, Direction.READ):
                meta = obstore.head(self._client, self._path(key))
        except NotFound:
            return None
        return ObjectInfo(key, meta["size"], meta["e_tag"] or "", meta["last_modified"])

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order; those behind the key `after`, if it is given."""
        start = len(self._path("-")) - 1
        folder, _, rest = prefix.rpartition("/")
        # obstore filters by whole path segments, so a partial last segment is filtered here.
        offset = self._path(after) if after else None
        pages = obstore.list(self._client, prefix=self._path(folder), offset=offset, chunk_size=_LIST_PAGE)
        while True:
            with self._faults(prefix), self.meter.operation(self.store, Direction.READ):
                page = next(iter(pages), None)
            if page is None:
                return
            for meta in page:
                key = meta["path"][start:]
                if key.startswith(prefix) or not rest:
                    yield ObjectInfo(key, meta["size"], meta["e_tag"] or "", meta["last_modified"])

    def folders(self) -> Sequence[str]:
        """The first segments of keys, those before a slash; its cost follows their number and not that of the objects."""
        with self._faults(""), self.meter.operation(self.store, Direction.READ):
            found = obstore.list_with_delimiter(self._client, self._path(""))
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def _path(self, key: str) -> str:
        return f"{self.store.name}/{key}" if key else self.store.name

    @contextmanager
    def _faults(self, key: str) -> Iterator[None]:
        try:
            yield
        except (faults.NotFoundError, FileNotFoundError) as error:
            self._explain(error)
            raise NotFound(f"The object store has no {self._path(key)}.", hint="Was it deleted?") from None
        except (faults.AlreadyExistsError, faults.PreconditionError):
            raise LostRace(f"Another process wrote {self._path(key)} first.", hint="Run the command again.") from None
        except (faults.PermissionDeniedError, faults.UnauthenticatedError) as error:
            self._explain(error)
            raise Unavailable(
                f"{self._where} rejected the access key for {self._path(key)}: {reason(error)}.",
                hint="Check access_key and secret_key under [objects] in headrace.toml.",
            ) from error
        except (faults.BaseError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"No space left for {self._path(key)}.", hint="Free some space and run again.") from None
            if is_full(error, self._endpoints.store_disk if self._at is None else None):
                raise StorageFull(
                    f"The object store at {self._where} is full.", hint="Free some space there and run again."
                ) from error
            self._explain(error)
            raise Unavailable(
                f"The object store at {self._where} does not answer: {reason(error)}.",
                hint="Check that it runs (`headrace endpoints`) and run the command again.",
            ) from error

    def _explain(self, error: BaseException) -> None:
        """Raise `Unavailable` with the setting to change, where the error is about the endpoint and not about one object."""
        fault = s3_fault(error, endpoint=self._endpoints.s3_endpoint, bucket=self._endpoints.bucket)
        if fault is not None:
            raise (AccessDenied if fault.denied else Unavailable)(fault.message, hint=fault.hint) from error


class _UnreadableKey(WrongUsage):
    """A key that obstore does not read."""


class BucketReader(ObjectReader):
    """Reads another bucket, which `of` opens by its name; keys are the bucket's own."""

    _bucket = ""

    def of(self, bucket: str, at: S3Location | None = None) -> BucketReader:
        """The bucket of that name, on the object tier's S3 unless `at` names another; it connects on first use."""
        other = copy.copy(self)
        other._bucket, other._at = bucket, at
        at = at or self._endpoints.s3
        other._client = _connect(at, bucket)
        other._where = f"{at.endpoint}/{bucket}"
        return other

    @property
    def address(self) -> str:
        """Its address: the endpoint's, and its name."""
        return self._where

    @property
    def copies_dir(self) -> Path:
        """Where copies of sources that are not buckets may be kept: a directory beside the stores of the file tier."""
        return self._endpoints.files_dir / "git-copies"

    def tags(self, key: str) -> dict[str, str]:
        """An object's tags. Raises `NotFound`, `AccessDenied`, `WrongUsage` where the store has none, and `Unavailable`."""
        from headrace.storage.s3_requests import tagging_at  # it imports an HTTP client, which other commands need not wait for

        with self.meter.operation(self.store, Direction.READ) as operation:
            tags, operation.bytes = tagging_at(os.getpid(), self._at or self._endpoints.s3, self._bucket).of(key)
        return tags

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """As that of any store, with those keys by which no object can be read (`s3_requests.py`), too."""
        last = after
        try:
            for info in super().list(prefix, after=after):
                last = info.key
                yield info
            return
        except _UnreadableKey:  # one such key ends obstore's listing
            from headrace.storage.s3_requests import key_listing_at  # it imports an HTTP client, as above
        pages = key_listing_at(os.getpid(), self._at or self._endpoints.s3, self._bucket).pages(prefix, last)
        while True:
            with self.meter.operation(self.store, Direction.READ):
                page, _ = next(pages, (None, 0))
            if page is None:
                return
            for key, size, etag, modified in page:
                if (plain := key.removesuffix("/")) != last:  # as obstore has them
                    yield ObjectInfo(plain, size, etag, modified)

    def get_up_to(self, key: str, most_bytes: int) -> tuple[bytes, str, int]:
        """An object's bytes, etag and size; no bytes where it is larger than `most_bytes`. Raises `NotFound`.

        A listing does not bound what is read: the object may have grown since.
        """
        with self._faults(key), self.meter.operation(self.store, Direction.READ) as operation:
            answer = obstore.get(self._client, self._path(key))
            size = answer.meta["size"]
            data = bytes(answer.bytes()) if size <= most_bytes else b""
            operation.bytes = len(data)
        return data, answer.meta["e_tag"] or "", size

    def own_prefixes(self) -> tuple[str, ...]:
        """The prefixes of this bucket that Headrace itself writes to."""
        return self._endpoints.own_prefixes(self._bucket)

    def _path(self, key: str) -> str:
        return key

    def _explain(self, error: BaseException) -> None:
        if (unread := _UNREADABLE.search(str(error))) is not None:
            raise _UnreadableKey(
                f"Bucket {self._bucket} has an object whose key cannot be read: {unread[1]!r}.",
                hint="It has an empty part, . or .. or a control character: rename it, or name a folder that it is not in.",
            ) from None
        at, part = self._at or self._endpoints.s3, "objects" if self._at is None else "sources.s3"
        fault = s3_fault(error, endpoint=at.endpoint, bucket=self._bucket, part=part)
        if fault is not None:
            raise (AccessDenied if fault.denied else Unavailable)(fault.message, hint=fault.hint) from error


class ObjectWriter(ObjectReader):
    """Writes and reads one store of the object tier."""

    def put(self, key: str, data: bytes) -> str:
        """Put one object and return its etag."""
        return self._put(key, data, "overwrite")

    def put_if_absent(self, key: str, data: bytes) -> str:
        """Put an object if it does not exist. Raises `LostRace`, unless the existing object equals `data`:

        the client retries a put whose answer was lost, and the first attempt may have succeeded.
        """
        try:
            return self._put(key, data, "create")
        except LostRace:
            stored, etag = self.get_with_etag(key)
            if stored == data:
                return etag
            raise

    def put_if_match(self, key: str, data: bytes, etag: str) -> str:
        """Replace an object if its etag is `etag`. Raises `LostRace`, unless the existing object equals `data`."""
        try:
            return self._put(key, data, {"e_tag": etag})
        except LostRace:
            stored, current = self.get_with_etag(key)
            if stored == data:
                return current
            raise

    def upload(self, key: str, path: Path) -> str:
        """Stream a file into one object and return its etag."""
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE) as operation:
            operation.bytes = path.stat().st_size
            return obstore.put(self._client, self._path(key), path, chunk_size=_PART_BYTES)["e_tag"] or ""

    def delete(self, key: str) -> None:
        """Delete one object; a missing object is not an error."""
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE):
            obstore.delete(self._client, self._path(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, up to a thousand in a request; missing ones are not an error."""
        for start in range(0, len(keys), _DELETE_MOST):
            some = keys[start : start + _DELETE_MOST]
            with self._faults(some[0]), self.meter.operation(self.store, Direction.WRITE):
                obstore.delete(self._client, [self._path(key) for key in some])

    def _put(self, key: str, data: bytes, mode: PutMode) -> str:
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE) as operation:
            operation.bytes = len(data)
            answer = obstore.put(
                self._client,
                self._path(key),
                data,
                mode=mode,
                use_multipart=len(data) > _PART_BYTES and mode == "overwrite",
            )
        return answer["e_tag"] or ""
