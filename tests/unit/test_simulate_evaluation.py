"""Evaluation: reading a BEIR folder, and measures worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from headrace.answering.record import Answer
from headrace.answering.rerank import Passage
from headrace.errors import WrongUsage
from headrace.models.citations import Support
from headrace.models.measures import exact_match, f1
from headrace.simulate.beir import BeirQuestion, read
from headrace.simulate.evaluate import _documents, _measured, measure_answers, spread
from headrace.storage.vectors.search import Hit


def folder(path: Path, **changed: str) -> Path:
    files = {
        "corpus.jsonl": '{"_id": "a/1", "title": "Weir", "text": "Raised 1911."}\n{"_id": "b", "title": "", "text": "Swans."}\n',
        "queries.jsonl": '{"_id": "q1", "text": "When?", "answers": ["1911"]}\n{"_id": "q2", "text": "Who?"}\n',
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\ta/1\t1\nq2\tb\t0\n",
        **{name.replace("__", "/").replace("_", "."): text for name, text in changed.items()},
    }
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def test_a_folder_is_read_and_only_judged_questions_count(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "My Set"))
    assert [question.id for question in found.questions] == ["q1"]
    assert found.questions[0].answers == ("1911",)
    assert found.tenant.startswith("eval-my-set-")
    assert found.tenant == read(folder(tmp_path / "My Set")).tenant
    (tmp_path / "out").mkdir()
    names = found.write(tmp_path / "out")
    assert names == {"a%2F1.md": "a/1", "b.md": "b"}
    assert (tmp_path / "out" / "a%2F1.md").read_text() == "# Weir\n\nRaised 1911.\n"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"corpus_jsonl": "{\n"}, "corpus.jsonl:1 is not JSON"),
        ({"corpus_jsonl": "[]\n"}, "corpus.jsonl:1 is not a JSON object"),
        ({"queries_jsonl": '{"_id": "q1"}\n'}, 'queries.jsonl:1 has no text under "text"'),
        ({"queries_jsonl": '{"_id": "q1", "text": "x", "answers": "1911"}\n'}, '"answers" is not a list'),
        ({"qrels__test_tsv": "query-id\tcorpus-id\tscore\nq1 a/1 1\n"}, "test.tsv:2 is not three columns"),
        ({"qrels__test_tsv": "query-id\tcorpus-id\tscore\nq1\tzz\t1\n"}, "no question with a relevant document"),
    ],
)
def test_what_is_off_is_named_with_its_line(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        read(folder(tmp_path, **changed))
    assert said in caught.value.message


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"corpus\.jsonl does not exist") as caught:
        read(tmp_path)
    assert "BEIR" in caught.value.hint


def test_measures_of_a_ranking_worked_by_hand() -> None:
    qrels = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}}
    run = {"q1": {"x": 0.0, "a": -1.0, "b": -2.0}, "q2": {}}  # found at ranks 2 and 3; and not at all
    measured = _measured("dense", qrels, run, "").measures
    ndcg = (1 / math.log2(3) + 1 / math.log2(4)) / (1 / math.log2(2) + 1 / math.log2(3))
    assert measured["ndcg_at_10"].mean == pytest.approx(ndcg / 2, abs=1e-4)
    assert measured["recall_at_5"].mean == 0.5
    assert measured["mrr_at_10"].mean == 0.25


def test_squads_measures_worked_by_hand() -> None:
    assert exact_match("The  Kawann Short.", "kawann short") == 1
    assert exact_match("Short", "Kawann Short") == 0
    assert f1("in the year 1911", "1911") == pytest.approx(2 * 1 / (3 + 1))
    assert (f1("", "x"), f1("the", "a")) == (0, 1)


def answered(text: str, document: str, **more: Any) -> Answer:
    hit = Hit("c", "d", "v", document, "", "Raised in 1911.", 1.0)
    supports = (Support("s", 1, 0, 6),) if document else ()
    return Answer("q", "t", "u", (Passage(hit, 1),), "none", "1", text=text, supports=supports, **more)


def test_answers_are_measured_each_over_those_that_it_is_about() -> None:
    questions = [BeirQuestion(str(n), "?", {"a": 1}, ("1911",)) for n in range(3)]
    given = [
        answered("1911. [1]", "set/a.md", groundedness=1.0),
        answered("in 1911 [1]", "set/b.md", groundedness=0.5),
        answered("I found nothing.", "", refused=True),
    ]
    found = measure_answers(questions, given, {"set/a.md": "a", "set/b.md": "b"}).as_dict()
    assert found["questions"] == 3
    assert found["exact_match"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["f1"] == pytest.approx((1 + 2 / 3) / 3, abs=1e-3)
    assert (found["citation_precision"], found["groundedness"]) == (0.5, 0.75)
    assert found["refusal_rate"] == pytest.approx(1 / 3, abs=1e-3)
    json.dumps(found)


def test_the_best_known_answer_counts_and_what_is_refused_says_nothing_of_groundedness() -> None:
    questions = [BeirQuestion("0", "?", {"a": 1}, ("1911", "in 1911"))]
    given = [answered("in 1911 [1]", "set/a.md", groundedness=1.0, refused=True)]
    found = measure_answers(questions, given, {"set/a.md": "a"}).as_dict()
    assert (found["exact_match"], found["f1"], found["citation_precision"]) == (1.0, 1.0, 1.0)
    assert (found["groundedness"], found["refusal_rate"]) == (0.0, 1.0)


def test_a_document_stands_where_its_best_chunk_does() -> None:
    hits = [Hit(f"c{n}", "d", "v", uri, "", "", 1.0) for n, uri in enumerate(["x.md", "y.md", "x.md", "z.md"])]
    ranked = _documents(hits, {"x.md": "x", "y.md": "y", "z.md": "z"})
    assert sorted(ranked, key=ranked.__getitem__, reverse=True) == ["x", "y", "z"]


def test_fewer_questions_are_spread_over_all_of_them() -> None:
    questions = [BeirQuestion(str(n), "?", {"a": 1}, ()) for n in range(10)]
    assert [question.id for question in spread(questions, 3)] == ["0", "3", "6"]
    assert spread(questions, 10) == spread(questions, None) == questions
    assert len(spread(questions, 9)) == 9
