"""Reads folders in BEIR layout: corpus.jsonl, queries.jsonl and qrels/test.tsv (Thakur et al. 2021)."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from headrace.errors import WrongUsage

_NAME_BYTES = 200


@dataclass(frozen=True)
class BeirQuestion:
    """A question, its relevant documents (id → grade above 0), and its answers if the folder has them."""

    id: str
    text: str
    relevant: dict[str, int]
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BeirFolder:
    """A folder's documents (id → title, text) and its judged questions."""

    path: Path
    documents: dict[str, tuple[str, str]]
    questions: tuple[BeirQuestion, ...]

    @cached_property
    def tenant(self) -> str:
        """The tenant for its documents, different for every corpus."""
        name = re.sub(r"[^a-z0-9]+", "-", self.path.name.lower()).strip("-")[:40]
        digest = hashlib.sha256(json.dumps(sorted(self.documents.items())).encode()).hexdigest()[:8]
        return f"eval-{name or 'set'}-{digest}"

    def write(self, folder: Path) -> dict[str, str]:
        """Write each document as a Markdown file with its title as heading; returns file name → document id."""
        names = {}
        for document, (title, text) in self.documents.items():
            stem = quote(document, safe="")
            if len(stem) > _NAME_BYTES:
                stem = hashlib.sha256(document.encode()).hexdigest()
            name = f"{stem}.md"
            (folder / name).write_text(f"# {title}\n\n{text}\n" if title else f"{text}\n", encoding="utf-8")
            names[name] = document
        return names


def read(path: Path) -> BeirFolder:
    """Read a folder. Raises `WrongUsage` with file and line of an error."""
    documents = {}
    for location, row in _lines(path / "corpus.jsonl"):
        documents[_text(row, "_id", location)] = (
            _text(row, "title", location) if row.get("title") else "",
            _text(row, "text", location),
        )
    grades: dict[str, dict[str, int]] = {}
    qrels = path / "qrels" / "test.tsv"
    for number, line in enumerate(_read(qrels).splitlines()[1:], 2):
        parts = line.split("\t")
        if len(parts) != 3 or not re.fullmatch(r"-?[0-9]{1,9}", parts[2].strip()):
            raise WrongUsage(f"{qrels}:{number} is not three columns: query-id, corpus-id, score.")
        if int(parts[2]) > 0:
            grades.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    questions = []
    for location, row in _lines(path / "queries.jsonl"):
        name = _text(row, "_id", location)
        if relevant := {document: grade for document, grade in grades.get(name, {}).items() if document in documents}:
            answers = row.get("answers") or ()
            if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
                raise WrongUsage(f'{location}: "answers" is not a list of strings.')
            questions.append(BeirQuestion(name, _text(row, "text", location), relevant, tuple(answers)))
    if not questions:
        raise WrongUsage(
            f"{path} has no question with a relevant document.", hint="Check that qrels/test.tsv belongs to this corpus."
        )
    return BeirFolder(path, documents, tuple(questions))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        location = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WrongUsage(f"{location} is not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise WrongUsage(f"{location} is not a JSON object.")
        yield location, row


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")  # a pipe would be waited for
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "A folder in BEIR layout has corpus.jsonl, queries.jsonl and qrels/test.tsv."
        raise WrongUsage(f"{path} does not exist.", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}.") from None


def _text(row: dict[str, Any], key: str, location: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise WrongUsage(f'{location} has no text under "{key}".')
    return value


_SUFFIX = ".md"


class DocumentNames:
    """Names of the folder's indexed documents: the quoted id, with or without suffix."""

    def __init__(self, folder: BeirFolder) -> None:
        self.tenant = folder.tenant
        self.files: dict[str, bytes] = {}
        """Contents by file name."""
        with tempfile.TemporaryDirectory() as temporary:
            names = folder.write(Path(temporary))
            self.files = {name: (Path(temporary) / name).read_bytes() for name in names}
        self._ids = {name.removesuffix(_SUFFIX): document for name, document in names.items()}

    def document_id(self, uri: str) -> str | None:
        """The id of the document with this uri; `None` if it is not in the folder."""
        name = uri.rpartition("/")[2]
        return self._ids.get(name) or self._ids.get(name.rpartition(".")[0])
