"""Compares embedders by nDCG@10 of the judged passages, ordered by cosine similarity to the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.core.progress import ProgressBars
from headrace.training.data.dataset import by_question, passages, tellable
from headrace.training.interrupt import defer_sigint
from headrace.training.measures import Compared, Rows
from headrace.training.measures.passages import CUT, Question, labels, ndcg, row
from headrace.training.served_order import ServedOrder

Vectors = npt.NDArray[np.float32]


def compare(
    challenger: Path,
    champion: Path | None,
    card: Mapping[str, Any],
    served: ServedOrder,
    tune: Rows,
    test: Rows,
    settings: Any,
    bars: ProgressBars,
) -> Compared:
    """Compare on `test`, both as they would be served; nothing is fitted. Without a champion the packaged embedder is used.

    `refused` says whether even the nearest passage is below `least_similarity`: another embedder's cosines may have another
    scale. `retrieval` is the mean for the order in which hybrid search found the passages.
    """
    from headrace.models.server.encoders import WINDOW

    held_out = tellable(by_question(passages(test)))
    least = settings.least_similarity
    mine = _judged(held_out, challenger, WINDOW, least, bars, "evaluate")
    theirs = _judged(held_out, champion, int(card["max_tokens"]) if champion else WINDOW, least, bars, "champion")
    plain = [ndcg(labels(q), range(len(q))) for q in held_out]
    return Compared(
        measure=f"nDCG@{CUT}",
        ours=tuple(mine),
        theirs=tuple(theirs),
        card={"max_tokens": WINDOW},
        retrieval=sum(plain) / len(plain) if plain else 0.0,
    )


def cosines(question: Vectors, passages: Vectors) -> Vectors:
    """Cosine similarities of a question (dimensions,) with each of `passages` (n, dimensions)."""
    lengths = np.linalg.norm(passages, axis=1) * np.linalg.norm(question)
    near: Vectors = (passages @ question) / np.maximum(lengths, 1e-12)
    return near


def _judged(
    questions: Sequence[Question], folder: Path | None, window: int, least: float, bars: ProgressBars, what: str
) -> list[dict[str, Any]]:
    """One row per question: nDCG of its passages in one embedder's order. Each text is embedded once."""
    texts = list(dict.fromkeys(text for q in questions for text in (q[0]["question"], *(one["passage"] for one in q))))
    if not texts:
        return []
    vectors = dict(zip(texts, _embedded(texts, folder, window, bars, what), strict=True))
    rows = []
    for q in questions:
        near = cosines(vectors[q[0]["question"]], np.stack([vectors[one["passage"]] for one in q]))
        order = [int(i) for i in np.argsort(-near, kind="stable")]
        rows.append({**row(q, order), "refused": float(near.max() < least)})
    return rows


def _embedded(texts: Sequence[str], folder: Path | None, window: int, bars: ProgressBars, what: str) -> Vectors:
    with defer_sigint():
        from headrace.models.server.encoders import MiniLM, batches

        model = MiniLM(folder, window=window)
    pieces = model.word_pieces(texts, "END")
    vectors = np.empty((len(texts), model.width), np.float32)
    places = batches(pieces)
    for batch in bars.track(places, what, total=len(places), of="batches"):
        with defer_sigint():
            vectors[batch] = model.embed([pieces[place] for place in batch])
    return vectors
