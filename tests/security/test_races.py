"""What happens between a check and the change that it allows: quotas, shared sources, and revoked keys."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace.api.auth import Caller
from headrace.api.documents import Documents
from headrace.catalog import DOCUMENT_EVENTS, DOCUMENT_ROWS, DOCUMENTS
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents import put as put_module
from headrace.documents.claims import SourceClaims
from headrace.documents.expire import Retention
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import document_id, object_key
from headrace.documents.parse import ParsedDocuments, parse
from headrace.documents.put import Announced, Put, delete, put, put_document
from headrace.documents.view import DocumentView
from headrace.errors import Forbidden, NotFound, QuotaReached, Unavailable
from headrace.landing.land import land
from headrace.lineage.forget.index import shared
from headrace.lineage.forget.journal import Journal
from headrace.lineage.forget.subject import DOCUMENT, Subject
from headrace.platform import open_platform
from headrace.settings import Inference, Settings, TenantLimits
from headrace.storage.endpoints import MetadataEndpoint
from headrace.storage.metadata import By, Metadata
from headrace.storage.objects import ObjectWriter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader

if TYPE_CHECKING:
    from postgresql import Server

Within = Callable[[float, Callable[[], bool]], bool]
pytest_plugins = ["postgresql"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("races")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        settings = Settings(home=folder / "home")
        with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
            yield Runner(Run("test", settings.home), endpoints)


class SlowView(DocumentView):
    """Stops for a moment once it has counted, as a thread does that another one interrupts."""

    counted, go_on = threading.Event(), threading.Event()

    def usage(self, tenant: str, *, look: bool = True) -> tuple[int, int]:
        usage = super().usage(tenant, look=look)
        if threading.current_thread().name == "late":
            self.counted.set()
            self.go_on.wait(2)
        return usage


def test_a_document_that_is_put_while_another_is_counted_counts(runner: Runner) -> None:
    view = SlowView(runner)
    documents = Documents(runner, view, lambda tenant, *, withdraws: None)
    limits, refused = TenantLimits(documents=1), []

    def late() -> None:
        try:
            documents.put("race", "late.md", b"late", limits)
        except QuotaReached as error:
            refused.append(error)

    thread = threading.Thread(target=late, name="late")
    thread.start()
    assert view.counted.wait(30)
    try:
        documents.put("race", "early.md", b"early", limits)
    except QuotaReached as error:
        refused.append(error)
    finally:
        view.go_on.set()
        thread.join()
    assert (len(refused), view.usage("race")[0]) == (1, 1), "one of both"


def parsed(runner: Runner) -> ParsedDocuments:
    """Land and parse what waits."""
    runner.run(land, only=(DOCUMENT_EVENTS,)).require(DOCUMENT_EVENTS)
    return runner.run(parse, limits=ParseLimits.from_settings(Inference()))


def put_folder(runner: Runner, folder: Path) -> Put:
    """Put a folder's files, as another process does that follows it."""
    return runner.run(put, tenant="acme", places=[folder], most_bytes=10**6)


def test_a_source_stays_while_another_document_with_the_same_bytes_is_put(runner: Runner, tmp_path: Path) -> None:
    data = b"# Sluice\n\nThe sluice is open.\n"
    key = object_key("acme", hashlib.sha256(data).hexdigest())
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    parsed(runner)  # what other tests left
    documents = Documents(runner, DocumentView(runner), lambda tenant, *, withdraws: None)
    documents.put("acme", "sent.md", data, TenantLimits())
    assert parsed(runner).parsed == 1

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_bytes(data)
    assert put_folder(runner, tmp_path / "docs").put == 1
    documents.delete("acme", "sent.md")
    assert sources.info(key) is not None, "the folder's document is not parsed yet"
    forgetting = Journal("test", "now", sources={key})
    known = runner.open(TableReader, DOCUMENT_ROWS, stage="test")
    assert shared(known, runner.metadata, Subject(DOCUMENT, "acme", "sent.md"), forgetting) == {key}
    done = parsed(runner)
    assert (done.parsed, done.deleted, done.failed) == (1, 1, ())

    again = Documents(runner, DocumentView(runner), lambda tenant, *, withdraws: None)
    again.delete("acme", "docs/a.md")
    assert sources.info(key) is None, "nobody has it any more"


def test_a_source_stays_while_it_is_put_though_the_view_says_that_it_is_free(runner: Runner) -> None:
    """Another process may claim it after the documents were looked at."""
    data = b"# Spillway\n\nThe spillway is dry.\n"
    version = hashlib.sha256(data).hexdigest()
    parsed(runner)  # what other tests left
    for name in ("old.md", "new.md"):
        runner.run(put_document, tenant="acme", uri=name, data=data)
    runner.run(delete, tenant="acme", uri="old.md", versions={version})
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    assert sources.info(object_key("acme", version)) is not None
    assert parsed(runner).failed == ()


def test_a_source_goes_with_the_last_of_two_documents_that_are_deleted_before_they_are_parsed(runner: Runner) -> None:
    data = b"# Gate\n\nThe gate is shut.\n"
    key = object_key("acme", hashlib.sha256(data).hexdigest())
    documents = Documents(runner, DocumentView(runner), lambda tenant, *, withdraws: None)
    for name in ("one.md", "two.md"):
        documents.put("acme", name, data, TenantLimits())
    documents.delete("acme", "one.md")
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    assert sources.info(key) is not None
    documents.delete("acme", "two.md")
    assert sources.info(key) is None


def test_a_file_whose_source_is_gone_is_put_again(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "a.md").write_bytes(b"# Penstock\n\nThe penstock is dry.\n")
    parsed(runner)  # what other tests left
    put_folder(runner, tmp_path / "lost")
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    [key] = [info.key for info in sources.list("acme/") if b"penstock" in sources.get(info.key)]
    sources.delete(key)
    assert [failure.uri for failure in parsed(runner).failed] == ["lost/a.md"]
    assert put_folder(runner, tmp_path / "lost").put == 1
    assert parsed(runner).failed == ()


def replica(runner: Runner) -> Documents:
    """The documents of a service of its own, which shares storage and metadata store with others."""
    return Documents(runner, DocumentView(runner), lambda tenant, *, withdraws: None)


def state_of(runner: Runner, uri: str) -> tuple[str, tuple[str, ...]]:
    """The status and the readers of a document once everything is parsed."""
    parsed(runner)
    found = DocumentView(runner).find("acme", uri)
    return ("deleted", ()) if found is None else (found.status, found.readers)


def test_a_put_counts_though_another_replica_was_told_of_a_deletion_that_is_not_parsed_yet(runner: Runner) -> None:
    """It was answered with 200, as nothing had changed, and then the document was gone."""
    data, limits = b"# Tailrace\n\nThe tailrace is long.\n", TenantLimits()
    one, other = replica(runner), replica(runner)
    one.put("acme", "tailrace.md", data, limits)
    assert state_of(runner, "tailrace.md")[0] == "parsed"
    assert not other.put("acme", "tailrace.md", data, limits)[1], "nothing changed"
    one.delete("acme", "tailrace.md")
    assert other.put("acme", "tailrace.md", data, limits)[1]
    assert state_of(runner, "tailrace.md")[0] == "parsed"


def test_the_last_of_two_replicas_says_who_may_read_a_document(runner: Runner) -> None:
    """One opened it, which was not parsed yet; the other closed it, to which nothing had changed: it stayed open."""
    data, limits = b"# Surge tank\n\nThe surge tank is full.\n", TenantLimits()
    one, other = replica(runner), replica(runner)
    one.put("acme", "tank.md", data, limits, readers=["hr"])
    assert state_of(runner, "tank.md")[1] == ("hr",)
    assert other.put("acme", "tank.md", data, limits)[1] is False
    one.put("acme", "tank.md", data, limits, readers=[])
    assert other.put("acme", "tank.md", data, limits, readers=["hr"])[1]
    assert state_of(runner, "tank.md")[1] == ("hr",)


def test_a_key_bound_to_readers_replaces_nothing_that_another_replica_has_just_taken_in(runner: Runner) -> None:
    """The other one did not know the document yet, and let it be replaced by somebody who may not read it."""
    limits = TenantLimits()
    bound = Caller("acme", "key", frozenset({"read", "write"}), limits, readers=("eng",))
    one, other = replica(runner), replica(runner)
    other.check_writer(bound, "acme", "secret.md", ["eng"])
    one.put("acme", "secret.md", b"# Secret\n\nThe wheel is cracked.\n", limits, readers=["hr"])
    with pytest.raises(Unavailable, match="changed a moment ago"):
        other.check_writer(bound, "acme", "secret.md", ["eng"])
    parsed(runner)
    with pytest.raises(Forbidden, match="for other readers"):
        other.check_writer(bound, "acme", "secret.md", ["eng"])


@pytest.mark.parametrize("change", ["replaces", "opens", "deletes"])
def test_a_key_bound_to_readers_changes_nothing_that_another_replica_closes_at_that_moment(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It was checked, another replica closed the document, and then it was replaced, opened or deleted."""
    limits, uri = TenantLimits(), f"closing-{change}.md"
    bound = Caller("acme", "key", frozenset({"read", "write"}), limits, readers=("eng",))
    one, other = replica(runner), replica(runner)
    closed = f"# Closing\n\nWho {change} this?\n".encode()
    one.put("acme", uri, closed, limits)
    assert state_of(runner, uri) == ("parsed", ())
    announce = put_module.announce

    def make(documents: Documents) -> object:
        """The change by the bound key."""
        if change == "deletes":
            return documents.delete("acme", uri, bound)
        data = b"# Planted\n" if change == "replaces" else closed
        return documents.put("acme", uri, data, limits, ["eng"] if change == "opens" else None, caller=bound)

    def late(events: TopicWriter, announced: Sequence[dict[str, Any]]) -> list[Announced]:
        if announced[0]["bound_to"]:
            one.put("acme", uri, closed, limits, readers=["hr"])
        return announce(events, announced)

    with monkeypatch.context() as patch:
        patch.setattr(put_module, "announce", late)
        with pytest.raises(Unavailable, match="Another change"):
            make(other)
    assert state_of(runner, uri) == ("parsed", ("hr",))
    found = DocumentView(runner).find("acme", uri)
    assert found is not None
    assert found.version == hashlib.sha256(closed).hexdigest()
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    assert sources.info(object_key("acme", found.version)) is not None
    with pytest.raises((Forbidden, NotFound)):
        make(replica(runner))


def test_a_document_is_closed_once_the_change_of_it_that_was_allowed_is_made(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys of one service: the second waits, and so has the last word."""
    limits, uri = TenantLimits(), "turns.md"
    bound = Caller("acme", "key", frozenset({"read", "write"}), limits, readers=("eng",))
    documents, announce = replica(runner), put_module.announce
    closing = threading.Thread(target=lambda: documents.put("acme", uri, b"# Closed\n", limits, readers=["hr"]))
    order: list[bool] = []

    def late(events: TopicWriter, announced: Sequence[dict[str, Any]]) -> list[Announced]:
        if announced[0]["bound_to"]:
            closing.start()
            closing.join(0.5)  # it would be done by then
        order.append(bool(announced[0]["bound_to"]))
        return announce(events, announced)

    monkeypatch.setattr(put_module, "announce", late)
    documents.put("acme", uri, b"# Open\n", limits, caller=bound)
    closing.join(30)
    assert order == [True, False]
    assert state_of(runner, uri) == ("parsed", ("hr",))


def test_a_version_that_is_put_at_another_replica_while_the_others_are_deleted_stays(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion looked once at who claims what, and then deleted one source after another: 202, and the document was lost."""
    limits = TenantLimits()
    one, other = replica(runner), replica(runner)
    data = {hashlib.sha256(text).hexdigest(): text for text in (b"# Weir 1\n\nIt is low.\n", b"# Weir 2\n\nIt is high.\n")}
    first, last = sorted(data)
    for version in (first, last):
        one.put("acme", "weir.md", data[version], limits)
    delete_one = ObjectWriter.delete

    def late(sources: ObjectWriter, key: str) -> None:
        if key == object_key("acme", first):
            assert other.put("acme", "weir.md", data[last], limits)[1]
        delete_one(sources, key)

    monkeypatch.setattr(ObjectWriter, "delete", late)
    one.delete("acme", "weir.md")
    assert state_of(runner, "weir.md")[0] == "parsed"
    monkeypatch.setattr(ObjectWriter, "delete", delete_one)
    replica(runner).delete("acme", "weir.md")
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    assert [sources.info(object_key("acme", version)) for version in data] == [None, None], "nobody has them any more"


def test_a_document_that_is_deleted_at_another_replica_before_it_is_announced_stays(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source was there when it was looked for, and gone when the document was announced."""
    limits, data = TenantLimits(), b"# Flume\n\nThe flume leaks.\n"
    one, other = replica(runner), replica(runner)
    one.put("acme", "flume.md", data, limits)
    announce = put_module.announce

    def late(events: TopicWriter, announced: Sequence[dict[str, Any]]) -> list[Announced]:
        if announced[0]["kind"] == "put":
            one.delete("acme", "flume.md")
        return announce(events, announced)

    monkeypatch.setattr(put_module, "announce", late)
    assert other.put("acme", "flume.md", data, limits)[1]
    monkeypatch.setattr(put_module, "announce", announce)
    assert state_of(runner, "flume.md")[0] == "parsed"


def test_what_a_pass_that_was_killed_had_processed_claims_nothing(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim stayed for thirty days: a source that nobody has any more, and a document that is not deleted for its age."""
    limits, data = TenantLimits(), b"# Headgate\n\nThe headgate is new.\n"
    documents = replica(runner)
    parsed(runner)  # what other tests left

    def killed(claims: SourceClaims, events: Iterable[object]) -> None:
        if list(events):  # once the pass has committed, and not where it begins
            raise Unavailable("The metadata store is gone.", hint="It comes back.")

    with monkeypatch.context() as patch:
        documents.put("acme", "headgate.md", data, limits)
        patch.setattr(SourceClaims, "drop", killed)
        with pytest.raises(Unavailable):
            parsed(runner)
    claims = SourceClaims(runner.metadata)
    assert "headgate.md" in claims.documents("acme"), "the pass ended between its commit and the claim"
    documents.put("acme", "spare.md", data, limits)  # the next pass
    assert parsed(runner).failed == ()
    assert claims.documents("acme") == set()
    documents.put("acme", "spare.md", data + b"It is open.\n", limits)
    runner.run(parse, limits=ParseLimits.from_settings(Inference()))
    assert claims.documents("acme") == {"spare.md"}, "it has not landed"
    for name in ("headgate.md", "spare.md"):
        documents.delete("acme", name)
    sources = runner.open(ObjectWriter, DOCUMENTS, stage="test")
    assert sources.info(object_key("acme", hashlib.sha256(data).hexdigest())) is None


@pytest.mark.parametrize("noted", [True, False], ids=["before it is looked for", "while it is deleted"])
def test_a_version_that_is_put_while_its_document_is_deleted_for_its_age_stays(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    """It was deleted, too, though 202 had been said of it: nothing knew of it before it was parsed."""
    limits, uri = TenantLimits(), f"weekly-{noted}.md"
    documents = replica(runner)
    old, new = b"# Week 1\n\nThe level was nine.\n", b"# Week 2\n\nThe level was ten.\n"
    documents.put("acme", uri, new, limits)
    parsed(runner)
    documents.put("acme", uri, old, limits)
    parsed(runner)
    if noted:
        documents.put("acme", uri, new, limits)
    else:  # it comes after the deletion was decided, and is announced before it
        freed_by_deletion = DocumentView.freed_by_deletion

        def late(view: DocumentView, tenant: str, name: str) -> set[str]:
            if name == uri:
                documents.put("acme", uri, new, limits)
            return freed_by_deletion(view, tenant, name)

        monkeypatch.setattr(DocumentView, "freed_by_deletion", late)
    Retention().expire(runner, lambda tenant: 30, now_s=time.time() + 31 * 86_400)
    done = parsed(runner)
    assert [failure for failure in done.failed if failure.uri == uri] == []
    found = DocumentView(runner).find("acme", uri)
    assert found is not None
    assert found.version == hashlib.sha256(new).hexdigest()
    monkeypatch.undo()
    assert Retention().expire(runner, lambda tenant: 30, now_s=time.time() + 31 * 86_400), "it is as old by then"
    parsed(runner)
    assert DocumentView(runner).find("acme", uri) is None


def test_a_key_that_is_revoked_makes_no_key_any_more(runner: Runner) -> None:
    """Its holder was looked up up to half a second ago: a key made then would outlive the one that made it."""
    metadata = Metadata(runner.endpoints)
    metadata.add_tenant("acme")
    _, admin = metadata.create_key("acme", ["tenant-admin"])
    by = By("acme", admin.id, "127.0.0.1")
    metadata.create_key("acme", ["tenant-admin"], by=by)
    metadata.revoke_key(admin.id)
    with pytest.raises(Forbidden, match="was revoked"):
        metadata.create_key("acme", ["tenant-admin"], by=by)
    assert len(metadata.keys("acme")) == 2
    metadata.close()


def test_a_stolen_key_is_revoked_with_all_that_it_made(runner: Runner) -> None:
    """What it had made, and what these had made, went on, and nothing said how many they were."""
    metadata = Metadata(runner.endpoints)
    metadata.add_tenant("stolen")

    def made(by: str) -> tuple[str, str]:
        text, key = metadata.create_key("stolen", ["tenant-admin"], by=By("stolen", by, "127.0.0.1"), most=2_000)
        return text, key.id

    _, admin = made("here")
    (first, first_id), (other, _) = made(admin), made("here")
    second, second_id = made(first_id)
    assert metadata.revoke_key(first_id).remaining == 1
    third, third_id = made(second_id)
    done = metadata.revoke_key(admin)
    assert (done.with_it, done.remaining) == ((), 2)
    with metadata.transaction(writing=True) as run:  # so many were revoked since that the first one is forgotten
        old = {"id": first_id, "at": "2000-01-01T00:00:00.000000+00:00"}
        run("UPDATE api_keys SET revoked_at = :at WHERE id = :id", old)
        some = (
            "INSERT INTO api_keys (id, tenant, hash, scopes, created_at, revoked_at, label)"
            " VALUES (:id, 'stolen', '', '[]', :at, :at, '')"
        )
        at = "2026-01-01T00:00:00.000000+00:00"
        run.many(some, [{"id": f"{number:016x}", "at": at} for number in range(1_000)])
    made("here")
    assert first_id not in {key.id for key in metadata.keys("stolen")}
    done = metadata.revoke_key(admin, with_made=True)
    assert (set(done.with_it), done.remaining) == ({second_id, third_id}, 0)
    assert [metadata.holder_of(text) for text in (first, second, third)] == [None] * 3
    assert metadata.holder_of(other) is not None
    metadata.close()


_STOPS_WHERE_IT_IS_OPEN = """
CREATE FUNCTION waits() RETURNS trigger AS $$ BEGIN
    IF NEW.description LIKE '[[]%' THEN PERFORM pg_advisory_xact_lock(42); END IF;
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER waits BEFORE INSERT ON document_states FOR EACH ROW EXECUTE FUNCTION waits();
"""


def test_a_replica_that_is_late_does_not_open_what_was_closed(runner: Runner, server: Server, within: Within) -> None:
    """In PostgreSQL it wrote what it had read before over what another replica had read since: the document stayed open."""
    import psycopg

    endpoints = runner.endpoints.model_copy(update={"metadata": MetadataEndpoint(url=server.url, db_schema="replicas")})
    table = runner.open(TableReader, DOCUMENT_ROWS, stage="test")

    def follow() -> DocumentLookup:
        lookup = DocumentLookup(Metadata(endpoints), table)
        lookup.follow()
        return lookup

    name, data = document_id("acme", "pay.md"), b"# Pay\n\nThe miller earns ninety florins.\n"
    runner.run(put_document, tenant="acme", uri="other.md", data=b"Another.")
    parsed(runner)
    follow()
    with psycopg.connect(server.url, autocommit=True) as other:
        other.execute("SET search_path TO replicas")
        (before,) = other.execute("SELECT revision FROM table_copies").fetchone() or ("",)
        runner.run(put_document, tenant="acme", uri="pay.md", data=data)
        parsed(runner)
        follow()
        (then,) = other.execute("SELECT revision FROM table_copies").fetchone() or ("",)
        assert then != before
        other.execute(_STOPS_WHERE_IT_IS_OPEN)
        other.execute("SELECT pg_advisory_lock(42)")

        def waiting() -> int:
            stopped = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'headrace'"
            return int((other.execute(stopped).fetchone() or (0,))[0])

        other.execute("UPDATE table_copies SET revision = %s", (before,))  # as the late one read it
        late = threading.Thread(target=follow)
        late.start()
        assert within(20, lambda: waiting() == 1)
        other.execute("UPDATE table_copies SET revision = %s", (then,))
        runner.run(put_document, tenant="acme", uri="pay.md", data=data, readers=["hr"])
        parsed(runner)
        prompt = threading.Thread(target=follow)
        prompt.start()
        assert within(20, lambda: waiting() == 2 or not prompt.is_alive())
        other.execute("SELECT pg_advisory_unlock(42)")
        late.join(30)
        prompt.join(30)
    assert follow().current({name})[1][name].readers == ("hr",)
