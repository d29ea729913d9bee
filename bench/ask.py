"""ask: seconds from a question to the first token of its answer, with the models loaded; and what KV from files saves."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from headrace.answering.record import Answer
from headrace.app import App
from headrace.cli.demo import reference
from headrace.documents.index import index_documents
from headrace.settings import Settings

_QUESTIONS = (
    "What does the assert statement do?",
    "When is the finally clause of a try statement executed?",
    "How are default parameter values evaluated?",
    "What is a lambda expression?",
    "What does the global statement do?",
    "How does the with statement call __enter__ and __exit__?",
)


def measure() -> dict[str, Any]:
    """Bound: first token within 3 s. Each question is asked twice: the second time its passages' KV comes from files."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(home=Path(folder))
        with App(settings, "bench-ask", quiet=True) as app:
            index_documents(app.runner, [reference(settings.home)], tenant="default", settings=settings.inference)
            engine = app.answers
            _first(engine, "What does the pass statement do?")  # loads the generator: one that is refused would not
            cold = [_first(engine, question) for question in _QUESTIONS]
            warm = [_first(engine, question) for question in _QUESTIONS]
    return {
        "first_token_ms": {"median": statistics.median(cold), "max": max(cold)},
        "first_token_kv_from_files_ms": {"median": statistics.median(warm), "max": max(warm)},
        "bound_ms": 3000,
    }


def _first(engine: Any, question: str) -> float:
    *_, last = engine.ask(question, tenant="default", user="bench")
    assert isinstance(last, Answer)
    return last.timings_ms["first_token"]
