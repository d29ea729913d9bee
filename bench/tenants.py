"""tenants: what one more tenant costs a service that searches and records for many, over one index of 2,000 chunks on S3."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil

from bench.search import corpus
from headrace.catalog import CHUNKS, FEEDBACK
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.core.stage import stage
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.vectors.handles import VectorReader, VectorWriter

_ROWS = 2_000
_TENANTS = (1, 5, 20)


@stage("Searches for one tenant and records a verdict, through the handles that answering has.")
def ask(
    chunks: Annotated[VectorReader, CHUNKS],
    verdicts: Annotated[TopicWriter, FEEDBACK],
    tenant: str,
    embedding: np.ndarray[Any, Any],
) -> None:
    """One search and one event."""
    chunks.fusion("word7 word12", embedding, tenant=tenant, most=10)
    row = {field.name: None if field.nullable else "" for field in FEEDBACK.columns}
    verdicts.append([{**row, "verdict_id": tenant, "answer_id": tenant, "tenant": tenant}], key="answer_id")


def measure() -> dict[str, Any]:
    """Resident MiB, threads and open files of the process after so many tenants have asked three times each."""
    made = corpus(_ROWS, {f"tenant-{n}": 1 / max(_TENANTS) for n in range(max(_TENANTS))}, 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_platform(Settings.load(home=Path(folder)), parts=frozenset({"objects", "head"})) as endpoints,
    ):
        writer = VectorWriter(CHUNKS, endpoints, Meter(Ledger(), "bench"))
        writer.upsert(made.rows)
        writer.build()
        runner, process, found = Runner(Run("tenants", Path(folder)), endpoints), psutil.Process(), {}
        embedding = made.embeddings[0]
        del made
        for tenant in range(max(_TENANTS)):
            for _ in range(3):
                runner.run(ask, tenant=f"tenant-{tenant}", embedding=embedding)
            if tenant + 1 in _TENANTS:
                gc.collect()
                used = {"mib": process.memory_info().rss >> 20, "threads": process.num_threads(), "files": process.num_fds()}
                found[f"{tenant + 1}_tenants"] = used
        return found


if __name__ == "__main__":
    import json

    print(json.dumps(measure(), indent=2))
