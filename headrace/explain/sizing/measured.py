"""Quantities of a sizing as a run of this home measured them, each beside what the formulas say for that run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from headrace.catalog import CHECKPOINTS, CHUNKS, DIMENSIONS, KV_STORES, LANDINGS, Tier
from headrace.core.run import journal_of, to_measure_by
from headrace.explain.sizing import formulas
from headrace.explain.sizing.models import PRESETS, TYPE_BYTES
from headrace.explain.sizing.parameters import SizingParameters
from headrace.models.kv.format import BLOCK

_RUNS = 50  # newest runs that are looked at
_GENERATOR = "smollm2-135m"  # the embedded one, whose blocks are the only ones that this home's KV cache holds
_FEW_QUESTIONS = 20  # below so many, a process's first search, which opens the index and fills its cache, outweighs the others
_FEW_CHUNKS = 10_000  # below so many, manifests and index files outweigh what they are about
_EXACT_ROWS = 1_000  # up to so many rows a search reads every vector (storage/vectors/table.py)


class Measurement(BaseModel):
    """A measured value beside the estimate for the same run; `error` is estimate ÷ measured − 1."""

    model_config = ConfigDict(frozen=True)

    name: str
    tier: str
    label: str
    measured: float
    estimated: float
    error: float
    unit: str
    how: str
    """What was divided by what, with the numbers."""
    formula: str
    note: str
    run: str
    command: str
    sample: int
    """Number of things that the measured bytes were divided by."""
    of_runs: int
    """Number of runs that measured the same quantity; of these, this one has the largest sample."""

    @property
    def source(self) -> str:
        """The run, and why it was chosen, in words."""
        return self.run if self.of_runs == 1 else f"{self.run}, the largest sample of {self.of_runs} runs"


def measurements(home: Path, run: str | None = None) -> tuple[Measurement, ...]:
    """Each quantity as the run with the largest sample measured it, of this home's newest, the newer of two equal ones.

    With `run`, those of that run. Raises `NotFound` for it.
    """
    journals = [journal_of(home, run)] if run else to_measure_by(home, _RUNS)
    found: dict[str, list[Measurement]] = {}
    for journal in journals:
        for one in measured_by(journal):
            found.setdefault(one.name, []).append(one)
    largest = {name: max(ones, key=lambda one: one.sample) for name, ones in found.items()}
    return tuple(largest[name].model_copy(update={"of_runs": len(found[name])}) for name in _ORDER if name in found)


def measured_by(journal: Mapping[str, Any]) -> Iterator[Measurement]:
    """What one run measured; a quantity that it did not move, or did not count, is left out."""
    run = _Run(journal)
    for maker in (_chunk, _question, _token, _checkpoint, _event):
        if (one := maker(run)) is not None:
            yield one


class _Run:
    """A journal's rows and counts."""

    def __init__(self, journal: Mapping[str, Any]) -> None:
        self.id, self.command = str(journal["run"]), str(journal["command"])
        self.rows: list[Mapping[str, Any]] = list(journal["rows"])
        self.counts: Mapping[str, int] = journal.get("counts", {})
        round_ = journal.get("detail", {}).get("round", {})
        self.training: Mapping[str, Any] = round_.get("training", {})

    def total(self, what: str, tier: Tier, *, stages: tuple[str, ...], stores: tuple[str, ...], direction: str) -> int:
        return sum(
            int(row[what])
            for row in self.rows
            if row["tier"] == tier and row["direction"] == direction and row["stage"] in stages and row["store"] in stores
        )

    def measurement(
        self, name: str, tier: Tier, label: str, moved: float, count: int, estimated: float, **said: str
    ) -> Measurement:
        measured = moved / count
        return Measurement(
            name=name,
            tier=str(tier),
            label=label,
            measured=measured,
            estimated=estimated,
            error=estimated / measured - 1 if measured else 0.0,
            unit="B",
            sample=count,
            of_runs=1,
            run=self.id,
            command=f"headrace {self.command}",
            **said,
        )


def _chunk(run: _Run) -> Measurement | None:
    chunks, text = run.counts.get("chunks", 0), run.counts.get("chunk_text_bytes", 0)
    moved = run.total("bytes", Tier.VECTOR, stages=("embed", "index"), stores=(CHUNKS.name,), direction="write")
    if not (chunks and moved):
        return None
    defaults = SizingParameters()
    each = text / chunks
    index = formulas.index_bytes_per_vector("ivf_rq", DIMENSIONS)
    return run.measurement(
        "vector_bytes_per_chunk",
        Tier.VECTOR,
        "Written to the vector tier per chunk",
        moved,
        chunks,
        DIMENSIONS * 4 + index + each + defaults.chunk_metadata_bytes,
        how=f"{moved:,} B written by embed and index ÷ {chunks:,} chunks",
        formula=f"{DIMENSIONS} × 4 + {index:.0f} (ivf_rq) + {each:.0f} of text + {defaults.chunk_metadata_bytes:.0f} of metadata",
        note="what was written includes the full-text index, and files that were merged and written again"
        + (f"; of only {chunks:,} chunks, the index's own files are the most of it" if chunks < _FEW_CHUNKS else ""),
    )


def _question(run: _Run) -> Measurement | None:
    questions, rows = run.counts.get("questions", 0), run.counts.get("index_chunks", 0)
    moved = run.total("bytes", Tier.VECTOR, stages=("retrieve",), stores=(CHUNKS.name,), direction="read")
    if not (questions and rows and moved):
        return None
    kind = "flat" if rows <= _EXACT_ROWS else "ivf_rq"
    defaults = SizingParameters()
    searched = formulas.searched_bytes(kind, DIMENSIONS, rows, 4, defaults.searched_share, defaults.refined)
    return run.measurement(
        "vector_bytes_per_question",
        Tier.VECTOR,
        "Read from the vector tier per question",
        moved,
        questions,
        searched,
        how=f"{moved:,} B read by retrieve ÷ {questions:,} questions over {rows:,} chunks",
        formula=f"{kind}: what one search reads of {rows:,} vectors of {DIMENSIONS} × 4 B, without a cache",
        note="what was read includes the full-text index, and leaves out what the client's cache held"
        + ("; of so few questions the first, which opens the index, is the most of it" if questions < _FEW_QUESTIONS else ""),
    )


def _token(run: _Run) -> Measurement | None:
    tokens = run.counts.get("kv_tokens_written", 0)
    by_tier = {
        store.tier: run.total("bytes", store.tier, stages=("generate",), stores=(store.name,), direction="write")
        for store in KV_STORES
    }
    tier, moved = max(by_tier.items(), key=lambda item: item[1])
    if not (tokens and moved):
        return None
    model = PRESETS[_GENERATOR]
    return run.measurement(
        "kv_bytes_per_token",
        tier,
        "KV written per token",
        moved,
        tokens,
        formulas.kv_bytes_per_token(model, TYPE_BYTES["fp16"]),
        how=f"{moved:,} B written by generate ÷ {tokens:,} tokens in blocks of {BLOCK}",
        formula=f"{model.layers} × 2 × {model.kv_heads} × {model.head_dim} × 2 ({model.name}, stored as fp16)",
        note="the rest is each block's header with its checksum",
    )


def _checkpoint(run: _Run) -> Measurement | None:
    parameters, written = run.training.get("parameters", 0), run.training.get("checkpoints", 0)
    moved = int(run.training.get("checkpoint_bytes", 0))
    if not (parameters and written and moved):
        return None
    each = formulas.RECIPES["fp32-adam"]
    return run.measurement(
        "checkpoint_bytes",
        Tier.OBJECT,
        "One checkpoint",
        moved,
        written,
        parameters * each,
        how=f"{moved:,} B of step files in {CHECKPOINTS.name} ÷ {written:,} checkpoints",
        formula=f"{parameters:,} trained parameters × {each:.0f} ({formulas.RECIPE_PARTS['fp32-adam']})",
        note="",
    )


def _event(run: _Run) -> Measurement | None:
    events = run.counts.get("events", 0)
    stores = tuple(table.name for table in LANDINGS.values())
    moved = run.total("bytes", Tier.TABLE, stages=("land",), stores=stores, direction="write")
    read = run.total("bytes", Tier.STREAM, stages=("land",), stores=tuple(topic.name for topic in LANDINGS), direction="read")
    if not (events and moved and read):
        return None
    ratio = SizingParameters().landed_ratio
    return run.measurement(
        "landing_bytes_per_event",
        Tier.TABLE,
        "Written to tables per event",
        moved,
        events,
        read / events * ratio,
        how=f"{moved:,} B written by land ÷ {events:,} events",
        formula=f"{read / events:,.0f} B of an event on the head × {ratio:g} (compression)",
        note="events that repeat themselves compress better than assumed"
        if read * ratio > moved
        else "small commits: each also writes Iceberg's metadata, which large ones share",
    )


_ORDER = (
    "vector_bytes_per_chunk",
    "vector_bytes_per_question",
    "kv_bytes_per_token",
    "checkpoint_bytes",
    "landing_bytes_per_event",
)
