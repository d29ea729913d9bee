"""What people read of results: every number under the name that it has."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from headrace.answering.record import Answer
from headrace.answering.rerank import Passage
from headrace.cli.render.results import (
    LandingLines,
    ledger_table,
    measured_lines,
    merged,
    say_answers,
    say_backlog,
    say_indexed,
    say_landed,
    say_retrieval,
    say_round,
    say_rows,
    say_sources,
    stages_table,
    storage_lines,
    summary_table,
    tier_table,
    total_line,
)
from headrace.core.statistics import Interval
from headrace.documents.chunk import Chunked
from headrace.documents.embed import Embedded
from headrace.documents.index import Index, Indexed
from headrace.documents.parse import Failure, ParsedDocuments
from headrace.documents.put import FailedBefore, Put
from headrace.landing.backlog import Backlog
from headrace.landing.land import Commit, Landed
from headrace.models.citations import Support
from headrace.settings import Gate
from headrace.simulate.beir import BeirFolder
from headrace.simulate.evaluate import AnswersMeasured, RankingQuality
from headrace.storage.vectors.search import Hit, PassageSource
from headrace.training.data import Dataset
from headrace.training.evaluate import Evaluation
from headrace.training.gate import decide
from headrace.training.promote import Decision
from headrace.training.round import Round
from headrace.training.trainer import Trained


def row(store: str, tier: str, direction: str, moved: int, **more: Any) -> dict[str, Any]:
    figures = {"ops": 1, "bytes": moved, "p50_ms": 1.0, "p95_ms": 20.0, "max_ms": 300.0, "estimated": False}
    return {"stage": "put", "store": store, "tier": tier, "direction": direction, "tenant": "acme", **figures, **more}


def printed(say: Callable[[Console], object]) -> list[str]:
    """The lines that a console of 200 columns gets."""
    console = Console(file=io.StringIO(), width=200)
    say(console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def cells(table: object) -> list[list[str]]:
    """A printed table, line by line and column by column."""
    return [re.split(r"\s{2,}", line.strip()) for line in printed(lambda console: console.print(table)) if line.strip()]


def test_rows_that_are_too_wide_for_the_terminal_stand_one_below_the_other() -> None:
    rows = [{"id": "a1", "text": "x" * 150, "count": 1_000}, {"id": "b2", "text": "short", "count": None}]
    wide = printed(lambda console: say_rows(console, rows))
    assert wide[0].split() == ["id", "text", "count"]
    assert len(wide) == 3

    def narrow(console: Console) -> None:
        console.width = 80
        say_rows(console, rows)

    assert printed(narrow) == [
        "row 1",
        "  id     a1",
        f"  text   {'x' * 150}",
        "  count  1000",
        "row 2",
        "  id     b2",
        "  text   short",
        "  count  None",
    ]


# tables of the ledger

ROWS = [
    row("documents", "object", "write", 2_000, ops=3),
    row("documents", "object", "read", 500),
    row("chunks", "vector", "write", 70, estimated=True),
    row("feedback", "stream", "read", 11, stage="land"),
]


def test_by_tier_what_was_read_is_under_read_and_what_was_written_under_written() -> None:
    assert cells(tier_table(ROWS)) == [
        ["By tier"],
        ["tier", "read", "written"],
        ["stream", "11 B", "0 B"],
        ["object", "500 B", "2 KB"],
        ["vector", "≈ 0 B", "≈ 70 B"],
    ]


def test_a_line_of_the_ledger_has_each_figure_in_its_column() -> None:
    assert cells(ledger_table(ROWS, title="All")) == [
        ["All"],
        ["stage", "store", "tier", "I/O", "ops", "bytes", "p50", "p95"],
        ["put", "documents", "object", "write", "3", "2 KB", "1 ms", "20 ms"],
        ["documents", "object", "read", "1", "500 B", "1 ms", "20 ms"],
        ["chunks", "vector", "write", "1", "≈ 70 B", "1 ms", "20 ms"],
        ["land", "feedback", "stream", "read", "1", "11 B", "1 ms", "20 ms"],
    ]


def test_rates_stand_beside_totals_and_bytes_are_divided_by_questions_where_there_were_some() -> None:
    rates = {"ops_per_s": 10.4, "bytes_per_s": 2_500_000, "bytes_per_question": 500}
    asked = {"stage": "retrieve", "active_s": 2.0, "ops": 21, "bytes": 5_000_000, **rates}
    component = {"stage": "page", "active_s": None, "ops": 1, "bytes": 7, **dict.fromkeys(rates)}
    assert cells(stages_table([asked, component])) == [
        ["By stage"],
        ["stage", "at work", "ops", "bytes", "ops/s", "bytes/s", "per question"],
        ["retrieve", "2 s", "21", "5 MB", "10", "2.5 MB/s", "500 B"],
        ["page", "-", "1", "7 B", "-", "-", "-"],
    ]
    assert cells(stages_table([component]))[1] == ["stage", "at work", "ops", "bytes", "ops/s", "bytes/s"]


def test_a_run_is_summed_up_in_a_line() -> None:
    total = {"seconds": 12.0, "bytes": 24_000, "ops_per_s": 2.5, "bytes_per_s": 2_000, "questions": 2, "bytes_per_question": 900}
    counts = {"documents": 1, "index_chunks": 620}
    assert total_line(total, counts) == (
        "12 s; 24 KB; 2 KB/s and 2.5 operations/s over the run; 2 questions, 900 B each; 1 document taken in;"
        " an index of 620 chunks."
    )
    dead = {"seconds": None, "bytes": 5, "ops_per_s": None, "bytes_per_s": None, "questions": 0, "bytes_per_question": None}
    assert total_line(dead, {}) == "5 B."


def test_runs_on_the_same_storage_share_a_line_that_names_it() -> None:
    own = {"storage": {"object": "S3 at s3:9000", "file": "/mnt/nfs"}, "provenance": {}}
    host = {"host": {"name": "node1", "cores": 1}, "version": "0.1.0"}
    embedded = {"storage": {"object": "embedded S3"}, "provenance": host}
    old: dict[str, Any] = {"storage": {}, "provenance": {}}
    assert storage_lines([embedded, old, embedded]) == ["embedded S3; from node1, 1 core; headrace 0.1.0"]
    assert storage_lines([embedded, own, embedded]) == [
        "2 runs: embedded S3; from node1, 1 core; headrace 0.1.0",
        "1 run: S3 at s3:9000, /mnt/nfs",
    ]


def test_what_was_measured_is_named_with_bucket_and_mount_and_from_where() -> None:
    facts = {"bucket": "lake", "server": "unknown"}
    mount = {"file_system": "nfs4", "source": "filer:/export", "options": "rw,vers=4.2", "mount": "/mnt/nfs"}
    provenance = {
        "version": "0.1.0",
        "host": {"name": "node1", "cores": 8, "memory_gib": 62.5},
        "subjects": [
            {"tier": "object", "embedded": False, "where": "https://s3:9000", "facts": facts},
            {"tier": "file", "embedded": True, "where": "/mnt/nfs/kv", "facts": mount},
        ],
    }
    assert measured_lines(provenance) == [
        "Measured from node1 (8 cores, 62.5 GiB), headrace 0.1.0:",
        "  object  your own, https://s3:9000, bucket lake, server unknown",
        "  file    embedded, /mnt/nfs/kv, file system nfs4, source filer:/export, mount /mnt/nfs",
    ]
    assert measured_lines({}) == []


def test_a_sum_by_tenant_names_what_is_of_none() -> None:
    none = {"ops_per_s": None, "bytes_per_s": None}
    rows = [
        {**row("", "", "write", 5, tenant="acme"), "ops_per_s": 0.04, "bytes_per_s": 1},
        {**row("", "", "read", 7, tenant=""), **none},
        {**row("", "", "read", 6, tenant="acme"), "ops_per_s": 1_200.4, "bytes_per_s": 2_500_000},
    ]
    assert cells(summary_table(rows, "tenant", title="All")) == [
        ["All"],
        ["tenant", "direction", "ops", "bytes", "p50", "p95", "max", "ops/s", "bytes/s"],
        ["acme", "read", "1", "6 B", "1 ms", "20 ms", "300 ms", "1,200", "2.5 MB/s"],
        ["write", "1", "5 B", "1 ms", "20 ms", "300 ms", "<0.1", "1 B/s"],
        ["no tenant", "read", "1", "7 B", "1 ms", "20 ms", "300 ms", "-", "-"],
    ]


def test_tenants_are_added_up_and_of_times_the_larger_stays() -> None:
    fast = row("documents", "object", "write", 5, tenant="a", ops=2, p50_ms=9.0)
    slow = row("documents", "object", "write", 6, tenant="b", ops=3, p95_ms=99.0, estimated=True)
    read = row("documents", "object", "read", 7)
    one, other = merged([fast, read, slow])
    assert (one["direction"], one["ops"], one["bytes"], one["estimated"]) == ("write", 5, 11, True)
    assert (one["p50_ms"], one["p95_ms"], one["max_ms"]) == (9.0, 99.0, 300.0)
    assert (other["direction"], other["bytes"]) == ("read", 7)


# evaluation


def test_measures_are_shown_with_their_intervals_low_end_first() -> None:
    folder = BeirFolder(Path("/sets/nq"), {"a": ("", "x"), "b": ("", "y")}, ())
    rows = [
        RankingQuality("dense", 1_234, {"ndcg_at_10": Interval(0.5, 0.4, 0.7, 1.0), "mrr_at_10": Interval(0.1, 0.05, 0.2, 1.0)}),
        RankingQuality(
            "reranked", 1_234, {"ndcg_at_10": Interval(0.6, 0.5, 0.8, 1.0), "mrr_at_10": Interval(0.2, 0.1, 0.3, 1.0)}, "none"
        ),
    ]
    lines = printed(lambda console: say_retrieval(console, folder, rows))
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[:3]] == [
        ["ranking", "nDCG@10", "MRR@10"],
        ["dense", "0.500 (0.400–0.700)", "0.100 (0.050–0.200)"],
        ["reranked (none)", "0.600 (0.500–0.800)", "0.200 (0.100–0.300)"],
    ]
    assert lines[3:] == [
        "1,234 questions over 2 documents; 95 % intervals in brackets.",
        "No re-ranker has been promoted yet: re-ranked equals fusion.",
    ]
    found = AnswersMeasured(40, {"exact_match": Interval(0.25, 0.1, 0.4, 1.0)})
    lines = printed(lambda console: say_answers(console, folder, found))
    assert re.split(r"\s{2,}", lines[1].strip()) == ["exact match", "0.250 (0.100–0.400)"]
    assert lines[2] == "40 questions of /sets/nq; 95 % intervals in brackets."


# landing


def test_what_landed_is_told_by_topic_and_dead_letters_apart() -> None:
    lines = printed(lambda console: say_landed(console, Landed({"feedback": 1_500, "interactions": 7}, 3)))
    assert lines[0] == "Landed 1,500 feedback, 7 interactions; 3 dead letters."
    assert "dead_letters" in lines[1]
    assert printed(lambda console: say_landed(console, Landed({"feedback": 0}, 0))) == ["Landed 0 feedback."]


def test_a_lander_that_follows_tells_what_came_since_its_last_line_and_all_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1004.0, 1010.0, 1012.0])
    monkeypatch.setattr("headrace.cli.render.results.time", SimpleNamespace(monotonic=lambda: next(clock)))

    def follow(console: Console) -> None:
        lines = LandingLines(console, console, as_json=False)
        for events, dead in ((5, 0), (30, 1), (20, 0), (2, 0)):
            lines.committed(Commit("feedback", events, dead, 0.1))
        lines.total()

    assert printed(follow) == [
        "feedback: 5 landed",
        "feedback: 50 landed, 5/s",
        "Landed 57 feedback; 1 dead letters.",
    ]


def test_the_backlog_is_shown_with_what_needs_somebody_below() -> None:
    partitions = [
        Backlog("feedback", 0, 10, 2_500, 1_000, 1_500, 123_000, True, 90.0, 3600.0, ""),
        Backlog("feedback", 1, 0, 4, 4, 0, 0, False, None, None, "gap: two are gone"),
    ]
    lines = printed(lambda console: say_backlog(console, partitions))
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[:3]] == [
        ["partition", "begins", "end", "landed", "lag", "only in the head", "oldest"],
        ["feedback/0", "10", "2,500", "1,000", "1,500", "≈ 123 KB", "90 s"],
        ["feedback/1", "0", "4", "4", "0", "0 B", "-"],
    ]
    assert lines[3:] == ["feedback/1: gap: two are gone"]


# documents and answers


def test_what_was_indexed_is_told_step_by_step_and_what_could_not_be_read_below() -> None:
    done = Indexed(
        Put(put=4, unchanged=2, refused=0),
        ParsedDocuments(parsed=3, deleted=0, failed=(Failure("a\nb.pdf", "no text"),)),
        Chunked(documents=3, chunks=17),
        Embedded(chunks=16, retired=1),
        Index("g1.7", 16),
        1.5,
    )
    assert printed(lambda console: say_indexed(console, done)) == [
        "Indexed 3 documents → 17 chunks → 16 embeddings, 2 files unchanged in 1.5 s; index version g1.7.",
        "  not indexed: a\\nb.pdf: no text",
    ]
    again = replace(
        done, put=Put(0, 1, 0, failed_before=(FailedBefore("a\nb.pdf", "no text"),)), parsed=ParsedDocuments(1, 0, ())
    )
    assert printed(lambda console: say_indexed(console, again)) == [
        "Indexed 1 document → 17 chunks → 16 embeddings, 1 file unchanged in 1.5 s; index version g1.7.",
        "  still not indexed: a\\nb.pdf: no text",
        "  Unchanged files are not tried again without --retry.",
    ]
    relabelled = replace(done, parsed=ParsedDocuments(0, 0, (), relabelled=2), chunked=Chunked(0, 0), embedded=Embedded(0, 0))
    assert printed(lambda console: say_indexed(console, relabelled)) == [
        "Indexed 0 documents → 0 chunks → 0 embeddings, 2 documents with other readers or attributes, 2 files unchanged "
        "in 1.5 s; index version g1.7.",
    ]


def test_below_an_answer_stand_its_sources_versions_and_times() -> None:
    hit = Hit("c", "d", "v", "mill.md", "The mill", "Raised in 1911.", 1.0, place="page 3")
    answer = replace(
        Answer("when?", "t", "u", (Passage(hit, 1),), "v000003", "g1.7", answer_id="a1"),
        mode="extractive",
        text="In 1911. [1]",
        supports=(Support("In 1911.", 1, 0, 8),),
        timings_ms={"first_token": 12.0, "total": 345.0},
        note="the re-ranker did not answer",
    )
    cited = "  [1] mill.md · page 3 · The mill"
    below = [
        "  extractive answer a1 · re-ranker v000003 · ranking none · index g1.7 · first token 12 ms, total 345 ms",
        "  note: the re-ranker did not answer",
    ]
    assert printed(lambda console: say_sources(console, answer.with_passages())) == [cited, *below]
    copies = tuple(PassageSource(f"copy{number}.md", "") for number in range(5))
    copied = replace(answer, passages=(replace(answer.passages[0], hit=replace(hit, copies=copies)),))
    also = f"{cited} · also in copy0.md, copy1.md, copy2.md, 2 more"
    assert printed(lambda console: say_sources(console, copied.with_passages())) == [also, *below]
    short = replace(answer, text="1911 [1]", supports=(Support("1911", 1, 0, 15),))
    quoted = "      “Raised in 1911.”"
    assert printed(lambda console: say_sources(console, short.with_passages())) == [cited, quoted, *below]
    row = replace(short, passages=(replace(short.passages[0], hit=replace(hit, text="| Mill | 1911 |")),))
    assert "      “Mill · 1911”" in printed(lambda console: say_sources(console, row.with_passages()))
    bold = replace(answer, supports=(Support("Raised in 1911.", 1, 0, 20),))
    bold = replace(bold, passages=(replace(answer.passages[0], hit=replace(hit, text="Raised\n**in 1911.**")),))
    assert printed(lambda console: say_sources(console, bold.with_passages())) == [cited, *below], "the answer says all of it"
    nearest = "  no passage supports this answer; the best match is mill.md · page 3 · The mill"
    assert printed(lambda console: say_sources(console, replace(answer, supports=()).with_passages())) == [nearest, *below]


# a round

EVALUATION = Evaluation(
    "nDCG@10",
    "none",
    40,
    0.5,
    0.625,
    0.125,
    0.05,
    0.2,
    0.99,
    card={"ranking": {"weights": {"retrieval": 1.5, "reranker": -0.25, "phrase": 0.004}}},
)
DECISION = Decision(7, "reranker", True, "better", (), "v000007", "v000007")


def told(evaluation: Evaluation = EVALUATION, decision: Decision = DECISION, dead: int = 0) -> list[str]:
    trained = Trained("w", "c", 20, 10, 8, 90.0, 1.0, 1.0, 0.0, first_loss=1.5, last_loss=0.25)
    dataset = Dataset("d1", {"train": 1_200, "test": 34}, {"train": 50, "test": 9}, ())
    result = Round("reranker", Landed({"feedback": 2_000}, dead), dataset, trained, evaluation, decision, {}, 100.0)
    return printed(lambda console: say_round(console, result))


def test_a_round_says_who_is_champion_and_who_challenger() -> None:
    assert told() == [
        "Round 7: landed 2,000 events, dataset d1 with 1,234 examples of 59 questions (50 train, 9 test).",
        "  trained 8 of 10 steps in 90.0 s, loss 1.50 → 0.25",
        "  nDCG@10 on 40 held-out questions: champion (the order served now) 0.500, challenger 0.625",
        "  weights: retrieval +1.50, reranker -0.25",
        "  challenger promoted: better",
        "  served now: v000007",
    ]


def test_the_reason_does_not_repeat_the_figures_above_it() -> None:
    seen = replace(EVALUATION, users=2)
    promoted, why = decide("reranker", seen, [], Gate(least_users=1))
    assert promoted
    assert "nDCG@10 0.625 against 0.500 on 40 held-out questions: +0.125" in why
    line = next(line for line in told(decision=replace(DECISION, why=why)) if "challenger promoted" in line)
    assert line == "  challenger promoted: better with 99.0% confidence (+0.125, 95 % interval +0.050 to +0.200)"
    few = decide("reranker", seen, [], Gate(least_users=3))[1]
    line = next(line for line in told(decision=replace(DECISION, promoted=False, why=few)) if "challenger rejected" in line)
    assert line.endswith("at least 30 questions and 3 users are required")


def test_a_round_on_trial_and_one_that_was_refused_say_so() -> None:
    trial = told(replace(EVALUATION, champion_version="v000003", card={}), replace(DECISION, canary="v000007", serving="v000003"))
    assert trial[2:] == [
        "  nDCG@10 on 40 held-out questions: champion (v000003) 0.500, challenger 0.625",
        "  challenger promoted: better",
        "  canary, with a share of the traffic: v000007; champion: v000003",
    ]
    refused = told(decision=replace(DECISION, promoted=False, why="no better", serving="none"), dead=2)
    assert refused[0].startswith("Round 7: landed 2,000 events (2 dead letters), ")
    assert refused[4:] == ["  challenger rejected: no better", "  served now: no re-ranker"]
