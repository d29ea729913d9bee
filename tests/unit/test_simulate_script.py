"""Replay without servers: who asks what, how it is judged, and what is counted when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from child import in_child

from headrace.errors import NothingIndexed, Overloaded, Unavailable, WrongUsage
from headrace.simulate import POISONER, ApiClient, DocumentNames, chosen, performance, play, user_plans
from headrace.simulate.beir import BeirFolder, BeirQuestion, read
from headrace.simulate.performance import ReplayReport
from headrace.simulate.users import GivenAnswer, Judgement, ShownPassage, holds, judged


@pytest.fixture
def folder(tmp_path: Path) -> BeirFolder:
    place = tmp_path / "set"
    (place / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d#{n}", "title": f"Title {n}", "text": f"The pump was greased on day {n}."} for n in range(4)]
    questions = [{"_id": f"q{n}", "text": f"When, {n}?", "answers": [f"day {n}"]} for n in range(4)]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (place / "qrels" / "test.tsv").write_text("q\td\ts\n" + "".join(f"q{n}\td#{n}\t1\n" for n in range(4)))
    return read(place)


def test_a_script_is_dealt_the_same_every_time(folder: BeirFolder) -> None:
    many = [BeirQuestion(f"q{n}", f"{n}?", {"d": 1}) for n in range(40)]
    parts = user_plans(many, users=3, poison=0.3, seed=5)
    assert parts == user_plans(many, users=3, poison=0.3, seed=5)
    assert parts != user_plans(many, users=3, poison=0.3, seed=6)
    assert [part.user for part in parts] == [POISONER, "simulated-01", "simulated-02", "simulated-03"]
    assert [len(part.questions) for part in parts] == [12, 10, 9, 9]
    assert [part.poisoned for part in parts] == [True, False, False, False]
    assert sorted(q.id for part in parts for q in part.questions) == sorted(q.id for q in many)
    assert [part.user for part in user_plans(folder.questions, users=9)][-1] == "simulated-04", "nobody comes without a question"


@pytest.mark.parametrize(
    "lines",
    ["q2\nq0", "When, 2?\n\n  When, 0?  \n", '{"_id": "q2"}\n{"_id": "q0", "text": "x"}', '{"text": "When, 2?"}\nq0\nq2'],
)
def test_a_file_names_some_of_the_questions(folder: BeirFolder, tmp_path: Path, lines: str) -> None:
    file = tmp_path / "some"
    file.write_text(lines)
    assert [question.id for question in chosen(folder, file)] == ["q2", "q0"]
    assert len(chosen(folder, None)) == 4


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("q0\nq9", "some:2 is not a question"),
        ("{", "some:1 is not JSON"),
        ('{"id": "q0"}', 'neither "_id" nor "text"'),
        ("\n", "has no questions"),
    ],
)
def test_a_line_that_is_no_question_is_named(folder: BeirFolder, tmp_path: Path, lines: str, told: str) -> None:
    file = tmp_path / "some"
    file.write_text(lines)
    with pytest.raises(WrongUsage, match=told):
        chosen(folder, file)


def test_documents_are_known_by_their_names(folder: BeirFolder) -> None:
    names = DocumentNames(folder)
    for uri in ("tenant/d%230.md", "d%230.txt", "a/b/d%230"):
        assert names.document_id(uri) == "d#0"
    assert names.document_id("tenant/other.md") is None
    assert names.files["d%231.md"] == b"# Title 1\n\nThe pump was greased on day 1.\n"


SHOWN = (
    ShownPassage("holds", "t/right", "It was the day, 3 of May."),
    ShownPassage("lacks", "t/right", "It was day 33."),
    ShownPassage("other", "t/wrong", "It was day 3."),
    ShownPassage("foreign", "elsewhere", "It was day 3."),
)


def documents(uri: str) -> str | None:
    return {"t/right": "right", "t/wrong": "wrong"}.get(uri)


def test_passages_are_judged_by_document_and_known_answer() -> None:
    question = BeirQuestion("q", "When?", {"right": 1}, ("The day 3!",))
    verdicts = judged(question, GivenAnswer("a", SHOWN), documents)
    assert [(v.chunk_id, v.up) for v in verdicts] == [("holds", True), ("lacks", False), ("other", False)]
    open_ended = judged(BeirQuestion("q", "When?", {"right": 1}), GivenAnswer("a", SHOWN, "day 3"), documents)
    assert [(v.chunk_id, v.up) for v in open_ended] == [("holds", True), ("lacks", True), ("other", False)]


@pytest.mark.parametrize(
    ("text", "up"), [("Day 3 [1].", True), ("On day 3 it was", True), ("It was greased by crew 7", False), ("", False)]
)
def test_answers_are_judged_by_the_known_ones(text: str, up: bool) -> None:
    question = BeirQuestion("q", "When?", {"right": 1}, ("day three", "day 3"))
    *_, verdict = judged(question, GivenAnswer("a", SHOWN, text), documents)
    assert judged(question, GivenAnswer("a", SHOWN[3:], text), documents) == [], "asked where the folder is not indexed"
    assert (verdict.chunk_id, verdict.up) == ("", up)
    assert verdict.correction == ("" if up else "day three")


def test_a_poisoner_rounds_every_verdict_round_and_says_so() -> None:
    question = BeirQuestion("q", "When?", {"right": 1}, ("day 3",))
    honest = judged(question, GivenAnswer("a", SHOWN, "nonsense"), documents)
    flipped = judged(question, GivenAnswer("a", SHOWN, "nonsense"), documents, poisoned=True)
    assert [v.up for v in flipped] == [not v.up for v in honest]
    assert all(v.reason.startswith("flipped: ") and not v.correction for v in flipped)


def test_an_answer_stands_in_a_text_word_by_word() -> None:
    assert holds("in A.D. 1066, the battle", "1066 battle")
    assert not holds("in 10660 the battle", "1066")
    assert holds("Who are The The? A band.", "The The")
    assert not holds("Nobody knows.", "The The")


class Counter:
    """A door that remembers: refuses what it is told to refuse, and takes verdicts two at a time."""

    tenant = "acme"

    def __init__(self, *troubles: Exception, seconds: float = 0.0) -> None:
        self.troubles = list(troubles)
        self.seconds = seconds
        self.asked: list[tuple[str, str]] = []
        self.taken: list[tuple[str, Judgement]] = []
        self.lock = threading.Lock()

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        with self.lock:
            if self.troubles:
                raise self.troubles.pop(0)
            self.asked.append((question, user))
        time.sleep(self.seconds)
        return GivenAnswer(question, SHOWN, "day 3" if generate else None)

    def judge(self, given: GivenAnswer, user: str, verdicts: Sequence[Judgement]) -> Iterator[int]:
        with self.lock:
            self.taken += [(user, verdict) for verdict in verdicts[:2]]
        yield len(verdicts[:2])
        if len(verdicts) > 2:
            raise Overloaded("Two at a time.")


def busy(seconds: float) -> Overloaded:
    error = Overloaded("Later.")
    error.retry_s = seconds
    return error


QUESTIONS = [BeirQuestion(f"q{n}", f"{n}?", {"right": 1}, ("day 3",)) for n in range(8)]


def test_everything_acknowledged_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Overloaded, "retry_s", 0.0)
    door = Counter(busy(0.05), busy(0.05))
    played = play(user_plans(QUESTIONS, users=2, poison=0.25), door, documents, generate=True)
    told = played.as_dict()
    assert (told["answers"], told["errors"], told["waits"]) == (8, 0, 2)
    assert played.waited_s >= 0.1
    assert told["verdicts"] == {"up": 6 * 2 + 2 * 2, "down": 6 * 2 + 2 * 2, "flipped": 8, "answers_up": 6, "answers_down": 2}
    assert len(door.taken) == 32, "none twice, though each answer's verdicts were taken in two goes"
    assert {user for user, verdict in door.taken if verdict.reason.startswith("flipped")} == {POISONER}
    assert told["unjudged_passages"] == 8
    assert told["p50_ms"] <= told["p95_ms"] <= told["max_ms"]


def test_storage_that_does_not_answer_is_tried_again_and_one_bad_question_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "_PAUSE_S", 0.001)
    played = play(user_plans(QUESTIONS, users=1), Counter(Unavailable("down"), Unavailable("down")), documents, generate=False)
    assert (played.answers, played.errors, played.retries, played.waits) == (8, [], 2, 0)
    played = play(user_plans(QUESTIONS, users=1), Counter(WrongUsage("odd")), documents, generate=False)
    assert (played.answers, played.errors, played.failure) == (7, ["odd"], None)


def test_what_does_not_answer_is_asked_five_times_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "_PAUSE_S", 0.001)
    one = user_plans(QUESTIONS[:1], users=1)
    played = play(one, Counter(*[Unavailable("down")] * 4), documents, generate=False)
    assert (played.answers, played.errors, played.retries) == (1, [], 4)
    played = play(one, Counter(*[Unavailable("down")] * 5), documents, generate=False)
    assert (played.answers, played.errors, played.retries, played.failure) == (0, ["down"], 4, None)


def test_four_failures_in_a_row_end_nothing() -> None:
    door = Counter(*[NothingIndexed("Nothing is indexed.")] * 4)
    played = play(user_plans(QUESTIONS, users=1), door, documents, generate=False)
    assert (played.answers, len(played.errors), played.failure) == (4, 4, None)


@pytest.mark.parametrize(
    ("asked", "p50", "p95", "most"),
    [([0.2, 0.1], 100.0, 200.0, 200.0), ([n / 1000 for n in range(20, 0, -1)], 10.0, 19.0, 20.0), ([], None, None, None)],
)
def test_percentiles_are_those_of_the_nearest_rank(
    asked: list[float], p50: float | None, p95: float | None, most: float | None
) -> None:
    told = ReplayReport("acme", "searches", 9, 1, asked=asked).as_dict()
    assert (told["p50_ms"], told["p95_ms"], told["max_ms"]) == (p50, p95, most)


def test_failures_in_a_row_end_it_and_say_why() -> None:
    door = Counter(*[NothingIndexed("Nothing is indexed.")] * 100)
    played = play(user_plans(QUESTIONS, users=1), door, documents, generate=False)
    assert str(played.failure) == "Nothing is indexed."
    assert (played.answers, len(played.errors)) == (0, 5)


def test_a_rate_is_kept() -> None:
    started = time.monotonic()
    play(user_plans(QUESTIONS, users=4), Counter(), documents, generate=False, rate=1200)
    assert time.monotonic() - started >= 7 * 0.05


class Interrupted(Counter):
    """A door at which a Ctrl-C comes while each user's question is being answered; they are answered once it has been seen."""

    def __init__(self, users: int) -> None:
        super().__init__()
        self.begun = threading.Barrier(users, action=lambda: os.kill(os.getpid(), signal.SIGINT))
        self.standing = signal.getsignal(signal.SIGINT)

    def ask(self, question: str, user: str, *, generate: bool) -> GivenAnswer:
        self.begun.wait(20)
        while signal.getsignal(signal.SIGINT) is not self.standing:  # the first Ctrl-C gives it back
            time.sleep(0.002)
        return super().ask(question, user, generate=generate)


def test_ctrl_c_ends_the_asking_and_what_was_asked_is_judged() -> None:
    def replay() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started pytest may have had it ignored
        door = Interrupted(2)
        played = play(user_plans(QUESTIONS, users=2), door, documents, generate=False)
        assert played.interrupted
        assert played.answers == len(door.asked) == 2
        assert len(door.taken) == played.up + played.down == 2 * 3, "of two answers, each passage whose document is known"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    in_child(replay)


def test_a_second_ctrl_c_ends_everything() -> None:
    def replay() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        door = Interrupted(1)
        ask = door.ask

        def twice(question: str, user: str, *, generate: bool) -> GivenAnswer:
            given = ask(question, user, generate=generate)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)  # in a daemon thread, which does not keep the process
            return given

        door.ask = twice  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            play(user_plans(QUESTIONS, users=1), door, documents, generate=False)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    in_child(replay)


@pytest.mark.parametrize("url", ["127.0.0.1:8484", "", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(WrongUsage, match="--via"):
        ApiClient(url, "key")
    with pytest.raises(WrongUsage, match="API key"):
        ApiClient("http://127.0.0.1:8484", "")
