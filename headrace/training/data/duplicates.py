"""Near-duplicate questions: candidates by MinHash (Broder 1997), confirmed by the Jaccard similarity of their letters.

Questions with different numbers are never near-duplicates: "revenue in 2019" and "revenue in 2018" ask for different things.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import WrongUsage
from headrace.training.data.text import normal

_RUN = 4
_PERMUTATIONS = 128
_SEED = 1
_RECALL = 0.9999
_MOST = 64  # questions of a bucket that are compared pairwise

Signatures = np.ndarray[Any, np.dtype[np.uint32]]
Places = np.ndarray[Any, np.dtype[np.int64]]


@lru_cache(maxsize=4096)  # the questions of a bucket are compared pairwise
def shingles(normal: str) -> frozenset[bytes]:
    """All runs of four characters of a text in normal form; a shorter text is its own run."""
    return frozenset(normal[i : i + _RUN].encode() for i in range(max(1, len(normal) - _RUN + 1)))


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two normal forms: shared runs of four characters divided by all runs."""
    ours, theirs = shingles(one), shingles(other)
    shared = len(ours & theirs)
    return shared / (len(ours) + len(theirs) - shared)


def numbers(normal: str) -> str:
    """The words that contain a digit, sorted; near-duplicates must agree in these."""
    return " ".join(sorted(word for word in normal.split() if any(map(str.isdigit, word))))


def grouped(tenants: Sequence[str], normals: Sequence[str], least: float) -> list[int]:
    """For each question the first one of its group; questions of one tenant that are near-duplicates share a group.

    Groups are transitive. `least` is the lowest similarity of near-duplicates.
    """
    blocks = [f"{tenant}\0{numbers(normal)}" for tenant, normal in zip(tenants, normals, strict=True)]
    leader = list(range(len(normals)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for one, other in _candidates(blocks, normals, least):
        first, second = find(one), find(other)
        if first != second and similarity(normals[one], normals[other]) >= least:
            leader[max(first, second)] = min(first, second)
    return [find(place) for place in range(len(normals))]


def resembling(normals: Sequence[str], known: Sequence[str], least: float) -> set[int]:
    """Positions of the texts that equal a known one or are near-duplicates of one."""
    both = [*known, *normals]
    alike: set[int] = set()
    for one, other in _candidates([numbers(text) for text in both], both, least):
        # Candidates are in order, known texts first.
        if one < len(known) <= other and other not in alike and similarity(both[one], both[other]) >= least:
            alike.add(other)
    return {place - len(known) for place in alike}


def _candidates(blocks: Sequence[str], normals: Sequence[str], least: float) -> Iterator[tuple[int, int]]:
    """Pairs of positions, smaller first, of questions in one block whose signatures are similar enough."""
    codes = np.unique(np.asarray(blocks, dtype=object), return_inverse=True)[1].reshape(-1) if blocks else np.zeros(0, np.int64)
    places = np.flatnonzero(np.bincount(codes)[codes] > 1)
    signatures = _signatures([normals[int(place)] for place in places])
    # The share of rows that agree estimates the similarity with a standard deviation of sqrt(s(1 - s) / rows).
    enough = (least - 4 * math.sqrt(least * (1 - least) / _PERMUTATIONS)) * _PERMUTATIONS
    for bucket in _buckets(signatures, codes[places], _rows(least)):
        # In a bucket too large for pairwise comparison all signatures agree: the first represents all.
        firsts = bucket[:1] if len(bucket) > _MOST else bucket
        agreeing = (signatures[firsts][:, None, :] == signatures[bucket][None, :, :]).sum(axis=2)
        for one, other in zip(*np.nonzero(np.triu(agreeing >= enough, 1)), strict=True):
            yield int(places[bucket[one]]), int(places[bucket[other]])


def _buckets(signatures: Signatures, codes: Places, rows: int) -> Iterator[Places]:
    """Positions of signatures, in order, that agree in a band of `rows` rows and in their code.

    A bucket larger than `_MOST` is divided by further rows, so that many questions from one template do not take quadratic
    time.
    """
    for first in range(0, _PERMUTATIONS - rows + 1, rows):
        columns = np.roll(np.arange(_PERMUTATIONS), -first)
        waiting: list[tuple[Places, int]] = [(bucket, rows) for bucket in _alike(signatures[:, columns[:rows]], codes)]
        while waiting:
            bucket, used = waiting.pop()
            if len(bucket) <= _MOST or used == _PERMUTATIONS:
                yield bucket
                continue
            more = columns[used : used + 2]
            divided = [bucket[part] for part in _alike(signatures[np.ix_(bucket, more)], np.zeros(len(bucket), np.int64))]
            waiting += [(part, used + len(more)) for part in divided]
            # The parts may still be similar: the first of each represents it.
            if len(divided) > 1:
                yield np.sort(np.asarray([part[0] for part in divided[:_MOST]]))


def _rows(least: float) -> int:
    """Rows of a band: the most that still find two texts of that similarity with a probability of 99.99 %.

    s^r is the probability that a band of r rows agrees, 1 − (1 − s^r)^b that one of b bands does (Leskovec, Rajaraman, Ullman,
    "Mining of Massive Datasets", 3.4.2).
    """
    fitting = [r for r in range(1, _PERMUTATIONS + 1) if 1 - (1 - least**r) ** (_PERMUTATIONS // r) >= _RECALL]
    return max(fitting)


def _signatures(normals: Sequence[str]) -> Signatures:
    from datasketch import MinHash  # brings half of scipy, which only a round needs

    sketches = MinHash.generator(map(shingles, normals), num_perm=_PERMUTATIONS, seed=_SEED, hashfunc=zlib.crc32)
    signatures = np.empty((len(normals), _PERMUTATIONS), np.uint32)
    for place, sketch in enumerate(sketches):
        signatures[place] = sketch.hashvalues
    return signatures


def _alike(columns: Signatures, codes: Places) -> list[Places]:
    """Groups of at least two rows that agree in every column and in their code, each in ascending order."""
    if len(columns) < 2:
        return []
    keys = codes.astype(np.uint64)
    for column in columns.T:  # FNV-1a over the columns; collisions are resolved by the similarity
        keys = (keys ^ column) * np.uint64(0x100000001B3)
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(order)]])
    several = ends - starts > 1
    return [order[start:end] for start, end in zip(starts[several], ends[several], strict=True)]


_SHARED_WORDS = 8
_KEYS = ("text", "question", "query")


@dataclass(frozen=True)
class Questions:
    """Evaluation questions in normal form, each once."""

    normals: frozenset[str]

    @classmethod
    def read(cls, paths: Sequence[str]) -> Questions:
        """The questions of BEIR folders (their queries.jsonl) and of files. Raises `WrongUsage` that names the fault."""
        normals = {normal(text) for path in paths for text in _texts(Path(path))}
        return cls(frozenset(normals - {""}))

    @property
    def digest(self) -> str:
        """A hash of the questions, independent of their files and order."""
        return hashlib.sha256("\n".join(sorted(self.normals)).encode()).hexdigest()[:16]

    def given_away(self, normals: Sequence[str], least: float) -> set[int]:
        """Positions of the texts that equal an evaluation question, share eight words in a row with one, or are near-duplicates.

        Thirteen words are usual for whole documents (Brown et al. 2020, appendix C); a question rarely has as many.
        """
        if not self.normals:
            return set()
        known = sorted(self.normals)
        runs = {run for text in known for run in _runs(text)}
        positions = {p for p, text in enumerate(normals) if text in self.normals or any(run in runs for run in _runs(text))}
        rest = [place for place in range(len(normals)) if place not in positions]
        return positions | {rest[place] for place in resembling([normals[place] for place in rest], known, least)}


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[i : i + _SHARED_WORDS]) for i in range(len(words) - _SHARED_WORDS + 1))


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
