"""Terminal output of results: tables on standard output, and a line for whatever needs attention."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.core.statistics import Interval
from headrace.explain.diagram.format import human_bytes, human_ms, human_s
from headrace.terminal import harmless, printable

if TYPE_CHECKING:  # the caller has imported these already
    from headrace.documents.index import Indexed
    from headrace.errors import HeadraceError
    from headrace.landing.backlog import Backlog
    from headrace.landing.land import Commit, Landed
    from headrace.landing.positions import Divergence
    from headrace.simulate.beir import BeirFolder
    from headrace.simulate.evaluate import AnswersMeasured, RankingQuality
    from headrace.training.round import Round

_MEASURED = ("ops", "bytes", "p50", "p95", "max")
_AT_STORE = ("ops", "bytes", "p50", "p95")  # the largest stays in the JSON: rows fit 80 columns
_COPIES = 3  # of a passage that are named
_LEAST_WEIGHT = 0.005  # a smaller one shows as zero
_TIERS = ("stream", "object", "table", "vector", "file")

_WIDEST = 10_000  # characters of a table that is only measured


def ledger_table(rows: Sequence[dict[str, Any]], *, title: str = "What moved where") -> Table:
    """Ledger rows by stage and store."""
    table = Table(title=title, title_justify="left", header_style="bold", show_footer=False, box=None, pad_edge=False)
    for name in ("stage", "store", "tier", "I/O"):
        table.add_column(name, overflow="fold")
    for name in _AT_STORE:
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in rows:
        if last is not None and row["stage"] != last:
            table.add_section()
        table.add_row(
            Text(row["stage"] if row["stage"] != last else ""),
            Text(row["store"]),
            row["tier"],
            row["direction"],
            *_measured(row)[: len(_AT_STORE)],
        )
        last = row["stage"]
    return table


def stages_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What each stage moved, and its rates over the time in which it was at work (`rates.stage_rates`)."""
    asked = any(row["bytes_per_question"] is not None for row in rows)
    table = Table(title="By stage", title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for name in ("at work", "ops", "bytes", "ops/s", "bytes/s", *(["per question"] if asked else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        each = row["bytes_per_question"]
        table.add_row(
            Text(row["stage"]),
            "-" if row["active_s"] is None else human_s(row["active_s"]),
            f"{row['ops']:,}",
            human_bytes(row["bytes"]),
            *rates(row),
            *(["-" if each is None else human_bytes(each)] if asked else []),
        )
    return table


def rates(row: Mapping[str, Any]) -> tuple[str, str]:
    """Operations and bytes a second, for people: `1,200`, `4.1 MB/s`; `-` if there is no time to divide by."""
    if row["ops_per_s"] is None:
        return "-", "-"
    each = row["ops_per_s"]
    ops = f"{each:,.0f}" if each >= 10 else "<0.1" if each < 0.1 and row.get("ops") else f"{each:.1f}"
    return ops, f"{human_bytes(row['bytes_per_s'])}/s"


def total_line(total: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """A run as a whole: its duration, bytes and rates, the questions, and how large the index was."""
    said = [] if total["seconds"] is None else [human_s(total["seconds"])]
    said.append(human_bytes(total["bytes"]))
    if total["bytes_per_s"] is not None:
        ops, moved = rates(total)
        said.append(f"{moved} and {ops} operations/s over the run")
    if total["questions"]:
        each = "" if total["bytes_per_question"] is None else f", {human_bytes(total['bytes_per_question'])} each"
        said.append(f"{counted(total['questions'], 'question')}{each}")
    if documents := counts.get("documents"):
        said.append(counted(documents, "document") + " taken in")
    if chunks := counts.get("index_chunks"):
        said.append(f"an index of {counted(chunks, 'chunk')}")
    return "; ".join(said) + "."


def measured_lines(provenance: Mapping[str, Any]) -> list[str]:
    """What a run measured, a line for each tier, below one that says from where; nothing for a run of an older version."""
    if not provenance:
        return []
    host = provenance["host"]
    lines = [
        f"Measured from {host['name']} ({counted(host['cores'], 'core')}, {host['memory_gib']:g} GiB),"
        f" headrace {provenance['version']}:"
    ]
    for one in provenance["subjects"]:
        facts = [f"{name.replace('_', ' ')} {value}" for name, value in one["facts"].items() if name != "options"]
        lines.append(f"  {one['tier']:<6}  " + ", ".join(["embedded" if one["embedded"] else "your own", one["where"], *facts]))
    return lines


def storage_lines(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was measured, and from where, one line for each kind of storage among runs: the newest first."""
    lines: Counter[str] = Counter()
    for one in summaries:
        if one["storage"]:
            host, made = one["provenance"].get("host") or {}, one["provenance"].get("version")
            of_host = f"; from {host['name']}, {counted(host['cores'], 'core')}" if host else ""
            lines[", ".join(one["storage"].values()) + of_host + (f"; headrace {made}" if made else "")] += 1
    return [line if len(lines) == 1 else f"{counted(number, 'run')}: {line}" for line, number in lines.items()]


def summary_table(rows: Sequence[dict[str, Any]], by: str, *, title: str) -> Table:
    """Ledger rows summed `by` tier, stage or tenant, one line each for reads and writes."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column(by)
    table.add_column("direction")
    for name in (*_MEASURED, "ops/s", "bytes/s"):
        table.add_column(name, justify="right", no_wrap=True)
    order = {tier: place for place, tier in enumerate(_TIERS)}
    first = {row[by]: place for place, row in reversed(list(enumerate(rows)))}
    last = None
    for row in sorted(rows, key=lambda row: (order.get(row[by], 0), first[row[by]], row["direction"])):
        table.add_row(Text("" if row[by] == last else row[by] or f"no {by}"), row["direction"], *_measured(row), *rates(row))
        last = row[by]
    return table


def _measured(row: dict[str, Any]) -> tuple[str, ...]:
    times = (human_ms(row[name]) for name in ("p50_ms", "p95_ms", "max_ms"))
    return f"{row['ops']:,}", ("≈ " if row["estimated"] else "") + human_bytes(row["bytes"]), *times


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
    """Rows that share the same keys; a name too long for its column goes on in the next line."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(str(value))) for value in row.values()))
    return table


def say_rows(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows that share the same keys: as a table, or one below the other if the terminal is too narrow for it."""
    table = rows_table(rows)
    if console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum <= console.width:
        console.print(table)
        return
    label = max(len(name) for name in rows[0])
    for number, row in enumerate(rows, 1):
        console.print(Text(f"row {number}", style="bold"))
        for name, value in row.items():
            console.print(Text(f"  {name:<{label}}  ", style="dim").append(harmless(str(value)), style="default"), soft_wrap=True)


def runs_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Runs, within 80 columns, with start times in local time."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("run", "state", "began", "took", "moved", "bytes/s"):
        table.add_column(name, justify="left" if name in ("run", "state", "began") else "right", no_wrap=True)
    for row in rows:
        began = datetime.fromisoformat(row["started"]).astimezone().strftime("%d %b %H:%M")
        took = "" if row["seconds"] is None else human_ms(row["seconds"] * 1e3)
        rate = "" if row["bytes_per_s"] is None else human_bytes(row["bytes_per_s"])
        table.add_row(Text(harmless(row["run"])), row["state"], began, took, human_bytes(row["bytes"]), rate)
    return table


def merged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ledger rows summed over tenants. Of two percentiles the larger is kept, so nothing looks faster than it was."""
    total: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["stage"], row["store"], row["tier"], row["direction"])
        row_ = {name: value for name, value in row.items() if name != "tenant"}
        if key not in total:
            total[key] = row_
            continue
        was = total[key]
        was["ops"] += row["ops"]
        was["bytes"] += row["bytes"]
        was["estimated"] = was["estimated"] or row["estimated"]
        for name in ("p50_ms", "p95_ms", "max_ms"):
            was[name] = max(was[name], row[name])
    return list(total.values())


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 file, 1,200 files."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say_indexed(console: Console, done: Indexed) -> None:
    """Print what an indexing pass did, and each file that could not be read."""
    put, parsed = done.put, done.parsed
    parts = [
        counted(parsed.parsed, "document"),
        counted(done.chunked.chunks, "chunk"),
        counted(done.embedded.chunks, "embedding"),
    ]
    also = f", {counted(parsed.relabelled, 'document')} with other readers or attributes" if parsed.relabelled else ""
    also += f", {counted(put.unchanged, 'file')} unchanged" if put.unchanged else ""
    console.print(f"Indexed {' → '.join(parts)}{also} in {done.seconds:.1f} s; index version {done.index.version}.")
    say_not_indexed(console, done)


def say_not_indexed(console: Console, done: Indexed) -> None:
    """Print each document that could not be read, in full or in part, and how many deletions were held back."""
    put, parsed = done.put, done.parsed
    for failure in parsed.failed:
        console.print(Text(f"  not indexed: {printable(failure.uri)}: {printable(failure.reason)}"))
    for partly in parsed.incomplete:
        console.print(Text(f"  indexed in part: {printable(partly.uri)}: {printable(partly.reason)}"))
    for one in parsed.personal:
        console.print(Text(f"  personal data: {printable(one.uri)}: {printable(one.reason)}"))
    for before in put.failed_before:
        console.print(Text(f"  still not indexed: {printable(before.uri)}: {printable(before.reason)}"))
    if put.failed_before:
        console.print("  Unchanged files are not tried again without --retry.", style="dim", highlight=False)
    if put.held_back:
        console.print(
            f"  {put.held_back:,} of {put.known:,} documents are gone from there. So many at once are most likely a listing"
            " that is not complete: they are kept. To delete them: --accept-deletions",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def where(source: Mapping[str, Any]) -> str:
    """A passage's document, position and heading, and the other documents that hold it."""
    named = [str(source[name] or "") for name in ("document", "place", "heading")]
    return printable(" · ".join(name for name in (*named, _also_in(source["sources"])) if name))


def _also_in(sources: Sequence[Mapping[str, str]]) -> str:
    """The first of the other documents that hold a passage, where there are some."""
    others = [" ".join(filter(None, source.values())) for source in sources[1:]]
    if len(others) > _COPIES:
        others[_COPIES:] = [f"{len(others) - _COPIES} more"]
    return f"also in {', '.join(others)}" if others else ""


def say_sources(console: Console, answer: Mapping[str, Any]) -> None:
    """Print citations, versions and timings below an answer, and how its question was put if it was rewritten."""
    if answer.get("asked_as"):
        console.print(Text(f"  asked as: {printable(answer['asked_as'])}", style="yellow"))
    for citation in answer["citations"]:
        console.print(Text(f"  [{citation['number']}] {where(citation)}", style="cyan"))
        for quote in _shortened_quotes(citation) if answer["mode"] == "extractive" else ():
            console.print(Text(f"      “{printable(quote)}”", style="italic"))
    if not answer["citations"] and answer["passages"]:
        found = "nearest:" if answer["refused"] else "no passage supports this answer; the best match is"
        console.print(Text(f"  {found} {where(answer['passages'][0])}", style="yellow"))
    first, total = answer["timings_ms"].get("first_token", 0.0), answer["timings_ms"].get("total", 0.0)
    console.print(
        Text(
            f"  {answer['mode']} answer {answer['answer_id']} · re-ranker {answer['model_version']} · ranking"
            f" {answer['ranking_version']} · index {answer['index_version']}"
            f" · first token {human_ms(first)}, total {human_ms(total)}",
            style="dim",
        )
    )
    if answer.get("note"):
        console.print(Text(f"  note: {answer['note']}", style="yellow"))


def _shortened_quotes(citation: Mapping[str, Any]) -> list[str]:
    """The quotes of which the answer says only some words; the cells of a table row with dots between them."""
    from headrace.models.support import without_bold

    spans = [(without_bold(span["quote"]), span["sentence"]) for span in citation["spans"]]
    # A list's mark and the breaks of lines are no words.
    quotes = [quote for quote, said in spans if len("".join(said.split())) < len("".join(quote.split())) - 1]
    return [" ".join((quote.strip("| ").replace("|", "·") if quote.startswith("|") else quote).split()) for quote in quotes]


def say_round(console: Console, done: Round) -> None:
    """Print what a round did, and whether the challenger won."""
    data, trained, seen = done.dataset, done.trained, done.evaluation
    if done.why_chosen:
        console.print(done.why_chosen, highlight=False)
        for name, why in done.passed_over:
            console.print(f"  {why if why.startswith(name) else f'{name}: {why}'}", style="dim", highlight=False)
    console.print(
        f"Round {done.decision.round}: landed {done.landed.total:,} events"
        + (f" ({done.landed.dead:,} dead letters)" if done.landed.dead else "")
        + f", dataset {data.version} with {sum(data.examples.values()):,} examples of {sum(data.questions.values())} questions"
        f" ({', '.join(f'{n} {split}' for split, n in data.questions.items())})."
    )
    if done.power is not None:
        console.print(f"  {done.power.sentence}", highlight=False)
    took = f"in {trained.seconds:.1f} s, loss {trained.first_loss:.2f} → {trained.last_loss:.2f}"
    fitted = not trained.checkpoint
    console.print(
        f"  fitted on {trained.items:,} judged questions {took}"
        if fitted
        else f"  trained {trained.taken} of {trained.steps} steps {took}"
    )
    nothing = "the packaged model" if done.decision.model in ("embedder", "generator") else "the order served now"
    champion = nothing if seen.champion_version == "none" else seen.champion_version
    console.print(
        f"  {seen.measure} on {seen.questions} {'judged questions, each unseen' if fitted else 'held-out questions'}:"
        f" champion ({champion}) {seen.champion:.3f}, challenger {seen.challenger:.3f}"
    )
    if "ranking" in seen.card:
        console.print(f"  weights: {weights_line(seen.card['ranking']['weights'])}", highlight=False)
    verb = ("promoted", "bold green") if done.decision.promoted else ("rejected", "bold yellow")
    why = done.decision.why.replace(f"({seen.compared}: ", "(").replace(f" ({seen.means})", "")  # said two lines above
    console.print(Text.assemble("  challenger ", verb, f": {why}"))
    if done.decision.canary:
        console.print(f"  canary, with a share of the traffic: {done.decision.canary}; champion: {done.decision.serving}")
    else:
        console.print(f"  served now: {served(done.decision.model, done.decision.serving)}")


def served(model: str, version: str) -> str:
    """A version that is served, or what is served in the place of none."""
    nothing = {
        "ranking": "retrieval's own order, or the re-ranker's",
        "reranker": "no re-ranker",
        "embedder": "the packaged embedder",
        "generator": "the packaged generator",
    }
    return nothing[model] if version == "none" else version


def weights_line(weights: Mapping[str, float]) -> str:
    """The weights of a ranking's features that count, the largest first; they are per typical difference, so comparable."""
    ordered = sorted(weights.items(), key=lambda one: -abs(one[1]))
    return ", ".join(f"{name} {weight:+.2f}" for name, weight in ordered if abs(weight) >= _LEAST_WEIGHT) or "none"


def say_landed(console: Console, done: Landed) -> None:
    """Print how many events landed."""
    counts = ", ".join(f"{count:,} {topic}" for topic, count in done.events.items())
    console.print(f"Landed {counts}" + (f"; {done.dead:,} dead letters" if done.dead else "") + ".", highlight=False)
    if done.dead:
        console.print("  why: headrace sql 'select topic, partition, \"offset\", reason from dead_letters'", style="dim")


def say_backlog(console: Console, partitions: Sequence[Backlog]) -> None:
    """Print the lag of each partition, and a line for each that needs attention."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("partition")
    for name in ("begins", "end", "landed", "lag", "only in the head", "oldest"):
        table.add_column(name, justify="right")
    for one in partitions:
        table.add_row(
            f"{one.topic}/{one.partition}",
            f"{one.low:,}",
            f"{one.end:,}",
            f"{one.landed:,}",
            Text(f"{one.lag:,}", style="yellow" if one.lag else ""),
            ("≈ " if one.estimated else "") + human_bytes(one.bytes),
            "-" if one.oldest_s is None else human_ms(one.oldest_s * 1000),
        )
    console.print(table)
    for one in partitions:
        if one.trouble:
            console.print(f"{one.topic}/{one.partition}: {one.trouble}", style="red", highlight=False, soft_wrap=True)


class LandingLines:
    """Prints the progress of `headrace land`: a line per topic about every ten seconds while events land."""

    _EVERY_S = 10.0

    def __init__(self, out: Console, err: Console, as_json: bool) -> None:
        self._out, self._err, self._json = out, err, as_json
        self._events: Counter[str] = Counter()
        self._since: dict[str, tuple[float, int]] = {}
        self._dead = 0

    def committed(self, commit: Commit) -> None:
        """Print a commit as a JSON line, or add it to the totals."""
        self._events[commit.topic] += commit.events
        self._dead += commit.dead
        if self._json:
            line = {"topic": commit.topic, "landed": commit.events, "dead_letters": commit.dead, "seconds": commit.seconds}
            self._out.out(json.dumps(line), highlight=False)
            return
        at, before = self._since.get(commit.topic, (0.0, 0))
        now = time.monotonic()
        if now - at >= self._EVERY_S:
            more = self._events[commit.topic] - before
            rate = f", {more / (now - at):,.0f}/s" if at else ""
            self._out.print(f"{commit.topic}: {more:,} landed{rate}", highlight=False)
            self._since[commit.topic] = (now, self._events[commit.topic])

    def diverged(self, divergence: Divergence) -> None:
        """Print that a partition has stopped; the others go on."""
        sentence = f"{divergence.topic_partition} has stopped landing ({divergence.kind}). {divergence.seen}"
        self._err.print(sentence, style="red", highlight=False, soft_wrap=True)
        self._err.print(divergence.remedy, highlight=False, soft_wrap=True)

    def waiting(self, topic: str, error: HeadraceError) -> None:
        """Print that storage does not answer or is full."""
        self._err.print(f"{topic} waits: {error.message}", style="yellow", highlight=False, soft_wrap=True)

    def failed(self, chore: str, error: HeadraceError) -> None:
        """Print that a chore failed and will be retried."""
        self._err.print(f"{chore} failed and will be retried in a minute: {error}", style="yellow", highlight=False)

    def total(self) -> None:
        """Print the totals."""
        if not self._json:
            counts = ", ".join(f"{count:,} {topic}" for topic, count in sorted(self._events.items())) or "nothing"
            self._out.print(f"Landed {counts}" + (f"; {self._dead:,} dead letters" if self._dead else "") + ".", highlight=False)


def say_retrieval(console: Console, folder: BeirFolder, rows: Sequence[RankingQuality]) -> None:
    """Print each ranking's measures with their intervals."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("ranking")
    for name in rows[0].measures:
        table.add_column(name.replace("_at_", "@").replace("ndcg", "nDCG").replace("mrr", "MRR"), justify="right", no_wrap=True)
    for row in rows:
        shown = row.ranking + (f" ({row.version})" if row.version else "")
        table.add_row(shown, *(_with_interval(measure) for measure in row.measures.values()))
    console.print(table)
    summary = f"{rows[0].questions:,} questions over {len(folder.documents):,} documents"
    console.print(f"{summary}; 95 % intervals in brackets.", style="dim", highlight=False)
    if rows[-1].version == "none":
        console.print("No re-ranker has been promoted yet: re-ranked equals fusion.", style="dim")


def say_answers(console: Console, folder: BeirFolder, found: AnswersMeasured) -> None:
    """Print each measure of the answers with its interval."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("measure")
    table.add_column("mean", justify="right")
    for name, measured in found.measures.items():
        table.add_row(name.replace("_", " "), _with_interval(measured))
    console.print(table)
    console.print(f"{found.questions:,} questions of {folder.path}; 95 % intervals in brackets.", style="dim", highlight=False)


def _with_interval(of: Interval) -> str:
    return f"{of.mean:.3f} ({of.low:.3f}–{of.high:.3f})"
