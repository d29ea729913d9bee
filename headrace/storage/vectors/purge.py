"""Purges documents from a vector table: no byte of them stays in a fragment, an index or an older version.

LanceDB deletes a row by an entry in a *deletion file* beside its fragment, and merges a fragment only once many of its rows are
deleted. So the remaining rows are moved out of every fragment that has a deletion file. Indices still hold words and codes of
deleted rows, so each is rebuilt. Then older versions are removed. All of it can be interrupted and repeated.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlparse

import obstore

from headrace.storage.ledger import Direction
from headrace.storage.objects import connect
from headrace.storage.tables.handles import quoted
from headrace.storage.vectors.handles import VectorWriter, index_configs

_ROWS = 4096  # moved at a time
_FRAGMENT_BITS = 32  # a row id's upper bits are the fragment, its lower bits the row
# Longer than any search takes, and than a handle takes to notice a newer version.
_FOLLOWED_S = 2.0
_TRIES = 5
_NOW = timedelta(0)


class VectorPurger(VectorWriter):
    """Writes one generation of a store of the vector tier, and can purge documents from it."""

    def chunks_of(self, document_id: str) -> list[str]:
        """Ids of a document's chunks in this generation."""
        table = self._open()
        if table is None:
            return []
        with self._faults(), self._moves(Direction.READ):
            rows = table.search().where(f"document_id = {quoted(document_id)}").select(["chunk_id"]).limit(None).to_arrow()
        chunk_ids: list[str] = sorted(rows["chunk_id"].to_pylist())
        return chunk_ids

    def purge(self) -> int:
        """Remove deleted rows from storage; returns how many other rows were moved for that.

        Searches go on meanwhile. Files left by a writer that died before its commit are removed by LanceDB after a week.
        """
        if self._open() is None:
            return 0
        self._clean(0.0)  # so that only the newest version's deletion files remain
        moved = 0
        for _ in range(_TRIES):
            if not (fragments := self._with_deletions()):
                break
            moved += self._move(fragments)
            self._clean(_FOLLOWED_S)
        # Even if nothing was moved: an earlier purge may have been interrupted right before this.
        self._rebuild_indices()
        self._clean(_FOLLOWED_S)
        return moved

    def _clean(self, seconds: float) -> None:
        time.sleep(seconds)
        with self._faults(), self._moves(Direction.WRITE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that readers of older versions fail, for which we waited
            self._open().optimize(cleanup_older_than=_NOW)

    def _move(self, fragments: set[int]) -> int:
        """Rewrite the rows of some fragments, which puts them into new fragments."""
        table = self._open()
        with self._faults(), self._moves(Direction.WRITE):
            ids = table.search().with_row_id(True).select(["chunk_id"]).limit(None).to_arrow()["_rowid"].to_pylist()
            staying = [row for row in ids if row >> _FRAGMENT_BITS in fragments]
            for start in range(0, len(staying), _ROWS):
                rows = table.take_row_ids(staying[start : start + _ROWS]).to_arrow()
                # Update only: a row deleted meanwhile must not come back.
                table.merge_insert("chunk_id").when_matched_update_all().execute(rows.select(table.schema.names))
        return len(staying)

    def _rebuild_indices(self) -> None:
        table = self._open()
        with self._faults(), self._moves(Direction.WRITE):
            made = {index.name for index in table.list_indices()}
            for column, config in index_configs().items():
                if f"{column}_idx" in made:
                    table.create_index(column, config=config, replace=True)

    def _with_deletions(self) -> set[int]:
        """The fragments that have a deletion file."""
        matches = (re.match(r"(\d+)-", name) for name in self._deletion_files())
        return {int(match[1]) for match in matches if match}

    def _deletion_files(self) -> Iterator[str]:
        url = urlparse(self._uri)
        folder = f"{self._shared_table.name}.lance/_deletions"
        if url.scheme == "s3":
            prefix = "/".join(filter(None, (url.path.strip("/"), folder)))
            with self._faults(), self._moves(Direction.READ):
                for page in obstore.list(connect(self._endpoints, url.netloc), prefix=prefix):
                    yield from (meta["path"].rpartition("/")[2] for meta in page)
        else:
            root = Path(url.path if url.scheme == "file" else self._uri) / folder
            if root.is_dir():
                yield from os.listdir(root)
