"""What a source has: its documents as they are found, and which sources were listed in full."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from headrace.documents.sources.bucket import FoundObject, OpensBucket, find_objects
from headrace.documents.sources.folder import find_files
from headrace.documents.sources.git import Repositories, SourceRepository
from headrace.documents.sources.places import is_bucket, is_path, is_repository
from headrace.errors import WrongUsage
from headrace.settings import PosixPermissions, SourceSettings
from headrace.storage.meter import Meter
from headrace.storage.objects import BucketReader


class FoundDocument(Protocol):
    """A document of a source. `source` is the id of the listed folder or prefix; `None`: the user named a file itself."""

    @property
    def uri(self) -> str: ...

    @property
    def source(self) -> str | None: ...

    @property
    def readers(self) -> tuple[str, ...] | None:
        """Those that its permissions in the source allow, none for everybody; `None` where permissions do not count."""
        ...

    def readers_now(self) -> tuple[str, ...] | None:
        """`readers`, looked at again."""
        ...

    def stamp(self) -> str:
        """Text that differs once its content may have changed; empty if it cannot be known without reading it."""
        ...

    def settled(self, stamp: str) -> bool:
        """Whether any later change will give a stamp other than this one, which was just read."""
        ...

    def read(self, most_bytes: int) -> bytes:
        """Its bytes. Raises `BadDocument` with the reason in one clause."""
        ...


@dataclass(frozen=True)
class SourceListing:
    """The documents of some sources, each once; `whole` has the ids of sources that are not empty and were listed in full.

    `closed` has folders that could not be listed though permissions count there, by uri, with the id of their source.
    """

    documents: Sequence[FoundDocument]
    whole: frozenset[str]
    sources: frozenset[str] = frozenset()
    """The ids of all sources that were listed."""
    closed: Mapping[str, str] = field(default_factory=dict)

    def stamps(self) -> dict[str, str]:
        """uri → its stamp and its readers by permissions, of every document."""
        return {document.uri: stamp_of(document, document.stamp()) for document in self.documents}

    def metered(self, meter: Meter) -> SourceListing:
        """The same listing; what is read of it counts there."""
        readers: dict[int, BucketReader] = {}

        def metered(document: FoundDocument) -> FoundDocument:
            if not isinstance(document, FoundObject):
                return document
            bucket = readers.setdefault(id(document.bucket), document.bucket.with_meter(meter))
            return replace(document, bucket=bucket)

        return replace(self, documents=[metered(document) for document in self.documents])

    def with_objects(self, looked_at: Mapping[str, FoundObject | None], source: str) -> SourceListing:
        """The same listing, with objects of a source as they are by now, `None` for those that are gone."""
        documents = {document.uri: document for document in self.documents}
        for uri, found in looked_at.items():
            if found is not None:
                documents[uri] = found
            else:
                documents.pop(uri, None)
        whole = self.whole if any(document.source == source for document in documents.values()) else self.whole - {source}
        return replace(self, documents=list(documents.values()), whole=whole)


def stamp_of(document: FoundDocument, stamp: str) -> str:
    """The stamp of a document, with its readers where its permissions count."""
    return stamp if document.readers is None else f"{stamp} {json.dumps(document.readers)}"


def find(
    places: Sequence[str | Path],
    bucket_of: OpensBucket,
    rules: Sequence[SourceSettings] = (),
    repositories: Repositories | None = None,
) -> SourceListing:
    """What is at some paths and addresses (`s3://BUCKET/PREFIX`, `git+URL`); `bucket_of` opens a bucket by its name.

    `repositories` opens those of Git; without it a place that is one is refused.

    `rules` are the settings of those sources that have any. Raises `NotFound` where one does not exist, `WrongUsage` where two
    documents would have the same uri or a file is a home's, and the object store's errors.
    """

    def rule_of(place: str | Path) -> SourceSettings | None:
        return next((rule for rule in rules if rule.is_at(place)), None)

    def posix(path: Path) -> PosixPermissions | None:
        rule = rule_of(path)
        return rule.permissions if rule is not None and isinstance(rule.permissions, PosixPermissions) else None

    addresses = [str(place) for place in places if is_bucket(place)]
    files = find_files([Path(place) for place in places if is_path(place)], posix)
    found: list[FoundDocument] = list(files.files)
    whole, sources = files.whole, {file.source for file in files.files if file.source is not None}
    for address in addresses:
        objects, source = find_objects(address, bucket_of, rule_of(address))
        found += objects
        sources.add(source)
        if objects:
            whole.add(source)
    for place in filter(is_repository, places):
        if repositories is None:
            raise WrongUsage(f"{place} is a Git repository, which is not read here.", hint="headrace index git+URL reads it.")
        repository = SourceRepository.at(str(place), repositories, rule_of(place))
        blobs = repository.files()
        found += blobs
        sources.add(repository.id)
        if blobs:
            whole.add(repository.id)
    named: dict[str, FoundDocument] = {}
    for document in found:
        if named.setdefault(document.uri, document) is not document:
            raise WrongUsage(
                f"Two documents would be called {document.uri}, and one would replace the other.",
                hint="Index the folders, prefixes or repositories apart, for different tenants, or rename one.",
            )
    return SourceListing(found, frozenset(whole), frozenset(sources), files.closed)
