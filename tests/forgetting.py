"""What the tests of lineage and of forgetting share: a small world of two users and two documents, and a look into every byte."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from rounds import manifest as a_manifest

from headrace.catalog import CHUNK_ROWS, CHUNKS, DATASETS, EXAMPLES, INDEXES, KV_CACHE, MODELS, ROUNDS
from headrace.core.runner import Runner
from headrace.documents.chunk import chunk
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parse import parse
from headrace.documents.put import put_document
from headrace.landing.land import land
from headrace.platform.address import BUCKET, LAKE, VECTORS
from headrace.settings import Inference
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter, connect
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.vectors.generations import Indexes, IndexGeneration, IndexWriter
from headrace.storage.vectors.handles import VectorWriter
from headrace.training import manifest

METER = Meter(Ledger(), "test")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def interaction(answer_id: str, user: str, words: str, *, tenant: str, minute: int, **more: Any) -> dict[str, Any]:
    row = {
        "answer_id": answer_id,
        "kind": "answer",
        "tenant": tenant,
        "user": user,
        "simulated": False,
        "question": f"{words}, what is it?",
        "answer": f"this about {words}",
        "passages": [],
        "prompt_tokens": [1, 2, 3],
        "completion_tokens": [4],
        "logprobs": [-0.5],
        "generator_version": "none",
        "model_version": "none",
        "index_version": "g1.1",
        "timings": [],
        "moved": [],
        "run": "test",
        "at": NOON + timedelta(minutes=minute),
    }
    return {**row, **more}


def verdict(answer_id: str, user: str, words: str, *, tenant: str, minute: int, up: bool = True) -> dict[str, Any]:
    return {
        "verdict_id": f"v-{answer_id}-{user}",
        "answer_id": answer_id,
        "tenant": tenant,
        "user": user,
        "simulated": False,
        "up": up,
        "chunk_id": "",
        "reason": f"because of {words}",
        "correction": f"it is {words}",
        "at": NOON + timedelta(minutes=minute),
    }


def passage(chunk_id: str, document: str) -> dict[str, Any]:
    scores = {"retrieval_score": 0.5, "retrieval_rank": 1, "rerank_score": None, "rerank_rank": 1, "cited": True}
    return {"chunk_id": chunk_id, "document": document, **scores}


def example(answer_id: str, origins: list[str], words: str, *, tenant: str, dataset: str, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(EXAMPLES.columns.names)
    row |= {"example_id": hashlib.sha256(f"{answer_id}{more}".encode()).hexdigest()[:24], "split": "train", "tenant": tenant}
    row |= {"question": f"what about {words}?", "chunk_id": "", "passage": "", "label": 1.0, "retrieval_score": 0.0}
    row |= {"retrieval_rank": 0, "answer_id": answer_id, "origins": origins, "dataset": dataset, "kind": "answer"}
    return {**row, "answer": f"this about {words}", "prompt": [1, 2, 3], "passages": [f"they say {words}"], **more}


class World:
    """Handles on one home's stores."""

    def __init__(self, endpoints: Endpoints, runner: Runner) -> None:
        self.endpoints, self.runner = endpoints, runner

    def table(self, store: Any) -> TableWriter:
        return TableWriter(store, self.endpoints, METER)

    def objects(self, store: Any) -> ObjectWriter:
        return ObjectWriter(store, self.endpoints, METER)

    def rows(self, store: Any, **where: Any) -> list[dict[str, Any]]:
        rows = TableReader(store, self.endpoints, METER).read().to_pylist()
        return [row for row in rows if all(row[name] == value for name, value in where.items())]

    def say(self, store: Any, rows: list[dict[str, Any]]) -> list[str]:
        """Events onto the head; where each stands."""
        places = TopicWriter(store, self.endpoints, METER).append(rows, key="answer_id")
        return [f"{store.name}/{partition}/{offset}" for partition, offset in places]

    def raw(self, store: Any, values: list[bytes]) -> None:
        """Records as they are, also such that nobody can read."""
        from confluent_kafka import Producer
        from signed import signed

        producer = Producer({"bootstrap.servers": self.endpoints.kafka_bootstrap, "log_level": 0})
        for value in values:
            producer.produce(store.name, value, headers=signed(self.endpoints, store.name, value))
        assert producer.flush(20) == 0

    def document(self, uri: str, text: str, *, tenant: str) -> list[str]:
        """A document put, landed, parsed, chunked and embedded; its chunks."""
        return self.documents({uri: text}, tenant=tenant)[uri]

    def documents(self, texts: dict[str, str], *, tenant: str) -> dict[str, list[str]]:
        """Documents by name, all in one pass; the chunks of each."""
        for uri, text in texts.items():
            self.runner.run(put_document, tenant=tenant, uri=uri, data=text.encode())
        self.runner.run(land)
        self.runner.run(parse, limits=ParseLimits.from_settings(Inference()))
        self.runner.run(chunk, window=200, generation=1)
        rows = [row for row in self.rows(CHUNK_ROWS, tenant=tenant) if row["uri"] in texts]
        vectors = VectorWriter(CHUNKS, self.endpoints, METER)
        embedded = []
        for row in rows:
            random = np.random.default_rng(len(texts[row["uri"]]))
            embedded.append({**row, "embedding": random.random(384).astype("f4").tolist()})
        vectors.upsert(pa.Table.from_pylist(embedded, schema=CHUNKS.columns))
        vectors.build()
        serving = IndexGeneration(1, 200, "all-minilm-l6-v2", 384)
        IndexWriter(INDEXES, self.endpoints, METER).change(lambda now: now if now.serving else Indexes(serving=serving, newest=1))
        return {uri: [row["chunk_id"] for row in rows if row["uri"] == uri] for uri in texts}

    def dataset(self, version: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A dataset of one shard, as `prepare` leaves it; the files its list names."""
        table = pa.Table.from_pylist([{**row, "dataset": version} for row in rows], schema=EXAMPLES.columns)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        key, data = f"{version}/train-00000.parquet", buffer.getvalue()
        self.objects(DATASETS).put(key, data)
        file = {"key": key, "split": "train", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files = [{**file, "examples": table.num_rows, "questions": table.num_rows}]
        self.objects(DATASETS).put(f"{version}/list.json", json.dumps({"version": version, "files": files}).encode())
        self.table(EXAMPLES).append(table)
        return files

    def round(self, number: int, dataset: str, files: list[dict[str, Any]], *, model: str, start: str = "", **more: Any) -> str:
        """A committed round that released a version; that version."""
        version = f"v{number:06d}"
        found = a_manifest(
            number,
            version=version,
            recipe=model,
            model=model,
            start=start,
            begun=NOON.isoformat(),
            committed=NOON.isoformat(),
            dataset={"version": dataset, "files": files},
            **more,
        )
        manifest.publish(self.objects(ROUNDS), found)
        return version

    def serve(self, model: str, version: str) -> None:
        pointer = {"model": model, "version": version, "previous": "none", "round": int(version[1:]), "canary": None}
        self.objects(MODELS).put(f"{model}/champion.json", json.dumps(pointer).encode())

    def block(self, tenant: str, data: bytes) -> None:
        """A block of a tenant's KV cache, and one that a writer left half-written."""
        FileWriter(KV_CACHE, self.endpoints, METER).write(f"{tenant}/ab/abcd.0.safetensors", data)
        (self.endpoints.files_dir / KV_CACHE.name / tenant / "ab" / ".part-1-abce.0.safetensors").write_bytes(data)

    def holding(self, secret: str) -> list[str]:
        """Every object and file in which a word occurs, wherever in it: as it is, in a Parquet column, or in an Avro block."""
        word = secret.encode()
        return sorted(name for name, data in self._everything() if any(word in part for part in _parts(name, data)))

    def _everything(self) -> Iterator[tuple[str, bytes]]:
        for bucket in (BUCKET, VECTORS, LAKE):
            client = connect(self.endpoints, bucket)
            for page in obstore.list(client):
                for meta in page:
                    if not meta["size"]:
                        continue  # SeaweedFS lists an empty folder as an object of its name
                    try:
                        yield f"{bucket}/{meta['path']}", bytes(obstore.get(client, meta["path"]).bytes())
                    except FileNotFoundError:
                        continue
        for path in Path(self.endpoints.files_dir).rglob("*"):
            if path.is_file():
                yield f"files/{path.relative_to(self.endpoints.files_dir)}", path.read_bytes()


def _parts(name: str, data: bytes) -> Iterator[bytes]:
    yield data
    if data[:4] == b"PAR1":
        yield json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=_text, ensure_ascii=False).encode()
    if data[:4] == b"Obj\x01":
        yield from _avro_blocks(data)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _avro_blocks(data: bytes) -> Iterator[bytes]:
    """The blocks of an Avro file, which Iceberg compresses by deflate: their bounds of columns hold the beginnings of texts."""
    mark = data[-16:]
    for block in data.split(mark)[1:-1]:
        for start in range(min(24, len(block))):  # behind two numbers of a few bytes each
            try:
                yield zlib.decompress(block[start:], -15)
                break
            except zlib.error:
                continue
