"""Which document of the folder a passage is from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from headrace.simulate.beir import BeirFolder

_SUFFIX = ".md"


class DocumentNames:
    """The folder's documents by the names under which they are indexed: the id, quoted, with or without an ending."""

    def __init__(self, folder: BeirFolder) -> None:
        self.tenant = folder.tenant
        self.files: dict[str, bytes] = {}
        """File name → the document as it is put."""
        with tempfile.TemporaryDirectory() as temporary:
            names = folder.write(Path(temporary))
            self.files = {name: (Path(temporary) / name).read_bytes() for name in names}
        self._ids = {name.removesuffix(_SUFFIX): document for name, document in names.items()}

    def of(self, uri: str) -> str | None:
        """The id of the document with this uri; `None` for one that the folder does not have."""
        name = uri.rpartition("/")[2]
        return self._ids.get(name) or self._ids.get(name.rpartition(".")[0])
