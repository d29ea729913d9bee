"""Sources in step: folders and buckets followed with their deletions, and the guard against an incomplete listing."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.store import S3Store
from servers import serving
from traffic import until
from words import words

from headrace.catalog import SOURCES
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.index import Indexed, index_documents
from headrace.documents.sources.bucket import find_objects
from headrace.documents.sources.folder import find_files
from headrace.documents.sources.hashes import SourceHashes
from headrace.documents.sources.listing import find
from headrace.errors import NotFound, Unavailable, WrongUsage
from headrace.lineage.forget import Subject
from headrace.lineage.forget.index import drop_copies
from headrace.lineage.forget.subject import DOCUMENT
from headrace.platform.address import brought, overlay
from headrace.settings import Settings
from headrace.storage.metadata import Metadata
from headrace.storage.objects import BucketReader, bucket_at

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
    (file, _), whole = find_files([docs])
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
            until(30, lambda: "would both be called" in following.err, lambda: following.err, every_s=0.1)
            for name in twice:
                name.unlink()
            (docs / "1.md").unlink()
            assert told(2)["deleted"] == 1
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=60)
        finally:
            following.kill()
        listed = home.json("documents", "list")["documents"]
        assert [one["uri"] for one in listed] == ["followed/2.md", "followed/3.md"]
        assert [one["readers"] for one in listed] == [["hr"], ["hr"]], "also of the one that came later"
