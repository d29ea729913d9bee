"""Tenants take turns where documents are parsed; whatever order that makes, each document is parsed and split once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest
from documents import row as sheet_row
from documents import sheets

from headrace.api.documents import Documents
from headrace.catalog import CHUNK_ROWS, DOCUMENT_EVENT_ROWS, DOCUMENT_EVENTS, DOCUMENT_ROWS, DOCUMENTS, Store
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents import chunk as splits
from headrace.documents import parse as parsing
from headrace.documents import parsing as waiting
from headrace.documents import queue, splitting
from headrace.documents.chunk import chunk
from headrace.documents.failed import leave_out
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parsing import Parsing, UnparsedEvents
from headrace.documents.pieces import pieces
from headrace.documents.put import announce, event, put_document
from headrace.documents.queue import PROCESSED_OFFSETS, ProcessedOffsets, Turns
from headrace.documents.splitting import Splitting, UnsplitVersions
from headrace.documents.view import Document, DocumentView
from headrace.landing.land import land
from headrace.platform import open_platform
from headrace.settings import Inference, Settings, TenantLimits
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader

LIMITS = ParseLimits.from_settings(Inference())


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp("turns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        yield Settings(home=folder / "home")


@pytest.fixture(scope="module")
def runner(settings: Settings) -> Iterator[Runner]:
    with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
        yield Runner(Run("test", settings.home), endpoints)


@pytest.fixture(autouse=True)
def nothing_waits(runner: Runner) -> None:
    runner.run(land)
    while runner.run(parsing.parse, limits=LIMITS).left:
        pass
    runner.run(chunk, window=200)


def reader(runner: Runner, store: Store) -> TableReader:
    return TableReader(store, runner.endpoints, Meter(runner.record.ledger, "test"))


def put(runner: Runner, **uris: list[str]) -> None:
    """Put documents by tenant, and land their events."""
    events = reader(runner, DOCUMENT_EVENT_ROWS)
    wanted = events.count() + sum(map(len, uris.values()))
    for tenant, names in uris.items():
        for uri in names:
            text = f"# {uri}\n\nThe gate {uri} of {tenant} is open.\n"
            runner.run(put_document, tenant=tenant, uri=uri, data=text.encode())
    end = time.monotonic() + 30
    while events.count() < wanted:
        assert time.monotonic() < end
        runner.run(land)


class EachTakesASecond(Turns):
    """Turns by a clock of the test's: each document takes as long as any other."""

    def took(self, tenant: str, seconds: float) -> None:
        super().took(tenant, 1.0)


def passes(runner: Runner, count: int, turns: Turns) -> int:
    """Passes whose time is up after one document; returns how many events are left."""
    for _ in range(count):
        with closing(Parsing(turns)) as state:
            left: int = runner.run(parsing.parse, limits=LIMITS, seconds=0.0, parsing=state).left
        runner.run(chunk, window=200)
    return left


def parsed(runner: Runner, *tenants: str) -> list[str]:
    rows = reader(runner, DOCUMENT_ROWS).read(("tenant", "uri", "status")).to_pylist()
    return sorted(row["uri"] for row in rows if row["tenant"] in tenants and row["status"] == "parsed")


def split(runner: Runner, *tenants: str) -> list[str]:
    """The document of each chunk; each of these has one."""
    rows = reader(runner, CHUNK_ROWS).read(("tenant", "uri")).to_pylist()
    return sorted(row["uri"] for row in rows if row["tenant"] in tenants)


def ahead(runner: Runner, store: Store) -> Counter[str]:
    """The tenants whose offsets a table notes beside those of all."""
    names = reader(runner, store).snapshot_property(PROCESSED_OFFSETS)
    return Counter(name.split("/", 2)[2] for name in names if name.count("/") > 1)


def test_a_tenant_waits_for_no_more_than_a_document_of_each_other(runner: Runner) -> None:
    many, turns = [f"a{n}.md" for n in range(6)], EachTakesASecond()
    put(runner, big=many, small=["b0.md"])
    assert passes(runner, 2, turns) == 5
    assert parsed(runner, "big", "small") == split(runner, "big", "small") == ["a0.md", "b0.md"]
    assert ahead(runner, DOCUMENT_ROWS) == ahead(runner, CHUNK_ROWS) == {"small": 1}
    put(runner, newcomer=["c0.md", "c1.md"], small=["b1.md"])
    assert passes(runner, 1, turns) == 7
    assert split(runner, "big", "small", "newcomer") == ["a0.md", "b0.md", "c0.md"]
    assert passes(runner, 3, turns) == 4
    assert split(runner, "big", "small", "newcomer") == ["a0.md", "a1.md", "b0.md", "b1.md", "c0.md", "c1.md"]
    while passes(runner, 1, turns):
        pass
    wanted = sorted([*many, "b0.md", "b1.md", "c0.md", "c1.md"])
    assert parsed(runner, "big", "small", "newcomer") == wanted
    assert split(runner, "big", "small", "newcomer") == wanted, "none is lost, none is there twice"
    assert not ahead(runner, DOCUMENT_ROWS)
    assert not ahead(runner, CHUNK_ROWS), "what is ahead of nobody is not noted"
    assert not runner.run(parsing.parse, limits=LIMITS).parsed


def test_slow_documents_hold_up_their_own_tenant() -> None:
    """A thousand files that each take a parser's minute, and another tenant's thousand of a moment: not a minute each."""
    turns, seconds = Turns(), {"slow": 60.0, "quick": 0.1}
    names, parsed, waited = ["slow", "quick"], Counter[str](), 0.0
    while parsed["quick"] < 1000:
        tenant = turns.next(names)
        turns.took(tenant, seconds[tenant])
        waited += seconds[tenant]
        parsed[tenant] += 1
    assert parsed["slow"] == 2
    assert waited < 300
    assert turns.next(["slow", "newcomer"]) == "newcomer", "who comes does not wait behind what others saved up"
    turns.took("newcomer", 1e6)
    assert turns.next(["slow", "newcomer"]) == "slow"


@pytest.fixture
def workbook(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A document that takes longer than a slice to parse."""
    monkeypatch.setattr(parsing, "_SLICE_S", 0.2)
    monkeypatch.setattr("headrace.documents.parsing._PLACES", 1)
    return sheets({"Q3": sheet_row("gate", 1, "open") * 6_000})


def beside(runner: Runner, state: Parsing) -> int:
    """A pass that waits for no slow document; returns how many events are left."""
    left: int = runner.run(parsing.parse, limits=LIMITS, seconds=60.0, parsing=state, waits=False).left
    return left


def parsers() -> list[int]:
    """The parser processes of this one."""
    return [child.pid for child in psutil.Process().children() if "headrace.documents.formats.worker" in child.cmdline()]


def test_a_slow_document_is_parsed_beside_those_of_others(runner: Runner, workbook: bytes) -> None:
    runner.run(put_document, tenant="slow-a", uri="p0.xlsx", data=workbook)
    put(runner, **{"slow-a": ["p1.md"], "brisk": ["q0.md"]})
    with closing(Parsing()) as state:
        assert beside(runner, state) == 2, "the slow one, and its tenant's next"
        assert parsed(runner, "slow-a", "brisk") == ["q0.md"]
        (parser,) = parsers()
        while runner.run(parsing.parse, limits=LIMITS, seconds=60.0, parsing=state).left:
            assert parsers() in ([], [parser]), "it is not begun again"
        assert not parsers()
    assert parsed(runner, "slow-a", "brisk") == ["p0.xlsx", "p1.md", "q0.md"]
    assert not ahead(runner, DOCUMENT_ROWS)


def test_slow_documents_that_are_stopped_are_parsed_later(runner: Runner, workbook: bytes) -> None:
    for tenant in ("slow-b", "slow-c"):
        runner.run(put_document, tenant=tenant, uri=f"{tenant}.xlsx", data=workbook)
    put(runner, nimble=["r0.md"])
    with closing(Parsing()) as state:
        assert beside(runner, state) == 2
        assert parsed(runner, "slow-b", "slow-c", "nimble") == ["r0.md"]
        assert len(parsers()) == 1, "there is one place"
    assert not parsers(), "as after a kill"
    with closing(Parsing()) as state:
        while runner.run(parsing.parse, limits=LIMITS, seconds=60.0, parsing=state).left:
            assert len(parsers()) <= 1
    assert parsed(runner, "slow-b", "slow-c", "nimble") == ["r0.md", "slow-b.xlsx", "slow-c.xlsx"]


def test_a_slow_document_that_another_process_parsed_is_stopped(runner: Runner, workbook: bytes) -> None:
    runner.run(put_document, tenant="slow-d", uri="s0.xlsx", data=workbook)
    put(runner, swift=["t0.md"])
    with closing(Parsing()) as state:
        assert beside(runner, state) == 1
        assert runner.run(parsing.parse, limits=LIMITS).parsed == 1, "a pass that keeps nothing for the next parses all"
        assert len(parsers()) == 1
        assert beside(runner, state) == 0
        assert not parsers()
    assert parsed(runner, "slow-d", "swift") == ["s0.xlsx", "t0.md"]


@pytest.fixture
def few_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes two events of each tenant, and reads no others whole."""
    for name, value in {"_TOGETHER": 1, "_LEAST": 2}.items():
        monkeypatch.setattr(queue, name, value)
    for name, value in {"_FEW": 3, "_GAP": 0}.items():
        monkeypatch.setattr(waiting, name, value)


@pytest.mark.usefixtures("few_in_a_pass")
def test_a_pass_takes_few_of_the_events_that_wait(runner: Runner) -> None:
    many = [f"u{n}.md" for n in range(6)]
    put(runner, heaping=many[:4], modest=["v0.md"])
    put(runner, heaping=many[4:], modest=["v1.md", "v2.md"])
    offsets = ProcessedOffsets(reader(runner, DOCUMENT_ROWS).snapshot_property(PROCESSED_OFFSETS))
    waiting = UnparsedEvents(reader(runner, DOCUMENT_EVENT_ROWS).state(), offsets, None, every=False)
    assert [event["uri"] for event in waiting.first] == ["u0.md", "u1.md", "v0.md", "v1.md"]
    assert (waiting.left, waiting.more) == (5, {"heaping", "modest"})
    left, rounds = 9, 0
    with closing(Parsing()) as state:
        while left:
            now = runner.run(parsing.parse, limits=LIMITS, seconds=60.0, parsing=state).left
            assert left - 4 <= now < left
            left, rounds = now, rounds + 1
    assert rounds > 2
    assert parsed(runner, "heaping", "modest") == [*many, "v0.md", "v1.md", "v2.md"], "none is lost, none is there twice"
    assert not ahead(runner, DOCUMENT_ROWS)


@pytest.mark.usefixtures("few_in_a_pass")
def test_events_that_are_sent_again_do_not_hold_up_those_behind_them(runner: Runner) -> None:
    sent = event("heard", "x0.md", "put", sha256="0" * 64)
    announce(runner.open(TopicWriter, DOCUMENT_EVENTS, stage="put"), [sent] * 6)
    put(runner, heard=["x1.md"])
    with closing(Parsing()) as state:
        while runner.run(parsing.parse, limits=LIMITS, seconds=60.0, parsing=state).left:
            pass
    assert parsed(runner, "heard") == ["x1.md"]
    assert reader(runner, DOCUMENT_ROWS).read(("uri",), "uri = 'x0.md'").num_rows == 1


def test_what_a_tenant_has_does_not_wait_for_all_that_another_has(runner: Runner) -> None:
    put(runner, hoarding=[f"y{n}.md" for n in range(5)], frugal=["z0.md"])
    with closing(Parsing(EachTakesASecond())) as state:
        done = runner.run(parsing.parse, limits=LIMITS, seconds=600.0, soon_s=0.0, parsing=state)
        assert done.left == 4, "the pass ends with its last"
        assert parsed(runner, "hoarding", "frugal") == ["y0.md", "z0.md"]
        done = runner.run(parsing.parse, limits=LIMITS, seconds=600.0, soon_s=0.0, parsing=state, gives_way=bool)
        assert done.left == 3, "or as it comes"
        assert not runner.run(parsing.parse, limits=LIMITS, seconds=600.0, parsing=state).left


def test_sources_are_read_ahead_of_their_turn_and_once_each(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine four fifths of the time to parse documents was one request after another to the object store."""
    put(runner, eager=[f"a{n}.md" for n in range(9)], calm=["b0.md", "b1.md"])
    reads: list[tuple[str, str]] = []
    read = ObjectReader.get

    def noting(reader: ObjectReader, key: str) -> bytes:
        if reader.store == DOCUMENTS:
            reads.append((threading.current_thread().name.partition("_")[0], key))
        return read(reader, key)

    monkeypatch.setattr(ObjectReader, "get", noting)
    with closing(Parsing()) as state:
        assert runner.run(parsing.parse, limits=LIMITS, seconds=600.0, parsing=state, waits=False).parsed == 11
    assert len({key for _, key in reads}) == len(reads) == 11
    assert {thread for thread, _ in reads} == {"source"}


def test_a_long_document_is_split_a_slice_at_a_time_between_those_of_others(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "_SLICE_S", 0.05)
    text = "\n\n".join(f"The gate number {number} of the long canal is open on weekdays." for number in range(4_000))
    runner.run(put_document, tenant="lengthy", uri="l0.md", data=text.encode())
    put(runner, lengthy=["l1.md"])
    runner.run(parsing.parse, limits=LIMITS)
    list(pieces("# m0.md\n\nThe gate is open.", 200))  # making the splitter for this heading takes a slice
    state = Splitting()
    done = runner.run(chunk, window=200, seconds=0.0, splitting=state)
    assert (done.documents, len(done.unfinished)) == (0, 2)
    put(runner, brief=["m0.md"])
    runner.run(parsing.parse, limits=LIMITS)
    while not (others := runner.run(chunk, window=200, seconds=0.0, splitting=state)).documents:
        assert others.unfinished > done.unfinished, "a busy machine takes more than a slice for it, but it goes first"
    assert (others.documents, others.unfinished) == (1, done.unfinished)
    assert split(runner, "lengthy", "brief") == ["m0.md"]
    rounds = 1
    while runner.run(chunk, window=200, seconds=0.0, splitting=state).unfinished:
        rounds += 1
    assert rounds > 3, "it took several slices"
    rows = reader(runner, CHUNK_ROWS).read(("tenant", "uri", "text", "position")).to_pylist()
    made = sorted((row["position"], row["text"]) for row in rows if (row["tenant"], row["uri"]) == ("lengthy", "l0.md"))
    whole = [f"{piece.heading}\n{piece.body}" if piece.heading else piece.body for piece in pieces(text, 200)]
    assert made == list(enumerate(whole)), "as if it had been split at once, and once only"
    assert split(runner, "lengthy").count("l1.md") == 1
    assert not runner.run(chunk, window=200).documents


def test_the_texts_of_few_waiting_documents_are_in_memory(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "_TEXT_CHARS", 150)
    names = [f"w{n}.md" for n in range(7)]
    put(runner, waiting=names, patient=names)
    runner.run(parsing.parse, limits=LIMITS)
    offsets = ProcessedOffsets(reader(runner, CHUNK_ROWS).snapshot_property(PROCESSED_OFFSETS))
    documents = reader(runner, DOCUMENT_ROWS)
    waiting = UnsplitVersions(documents, documents.state(), offsets, None, every=True)
    ours = [row for row in waiting.rows if row["tenant"] in ("waiting", "patient") and row["uri"] in names]
    assert len(ours) == 14
    waiting.keep(ours)
    for row in ours:
        assert waiting.take(row)["text"].strip().endswith(f"The gate {row['uri']} of {row['tenant']} is open.")
        assert waiting.characters <= 150
    runner.run(chunk, window=200)
    assert split(runner, "waiting", "patient") == sorted([*names, *names])


def test_a_pass_splits_few_of_the_documents_that_wait(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, value in ((queue, "_TOGETHER", 1), (queue, "_LEAST", 2), (splitting, "_FEW", 3)):
        monkeypatch.setattr(where, name, value)
    put(runner, crowd=[f"k{n}.md" for n in range(5)], alone=["l.md"], held=["m.md"])
    runner.run(parsing.parse, limits=LIMITS)
    done = runner.run(chunk, window=200, seconds=60.0, hold={"held"})
    assert (done.documents, len(done.unfinished)) == (3, 4), "two of the crowd and one alone"
    assert split(runner, "crowd", "alone", "held") == ["k0.md", "k1.md", "l.md"]
    put(runner, alone=["n.md"])
    runner.run(parsing.parse, limits=LIMITS)
    done = runner.run(chunk, window=200, seconds=60.0)
    assert (done.documents, len(done.unfinished)) == (4, 1)
    assert not runner.run(chunk, window=200, seconds=60.0).unfinished
    assert split(runner, "crowd", "alone", "held") == [*(f"k{n}.md" for n in range(5)), "l.md", "m.md", "n.md"]
    assert not runner.run(chunk, window=200, seconds=60.0).documents
    assert not ahead(runner, CHUNK_ROWS)


@pytest.mark.soak(minutes=0.3)
def test_few_tenants_are_ahead_at_a_time_and_all_are_parsed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_AHEAD", 2)
    others, turns = {f"ahead-{n}": [f"d{n}.md"] for n in range(5)}, EachTakesASecond()
    put(runner, behind=["e0.md", "e1.md", "e2.md"], **others)
    assert passes(runner, 3, turns) == 5
    assert split(runner, "behind", *others) == ["d0.md", "d1.md", "e0.md"]
    assert passes(runner, 1, turns) == 4, "two are ahead already"
    assert split(runner, "behind", *others) == ["d0.md", "d1.md", "e0.md", "e1.md"]
    runner.run(parsing.parse, limits=LIMITS)
    runner.run(chunk, window=200)
    assert split(runner, "behind", *others) == ["d0.md", "d1.md", "d2.md", "d3.md", "d4.md", "e0.md", "e1.md", "e2.md"]


def test_leaving_out_a_document_that_waits_loses_none_before_it(runner: Runner) -> None:
    put(runner, careful=["f0.md", "f1.md", "f2.md"])
    runner.run(leave_out, tenant="careful", uri="f2.md", reason="it is left out")
    turns = Turns()
    assert passes(runner, 1, turns) == 2
    while passes(runner, 1, turns):
        pass
    assert split(runner, "careful") == ["f0.md", "f1.md"]


def test_the_service_shows_what_is_parsed_out_of_turn(runner: Runner) -> None:
    view = DocumentView(runner)
    changed: list[tuple[str, bool]] = []
    documents = Documents(runner, view, lambda tenant, *, withdraws: changed.append((tenant, withdraws)))
    for uri in ("g0.md", "g1.md", "g2.md"):
        documents.put("slow", uri, uri.encode(), TenantLimits())
    documents.put("quick", "h0.md", b"Open.", TenantLimits())
    documents.put("quick", "h1.md", b"Shut.", TenantLimits())
    documents.delete("quick", "h0.md")
    put(runner)
    turns = EachTakesASecond()
    while reader(runner, DOCUMENT_ROWS).read(("uri",), "uri = 'h1.md'").num_rows == 0:
        runner.run(land)
        passes(runner, 1, turns)
    assert changed == [("slow", False)] * 3 + [("quick", False)] * 2 + [("quick", True)], "a deletion waits for no embedding"
    view.refresh(now=True)
    assert documents.one("quick", "h1.md").status == "parsed"
    assert documents.one("slow", "g2.md").status == "put"
    assert view.usage("quick") == (1, 5)
    looked_at: list[str] = []

    def wanted(document: Document) -> bool:
        looked_at.append(document.uri)
        return True

    found, more = view.list("slow", wanted, after="g0.md", most=1)
    assert ([document.uri for document in found], more) == (["g1.md"], True)
    assert looked_at == ["g1.md", "g2.md"], "a page costs what it shows"
