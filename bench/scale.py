"""scale: what the vector index costs at ten thousand, a hundred thousand and a million chunks of 384 numbers.

The chunks are those of `search` (synthetic embeddings and text, a local directory), and so are the questions, without model time:
of tenants that own 94.9 %, 5 % and 0.1 % of the table. At each size: building it, its size on disk and this process's memory;
fusion, recall@10 of the dense search against comparing with every chunk that answers, bytes read by the first search and by later
ones; then one more document of twenty chunks, a deleted one, 600 rows and the maintenance that indexes them for full text.

`python -m bench.scale [SIZE ...] [--picture FILE.svg] [--predicted HOME]`: with a home that has indexed and asked, each size also
has what `headrace simulate` says of it from that home's runs, and how far off that is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.search import Corpus, asked, corpus, resident
from headrace.catalog import CHUNKS, Tier
from headrace.core.run import journal_of
from headrace.explain.diagram import theme
from headrace.explain.diagram.scene import Anchor, Box, Group, Item, Label, Line, Rect, Scene
from headrace.explain.diagram.svg import svg
from headrace.explain.diagram.theme import BOLD, LIGHT, REGULAR, SEMIBOLD
from headrace.explain.scaling.demand import DOCUMENTS, QUESTIONS, UnitDemand, demands
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors.handles import VectorReader, VectorWriter

_SIZES = (10_000, 100_000, 1_000_000)
_TENANTS = {"large": 0.949, "medium": 0.05, "small": 0.001}
_BATCH = 50_000  # rows of one upsert
_CHUNKS = 20  # of a document
_MORE = 600  # rows after which maintenance of the full-text index is due, at any of these sizes


def measure(sizes: Sequence[int] = _SIZES) -> dict[str, Any]:
    """What grows by less than the corpus is as it should be; the growth of each figure from the smallest size to the largest."""
    found = []
    for size in sizes:
        found.append(_at(size))
        print(_line(found[-1]), file=sys.stderr, flush=True)
    first, last = found[0], found[-1]
    growth = {name: round(value(last) / value(first), 2) for name, (_, value) in _CURVES.items() if value(first)}
    return {"sizes": found, "corpus_grows": round(last["chunks"] / first["chunks"], 1), "growth": growth}


def _at(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        endpoints = Endpoints.model_construct(vectors_uri=str(Path(folder) / "index"))
        made = corpus(size, _TENANTS, 1)
        ledger = Ledger()
        writer = VectorWriter(CHUNKS, endpoints, Meter(ledger, "bench"))
        with _cost(ledger) as filled:
            for start in range(0, size, _BATCH):
                writer.upsert(made.rows.slice(start, _BATCH))
        with _cost(ledger) as indexed:
            writer.build()
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        searches = _searches(endpoints, made)
        changes = _changes(writer, ledger, size)
        return {
            "chunks": size,
            "fill": filled,
            "build": indexed,
            "disk_mb": round(disk / 1e6, 1),
            **searches,
            **changes,
        }


def _searches(endpoints: Endpoints, made: Corpus) -> dict[str, Any]:
    """By tenant; the bytes are read by a process's handle that is new to the index, and by one that has searched before."""
    ledger = Ledger()
    reader = VectorReader(CHUNKS, endpoints, Meter(ledger, "bench"))
    tenants, moved = {}, []
    for tenant in _TENANTS:
        before = _bytes(ledger, Direction.READ)
        reader.fusion("word1 word7", made.embeddings[0], tenant=tenant, most=20)
        first = _bytes(ledger, Direction.READ) - before
        tenants[tenant] = {**asked(reader, made, tenant), "first_mb": round(first / 1e6, 3)}
        again = [row for row in ledger.rows() if row.direction == Direction.READ]
        moved.append((sum(row.ops for row in again), sum(row.bytes for row in again)))
    ops, size = moved[-1]
    return {"tenants": tenants, "kb_per_search": round(size / ops / 1e3, 1), "resident_mb": round(resident() / 1e6)}


def _changes(writer: VectorWriter, ledger: Ledger, size: int) -> dict[str, Any]:
    """Each change on the index that the ones before it left."""
    other = corpus(_CHUNKS + _MORE, _TENANTS, 7).rows
    names = np.arange(size, size + _CHUNKS + _MORE)
    for column, values in (("chunk_id", names), ("document_id", [f"d{number // _CHUNKS}" for number in names])):
        place = other.schema.get_field_index(column)
        other = other.set_column(place, other.schema.field(place), [[str(value) for value in values]])
    found = {}
    with _cost(ledger) as found["one_more"]:
        writer.upsert(other.slice(0, _CHUNKS))
        writer.build()
    with _cost(ledger) as found["delete"]:
        writer.delete({f"d{size // _CHUNKS}": ""})
    with _cost(ledger) as found["more_rows"]:
        writer.upsert(other.slice(_CHUNKS))
    with _cost(ledger) as found["maintenance"]:
        writer.maintain()
    return found


@contextmanager
def _cost(ledger: Ledger) -> Iterator[dict[str, float]]:
    """Seconds, processor seconds and megabytes of a block, filled in at its end."""
    cost: dict[str, float] = {}
    read, written = (_bytes(ledger, way) for way in (Direction.READ, Direction.WRITE))
    started, busy = time.perf_counter(), time.process_time()
    yield cost
    cost["s"] = round(time.perf_counter() - started, 3)
    cost["processor_s"] = round(time.process_time() - busy, 3)
    cost["read_mb"] = round((_bytes(ledger, Direction.READ) - read) / 1e6, 3)
    cost["written_mb"] = round((_bytes(ledger, Direction.WRITE) - written) / 1e6, 3)


def _bytes(ledger: Ledger, way: Direction) -> int:
    return sum(row.bytes for row in ledger.rows() if row.direction == way)


def _line(row: dict[str, Any]) -> str:
    large = row["tenants"]["large"]
    return (
        f"{row['chunks']:>9,} chunks: built in {row['fill']['s'] + row['build']['s']:.0f} s, {row['disk_mb']:,.0f} MB, fusion"
        f" p50 {large['fusion_ms']['p50']} ms, recall {large['recall_at_10']}, {row['kb_per_search']:,.0f} kB a search,"
        f" one more document {row['one_more']['s']:.2f} s, delete {row['delete']['s']:.2f} s"
    )


def predicted(home: Path, sizes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a simulation says of each size, from what a document and a question moved on the vector tier in this home's runs.

    `error` is predicted ÷ measured − 1. A simulation knows no size of the corpus: a chunk or a question costs the same in each.
    """
    by_unit = {demand.unit: demand for demand in demands(home)}
    documents, questions = by_unit[DOCUMENTS], by_unit[QUESTIONS]
    chunks = journal_of(home, documents.run)["counts"]["chunks"] / documents.sample  # of a document
    chunk = _moved(documents, Direction.WRITE) / chunks / 1e6
    found = []
    for row in sizes:
        each = {
            "disk_mb": (row["chunks"] * chunk, row["disk_mb"]),
            "one_more_written_mb": (_CHUNKS * chunk, row["one_more"]["written_mb"]),
            "kb_per_search": (_moved(questions, Direction.READ) / 1e3, row["kb_per_search"]),
        }
        figures = {
            name: {"predicted": round(said, 3), "measured": measured, "error": round(said / measured - 1, 2)}
            for name, (said, measured) in each.items()
        }
        found.append({"chunks": row["chunks"], **figures})
    return found


def _moved(demand: UnitDemand, way: Direction) -> float:
    return sum(row.bytes for row in demand.traffic if (row.tier, row.direction) == (Tier.VECTOR, way))


# The picture: each figure over the size, both by their logarithm.

# Processor time, which other work on the machine changes little.
_CURVES: dict[str, tuple[str, Any]] = {
    "build_s": ("building the index, s", lambda row: row["fill"]["processor_s"] + row["build"]["processor_s"]),
    "maintenance_s": ("maintenance after 600 rows, s", lambda row: row["maintenance"]["processor_s"]),
    "one_more_s": ("one more document, s", lambda row: row["one_more"]["processor_s"]),
    "delete_s": ("a document deleted, s", lambda row: row["delete"]["processor_s"]),
    "fusion_s": ("fusion, whole tenant, s", lambda row: row["tenants"]["large"]["fusion_ms"]["cpu_ms"] / 1e3),
    "mb_per_search": ("read by a search, MB", lambda row: row["kb_per_search"] / 1e3),
}
_WIDTH, _HEIGHT, _MARGIN = 1280.0, 720.0, 60.0
_PLOT = Box(_MARGIN + 70, 130, 760, 500)
_SIZE = 16.0


def picture(found: Sequence[dict[str, Any]]) -> str:
    """The curves of `measure`'s sizes, as SVG."""
    p = LIGHT
    colours = (p.write, p.read, p.feedback, p.ink, p.muted, p.rule)
    values = {name: [max(value(row), 1e-4) for row in found] for name, (_, value) in _CURVES.items()}
    low = math.floor(math.log10(min(min(line) for line in values.values())))
    high = math.ceil(math.log10(max(max(line) for line in values.values())))
    sizes = [math.log10(row["chunks"]) for row in found]

    def x(size: float) -> float:
        return _PLOT.x + 30 + (_PLOT.width - 60) * (size - sizes[0]) / ((sizes[-1] - sizes[0]) or 1)

    def y(value: float) -> float:
        return _PLOT.bottom - _PLOT.height * (math.log10(value) - low) / (high - low)

    title = f"What the vector index costs from {found[0]['chunks']:,} to {found[-1]['chunks']:,} chunks"
    groups = [Group("headline", title, (_text(_MARGIN, 70, title, 34, BOLD, p.ink, _WIDTH - 2 * _MARGIN),))]
    axes: list[Item] = []
    for tenth in range(low, high + 1):
        axes.append(Line(_PLOT.x, y(10**tenth), _PLOT.right, y(10**tenth), p.rule, 1.0))
        axes.append(_text(_PLOT.x - 12, y(10**tenth) + 6, f"{10.0**tenth:g}", _SIZE, REGULAR, p.muted, 70, "end"))
    for row, size in zip(found, sizes, strict=True):
        axes.append(_text(x(size), _PLOT.bottom + 26, f"{row['chunks']:,}", _SIZE, REGULAR, p.muted, 130, "middle"))
    groups.append(Group("axes", "Seconds of processor time or megabytes, over chunks", tuple(axes)))
    ends = _apart([y(line[-1]) for line in values.values()])
    for (name, line), colour, end in zip(values.items(), colours, ends, strict=True):
        places = [(x(size), y(value)) for size, value in zip(sizes, line, strict=True)]
        items: list[Item] = [Line(*one, *other, colour, 3.0) for one, other in pairwise(places)]
        items += [Rect(Box(px - 4, py - 4, 8, 8), colour, radius=4) for px, py in places]
        words = f"{_CURVES[name][0]}: {line[0]:.2g} → {line[-1]:.2g}"
        items.append(Line(*places[-1], _PLOT.right + 14, end, colour, 1.0))
        items.append(_text(_PLOT.right + 20, end + 5, words, _SIZE, SEMIBOLD, p.ink, _WIDTH - _PLOT.right - 40))
        groups.append(Group("curve", words, tuple(items)))
    told = "; ".join(group.alt for group in groups[2:])
    return svg(Scene(_WIDTH, _HEIGHT, title, f"{title}, both axes logarithmic. {told}.", tuple(groups), p))


def _apart(places: Sequence[float]) -> list[float]:
    """The same heights, moved so far that lines of text do not touch."""
    moved: dict[int, float] = {}
    above = -math.inf
    for number in sorted(range(len(places)), key=places.__getitem__):
        above = moved[number] = max(places[number], above + 1.5 * _SIZE)
    return [moved[number] for number in range(len(places))]


def _text(x: float, y: float, text: str, size: float, weight: int, colour: str, limit: float, anchor: Anchor = "start") -> Label:
    left = x - {"start": 0.0, "middle": limit / 2, "end": limit}[anchor]
    words = theme.fitted(text, size, weight, limit)
    return Label(x, y, words, size, Box(left, y - size, limit, size * 1.35), weight, colour, anchor)


def main() -> None:
    """Measure at the sizes of the command line, print JSON, draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("sizes", nargs="*", type=int, default=_SIZES)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--of", type=Path, help="draw figures measured before (JSON) instead of measuring")
    parser.add_argument("--predicted", type=Path, help="a home from whose runs each size is predicted too")
    given = parser.parse_args()
    found = json.loads(given.of.read_text()) if given.of else measure(given.sizes)
    if given.predicted:
        found["predicted"] = predicted(given.predicted, found["sizes"])
    if given.picture:
        given.picture.write_text(picture(found["sizes"]))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
