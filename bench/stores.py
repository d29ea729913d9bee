"""stores: what commands cost by how much a store holds: answers, run journals, tenants, released versions.

Each store is filled in bulk to two sizes, on an embedded platform with a model endpoint that answers at once, and each command
that touches it is a process of its own. `growth` is each figure at the larger size over that at the smaller one.

`python -m bench.stores [answers|runs|tenants|versions ...] [--sizes SMALL LARGE]`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.command import Cost, end_by_sigterm, environment, instant_models, loop_s, run, write_documents
from headrace.app import App
from headrace.catalog import CHUNK_ROWS, FEEDBACK_ROWS, INTERACTION_ROWS, LEDGER, MODELS, PROMOTIONS, ROUNDS, RUNS
from headrace.models.ranking import of_retrieval_weight
from headrace.platform import down, open_platform
from headrace.settings import Settings, Training
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training.cutoff import NOTHING
from headrace.training.data import prepare
from headrace.training.manifest import (
    DatasetSummary,
    EvaluationSummary,
    GateDecision,
    Manifest,
    Plan,
    ReleasedWeights,
    TrainingSummary,
    name,
)

_COMMIT = 100_000  # rows
_JUDGED = 100  # one answer of so many
_SINCE = datetime(2026, 1, 1, tzinfo=UTC)
_LEDGER_ROWS = 20  # of a run
_DOCUMENTS = 20
_BULK = "bulk"  # the topic of rows that were on no head, whose own events would seem to be gone from it otherwise
Commands = list[tuple[str, ...]]


def _answers(size: int, endpoints: Endpoints, home: Path) -> Commands:
    """So many answers of a year, and a verdict on one of a hundred."""
    chunks = TableReader(CHUNK_ROWS, endpoints, _METER).read(("chunk_id", "uri")).slice(0, 5).to_pylist()
    rows = batch(INTERACTION_ROWS.columns, [_answer(number, chunks) for number in range(min(size, _COMMIT))])
    table = TableWriter(INTERACTION_ROWS, endpoints, _METER)
    for first in range(0, size, _COMMIT):
        table.append(_numbered(rows, first, size))
    judged = range(0, size, _JUDGED)
    table = TableWriter(FEEDBACK_ROWS, endpoints, _METER)
    for start in range(0, len(judged), _COMMIT):
        verdicts = [_verdict(number, chunks) for number in judged[start : start + _COMMIT]]
        table.append(batch(FEEDBACK_ROWS.columns, verdicts))
    middle = size // 2 // _JUDGED * _JUDGED
    return [
        ("search", "word7 word12"),
        ("feedback", _answer_id(middle), "--up"),
        ("land", "--once"),
        ("trace", _answer_id(middle)),
        ("trace", "feedback/0/0"),
        ("maintain",),
        ("status",),
        ("sql", "select count(*) as n from interactions"),
        ("prepare",),
    ]


def _answer_id(number: int) -> str:
    return f"a{number:011d}"


def _answer(number: int, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    passages = [
        {
            "chunk_id": chunk["chunk_id"],
            "document": chunk["uri"],
            "retrieval_score": 1 / (rank + 1 + number % 7),
            "retrieval_rank": rank + 1,
            "rerank_score": None,
            "rerank_rank": rank + 1,
            "cited": rank == 0,
        }
        for rank, chunk in enumerate(chunks)
    ]
    return {
        "answer_id": _answer_id(number),
        "kind": "answer",
        "tenant": "default",
        "user": f"user-{number % 500}",
        "simulated": False,
        "question": _question(number),
        "answer": f"It is in section {number % 97} of the manual, which says so in one sentence. [1]",
        "passages": passages,
        "prompt_tokens": [],
        "completion_tokens": [],
        "logprobs": [],
        "generator_version": "none",
        "model_version": "none",
        "index_version": "g1.1",
        "timings": [{"name": "retrieve", "ms": 20.0 + number % 13}],
        "moved": [{"tier": "vector", "direction": "read", "bytes": 4096}],
        "run": "bulk",
        "at": _SINCE + timedelta(seconds=3 * number),
        "topic": _BULK,
        "partition": 0,
        "offset": number,
    }


def _question(number: int) -> str:
    digest = hashlib.sha256(str(number).encode()).digest()
    return "What about " + " ".join(f"word{int.from_bytes(digest[at : at + 2])}" for at in range(0, 12, 2)) + "?"


def _numbered(rows: pa.RecordBatch, first: int, size: int) -> pa.RecordBatch:
    """The rows as those from `first` on: another id, question, time and offset each."""
    numbers = range(first, min(first + rows.num_rows, size))
    new = {
        "answer_id": [_answer_id(number) for number in numbers],
        "question": [_question(number) for number in numbers],
        "at": [_SINCE + timedelta(seconds=3 * number) for number in numbers],
        "offset": list(numbers),
    }
    columns = [
        pa.array(new[field.name], field.type) if field.name in new else rows.column(field.name).slice(0, len(numbers))
        for field in rows.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _verdict(number: int, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "verdict_id": f"v{number:011d}",
        "answer_id": _answer_id(number),
        "tenant": "default",
        "user": f"user-{number % 500}",
        "simulated": False,
        "up": number // _JUDGED % 3 > 0,
        "chunk_id": chunks[number // _JUDGED % len(chunks)]["chunk_id"],
        "reason": "",
        "correction": "",
        "at": _SINCE + timedelta(seconds=3 * number + 1),
        "topic": _BULK,
        "partition": 0,
        "offset": number,
    }


def _runs(size: int, endpoints: Endpoints, home: Path) -> Commands:
    """So many ended runs in the tables, and as many journals that nothing has archived yet."""
    for first in range(0, size, 5_000):
        numbers = range(first, min(first + 5_000, size))
        lines = [row for number in numbers for row in _ledger(_run_id(number, "old"))]
        TableWriter(LEDGER, endpoints, _METER).append(batch(LEDGER.columns, lines))
        runs = [
            {"run": _run_id(n, "old"), "command": "search", "state": "done", "started": _at(n), "ended": _at(n), "detail": "{}"}
            for n in numbers
        ]
        TableWriter(RUNS, endpoints, _METER).append(batch(RUNS.columns, runs))
    for number in range(size):
        run_id = _run_id(number, "left")
        journal = {"run": run_id, "command": "search", "state": "done", "started": _at(number).isoformat(), "detail": {}}
        journal |= {"ended": _at(number).isoformat(), "counts": {}, "pid": 1, "process_started": 0.0}
        journal |= {"rows": [{**row, "run": run_id} for row in _ledger(run_id)], "ledger": [], "timeline": []}
        (home / "runs" / f"{run_id}.json").write_text(json.dumps(journal))
    return [
        ("runs",),
        ("ledger",),
        ("status",),
        ("search", "word7"),
        ("sql", "select count(*) as n from runs"),
        ("runs",),
        ("search", "word7"),
        ("sql", "select count(*) as n from runs"),
        ("maintain",),
    ]


def _run_id(number: int, what: str) -> str:
    return f"{_at(number):%Y%m%d-%H%M%S}-search-{what}"


def _at(number: int) -> datetime:
    return _SINCE + timedelta(minutes=number)


def _ledger(run_id: str) -> Iterator[dict[str, Any]]:
    for number in range(_LEDGER_ROWS):
        row = {"run": run_id, "stage": f"stage-{number}", "store": "chunks", "tier": "vector", "direction": "read"}
        yield row | {
            "tenant": "default",
            "ops": 3,
            "bytes": 4096,
            "p50_ms": 1.0,
            "p95_ms": 2.0,
            "max_ms": 3.0,
            "estimated": False,
        }


def _tenants(size: int, endpoints: Endpoints, home: Path) -> Commands:
    """So many tenants with a key each."""
    with closing(Metadata(endpoints)) as metadata:
        for number in range(size):
            metadata.add_tenant(f"tenant-{number}")
            metadata.create_key(f"tenant-{number}", ["read"])
    last = f"tenant-{size - 1}"
    more = str(_more(home, size))
    return [
        ("tenant", "list"),
        ("tenant", "add", "another"),
        ("key", "create", last, "--scope", "read"),
        ("key", "list", "--tenant", last),
        ("index", more, "--tenant", last),
        ("search", "word7", "--tenant", last),
        ("documents", "list", "--tenant", last),
        ("status",),
    ]


def _more(home: Path, number: int) -> Path:
    folder = home.parent / f"more-{number}"
    write_documents(folder, [1_000_000 + number], 60)
    return folder


def _versions(size: int, endpoints: Endpoints, home: Path) -> Commands:
    """So many committed rounds, each of which released a version of the ranking."""
    rounds, models = (ObjectWriter(store, endpoints, _METER) for store in (ROUNDS, MODELS))
    example = _manifest(1)
    plan = example.model_dump(mode="json", include=set(Plan.model_fields))

    def put(number: int) -> None:
        key = name(number)
        made = example.model_copy(
            update={
                "round": number,
                "parent": number - 1 or None,
                "dataset": DatasetSummary(version=f"{number:012x}", files=[]),
                "weights": ReleasedWeights(version=f"v{key}", files=[]),
            }
        )
        rounds.put(f"{key}.plan.json", json.dumps({**plan, "round": number}).encode())
        rounds.put(f"{key}.json", made.model_dump_json(indent=1).encode())
        card = {"model": "ranking", "recipe": "ranking", "version": f"v{key}", "round": number, "ranking": _WEIGHTS}
        models.put(f"ranking/v{key}/weights.json", json.dumps(_WEIGHTS).encode())
        files = [{"name": "weights.json", "bytes": 100, "sha256": "0" * 64}]
        models.put(f"ranking/v{key}/card.json", json.dumps({**card, "files": files}).encode())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(1, size + 1)))
    moves = [
        {"model": "ranking", "version": f"v{name(n)}", "previous": "none", "kind": "promote", "round": n, "who": "", "why": ""}
        | {"at": _at(n)}
        for n in range(1, size + 1)
    ]
    TableWriter(PROMOTIONS, endpoints, _METER).append(batch(PROMOTIONS.columns, moves))
    chunks = TableReader(CHUNK_ROWS, endpoints, _METER).read(("chunk_id", "uri")).slice(0, 5).to_pylist()
    answers = [{**_answer(number, chunks), "ranking_version": f"v{name(size // 2)}"} for number in range(10)]
    TableWriter(INTERACTION_ROWS, endpoints, _METER).append(batch(INTERACTION_ROWS.columns, answers))
    verdicts = [_verdict(number, chunks) for number in range(10)]
    TableWriter(FEEDBACK_ROWS, endpoints, _METER).append(batch(FEEDBACK_ROWS.columns, verdicts))
    return [
        ("models",),
        ("promote", "ranking", f"v{name(size)}"),
        ("promote", "ranking", f"v{name(size - 1)}"),
        ("rollback", "ranking"),
        ("search", "word7"),
        ("trace", _answer_id(1)),
        ("loop",),
        ("maintain",),
    ]


_WEIGHTS = of_retrieval_weight(0.5).model_dump()


def _manifest(number: int) -> Manifest:
    """A round's manifest with all its fields."""
    return Manifest(
        round=number,
        parent=None,
        recipe="ranking",
        model="ranking",
        start="",
        champion="none",
        canary=0.0,
        begun=_SINCE.isoformat(),
        newest_verdict=_SINCE.isoformat(),
        snapshots={store.name: 7_000_000_000_000_000_000 for store in (INTERACTION_ROWS, FEEDBACK_ROWS, CHUNK_ROWS)},
        offsets={"feedback": {"0": {"next": 10, "topic_epoch": 1}}},
        exclusions=NOTHING.as_dict(),
        generator_history=["none"],
        dataset_version="0" * 12,
        recipe_settings={},
        settings=Training().model_dump(mode="json"),
        committed=_SINCE.isoformat(),
        run="bulk",
        dataset=DatasetSummary(version="0" * 12, files=[]),
        training=TrainingSummary(weights="none", checkpoint="none"),
        evaluation=EvaluationSummary(measure="ndcg", champion=0.5, challenger=0.6, questions=100),
        decision=GateDecision(promote=True, why="it is better", alarms=[]),
        weights=ReleasedWeights(version=None, files=[]),
        timings={},
        feedback_to_served=1.0,
    )


_METER = Meter(Ledger(), "bench")
STORES: dict[str, tuple[Callable[[int, Endpoints, Path], Commands], tuple[int, int]]] = {
    "answers": (_answers, (100_000, 10_000_000)),
    "runs": (_runs, (1_000, 100_000)),
    "tenants": (_tenants, (10, 1_000)),
    "versions": (_versions, (100, 10_000)),
}


def measure(names: Sequence[str] = tuple(STORES), sizes: tuple[int, int] | None = None) -> dict[str, Any]:
    """For each store: its sizes, and for each command its cost at both and its growth."""
    found = {}
    for chosen in names:
        fill, usual = STORES[chosen]
        costs = [_at_size(chosen, fill, size) for size in sizes or usual]
        growth = {
            command: {figure: round(costs[-1][command][figure] / value, 2) for figure, value in cost.items() if value}
            for command, cost in costs[0].items()
        }
        found[chosen] = {"sizes": list(sizes or usual), "costs": costs, "growth": growth}
    return {"loop_s": loop_s(), "stores": found}


def _at_size(chosen: str, fill: Callable[[int, Endpoints, Path], Commands], size: int) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, instant_models() as url:
        home = Path(folder) / "home"
        env = environment(home, url)
        settings = Settings.load(home=home)
        write_documents(Path(folder) / "documents", range(_DOCUMENTS), 60)
        try:
            run(env, "index", str(Path(folder) / "documents"), "--json")
            run(env, "search", "word7", "--json")
            with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
                commands = fill(size, endpoints, home)
            costs: dict[str, dict[str, Any]] = {}
            for words in commands:
                cost = _cost(env, words)
                title = " ".join(word for word in words if not any(letter.isdigit() for letter in word))
                while title in costs:
                    title += ", again"
                costs[title] = cost.as_dict()
                print(f"{chosen} {size:>11,} {title[:60]:60} {costs[title]}", file=sys.stderr, flush=True)
            return costs
        finally:
            down(settings)


def _cost(env: dict[str, str], words: tuple[str, ...]) -> Cost:
    if words == ("prepare",):
        return run(env, "--prepare", module="bench.stores")
    return run(env, *words, "--json", may_fail=words == ("status",))  # it fails without a running service


def _prepare() -> None:
    """The stage `prepare` alone, over everything that has landed."""
    with App(Settings.load(), "prepare", models=False, quiet=True) as app:
        made = app.runner.run(prepare, snapshots={}, version="0" * 12, seed=1)
    print(json.dumps(made.as_dict()))


def main() -> None:
    """Measure what the command line names."""
    end_by_sigterm()
    line = argparse.ArgumentParser(prog="python -m bench.stores")
    line.add_argument("stores", nargs="*", metavar="STORE", help=f"Of {', '.join(STORES)}; default: all.")
    line.add_argument("--sizes", nargs=2, type=int)
    line.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    given = line.parse_args()
    if given.prepare:
        _prepare()
        return
    if unknown := set(given.stores) - set(STORES):
        line.error(f"no store {', '.join(sorted(unknown))}")
    print(json.dumps(measure(given.stores or tuple(STORES), tuple(given.sizes) if given.sizes else None), indent=2))


if __name__ == "__main__":
    main()
