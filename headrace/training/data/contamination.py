"""Evaluation questions, and which training questions give them away."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import WrongUsage
from headrace.training.data.duplicates import resembling
from headrace.training.data.text import normal

_RUN = 8
_KEYS = ("text", "question", "query")


@dataclass(frozen=True)
class Questions:
    """Evaluation questions in normal form, each once."""

    normals: frozenset[str]

    @classmethod
    def read(cls, paths: Sequence[str]) -> Questions:
        """The questions of BEIR folders (their queries.jsonl) and of files. Raises `WrongUsage` naming what is off."""
        found = {normal(text) for path in paths for text in _texts(Path(path))}
        return cls(frozenset(found - {""}))

    @property
    def digest(self) -> str:
        """Names the questions, whatever files they came from and in whatever order."""
        return hashlib.sha256("\n".join(sorted(self.normals)).encode()).hexdigest()[:16]

    def given_away(self, normals: Sequence[str], least: float) -> set[int]:
        """Places of the texts that are one of them, share a run of eight words with one, or are near-duplicates of one.

        Thirteen words are usual for whole documents (Brown et al. 2020, appendix C); a question rarely has as many.
        """
        if not self.normals:
            return set()
        known = sorted(self.normals)
        runs = {run for text in known for run in _runs(text)}
        found = {p for p, text in enumerate(normals) if text in self.normals or any(run in runs for run in _runs(text))}
        rest = [place for place in range(len(normals)) if place not in found]
        return found | {rest[place] for place in resembling([normals[place] for place in rest], known, least)}


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1))


def _texts(path: Path) -> Iterator[str]:
    file = path / "queries.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}.", hint="Correct preparing.evaluation, or take it out.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if file.suffix != ".jsonl":
            yield line
            continue
        try:
            row = json.loads(line)
            text = next(row[key] for key in _KEYS if isinstance(row.get(key), str))
        except (ValueError, RecursionError, AttributeError, StopIteration):
            raise WrongUsage(f'{file}:{number} is not a JSON object with a "text" or a "question".') from None
        yield text
