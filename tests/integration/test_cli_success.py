"""Commands that do what they are for, on one small home: in this process, over real storage, with the models of somebody else."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiny
from confluent_kafka import Producer
from judged import judge
from model_endpoint import Server, Voices, served
from signed import signed

from headrace import cli
from headrace.catalog import DEAD_LETTERS, FEEDBACK
from headrace.core.run import runs
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.simulate.evaluate import MEASURES
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.tables.handles import TableWriter

# A command keeps its connections to models for as long as its process is there.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
METER = Meter(Ledger(), "test")
QUICK = {"EPOCHS": "4", "BATCH": "4", "MAX_TOKENS": "32", "LEARNING_RATE": "5e-3"}
TEXTS = {
    "mill.md": "# Mill\n\nThe wheel of the mill turns at dawn.",
    "weir.md": "# Weir\n\nThe weir holds the river back in spring.",
    "pond.md": "# Pond\n\nThe pond behind the weir freezes in winter.",
}


@dataclass
class Headrace:
    """The command in one home."""

    home: Path
    folder: Path

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """What a command prints on standard output; it must end with `code`."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["headrace", "--home", str(self.home), *map(str, words)])
            patch.setattr(sys, "stdin", io.StringIO())
            with pytest.raises(SystemExit) as ended:
                cli.main()
        assert int(ended.value.code or 0) == code, f"headrace {' '.join(map(str, words))}\n{out.getvalue()}\n{err.getvalue()}"
        self.err = err.getvalue()
        return out.getvalue()

    def runs(self, command: str) -> list[dict[str, Any]]:
        """The journals of a command's runs."""
        return [journal for journal in runs(self.home) if journal["command"] == command]

    def json(self, *words: str | Path) -> Any:
        """What it prints with `--json`."""
        return json.loads(self(*words, "--json"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served() as server:
        server.answer = Voices()
        yield server


@pytest.fixture
def voices(server: Server) -> Voices:
    """What the models of this test answer."""
    server.answer = voices = Voices("The wheel of the mill turns at dawn.")
    server.seen.clear()
    return voices


@pytest.fixture(scope="module")
def headrace(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headrace]:
    folder = tmp_path_factory.mktemp("commands")
    docs = folder / "docs"
    docs.mkdir()
    for name, text in TEXTS.items():
        (docs / name).write_text(text)
    given = {"TYPE": "endpoint", "URL": server.url, "MODEL": "words-384"}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith("HEADRACE_")]:
            patch.delenv(name)
        for model in ("EMBEDDER", "RERANKER", "GENERATOR"):
            for name, value in given.items():
                patch.setenv(f"HEADRACE_MODELS__{model}__{name}", value)
        for name, value in QUICK.items():
            patch.setenv(f"HEADRACE_TRAINING__RECIPE__RERANKER__{name}", value)
        patch.setenv("HEADRACE_TRAINING__THREADS", "1")
        patch.setenv("HEADRACE_TRAINING__GATE__LEAST_QUESTIONS", "8")
        patch.setenv("HEADRACE_TRAINING__GATE__HEADROOM", "1e6")
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        patch.setenv("HEADRACE_PLATFORM__IDLE_S", "120")
        patch.setenv(INSTEAD, str(tiny.folder()))
        patch.setenv("COLUMNS", "200")
        headrace = Headrace(folder / "home", folder)
        try:
            headrace("index", docs)
            yield headrace
        finally:
            assert "Stopped the embedded servers" in headrace("down", "--force")


@pytest.fixture(scope="module")
def endpoints(headrace: Headrace) -> Iterator[Endpoints]:
    with open_platform(Settings.load(home=headrace.home)) as endpoints:
        yield endpoints


def test_index_says_what_it_did_and_everybody_opens_what_was_closed(headrace: Headrace, voices: Voices) -> None:
    secret = headrace.folder / "secrets"
    secret.mkdir()
    (secret / "vault.md").write_text("# Vault\n\nThe code of the vault is heliotrope.")

    def found(*more: str) -> bool:
        passages = headrace.json("search", "What is the code of the vault?", *more)["passages"]
        return any(passage["document"] == "secrets/vault.md" for passage in passages)

    told = headrace.json("index", secret, "--reader", "ann", "--reader", "keepers")
    assert (told["put"]["put"], told["parsed"]["parsed"], told["embedded"]["chunks"]) == (1, 1, 1)
    assert not found()
    assert not found("--as", "bob")
    assert found("--as", "ann")
    assert found("--as", "bob", "--as", "keepers")
    voices.text = "The code of the vault is heliotrope."
    assert "secrets/vault.md" not in headrace("ask", "What is the code of the vault?")
    assert "[1] secrets/vault.md" in headrace("ask", "What is the code of the vault?", "--as", "keepers")
    assert headrace.json("ask", "What is the code of the vault?", "--as", "ann")["citations"][0]["document"] == "secrets/vault.md"
    headrace("index", secret)
    assert not found(), "indexed again, it stays as closed as it was"
    headrace("index", secret, "--everybody")
    assert found()
    assert found("--as", "bob")
    (empty := headrace.folder / "empty").mkdir()
    assert "No file was found there" in headrace("index", empty)
    assert "No file was found there" not in headrace("index", secret)


def test_documents_are_listed_shown_and_deleted_and_a_failure_is_said_each_time(headrace: Headrace, voices: Voices) -> None:
    folder = headrace.folder / "shelf"
    folder.mkdir()
    (folder / "kiln.md").write_text("# Kiln\n\nThe kiln is fired with birch.")
    (folder / "torn.pdf").write_bytes(b"%PDF-1.7 torn")
    (folder / "own.md").write_text("# Own\n\nOnly Ann reads this.")
    first = headrace.json("index", folder)
    assert [one["uri"] for one in first["parsed"]["failed"]] == ["shelf/torn.pdf"]
    again = headrace.json("index", folder)
    assert again["parsed"]["failed"] == []
    assert [one["uri"] for one in again["put"]["failed_before"]] == ["shelf/torn.pdf"]
    assert "still not indexed: shelf/torn.pdf" in headrace("index", folder)
    headrace("index", folder / "own.md", "--reader", "ann")

    listed = {one["uri"]: one for one in headrace.json("documents", "list")["documents"]}
    assert {uri: listed[uri]["status"] for uri in listed if uri.startswith("shelf/")} == {
        "shelf/kiln.md": "indexed",
        "shelf/own.md": "indexed",
        "shelf/torn.pdf": "failed",
    }
    assert [one["uri"] for one in headrace.json("documents", "list", "--status", "failed")["documents"]] == ["shelf/torn.pdf"]
    page = headrace.json("documents", "list", "--after", "shelf/kiln.md", "--most", "1")
    assert [one["uri"] for one in page["documents"]] == [min(uri for uri in listed if uri > "shelf/kiln.md")]
    assert page["more"] == (len([uri for uri in listed if uri > "shelf/kiln.md"]) > 1)
    table = headrace("documents", "list")
    assert re.search(r"shelf/torn\.pdf +failed .* not a readable PDF", table)

    shown = json.loads(headrace("documents", "show", "shelf/kiln.md"))
    assert (shown["passages"], len(shown["versions"]), shown["readers"]) == (1, 1, [])
    headrace("documents", "delete", "shelf/kiln.md", code=2)
    assert "--yes" in headrace.err
    assert headrace.json("documents", "delete", "shelf/kiln.md", "--yes")["deleted"] == "shelf/kiln.md"
    headrace("documents", "show", "shelf/kiln.md", code=1)
    assert "has no document 'shelf/kiln.md'" in headrace.err
    passages = headrace.json("search", "What is the kiln fired with?")["passages"]
    assert all(passage["document"] != "shelf/kiln.md" for passage in passages)
    (revoked,) = headrace.json("kv", "revocations", "--document", "shelf/kiln.md")["revocations"]
    assert (revoked["document"], revoked["reason"], revoked["blocks"], revoked["proven"]) == (
        "shelf/kiln.md",
        "deleted",
        [],
        True,
    )
    assert re.search(r"shelf/kiln\.md +default +deleted .* 0 +0", headrace("kv", "revocations"))
    headrace("documents", "list", "--status", "lost", code=2)
    for name in ("own.md", "torn.pdf"):
        headrace("documents", "delete", f"shelf/{name}", "--yes")


def test_a_kv_cache_that_nothing_was_computed_with_has_no_figures(headrace: Headrace) -> None:
    report = headrace.json("kv", "report", "--memory", "1MB")
    assert (report["uses"], report["memory_alone"], report["closed"]) == ([], None, [])
    assert "No answer has used the KV cache here." in headrace("kv", "report")
    headrace("kv", "report", "--memory", "much", code=2)
    headrace("kv", "reopen", "v000009", code=1)
    assert "The KV cache of v000009 is not closed." in headrace.err


def test_a_tenant_whose_name_is_mistyped_is_refused_and_the_default_one_gets_keys(headrace: Headrace, voices: Voices) -> None:
    mistyped = [
        ("ask", "Where is the mill?"),
        ("search", "Where is the mill?"),
        ("feedback", "0" * 16, "--up"),
        ("index", headrace.folder),
        ("documents", "list"),
        ("documents", "show", "docs/mill.md"),
        ("documents", "delete", "docs/mill.md", "--yes"),
        ("forget", "--user", "ann", "--yes"),
        ("key", "list"),
    ]
    for words in mistyped:
        headrace(*words, "--tenant", "nosuch", code=1)
        assert headrace.err.splitlines()[-2:] == [
            "There is no tenant nosuch.",
            "See `headrace tenant list`, or add it: headrace tenant add nosuch",
        ], words
    assert headrace("ask", "Where is the mill?", "--tenant", "default")
    assert headrace.json("key", "create", "default", "--scope", "read")["tenant"] == "default"
    headrace("key", "create", "nosuch", "--scope", "read", code=1)
    assert "50.0 GB" in headrace("tenant", "list") or "53.7 GB" in headrace("tenant", "list")


def test_search_shows_both_scores_and_both_ranks(headrace: Headrace, voices: Voices) -> None:
    voices.logits = lambda question, passages: [float("weir" in passage) for passage in passages]
    told = headrace.json("search", "When does the wheel turn?")
    assert told["model_version"] == "words-384"
    assert [passage["rerank_rank"] for passage in told["passages"][:2]] == [1, 2]
    shown = headrace("search", "When does the wheel turn?")
    first, *_ = [line for line in shown.splitlines() if "docs/" in line]
    assert "+1.00" in first
    assert "docs/weir.md" in shown


def test_an_answer_is_judged_and_traced_to_the_event_and_the_event_to_it(headrace: Headrace, voices: Voices) -> None:
    answer = headrace.json("ask", "When does the wheel of the mill turn?")
    assert answer["answer"] == "The wheel of the mill turns at dawn. [1]"
    event = headrace.json("feedback", answer["answer_id"], "--down", "--reason", "it turns at noon")
    place = f"feedback/{event['partition']}/{event['offset']}"
    traced = headrace.json("trace", answer["answer_id"])
    assert traced["answer"]["question"] == "When does the wheel of the mill turn?"
    assert [(one["event"], one["up"], one["reason"]) for one in traced["verdicts"]] == [(place, False, "it turns at noon")]
    assert [passage["document"] for passage in traced["passages"] if passage["cited"]] == ["docs/mill.md"]
    shown = headrace("trace", answer["answer_id"])
    assert f"answer {answer['answer_id']}" in shown
    assert f"{place}: down by" in shown
    assert "re-ranker  none" in shown
    seen = headrace.json("trace", place)
    assert (seen["event"]["answer_id"], seen["event"]["up"], seen["models"]) == (answer["answer_id"], False, [])
    assert f"verdict  down on answer {answer['answer_id']}" in headrace("trace", place)


@pytest.mark.soak(minutes=0.5)
def test_a_round_is_made_tried_promoted_and_rolled_back(headrace: Headrace, endpoints: Endpoints) -> None:
    for seed in (1, 2):
        judge(endpoints, 30, liked="yes", seed=seed)
        headrace("land", "--once")
    first = headrace.json("train", "--recipe", "reranker", "--canary", "0.25")
    version = first["canary"]
    assert (first["promoted"], first["recipe"], first["serving"], bool(version)) == (True, "reranker", "none", True), first
    assert [row["share"] for row in headrace.json("models")["models"] if row["version"] == version] == [0.25]
    assert "25% of the answers" in headrace("models")
    assert headrace("promote", "reranker", version).strip() == f"Now served: {version}."
    champion = headrace.json("models")["champions"]["reranker"]
    assert (champion["version"], champion["canary"], champion["why"]) == (version, None, "asked on the command line")
    assert headrace("rollback", "reranker").strip() == "Now served: no re-ranker."
    moves = champion["moves"] + 2  # back, and there again
    told = headrace.json("promote", "reranker", version)
    assert (told["version"], told["moves"]) == (version, moves)
    assert headrace.json("rollback", "reranker")["version"] == "none"

    # What landed with this verdict, or after it, is left out.
    of_the_second = """select "partition", "offset" from feedback where verdict_id like 'v2-%' order by "offset" limit 1"""
    (bound,) = headrace.json("sql", of_the_second)["rows"]
    place = f"feedback/{bound['partition']}/{bound['offset']}"
    learned = headrace.json("trace", place)
    assert [(model["model"], model["version"]) for model in learned["models"]] == [("reranker", version)]
    shown = headrace("train", "--recipe", "reranker", "--before", place)
    assert shown.startswith(f"Round {first['round'] + 1}: ")
    made = [run["detail"]["round"] for run in headrace.runs("train") if "round" in run["detail"]]
    rounds = {one["round"]: one for one in made}
    every, fewer = (sum(rounds[first["round"] + more]["dataset"]["questions"].values()) for more in (0, 1))
    assert every - fewer == 30 <= fewer
    last, refused = rounds[first["round"] + 1], headrace.json("models")["rejected"]
    assert (refused or {}).get("why") == (None if last["promoted"] else last["why"])
    assert last["promoted"] or f"was rejected: {last['why']}" in headrace("models")
    assert [model["version"] for model in headrace.json("trace", place)["models"]] == [version], "nobody else learned from it"


def test_a_recipe_is_the_one_that_was_named(headrace: Headrace) -> None:
    headrace("train", "--recipe", "embedder", code=2)
    assert "The settings name your own embedder (words-384" in headrace.err


def test_maintenance_says_what_it_did_with_each_table(headrace: Headrace, voices: Voices) -> None:
    headrace("index", headrace.folder / "docs")
    tables = {row["table"]: row for row in headrace.json("maintain")["tables"]}
    assert {"documents", "chunks", "document-events"} <= set(tables)
    assert all(row["files_after"] <= row["files_before"] for row in tables.values())
    shown = headrace("maintain")
    assert "chunks" in shown
    assert " → " in shown


def test_dead_letters_that_can_be_read_now_are_landed(headrace: Headrace, endpoints: Endpoints) -> None:
    judge(endpoints, 1, liked="yes", seed=7)  # whatever else there is, the topic is there
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap})
    for value in (b"{the first half", b"{the other half"):
        producer.produce("feedback", value, partition=0, headers=signed(endpoints, "feedback", value))
    assert producer.flush(30) == 0
    assert headrace.json("land", "--once")["dead_letters"] == 2
    headrace("land", "--once", "--dead-letters")
    assert "Dead letters landed: none; 2 still cannot be read." in headrace.err

    verdict = {field.name: "" for field in FEEDBACK.columns if not field.nullable}
    verdict |= {"verdict_id": "late", "answer_id": "a", "tenant": "default", "user": "ann", "up": True, "simulated": False}
    verdict["at"] = datetime.now(UTC).isoformat()
    written = json.dumps(verdict).encode()

    def readable(letters: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array([value == b"{the other half" for value in letters["value"].to_pylist()])

    def mended(letters: pa.RecordBatch) -> pa.RecordBatch:
        place = letters.schema.get_field_index("value")
        return letters.set_column(place, letters.schema.field(place), pa.array([written], letters.schema.field(place).type))

    assert TableWriter(DEAD_LETTERS, endpoints, METER).rewrite(("value",), readable, mended) == 1
    landed = headrace.json("land", "--once", "--dead-letters")
    assert (landed["refused"], landed["dead_letters"]) == ([], 0)
    assert "Dead letters landed: 1 feedback; 1 still cannot be read." in headrace.err
    late = "select verdict_id from feedback where verdict_id = 'late'"
    assert headrace.json("sql", late)["rows"] == [{"verdict_id": "late"}]
    headrace("land", "--once", "--dead-letters")
    assert "Dead letters landed: none; 1 still cannot be read." in headrace.err
    assert headrace.json("sql", late)["rows"] == [{"verdict_id": "late"}]


def test_an_index_is_built_anew_and_gone_back_to(headrace: Headrace, voices: Voices) -> None:
    before = headrace.json("search", "When does the wheel turn?")
    built = headrace.json("reindex", "--chunk-tokens", "32")
    assert built["generation"]["window"] == 32
    after = headrace.json("search", "When does the wheel turn?")
    assert after["index_version"].split(".")[0] != before["index_version"].split(".")[0]
    assert after["passages"][0]["document"] == before["passages"][0]["document"] == "docs/mill.md"
    shown = headrace("reindex", "--back")
    assert f"index {before['index_version'].split('.')[0]}." in shown
    assert "chunks of 200 word pieces, 384 dimensions by words-384" in shown
    back = headrace.json("search", "When does the wheel turn?")
    assert back["index_version"].split(".")[0] == before["index_version"].split(".")[0]


# The evaluation: a folder in BEIR layout, small enough to know what comes out.

CORPUS = {
    "mill": ("Mill", "The wheel of the mill turns at dawn."),
    "weir": ("Weir", "The weir holds the river back in early spring."),
    "pond": ("Pond", "The pond behind the weir freezes."),
    "lock": ("Lock", "The lock has two gates of oak."),
    "race": ("Race", "The race is forty feet long and lined with stone."),
    "swan": ("", "Swans nest on the island every year."),
}
# Each with the documents that answer it, and its known answers where it has some.
QUESTIONS = {
    "exact": ("When does the wheel of the mill turn?", ["mill"], ["at dawn"]),
    "stem": ("freezing ponds", ["pond"], []),
    "two": ("What is said of the weir?", ["weir", "pond"], ["it holds the river back"]),
    "wrong": ("How many gates of oak has the lock?", ["race"], []),
    "none": ("Guernica painter", ["swan"], ["Picasso"]),
}
# At which ranks those documents come, none of them as near as another. The embedder knows whole words, common ones too, and of
# texts that share none it finds the shortest nearest; full-text search knows stems and no common words, and finds nothing where
# nothing matches.
RANKS: dict[str, dict[str, list[int]]] = {
    "dense": {"exact": [1], "stem": [6], "two": [2, 3], "wrong": [6], "none": [1]},
    "fulltext": {"exact": [1], "stem": [1], "two": [1, 2], "wrong": [], "none": []},
    "fusion": {"exact": [1], "stem": [1], "two": [1, 2], "wrong": [6], "none": [1]},
}


def measures(ranks: dict[str, list[int]]) -> dict[str, Any]:
    """nDCG@10, recall@5 and MRR@10 of one ranking, from the ranks of what is relevant (each with grade 1)."""

    def gain(places: Iterable[int]) -> float:
        return sum(1 / math.log2(place + 1) for place in places)

    relevant = {name: len(documents) for name, (_, documents, _) in QUESTIONS.items()}
    ndcg = [gain(found) / gain(range(1, relevant[name] + 1)) for name, found in ranks.items()]
    recall = [sum(rank <= 5 for rank in found) / relevant[name] for name, found in ranks.items()]
    reciprocal = [1 / min(found) if found else 0.0 for found in ranks.values()]
    means = {"ndcg_at_10": ndcg, "recall_at_5": recall, "mrr_at_10": reciprocal}
    return {name: pytest.approx(sum(values) / len(values), abs=1e-4) for name, values in means.items()}


@pytest.fixture(scope="module")
def beir(headrace: Headrace) -> Path:
    folder = headrace.folder / "small set"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in CORPUS.items()]
    queries = [{"_id": name, "text": text, "answers": known} for name, (text, _, known) in QUESTIONS.items()]
    grades = [f"{name}\t{document}\t1" for name, (_, relevant, _) in QUESTIONS.items() for document in relevant]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *grades]))
    return folder


def test_eval_retrieval_finds_what_it_always_found(headrace: Headrace, beir: Path, voices: Voices) -> None:
    found = headrace.json("eval", "retrieval", beir)
    assert found["documents"] == len(CORPUS)
    rows = {row["ranking"]: row for row in found["rows"]}
    assert list(rows) == ["dense", "fulltext", "fusion", "reranked"]
    for ranking, row in rows.items():
        assert {name: row[name] for name in MEASURES} == measures(RANKS.get(ranking, RANKS["fusion"])), ranking
        assert row["questions"] == len(QUESTIONS)
        assert all(0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1 for name in MEASURES)
    assert rows["reranked"]["model_version"] == "none"


def test_eval_retrieval_measures_the_reranker_over_what_fusion_found(headrace: Headrace, beir: Path, voices: Voices) -> None:
    voices.logits = lambda question, passages: [float("stone" in passage and "lock" in question) for passage in passages]
    shown = headrace("eval", "retrieval", beir)
    rows = {line.split()[0]: line for line in shown.splitlines() if line.startswith((*RANKS, "reranked"))}
    for ranking, ranks in {**RANKS, "reranked": {**RANKS["fusion"], "wrong": [1]}}.items():
        means = [float(mean) for mean in re.findall(r"(\d\.\d{3}) \(", rows[ranking])]
        assert means == [pytest.approx(value.expected, abs=5e-4) for value in measures(ranks).values()], ranking
    assert rows["reranked"].startswith("reranked (words-384)")
    assert "5 questions over 6 documents" in shown


def test_eval_answers_measures_what_was_said_and_what_was_declined(headrace: Headrace, beir: Path, voices: Voices) -> None:
    voices.text = lambda prompt: "at dawn" if "wheel of the mill turn?" in prompt else "It freezes bananas back."
    found = headrace.json("eval", "answers", beir)
    wanted = {
        "questions": 3,
        "exact_match": 1 / 3,
        "f1": (1 + 1 / 2) / 3,  # the other answer shares "it" and "back" with the known one; both have four words but articles
        "citation_precision": 1.0,  # of the one that cites
        "groundedness": 1 / 2,  # of the two that were not declined
        "refusal_rate": 1 / 3,
    }
    assert {name: found[name] for name in wanted} == {name: pytest.approx(value, abs=1e-4) for name, value in wanted.items()}
    shown = headrace("eval", "answers", beir, "--limit", "2")  # spread evenly: the first and the second of three
    assert re.search(r"refusal rate +0\.000", shown)
    assert re.search(r"exact match +0\.500", shown)
    assert "2 questions of " in shown
    headrace("land", "--once")  # what was recorded is on the head before it is in the table
    assert headrace.json("sql", "select count(*) as n from interactions where tenant like 'eval-%'")["rows"] == [{"n": 0}], (
        "nothing may be trained on it"
    )
