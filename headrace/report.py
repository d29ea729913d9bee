"""How results are shown to a person: tables on standard output, one line per thing that needs attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.explain.format import human_bytes, human_ms
from headrace.inference.answer import Answer
from headrace.inference.pipeline import Indexed
from headrace.training.pipeline import Turn

_TIERS = ("stream", "object", "table", "vector", "file")


def ledger_table(rows: Sequence[dict[str, Any]], *, title: str = "What moved where") -> Table:
    """Ledger rows by stage and store, with a line of totals per tier below."""
    table = Table(title=title, title_justify="left", header_style="bold", show_footer=False, box=None, pad_edge=False)
    for name in ("stage", "store", "tier", "direction"):
        table.add_column(name)
    for name in ("ops", "bytes", "p50", "p95"):
        table.add_column(name, justify="right")
    last = None
    for row in rows:
        if last is not None and row["stage"] != last:
            table.add_section()
        table.add_row(
            Text(row["stage"] if row["stage"] != last else ""),
            Text(row["store"]),
            row["tier"],
            row["direction"],
            f"{row['ops']:,}",
            ("≈ " if row["estimated"] else "") + human_bytes(row["bytes"]),
            human_ms(row["p50_ms"]),
            human_ms(row["p95_ms"]),
        )
        last = row["stage"]
    return table


def tier_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Bytes by tier and direction."""
    table = Table(title="By tier", title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("tier")
    for name in ("read", "written"):
        table.add_column(name, justify="right")
    for tier in _TIERS:
        of = [row for row in rows if row["tier"] == tier]
        if of:
            mark = "≈ " if any(row["estimated"] for row in of) else ""
            read = sum(row["bytes"] for row in of if row["direction"] == "read")
            written = sum(row["bytes"] for row in of if row["direction"] == "write")
            table.add_row(tier, mark + human_bytes(read), mark + human_bytes(written))
    return table


def rows_table(rows: Sequence[dict[str, Any]], title: str = "") -> Table:
    """Any rows of like keys."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    return table


def merged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ledger rows with tenants added up; of percentiles the larger stands, so nothing looks faster than it was."""
    total: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["stage"], row["store"], row["tier"], row["direction"])
        kept = {name: value for name, value in row.items() if name != "tenant"}
        if key not in total:
            total[key] = kept
            continue
        was = total[key]
        was["ops"] += row["ops"]
        was["bytes"] += row["bytes"]
        was["estimated"] = was["estimated"] or row["estimated"]
        for name in ("p50_ms", "p95_ms", "max_ms"):
            was[name] = max(was[name], row[name])
    return list(total.values())


def say_indexed(console: Console, done: Indexed) -> None:
    """What an indexing pass did; one line for each file that could not be read."""
    put, parsed = done.put, done.parsed
    told = [f"{parsed.parsed} documents", f"{done.chunked.chunks} chunks", f"{done.embedded.chunks} embeddings"]
    unchanged = f", {put.unchanged} files unchanged" if put.unchanged else ""
    console.print(f"Indexed {' → '.join(told)}{unchanged} in {done.seconds:.1f} s; index version {done.index.version}.")
    for failure in parsed.failed:
        console.print(Text(f"  not indexed: {failure.uri}: {failure.reason}"))


def say_sources(console: Console, given: Answer) -> None:
    """Citations, versions and timings below an answer."""
    for citation in given.citations:
        console.print(Text(f"  [{citation['number']}] {citation['document']} · {citation['heading']}", style="cyan"))
    if not given.citations and given.passages:
        best = given.passages[0].hit
        console.print(
            Text(f"  no sentence of it stands in a passage; the nearest is {best.uri} · {best.heading}", style="yellow")
        )
    first, total = given.timings_ms.get("first_token", 0.0), given.timings_ms.get("total", 0.0)
    console.print(
        Text(
            f"  answer {given.answer_id} · re-ranker {given.model_version} · index {given.index_version}"
            f" · first token {human_ms(first)}, all {human_ms(total)}",
            style="dim",
        )
    )
    if given.note:
        console.print(Text(f"  note: {given.note}", style="yellow"))


def say_turn(console: Console, done: Turn) -> None:
    """What a turn did, and whether the challenger won."""
    data, trained, seen = done.dataset, done.trained, done.evaluation
    console.print(
        f"Turn {done.decision.turn}: landed {done.landed.total:,} events"
        + (f" ({done.landed.dead} dead letters)" if done.landed.dead else "")
        + f", dataset {data.version} with {sum(data.examples.values()):,} examples of {sum(data.questions.values())} questions"
        f" ({', '.join(f'{n} {split}' for split, n in data.questions.items())})."
    )
    console.print(
        f"  trained {trained.taken} of {trained.steps} steps in {trained.seconds:.0f} s,"
        f" loss {trained.first_loss:.2f} → {trained.last_loss:.2f}"
    )
    champion = "retrieval's own order" if seen.champion_version == "none" else seen.champion_version
    console.print(
        f"  nDCG@10 on {seen.questions} held-out questions: champion ({champion}) {seen.champion:.3f},"
        f" challenger {seen.challenger:.3f} (retrieval counts {seen.retrieval_weight:.0%} in its order)"
    )
    verb = "[bold green]promoted[/]" if done.decision.promoted else "[bold yellow]refused[/]"
    console.print(f"  challenger {verb}: {done.decision.why}")
    console.print(f"  served now: {done.decision.serving}")
