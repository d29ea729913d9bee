"""A search of one snapshot: both searches' candidates, fused, and each text once however many documents hold it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from headrace.storage.tables.handles import quoted
from headrace.storage.vectors.table import Snapshot

RRF_K = 60
"""The constant k of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009)."""
_DENSE_WEIGHT = 0.75  # in fusion by score, the same for all sets (docs/reference/benchmarks.md)
_FUSED_DEPTH = 40  # minimum results of each search; more does not improve fusion (docs/reference/benchmarks.md)
_ROUNDS = 3  # searches at most, where a text of many documents takes the places of other texts
_COPIES = 20  # of one text that are named


class PassageSource(NamedTuple):
    """Where a text is: its document's uri, and the page, slide or sheet, if known."""

    document: str
    place: str


@dataclass(frozen=True)
class Hit:
    """One passage found. Ranks start at 1; a rank or score is `None` if that search did not find the passage.

    `score` is that of fusion; for full-text search alone the reciprocal rank, for dense search alone the cosine similarity. A
    fusion by score contains BM25, whose word weights depend on other tenants' documents too: it must not be shown to a tenant.
    `place` is the page, slide or sheet, if known. `copies` are other places of the same text that the same user may read.
    """

    chunk_id: str
    document_id: str
    version: str
    uri: str
    heading: str
    text: str
    score: float
    dense_rank: int | None = None
    fulltext_rank: int | None = None
    place: str = ""
    similarity: float | None = None
    """Cosine similarity to the question, if it is known."""
    copies: tuple[PassageSource, ...] = ()
    position: int | None = None
    """How many chunks of its document come before it."""
    retrieval_share: float | None = None
    """`score` as a share of the best candidate's."""
    fulltext: float | None = None
    """BM25 as a share of the best candidate's, if it is known; like `score`, not to be shown to a tenant."""

    @property
    def sources(self) -> tuple[PassageSource, ...]:
        """Where the text is, the passage's own document first."""
        return PassageSource(self.uri, self.place), *self.copies

    def without(self, documents: Collection[str]) -> Hit | None:
        """The passage without its copies in these documents; `None` if it is of one of them itself."""
        if self.uri in documents:
            return None
        left = tuple(source for source in self.copies if source.document not in documents)
        return self if len(left) == len(self.copies) else replace(self, copies=left)


def text_id(text: str) -> str:
    """The same for texts that differ in white space alone: 16 hex digits of sha256."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


_Name = TypeVar("_Name", bound=Hashable)


class Fused(NamedTuple, Generic[_Name]):
    """One result of fusion; a rank is `None` if that search did not find it."""

    name: _Name
    score: float
    dense_rank: int | None
    fulltext_rank: int | None


class _Scores(NamedTuple):
    """Scores of candidates: the best one of their order, cosine similarities, BM25, its best, and that of one without a word."""

    best: float
    similar: Mapping[int, float]
    worded: Mapping[int, float]
    most: float
    wordless: float | None

    @classmethod
    def of(
        cls,
        found: Sequence[Fused[int]],
        similar: Mapping[int, float],
        worded: Mapping[int, float],
        wordless: float | None = None,
    ) -> _Scores:
        """`wordless` is 0 where every candidate has been asked for its BM25, else `None`: it is not known."""
        best = max((one.score for one in found), default=0.0)
        return cls(best, similar, worded, max(worded.values(), default=0.0), wordless)


async def search(
    snapshot: Snapshot, words: str | None, embedding: np.ndarray[Any, Any] | None, where: str, most: int, by_rank: bool
) -> list[Hit]:
    """Search by words, by embedding, or by both fused; each text is one hit, which names the other places of the text.

    Where copies take the places of other texts, these are searched for without them.
    """
    depth = max(most + 1, _FUSED_DEPTH)
    similar: dict[int, float] = {}
    worded: dict[int, float] = {}
    rows: dict[int, dict[str, Any]] = {}
    copied: set[str] = set()
    for _ in range(_ROUNDS):
        left = f"{where} AND text_id NOT IN ({_listed(copied)})" if copied else where
        dense, fulltext = await asyncio.gather(snapshot.dense(embedding, left, depth), snapshot.fulltext(words, left, depth))
        similar, worded = similar | dense, worded | fulltext
        found, scores = await _ordered(snapshot, words, embedding, similar, worded, by_rank)
        if not rows:
            rows = await snapshot.rows_of([one.name for one in found[: most + 1]])  # copies follow one another
            if len(_by_text(found, rows)) == len(rows):
                return [_hit(rows[one.name], one, scores) for one in found[:most]]
        rows |= await snapshot.rows_of([one.name for one in found if one.name not in rows])
        texts = _by_text(found, rows)
        before, copied = copied, {name for name, same in texts.items() if len(same) > 1}
        full = depth in (len(dense), len(fulltext))
        if len(texts) >= most or not full or copied == before or "text_id" not in snapshot.columns:
            break
    shown = dict(list(texts.items())[:most])
    elsewhere = await snapshot.of_texts(copied & shown.keys(), where, _COPIES * most)
    hits = []
    for name, same in shown.items():
        # Of copies that are equally good always the same one is the passage that verdicts are on.
        own, *others = sorted((rows[one.name] for one in same), key=lambda row: (row["uri"], row["chunk_id"]))
        copies = {_source(row) for row in (*others, *elsewhere.get(name, ()))} - {_source(own)}
        hits.append(_hit(own, same[0], scores, tuple(sorted(copies)[:_COPIES])))
    return hits


async def _ordered(
    snapshot: Snapshot,
    words: str | None,
    embedding: np.ndarray[Any, Any] | None,
    similar: dict[int, float],
    worded: dict[int, float],
    by_rank: bool,
) -> tuple[list[Fused[int]], _Scores]:
    """The results of both searches in one order, and what is known of their scores."""
    if embedding is None:
        found = fuse([], list(worded))
        return found, _Scores.of(found, {}, worded)
    if words is None:
        found = [Fused(row, score, rank, None) for rank, (row, score) in enumerate(similar.items(), 1)]
        return found, _Scores.of(found, similar, {})
    found = fuse(list(similar), list(worded))
    if by_rank:
        return found, _Scores.of(found, similar, worded)
    others, more = await asyncio.gather(
        snapshot.similarities(embedding, [row for row in worded if row not in similar]),
        snapshot.fulltext_of(words, [row for row in similar if row not in worded]),
    )
    found = by_score(found, similar | others, worded | more)
    return found, _Scores.of(found, similar | others, worded | more, wordless=0.0)


def _by_text(found: Sequence[Fused[int]], rows: Mapping[int, Mapping[str, Any]]) -> dict[str, list[Fused[int]]]:
    """The results by their text, in the order of the best of each."""
    texts: dict[str, list[Fused[int]]] = {}
    for one in found:
        if one.name in rows:
            texts.setdefault(text_id(rows[one.name]["text"]), []).append(one)
    return texts


def fuse(dense: Sequence[_Name], fulltext: Sequence[_Name]) -> list[Fused[_Name]]:
    """Reciprocal rank fusion, Σ 1 / (60 + rank): Cormack, Clarke, Büttcher 2009. Ties go to the better dense rank."""
    dense_ranks = {name: rank for rank, name in enumerate(dense, 1)}
    fulltext_ranks = {name: rank for rank, name in enumerate(fulltext, 1)}
    fused = []
    for name in dense_ranks | fulltext_ranks:
        ranks = (dense_ranks.get(name), fulltext_ranks.get(name))
        fused.append(Fused(name, sum(1.0 / (RRF_K + rank) for rank in ranks if rank is not None), *ranks))
    return sorted(fused, key=lambda found: (-found.score, found.dense_rank or 10**9))


def by_score(found: Sequence[Fused[_Name]], similar: Mapping[_Name, float], worded: Mapping[_Name, float]) -> list[Fused[_Name]]:
    """Fusion by score: both searches' own scores of every candidate, each as a share of the best one (Bruch et al. 2022).

    `similar` are cosine similarities, shifted by 1 to be positive. A candidate without a word of the question has no BM25 score.
    """
    nearest = max(similar.values(), default=0.0) + 1.0
    most = max(worded.values(), default=0.0)

    def score(name: _Name) -> float:
        dense = (similar[name] + 1.0) / nearest if nearest > 0 else 0.0
        return _DENSE_WEIGHT * dense + (1.0 - _DENSE_WEIGHT) * (worded.get(name, 0.0) / most if most > 0 else 0.0)

    return sorted((one._replace(score=score(one.name)) for one in found), key=lambda one: (-one.score, one.dense_rank or 10**9))


def _hit(row: Mapping[str, Any], fused: Fused[int], scores: _Scores, copies: tuple[PassageSource, ...] = ()) -> Hit:
    words = scores.worded.get(fused.name)
    return Hit(
        row["chunk_id"],
        row["document_id"],
        row["version"],
        row["uri"],
        row["heading"],
        row["text"],
        float(fused.score),
        fused.dense_rank,
        fused.fulltext_rank,
        place=row.get("place") or "",
        similarity=scores.similar.get(fused.name),
        copies=copies,
        position=row["position"],
        retrieval_share=fused.score / scores.best if scores.best > 0 else None,
        fulltext=scores.wordless if words is None or scores.most <= 0 else words / scores.most,
    )


def _source(row: Mapping[str, Any]) -> PassageSource:
    return PassageSource(row["uri"], row.get("place") or "")


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(quoted, sorted(names)))
