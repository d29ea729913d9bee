"""Rankings, by nDCG@10 of the judged passages, each question ordered by weights that did not see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.core.progress import ProgressBars
from headrace.training import ranker
from headrace.training.data.dataset import fewer
from headrace.training.measures import Compared, Rows
from headrace.training.measures.passages import CUT, labels, ndcg, row
from headrace.training.ranker import FILE, LearnedRanking
from headrace.training.served_order import ServedOrder


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
    """Compare on `test`, which has every judged question, with the order that is served now.

    Both sides order a question by weights that did not see its unit. A unit that has been joined with another since the champion
    learned may be ordered by weights of the champion that saw it: that favours the champion.
    """
    learned = LearnedRanking.model_validate_json((challenger / FILE).read_bytes())
    questions = ranker.judged(fewer(test, settings.most_questions), settings.reranker)
    ours, theirs, plain = [], [], []
    for question in bars.track(questions, "evaluate", total=len(questions), of="questions"):
        own = learned.unseen(ranker.unit_of(question)).order(question[0]["question"], ranker.candidates(question))
        ours.append(row(question, own))
        theirs.append(row(question, served.order(question)))
        plain.append(ndcg(labels(question), range(len(question))))
    return Compared(
        measure=f"nDCG@{CUT}",
        ours=tuple(ours),
        theirs=tuple(theirs),
        card={"ranking": learned.ranking.model_dump(), "penalty": learned.penalty},
        retrieval=sum(plain) / len(plain) if plain else 0.0,
    )
