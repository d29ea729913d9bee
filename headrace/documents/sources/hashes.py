"""The hash of each document of a source, by its stamp: a document whose stamp has not changed is not read again.

A cache in the metadata store: where it is lost, everything is read once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from headrace.storage.metadata import Metadata

_AT_ONCE = 500  # uris in one statement


class Stamped(NamedTuple):
    """A document's stamp, and the SHA-256 of its bytes at that time."""

    stamp: str
    sha256: str


class SourceHashes:
    """The stamps and hashes of a tenant's documents."""

    def __init__(self, metadata: Metadata, tenant: str) -> None:
        self._metadata, self._tenant = metadata, tenant

    def known(self, sources: Iterable[str], uris: Collection[str] | None = None) -> dict[tuple[str, str], Stamped]:
        """(source, uri) → what is known of each document of some sources, or of these among them."""
        found: dict[tuple[str, str], Stamped] = {}
        statement = "SELECT uri, stamp, sha256 FROM source_hashes WHERE tenant = :tenant AND source = :source"
        wanted = None if uris is None else sorted(uris)
        for source in sources:
            one = {"tenant": self._tenant, "source": source}
            for start in range(0, 1 if wanted is None else len(wanted), _AT_ONCE):
                named = {} if wanted is None else {f"u{n}": uri for n, uri in enumerate(wanted[start : start + _AT_ONCE])}
                among = f" AND uri IN ({', '.join(f':{name}' for name in named)})" if named else ""
                with self._metadata.transaction() as run:
                    rows = run(statement + among, {**one, **named})
                found |= {(source, uri): Stamped(stamp, sha256) for uri, stamp, sha256 in rows}
        return found

    def note(self, found: Mapping[tuple[str, str], Stamped], gone: Iterable[tuple[str, str]] = ()) -> None:
        """Note what was read, and drop what is gone from its source."""
        one, dropped = {"tenant": self._tenant}, list(gone)
        if not found and not dropped:
            return
        with self._metadata.transaction(writing=True) as run:
            run.many(
                "INSERT INTO source_hashes (tenant, source, uri, stamp, sha256) VALUES (:tenant, :source, :uri, :stamp, :sha256)"
                " ON CONFLICT (tenant, source, uri) DO UPDATE SET stamp = excluded.stamp, sha256 = excluded.sha256",
                [{**one, "source": source, "uri": uri, **was._asdict()} for (source, uri), was in found.items()],
            )
            run.many(
                "DELETE FROM source_hashes WHERE tenant = :tenant AND source = :source AND uri = :uri",
                [{**one, "source": source, "uri": uri} for source, uri in dropped],
            )

    def forget(self, uri: str) -> None:
        """Drop what is known of a document, in every source."""
        with self._metadata.transaction(writing=True) as run:
            run("DELETE FROM source_hashes WHERE tenant = :tenant AND uri = :uri", {"tenant": self._tenant, "uri": uri})
