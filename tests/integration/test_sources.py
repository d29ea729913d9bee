"""Sources in step: folders and buckets followed with their deletions, and the guard against an incomplete listing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlsplit

import obstore
import pytest
from child import as_another_user
from git_repository import GitRepository, needs_git
from obstore.store import S3Store
from servers import serving
from traffic import until
from words import words

from headrace.catalog import CHUNK_ROWS, CHUNKS, DOCUMENT_ROWS, DOCUMENTS, SOURCES
from headrace.core.clock import SteadyClock
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.chunk import chunk
from headrace.documents.expire import Retention
from headrace.documents.index import Indexed, index_documents, land_and_parse, put_documents
from headrace.documents.lookup import DocumentLookup
from headrace.documents.names import document_id, object_key
from headrace.documents.put import Put
from headrace.documents.queue import ProcessedOffsets
from headrace.documents.sources.bucket import find_objects
from headrace.documents.sources.folder import find_files
from headrace.documents.sources.follow import Follower, SourceChanges
from headrace.documents.sources.git import Repositories
from headrace.documents.sources.hashes import SourceHashes
from headrace.documents.sources.listing import SourceListing, find
from headrace.documents.sources.notified import NotifiedBucket
from headrace.documents.splitting import UnsplitVersions
from headrace.documents.versions import ROWS_IN_ORDER, event_address
from headrace.documents.view import Document, DocumentView
from headrace.errors import BadSettings, ClockSet, NotFound, Unavailable, WrongUsage
from headrace.lineage.forget import Subject
from headrace.lineage.forget.index import drop_copies
from headrace.lineage.forget.subject import DOCUMENT
from headrace.platform.address import brought, overlay
from headrace.settings import PiiPolicy, PosixPermissions, Settings, SourceSettings, TagPermissions
from headrace.storage.endpoints import S3Location
from headrace.storage.filters import NOBODY
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import BucketReader, ObjectReader, bucket_at
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.handles import VectorReader

if TYPE_CHECKING:
    from conftest import Home

SETTINGS = Settings.model_fields["inference"].default


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch, words() as served, serving(folder) as servers:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        endpoints = overlay(servers.endpoints, brought(Settings(home=folder, models=served.models)))
        with recorded("index", folder) as run:
            yield Runner(run, endpoints)


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def bucket(runner: Runner) -> S3Store:
    """A bucket of the user's own on the object tier's S3."""
    import boto3

    name, to = f"handbooks-{uuid.uuid4().hex[:8]}", runner.endpoints
    keys = {"aws_access_key_id": to.s3_access_key, "aws_secret_access_key": to.s3_secret_key, "region_name": to.s3_region}
    boto3.client("s3", endpoint_url=to.s3_endpoint, **keys).create_bucket(Bucket=name)
    return bucket_at(to.s3_endpoint, to.s3_access_key, to.s3_secret_key, to.s3_region, name)


def index(runner: Runner, tenant: str, *places: str | Path, **more: Any) -> Indexed:
    return index_documents(runner, list(places), tenant=tenant, settings=SETTINGS, **more)


def moved(runner: Runner) -> int:
    """Bytes read from the users' buckets so far."""
    return sum(row.bytes for row in runner.record.ledger.rows() if row.store == SOURCES.name)


def test_a_prefix_of_a_bucket_is_indexed_and_followed(runner: Runner, tenant: str, bucket: S3Store) -> None:
    name = bucket.config["bucket"]
    for key in ("books/pump.md", "books/deep/weir.md", "books/.hidden/x.md", "books/.secret.md", "bookshelf/other.md", "top.md"):
        obstore.put(bucket, key, f"# {key}\n\nThe {key} is here.\n".encode())
    obstore.put(bucket, "books/empty.md", b"")
    where = f"s3://{name}/books"
    done = index(runner, tenant, where)
    assert (done.put.put, done.put.refused) == (2, 1)
    assert [failure.uri for failure in done.parsed.failed] == [f"{name}/books/empty.md"]
    before = moved(runner)
    assert before > 0, "metered"
    again = index(runner, tenant, where)
    assert (again.put.put, again.put.unchanged) == (0, 3)
    assert moved(runner) == before, "its etag has not changed, so it is not read again"
    obstore.put(bucket, "books/pump.md", b"# Pump\n\nThe pump is new.\n")
    obstore.put(bucket, "books/gate.md", b"# Gate\n\nThe gate is open.\n")
    obstore.delete(bucket, "books/deep/weir.md")
    changed = index(runner, tenant, where)
    assert (changed.put.put, changed.put.unchanged, changed.put.deleted) == (2, 1, 1)
    whole = index(runner, tenant, f"s3://{name}")
    assert whole.put.deleted == 0, "another source: what the prefix had is there still"
    for key in ("books/pump.md", "books/gate.md", "books/empty.md"):
        obstore.delete(bucket, key)
    assert index(runner, tenant, where).put.deleted == 0, "an empty listing deletes nothing"


def test_objects_with_keys_of_any_kind_hold_up_no_others(runner: Runner, tenant: str, bucket: S3Store) -> None:
    """One of them, or two of one name, and nothing of the bucket was indexed: whoever may put objects there could do that."""
    import boto3

    name, to = bucket.config["bucket"], runner.endpoints
    keys = {"aws_access_key_id": to.s3_access_key, "aws_secret_access_key": to.s3_secret_key, "region_name": to.s3_region}
    s3 = boto3.client("s3", endpoint_url=to.s3_endpoint, **keys)
    odd = ["books/two\nlines.md", "books/\x1b[2J.md", "books/gro\u0308n.md"]
    for key in ("books/a.md", "books/gr\u00f6n.md", "books/z&<+ %41.md", *odd):
        s3.put_object(Bucket=name, Key=key, Body=f"# {key!a}\n\nIt is called {key!a}.\n".encode())
    done = index(runner, tenant, f"s3://{name}/books")
    assert (done.put.put, done.put.refused) == (2, 3)
    shown = DocumentView(runner).of_tenant(tenant)
    indexed = {uri for uri, one in shown.items() if one.status == "indexed"}
    assert indexed == {f"{name}/books/a.md", f"{name}/books/z&<+ %41.md"}
    assert sorted(one.reason for one in shown.values() if one.status == "failed")[0].startswith("another one has the same name")
    assert index(runner, tenant, f"s3://{name}/books").put.unchanged == 5, "and is not announced again and again"
    for key in odd:
        s3.delete_object(Bucket=name, Key=key)
    after = index(runner, tenant, f"s3://{name}/books")
    assert (after.put.put, after.put.deleted) == (1, 2)


def test_a_bucket_that_is_not_there_is_named(runner: Runner, tenant: str) -> None:
    with pytest.raises((NotFound, Unavailable), match="none-such-bucket"):
        index(runner, tenant, "s3://none-such-bucket/books")
    with pytest.raises(WrongUsage, match="names no bucket"):
        index(runner, tenant, "s3:///books")


def written(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.md").write_text(f"The number is {number}.")


def test_many_deletions_at_once_are_held_back_until_they_are_accepted(runner: Runner, tenant: str, tmp_path: Path) -> None:
    """As a listing that is cut off, or a mount that shows half of its files, would delete them."""
    docs = tmp_path / "docs"
    written(docs, *range(40))
    assert index(runner, tenant, docs).put.put == 40
    for number in range(3):
        (docs / f"{number}.md").unlink()
    assert index(runner, tenant, docs).put.deleted == 3, "few are what they seem"
    for number in range(3, 15):
        (docs / f"{number}.md").unlink()
    held = index(runner, tenant, docs).put
    assert (held.deleted, held.held_back, held.known) == (0, 12, 37)
    again = index(runner, tenant, docs).put
    assert (again.deleted, again.held_back) == (0, 12), "and it is said each time"
    written(docs, *range(3, 15))
    assert index(runner, tenant, docs).put == held.__class__(put=0, unchanged=37, refused=0, known=37), (
        "the listing was whole again"
    )
    for number in range(15, 30):
        (docs / f"{number}.md").rename(docs / f"renamed-{number}.md")
    renamed = index(runner, tenant, docs).put
    assert (renamed.put, renamed.deleted, renamed.held_back) == (15, 15, 0), "what has another name is not lost"
    for number in range(15, 30):
        (docs / f"renamed-{number}.md").unlink()
    accepted = index(runner, tenant, docs, accept_deletions=True).put
    assert (accepted.deleted, accepted.held_back) == (15, 0)


def test_a_file_that_has_not_changed_is_not_read_again_and_one_that_has_is(runner: Runner, tenant: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    written(docs, 1, 2)
    hashes = SourceHashes(Metadata(runner.endpoints), tenant)
    found = find_files([docs])
    (file, _), whole = found.files, found.whole
    assert not file.settled(file.stamp()), "a change within the same tick of the clock could not be told"
    index(runner, tenant, docs)
    assert hashes.known(whole) == {}
    until(10, lambda: file.settled(file.stamp()), lambda: file.stamp())
    assert index(runner, tenant, docs).put.unchanged == 2
    assert {uri for _, uri in hashes.known(whole)} == {"docs/1.md", "docs/2.md"}
    (docs / "1.md").write_text("The number is now another.")
    changed = index(runner, tenant, docs).put
    assert (changed.put, changed.unchanged) == (1, 1)
    (docs / "2.md").unlink()
    index(runner, tenant, docs)
    assert {uri for _, uri in hashes.known(whole)} == {"docs/1.md"}
    runner.run(drop_copies, subject=Subject(DOCUMENT, tenant, "docs/1.md"))
    assert hashes.known(whole) == {}, "a forgotten document's name is nowhere"


def test_stamps_tell_whatever_changes(runner: Runner, bucket: S3Store, tmp_path: Path) -> None:
    name = bucket.config["bucket"]
    docs = tmp_path / "docs"
    written(docs, 1)
    obstore.put(bucket, "a/1.md", b"one")
    buckets = runner.open(BucketReader, SOURCES, stage="test")

    def stamps() -> dict[str, str]:
        return find([docs, f"s3://{name}/a"], buckets.of).stamps()

    before = stamps()
    assert set(before) == {"docs/1.md", f"{name}/a/1.md"}
    assert stamps() == before
    obstore.put(bucket, "a/1.md", b"two")
    (docs / "new.md").write_text("The number is 1.")
    (docs / "new.md").replace(docs / "1.md")  # the same length, another inode
    after = stamps()
    assert all(after[uri] != stamp for uri, stamp in before.items())
    assert find_objects(f"s3://{name}/nothing", buckets.of)[0] == []


def test_where_headrace_keeps_its_data_is_no_source(runner: Runner, tenant: str, tmp_path: Path) -> None:
    written(tmp_path / "docs", 1)
    index(runner, tenant, tmp_path / "docs")
    of, to = runner.open(BucketReader, SOURCES, stage="test").of, runner.endpoints
    assert to.records is not None
    assert list(of(to.bucket).list(f"documents/{tenant}/")), "another tenant's document is there"
    own = (to.bucket, to.records.bucket, *(urlsplit(uri).netloc for uri in (to.vectors_uri, to.warehouse)))
    for name in own:
        for address in (name, f"{name}/documents/{tenant}", name.upper()):
            with pytest.raises(WrongUsage, match="the data of all tenants"):
                find([f"s3://{address}"], of)
    # A name that an HTTP client or the server would read as another's.
    for name in (
        f"{to.bucket}?x=1",
        f"{to.bucket}#x",
        f"%{ord(to.bucket[0]):x}{to.bucket[1:]}",
        "..",
        f"{to.bucket}\\x",
        f"{to.bucket}\n",
    ):
        with pytest.raises(WrongUsage, match="names no bucket"):
            find([f"s3://{name}"], of)


def test_beside_where_headrace_keeps_its_data_is_a_source(runner: Runner, bucket: S3Store, tmp_path: Path) -> None:
    name = bucket.config["bucket"]
    for key in ("vectors/a.lance/1.md", "vectors-of-sails/1.md", "docs/1.md", "1.md"):
        obstore.put(bucket, key, b"one")
    with recorded("index", tmp_path) as run:
        shared = Runner(run, runner.endpoints.model_copy(update={"vectors_uri": f"s3://{name}/vectors/"}))
        of = shared.open(BucketReader, SOURCES, stage="test").of
        assert set(find([f"s3://{name}"], of).stamps()) == {
            f"{name}/{key}" for key in ("vectors-of-sails/1.md", "docs/1.md", "1.md")
        }
        for prefix in ("vectors", "vectors/", "vectors/a.lance"):
            with pytest.raises(WrongUsage, match="the data of all tenants"):
                find([f"s3://{name}/{prefix}"], of)
        for prefix in ("docs/../vectors", "/vectors", "./vectors", "docs//vectors", "a\nb", "a\0b"):
            with pytest.raises(WrongUsage, match="names no prefix"):
                find([f"s3://{name}/{prefix}"], of)


def test_an_object_replaced_behind_its_listing_is_not_remembered_under_the_listed_etag(runner: Runner, bucket: S3Store) -> None:
    obstore.put(bucket, "a/1.md", b"one")
    [found], _ = find_objects(f"s3://{bucket.config['bucket']}/a", runner.open(BucketReader, SOURCES, stage="test").of)
    listed = found.stamp()
    obstore.put(bucket, "a/1.md", b"two")
    assert found.read(100) == b"two"
    assert found.stamp() != listed


def readers_in_index(runner: Runner, tenant: str, uri: str) -> list[set[str]]:
    """Who may read each passage of a document by what answers questions, whatever its events say.

    By a handle of its own: one that is open looks for a newer index once a second.
    """
    found = VectorReader(CHUNKS, runner.endpoints, Meter(Ledger(), "test")).indexed({document_id(tenant, uri)})
    return [set(labels) for labels in found["readers"].to_pylist()]


def open_to(runner: Runner, tenant: str, uri: str, *readers: str) -> None:
    """Its only passage is open to these, or to everybody."""
    assert readers_in_index(runner, tenant, uri) == [set(readers)]


def by_mode(folder: Path) -> list[SourceSettings]:
    return [SourceSettings(place=str(folder), permissions=PosixPermissions(type="posix", user="u{id}", group="g{id}"))]


ME, OURS = f"u{os.getuid()}", f"g{os.getgid()}"


def test_a_change_of_permissions_relabels_without_embedding_and_closes_at_once(
    runner: Runner, tenant: str, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    written(docs, 1, 2)
    for path in (docs, docs / "1.md", docs / "2.md"):
        path.chmod(0o755)
    rules = by_mode(docs)
    assert index(runner, tenant, docs, rules=rules).put.put == 2
    open_to(runner, tenant, "docs/1.md")  # everybody

    (docs / "1.md").chmod(0o600)
    done, _ = put_documents(runner, [docs], tenant=tenant, settings=SETTINGS, rules=rules)
    assert (done.put, done.unchanged) == (1, 1)
    open_to(runner, tenant, "docs/1.md", ME)  # though its event has not even landed
    open_to(runner, tenant, "docs/2.md")
    after = index(runner, tenant, docs, rules=rules)
    assert (after.embedded.chunks, after.put.put) == (0, 0)
    open_to(runner, tenant, "docs/1.md", ME)

    docs.chmod(0o750)
    folder = index(runner, tenant, docs, rules=rules)
    assert (folder.put.put, folder.embedded.chunks) == (1, 0)
    open_to(runner, tenant, "docs/2.md", ME, OURS)
    docs.chmod(0o755)
    (docs / "1.md").chmod(0o644)
    opened = index(runner, tenant, docs, rules=rules)
    assert (opened.put.put, opened.embedded.chunks, opened.embedded.relabelled) == (2, 0, 2)
    assert [readers_in_index(runner, tenant, f"docs/{n}.md") for n in (1, 2)] == [[set()], [set()]]

    (docs / "1.md").chmod(0o600)
    index(runner, tenant, docs)
    open_to(runner, tenant, "docs/1.md")  # where permissions do not count


def test_a_document_with_other_readers_is_neither_read_nor_parsed_again(runner: Runner, tenant: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    written(docs, 1, 2)
    for path in (docs, docs / "1.md", docs / "2.md"):
        path.chmod(0o755)
    rules = by_mode(docs)

    stores = ("parse", DOCUMENTS.name, DOCUMENTS.tier)

    def sources_read() -> int:
        return sum(row.ops for row in runner.record.ledger.rows() if (row.stage, row.store, row.tier) == stores)

    def rows() -> list[dict[str, Any]]:
        """Of the first document, in their order."""
        table = runner.open(TableReader, DOCUMENT_ROWS, stage="test")
        found = table.read(where=f"document_id = '{document_id(tenant, 'docs/1.md')}'")
        return list(found.sort_by(ROWS_IN_ORDER).to_pylist())

    assert index(runner, tenant, docs, rules=rules).parsed.parsed == 2
    text, read = rows()[0]["text"], sources_read()
    assert text
    for mode, readers in ((0o600, [ME]), (0o640, [OURS, ME]), (0o644, [])):
        (docs / "1.md").chmod(mode)
        done = index(runner, tenant, docs, rules=rules)
        assert (done.put.put, done.parsed.parsed, done.parsed.relabelled, done.embedded.chunks) == (1, 0, 1, 0)
        open_to(runner, tenant, "docs/1.md", *readers)
    assert sources_read() == read
    first, *others = rows()
    assert [(row["status"], row["text"], row["text_at"]) for row in others] == [("parsed", "", event_address(first))] * 3
    assert {(row["title"], row["media"], row["version"]) for row in (first, *others)} == {
        (first["title"], first["media"], first["version"])
    }

    # Whoever needs the text of such a row has it: an index with other chunks, and one that is made from the row itself.
    table = runner.open(TableReader, DOCUMENT_ROWS, stage="test")
    unsplit = UnsplitVersions(table, table.state(), ProcessedOffsets(None), None, every=True)
    assert unsplit.take(others[-1])["text"] == text
    assert runner.run(chunk, window=40, generation=71).documents >= 2
    chunks = runner.open(TableReader, CHUNK_ROWS, stage="test").read(("uri", "text"), f"tenant = '{tenant}' AND generation = 71")
    assert sorted(chunks["uri"].to_pylist()) == ["docs/1.md", "docs/2.md"]
    assert all(chunks["text"].to_pylist())

    (docs / "1.md").write_text("# Other\n\nIt is of another make.")
    assert index(runner, tenant, docs, rules=rules).parsed.parsed == 1
    assert (sources_read(), rows()[-1]["text_at"]) == (read + 1, None)


def test_changes_of_permissions_count_in_their_order_though_the_table_is_behind(
    runner: Runner, tenant: str, tmp_path: Path
) -> None:
    """Each is announced although the table, which has none of them yet, says the same as the one before."""
    docs = tmp_path / "docs"
    written(docs, 1)
    file, rules = docs / "1.md", by_mode(docs)
    docs.chmod(0o755)
    file.chmod(0o644)
    looking = follower(runner, docs, rules=rules)

    def follow(mode: int | None = None) -> SourceChanges:
        if mode is not None:
            file.chmod(mode)
        changes = looking.changed()
        assert changes is not None
        done, _ = put_documents(runner, [docs], tenant=tenant, settings=SETTINGS, rules=rules, changes=changes)
        assert done.put == 1
        looking.followed(changes)
        return changes

    follow()
    index(runner, tenant)
    open_to(runner, tenant, "docs/1.md")
    closed = follow(0o600)
    assert closed.relabelled == {"docs/1.md"}
    open_to(runner, tenant, "docs/1.md", ME)  # before its event has landed
    follow(0o644)
    follow(0o600)
    index(runner, tenant)
    open_to(runner, tenant, "docs/1.md", ME)
    follow(0o644)
    follow(0o600)
    follow(0o644)
    index(runner, tenant)
    open_to(runner, tenant, "docs/1.md")


def test_what_is_in_a_folder_that_may_not_be_listed_any_more_is_closed_and_kept(tmp_path: Path) -> None:
    """A folder that its owner closed looks like one whose files are gone."""

    def of(empty: Path) -> tuple[SourceListing, SourceListing]:
        written(empty / "open", 1)
        written(empty / "hr", 2)
        before = find([empty], nothing, by_mode(empty))
        (empty / "hr").chmod(0)
        return before, find([empty], nothing, by_mode(empty))

    def nothing(bucket: str, at: S3Location | None = None) -> BucketReader:
        raise AssertionError(bucket)

    def check(empty: Path) -> None:
        before, after = of(empty)
        assert before.whole == after.sources
        assert (after.whole, list(after.closed)) == (frozenset(), [f"{empty.name}/hr"])

    as_another_user(check)


def test_documents_of_a_closed_folder_are_closed_in_the_index(
    runner: Runner, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test runs as root, the folder is refused by the system call."""
    docs = tmp_path / "docs"
    written(docs, 1)
    written(docs / "hr", 2, 3)
    rules = by_mode(docs)
    index(runner, tenant, docs, rules=rules)
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("/hr"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        put_documents(runner, [docs], tenant=tenant, settings=SETTINGS, rules=rules)
        open_to(runner, tenant, "docs/hr/2.md", NOBODY)
        closed = index(runner, tenant, docs, rules=rules)
        assert closed.put.deleted == 0
        open_to(runner, tenant, "docs/hr/2.md", NOBODY)  # and it is kept
        again = index(runner, tenant, docs, rules=rules)
        assert (again.put.refused, len(again.parsed.failed)) == (0, 0), "said once"
    back = index(runner, tenant, docs, rules=rules)
    assert back.embedded.chunks == 0
    assert readers_in_index(runner, tenant, "docs/hr/2.md") == readers_in_index(runner, tenant, "docs/1.md")


def test_tags_of_objects_are_readers(runner: Runner, tenant: str, bucket: S3Store) -> None:
    import boto3

    name, to = bucket.config["bucket"], runner.endpoints.s3
    keys = {"aws_access_key_id": to.access_key, "aws_secret_access_key": to.secret_key, "region_name": to.region}
    s3 = boto3.client("s3", endpoint_url=to.endpoint, **keys)
    odd = "b/pay & (köln)+~.md"
    for key in ("b/1.md", odd):
        obstore.put(bucket, key, f"The key is {key}.".encode())

    def tag(key: str, value: str) -> None:
        s3.put_object_tagging(Bucket=name, Key=key, Tagging={"TagSet": [{"Key": "readers", "Value": value}]})

    place = f"s3://{name}/b"
    rules = [SourceSettings(place=place, permissions=TagPermissions(type="tags"))]
    tag(odd, "hr boss")
    index(runner, tenant, place, rules=rules)
    open_to(runner, tenant, f"{name}/b/1.md", NOBODY)  # no tag, and no readers for such
    open_to(runner, tenant, f"{name}/{odd}", "hr", "boss")
    read = moved(runner)
    tag("b/1.md", "everybody")
    tag(odd, "boss")
    done = index(runner, tenant, place, rules=rules)
    assert (done.put.put, done.embedded.chunks, done.embedded.relabelled) == (2, 0, 1), "the closed one was relabelled at once"
    assert moved(runner) - read < 4_000, "tags and listings, not the objects"
    open_to(runner, tenant, f"{name}/b/1.md")
    open_to(runner, tenant, f"{name}/{odd}", "boss")


def test_a_bucket_at_another_endpoint_is_a_source(
    runner: Runner, tenant: str, bucket: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is the same server under another address, with its keys where the settings say they are."""
    to, name = runner.endpoints.s3, bucket.config["bucket"]
    obstore.put(bucket, "a/1.md", b"The first.")
    (tmp_path / "key").write_text(f"{to.secret_key}\n")
    monkeypatch.setenv("ARCHIVE_KEY", to.access_key)
    other = {"endpoint": to.endpoint.replace("127.0.0.1", "localhost"), "region": to.region}
    references = {"access_key": "env:ARCHIVE_KEY", "secret_key": f"file:{tmp_path / 'key'}"}
    place = f"s3://{name}/a"
    source = SourceSettings.model_validate({"place": place, "s3": {**other, **references}})
    assert index(runner, tenant, place, rules=[source]).put.put == 1
    (tmp_path / "key").write_text("another")
    with pytest.raises(Unavailable) as wrong:
        index(runner, tenant, place, rules=[source])
    assert "[sources.s3]" in str(wrong.value)
    (tmp_path / "key").unlink()
    with pytest.raises(BadSettings, match="cannot be read"):
        index(runner, tenant, place, rules=[source])


def test_notifications_say_which_objects_to_look_at(runner: Runner, tenant: str, bucket: S3Store) -> None:
    """The bucket is listed once: all else is asked for by key. Nothing is acknowledged, and what is lost a listing finds."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    name, topic = bucket.config["bucket"], f"events-{uuid.uuid4().hex[:8]}"
    kafka = {"bootstrap.servers": runner.endpoints.kafka_bootstrap}
    administrator = AdminClient(kafka)
    administrator.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = Producer(kafka)

    def sent(*records: bytes) -> None:
        for record in records:
            producer.produce(topic, record)
        assert producer.flush(20) == 0

    def notified(what: str, key: str) -> bytes:
        about = {"eventName": f"s3:{what}", "s3": {"bucket": {"name": name}, "object": {"key": quote_plus(key)}}}
        return json.dumps({"EventName": f"s3:{what}", "Key": f"{name}/{key}", "Records": [about]}).encode()

    place = f"s3://{name}/a"
    where = {"bootstrap": runner.endpoints.kafka_bootstrap, "topic": topic}
    source = SourceSettings.model_validate({"place": place, "notifications": where})
    buckets = runner.open(BucketReader, SOURCES, stage="notified")
    for key in ("a/1.md", "a/2.md", "b/1.md"):
        obstore.put(bucket, key, f"The key is {key}.".encode())
    looking = Follower([place], buckets.of, 0.1, [source], NotifiedBucket(source, buckets))
    try:
        first = looking.changed()
        assert first is not None
        index(runner, tenant, place, rules=[source], changes=first)
        looking.followed(first)
        assert looking.changed() is None

        obstore.put(bucket, "a/1.md", b"The first is another.")
        obstore.put(bucket, "a/n ew+.md", b"This is new.")
        obstore.delete(bucket, "a/2.md")
        obstore.put(bucket, "a/3.md", b"Nobody says that this is here.")
        sent(notified("ObjectCreated:Put", "a/1.md"), notified("ObjectCreated:Put", "b/1.md"), b'{"Event": "s3:TestEvent"}')
        sent(notified("ObjectCreated:Copy", "a/n ew+.md"), notified("ObjectRemoved:Delete", "a/2.md"))

        def all_seen() -> bool:
            nonlocal second
            second = looking.changed()
            return second is not None and second.gone == {f"{name}/a/2.md"} and len(second.changed or ()) == 2

        second: SourceChanges | None = None
        until(20, all_seen, lambda: second)
        assert second is not None
        assert second.changed == {f"{name}/a/1.md", f"{name}/a/n ew+.md"}
        put = index(runner, tenant, place, rules=[source], changes=second).put
        assert (put.put, put.deleted) == (2, 1)
        assert looking.changed() is not None, "until it is said that they are followed"
        looking.followed(second)
        assert looking.changed() is None

    finally:
        looking.close()

    # Of what is not understood, of a name that no object can have, and of very many, the bucket is listed.
    no_name = notified("ObjectCreated:Put", "a/N").replace(b"a%2FN", b"a/\\ud800")
    many = [notified("ObjectCreated:Put", f"a/none/{number}") for number in range(1_100)]
    for number, odd in enumerate(([b"not a notification"], [no_name], many), 4):
        looking = Follower([place], buckets.of, 0.1, [source], NotifiedBucket(source, buckets))
        try:
            begun = looking.changed()
            assert begun is not None
            looking.followed(begun)
            obstore.put(bucket, f"a/{number}.md", b"Nobody says that this is here.")
            sent(*odd)
            seen: list[SourceChanges] = []

            def listed(looking: Follower, seen: list[SourceChanges]) -> bool:
                seen += [found] if (found := looking.changed()) else []
                return bool(seen)

            until(30, partial(listed, looking, seen), lambda odd=odd: odd[:1])
            assert seen[0].changed == {f"{name}/a/{number}.md"}
        finally:
            looking.close()


def test_without_its_broker_a_bucket_is_listed_at_each_look(runner: Runner, bucket: S3Store) -> None:
    name = bucket.config["bucket"]
    place = f"s3://{name}"
    where = {"bootstrap": "127.0.0.1:1", "topic": "none"}
    source = SourceSettings.model_validate({"place": place, "notifications": where})
    buckets = runner.open(BucketReader, SOURCES, stage="notified")
    looking = Follower([place], buckets.of, 0.1, [source], NotifiedBucket(source, buckets))
    obstore.put(bucket, "1.md", b"one")
    first = looking.changed()
    assert first is not None
    assert "none cannot be read" in looking.trouble
    looking.followed(first)
    obstore.put(bucket, "2.md", b"two")
    second = looking.changed()
    assert second is not None
    assert second.changed == {f"{name}/2.md"}


def follower(runner: Runner, *places: str | Path, rules: Sequence[SourceSettings] = ()) -> Follower:
    return Follower(places, runner.open(BucketReader, SOURCES, stage="follow").of, 0.1, rules)


def test_a_followed_source_is_listed_once_and_only_what_changed_is_compared(runner: Runner, tenant: str, bucket: S3Store) -> None:
    name = bucket.config["bucket"]
    for number in range(30):
        obstore.put(bucket, f"a/{number:02}.md", f"The number is {number}.".encode())
    place = f"s3://{name}/a"
    looking = follower(runner, place)
    first = looking.changed()
    assert first is not None
    assert index(runner, tenant, place, changes=first).put.put == 30
    looking.followed(first)
    assert looking.changed() is None

    obstore.put(bucket, "a/00.md", b"The first is another.")
    obstore.put(bucket, "a/30.md", b"The last is new.")
    obstore.delete(bucket, "a/01.md")
    second = looking.changed()
    assert second is not None
    assert second.changed == {f"{name}/a/00.md", f"{name}/a/30.md"}
    assert second.gone == {f"{name}/a/01.md"}
    before = operations(runner, "put")
    done = index(runner, tenant, place, changes=second).put
    assert (done.put, done.unchanged, done.deleted) == (2, 28, 1)
    assert operations(runner, "put") - before == 2, "two objects were read, and nothing was listed"
    looking.followed(second)

    for number in range(2, 20):
        obstore.delete(bucket, f"a/{number:02}.md")
    third = looking.changed()
    assert third is not None
    held = index(runner, tenant, place, changes=third).put
    assert (held.deleted, held.held_back, held.known) == (0, 18, 30), "the guard knows how many there were"
    looking.followed(third, held=True)
    obstore.put(bucket, "a/31.md", b"Another.")
    fourth = looking.changed()
    assert fourth is not None
    assert fourth.changed is None, "what is held back is compared and said again"
    assert index(runner, tenant, place, changes=fourth, accept_deletions=True).put.deleted == 18


def operations(runner: Runner, stage: str) -> int:
    """Requests to the users' buckets by a stage so far."""
    return sum(row.ops for row in runner.record.ledger.rows() if (row.store, row.stage) == (SOURCES.name, stage))


def test_a_second_change_within_a_tick_of_the_clock_is_followed(
    runner: Runner, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its times, size and inode are those of the first, so that no listing tells them apart."""
    tick = "headrace.documents.sources.folder._TICK_NS"
    monkeypatch.setattr(tick, 3600 * 10**9)  # longer than a pass beside other load
    docs = tmp_path / "docs"
    written(docs, 1)
    looking = follower(runner, docs)
    first = looking.changed()
    assert first is not None
    index(runner, tenant, docs, changes=first)
    looking.followed(first)
    assert looking.changed() is None, "not yet"
    monkeypatch.setattr(tick, 0)
    again = looking.changed()
    assert again is not None
    assert again.changed in ({"docs/1.md"}, None)
    assert index(runner, tenant, docs, changes=again).put == Put(0, 1, 0, known=1)
    looking.followed(again)
    assert looking.changed() is None, "once is enough"


def test_a_document_that_changes_back_before_it_is_parsed_is_as_it_was(runner: Runner, tenant: str, tmp_path: Path) -> None:
    """The table had the first version still, so nothing was announced, and the second one stayed."""
    docs = tmp_path / "docs"
    written(docs, 1)
    index(runner, tenant, docs)
    for text in ("The number is 9.", "The number is 1."):
        (docs / "1.md").write_text(text)
        done, _ = put_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
        assert done.put == 1
    index(runner, tenant)
    rows = DocumentLookup(runner.metadata, runner.open(TableReader, DOCUMENT_ROWS, stage="test"))
    rows.follow()
    assert rows.of_uris(tenant, ["docs/1.md"])["docs/1.md"]["version"] == hashlib.sha256(b"The number is 1.").hexdigest()


def test_a_clock_that_was_set_forward_makes_no_document_too_old(runner: Runner, tenant: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    written(docs, 1, 2)
    index(runner, tenant, docs)
    clock, next_year_s = SteadyClock(tmp_path / "clock.json"), time.time() + 365 * 86_400
    retention = Retention(clock)

    def expired(now_s: float) -> int:
        return retention.expire(runner, lambda whose: 30 if whose == tenant else 0, now_s=now_s)

    assert expired(time.time()) == 0
    with pytest.raises(ClockSet):
        expired(next_year_s)
    assert len(DocumentView(runner).of_tenant(tenant)) == 2
    clock.note(next_year_s)
    assert expired(next_year_s) == 2


def test_documents_past_their_retention_are_deleted_and_stay_so_until_they_change(
    runner: Runner, tenant: str, tmp_path: Path
) -> None:
    docs, kept = tmp_path / "docs", tmp_path / "kept"
    written(docs, 1, 2)
    written(kept, 3)
    (file, _) = find_files([docs]).files
    until(10, lambda: file.settled(file.stamp()), lambda: file.stamp())
    index(runner, tenant, docs)
    index(runner, f"{tenant}k", kept)
    retention, day_s = Retention(), 86_400

    def expired(days_from_now: float) -> int:
        def days(whose: str) -> int:
            return 30 if whose == tenant else 0

        return retention.expire(runner, days, now_s=time.time() + days_from_now * day_s)

    assert expired(29) == 0
    index(runner, tenant, docs, readers=["hr"])
    assert expired(31) == 2, "other readers make it no younger"
    index(runner, tenant)
    assert expired(31) == 0
    view = DocumentView(runner)
    assert view.of_tenant(tenant) == {}
    assert list(view.of_tenant(f"{tenant}k")) == ["kept/3.md"], "another tenant's"
    sources = runner.open(ObjectReader, DOCUMENTS, stage="test")
    assert sources.info(object_key(tenant, hashlib.sha256(b"The number is 1.").hexdigest())) is None, "its source, too"
    again = index(runner, tenant, docs).put
    assert (again.put, again.unchanged) == (0, 2), "the files are as old as they were"
    (docs / "1.md").write_text("The number is another.")
    assert index(runner, tenant, docs).put.put == 1


def test_a_page_of_documents_is_listed_without_reading_the_others(runner: Runner, tenant: str, tmp_path: Path) -> None:
    (docs := tmp_path / "docs").mkdir()
    for name in ("a", "b", "c", "\u00e9", "z"):
        (docs / f"{name}.md").write_text(f"# {name}\n\nIt is called {name}.")
    (docs / "torn.pdf").write_bytes(b"%PDF-1.7 torn")
    index(runner, tenant, docs)
    (docs / "b.md").unlink()
    index(runner, tenant, docs)
    (docs / "c.md").write_text("# c\n\nIt has another text.")
    put_documents(runner, [docs], tenant=tenant, settings=SETTINGS)
    land_and_parse(runner, SETTINGS)  # parsed, and not in the index yet

    def every(_: Document) -> bool:
        return True

    whole, more = DocumentView(runner).list(tenant, every, after="", most=100)
    assert [(one.uri, one.status) for one in whole] == [
        ("docs/a.md", "indexed"),
        ("docs/c.md", "parsed"),
        ("docs/torn.pdf", "failed"),
        ("docs/z.md", "indexed"),
        ("docs/\u00e9.md", "indexed"),
    ]
    view, found, after = DocumentView(runner), [], ""
    for left in range(len(whole), 0, -1):
        page, more = view.page(tenant, every, after=after, most=1)
        assert more == (left > 1)
        found += page
        after = found[-1].uri
    assert found == whole
    assert view.page(tenant, every, after=after, most=1) == ([], False)
    assert view.page(tenant, after="", most=1, status="failed") == ([whole[2]], False)
    assert view.page(tenant, after="", most=9, status="indexed")[0] == [one for one in whole if one.status == "indexed"]
    assert view.page(tenant, after="", most=9, status="parsed") == ([whole[1]], False)
    assert [view.stored(tenant, one.uri) for one in whole] == whole
    assert view.stored(tenant, "docs/b.md") is view.stored(tenant, "docs/none.md") is None
    assert view.usage(tenant, look=False) == (0, 0), "it has read all documents"
    index(runner, tenant, docs)


def test_personal_data_is_found_when_documents_are_parsed(runner: Runner, tenant: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "ask.md").write_text("# Ask\n\nAsk ada@example.org or call +44 20 7946 0958 about the pump.")
    (docs / "card.md").write_text("# Card\n\nThe card is 4111 1111 1111 1111.")
    policy = SETTINGS.model_copy(update={"pii": PiiPolicy(email="mask", phone="warn", card="refuse")})
    done = index_documents(runner, [docs], tenant=tenant, settings=policy)
    assert dict(done.parsed.pii) == {"email": 1, "phone": 1}
    [one], [refused] = done.parsed.personal, done.parsed.failed
    assert (one.uri, one.reason) == ("docs/ask.md", "it holds 1 phone number; 1 e-mail address masked")
    assert (refused.uri, refused.reason) == ("docs/card.md", "it holds 1 card number, which this service does not take in")
    assert done.parsed.incomplete == ()
    shown = DocumentView(runner).of_tenant(tenant)
    assert {uri: document.reason for uri, document in shown.items()} == {one.uri: one.reason, refused.uri: refused.reason}
    vectors = runner.open(VectorReader, CHUNKS, stage="test")
    [text] = vectors.embeddings({document_id(tenant, "docs/ask.md")})["text"].to_pylist()
    assert "███@███████.███" in text
    assert "ada" not in text
    assert vectors.indexed({document_id(tenant, "docs/card.md")}).num_rows == 0


@pytest.mark.soak(minutes=0.5)
def test_follow_indexes_what_changes_until_ctrl_c(home: Home, tmp_path: Path) -> None:
    docs = tmp_path / "followed"
    written(docs, 1, 2)
    with words() as models:
        home.env.update(models.env)
        following = home.start("index", docs, "--follow", "--every", "0.2", "--reader", "hr", "--json")

        def told(number: int) -> dict[str, Any]:
            until(120, lambda: following.out.count("\n") > number, lambda: following.err, every_s=0.1)
            put: dict[str, Any] = json.loads(following.out.splitlines()[number])["put"]
            return put

        try:
            assert told(0)["put"] == 2
            (docs / "3.md").write_text("The third is new.")
            assert told(1)["put"] == 1
            twice = [docs / "gr\u00f6n.md", docs / "gro\u0308n.md"]
            for name in twice:
                name.write_text("One name, written in two ways.")
            assert (told(2)["refused"], told(2)["put"]) == (1, 0)
            for name in twice:
                name.unlink()
            (docs / "1.md").unlink()
            assert told(3)["deleted"] == 2
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=60)
        finally:
            following.kill()
        listed = home.json("documents", "list")["documents"]
        assert [one["uri"] for one in listed] == ["followed/2.md", "followed/3.md"]
        assert [one["readers"] for one in listed] == [["hr"], ["hr"]], "also of the one that came later"


@needs_git
def test_a_git_repository_is_indexed_and_followed(runner: Runner, tenant: str, tmp_path: Path) -> None:
    """Additions, changes, renames and deletions of a commit; many deletions at once are held back."""
    repository = GitRepository(tmp_path / "handbook")
    repository.commit(**{f"docs/{number}.md": f"The number is {number}." for number in range(20)})
    first = index(runner, tenant, repository.place, readers=["hydro"])
    assert (first.put.put, first.put.refused) == (20, 0)
    before = moved(runner)
    again = index(runner, tenant, repository.place)
    assert (again.put.put, again.put.unchanged) == (0, 20)
    assert moved(runner) - before < 500, "a commit that is there is neither fetched nor read again"
    repository.git("mv", "docs/1.md", "docs/one.md")
    repository.commit(**{"docs/2.md": "The number has changed.", "docs/3.md": None, "new.md": "A new number."})
    changed = index(runner, tenant, repository.place)
    assert (changed.put.put, changed.put.unchanged, changed.put.deleted) == (3, 17, 2)
    open_to(runner, tenant, "handbook/docs/one.md", "hydro")  # a renamed one keeps its readers
    assert readers_in_index(runner, tenant, "handbook/docs/1.md") == []
    repository.commit(**{f"docs/{number}.md": None for number in range(4, 16)})
    held = index(runner, tenant, repository.place).put
    assert (held.deleted, held.held_back) == (0, 12)
    repository.git("rm", "-rq", ".")
    repository.git("commit", "-qm", "nothing is left")
    assert index(runner, tenant, repository.place, accept_deletions=True).put.deleted == 0, "an empty commit deletes nothing"
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    accepted = index(runner, tenant, repository.place, accept_deletions=True).put
    assert (accepted.deleted, accepted.held_back) == (12, 0)


@needs_git
def test_what_follows_a_repository_loses_no_commit_when_it_fails(runner: Runner, tenant: str, tmp_path: Path) -> None:
    """Its place is not a commit that was seen, but what is in the index: one that was seen and not put is put the next time."""
    repository = GitRepository(tmp_path / "handbook")
    repository.commit(**{"pump.md": "The pump."})
    buckets = runner.open(BucketReader, SOURCES, stage="follow")

    def follower() -> Follower:
        return Follower([repository.place], buckets.of, 0.0, repositories=Repositories(buckets))

    following = follower()
    changes = following.changed()
    assert changes is not None
    assert index(runner, tenant, repository.place, changes=changes).put.put == 1
    following.followed(changes)
    repository.commit(**{"weir.md": "The weir."})
    assert following.changed() is not None  # and whoever looked was killed
    following.close()
    following = follower()
    changes = following.changed()
    assert changes is not None
    assert index(runner, tenant, repository.place, changes=changes).put.put == 1
    following.followed(changes)
    assert following.changed() is None
    following.close()
    assert readers_in_index(runner, tenant, "handbook/weir.md") == [set()]
