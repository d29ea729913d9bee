"""Retrieval: who may read what is decided inside the index, recall is kept for small tenants, documents follow their files."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lancedb.background_loop import LOOP
from servers import serving
from traffic import until
from words import words

from headrace.answering.engine import QueryEngine
from headrace.catalog import CHUNKS, DIMENSIONS, DOCUMENT_EVENTS, DOCUMENT_ROWS
from headrace.core.launch import Threads, Work
from headrace.core.maintain import maintain
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents import chunk as splits
from headrace.documents.embed import Embed
from headrace.documents.embedding import Embedding
from headrace.documents.index import Indexed, catch_up, index_documents, land_and_parse, update_index
from headrace.documents.names import document_id
from headrace.documents.put import delete, put, put_document
from headrace.documents.splitting import Splitting
from headrace.errors import Unavailable, WrongUsage
from headrace.platform.address import brought, overlay
from headrace.settings import Maintenance, Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.filters import Filters
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.handles import VectorReader, VectorWriter
from headrace.storage.vectors.labels import Description, labels_of
from headrace.storage.vectors.purge import VectorPurger

METER = Meter(Ledger(), "test")
SETTINGS = Settings.model_fields["inference"].default
Floats = np.ndarray[Any, np.dtype[np.float32]]

# in the index


@pytest.fixture
def vectors(tmp_path: Path) -> VectorWriter:
    return VectorWriter(CHUNKS, Endpoints.model_construct(vectors_uri=str(tmp_path / "index")), METER)


def towards(direction: int) -> Floats:
    embedding = np.zeros(DIMENSIONS, np.float32)
    embedding[direction] = 1.0
    return embedding


def chunk(name: str, tenant: str, readers: list[str], document: str = "d", text: str = "") -> dict[str, Any]:
    text = text or f"the wheel turns {name}"
    row = {"chunk_id": name, "document_id": document, "version": "1", "tenant": tenant, "uri": "d.md", "heading": ""}
    return {**row, "position": 0, "text": text, "readers": readers, "embedding": towards(0).tolist()}


def seen(vectors: VectorReader, tenant: str, *readers: str) -> set[str]:
    """What each of the three searches finds; they must agree."""
    searches: tuple[Callable[[], Any], ...] = (
        lambda: vectors.dense(towards(0), tenant=tenant, most=100, readers=readers),
        lambda: vectors.fulltext("wheel", tenant=tenant, most=100, readers=readers),
        lambda: vectors.fusion("wheel", towards(0), tenant=tenant, most=100, readers=readers),
    )
    found = [{hit.chunk_id for hit in search()} for search in searches]
    assert found[0] == found[1] == found[2]
    return found[0]


NAMES = [
    "ann",
    "o'brien",
    "x' OR '1'='1",
    "'] ) OR true --",
    "a\\",
    '"',
    "%",
    "日本",
    "a, b",
    "",
    "1:",
    "4:acme",
    "acme",
    "a]",
    "{}",
]


@pytest.mark.parametrize("built", [False, True])
def test_readers_are_names_and_never_a_query(vectors: VectorWriter, built: bool) -> None:
    """Also while there is no index yet, and for tenants and readers that run into each other when written side by side."""
    owners = ["acme", "4:acme", "", "x' OR '1'='1"]
    rows = [chunk(f"{t}-{r}", tenant, [reader]) for t, tenant in enumerate(owners) for r, reader in enumerate(NAMES) if reader]
    rows += [chunk(f"{t}-all", tenant, []) for t, tenant in enumerate(owners)]
    vectors.upsert(batch(CHUNKS.columns, rows))
    if built:
        vectors.build()
    for t, tenant in enumerate(owners):
        assert seen(vectors, tenant) == {f"{t}-all"}
        for r, reader in enumerate(NAMES):
            assert seen(vectors, tenant, reader) == {f"{t}-all", *([f"{t}-{r}"] if reader else [])}, (tenant, reader)
        assert seen(vectors, tenant, *NAMES) == {row["chunk_id"] for row in rows if row["tenant"] == tenant}
    for stranger in ("nobody", "acme4:", "' OR true --", "acm", "acme\x00"):
        assert seen(vectors, stranger, *NAMES, "acme", "") == set()


def test_readers_change_without_a_new_embedding_and_a_deleted_chunk_stays_away(vectors: VectorWriter) -> None:
    vectors.upsert(batch(CHUNKS.columns, [chunk("a", "acme", [], "one"), chunk("b", "acme", ["hr"], "two")]))
    vectors.build()
    vectors.describe(dict.fromkeys(["one", "two", "three"], Description(("o'brien", "it"))))
    assert seen(vectors, "acme", "hr") == set()
    assert seen(vectors, "acme", "it") == seen(vectors, "acme", "o'brien") == {"a", "b"}
    vectors.delete({"one": ""})
    vectors.describe(dict.fromkeys(["one", "two"], Description()))
    assert seen(vectors, "acme") == {"b"}
    assert vectors.indexed().select(["chunk_id", "readers"]).to_pylist() == [{"chunk_id": "b", "readers": []}]


def sources(vectors: VectorReader, *readers: str, most: int = 3) -> dict[str, list[str]]:
    """Text → the documents that each of the three searches names for it, which must agree; best first."""
    found = [
        vectors.dense(towards(0), tenant="acme", most=most, readers=readers),
        vectors.fulltext("wheel", tenant="acme", most=most, readers=readers),
        vectors.fusion("wheel", towards(0), tenant="acme", most=most, readers=readers),
        vectors.fusion("wheel", towards(0), tenant="acme", most=most, readers=readers, by_rank=True),
    ]
    told = [{hit.text: sorted(source.document for source in hit.sources) for hit in hits} for hits in found]
    assert all(len(texts) == len(hits) for texts, hits in zip(told, found, strict=True)), "a text twice"
    assert told[0] == told[1] == told[2] == told[3]
    return told[0]


@pytest.mark.parametrize("built", [False, True])
def test_the_same_text_under_several_names_is_one_hit_with_the_sources_that_one_may_read(
    vectors: VectorWriter, built: bool
) -> None:
    def copy(name: str, text: str, *readers: str, far: float = 0.0, tenant: str = "acme") -> dict[str, Any]:
        embedding = towards(0) + far * towards(1)
        row = chunk(f"{tenant}/{name}", tenant, list(readers), document=f"{tenant}/{name}", text=text)
        return {**row, "uri": name, "embedding": embedding.tolist()}

    one, two, three = "the wheel wheel wheel turns", "the wheel wheel stops today", "the wheel is new and round here"
    rows = [
        *(copy(name, one) for name in ("a.md", "b.md")),
        copy("c.md", "the  wheel wheel\nwheel turns "),  # white space makes no other text
        copy("hr.md", one, "hr"),
        copy("theirs.md", one, tenant="apex"),
        *(copy(f"copies/{n:03}.md", two, far=0.1) for n in range(90)),  # more than either search looks at
        copy("last.md", three, far=0.2),
    ]
    vectors.upsert(batch(CHUNKS.columns, rows))
    if built:
        vectors.build()
    found = sources(vectors)
    assert [" ".join(text.split()) for text in found] == [one, two, three]
    assert found[next(iter(found))] == ["a.md", "b.md", "c.md"]
    assert (len(found[two]), found[three]) == (21, ["last.md"]), "the hit's own, and twenty more"
    assert next(iter(sources(vectors, "hr", most=1).values())) == ["a.md", "b.md", "c.md", "hr.md"]
    vectors.delete({"acme/a.md": ""})
    vectors.describe({"acme/b.md": Description(("hr",))})
    assert next(iter(sources(vectors).values())) == ["c.md"]
    assert next(iter(sources(vectors, "hr").values())) == ["b.md", "c.md", "hr.md"]
    assert [hit.copies for hit in vectors.fulltext("wheel", tenant="apex", most=9)] == [()]


VALUES = ["hydro", "x' OR '1'='1", "'] ) OR true --", "a\\", '"', "%", "hydro%", "日本", "a, b", "=", "hydro=1", "HYDRO", "*"]


@pytest.mark.parametrize("built", [False, True])
def test_filters_select_inside_the_index_and_are_never_a_query(vectors: VectorWriter, built: bool) -> None:
    """Also for a tenant of whom one passage in hundreds is selected, and where a filter and a reader name the same."""
    rows, described = [], {}
    for tenant in ("acme", "apex"):
        for number, value in enumerate([*VALUES, *("other",) * 200]):
            name = f"{tenant}-{number}"
            rows.append(chunk(name, tenant, [], document=name))
            kinds = ("pdf", "application/pdf") if number % 2 else ("markdown", "text/markdown")
            labels = labels_of(f"shelf/{number % 3}/{number}.md", kinds, (f"team={value}", "site=north"))
            described[name] = Description(("hr",) if number % 5 == 4 else (), labels, number)
    vectors.upsert(batch(CHUNKS.columns, rows), described)
    if built:
        vectors.build()

    def selected(*texts: str, tenant: str = "acme", readers: tuple[str, ...] = ("hr",), most: int = 300) -> set[int]:
        filters = Filters.parse(texts)
        asked: dict[str, Any] = {"tenant": tenant, "most": most, "readers": readers, "filters": filters}
        searches = (
            vectors.dense(towards(0), **asked),
            vectors.fulltext("wheel", **asked),
            vectors.fusion("wheel", towards(0), **asked),
        )
        found = [{hit.chunk_id for hit in hits} for hits in searches]
        assert found[0] == found[1] == found[2]
        assert all(name.startswith(f"{tenant}-") for name in found[0])
        assert vectors.selects(filters, tenant=tenant, readers=readers) == bool(found[0])
        return {int(name.rpartition("-")[2]) for name in found[0]}

    for number, value in enumerate(VALUES):
        assert selected(f"team={value}", most=1) == {number}, value
        assert selected(f"team={value}", readers=()) == (set() if number % 5 == 4 else {number}), "it is closed"
    assert selected("team=hydro", "team=日本") == {0, 7}
    assert selected("team=hydro", "team=日本", "kind=pdf") == selected("kind=application/pdf", "team=日本") == {7}
    assert selected("site=south") == selected("team=none' OR 'a'='a") == selected("readers=hr") == set()
    assert selected("team=hydro", tenant="nobody") == set()
    assert selected("document=shelf/1/", "team=hydro", 'team="') == {4}
    assert selected("document=shelf/1/4.md", "document=shelf/2/5.md") == {4, 5}
    assert selected("document=shelf/1") == selected("document=helf/1/") == set(), "a folder ends in /"
    assert selected("changed>=1970-01-01T00:00:03", "changed<=1970-01-01T00:00:06") == {3, 4, 5, 6}
    assert len(selected("document=shelf/")) == 213
    vectors.describe({"acme-0": described["acme-0"]._replace(labels=("team=wind",))})
    assert (selected("team=hydro"), selected("team=wind")) == (set(), {0})


def test_an_index_of_before_readers_were_labels_answers_and_is_brought_along(vectors: VectorWriter, tmp_path: Path) -> None:
    import lancedb

    rows = [chunk("a", "acme", []), chunk("b", "apex", [])]
    old = batch(CHUNKS.columns, [*rows, chunk("c", "apex", [], "copy", "the wheel turns b")])
    old = pa.Table.from_batches([old]).drop_columns(["text_id"])
    lancedb.connect(tmp_path / "index").create_table("chunks", old)
    assert (seen(vectors, "acme"), len(seen(vectors, "apex", "hr"))) == ({"a"}, 1)
    vectors.build()
    vectors = VectorWriter(CHUNKS, vectors._endpoints, METER)  # which looks for the newest version at once
    assert (seen(vectors, "acme"), len(seen(vectors, "apex", "hr"))) == ({"a"}, 1)
    assert vectors.count("text_id IS NULL") == 0
    assert vectors.count() == 3


SHARES = {"large": 0.949, "medium": 0.05, "small": 0.001}


@pytest.mark.parametrize(("count", "exact"), [(2_500, 800), pytest.param(40_000, 20_000, marks=pytest.mark.soak(minutes=0.3))])
def test_recall_is_kept_by_tenants_of_any_size_and_under_sixteen_threads(
    vectors: VectorWriter, monkeypatch: pytest.MonkeyPatch, count: int, exact: int
) -> None:
    """Against comparing with every chunk that answers, where embeddings lie in clusters and tenants and readers across them."""
    monkeypatch.setattr("headrace.storage.vectors.handles._EXACT_ROWS", exact)  # fewer are compared with one by one
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(150, DIMENSIONS)).astype(np.float32)
    embeddings = centres[rng.integers(0, 150, count)] + 0.8 * rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    owners = rng.choice(list(SHARES), count, p=list(SHARES.values()))
    closed = rng.random(count) < 0.3
    names = [str(number) for number in range(count)]
    columns: dict[str, Any] = dict.fromkeys(CHUNKS.columns.names, names) | {
        "tenant": owners.tolist(),
        "position": [0] * count,
        "text": [f"wheel {number} of {owner}" for number, owner in enumerate(owners)],
        "readers": [["staff"] if shut else [] for shut in closed],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), DIMENSIONS),
    }
    given = pa.schema([field for field in CHUNKS.columns if not field.nullable])
    vectors.upsert(pa.table([pa.array(columns[f.name], f.type) for f in given], schema=given))
    vectors.build()
    questions = rng.normal(size=(20, DIMENSIONS)).astype(np.float32) * 0.4 / DIMENSIONS**0.5
    for tenant in SHARES:
        for readers in ((), ("staff",)):
            answering = np.flatnonzero((owners == tenant) & (~closed if not readers else True))
            recalls = []
            for number, question in zip(rng.choice(answering, 20), questions, strict=True):
                asked = (embeddings[number] + question).astype(np.float32)
                best = set(answering[np.argsort(-(embeddings[answering] @ asked))[:10]].tolist())
                hits = vectors.dense(asked, tenant=tenant, most=50, readers=readers)
                assert {int(hit.chunk_id) for hit in hits} <= set(answering.tolist())
                recalls.append(len(best & {int(hit.chunk_id) for hit in hits[:10]}) / len(best))
            assert np.mean(recalls) >= 0.95, (tenant, readers, recalls)
            hits = vectors.fulltext("wheel", tenant=tenant, most=50, readers=readers)
            assert len(hits) == min(50, len(answering))
            assert {int(hit.chunk_id) for hit in hits} <= set(answering.tolist())

    def ask(number: int) -> set[str]:
        tenant = list(SHARES)[number % 3]
        hits = vectors.fusion("wheel", embeddings[number], tenant=tenant, most=20)
        return {owners[int(hit.chunk_id)] for hit in hits} ^ {tenant}

    with ThreadPoolExecutor(16) as threads:
        assert set().union(*threads.map(ask, range(160))) == set()


def test_the_embeddings_of_a_small_index_are_read_once_for_each_version(vectors: VectorWriter) -> None:
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(400, DIMENSIONS)).astype(np.float32)

    def rows(*numbers: int) -> pa.RecordBatch:
        shown = [["staff"] if number % 3 == 0 else [] for number in numbers]
        some = [chunk(str(n), "acme" if n % 2 else "globex", readers) for n, readers in zip(numbers, shown, strict=True)]
        return batch(CHUNKS.columns, [row | {"embedding": embeddings[int(row["chunk_id"])].tolist()} for row in some])

    def nearest(asked: Floats, count: int, *readers: str) -> list[int]:
        open_to = [n for n in range(count) if n % 2 and (readers or n % 3)]
        cosine = embeddings[open_to] @ asked / np.linalg.norm(embeddings[open_to], axis=1)
        return [open_to[place] for place in np.argsort(-cosine)[:20]]

    ledger = Ledger()
    reader = VectorReader(CHUNKS, Endpoints.model_construct(vectors_uri=vectors._uri), Meter(ledger, "test"))
    size = embeddings[0].nbytes
    for count in (300, 400):
        vectors.upsert(rows(*range(300 if count == 400 else 0, count)))
        vectors.build()
        time.sleep(0.3)  # until another handle's writes are visible
        before = sum(row.bytes for row in ledger.rows())
        for number in range(10):
            for readers in ((), ("staff",)):
                asked = embeddings[number] + 0.1 * embeddings[number + 20]
                hits = reader.dense(asked, tenant="acme", most=20, readers=readers)
                assert [int(hit.chunk_id) for hit in hits] == nearest(asked, count, *readers)
        read = sum(row.bytes for row in ledger.rows()) - before
        assert count * size <= read < 2 * count * size, "twenty searches that compared with all"


def test_a_table_too_large_for_memory_is_scanned_until_its_index_is_built(
    vectors: VectorWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    embeddings = rng.normal(size=(60, DIMENSIONS)).astype(np.float32)
    rows = [{**chunk(str(n), "acme", []), "embedding": embeddings[n].tolist()} for n in range(60)]
    vectors.upsert(batch(CHUNKS.columns, rows))
    small = vectors.fusion("wheel 3", embeddings[3], tenant="acme", most=20)
    monkeypatch.setattr("headrace.storage.vectors.table._IN_MEMORY_ROWS", 59)
    snapshot = vectors._shared_table.snapshot()
    assert snapshot is not None
    assert snapshot.vectors, "it was small enough"
    snapshot.vectors.clear()
    large = vectors.fusion("wheel 3", embeddings[3], tenant="acme", most=20)
    assert not snapshot.vectors
    assert [hit.chunk_id for hit in large] == [hit.chunk_id for hit in small]
    assert np.allclose([hit.score for hit in large], [hit.score for hit in small], atol=1e-5)


def test_fusion_has_both_scores_of_every_candidate(vectors: VectorWriter) -> None:
    """Also of what only one search has among its first: here each has 40 that the other has not."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(200):
        embedding = towards(0) + (0.1 if number < 40 else 3.0) * rng.normal(size=DIMENSIONS).astype(np.float32)
        words = f"wheel {'wheel ' * (number % 7)}{number}" if number >= 100 else f"weir {number}"
        rows.append({**chunk(str(number), "acme", [], text=f"{words} turns"), "embedding": embedding.tolist()})
    vectors.upsert(batch(CHUNKS.columns, rows))
    vectors.build()
    snapshot = vectors._searchable()
    every = LOOP.run(snapshot.fulltext("wheel turns", "true", 200))
    near = LOOP.run(snapshot.dense(towards(0), "true", 200))
    assert LOOP.run(snapshot.fulltext_of("wheel turns", list(near)[:40])) == pytest.approx({i: every[i] for i in list(near)[:40]})
    assert LOOP.run(snapshot.similarities(towards(0), list(every)[:40])) == pytest.approx(
        {i: near[i] for i in list(every)[:40]}, abs=1e-6
    )
    hits = vectors.fusion("wheel turns", towards(0), tenant="acme", most=80)
    wanted = {i: 0.75 * (near[i] + 1) / (max(near.values()) + 1) + 0.25 * every[i] / max(every.values()) for i in near}
    names = {row: found["chunk_id"] for row, found in LOOP.run(snapshot.rows_of(list(near))).items()}
    by_name = {names[row]: score for row, score in wanted.items()}
    assert len(hits) == 80
    assert {hit.chunk_id: hit.score for hit in hits} == pytest.approx({hit.chunk_id: by_name[hit.chunk_id] for hit in hits})
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    by_rank = vectors.fusion("wheel turns", towards(0), tenant="acme", most=80, by_rank=True)
    assert by_rank[0].score <= 2 / 61


def test_maintenance_is_due_when_rows_wait_and_is_no_pause_for_searches(vectors: VectorWriter) -> None:
    vectors.upsert(batch(CHUNKS.columns, [chunk(str(n), "acme", []) for n in range(200)]))
    vectors.build()
    assert not vectors.due()
    for start in range(40):
        vectors.upsert(
            batch(CHUNKS.columns, [chunk(f"more {start} {n}", "acme", [], text=f"weir {start} {n}") for n in range(20)])
        )
    assert vectors.due()
    reader = VectorReader(CHUNKS, vectors._endpoints, METER)
    ended, answered, missed = threading.Event(), 0, 0

    def poll() -> None:
        nonlocal answered, missed
        while not ended.is_set():
            found = [hit.text for hit in reader.fulltext("weir", tenant="acme", most=5)]
            answered, missed = answered + 1, missed + (len(found) != 5)

    thread = threading.Thread(target=poll)
    thread.start()
    vectors.maintain()
    ended.set()
    thread.join()
    assert answered > 0
    assert missed == 0
    assert not vectors.due()
    assert vectors.count() == 1000


def test_maintenance_is_due_when_many_versions_are_old(vectors: VectorWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.storage.vectors.handles._VERSIONS", 4)
    monkeypatch.setattr("headrace.storage.vectors.handles._SEVERAL", 3)
    monkeypatch.setattr("headrace.storage.vectors.handles._KEPT", timedelta(0))
    due = []
    for number in range(8):
        vectors.upsert(batch(CHUNKS.columns, [chunk(str(number), "acme", [])]))
        due.append(vectors.due())
    assert due == [False, False, False, True, False, False, True, False], "they are listed every third version"
    vectors.maintain()
    assert len(vectors._open().list_versions()) == 1


def test_a_passage_that_is_purged_is_in_no_file_of_the_index(
    vectors: VectorWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was one row of many in its fragment, which LanceDB itself leaves as it is."""
    monkeypatch.setattr("headrace.storage.vectors.purge._FOLLOWED_S", 0.0)  # nobody searches meanwhile
    rows = [chunk(f"stays {n}", "acme", [], document=f"d{n}", text=f"the weir number {n}") for n in range(40)]
    vectors.upsert(batch(CHUNKS.columns, [*rows, chunk("goes", "acme", [], "secret", text="the zanzibarquux rounds")]))
    vectors.build()

    def holding() -> list[Path]:
        return [path for path in (tmp_path / "index").rglob("*") if path.is_file() and b"zanzibarquux" in path.read_bytes()]

    assert holding() != []
    vectors.delete({"secret": ""})
    assert VectorPurger(CHUNKS, vectors._endpoints, METER).purge() == 40
    assert holding() == []
    held = VectorReader(CHUNKS, vectors._endpoints, METER)
    assert sorted(held.indexed()["chunk_id"].to_pylist()) == sorted(row["chunk_id"] for row in rows)
    assert [hit.chunk_id for hit in held.fulltext("17", tenant="acme", most=5)] == ["stays 17"]


def test_an_index_whose_storage_is_away_is_said_to_be_so_whatever_is_asked(tmp_path: Path) -> None:
    """Also where LanceDB asks it in a property, as it does for its version: that was a 500."""
    with serving(tmp_path) as servers:
        writer = VectorWriter(CHUNKS, servers.endpoints, METER)
        writer.upsert(batch(CHUNKS.columns, [chunk("a", "acme", [])]))
        reader = VectorReader(CHUNKS, servers.endpoints, METER)
        assert reader._options is not None
        reader._options["client_max_retries"] = "0"  # what it would come to after twenty seconds
        assert writer.build() == reader.version()
        assert seen(reader, "acme") == {"a"}
        servers.kill("objects")

        def away(ask: Callable[[], Any]) -> bool:
            try:
                ask()
            except Unavailable:
                return True
            return False  # what it was a moment ago

        searches = (lambda: reader.dense(towards(0), tenant="acme", most=1), lambda: reader.fulltext("a", tenant="acme", most=1))
        for ask in (reader.version, reader.count, *searches):
            until(60, lambda ask=ask: away(ask), lambda ask=ask: ask)  # type: ignore[misc]


@pytest.mark.parametrize("declared", [True, False])
def test_writers_at_once_put_no_chunk_in_twice(vectors: VectorWriter, declared: bool) -> None:
    """Also into an index that was made before its key was declared."""
    import lancedb

    first = batch(CHUNKS.columns, [chunk("first", "acme", [])])
    if not declared:
        lancedb.connect(vectors._uri).create_table("chunks", pa.Table.from_batches([first]))
    vectors.upsert(first)
    writers = [VectorWriter(CHUNKS, vectors._endpoints, METER) for _ in range(4)]
    together = threading.Barrier(4)

    def write(number: int) -> None:
        writers[number].count()  # opened before
        together.wait()
        writers[number].upsert(batch(CHUNKS.columns, [chunk(str(n), "acme", [f"writer {number}"]) for n in range(100)]))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    held = VectorReader(CHUNKS, vectors._endpoints, METER).indexed()
    assert sorted(held["chunk_id"].to_pylist()) == sorted(["first", *(str(n) for n in range(100))])


def test_an_index_whose_last_row_was_deleted_finds_nothing(vectors: VectorWriter) -> None:
    vectors.upsert(batch(CHUNKS.columns, [chunk("only", "acme", [])]))
    assert seen(vectors, "acme") == {"only"}
    vectors.delete({"d": ""})
    assert seen(VectorReader(CHUNKS, vectors._endpoints, METER), "acme") == set()


# from files


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("retrieval")
    with pytest.MonkeyPatch.context() as patch, words() as served, serving(folder) as servers:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        endpoints = overlay(servers.endpoints, brought(Settings(home=folder, models=served.models)))
        with recorded("index", folder) as run:
            yield Runner(run, endpoints)


@pytest.fixture(scope="module")
def engine(runner: Runner) -> QueryEngine:
    return QueryEngine(runner, SETTINGS)


@pytest.fixture(autouse=True)
def kept(request: pytest.FixtureRequest) -> None:
    """The tables of the module's home are kept in order, so that its last test has as little to read as its first."""
    if "runner" in request.fixturenames:
        request.getfixturevalue("runner").run(maintain, settings=Maintenance(every=4, merge=4), only_due=True)


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def index(runner: Runner, tenant: str, *paths: Path, readers: list[str] | None = None) -> Indexed:
    return index_documents(runner, list(paths), tenant=tenant, settings=SETTINGS, readers=readers)


def found(engine: QueryEngine, tenant: str, *readers: str, question: str = "what is it like?") -> dict[str, str]:
    """uri → text of what a question finds."""
    answer = engine.search(question, tenant=tenant, user="ann", record=False, readers=readers)
    return {source.document: passage.hit.text for passage in answer.passages for source in passage.hit.sources}


@dataclass(frozen=True)
class Shelf:
    """A tenant whose folder has been indexed, `a.md` and `b.md`."""

    tenant: str
    docs: Path


@pytest.fixture(scope="module")
def shelves(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Shelf]]:
    """Shelves that one pass has indexed: open to everybody of their tenant, or to two readers."""
    made: dict[str, list[Shelf]] = {"open": [], "closed": []}
    for kind, count, readers in (("open", 8, None), ("closed", 2, ["hr", "o'brien"])):
        for number in range(count):
            docs = tmp_path_factory.mktemp(f"{kind}-{number}") / "docs"
            docs.mkdir()
            (docs / "a.md").write_text("The pond is deep.")
            (docs / "b.md").write_text("The weir is long.")
            made[kind].append(Shelf(f"{kind}-{number}", docs))
            runner.run(put, tenant=f"{kind}-{number}", places=[docs], most_bytes=SETTINGS.document_bytes, readers=readers)
    catch_up(runner, SETTINGS)
    return made


@pytest.fixture
def shelf(shelves: dict[str, list[Shelf]]) -> Shelf:
    return shelves["open"].pop()


@pytest.fixture
def closed(shelves: dict[str, list[Shelf]]) -> Shelf:
    return shelves["closed"].pop()


def test_readers_of_an_unchanged_file_change_on_the_next_index(runner: Runner, engine: QueryEngine, closed: Shelf) -> None:
    tenant, docs = closed.tenant, closed.docs
    assert found(engine, tenant) == found(engine, tenant, "it") == found(engine, "other", "hr") == {}
    both = {"docs/a.md": "The pond is deep.", "docs/b.md": "The weir is long."}
    assert found(engine, tenant, "o'brien") == found(engine, tenant, "it", "hr") == both
    done = index(runner, tenant, docs)  # nobody named: as it was
    assert (done.put.unchanged, found(engine, tenant)) == (2, {})
    done = index(runner, tenant, docs, readers=["it"])
    assert (done.put.put, done.embedded.chunks, done.embedded.relabelled) == (2, 0, 2)
    assert (found(engine, tenant, "hr"), len(found(engine, tenant, "it"))) == ({}, 2)
    done = index(runner, tenant, docs, readers=[])
    assert (done.embedded.chunks, len(found(engine, tenant))) == (0, 2)
    for wrong in ("", "  ", "a\nb", "x" * 201, "\udcff"):
        with pytest.raises(WrongUsage, match="cannot be the name of a reader"):
            index(runner, tenant, docs, readers=[wrong])


@pytest.mark.soak(minutes=0.3)
def test_attributes_are_kept_until_others_are_named_and_embed_nothing(runner: Runner, engine: QueryEngine, shelf: Shelf) -> None:
    tenant, docs = shelf.tenant, shelf.docs

    def labelled(*attributes: str) -> Indexed:
        return index_documents(runner, [docs], tenant=tenant, settings=SETTINGS, attributes=attributes)

    def selected(*texts: str) -> set[str]:
        answer = engine.search("what is it like?", tenant=tenant, user="ann", record=False, filters=Filters.parse(texts))
        assert ("nothing that may be read matches the filter" in answer.note) == (not answer.passages)
        return {passage.hit.uri for passage in answer.passages}

    both = {"docs/a.md", "docs/b.md"}
    assert selected("kind=markdown") == selected("document=docs/") == selected("changed>=2020-01-01") == both
    assert selected("changed<=2020-01-01") == selected("kind=pdf") == selected("site=north") == set()
    done = labelled("site=north", "crew=7")
    assert (done.put.put, done.embedded.chunks, done.embedded.relabelled) == (2, 0, 2)
    assert selected("site=north", "crew=7") == both
    assert selected("site=north", "crew=8") == set()
    with pytest.raises(WrongUsage, match="not an attribute"):
        labelled("north")
    (docs / "a.md").rename(docs / "c.md")  # with its attributes
    (docs / "b.md").write_text("The weir is short.")
    assert index(runner, tenant, docs).embedded.reused == 1
    assert selected("site=north") == {"docs/c.md", "docs/b.md"}
    done = labelled()
    assert (done.embedded.chunks, selected("site=north")) == (0, set())
    assert selected("document=docs/c.md", "kind=markdown") == {"docs/c.md"}


def test_when_a_document_changed_is_when_its_version_was_put(runner: Runner, engine: QueryEngine, shelf: Shelf) -> None:
    tenant, docs = shelf.tenant, shelf.docs

    def changed() -> dict[str, int]:
        table = VectorReader(CHUNKS, runner.endpoints, METER)._open()
        rows = table.search().where(f"tenant = '{tenant}'").select(["uri", "changed_s"]).to_list()
        return {row["uri"]: row["changed_s"] for row in rows}

    before = changed()
    assert len(before) == 2
    time.sleep(1.1)
    index(runner, tenant, docs, readers=["hr"])
    assert changed() == before, "the same text for other readers"
    (docs / "a.md").write_text("The pond is shallow.")
    index(runner, tenant, docs)
    after = changed()
    assert after["docs/a.md"] > before["docs/a.md"]
    assert after["docs/b.md"] == before["docs/b.md"]


def test_a_file_that_is_closed_and_broken_at_once_is_closed(runner: Runner, engine: QueryEngine, shelf: Shelf) -> None:
    (shelf.docs / "a.md").write_bytes(b"\x00\x01" * 400)
    assert set(found(engine, shelf.tenant)) == {"docs/a.md", "docs/b.md"}
    assert len(index(runner, shelf.tenant, shelf.docs, readers=["hr"]).parsed.failed) == 1
    assert (found(engine, shelf.tenant), len(found(engine, shelf.tenant, "hr"))) == ({}, 2)


@pytest.mark.parametrize(
    "way", ["gone and back", *(pytest.param(way, marks=pytest.mark.soak(minutes=0.2)) for way in ("bytes", "renamed", "folder"))]
)
def test_what_was_closed_a_moment_ago_is_not_opened_by_who_names_no_reader(
    runner: Runner, engine: QueryEngine, shelf: Shelf, way: str
) -> None:
    tenant, docs = shelf.tenant, shelf.docs
    # Closed on the head, where no table knows of it yet.
    runner.run(put, tenant=tenant, places=[docs], most_bytes=SETTINGS.document_bytes, readers=["hr"])
    if way == "bytes":
        runner.run(put_document, tenant=tenant, uri="docs/a.md", data=b"The pond is shallow.")
        catch_up(runner, SETTINGS)
    elif way == "renamed":
        (docs / "a.md").rename(docs / "c.md")
        index(runner, tenant, docs)
    else:
        if way == "gone and back":
            (docs / "a.md").unlink()
            index(runner, tenant, docs)
        (docs / "a.md").write_text("The pond is shallow.")
        index(runner, tenant, docs)
    assert set(found(engine, tenant)) == set()
    assert len(found(engine, tenant, "hr")) == 2


class Meanwhile(Threads):
    """Batch work: once something is embedded, and before it is put in, something else is done."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    def map(self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any) -> Iterator[pa.RecordBatch]:
        done = list(super().map(source, work, *args))
        if work is Embed:
            self._act()
        yield from done


@pytest.mark.parametrize("change", ["closed", pytest.param("deleted", marks=pytest.mark.soak(minutes=0.2))])
def test_of_two_passes_at_once_the_first_does_not_undo_what_the_second_knew(
    runner: Runner, engine: QueryEngine, docs: Path, tenant: str, change: str
) -> None:
    (docs / "a.md").write_text("The pond is deep.")
    (docs / "b.md").write_text("The weir is long.")
    others: list[Indexed] = []

    def other() -> None:
        """A whole pass."""
        if change == "deleted":
            (docs / "a.md").unlink()
        others.append(index(runner, tenant, docs, readers=["hr"] if change == "closed" else None))

    first = index(Runner(runner.record, runner.endpoints, batches=Meanwhile(other)), tenant, docs)
    assert (first.put.put, [(done.put.put, done.put.deleted) for done in others]) == (
        2,
        [(2, 0) if change == "closed" else (0, 1)],
    )
    assert set(found(engine, tenant)) == (set() if change == "closed" else {"docs/b.md"})
    assert set(found(engine, tenant, "hr")) == ({"docs/a.md", "docs/b.md"} if change == "closed" else {"docs/b.md"})
    held = VectorReader(CHUNKS, runner.endpoints, METER).indexed()
    assert len(set(held["chunk_id"].to_pylist())) == held.num_rows


def test_a_changed_document_answers_at_every_moment(
    runner: Runner, engine: QueryEngine, shelf: Shelf, within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    ended, told = threading.Event(), []

    def poll() -> None:
        while not ended.wait(0.02):
            told.append("docs/a.md" in found(engine, shelf.tenant, question="what colour is the gate of the pond?"))

    thread = threading.Thread(target=poll)
    thread.start()
    for number in range(2):
        (shelf.docs / "a.md").write_text(f"# Gate\nThe gate of the pond is painted in colour {number}.")
        index(runner, shelf.tenant, shelf.docs)
    ended.set()
    thread.join()
    assert len(told) > 10
    assert all(told)
    assert within(10, lambda: "colour 1" in found(engine, shelf.tenant)["docs/a.md"])


def test_an_earlier_version_answers_until_a_long_one_is_split(
    runner: Runner, engine: QueryEngine, tenant: str, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (docs / "a.md").write_text("The pond is deep.")
    index(runner, tenant, docs)
    long = "\n\n".join(f"The pond has {number} carps and {number} pikes in it by now." for number in range(1_500))
    (docs / "a.md").write_text(long)
    runner.run(put, tenant=tenant, places=[docs], most_bytes=SETTINGS.document_bytes)
    land_and_parse(runner, SETTINGS)
    monkeypatch.setattr(splits, "_SLICE_S", 0.02)
    state = Splitting()
    filled = update_index(runner, SETTINGS, split_s=0.0, splitting=state)
    assert filled.chunked.unfinished
    assert found(engine, tenant) == {"docs/a.md": "The pond is deep."}
    update_index(runner, SETTINGS, split_s=0.0, splitting=state, compare=True)
    assert found(engine, tenant) == {"docs/a.md": "The pond is deep."}, "also where the whole index is compared"
    while update_index(runner, SETTINGS, split_s=0.0, splitting=state).chunked.unfinished:
        pass
    assert "carps" in found(engine, tenant)["docs/a.md"]


def test_chunks_that_wait_are_kept_from_one_pass_to_the_next(
    runner: Runner, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.documents.embed._BATCH_ROWS", 6)
    wanted: dict[str, set[str]] = {}
    vectors = VectorReader(CHUNKS, runner.endpoints, METER)

    def put_one(uri: str, text: str) -> None:
        runner.run(put_document, tenant=tenant, uri=uri, data=text.encode())
        wanted[document_id(tenant, uri)] = {hashlib.sha256(text.encode()).hexdigest()}

    def a_pass(state: Embedding, *, new: bool = False) -> Collection[str]:
        """The documents that wait."""
        if new:
            land_and_parse(runner, SETTINGS)
        return update_index(runner, SETTINGS, gives_way=lambda _: True, embedding=state).embedded.unfinished

    def indexed() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for row in vectors.indexed().to_pylist():
            if row["tenant"] == tenant:
                found.setdefault(row["document_id"], set()).add(row["version"])
        return found

    def reads() -> int:
        """How often the table of chunks was read in order to embed."""
        read = ("embed", "chunks", "table", "read")
        lines = runner.record.ledger.rows()
        return sum(one.ops for one in lines if (one.stage, one.store, one.tier, one.direction) == read)

    put_one("old.md", "The pond is deep, and so is the weir.")
    a_pass(Embedding(), new=True)
    before = indexed()
    assert before == wanted
    for number in range(30):
        put_one(f"d{number:02}.md", f"Pond {number} is shallow.")
    put_one("old.md", "The pond is dry, and so is the weir in summer.")  # the longest, embedded last
    state = Embedding()
    waiting = a_pass(state, new=True)
    assert len(waiting) == 25
    once = reads()
    waiting = a_pass(state)
    assert reads() == once, "nothing is new, so nothing is read"
    until(10, lambda: len(indexed()) == 13, indexed)
    assert indexed().items() > before.items(), "the earlier version answers"
    changed, gone = [name for number in range(30) if document_id(tenant, name := f"d{number:02}.md") in waiting][:2]
    put_one(changed, "This pond was filled in.")
    runner.run(delete, tenant=tenant, uri=gone, versions=())
    del wanted[document_id(tenant, gone)]
    assert a_pass(state, new=True)
    assert a_pass(Embedding()), "another process takes over"
    while a_pass(state):
        assert document_id(tenant, gone) not in indexed()
    until(10, lambda: indexed() == wanted, indexed)  # another handle sees it in a moment
    once = reads()
    assert not a_pass(Embedding())
    assert reads() == once, "the index is known to have all"


def test_deletes_and_renames_follow(runner: Runner, engine: QueryEngine, closed: Shelf) -> None:
    tenant, docs = closed.tenant, closed.docs
    (docs / "a.md").rename(docs / "c.md")
    done = index(runner, tenant, docs)
    assert (done.put.put, done.put.deleted, done.embedded.chunks, done.embedded.reused) == (1, 1, 0, 1)
    assert found(engine, tenant) == {}, "a renamed file has the readers of its old name"
    assert set(found(engine, tenant, "hr")) == {"docs/c.md", "docs/b.md"}
    (docs / "b.md").unlink()
    assert index(runner, tenant, docs).put.deleted == 1
    assert set(found(engine, tenant, "hr")) == {"docs/c.md"}
    # A folder with nothing in it is more likely not mounted than emptied.
    (docs / "c.md").unlink()
    assert index(runner, tenant, docs).put.deleted == 0
    assert set(found(engine, tenant, "hr")) == {"docs/c.md"}


def test_only_documents_of_the_same_folder_are_deleted(runner: Runner, engine: QueryEngine, tmp_path: Path, tenant: str) -> None:
    one, other = tmp_path / "one" / "docs", tmp_path / "other" / "docs"
    for folder, name in ((one, "a.md"), (other, "b.md")):
        folder.mkdir(parents=True)
        (folder / name).write_text(f"The pond of {name} is deep.")
    with pytest.raises(WrongUsage, match="would both be called docs"):
        index(runner, tenant, one, other)
    index(runner, tenant, one)
    assert index(runner, tenant, other).put.deleted == 0
    index(runner, tenant, one / "a.md")  # one file says nothing of the folder
    assert set(found(engine, tenant)) == {"docs/a.md", "docs/b.md", "a.md"}


def test_only_what_changed_in_a_document_is_embedded_again(runner: Runner, engine: QueryEngine, docs: Path, tenant: str) -> None:
    parts = [f"# Part {number}\nThe lock number {number} has two gates." for number in range(5)]
    (docs / "a.md").write_text("\n".join(parts))
    assert index(runner, tenant, docs).embedded.chunks == 5
    (docs / "a.md").write_text("\n".join([*parts[:4], "# Part 4\nThe lock number 4 was filled in."]))
    done = index(runner, tenant, docs)
    assert (done.embedded.chunks, done.embedded.reused, done.embedded.retired) == (1, 4, 1)
    assert len(TableReader(DOCUMENT_ROWS, runner.endpoints, METER).read(("uri",), f"tenant = '{tenant}'")) == 2
    assert DOCUMENT_EVENTS.columns.field("readers").nullable
