"""What a source has: its documents as they are found, and which sources were listed in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.documents.sources.bucket import find_objects, is_address
from headrace.documents.sources.folder import find_files
from headrace.errors import WrongUsage
from headrace.storage.objects import BucketReader


class FoundDocument(Protocol):
    """A document of a source. `source` is the id of the listed folder or prefix; `None`: the user named a file itself."""

    @property
    def uri(self) -> str: ...

    @property
    def source(self) -> str | None: ...

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
    """The documents of some sources, each once; `whole` has the ids of sources that are not empty and were listed in full."""

    documents: Sequence[FoundDocument]
    whole: frozenset[str]

    def stamps(self) -> dict[str, str]:
        """uri → its stamp, of every document."""
        return {document.uri: document.stamp() for document in self.documents}


def find(places: Sequence[str | Path], bucket_of: Callable[[str], BucketReader]) -> SourceListing:
    """What is at some paths and addresses (`s3://BUCKET/PREFIX`); `bucket_of` opens a bucket by its name.

    Raises `NotFound` where one does not exist, `WrongUsage` where two documents would have the same uri or a file is a home's,
    and the object store's errors.
    """
    addresses = [str(place) for place in places if is_address(place)]
    files, whole = find_files([Path(place) for place in places if not is_address(place)])
    found: list[FoundDocument] = list(files)
    for address in addresses:
        objects, source = find_objects(address, bucket_of)
        found += objects
        if objects:
            whole.add(source)
    named: dict[str, FoundDocument] = {}
    for document in found:
        if named.setdefault(document.uri, document) is not document:
            raise WrongUsage(
                f"Two documents would be called {document.uri}, and one would replace the other.",
                hint="Index the folders or prefixes apart, for different tenants, or rename one.",
            )
    return SourceListing(found, frozenset(whole))
