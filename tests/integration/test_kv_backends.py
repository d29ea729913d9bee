"""The KV cache's backends on real storage: objects, memory in front of them, and a network file system that is mounted."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kv_contract import CONTRACT, SHAPE, cache_on, held, zeros
from servers import Servers, serving
from tiny import generator

from bench.mounted import NotMounted, mounted
from headrace.catalog import KV_CACHE, KV_OBJECTS, Store, Tier
from headrace.errors import HeadraceError, Unavailable
from headrace.models.kv import objects
from headrace.models.kv.backends import BlockWriter, backend_of
from headrace.models.kv.blocks import BlockInfo, BlockStore, FileBackend
from headrace.models.kv.format import BLOCK, Shape, pack, unpack
from headrace.models.kv.object_index import ObjectIndex
from headrace.models.kv.objects import ListedPart, ObjectBlocks
from headrace.models.kv.service import KvService
from headrace.models.kv.use import recorded_use
from headrace.models.server.generator import Generated, Sampling
from headrace.process import python
from headrace.storage.endpoints import Endpoints, MetadataEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

NUMBERS = itertools.count()
SIZE = len(pack("0" * 64, zeros([0] * BLOCK), SHAPE, b"s"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with serving(tmp_path_factory.mktemp("kv")) as started:
        yield started


@pytest.fixture
def endpoints(servers: Servers, tmp_path: Path) -> Endpoints:
    """Endpoints with a metadata store of the test's own."""
    return servers.endpoints.model_copy(
        update={"kv_backend": "objects", "metadata": MetadataEndpoint(file=tmp_path / "metadata.db")}
    )


@pytest.fixture
def store() -> Store:
    """A store of the test's own, so that each begins with an empty prefix."""
    return Store(f"kv-test-{next(NUMBERS)}", Tier.OBJECT, "blocks of a test", "until it ends")


def opened(endpoints: Endpoints, store: Store, *, grace_s: float = 600.0, page: int = 1_000) -> ObjectBlocks:
    """A block store as another process would open it, which compares a page at every look."""
    index = ObjectIndex(Metadata(endpoints), store.name)
    writer = ObjectWriter(store, endpoints, Meter(Ledger(), "test"))
    return ObjectBlocks(writer, index, ListedPart(page=page, every_s=0.0, grace_s=grace_s))


@pytest.mark.parametrize("backend", ["objects", "objects that answer in time", "memory in front of objects"])
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_objects_keep_the_contract(
    promise: Callable[[BlockStore], None], backend: str, endpoints: Endpoints, store: Store
) -> None:
    chosen = endpoints.model_copy(update={"kv_memory_bytes": 1 << 20 if "memory" in backend else 0})
    promise(backend_of(chosen).open(store, chosen, Meter(Ledger(), "test"), wait="time" not in backend))


def test_bytes_of_objects_are_in_the_ledger(endpoints: Endpoints) -> None:
    ledger = Ledger()
    blocks = backend_of(endpoints).open(KV_OBJECTS, endpoints, Meter(ledger, "models", "acme"), wait=False)
    blocks.put("acme/aa/metered", b"12345")
    assert blocks.get("acme/aa/metered") == b"12345"
    BlockWriter(KV_OBJECTS, endpoints, Meter(ledger, "forget")).blocks.drop("acme", lambda found: None)
    moved = {(row.stage, row.store, row.tier, row.direction): row.bytes for row in ledger.rows()}
    assert moved["models", "kv-cache", "object", "write"] == moved["models", "kv-cache", "object", "read"] == 5
    assert blocks.get("acme/aa/metered") is None


def test_counters_go_on_while_a_running_server_changes_its_backend(endpoints: Endpoints, tmp_path: Path) -> None:
    """Each answer is counted once, and each byte in the tier that it moved through, whichever backend was in use then."""
    prompt = [(13 * n) % 200 for n in range(2 * BLOCK + 20)]
    model = generator()
    common: dict[str, Any] = {"files_dir": tmp_path, "kv_cache_bytes": 1 << 30}
    of = {kind: endpoints.model_copy(update={"kv_backend": kind, **common}) for kind in ("files", "objects")}
    now = ["files"]
    service = KvService(lambda: of[now[0]], b"s", lambda work: work())

    def ask(kind: str) -> int:
        now[0], ledger = kind, Ledger()
        generation = Generated(list(prompt))
        cache = service.prompt(model, ledger, tenant="acme", documents=set(), run="r")
        list(model.generate(prompt, Sampling(1), cache=cache, into=generation))
        assert service.writes.wait(60)
        ledger.fold(service.unreported.take("r"))
        service.account("acme", model.version, ledger.export())
        return generation.reused_tokens

    try:
        found = [ask(kind) for kind in ("files", "files", "objects", "objects", "files")]
        assert found == [0, 2 * BLOCK, 0, 2 * BLOCK, 2 * BLOCK], "each backend has its own blocks, and keeps them"
        figures = service.use.by_model()[model.version]
        assert (figures["answers"], figures["prompt_tokens"]) == (5, 5 * len(prompt))
        assert (figures["restored_tokens"], figures["written_tokens"], figures["misses"]) == (6 * BLOCK, 4 * BLOCK, 2)
        size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
        moved = {name: value for name, value in figures.items() if name.startswith("bytes:")}
        assert moved == {
            "bytes:file:write": size, "bytes:file:read": 2 * size, "bytes:object:write": size, "bytes:object:read": size,
        }  # fmt: skip
        assert figures["read_bytes"] == 3 * size
        assert {backend for backend, _ in service.economies()} == {"files", "objects"}, "each is measured by itself"
        service.close(10)
        (recorded,) = recorded_use(Metadata(endpoints)).values()
        counted = service.use.by_model()[model.version]
        assert recorded == pytest.approx({name: value for name, value in counted.items() if value})
    finally:
        service.close(0)


WRITER = """
import sys
from pathlib import Path
from kv_contract import SHAPE, cache_on, zeros
from test_kv_backends import SIZE, opened
from headrace.catalog import Store, Tier
from headrace.models.kv.format import BLOCK
from headrace.storage.endpoints import Endpoints

endpoints = Endpoints.model_validate_json(sys.stdin.readline())
blocks = opened(endpoints, Store(sys.argv[1], Tier.OBJECT, "", ""))
first = int(sys.argv[2])
for number in range(first, first + int(sys.argv[3])):
    cache_on(blocks, 12 * SIZE).save([number] * BLOCK, zeros([0] * BLOCK), restored=0)
    print(number, flush=True)
"""


def writer(endpoints: Endpoints, store: Store, first: int, count: int) -> subprocess.Popen[bytes]:
    """Another process that saves prompts."""
    _, env = python("headrace")
    here = Path(__file__).parent
    env["PYTHONPATH"] = os.pathsep.join((str(here.parent), str(here), env["PYTHONPATH"]))
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.name, str(first), str(count)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(endpoints.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process


def test_the_limit_holds_for_two_processes_and_after_one_was_killed(endpoints: Endpoints, store: Store) -> None:
    """A bound that is counted by each process, or from zero after a restart, is none (LMCache 4564, 1399; vLLM 54779)."""
    processes = [writer(endpoints, store, first, 10_000) for first in (0, 10_000)]
    blocks, most = opened(endpoints, store), 0
    try:
        for process in processes:
            assert process.stdout is not None
            for _ in range(20):
                assert process.stdout.readline()
                most = max(most, blocks.bytes("acme")[0])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert most <= (12 + len(processes)) * SIZE, "a block for each writer, at most"
    third = opened(endpoints, store)
    for number in range(20_000, 20_005):
        cache_on(third, 12 * SIZE).save([number] * BLOCK, zeros([0] * BLOCK), restored=0)
        counted = third.bytes("acme")[0]
        assert counted <= 12 * SIZE
        assert in_bucket(endpoints, store) <= counted, "nothing is there that is not counted"


def in_bucket(endpoints: Endpoints, store: Store) -> int:
    return sum(info.bytes for info in ObjectWriter(store, endpoints, Meter(Ledger(), "test")).list())


def test_another_host_finds_what_one_wrote(endpoints: Endpoints, store: Store) -> None:
    tokens = list(range(3 * BLOCK))
    values = SHAPE.rounded(np.random.default_rng(2).standard_normal(SHAPE.array(3 * BLOCK), dtype=np.float32)).astype(np.float32)
    assert cache_on(opened(endpoints, store)).save(tokens, values, restored=0) == 3
    into = np.zeros_like(values)
    assert cache_on(opened(endpoints, store)).restore(tokens, into) == 3 * BLOCK
    assert np.array_equal(into, values)


def test_what_an_index_lost_is_counted_again_page_by_page(endpoints: Endpoints, store: Store, tmp_path: Path) -> None:
    """Counting is recovered from the bucket, not assumed to be zero."""
    blocks = opened(endpoints, store)
    names = [f"{tenant}/{number:02x}/{number}" for tenant in ("acme", "acme-2", "globex") for number in range(5)]
    for name in names:
        blocks.put(name, b"123")
    lost = endpoints.model_copy(update={"metadata": MetadataEndpoint(file=tmp_path / "new.db")})
    again = opened(lost, store, grace_s=-60.0, page=4)
    seen = [again.bytes("acme")[0] for _ in range(7)]
    assert seen == [12, 15, 27, 30, 42, 45, 45], "a page of a tenant at a time"
    assert again.bytes("acme") == (45, 15)
    assert [info.name for info in held(again)] == sorted(names)


def test_a_row_whose_object_is_gone_is_removed(endpoints: Endpoints, store: Store) -> None:
    blocks = opened(endpoints, store, grace_s=-60.0)
    writer = ObjectWriter(store, endpoints, Meter(Ledger(), "test"))
    for name in ("acme/aa/a", "acme/bb/b", "acme/cc/c"):
        blocks.put(name, b"123")
    writer.delete("acme/aa/a")
    assert blocks.get("acme/aa/a") is None
    writer.delete("acme/cc/c")
    assert blocks.bytes("acme") == (3, 3)
    assert [info.name for info in held(blocks)] == ["acme/bb/b"]


def test_a_write_that_is_under_way_keeps_its_row(endpoints: Endpoints, store: Store) -> None:
    index = ObjectIndex(Metadata(endpoints), store.name)
    index.add("acme/aa/a", 3)  # as a process does just before it puts the object, or is killed
    blocks = opened(endpoints, store)
    assert blocks.get("acme/aa/a") is None
    assert blocks.bytes("acme") == (3, 3), "counted, though it is not there: the bound errs on the safe side"
    assert blocks.evict(held(blocks)[0])
    assert blocks.bytes("acme") == (0, 0)


def test_what_is_dropped_while_it_is_written_does_not_stay(endpoints: Endpoints, store: Store) -> None:
    class Slow(ObjectWriter):
        def put(self, key: str, data: bytes) -> str:
            opened(endpoints, store).drop("acme", lambda found: None)
            return super().put(key, data)

    blocks = ObjectBlocks(
        Slow(store, endpoints, Meter(Ledger(), "test")), ObjectIndex(Metadata(endpoints), store.name), ListedPart(every_s=1e9)
    )
    blocks.put("acme/aa/a", b"123")
    assert (blocks.get("acme/aa/a"), in_bucket(endpoints, store)) == (None, 0)


def test_a_put_that_fails_counts_nothing(endpoints: Endpoints, store: Store) -> None:
    class Full(ObjectWriter):
        def put(self, key: str, data: bytes) -> str:
            raise Unavailable("The object store is full.", hint="Free some space.")

    blocks = ObjectBlocks(
        Full(store, endpoints, Meter(Ledger(), "test")), ObjectIndex(Metadata(endpoints), store.name), ListedPart(every_s=1e9)
    )
    with pytest.raises(HeadraceError, match="full"):
        blocks.put("acme/aa/a", b"123")
    assert blocks.bytes("acme") == (0, 0)


def test_objects_that_do_not_answer_cost_a_deadline_or_two_and_are_then_left_alone(
    servers: Servers, endpoints: Endpoints, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "READ_S", 0.3)
    blocks = backend_of(endpoints).open(store, endpoints, Meter(Ledger(), "test"), wait=False)
    tokens = list(range(BLOCK))
    assert cache_on(blocks).save(tokens, zeros(tokens), restored=0) == 1
    servers.freeze("objects")
    try:
        took = []
        for _ in range(6):
            began = time.monotonic()
            assert cache_on(blocks).restore(tokens, zeros(tokens)) == 0, "a miss, no error and no wrong answer"
            took.append(time.monotonic() - began)
        assert all(seconds < 0.2 for seconds in took[3:]), "left alone"
    finally:
        servers.thaw("objects")


def test_a_put_that_a_deletion_crosses_is_counted_until_the_listing_comes_by(endpoints: Endpoints, store: Store) -> None:
    class Crossed(ObjectWriter):
        def delete(self, key: str) -> None:
            opened(endpoints, store).put(key, b"123")
            super().delete(key)

    crossed = ObjectBlocks(Crossed(store, endpoints, Meter(Ledger(), "test")), ObjectIndex(Metadata(endpoints), store.name))
    opened(endpoints, store).put("acme/aa/a", b"123")
    crossed.delete("acme/aa/a")
    later = opened(endpoints, store, grace_s=-60.0)
    assert (in_bucket(endpoints, store), ObjectIndex(Metadata(endpoints), store.name).bytes("acme")) == (0, (3, 3))
    assert later.get("acme/aa/a") is None
    later.bytes("acme")  # compares
    assert later.bytes("acme") == (0, 0)


def test_many_threads_count_right(endpoints: Endpoints, store: Store) -> None:
    blocks = opened(endpoints, store)

    def work(seed: int) -> None:
        for number in range(12):
            name = f"acme/{(number * seed) % 7:02x}/{(number * seed) % 7}"
            blocks.put(name, b"123") if number % 3 else blocks.delete(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blocks.bytes("acme")[0] == sum(info.bytes for info in held(blocks))
    # A deletion may take the object that a put has just written: its row stays, and counts too much, not too little.
    assert in_bucket(endpoints, store) <= blocks.bytes("acme")[0]
    later = opened(endpoints, store, grace_s=-60.0)
    later.bytes("acme")  # compares
    assert in_bucket(endpoints, store) == later.bytes("acme")[0]


# A network file system: SeaweedFS's filer, mounted twice by FUSE, as two hosts would.


@pytest.fixture(scope="module")
def mounts(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    with ExitStack() as stack:
        one, other = tmp_path_factory.mktemp("host-a"), tmp_path_factory.mktemp("host-b")
        try:
            for place in (one, other):
                stack.enter_context(mounted(servers.home, servers._ports, place))
        except NotMounted as error:
            pytest.skip(f"the network file system is left out: {error}")
        yield one, other


def on_mount(folder: Path, *, wait: bool = True) -> BlockStore:
    return FileBackend().open(KV_CACHE, Endpoints.model_construct(files_dir=folder), Meter(Ledger(), "test"), wait=wait)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_a_network_file_system_keeps_the_contract(promise: Callable[[BlockStore], None], mounts: tuple[Path, Path]) -> None:
    folder = mounts[0] / f"contract-{next(NUMBERS)}"
    folder.mkdir()
    promise(on_mount(folder))


def test_another_host_finds_what_one_wrote_on_a_network_file_system(
    mounts: tuple[Path, Path], within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    """A rename is seen by the other host whole or not at all; how soon depends on how long it caches attributes."""
    name = f"shared-{next(NUMBERS)}"
    (mounts[0] / name).mkdir()
    assert within(30, lambda: (mounts[1] / name).is_dir())
    tokens = list(range(2 * BLOCK))
    values = SHAPE.rounded(np.random.default_rng(3).standard_normal(SHAPE.array(2 * BLOCK), dtype=np.float32)).astype(np.float32)
    assert cache_on(on_mount(mounts[0] / name)).save(tokens, values, restored=0) == 2
    into = np.zeros_like(values)
    assert within(30, lambda: cache_on(on_mount(mounts[1] / name)).restore(tokens, into) == 2 * BLOCK)
    assert np.array_equal(into, values)


def test_what_one_host_deletes_is_gone_for_the_other(
    mounts: tuple[Path, Path], within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    name = f"deleted-{next(NUMBERS)}"
    (mounts[0] / name).mkdir()
    assert within(30, lambda: (mounts[1] / name).is_dir())
    one, other = on_mount(mounts[0] / name), on_mount(mounts[1] / name)
    one.put("acme/aa/a", b"1")
    assert within(30, lambda: other.get("acme/aa/a") == b"1")
    noted: list[Sequence[BlockInfo]] = []
    assert one.drop("acme", noted.append) == 1
    assert within(90, lambda: other.get("acme/aa/a") is None)


def test_no_mix_of_blocks_is_used_while_another_host_replaces_one(mounts: tuple[Path, Path]) -> None:
    """On this file system a reader may get pages of the old and of the new file at once: the check makes that a miss."""
    folder, shape, key = f"torn-{next(NUMBERS)}", Shape(8, 4, 64), "ab" * 32
    (mounts[0] / folder).mkdir()
    one, other = on_mount(mounts[0] / folder), on_mount(mounts[1] / folder)
    blocks = [np.full(shape.array(BLOCK), number, np.float32) for number in range(4)]
    contents = [pack(key, block, shape, b"s") for block in blocks]
    done = threading.Event()

    def write() -> None:
        for data in contents * 3:
            one.put("acme/aa/a", data)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    looks = 0
    try:
        while not done.is_set() or not looks:
            looks += 1
            try:
                data = other.get("acme/aa/a")
            except HeadraceError:
                continue  # replaced while it was read: an error is a miss
            read = unpack(key, data, shape, b"s") if data is not None else None
            if read is not None:
                assert (read == read.flat[0]).all()
                assert read.flat[0] in range(4)
    finally:
        thread.join()
