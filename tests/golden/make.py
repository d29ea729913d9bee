"""Makes the home that test_old_home.py opens, by the code of the commit it is run at, with that commit's tests beside it.

See README.md for the command. What it put there is read back by the same code and stored beside the home.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from forgetting import METER, NOON, World, interaction, passage, verdict
from judged import judge
from rounds import CARD

from headrace.catalog import CHECKPOINTS, CHUNKS, FEEDBACK, INTERACTIONS, MODELS, Tier, stores
from headrace.core.maintain import record
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.landing.land import land
from headrace.lineage.forget import Subject, forget
from headrace.lineage.forget.subject import USER
from headrace.lineage.graph import trace_answer, trace_event
from headrace.platform import open_platform
from headrace.settings import Preparing, Settings, Training
from headrace.storage.metadata import By, Metadata
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.handles import VectorReader
from headrace.training.data import prepare
from headrace.training.evaluate import Evaluation
from headrace.training.manifest import Clock
from headrace.training.promote import promote
from headrace.training.promotions import champion
from headrace.training.round import plan
from headrace.training.trainer import Trained

TENANT = "acme"
WHO = "cli:ann"
QUESTION = "raised by the mill"
# Not durable: what runs now, locks, logs; and what SeaweedFS's maintenance plug-ins are told anew at each start.
LEFT_OUT = ("logs", "platform/ports.json", "platform/endpoints.json", "platform/request.json", "objects/admin")


def filled(world: World) -> dict[str, Any]:
    """Everything a home of some days has, in small; what cannot be read back afterwards is returned."""
    texts = {
        "weir.md": "# The weir\n\nIt was raised in 1911 by the mill.",
        "pond.md": "# The pond\n\nSwans have lived on it since the flood.",
    }
    chunks = {uri: world.document(uri, text, tenant=TENANT)[0] for uri, text in texts.items()}
    judge(world.endpoints, 12, liked="yes", seed=1)
    weir = [passage(chunks["weir.md"], "weir.md")]
    world.say(
        INTERACTIONS,
        [
            interaction("a-ann", "ann", "the weir", tenant=TENANT, minute=1, passages=weir, similarity=0.5, groundedness=1.0),
            interaction("a-eve", "eve", "her secret", tenant=TENANT, minute=2, passages=weir),
        ],
    )
    world.say(
        FEEDBACK,
        [
            {**verdict("a-ann", "ann", "the weir", tenant=TENANT, minute=3), "consent": True},
            verdict("a-eve", "eve", "her secret", tenant=TENANT, minute=4),
        ],
    )
    newer = {**verdict("a-ann", "bob", "the mill", tenant=TENANT, minute=5), "at": NOON.isoformat(), "mood": "glad"}
    world.raw(FEEDBACK, [json.dumps(newer).encode(), b"not JSON"])
    run = world.runner.run
    run(land)
    settings = Training(preparing=Preparing(simulated=True))
    planned = run(plan, settings=settings, recipe="reranker")
    dataset = run(
        prepare,
        snapshots=planned.snapshots,
        version=planned.dataset_version,
        seed=settings.seed,
        settings=settings.preparing,
        generator_history=planned.generator_history,
    )
    prefix = f"reranker/{dataset.version}"
    for name in ("weights/model.safetensors", "weights/config.json", "step-000004.pt"):
        world.objects(CHECKPOINTS).put(f"{prefix}/{name}", b"{}")
    run(
        promote,
        plan=planned,
        dataset=dataset,
        trained=Trained(f"{prefix}/weights", f"{prefix}/step-000004.pt", 9, 4, 4, 1.0, 0.1, 0.1, 0.0, 1.5, 0.5),
        evaluation=Evaluation(
            "nDCG@10",
            "none",
            3,
            0.5,
            0.9,
            0.4,
            0.3,
            0.5,
            0.99,
            0.5,
            CARD,
            users=3,
        ),
        settings=settings,
        run=world.runner.record.id,
        clock=Clock(planned.newest_verdict, time.perf_counter()),
    )
    served = interaction("a-late", "ann", "the pond", tenant=TENANT, minute=9, passages=weir, model_version="v000001")
    world.say(INTERACTIONS, [served])
    run(land)
    proof = forget(world.runner, Subject(USER, TENANT, "eve"), who=WHO, embedded=True)
    metadata = Metadata(world.endpoints)
    metadata.add_tenant(TENANT, {"documents": 7}, by=By("", "cli:ann", ""))
    key, known = metadata.create_key(TENANT, ["read", "write"], label="reader", by=By("", "cli:ann", ""))
    gone, revoked = metadata.create_key(TENANT, ["admin"], by=By("", "cli:ann", ""))
    metadata.revoke_key(revoked.id, by=By("", "cli:ann", ""))
    metadata.close()
    return {"proof": proof, "key": key, "key_id": known.id, "revoked": gone, "chunks": chunks, "round": planned.round}


def read_back(world: World) -> dict[str, Any]:
    """What the old code reads of it."""
    run, endpoints = world.runner.run, world.endpoints
    vectors = VectorReader(CHUNKS, endpoints, METER)
    random = np.random.default_rng(0).random(384).astype("f4")
    tables = {}
    for store in stores(Tier.TABLE):
        table = TableReader(store, endpoints, METER)
        rows = sorted(json.dumps(row, sort_keys=True, default=_text) for row in table.read().to_pylist())
        digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        tables[store.name] = {
            "columns": store.columns.names,
            "rows": len(rows),
            "sha256": digest,
            "properties": table.snapshot_properties(),
        }
    pointer = champion(world.objects(MODELS), "reranker")[0]
    return {
        "tables": tables,
        "fulltext": [hit.uri for hit in vectors.fulltext(QUESTION, tenant=TENANT, most=5)],
        "dense": [[hit.uri, hit.text] for hit in vectors.dense(random, tenant=TENANT, most=5)],
        "champion": {"version": pointer.version, "previous": pointer.previous, "round": pointer.round},
        "answer": run(trace_answer, answer_id="a-late"),
        "forgotten": run(trace_event, event="feedback/0/49"),
        "ends": {topic.name: TopicReader(topic, endpoints, METER).spans()[0].end for topic in (INTERACTIONS, FEEDBACK)},
    }


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def main() -> None:
    """Make the home and pack it into the file that the command line names."""
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADRACE_SETTINGS"] = str(Path(folder) / "none.toml")
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        with open_platform(Settings(home=home), parts=frozenset({"objects", "head"})) as endpoints:
            with recorded("demo", home) as run:
                told = filled(World(endpoints, Runner(run, endpoints)))
            with recorded("runs", home) as run:
                world = World(endpoints, Runner(run, endpoints))
                world.runner.run(record, home=home)
                told |= read_back(world)
                # And what has not landed yet.
                late = [verdict("a-late", user, "the pond", tenant=TENANT, minute=20) for user in ("ann", "eve")]
                told["late"] = world.say(FEEDBACK, late)
                world.raw(FEEDBACK, [b"nor this"])
        time.sleep(6)  # until the servers have ended
        (Path(folder) / "told.json").write_text(json.dumps(told, indent=1, sort_keys=True, default=_text))
        for name in LEFT_OUT:
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        with tarfile.open(target, "w:xz") as packed:
            for name in ("home", "told.json"):
                packed.add(Path(folder) / name, name)


if __name__ == "__main__":
    main()
