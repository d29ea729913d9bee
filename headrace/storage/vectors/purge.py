"""Documents taken out of a vector table so that no byte of them stays: not in a fragment, an index, or an older version.

LanceDB deletes a row by a note beside its fragment, the *deletion file*, and merges a fragment only once many of its rows are
noted; so the rows that stay are moved out of every fragment that has a note, until none has. Indices hold words and codes of
rows that are gone, so each is built anew. Then the older versions go. All of it may be cut short and done again.
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
_FRAGMENT_BITS = 32  # of a row id: the fragment above, the row in it below
# Longer than any search takes, and than its handle takes to see that there is a newer version.
_FOLLOWED_S = 2.0
_TRIES = 5
_NOW = timedelta(0)


class VectorPurger(VectorWriter):
    """Writes one generation of a store of the vector tier, and can take documents out of it for good."""

    def chunks_of(self, document_id: str) -> list[str]:
        """The chunks of a document that this generation holds."""
        table = self._open()
        if table is None:
            return []
        with self._faults(), self._moves(Direction.READ):
            rows = table.search().where(f"document_id = {quoted(document_id)}").select(["chunk_id"]).limit(None).to_arrow()
        chunk_ids: list[str] = sorted(rows["chunk_id"].to_pylist())
        return chunk_ids

    def purge(self) -> int:
        """Remove from storage what was deleted from the table before; return how many rows were moved for it.

        Searches go on meanwhile. Files that a writer left who died before its commit are LanceDB's to remove, after a week.
        """
        if self._open() is None:
            return 0
        self._clean(0.0)  # so that the notes left are those of the newest version
        moved = 0
        for _ in range(_TRIES):
            if not (noted := self._noted()):
                break
            moved += self._move(noted)
            self._clean(_FOLLOWED_S)
        # Also where nothing was moved: a purge that was cut short may have ended right before.
        self._index_anew()
        self._clean(_FOLLOWED_S)
        return moved

    def _clean(self, seconds: float) -> None:
        time.sleep(seconds)
        with self._faults(), self._moves(Direction.WRITE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that readers of older versions fail is what the wait is for
            self._open().optimize(cleanup_older_than=_NOW)

    def _move(self, fragments: set[int]) -> int:
        """Write the rows of some fragments again, which makes new fragments of them."""
        table = self._open()
        with self._faults(), self._moves(Direction.WRITE):
            ids = table.search().with_row_id(True).select(["chunk_id"]).limit(None).to_arrow()["_rowid"].to_pylist()
            staying = [row for row in ids if row >> _FRAGMENT_BITS in fragments]
            for start in range(0, len(staying), _ROWS):
                rows = table.take_row_ids(staying[start : start + _ROWS]).to_arrow()
                # Only those that are still there: one that was deleted meanwhile must not come back.
                table.merge_insert("chunk_id").when_matched_update_all().execute(rows.select(table.schema.names))
        return len(staying)

    def _index_anew(self) -> None:
        table = self._open()
        with self._faults(), self._moves(Direction.WRITE):
            made = {index.name for index in table.list_indices()}
            for column, config in index_configs().items():
                if f"{column}_idx" in made:
                    table.create_index(column, config=config, replace=True)

    def _noted(self) -> set[int]:
        """The fragments that have a deletion file."""
        matches = (re.match(r"(\d+)-", name) for name in self._deletion_files())
        return {int(match[1]) for match in matches if match}

    def _deletion_files(self) -> Iterator[str]:
        place = urlparse(self._uri)
        folder = f"{self._shared_table.name}.lance/_deletions"
        if place.scheme == "s3":
            prefix = "/".join(filter(None, (place.path.strip("/"), folder)))
            with self._faults(), self._moves(Direction.READ):
                for page in obstore.list(connect(self._endpoints, place.netloc), prefix=prefix):
                    yield from (meta["path"].rpartition("/")[2] for meta in page)
        else:
            root = Path(place.path if place.scheme == "file" else self._uri) / folder
            if root.is_dir():
                yield from os.listdir(root)
