"""reader: how often a quoted answer is right, wrong, or none, through the whole pipeline with the embedded models.

`python -m bench.reader DIR... [--half NAME] [--fit] [--limit N] [--say]`. A DIR is in BEIR layout with answers, or has
`docs/` and `questions.jsonl` (`_id`, `text`, `answers`: strings, or a list of strings for each part, none where there is no
answer; `half`, the name of the part of the questions that it belongs to: `near` and `near_judge` are one word away from what the
documents say). Of a BEIR folder every second article is `dev`, the others `judge`; only the half's articles are indexed, and the
other half's questions are those that have no answer.

An answer is right if every part has one of its accepted strings in a quote of a right document and each of its lines has one; if
another line has none, or is of another document, it is `beside_wrong`: a right line beside a wrong one, which is not counted as
right. `short` are the answers that say only some words of their quote, `short_right` those of them whose words are right. F1 and
exact match are SQuAD's, over the questions that have an answer; `lines` is the mean number of quotes in an answer. Means come
with 95 % intervals. `--say` prints each question with its answer, to be read by a person.

`--fit` prints, instead, the weights that rank these questions' quotes best: softmax over a question's quotes, L2, each folder
counting as much as its number of questions' root. docs/reference/benchmarks.md says what the shipped ones were fitted on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize  # type: ignore[import-untyped]

from headrace.answering.record import Answer
from headrace.app import App
from headrace.core.statistics import interval
from headrace.models.client import Embedder
from headrace.models.extract import WEIGHTS, features, to_read
from headrace.models.measures import exact_match, f1, normal, unmarked
from headrace.models.question_parts import parts
from headrace.models.quotable import SourceText, quotes
from headrace.settings import Settings
from headrace.simulate.beir import read
from headrace.simulate.evaluate import indexed

KINDS = ("right", "beside_wrong", "wrong", "refused")
_SEED = 17
_L2 = 0.5
_USER = "bench"
_NEAR = 0.5


@dataclass(frozen=True)
class Asked:
    """A question, the accepted strings of each part (none: no answer), and the documents that hold them."""

    text: str
    answers: list[list[str]]
    documents: frozenset[str]


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the strings is in a text, word by word."""
    words = f" {' '.join(normal(text))} "
    return any(f" {' '.join(normal(answer))} " in words for answer in answers)


def judged(asked: Asked, answer: Answer, name_of: dict[str, str]) -> str:
    """`right`, `beside_wrong`, `wrong` or `refused`, by the quotes that the answer cites."""
    if answer.refused:
        return "refused"
    right = [quoted for quoted, _ in _cited(asked, answer, name_of)]
    return kind_of(asked, right, others=len(_quotes(answer)) - len(right))


def kind_of(asked: Asked, lines: Sequence[str], others: int = 0) -> str:
    """What an answer is that quotes these lines of right documents, and `others` of other ones."""
    if not asked.answers or not all(any(holds(line, part) for line in lines) for part in asked.answers):
        return "wrong"
    wrong = [line for line in lines if not any(holds(line, part) for part in asked.answers)]
    return "beside_wrong" if wrong or others else "right"


def short_judged(asked: Asked, answer: Answer, name_of: dict[str, str]) -> str:
    """As `judged`, of what an answer says where that is less than its quotes; empty where it says all of them.

    Words are right if they have an accepted string, or F1 of a half and more with one.
    """
    said = [short for quoted, short in _cited(asked, answer, name_of) if len(short) < len(quoted) - 1]
    if answer.refused or not any(len(short) < len(quoted) - 1 for quoted, short in _quotes(answer)):
        return ""
    near = [[holds(short, part) or max(f1(short, known) for known in part) >= _NEAR for short in said] for part in asked.answers]
    return "right" if near and all(any(part) for part in near) else "wrong"


def _cited(asked: Asked, answer: Answer, name_of: dict[str, str]) -> list[tuple[str, str]]:
    """What an answer quotes from right documents."""
    return _quotes(answer, lambda uri: name_of.get(uri, uri) in asked.documents)


def _quotes(answer: Answer, of: Callable[[str], bool] = lambda _: True) -> list[tuple[str, str]]:
    """Each quote of an answer, and what the answer says of it."""
    passages = [passage.hit for passage in answer.passages]
    supports = [(passages[support.number - 1], support) for support in answer.supports if support.number]
    return [(hit.text[support.start : support.end], support.sentence) for hit, support in supports if of(hit.uri)]


def folder_questions(app: App, folder: Path, half: str | None) -> tuple[list[Asked], str, dict[str, str]]:
    """The questions of a folder with `docs/`, indexed; the tenant they are asked of; and the documents' names by uri."""
    app.documents.index([folder / "docs"])
    asked = []
    for line in (folder / "questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        if half is None or row.get("half", half) == half:
            answers = row["answers"] if any(isinstance(one, list) for one in row["answers"]) else [row["answers"]]
            asked.append(Asked(row["text"], [part for part in answers if part], frozenset({f"docs/{row['document']}"})))
    return asked, app.settings.tenant, {}


def beir_questions(app: App, path: Path, half: str | None, scratch: Path) -> tuple[list[Asked], str, dict[str, str]]:
    """The same of a folder in BEIR layout."""
    whole = read(path)
    articles = sorted({row["_id"].partition("#")[0] for row in _rows(path / "corpus.jsonl")})
    chosen = {name for place, name in enumerate(articles) if half is None or (place % 2 == 0) == (half == "dev")}
    part = scratch / path.name
    (part / "qrels").mkdir(parents=True)
    kept = [row for row in _rows(path / "corpus.jsonl") if row["_id"].partition("#")[0] in chosen]
    (part / "corpus.jsonl").write_text("\n".join(map(json.dumps, kept)))
    for name in ("queries.jsonl", "qrels/test.tsv"):
        (part / name).write_bytes((path / name).read_bytes())
    name_of = indexed(app.runner, read(part), app.settings.inference)
    asked = []
    for question in whole.questions:
        there = frozenset(document for document in question.relevant if document.partition("#")[0] in chosen)
        asked.append(Asked(question.text, [list(question.answers)] if there else [], there))
    return asked, read(part).tenant, name_of


def measure(app: App, asked: Sequence[Asked], tenant: str, name_of: dict[str, str], *, say: bool = False) -> dict[str, Any]:
    """Ask each question; the shares of both kinds, and how near the texts are to the accepted ones."""
    with_answer: list[str] = []
    without: list[str] = []
    short: list[str] = []
    near: dict[str, list[float]] = {"f1": [], "exact_match": []}
    cited: list[float] = []
    seconds: list[float] = []
    lines: list[float] = []
    for one in app.runner.bars.track(asked, "ask", total=len(asked), of="questions"):
        *_, answer = app.answers.ask(one.text, tenant=tenant, user=_USER, record=False)
        assert isinstance(answer, Answer)
        (with_answer if one.answers else without).append(kind := judged(one, answer, name_of))
        if say:
            print(
                f"{kind if one.answers or answer.refused else 'false':12} {one.text}\n             {answer.text}", file=sys.stderr
            )
        if not answer.refused:
            lines.append(float(len(answer.supports)))
        seconds.append(answer.timings_ms["first_token"] / 1e3)
        if one.answers:
            short.append(short_judged(one, answer, name_of))
            text = unmarked(answer.text)
            for name, of in (("f1", f1), ("exact_match", exact_match)):
                near[name].append(max(float(of(text, known)) for part in one.answers for known in part))
            if not answer.refused:
                uris = [str(citation["document"]) for citation in answer.citations]
                cited += [float(name_of.get(uri, uri) in one.documents) for uri in uris]

    def share(found: Sequence[str], kind: str) -> dict[str, float] | None:
        if not found:
            return None
        figure = interval([float(each == kind) for each in found], _SEED)
        return {"mean": round(figure.mean, 3), "low": round(figure.low, 3), "high": round(figure.high, 3)}

    return {
        "with_answer": len(with_answer),
        **{kind: share(with_answer, kind) for kind in KINDS},
        "short": share(["" if kind == "" else "short" for kind in short], "short"),
        "short_right": share([kind for kind in short if kind], "right"),
        "short_wrong_though_quote_right": share(
            ["so" if pair[0] == "wrong" and pair[1] in KINDS[:2] else "" for pair in zip(short, with_answer, strict=True)], "so"
        ),
        "without_answer": len(without),
        "without_answer_refused": share(without, "refused"),
        **{name: round(float(np.mean(values)), 3) if values else None for name, values in near.items()},
        "lines": round(float(np.mean(lines)), 2) if lines else None,
        "citation_precision": round(float(np.mean(cited)), 3) if cited else None,
        "first_token_s": {"p50": round(float(np.quantile(seconds, 0.5)), 3), "p95": round(float(np.quantile(seconds, 0.95)), 3)},
    }


Case = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""The features of a question's quotes, shape (quotes, features), and which quotes hold an answer, shape (quotes,)."""


def cases_of(app: App, asked: Sequence[Asked], tenant: str, name_of: dict[str, str]) -> list[Case]:
    """The quotes of each part of each question of which one holds an answer."""
    cases: list[Case] = []
    with Embedder(app.runner.endpoints.embedder) as embedder:
        for one in app.runner.bars.track(asked, "read", total=len(asked), of="questions"):
            found = app.answers.search(one.text, tenant=tenant, user=_USER, record=False).passages
            sources = [SourceText(hit.text, hit.uri, hit.similarity, hit.heading) for hit in (passage.hit for passage in found)]
            read_quotes, part = quotes(sources, to_read(one.text, sources)), parts(one.text)[0]
            known = one.answers[0] if one.answers else []
            right = np.array(
                [
                    holds(quote.text, known) and name_of.get(uri := found[quote.source].hit.uri, uri) in one.documents
                    for quote in read_quotes
                ],
                np.float64,
            )
            if right.any():
                vectors = embedder.embed([part, *(quote.said for quote in read_quotes)], kind="passage")
                cases.append((features(part, sources, read_quotes, list(vectors[1:] @ vectors[0])), right))
    return cases


def fit(folders: Sequence[Sequence[Case]]) -> dict[str, float]:
    """The weights under which the quotes that hold an answer come first."""
    cases = [(rows, right, len(folder) ** -0.5) for folder in folders for rows, right in folder]

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        value, slope = _L2 * float(weights @ weights), 2 * _L2 * weights
        for rows, right, share in cases:
            scores = rows @ weights
            likely = np.exp(scores - scores.max())
            likely /= likely.sum()
            both = float(likely @ right)
            value -= share * math.log(both + 1e-12)
            slope = slope - share * rows.T @ (likely * right / max(both, 1e-12) - likely)
        return value, slope

    weights = minimize(loss, np.zeros(len(WEIGHTS)), jac=True, method="L-BFGS-B").x
    return {name: round(float(weight), 2) for name, weight in zip(WEIGHTS, weights, strict=True)}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Measure, or fit, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.reader", description=__doc__)
    parser.add_argument("dirs", type=Path, nargs="+")
    parser.add_argument("--half", choices=("dev", "judge", "near", "near_judge"))
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--say", action="store_true")
    given = parser.parse_args()
    cases: list[list[Case]] = []
    for folder in given.dirs:
        with tempfile.TemporaryDirectory() as scratch, App(Settings.load(home=Path(scratch) / "home"), "bench") as app:
            if (folder / "questions.jsonl").is_file():
                asked, tenant, name_of = folder_questions(app, folder, given.half)
            else:
                asked, tenant, name_of = beir_questions(app, folder, given.half, Path(scratch))
            if given.limit:
                asked = [one for kind in (True, False) for one in [a for a in asked if bool(a.answers) == kind][: given.limit]]
            if given.fit:
                cases.append(cases_of(app, asked, tenant, name_of))
            else:
                print(json.dumps({"folder": folder.name, **measure(app, asked, tenant, name_of, say=given.say)}, indent=2))
    if given.fit:
        print(json.dumps(fit(cases), indent=2))


if __name__ == "__main__":
    main()
