"""The embedded model server as its own process, with tiny models and the embedded object store behind it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tiny
import torch
from tiny import adapter
from traffic import until

from headrace.answering.engine import QueryEngine
from headrace.answering.record import Answer
from headrace.catalog import KV_CACHE, MODELS, Tier
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.index import index_documents
from headrace.documents.revoke import revocation_report
from headrace.errors import RequestRefused
from headrace.models.client import Completion, Embedder, Generator, Ranking, Reranker
from headrace.models.connection import wait_ready
from headrace.models.pointer import ChampionPointer
from headrace.models.ranking import of_retrieval_weight
from headrace.models.server.encoders import MiniLM, _as_published
from headrace.models.server.generator import packaged
from headrace.models.tokens import INSTEAD, embedder_folder
from headrace.platform import open_platform
from headrace.settings import Inference, Settings
from headrace.storage.endpoints import Endpoints, ModelEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

if TYPE_CHECKING:  # every process that collects tests would import it for seconds
    from sentence_transformers import SentenceTransformer

# sentence-transformers is loaded here: files that say so share a process under xdist, for its import takes seconds.
KEY = "a key of this test"
TEXTS = [
    "Paris is the capital of France.",
    "A decorator is a function that returns another function.",
    "naïve 日本 🎉",
    "Iteration over a generator runs its body until the next yield. " * 40,
]
PASSAGES = ["Paris is the capital of France.", "Rome is in Italy.", "The Seine runs through Paris. " * 60]
CHAT = [
    {"role": "system", "content": "You answer questions from the given passages, briefly and in full sentences."},
    {
        "role": "user",
        "content": "Passages:\n\n"
        + "The Wheel House was built in 1883 by the Moreau family beside the northern weir of the river. " * 7
        + "\n\nUsing only the passages above, answer in one sentence: who built the Wheel House?",
    },
]


@dataclass(frozen=True)
class Server:
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def endpoint(self, model: str, key: str = KEY) -> ModelEndpoint:
        return ModelEndpoint(url=self.url, model=model, api_key=key)

    def post(self, path: str, body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=content, headers=headers, timeout=60, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False)


@pytest.fixture(scope="module", autouse=True)
def tiny_models() -> Iterator[None]:
    """Tiny models in place of the packaged ones, here and in every server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INSTEAD, str(tiny.folder()))
        yield


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        patch.setenv("HEADRACE_FILES__KV_CACHE_POLICY", "always")  # so small a model computes about as fast as files are read
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects", "head"})) as endpoints:
            yield endpoints


@pytest.fixture(scope="module")
def server(storage: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is told where storage is once it runs, and is ended as the supervisor does it."""
    folder = tmp_path_factory.mktemp("server")
    with started(folder, folder / "cache") as server:
        wait_ready(server.endpoint("embedder"), 60)
        body = {"model": "reranker", "query": {"text": "q"}, "passages": [{"text": "p"}]}
        answer = server.post("/ranking", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        (folder / "endpoints.json").write_text(storage.model_dump_json())
        answer = server.post("/ranking", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_champion")
        yield server
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        said = server.log.read_text()
    for never in ("Traceback", KEY, "Wheel House"):
        assert never not in said


@contextmanager
def started(folder: Path, cache: Path) -> Iterator[Server]:
    """A server process with its state in `folder`; ended with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "HEADRACE_MODELS_KEY": KEY,
        "HEADRACE_MODELS_CACHE": str(cache),
        "HEADRACE_ENDPOINTS_FILE": str(folder / "endpoints.json"),
        "HEADRACE_MODELS_THREADS": "1",
        "HEADRACE_MODELS_EXACT": "1",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.models.server", "--port", str(port)], env=env, stderr=log, stdout=log
        )
    try:
        yield Server(f"http://127.0.0.1:{port}/v1", folder / "log", process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def bare() -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(embedder_folder()), device="cpu")


def ask(server: Server, messages: Any = CHAT, *, most: int = 24, tenant: str = "acme", **given: Any) -> Completion:
    with Generator(server.endpoint("generator")) as generator:
        *text, last = generator.stream(messages, max_tokens=most, tenant=tenant, **given)
    assert isinstance(last, Completion)
    assert "".join(piece for piece in text if isinstance(piece, str)) == last.text
    return last


def test_embeddings_are_those_of_the_bare_model(server: Server, bare: SentenceTransformer) -> None:
    with Embedder(server.endpoint("embedder")) as embedder:
        vectors = embedder.embed(TEXTS, kind="passage")
        assert np.array_equal(embedder.embed(TEXTS[:1], kind="query")[0].shape, (384,))
    assert vectors.dtype == np.float32
    assert np.abs(vectors - bare.encode(TEXTS, normalize_embeddings=True)).max() < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_encoder_of_any_layout_computes_what_sentence_transformers_does(tmp_path: Path, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "encoder"
    shutil.copytree(embedder_folder(), folder)
    config = json.loads((folder / "1_Pooling" / "config.json").read_text()) | {"pooling_mode": pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    ours = MiniLM(folder, exact=True)
    pieces = ours.word_pieces(TEXTS, "END")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, batch_size=len(TEXTS), normalize_embeddings=True)
    assert np.abs(ours.embed(pieces) - theirs).max() < 1e-6
    assert (_as_published.__name__ in ours._model.__qualname__) == (pooling == "cls")


def test_embedding_formats(server: Server, bare: SentenceTransformer) -> None:
    one = server.post("/embeddings", {"model": "all-MiniLM-L6-v2-query", "input": "hello world"}).json()
    assert one["object"] == "list"
    assert one["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert np.abs(np.array(one["data"][0]["embedding"]) - bare.encode("hello world")).max() < 1e-5
    words = [f"word{n}" for n in range(400)]
    long = " ".join(words)
    refused = server.post("/embeddings", {"model": "embedder", "input": ["a", long]})
    assert refused.status_code == 400
    assert "Input 1" in refused.json()["error"]["message"]
    cut = {}
    for side in ("START", "END"):
        answer = server.post("/embeddings", {"model": "embedder", "input": long, "truncate": side}).json()
        assert answer["usage"]["total_tokens"] == 256
        cut[side] = np.array(answer["data"][0]["embedding"])
    assert np.abs(cut["END"] - bare.encode(long)).max() < 1e-5
    assert np.abs(cut["START"] - cut["END"]).max() > 0.01


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/embeddings", {"model": "embedder", "input": []}, 400, "invalid_value"),
        ("/embeddings", {"model": "embedder", "input": ["a", " "]}, 400, "invalid_value"),
        ("/embeddings", {"model": "embedder", "input": ["a"] * 1025}, 400, "invalid_value"),
        ("/embeddings", {"model": "embedder", "input": "a", "dimensions": 3}, 400, "invalid_value"),
        ("/embeddings", {"model": "gpt-9", "input": "a"}, 404, "model_not_found"),
        ("/embeddings", b"{not json", 400, "invalid_value"),
        ("/embeddings", b'"' + b"x" * (9 << 20) + b'"', 413, "too_large"),
        ("/ranking", {"model": "reranker", "query": {"text": "q"}, "passages": []}, 400, "invalid_value"),
        ("/ranking", {"model": "embedder", "query": {"text": "q"}, "passages": [{"text": "p"}]}, 404, "model_not_found"),
        ("/chat/completions", {"model": "generator", "messages": []}, 400, "invalid_value"),
        ("/chat/completions", {"model": "generator", "messages": CHAT, "max_tokens": 9000}, 400, "invalid_value"),
        (
            "/chat/completions",
            {"model": "generator", "messages": CHAT, "headrace": {"tenant": "../up"}},
            400,
            "invalid_value",
        ),
        ("/nothing", {}, 404, "not_found"),
    ],
)
def test_bad_requests_get_errors_in_openais_shape(server: Server, path: str, body: Any, status: int, code: str) -> None:
    answer = server.post(path, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["type"]


def test_without_the_key_only_health_answers(server: Server) -> None:
    for path in ("/health/ready", "/health/live"):
        assert httpx.get(server.url + path, trust_env=False).status_code == 200
    for path in ("/models", "/metrics"):
        assert httpx.get(server.url + path, trust_env=False).status_code == 401
        assert server.get(path).status_code == 200
    with (
        Embedder(server.endpoint("embedder", "another key")) as embedder,
        pytest.raises(RequestRefused, match="401"),
    ):
        embedder.embed(["a"], kind="query")
    assert {model["id"] for model in server.get("/models").json()["data"]} == {"embedder", "reranker", "generator"}
    assert 'headrace_models_requests_total{route="/v1/models",status="401"}' in server.get("/metrics").text


def test_the_champion_is_served_without_a_restart(server: Server, storage: Endpoints, tmp_path: Path) -> None:
    writer = ObjectWriter(MODELS, storage, Meter(Ledger(), "promote"))
    with Reranker(server.endpoint("reranker")) as reranker:

        def rank(version: str | None = None) -> Ranking:
            return reranker.rank("What is the capital of France?", PASSAGES, version=version)

        def becomes(version: str) -> Ranking:
            """The first ranking of a version, asked for until it is there: a look at the pointer holds for a second."""
            found: list[Ranking] = []
            until(60, lambda: found.append(rank()) or found[-1].version == version, lambda: found[-1])
            return found[-1]

        none = rank()
        assert (none.logits, none.version, none.ranking) == (None, "none", None)
        promote(writer, "none", number=0)
        assert rank().version == "none"
        refused = server.post("/ranking", {"model": "reranker", "query": {"text": "q"}, "passages": [{"text": "p"}]}).json()
        assert refused["error"]["code"] == "no_champion"
        assert "No re-ranker was promoted yet" in refused["error"]["message"]

        first = release(writer, tmp_path / "one", "v000001", seed=1)
        promote(writer, "v000001")
        ranking = becomes("v000001")
        assert ranking.ranking == of_retrieval_weight(0.4), "released before there was a ranking"
        assert ranking.logits is not None
        assert np.abs(np.array(ranking.logits) - logits(first)).max() < 1e-4
        pointer = len(writer.get("reranker/champion.json"))
        files = sum(info.bytes for info in writer.list("reranker/v000001/"))
        looks, rest = divmod(moved(ranking.storage) - files, pointer)  # each look at the pointer reads it whole
        assert (looks >= 1, rest) == (True, 0)
        looked: list[int] = []
        until(60, lambda: looked.append(moved(rank().storage)) or looked[-1], lambda: looked)
        assert looked[-1] == pointer, "another look reads the pointer and no more"

        # A promoted version that is not whole: what was there before goes on serving.
        second = release(writer, tmp_path / "two", "v000002", seed=2)
        whole = writer.get("reranker/v000002/model.safetensors")
        writer.put("reranker/v000002/model.safetensors", whole[:-1] + b"?")
        promote(writer, "v000002")
        until(
            15,
            lambda: rank() and "a promoted re-ranker cannot be loaded, v000001 goes on serving" in server.log.read_text(),
            server.log.read_text,
        )
        assert rank().version == "v000001"
        with pytest.raises(RequestRefused, match="v000002"):
            rank("v000002")

        writer.put("reranker/v000002/model.safetensors", whole)
        named = rank("v000002")
        assert named.version == "v000002"
        assert named.logits is not None
        assert np.abs(np.array(named.logits) - logits(second)).max() < 1e-4
        promote(writer, "v000002", number=3)
        assert becomes("v000002").logits == named.logits
        with pytest.raises(RequestRefused, match="404"):
            rank("v000009")
        promote(writer, "none", number=0)  # rolled back to before the first promotion
        assert becomes("none").logits is None
        trial = promote(writer, "v000001", canary="v000002")
        assert becomes("v000001").logits == ranking.logits  # a request without an answer's id
        assert reranker.rank("What is the capital of France?", PASSAGES, version="none").logits is None
        answers = {answer: reranker.rank("q", PASSAGES[:1], answer_id=answer).version for answer in map(str, range(24))}
        assert answers == {answer: trial.served(answer) for answer in answers}
        assert set(answers.values()) == {"v000001", "v000002"}


def moved(entries: list[dict[str, Any]]) -> int:
    assert {(entry["store"], entry["tier"], entry["direction"]) for entry in entries} <= {("models", "object", "read")}
    ledger = Ledger()
    ledger.fold(entries, stage="rerank")
    return sum(row.bytes for row in ledger.rows())


def release(writer: ObjectWriter, folder: Path, version: str, *, seed: int) -> Path:
    """Release a cross-encoder whose head is random: enough to tell versions apart."""
    torch.manual_seed(seed)
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(embedder_folder()), num_labels=1, max_length=256, device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    put(writer, "reranker", version, folder, retrieval_weight=0.4, max_tokens=256)
    return folder


def put(writer: ObjectWriter, model: str, version: str, folder: Path, **card: Any) -> None:
    """Release a folder's files as a version of a model."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        files.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        writer.put(f"{model}/{version}/{name}", content)
    writer.put(f"{model}/{version}/card.json", json.dumps({"version": version, "round": 1, "files": files, **card}).encode())


def promote(
    writer: ObjectWriter, version: str, number: int = 1, *, model: str = "reranker", canary: str = "", share: float = 0.5
) -> ChampionPointer:
    trial = {"version": canary, "share": share, "round": 2, "since": "2026-01-01T00:00:00+00:00", "why": ""} if canary else None
    pointer = {"model": model, "version": version, "round": number, "canary": trial}
    writer.put(f"{model}/champion.json", json.dumps(pointer).encode())
    return ChampionPointer.model_validate(pointer)


def logits(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), num_labels=1, max_length=256, device="cpu")
    pairs = [("What is the capital of France?", passage) for passage in PASSAGES]
    return model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)


def test_a_second_answer_reuses_the_prefix_and_is_the_same(server: Server, storage: Endpoints) -> None:
    plain = ask(server, cache=False)
    assert (plain.reused_tokens, [entry for entry in plain.storage if entry["store"] == KV_CACHE.name and entry["bytes"]]) == (
        0,
        [],
    )
    first = ask(server, tenant="prefix", run="prefix")
    at_once = ask(server, tenant="prefix")
    assert at_once.reused_tokens >= 128, "read from what waits to be stored"
    wrote = settled(server, "prefix")
    second = ask(server, tenant="prefix", run="prefix")
    assert first.reused_tokens == 0
    assert second.reused_tokens >= 128
    for other in (first, at_once, second):
        assert (other.text, other.completion_tokens) == (plain.text, plain.completion_tokens)
        assert other.logprobs == plain.logprobs
    assert ask(server, tenant="another").reused_tokens == 0
    size = sum(path.stat().st_size for path in (storage.files_dir / KV_CACHE.name / "prefix").rglob("*.safetensors"))
    # Users with other readers cannot test guesses of this prompt.
    assert ask(server, tenant="prefix", readers=("hr", "eng")).reused_tokens == 0
    assert ask(server, tenant="prefix", readers=("eng", "hr")).reused_tokens == second.reused_tokens
    assert ask(server, tenant="prefix", readers=("ann",)).reused_tokens == 0
    assert (moved_kv(first.storage), wrote, moved_kv(second.storage)) == ({}, {"write": size}, {"read": size})


def test_what_is_stored_behind_an_answer_is_told_with_the_next_of_its_run(server: Server) -> None:
    ask(server, tenant="told", run="a")
    ask(server, tenant="told", run="b", readers=("ann",))
    until(30, lambda: "headrace_models_kv_waiting_writes 0" in server.get("/metrics").text, lambda: server.get("/metrics").text)
    assert moved_kv(ask(server, tenant="apart", run="a", most=1).storage) == {}, "another tenant's are not told"
    first = moved_kv(ask(server, tenant="told", run="a").storage)
    assert first["write"] > 0
    assert "write" not in moved_kv(ask(server, tenant="told", run="a").storage), "told once"
    assert settled(server, "b")["write"] == first["write"]


def test_a_document_that_is_deleted_closed_or_changed_takes_its_blocks_along(
    server: Server, storage: Endpoints, tmp_path: Path
) -> None:
    """From a question to the file tier, and from the deletion to the report."""
    roles = ("embedder", "reranker", "generator")
    endpoints = storage.model_copy(update={role: server.endpoint(role) for role in roles})
    # Whichever other test has promoted a re-ranker: it would order, and leave out, other passages.
    promote(ObjectWriter(MODELS, storage, Meter(Ledger(), "promote")), "none", number=0)
    with Reranker(server.endpoint("reranker")) as reranker:
        until(15, lambda: reranker.rank("q", PASSAGES).version == "none", server.log.read_text)
    settings = Inference(answer_tokens=2, least_similarity=-1.0, answers="generated", passages=2)
    folder = tmp_path / "manuals"
    folder.mkdir()
    for name in ("weir", "mill", "lock"):
        text = f"The {name} of this river is looked after by the {name} keeper, who oils the gears of the {name} in spring. " * 6
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}")
    tenant, kv = "revoked", storage.files_dir / KV_CACHE.name / "revoked"
    with recorded("ask", tmp_path / "home") as run:
        runner = Runner(run, endpoints)
        engine = QueryEngine(runner, settings)

        def indexed(**given: Any) -> None:
            index_documents(runner, [folder], tenant=tenant, settings=settings, **given)

        def asked(name: str) -> set[str]:
            *_, answer = engine.ask(f"Who oils the gears of the {name}?", tenant=tenant, user="ann", record=False)
            engine.settle()
            assert isinstance(answer, Answer)
            assert answer.completion is not None
            return {passage.hit.uri for passage in answer.passages}

        def blocks() -> set[str]:
            return {path.name for path in kv.rglob("*.safetensors")}

        def reports() -> list[Any]:
            return runner.run(revocation_report, whose=tenant)

        indexed()
        assert reports() == [], "documents that are new revoke nothing"
        of: dict[str, set[str]] = {}
        for name in ("weir", "mill", "lock"):
            before = blocks()
            for uri in asked(name):
                of.setdefault(uri, set()).update(blocks() - before)
        assert sum(row.bytes for row in run.ledger.rows() if (row.store, row.direction) == (KV_CACHE.name, "write")) > 0
        assert set(of) == {f"manuals/{name}.md" for name in ("weir", "mill", "lock")}
        every = blocks()
        (folder / "weir.md").unlink()
        indexed(accept_deletions=True)
        assert blocks() == every - of["manuals/weir.md"], "those of others stay"
        assert {(one.document, one.reason, one.proven) for one in reports()} == {("manuals/weir.md", "deleted", True)}
        assert {Path(block["block"]).name for one in reports() for block in one.blocks} == of["manuals/weir.md"]
        indexed(readers=["ann"])
        assert blocks() == set()
        assert {one.document for one in reports()} == set(of)
        assert all(one.proven for one in reports())
        *_, _ = engine.ask("Who oils the gears of the mill?", tenant=tenant, user="ann", readers=["ann"], record=False)
        engine.settle()
        assert blocks() == set(), "nothing is stored of what has just changed"


def test_a_server_that_was_started_again_restores_an_answers_prefix_from_objects(
    server: Server, storage: Endpoints, tmp_path: Path
) -> None:
    """From a question through a runner to blocks in the bucket; then from these, by another process, to the same answer."""
    folder, manuals = tmp_path / "server", tmp_path / "manuals"
    folder.mkdir()
    manuals.mkdir()
    text = "The sluice of this river is looked after by the sluice keeper, who oils its gears in spring. " * 8
    (manuals / "sluice.md").write_text(f"# sluice\n\n{text}")
    in_objects = storage.model_copy(update={"kv_backend": "objects"})
    (folder / "endpoints.json").write_text(in_objects.model_dump_json())
    settings = Inference(answer_tokens=4, least_similarity=-1.0, answers="generated", passages=2)
    tenant = "restarted"
    shared = {role: server.endpoint(role) for role in ("embedder", "reranker")}

    def asked() -> tuple[Completion, dict[tuple[str, str], int]]:
        """The answer of a server that is started for it and ended behind it, and the bytes of KV in its run's ledger."""
        with started(folder, tmp_path / "cache") as own, recorded("ask", tmp_path / "home") as run:
            wait_ready(own.endpoint("generator"), 60)
            runner = Runner(run, in_objects.model_copy(update={**shared, "generator": own.endpoint("generator")}))
            index_documents(runner, [manuals], tenant=tenant, settings=settings)
            engine = QueryEngine(runner, settings)
            *_, answer = engine.ask("Who oils the gears of the sluice?", tenant=tenant, user="ann", record=False)
            engine.settle()
            own.process.send_signal(signal.SIGTERM)
            assert own.process.wait(timeout=60) == 0
            assert isinstance(answer, Answer)
            assert answer.completion is not None
            rows = [row for row in run.ledger.rows() if row.store == KV_CACHE.name and row.bytes]
        assert {(row.stage, row.tenant) for row in rows} <= {("generate", tenant)}
        return answer.completion, {(row.tier, row.direction): row.bytes for row in rows}

    first, stored = asked()
    again, restored = asked()
    assert (first.reused_tokens, list(stored)) == (0, [(Tier.OBJECT, "write")])
    assert first.stored_tokens == again.reused_tokens >= 128
    assert restored == {(Tier.OBJECT, "read"): stored[Tier.OBJECT, "write"]}, "every block that the first wrote, and no other"
    assert (again.text, again.completion_tokens, again.logprobs) == (first.text, first.completion_tokens, first.logprobs)
    assert not (storage.files_dir / KV_CACHE.name / tenant).exists()


def test_a_server_that_is_stopped_closes_the_metadata_store(storage: Endpoints, tmp_path: Path) -> None:
    """Its signal ended it before it did: what it had noted was in no file but the log beside the store."""
    folder, home = tmp_path / "server", tmp_path / "home"
    folder.mkdir()
    assert storage.metadata is not None
    own_store = storage.metadata.model_copy(update={"file": home / "metadata.db"})
    (folder / "endpoints.json").write_text(storage.model_copy(update={"metadata": own_store}).model_dump_json())
    with started(folder, tmp_path / "cache") as server:
        wait_ready(server.endpoint("generator"), 60)
        ask(server, tenant="stopped")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
    assert [path.name for path in home.iterdir()] == ["metadata.db"]


def settled(server: Server, run: str) -> dict[str, int]:
    """Bytes of KV that a run's prompts have moved behind their answers, once they are stored."""
    with Generator(server.endpoint("generator")) as generator:
        return moved_kv(generator.settle(run, seconds=20))


def moved_kv(entries: Any) -> dict[str, int]:
    return {entry["direction"]: entry["bytes"] for entry in entries if entry["store"] == KV_CACHE.name and entry["bytes"]}


def test_what_could_not_be_stored_is_said_and_changes_no_answer(server: Server, storage: Endpoints) -> None:
    plain = ask(server, cache=False)
    (storage.files_dir / KV_CACHE.name).mkdir(parents=True, exist_ok=True)
    (storage.files_dir / KV_CACHE.name / "blocked").write_text("a file where the tenant's folder should be")
    assert ask(server, tenant="blocked", run="blocked").text == plain.text
    assert settled(server, "blocked") == {}
    answer = ask(server, tenant="blocked")
    assert (answer.text, answer.reused_tokens) == (plain.text, 0)
    assert "blocked" in answer.not_stored
    ask(server, tenant="stored", run="stored")
    assert settled(server, "stored")["write"] > 0
    assert (plain.not_stored, ask(server, tenant="stored").not_stored) == ("", "")
    assert 'reason="storage failed"' in server.get("/metrics").text


@pytest.fixture(scope="module")
def adapters(storage: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> ObjectWriter:
    """Versions 1 and 2 of the generator, and 3, whose adapter is nonsense."""
    writer = ObjectWriter(MODELS, storage, Meter(Ledger(), "promote"))
    base, _, _ = packaged(None)
    for number in (1, 2):
        folder = tmp_path_factory.mktemp("adapter")
        adapter(base, folder, seed=number)
        put(writer, "generator", f"v00000{number}", folder, form="lora")
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    put(writer, "generator", "v000003", folder, form="lora")
    return writer


def test_adapted_generators_answer_beside_the_packaged_one(server: Server, adapters: ObjectWriter) -> None:
    def made(version: str, **given: Any) -> Completion:
        return ask(server, most=12, tenant="versions", version=version, **given)

    before = made("none", cache=False)
    assert re.fullmatch(r"generator@[0-9a-f]{12}", before.version)
    plain = {version: made(version, cache=False) for version in ("none", "v000001", "v000002")}
    assert [plain[version].version for version in plain] == [before.version, "v000001", "v000002"]
    assert len({tuple(answer.logprobs) for answer in plain.values()}) == 3
    assert plain["none"].logprobs == before.logprobs  # to the bit
    # The keys and values of one are never another's, and each one's own make no difference.
    assert [made(version, run="versions").reused_tokens for version in plain] == [0, 0, 0]
    settled(server, "versions")
    for version, answer in plain.items():
        again = made(version)
        assert again.reused_tokens >= 128
        assert (again.completion_tokens, again.logprobs) == (answer.completion_tokens, answer.logprobs)
    for name, status in (("generator@v000009", 404), ("generator@newest", 404), ("SmolLM2-135M-Instruct@v000001", 200)):
        assert server.post("/chat/completions", {"model": name, "messages": CHAT, "max_tokens": 1}).status_code == status
    with pytest.raises(RequestRefused, match="v000003"):
        made("v000003")


RIVER = [{"role": "user", "content": "Name a river."}]


def test_a_generator_is_switched_and_rolled_back_while_answers_stream(server: Server, adapters: ObjectWriter) -> None:
    texts = {version: ask(server, RIVER, most=4, cache=False, version=version).text for version in ("none", "v000001", "v000002")}
    assert len(set(texts.values())) == 3
    names = {ask(server, RIVER, most=1, version="none").version: "none"}
    log: list[tuple[float, float, str, str]] = []  # when it was asked for and there, the version that answered, what it said
    done = threading.Event()

    def users() -> None:
        while not done.is_set():
            asked = time.monotonic()
            answer = ask(server, RIVER, most=4, cache=False)
            log.append((asked, time.monotonic(), names.get(answer.version, answer.version), answer.text))

    def after(since: float, version: str) -> list[str]:
        """The versions of the answers that were asked for once `version` had answered, which it had not before a move."""
        first = min((there for asked, there, made, _ in list(log) if asked >= since and made == version), default=float("inf"))
        return [made for asked, _, made, _ in list(log) if asked >= first]

    moves: list[tuple[str, list[str]]] = []
    asking = [threading.Thread(target=users) for _ in range(2)]
    with Generator(server.endpoint("generator")) as generator:
        story = generator.stream(CHAT, max_tokens=30, cache=False)
        next(story)
        for thread in asking:
            thread.start()
        try:
            for version in ("v000001", "v000002", "v000001", "none"):  # two promotions, and back again
                promote(adapters, version, model="generator")
                moved_at = time.monotonic()
                until(60, lambda at=moved_at, to=version: len(after(at, to)) >= 3, lambda: log[-3:])
                moves.append((version, after(moved_at, version)))
        finally:
            done.set()
            for thread in asking:
                thread.join()
        *_, told = story
    assert isinstance(told, Completion)
    assert names[told.version] == "none"  # whose first words were out before the first move
    assert told.text == ask(server, CHAT, most=30, cache=False).text
    assert all(text == texts[version] for _, _, version, text in log)
    assert [(version, set(made)) for version, made in moves] == [(version, {version}) for version, _ in moves]
    assert "Traceback" not in server.log.read_text()


def test_a_generator_on_trial_and_a_broken_one(server: Server, adapters: ObjectWriter) -> None:
    def made(answer: str = "") -> str:
        return ask(server, RIVER, most=1, answer_id=answer).version

    tiny_one = ask(server, RIVER, most=1, version="none").version
    pointer = promote(adapters, "none", model="generator", canary="v000002")
    tried = next(answer for answer in map(str, range(12)) if pointer.served(answer) == "v000002")
    until(60, lambda: made(tried) == "v000002", server.log.read_text)
    answers = {answer: made(answer) for answer in map(str, range(12))}
    assert answers == {answer: tiny_one if pointer.served(answer) == "none" else pointer.served(answer) for answer in answers}
    assert set(answers.values()) == {tiny_one, "v000002"}
    assert made() == tiny_one
    promote(adapters, "v000001", model="generator")
    until(60, lambda: made() == "v000001", server.log.read_text)
    promote(adapters, "v000003", model="generator")
    words = "a promoted generator cannot be loaded, v000001 goes on serving"
    until(60, lambda: made() and words in server.log.read_text(), server.log.read_text)
    assert [made(), made()] == ["v000001", "v000001"]
    promote(adapters, "none", model="generator")
    until(60, lambda: made() == tiny_one, server.log.read_text)


def test_released_embedders_are_asked_for_by_name(server: Server, storage: Endpoints, tmp_path: Path) -> None:
    writer = ObjectWriter(MODELS, storage, Meter(Ledger(), "promote"))
    from sentence_transformers import SentenceTransformer

    trained = SentenceTransformer(str(embedder_folder()), device="cpu")
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trained.save_pretrained(str(tmp_path / "trained"))
    put(writer, "embedder", "v000003", tmp_path / "trained", max_tokens=128)
    promote(writer, "v000003", model="embedder")  # which changes nothing: an index names its embedder

    def embed(model: str) -> Any:
        with Embedder(server.endpoint(model)) as embedder:
            return embedder.embed(TEXTS, kind="passage")

    packaged, named = embed("embedder"), embed("embedder@v000003")
    trained.max_seq_length = 128
    assert np.abs(named - trained.encode(TEXTS, normalize_embeddings=True)).max() < 1e-5
    assert np.abs(named - packaged).max() > 0.01
    for model in ("embedder", "embedder@none", "all-MiniLM-L6-v2@none"):
        assert np.array_equal(embed(model), packaged)
    assert np.array_equal(embed("all-MiniLM-L6-v2@v000003"), named)
    answer = server.post("/embeddings", {"model": "embedder@v000003-query", "input": TEXTS[0]}).json()
    assert answer["headrace"]["version"] == "v000003"
    assert np.abs(np.array(answer["data"][0]["embedding"]) - named[0]).max() < 1e-6
    long = server.post("/embeddings", {"model": "embedder@v000003", "input": TEXTS[3]})
    assert "the model reads 128" in long.json()["error"]["message"]
    assert server.post("/embeddings", {"model": "embedder@v000004", "input": "a"}).status_code == 404
    weights = writer.get("embedder/v000003/model.safetensors")
    (tmp_path / "trained" / "model.safetensors").write_bytes(weights[:-8])
    put(writer, "embedder", "v000004", tmp_path / "trained", max_tokens=128)
    broken = server.post("/embeddings", {"model": "embedder@v000004", "input": "a"})
    assert (broken.status_code, "v000004" in broken.json()["error"]["message"]) == (400, True)
    assert np.array_equal(embed("embedder@v000003"), named)


def test_chat_tells_what_it_did(server: Server) -> None:
    answer = ask(server, most=5)
    assert answer.finish_reason == "length"
    assert len(answer.completion_tokens) == len(answer.logprobs) == answer.usage["completion_tokens"] == 5
    assert len(answer.prompt_tokens) == answer.usage["prompt_tokens"] > 128
    assert all(logprob <= 0 for logprob in answer.logprobs)
    assert set(answer.timings_ms) == {"kv_read", "prefill", "decode", "kv_write"}
    body = {"model": "generator", "messages": CHAT, "max_tokens": 5}
    whole = server.post("/chat/completions", body).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": answer.text}
    assert whole["choices"][0]["finish_reason"] == "length"
    full = ask(server, most=40).text
    stop = full[20:23]
    stopped = ask(server, most=40, stop=[stop])
    assert stopped.text == full.partition(stop)[0]
    assert stopped.finish_reason == "stop"


def test_an_answer_nobody_waits_for_is_given_up(server: Server) -> None:
    with Generator(server.endpoint("generator")) as generator:
        stream = generator.stream(RIVER, max_tokens=8000, cache=False)
        assert isinstance(next(stream), str)
        stream.close()  # type: ignore[attr-defined]
    assert ask(server, most=1).usage["completion_tokens"] == 1, "the generator has one lane"
    given_up = re.findall(r"an answer was cancelled after (\d+) tokens", server.log.read_text())
    assert int(given_up[-1]) < 8000


def test_more_requests_than_places_are_turned_away(server: Server) -> None:
    body = {"model": "generator", "messages": RIVER, "max_tokens": 8000}
    content = json.dumps(body | {"stream": True}).encode()
    raw = []
    for _ in range(16):
        connection = socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])))
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {KEY}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        raw.append(connection)
    try:
        deadline = time.monotonic() + 10
        while (answer := server.post("/chat/completions", body | {"max_tokens": 1})).status_code != 429:
            assert time.monotonic() < deadline
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "overloaded"
    finally:
        for connection in raw:
            connection.close()
    assert ask(server, most=1).usage["completion_tokens"] == 1


def test_the_engines_answers_are_made_by_the_versions_their_ids_fall_to(
    server: Server, storage: Endpoints, adapters: ObjectWriter, handbook: Path, tmp_path: Path
) -> None:
    """The re-ranker and the generator alike, each with a version on trial."""
    roles = ("embedder", "reranker", "generator")
    endpoints = storage.model_copy(update={role: server.endpoint(role) for role in roles})
    settings = Inference(answer_tokens=6, temperature=0.7, rerank_seconds=60.0, least_similarity=-1.0)
    release(adapters, tmp_path / "pairs", "v000008", seed=1)
    packaged_version = ask(server, RIVER, most=1, version="none").version
    with recorded("ask", tmp_path / "home") as run:
        runner = Runner(run, endpoints)
        index_documents(runner, [handbook], tenant="acme", settings=settings)
        engine = QueryEngine(runner, settings)

        def asked() -> Answer:
            *_, answer = engine.ask("When was the weir repaired?", tenant="acme", user="ann", record=False)
            assert isinstance(answer, Answer)
            return answer

        def versions_of(answers: list[Answer]) -> set[str]:
            return {answer.completion.version for answer in answers if answer.completion is not None}

        generators = promote(adapters, "none", model="generator", canary="v000002")
        rerankers = promote(adapters, "none", canary="v000008")
        answers: list[Answer] = []
        until(60, lambda: answers.append(asked()) or answers[-1].model_version == "v000008", server.log.read_text)
        # Each model's pointer is followed by itself.
        until(60, lambda: answers.append(asked()) or versions_of(answers[-1:]) == {"v000002"}, server.log.read_text)
        answers.clear()
        while len(answers) < 8 or len({answer.model_version for answer in answers}) < 2:
            assert len(answers) < 40
            answers.append(answer := asked())
            assert answer.completion is not None
            generator = generators.served(answer.answer_id)
            assert answer.completion.version == (packaged_version if generator == "none" else generator)
            assert answer.model_version == rerankers.served(answer.answer_id)
            assert answer.completion.sampling.temperature == 0.7
            assert len(answer.completion.logprobs) == len(answer.completion.completion_tokens) > 0
            assert all(logprob <= 0 for logprob in answer.completion.logprobs)
        # What the versions cost the object tier is in the ledger of the stages that asked.
        rows = {row.stage for row in run.ledger.rows() if row.store == "models" and row.bytes}
        assert rows >= {"rerank", "generate"}


def test_ctrl_c_while_it_loads_ends_it_quickly_and_quietly(tmp_path: Path) -> None:
    with started(tmp_path, tmp_path / "cache") as server:

        def live() -> bool:
            try:
                return httpx.get(f"{server.url}/health/live", trust_env=False).is_success
            except httpx.TransportError:
                return False

        until(60, live, server.log.read_text)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert "Traceback" not in server.log.read_text()


def test_what_is_wrong_at_the_start_is_said(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    command = [sys.executable, "-m", "headrace.models.server", "--port"]
    keyless = subprocess.run([*command, "1"], env=env, capture_output=True, text=True)
    assert keyless.returncode == 2
    assert "HEADRACE_MODELS_KEY" in keyless.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env |= {"HEADRACE_MODELS_KEY": KEY, "HEADRACE_MODELS_CACHE": str(tmp_path)}
        port = str(taken.getsockname()[1])
        refused = subprocess.run([*command, port], env=env, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.soak(minutes=1)
def test_the_packaged_models_are_served_as_they_are(
    storage: Endpoints, models_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(INSTEAD)
    (tmp_path / "endpoints.json").write_text(storage.model_dump_json())
    with started(tmp_path, models_cache) as server:
        wait_ready(server.endpoint("embedder"), 60)
        from sentence_transformers import SentenceTransformer

        bare = SentenceTransformer(str(embedder_folder()), device="cpu")
        with Embedder(server.endpoint("embedder")) as embedder:
            assert np.abs(embedder.embed(TEXTS, kind="passage") - bare.encode(TEXTS, normalize_embeddings=True)).max() < 1e-5
        plain = ask(server, cache=False)
        assert "Moreau" in plain.text
        assert plain.version.startswith("SmolLM2-135M-Instruct")
        first, second = ask(server, tenant="real"), ask(server, tenant="real")
        assert (first.reused_tokens, second.reused_tokens >= 128) == (0, True)
        assert plain.logprobs == first.logprobs == second.logprobs
        assert ask(server, most=40, stop=["Moreau"]).text == ask(server, most=40).text.partition("Moreau")[0]
