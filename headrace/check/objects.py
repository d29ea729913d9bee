"""Promises of an S3 endpoint, tested under a prefix of the check's own."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as faults
from obstore.store import S3Store

from headrace.catalog import Tier
from headrace.check.peer import PeerProcess, begin_at, wait_until
from headrace.check.promise import AMPLE_S, Broken, Measured, NotNeeded, Promise, Promises, TimeBudget, latency, promise
from headrace.errors import Unavailable
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.objects import bucket_at, connect
from headrace.storage.reason import reason

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta

_SMALL_BYTES = 4 << 10
_LARGE_BYTES = 64 << 20
_PARTS_BYTES = 12 << 20  # more than two of S3's smallest parts
_RACERS = 4
_CLIENTS = 8
_LISTED = 1100  # more than one page
_MOST_LISTED = 20_000
_PIECE_BYTES = 8 << 20
_MOST_BYTES = 2 * _LARGE_BYTES
_ANSWER_S = 60.0
_MISSING = (faults.NotFoundError, FileNotFoundError)
_REJECTED = (faults.AlreadyExistsError, faults.PreconditionError)


class ObjectsSandbox:
    """A temporary prefix of the bucket, used by two clients with separate connections: one must see what the other writes."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.prefix = f"headrace-check-{secrets.token_hex(6)}"
        where = (endpoints.s3_endpoint, endpoints.s3_access_key, endpoints.s3_secret_key, endpoints.s3_region, endpoints.bucket)
        self.writer, self.reader = bucket_at(*where), bucket_at(*where)
        self._keys: set[str] = set()

    def key(self, name: str) -> str:
        """A key in this sandbox; its object is deleted at the end."""
        key = f"{self.prefix}/{name}"
        self._keys.add(key)
        return key

    def clear(self) -> None:
        """Delete everything in the sandbox, including objects that a listing does not show."""
        with suppress(faults.BaseError, OSError, Broken):
            for path in listed_keys(self.writer, self.prefix):
                if path.startswith(f"{self.prefix}/"):  # a store that does not know prefixes lists what belongs to others
                    self._keys.add(path)

        with ThreadPoolExecutor(_CLIENTS) as threads:
            left = [key for key, gone in zip(self._keys, threads.map(self._delete, self._keys), strict=True) if not gone]
        if left:
            raise Unavailable(
                f"{len(left)} objects of the check could not be deleted from bucket {self.endpoints.bucket}.",
                hint=f"Delete the prefix {self.prefix}/ by hand.",
            )

    def _delete(self, key: str) -> bool:
        try:
            obstore.delete(self.writer, key)
        except _MISSING:
            return True
        except (faults.BaseError, OSError):
            return False
        return True


@promise(
    "answers with the configured keys",
    loses="everything: no document, checkpoint or model could be stored",
)
def answers(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    key = sandbox.key("answers")
    began = time.perf_counter()
    obstore.put(sandbox.writer, key, b"here")
    data_read = _get(sandbox.reader, key)
    if data_read != b"here":
        raise Broken(f"4 bytes were put, but {data_read!r} came back")
    return Measured(f"first put and get {(time.perf_counter() - began) * 1e3:.0f} ms")


@promise(
    "a read returns what was last written",
    loses="a round would train on the previous dataset, and a promoted model would not be served",
)
def read_after_write(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    rounds = 0
    for rounds in budget.rounds(5, 100):
        key = sandbox.key(f"read-after-write/{rounds}")
        # Read before it exists: some stores cache its absence.
        if (early := _get(sandbox.reader, key)) is not None:
            raise Broken(f"an object that was never put was returned with {len(early)} bytes")
        for state in (f"first {rounds}".encode(), f"second, and longer {rounds}".encode()):
            obstore.put(sandbox.writer, key, state)
            if (stored := _get(sandbox.reader, key)) != state:
                raise Broken(f"put {state!r}, then got {_shown(stored)}")
            if (size := obstore.head(sandbox.reader, key)["size"]) != len(state):
                raise Broken(f"put {len(state)} bytes, but head reported {size}")
        obstore.delete(sandbox.writer, key)
        if (stored := _get(sandbox.reader, key)) is not None:
            raise Broken(f"a deleted object was returned with {_shown(stored)}")
    return Measured(f"{rounds + 1} × new, overwritten, deleted", rounds=rounds + 1)


@promise(
    "a listing is up to date after puts and deletes",
    loses="new documents would not be parsed, and `headrace models` would miss the newest version",
)
def list_after_write(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    folder = f"{sandbox.prefix}/listed"
    expected: dict[str, int] = {}
    rounds = 0
    for rounds in budget.rounds(5, 100):
        key = sandbox.key(f"listed/{rounds}")
        for size in (10, 20):
            obstore.put(sandbox.writer, key, b"x" * size)
            expected[key] = size
            _require_listed(sandbox.reader, folder, expected, f"an object of {size} bytes was put")
        if rounds % 2:
            obstore.delete(sandbox.writer, key)
            del expected[key]
            _require_listed(sandbox.reader, folder, expected, "an object was deleted")
    return Measured(f"{rounds + 1} × put, overwritten, listed", rounds=rounds + 1)


@promise(
    "a long listing is complete and in order",
    loses="documents, versions, checkpoints or KV blocks after the first page would be missed",
)
def long_listing(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    count = _LISTED if budget.seconds >= AMPLE_S else 64
    keys = sorted(sandbox.key(f"long/{number % 7}/{number:05d}") for number in range(count))
    with ThreadPoolExecutor(_CLIENTS) as threads:
        list(threads.map(lambda key: obstore.put(sandbox.writer, key, b"1"), keys))
    began = time.perf_counter()
    listed = list(listed_keys(sandbox.reader, f"{sandbox.prefix}/long"))
    took = time.perf_counter() - began
    if listed != keys:
        lost = len(set(keys) - set(listed))
        raise Broken(
            f"{lost} of {count} objects were not listed" if lost else f"{count} objects were listed out of order or twice"
        )
    middle = keys[count // 2]
    if [meta["path"] for page in obstore.list(sandbox.reader, f"{sandbox.prefix}/long", offset=middle) for meta in page] != [
        key for key in keys if key > middle
    ]:
        raise Broken("a listing that goes on behind a key (start-after) left objects out or repeated them")
    return Measured(f"{count:,} objects in {took * 1e3:.0f} ms", objects=count, list_ms=took * 1e3)


@promise(
    "If-None-Match: of concurrent puts, exactly one succeeds",
    loses="two trainers could publish the same round, and one round's data would be lost",
)
def put_if_absent(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    rounds, longest = 0, 0.0
    with ThreadPoolExecutor(_RACERS) as threads:
        for rounds in budget.rounds(4, 60):
            began = time.perf_counter()
            key = sandbox.key(f"if-none-match/{rounds}")
            start = threading.Barrier(_RACERS)

            def race(number: int, key: str = key, start: threading.Barrier = start) -> bytes | None:
                data = f"racer {number}".encode()
                start.wait(_ANSWER_S)
                return data if _put_if(sandbox.writer, key, data, "create") else None

            winners = [data for data in threads.map(race, range(_RACERS)) if data is not None]
            longest = max(longest, time.perf_counter() - began)
            if len(winners) != 1:
                raise Broken(f"{len(winners)} of {_RACERS} concurrent puts succeeded, in round {rounds + 1}")
            if (stored := _get(sandbox.reader, key)) != winners[0]:
                raise Broken(f"the put of {winners[0]!r} succeeded, but the object holds {_shown(stored)}")
    return Measured(
        f"{rounds + 1} races of {_RACERS}, the longest {longest * 1e3:.0f} ms", races=rounds + 1, longest_ms=longest * 1e3
    )


@promise(
    "If-Match: no concurrent update is lost",
    loses="promotions and rollbacks could be lost: the served model would differ from its history",
)
def put_if_match(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    key = sandbox.key("if-match")
    obstore.put(sandbox.writer, key, b"0")
    steps = 10 if budget.seconds < AMPLE_S else 25
    with PeerProcess() as second, ThreadPoolExecutor(3) as threads:
        begin = begin_at(second, "objects")
        theirs = second.ask(
            "objects.count_up",
            endpoints=sandbox.endpoints.model_dump(mode="json"),
            key=key,
            steps=steps,
            who="second",
            begin=begin,
        )
        ours = [threads.submit(_count_up, sandbox.writer, key, steps, f"thread {number}", begin) for number in range(3)]
        results = [each.result() for each in ours] + [theirs.get(_ANSWER_S)]
    done, rejected = sum(each[0] for each in results), sum(each[1] for each in results)
    stored = int((_get(sandbox.reader, key) or b"-1").split()[0])
    if stored != done:
        raise Broken(f"{done} increments were acknowledged, but the counter is {stored}")
    if not _rejects_stale(sandbox, key):
        raise Broken("a put with an outdated etag was accepted")
    return Measured(f"{done} increments by 2 processes, {rejected} rejected and retried", increments=done, rejected=rejected)


def _rejects_stale(sandbox: ObjectsSandbox, key: str) -> bool:
    """Whether a put with the object's previous etag is rejected."""
    old = obstore.head(sandbox.writer, key)["e_tag"]
    obstore.put(sandbox.writer, key, secrets.token_bytes(8))
    return not _put_if(sandbox.writer, key, b"stale", {"e_tag": old})


def count_up(endpoints: dict[str, Any], key: str, steps: int, who: str, begin: float) -> tuple[int, int]:
    """In a second process: `_count_up` with its own client."""
    return _count_up(connect(Endpoints.model_validate(endpoints)), key, steps, who, begin)


@promise(
    "a multipart upload is atomic",
    loses="a round could resume from half a checkpoint after its writer was killed",
)
def multipart(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    data = os.urandom(_PARTS_BYTES)
    key, abandoned = sandbox.key("parts"), sandbox.key("abandoned")
    for name in (key, abandoned):
        with suppress(_Abandoned), obstore.open_writer(sandbox.writer, name, buffer_size=5 << 20, max_concurrency=2) as upload:
            for start in range(0, len(data), 1 << 20):
                upload.write(data[start : start + (1 << 20)])
            upload.flush()
            if _get(sandbox.reader, name) is not None or name in listed_keys(sandbox.reader, sandbox.prefix):
                raise Broken("the object existed before its upload was completed")
            if name == abandoned:
                raise _Abandoned
    if _get(sandbox.reader, abandoned) is not None or abandoned in listed_keys(sandbox.reader, sandbox.prefix):
        raise Broken("an aborted upload left an object behind")
    if (stored := _get(sandbox.reader, key)) != data:
        raise Broken(f"an object of {len(data):,} bytes put in 3 parts came back {_different(stored, data)}")
    return Measured(f"{len(data) / 2**20:.0f} MiB in parts, hidden until completed", object_bytes=len(data))


@promise(
    "an etag identifies an object's contents",
    loses="the champion pointer could not be moved by compare-and-swap",
)
def etags(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    key, folder = sandbox.key("etag/one"), f"{sandbox.prefix}/etag"
    seen: list[str] = []
    for data, parts in ((b"one", False), (b"two", False), (os.urandom(_PARTS_BYTES), True), (b"four", False)):
        etag_of_put = obstore.put(sandbox.writer, key, data, use_multipart=parts, chunk_size=5 << 20)["e_tag"] or ""
        head = obstore.head(sandbox.reader, key)["e_tag"] or ""
        got = obstore.get(sandbox.reader, key).meta["e_tag"] or ""
        listed = next((meta["e_tag"] or "" for page in obstore.list(sandbox.reader, prefix=folder) for meta in page), "")
        if not etag_of_put or len({_bare(etag) for etag in (etag_of_put, head, got, listed)}) != 1:
            raise Broken(
                f"put returned {etag_of_put or 'none'}, head {head or 'none'}, get {got or 'none'}, a listing {listed or 'none'}"
            )
        if etag_of_put in seen:
            raise Broken(f"different contents had the same etag {etag_of_put}")
        seen.append(etag_of_put)
        if not _put_if(sandbox.writer, key, data, {"e_tag": head}):
            raise Broken(f"a put with the object's current etag {head} was rejected")
    return Measured(f"{len(seen)} contents, one of them in parts")


@promise(
    "a range returns exactly the requested bytes",
    loses="Parquet footers and index pages: tables and the vector index would be unreadable",
)
def ranges(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    size = (1 << 20) + 7
    data, key = os.urandom(size), sandbox.key("ranges")
    obstore.put(sandbox.writer, key, data)
    dice = random.Random(17)
    cases: list[tuple[Any, bytes]] = [
        ((0, 1), data[:1]),
        ((size - 1, size), data[-1:]),
        ((0, size), data),
        ((65_535, 65_537), data[65_535:65_537]),
        ({"offset": size - 8}, data[-8:]),
        ({"offset": 0}, data),
        ({"suffix": 1}, data[-1:]),
        ({"suffix": 65_536}, data[-65_536:]),
    ]
    seconds = []
    for number in budget.rounds(24, 400):
        if number < len(cases):
            wanted, expected = cases[number]
        else:
            start = dice.randrange(size)
            wanted = (start, min(size, start + dice.randrange(1, 200_000)))
            expected = data[wanted[0] : wanted[1]]
        began = time.perf_counter()
        part = _whole(obstore.get(sandbox.reader, key, options={"range": wanted}))
        seconds.append(time.perf_counter() - began)
        if part != expected:
            raise Broken(f"range {wanted} of {size:,} bytes came back {_different(part, expected)}")
    several = obstore.get_ranges(sandbox.reader, key, starts=[5, 500_000, 1_000_000], lengths=[10, 20, 30])
    if [bytes(piece) for piece in several] != [data[at : at + n] for at, n in ((5, 10), (500_000, 20), (1_000_000, 30))]:
        raise Broken("a request for three ranges returned different bytes")
    words, figures = latency("range", seconds)
    return Measured(f"{len(seconds)} ranges, {words}", ranges=len(seconds), **figures)


@promise(
    "keys are stored unchanged",
    loses="tables, index and documents could not use their object names",
)
def keys(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    # Keys as written by Headrace, Iceberg and Lance, up to S3's limit of 1,024 bytes; a file system behind it may limit names
    # between slashes to 255.
    needed = ["a-b_c.parquet", "day=2026-01-01/00000-0-a1b2.avro", "_versions/18446744073709551614.manifest", "~x", "a" * 255]
    needed.append("/".join(["n" * 200] * 4))
    _require_kept(sandbox, needed, Broken)
    further = ["with space", "ü/é/漢字", "plus+&", "per%25cent", "colon:semi;", "(round)'!*@$,", "hash#?query"]
    measured = Measured(
        f"{len(needed)} kinds, up to 255 bytes between slashes and {len(sandbox.key('keys/' + needed[-1]))} in all"
    )
    _require_kept(sandbox, further, lambda seen: NotNeeded(f"{seen}; Headrace itself uses no such keys", measured))
    return measured


@promise(
    "small objects come back unchanged",
    loses="manifests and pointers would be corrupt",
)
def small(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    puts, gets = [], []
    for number in budget.rounds(20, 500):
        data, key = os.urandom(_SMALL_BYTES), sandbox.key(f"small/{number % 50}")
        began = time.perf_counter()
        obstore.put(sandbox.writer, key, data)
        put = time.perf_counter()
        stored = _get(sandbox.reader, key)
        gets.append(time.perf_counter() - put)
        puts.append(put - began)
        if stored != data:
            raise Broken(f"an object of {len(data):,} bytes came back {_different(stored, data)}")
    put_words, put_figures = latency("put", puts)
    get_words, get_figures = latency("get", gets)
    return Measured(f"4 KiB: {put_words}; {get_words}", **put_figures, **get_figures)


@promise(
    "large objects come back unchanged",
    loses="checkpoints and weights would be corrupt",
)
def large(sandbox: ObjectsSandbox, budget: TimeBudget) -> Measured:
    size = _LARGE_BYTES if budget.seconds >= AMPLE_S else _PARTS_BYTES
    data, key = os.urandom(size), sandbox.key("large")
    wanted = hashlib.sha256(data).hexdigest()
    began = time.perf_counter()
    obstore.put(sandbox.writer, key, data, use_multipart=True, chunk_size=8 << 20)
    put = time.perf_counter()
    stored = _whole(obstore.get(sandbox.reader, key))
    got = time.perf_counter()
    if hashlib.sha256(stored).hexdigest() != wanted:
        raise Broken(f"an object of {size:,} bytes came back {_different(stored, data)}")
    put_rate, get_rate = size / 2**20 / (put - began), size / 2**20 / (got - put)
    return Measured(
        f"{size >> 20} MiB: put {put_rate:.0f} MiB/s, get {get_rate:.0f} MiB/s",
        put_mib_per_s=put_rate,
        get_mib_per_s=get_rate,
    )


class _Abandoned(Exception):
    """Raised inside an upload to simulate a writer that fails midway."""


def _get(client: S3Store, key: str) -> bytes | None:
    try:
        return _whole(obstore.get(client, key))
    except _MISSING:
        return None


def _put_if(client: S3Store, key: str, data: bytes, mode: Any) -> bool:
    """Whether a conditional put succeeded; one whose answer was lost is recognised by the object's contents."""
    try:
        obstore.put(client, key, data, mode=mode, use_multipart=False)
    except _REJECTED:
        return _get(client, key) == data
    return True


def _count_up(client: S3Store, key: str, steps: int, who: str, begin: float) -> tuple[int, int]:
    """Increment a counter `steps` times by compare-and-swap; returns the numbers acknowledged and rejected."""
    wait_until(begin)
    done = rejected = 0
    end = time.monotonic() + _ANSWER_S / 2
    while done < steps and time.monotonic() < end:
        stored = obstore.get(client, key)
        value = int(_whole(stored).split()[0])
        if _put_if(client, key, f"{value + 1} {who} {done}".encode(), {"e_tag": stored.meta["e_tag"]}):
            done += 1
        else:
            rejected += 1
    return done, rejected


def _whole(answer: GetResult) -> bytes:
    """The body of a response. Raises `Broken` where it does not end: it would fill the memory."""
    pieces, size = [], 0
    for piece in answer.stream(min_chunk_size=_PIECE_BYTES):
        pieces.append(bytes(piece))
        size += len(pieces[-1])
        if size > _MOST_BYTES:
            raise Broken(f"an object came back with more than {_MOST_BYTES >> 20} MiB, which nobody put")
    return b"".join(pieces)


def _metas(client: S3Store, prefix: str) -> Iterator[ObjectMeta]:
    """What a listing shows. Raises `Broken` where it does not end."""
    count = 0
    for page in obstore.list(client, prefix=prefix):
        count += len(page)
        if count > _MOST_LISTED:
            raise Broken(f"a listing showed more than {_MOST_LISTED:,} objects, which nobody put")
        yield from page


def listed_keys(client: S3Store, prefix: str) -> Iterator[str]:
    """The keys that a listing shows. Raises `Broken` where it does not end."""
    return (meta["path"] for meta in _metas(client, prefix))


def _require_listed(client: S3Store, folder: str, expected: dict[str, int], after: str) -> None:
    sizes = {meta["path"]: meta["size"] for meta in _metas(client, folder)}
    if sizes != expected:
        lost, more = len(expected.keys() - sizes.keys()), len(sizes.keys() - expected.keys())
        raise Broken(
            f"after {after}, a listing missed {lost} objects"
            if lost
            else f"after {after}, a listing showed {more} deleted objects"
            if more
            else f"after {after}, a listing showed an old size"
        )


def _require_kept(sandbox: ObjectsSandbox, names: Sequence[str], complaint: Callable[[str], Exception]) -> None:
    written = {sandbox.key(f"keys/{name}"): name for name in names}
    for key, name in written.items():
        try:
            obstore.put(sandbox.writer, key, name.encode())
            stored = _get(sandbox.reader, key)
        except FAULTS as error:
            raise complaint(f"a key with {name[:40]!r} was rejected: {reason(error)}") from None
        if stored != name.encode():
            raise complaint(f"the object put as {name[:40]!r} came back as {_shown(stored)}")
    if missing := set(written) - set(listed_keys(sandbox.reader, f"{sandbox.prefix}/keys")):
        raise complaint(f"{written[min(missing)][:40]!r} is not listed under its name")


def _shown(data: bytes | None) -> str:
    return "nothing" if data is None else repr(data[:40])


def _different(stored: bytes | None, expected: bytes) -> str:
    if stored is None:
        return "not at all"
    if len(stored) != len(expected):
        return f"with {len(stored):,} bytes instead of {len(expected):,}"
    return f"with different bytes from {next(i for i, (a, b) in enumerate(zip(stored, expected, strict=True)) if a != b):,} on"


def _bare(etag: str) -> str:
    return etag.strip('"')


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[ObjectsSandbox]:
    """A sandbox in the object tier's bucket, for a block."""
    sandbox = ObjectsSandbox(endpoints)
    try:
        yield sandbox
    finally:
        sandbox.clear()


FAULTS: tuple[type[Exception], ...] = (faults.BaseError, OSError, Unavailable)
PROMISES: Sequence[Promise[ObjectsSandbox]] = (
    answers,
    read_after_write,
    list_after_write,
    long_listing,
    put_if_absent,
    put_if_match,
    multipart,
    etags,
    ranges,
    keys,
    small,
    large,
)
SUBJECT = Promises(Tier.OBJECT, PROMISES, FAULTS, opened)
