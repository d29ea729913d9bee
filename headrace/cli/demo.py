"""The demo: both pipelines once on the embedded platform, with a report of the bytes moved."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from headrace.answering.engine import QueryEngine
from headrace.answering.options import AnswerOptions
from headrace.answering.record import Answer, Verdict
from headrace.app import App
from headrace.catalog import CHUNK_ROWS
from headrace.cli.common import in_this_home
from headrace.cli.render.results import counted, ledger_table, say_indexed, say_round, say_sources, tier_table
from headrace.core.run import journal_of
from headrace.core.stage import stage
from headrace.errors import NotFound, Permanent
from headrace.explain.deck.deck import build, ran_both, write_deck
from headrace.explain.diagram.draw import draw
from headrace.explain.diagram.recorded import PIPELINES, measured
from headrace.explain.diagram.views import Detail, View
from headrace.models.client import Generator
from headrace.models.support import content_words
from headrace.platform.home import DEMO
from headrace.settings import AnswerMode, EmbeddedPart, Settings
from headrace.simulate.questions import Excerpt, natural_questions
from headrace.storage.ledger import summed
from headrace.storage.tables.handles import TableReader

_LOOK_S = 1.1
_UNPACKED_S = 600.0  # the first time, a slow or busy machine has to unpack the generator
_RULE = 100  # columns of the line above a section, at most
_TENANT_USER = "simulated-user"
_SEED = 11
_ASKED = 3  # questions about a user's folder
# For Python's language reference; a user's folder is asked about what is in it (`natural_questions`).
_QUESTIONS = (
    "What does the assert statement do?",
    "When is the finally clause of a try statement executed?",
    "How are default parameter values evaluated?",
)

RULE = (
    "The simulated user has one sentence of the documents in mind and searches with half of its words. It likes a passage that"
    " holds that sentence or is under the same heading of the same document, and dislikes every other passage it is shown."
)

STAND_IN = (
    "These answers are quoted. The embedded generator, 135 million parameters, stands in for your own"
    " ([models.generator] in headrace.toml) and writes worse than Headrace quotes; here it answers once, for its KV cache."
)


@dataclass(frozen=True)
class Memory:
    """What a simulated user looks for: its search words and the chunk they come from."""

    question: str
    chunk_id: str
    document_id: str
    heading: str


@dataclass(frozen=True)
class Sample:
    """What a simulated user looks for, and questions that a person would ask about the same documents."""

    memories: list[Memory]
    questions: list[str]


@stage("Reads passages that the simulated user will search for.")
def sample_passages(chunks: Annotated[TableReader, CHUNK_ROWS], tenant: str, most: int, seed: int) -> Sample:
    """Choose up to `most` sentences, spread over the documents, and half of each one's content words, in order."""
    rows = [
        row
        for row in chunks.read(("chunk_id", "document_id", "tenant", "heading", "text")).to_pylist()
        if row["tenant"] == tenant
    ]
    dice = random.Random(seed)
    rows.sort(key=lambda row: row["chunk_id"])
    dice.shuffle(rows)
    by_document: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_document.setdefault(row["document_id"], []).append(row)
    # Round robin over documents, so that a long one does not supply all questions.
    queues = [by_document[name] for name in sorted(by_document)]
    spread = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    memories = []
    for row in spread:
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", _prose(row["text"])) if 8 <= len(content_words(s)) <= 30]
        if not sentences:
            continue
        sentence = dice.choice(sentences)
        words = list(dict.fromkeys(w for w in re.findall(r"\w+", sentence) if w.lower() in content_words(sentence)))
        words_kept = sorted(dice.sample(range(len(words)), max(3, len(words) // 2)))
        memories.append(Memory(" ".join(words[i] for i in words_kept), row["chunk_id"], row["document_id"], row["heading"]))
        if len(memories) >= most:
            break
    asked = natural_questions([Excerpt(row["document_id"], row["heading"] or "", row["text"]) for row in spread], _ASKED)
    return Sample(memories, asked or ["What are these documents about?"])


def run_demo(settings: Settings, *, docs: Path | None, on: str, out_dir: Path, questions: int, console: Console) -> None:
    """Index, ask, judge `questions` searches, run one training round, ask again, and report."""
    started = time.perf_counter()
    if docs is not None and not docs.exists():
        raise NotFound(f"{docs} does not exist.", hint="Name a folder: make demo DOCS=path")
    console.print(Text("Headrace demo: both pipelines once, on real components, on this machine.", style="bold"))
    with App(settings, "demo", on=on) as app:
        endpoints = app.runner.endpoints
        console.print(
            f"Platform ready after {time.perf_counter() - started:.1f} s: S3 {endpoints.s3_endpoint},"
            f" Iceberg {endpoints.catalog_uri}, Kafka {endpoints.kafka_bootstrap}",
            highlight=False,
        )
        folder = docs or reference(settings.home)
        _head(console, "1  Documents to index", "inference, ahead of time")
        done = app.documents.index([folder])
        say_indexed(console, done)
        if done.index.chunks == 0:
            raise Permanent(
                "None of these files has text that can be indexed.", hint="Name a folder with text, Markdown, HTML or PDF."
            )
        sample = app.runner.run(sample_passages, tenant=settings.tenant, most=questions, seed=_SEED)
        memories, questions_asked = sample.memories, _QUESTIONS if docs is None else sample.questions
        _head(console, "2  Questions and answers", "inference, at question time")
        _wake(console, app)
        _ask(console, app.answers, settings, questions_asked)
        if quoted := app.answers.mode() == "extractive":
            console.print(Text(STAND_IN, style="italic"))
            _ask(console, app.answers, settings, questions_asked[:1], "generated")
        _head(console, "3  Verdicts", "feedback, written to Kafka")
        missed = _judge(console, app, memories)
        _head(console, "4  One round of the training loop", "training")
        promoted = False
        try:
            made = replace(app.training, settings=_learning(settings)).round("ranking")
            say_round(console, made)
            promoted = made.decision.promoted
        except Permanent as nothing:
            console.print(Text(f"No round: {nothing.message} {nothing.hint}", style="yellow"))
            if docs is not None:
                said = f"These documents gave {counted(len(memories), 'question')} to judge; the demo's own give {questions:,}."
                console.print(said, highlight=False)
        _head(
            console, "5  The same questions again", f"inference, with {'the model that won' if promoted else 'the same models'}"
        )
        if promoted:
            _before_and_after(console, app, missed)
        _ask(console, app.answers, settings, questions_asked[:1])
        if quoted:
            _ask(console, app.answers, settings, questions_asked[:1], "generated")
        app.answers.settle()  # what is drawn has the KV that was stored behind the answers
        run = app.runner.record
        _head(console, "6  What moved where", f"run {run.id}")
        rows = summed(run.ledger.export(), by=("stage", "store", "tier"))
        console.print(ledger_table(rows, title=""))
        console.print()
        console.print(tier_table(rows))
        if any(row["estimated"] for row in rows):
            console.print("≈ estimated: that store's library hides its I/O (docs/explanation/ledger.md).", style="dim")
    slides = draw_run(settings.home, run.id, out_dir)
    console.print()
    console.print(
        f"Diagrams drawn from this run: {out_dir}/inference.svg and {out_dir}/training.svg, each also as .png and .pptx,"
        f" with every flow (-full.svg), and over time (-time.svg)."
        f" {f'Slides: {out_dir}/deck.pptx.' if slides else 'No slides: they show a round.'}",
        highlight=False,
    )
    console.print(f"The demo took {time.perf_counter() - started:.0f} s. Next: {in_this_home('up')}", highlight=False)


def draw_run(home: Path, run: str, folder: Path) -> bool:
    """Draw both pipelines of a run, at slide level, with every flow, and over time; and make slides of it if it has a round.

    Returns whether there are slides.
    """
    for name in PIPELINES:
        diagram = measured(home, name, run=run).diagram()
        for suffix in (".svg", ".png", ".pptx"):
            draw(diagram, folder / f"{name}{suffix}")
        draw(diagram, folder / f"{name}-full.svg", detail=Detail.FULL)
        draw(diagram, folder / f"{name}-time.svg", view=View.TIME)
    journal = journal_of(home, run)
    if slides := ran_both(journal):  # a demo whose documents gave nothing to learn from has no round
        write_deck(folder / "deck.pptx", build(journal))
    return slides


def _learning(settings: Settings) -> Settings:
    """Settings of the demo's round: it may learn from its one simulated user, which other rounds do not by default."""
    training = settings.training
    return settings.model_copy(
        update={
            "training": training.model_copy(
                update={
                    "preparing": training.preparing.model_copy(update={"simulated": True}),
                    "gate": training.gate.model_copy(update={"least_users": 1}),
                }
            )
        }
    )


def reference(home: Path) -> Path:
    """Write Python's language reference, from the pydoc_data package, as files."""
    from pydoc_data.topics import topics

    folder = home / DEMO / "python-reference"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in topics.items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")
    return folder


def _wake(console: Console, app: App) -> None:
    """Load the embedded generator, so that the first answer's time does not include it."""
    if not isinstance(app.settings.models.generator, EmbeddedPart):
        return
    started = time.perf_counter()
    patient = app.runner.endpoints.generator.model_copy(update={"timeout_s": _UNPACKED_S})
    with (
        app.runner.bars.waiting("Loading the generator (unpacked the first time) …"),
        Generator(patient) as generator,
    ):
        for _ in generator.stream([{"role": "user", "content": "Hello"}], max_tokens=1, cache=False):
            pass
    if (seconds := time.perf_counter() - started) > 1:
        sentence = f"Loaded the generator in {seconds:.1f} s (unpacked the first time)."
        console.print(sentence, style="dim", highlight=False)


def _ask(
    console: Console, engine: QueryEngine, settings: Settings, questions: Sequence[str], mode: AnswerMode | None = None
) -> None:
    for question in questions:
        console.print(Text(f"\n? {question}", style="bold").append(f"  ({mode})" if mode else "", style="dim"))
        for piece in engine.ask(question, tenant=settings.tenant, user="demo", options=AnswerOptions(mode=mode)):
            if isinstance(piece, Answer):
                console.print()
                say_sources(console, piece.with_passages())
            else:
                console.out(piece, end="", highlight=False)
                console.file.flush()


def _judge(console: Console, app: App, memories: Sequence[Memory]) -> list[tuple[Memory, int]]:
    """Search and judge; returns the searches that found the passage in mind, but not first, with its rank."""
    console.print(Text(f"SIMULATED user, not a person: {RULE}", style="italic"))
    liked, disliked, tenant = 0, 0, app.settings.tenant
    missed: list[tuple[Memory, int]] = []
    verdicts: list[Verdict] = []
    for memory in app.runner.bars.track(memories, "search", total=len(memories), of="questions"):
        answer = app.answers.search(memory.question, tenant=tenant, user=_TENANT_USER, simulated=True)
        if (rank := _rank(memory, answer)) is not None and rank > 1:
            missed.append((memory, rank))
        for passage in answer.passages:
            hit = passage.hit
            up = hit.chunk_id == memory.chunk_id or (hit.document_id == memory.document_id and hit.heading == memory.heading)
            liked, disliked = liked + up, disliked + (not up)
            reason = "holds what I had in mind" if up else "about something else"
            verdicts.append(
                Verdict(
                    answer.answer_id,
                    up,
                    tenant,
                    _TENANT_USER,
                    chunk_id=hit.chunk_id,
                    reason=reason,
                    simulated=True,
                )
            )
        if len(verdicts) >= 500:
            app.answers.verdicts.record(verdicts)
            verdicts = []
    app.answers.verdicts.record(verdicts)
    console.print(f"{len(memories)} searches, {liked:,} passages liked, {disliked:,} disliked.")
    return missed


def _rank(memory: Memory, answer: Answer) -> int | None:
    """The rank of the passage that the user had in mind, `None` where it was not found."""
    return next((rank for rank, passage in enumerate(answer.passages, 1) if passage.hit.chunk_id == memory.chunk_id), None)


def _before_and_after(console: Console, app: App, missed: Sequence[tuple[Memory, int]]) -> None:
    """Search again for three passages that did not come first: where they come now."""
    time.sleep(_LOOK_S)  # the pointer is read once a second
    console.print("Three searches, spread over those whose passage did not come first, before and after the round:")
    for memory, before in missed[:: max(1, len(missed) // 3)][:3]:
        answer = app.answers.search(memory.question, tenant=app.settings.tenant, user="demo", record=False)
        found = _rank(memory, answer)
        after = f"rank {found}" if found is not None else "not found"
        console.print(Text(f"  rank {before} → {after}  {memory.question}"))


def _prose(text: str) -> str:
    """The running text of a passage, without code, tables and headings."""
    lines = [line for line in text.splitlines() if line[:1] not in ("|", "#", ">") and not line.startswith("    ")]
    return " ".join(" ".join(lines).split())


def _head(console: Console, title: str, what: str) -> None:
    console.print()
    rule = Rule(Text.assemble((title, "bold"), "  ", (what, "dim")), align="left", style="dim")
    console.print(rule, width=min(console.width, _RULE))  # a file takes lines of any length
