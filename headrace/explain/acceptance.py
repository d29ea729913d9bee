"""The report of an acceptance test (`headrace check`) as a document: one list of blocks, rendered as Markdown and as PDF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from headrace.atomic import write_atomically
from headrace.check.promise import Finding, Outcome
from headrace.check.report import Change, CheckReport
from headrace.check.requirements import ELSEWHERE, Requirement
from headrace.check.workloads.workload import WorkloadResult
from headrace.errors import WrongUsage
from headrace.explain.diagram import theme
from headrace.explain.diagram.format import grown
from headrace.explain.diagram.markdown import plain

_FRAME = 6  # points around what reportlab lays out in a page
_BEGINNING = 110  # points of a chapter that are on the page of its title: some rows of its table, too
WORDS = {
    Outcome.KEPT: "kept",
    Outcome.BROKEN: "broken",
    Outcome.NOT_NEEDED: "not kept, not needed",
    Outcome.NOT_TESTED: "not tested",
}
"""Outcomes for people."""


@dataclass(frozen=True)
class Grid:
    """A table: its columns, rows of text, and which columns are numbers. `widths` are shares of the page."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    widths: Sequence[float] = ()


@dataclass(frozen=True)
class Chapter:
    """A chapter of the document: its title, sentences, and perhaps a table."""

    title: str
    sentences: Sequence[str] = ()
    grid: Grid | None = None


def write_document(report: CheckReport, path: Path, changes: Sequence[Change] | None = None) -> None:
    """Write the report as FILE.md or FILE.pdf, with what changed since a baseline. Raises `WrongUsage` for another suffix."""
    check_suffix(path)
    render = _pdf if path.suffix == ".pdf" else _markdown
    write_atomically(path, render(parts(report, changes)), mode=0o644)


def check_suffix(path: Path) -> None:
    """Raise `WrongUsage` unless a report can be written to a file of this name."""
    if path.suffix not in (".md", ".pdf"):
        raise WrongUsage(f"--report takes a file that ends in .md or .pdf, not {path.name!r}.")


def summary(report: CheckReport) -> str:
    """How many promises had which outcome, in a sentence."""
    counts = {outcome: sum(one.outcome is outcome for one in report.findings) for outcome in Outcome}
    kept = f"{counts[Outcome.KEPT]} promise{'' if counts[Outcome.KEPT] == 1 else 's'} kept, {counts[Outcome.BROKEN]} broken"
    rest = [
        f"{counts[Outcome.NOT_NEEDED]} not kept but not needed" if counts[Outcome.NOT_NEEDED] else "",
        f"{counts[Outcome.NOT_TESTED]} not tested" if counts[Outcome.NOT_TESTED] else "",
    ]
    return f"{', '.join([kept, *filter(None, rest)])}."


def parts(report: CheckReport, changes: Sequence[Change] | None = None) -> list[Chapter]:
    """The whole document, in reading order."""
    found = [_checked(report)]
    if changes is not None:
        found.append(Chapter("Beside the baseline", *changed(changes)))
    found.append(_promises(report.findings))
    if report.results:
        found.append(_workloads(report))
    if report.requirements:
        found.append(_requirements(report.requirements))
    return [*found, _provenance(report)]


def _checked(report: CheckReport) -> Chapter:
    header, when = report.provenance, datetime.fromisoformat(report.provenance.started)
    rows = [
        (str(one.tier), f"{one.where}{' (embedded)' if one.embedded else ''}", facts_words(one.facts)) for one in header.subjects
    ]
    sentences = [
        summary(report) + (" Headrace cannot rely on this storage." if report.broken else ""),
        f"By Headrace {header.version} from {header.host['name']} on {when:%Y-%m-%d %H:%M} UTC, in {report.seconds:.0f} s.",
    ]
    grid = Grid(("tier", "what was checked", "facts"), rows, widths=(0.1, 0.4, 0.5))
    return Chapter("Storage acceptance test", sentences, grid)


def _promises(findings: Sequence[Finding]) -> Chapter:
    rows = []
    for one in findings:
        costs = f"Headrace would lose {one.loses}" if one.outcome is Outcome.BROKEN else ""
        seen = "; ".join(words for words in (one.figure, one.seen, costs) if words)
        rows.append((str(one.tier), one.promise, WORDS[one.outcome], seen))
    return Chapter(
        "Promises",
        ["What Headrace relies on, tested with the clients that Headrace uses. Kept means that no violation was found."],
        Grid(("tier", "promise", "outcome", "measured, or what was seen"), rows, widths=(0.08, 0.34, 0.14, 0.44)),
    )


def _workloads(report: CheckReport) -> Chapter:
    sentence = (
        "Rates are of all operations in flight together, latencies of one operation. MiB are 2^20 bytes. Cores are those that the"
        f" client used, of {report.provenance.host['cores']}: near all of them, the client is the limit."
    )
    widths = (0.07, 0.29, 0.07, 0.08, 0.1, 0.09, 0.09, 0.07, 0.07, 0.07)
    return Chapter("Throughput and latency", [sentence], Grid(*workload_rows(report.results), widths=widths))


def _requirements(found: Sequence[Requirement]) -> Chapter:
    unseen = "; ".join(f"{what} ({ids})" for ids, what in ELSEWHERE.items())
    words = {True: "yes", False: "no", None: "measured"}
    return Chapter(
        "NVIDIA's storage requirements for AI clouds",
        [f"What this check saw of them, by their ids. A check from one host does not see: {unseen}."],
        Grid(
            ("id", "asks for", "met", "seen"),
            [(one.id, one.asks, words[one.met], one.seen) for one in found],
            widths=(0.1, 0.32, 0.12, 0.46),
        ),
    )


def _provenance(report: CheckReport) -> Chapter:
    header, host = report.provenance, report.provenance.host
    rows = [
        ("started", header.started),
        ("asked for", f"{header.seconds_asked:g} s, {header.concurrency} operations in flight"),
        ("host", f"{host['name']}: {host['system']}, {host['cores']} cores, {host['memory_gib']} GiB"),
        ("versions", facts_words({"headrace": header.version, **header.versions})),
        ("settings", facts_words(header.settings) or "all defaults"),
        ("settings, SHA-256", header.settings_sha256),
        ("this report, SHA-256 of its JSON", report.as_dict()["sha256"]),
    ]
    return Chapter("Provenance", (), Grid(("what", "value"), rows, widths=(0.25, 0.75)))


def facts_words(facts: Mapping[str, Any]) -> str:
    """Facts in one line: name value, name value."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def workload_rows(results: Sequence[WorkloadResult]) -> tuple[Sequence[str], list[Sequence[str]], frozenset[int]]:
    """Columns, rows and number columns of a table of workloads."""
    columns = ("tier", "workload", "in flight", "ops", "MiB/s", "ops/s", "p50 ms", "p95 ms", "p99 ms", "cores")
    rows: list[Sequence[str]] = []
    for one in results:
        if one.failed:
            rows.append((one.tier, f"{one.workload}: failed, {one.failed}", *["–"] * 8))
            continue
        rate = number(one.mib_per_s) if one.bytes else "–"
        latencies = (number(value) for value in (one.p50_ms, one.p95_ms, one.p99_ms))
        name = f"{one.workload}: {one.shape}"
        cells = (f"{one.concurrency}", f"{one.ops:,}", rate, number(one.ops_per_s), *latencies, number(one.client_cores))
        rows.append((one.tier, name, *cells))
    return columns, rows, frozenset(range(2, 10))


def changed(changes: Sequence[Change]) -> tuple[list[str], Grid]:
    """What changed since a baseline: promises whose outcome differs, and every workload with both figures."""
    rows: list[Sequence[str]] = []
    for one in changes:
        if "outcome" in one.now:
            before, now = (WORDS[Outcome(each["outcome"])] for each in (one.before, one.now))
            rows.append((one.name, f"{before} → {now}", "", ""))
            continue
        cells = (_change(one.before[name], one.now[name]) for name in ("mib_per_s", "ops_per_s", "p95_ms"))
        rows.append((one.name, *cells))
    sentence = "Two runs of a check on the same storage differ by what else it and its client do; repeat before concluding."
    return [sentence], Grid(("", "MiB/s", "ops/s", "p95 ms"), rows, frozenset({1, 2, 3}), (0.31, 0.23, 0.23, 0.23))


def _change(before: float, now: float) -> str:
    return f"{number(before)} → {number(now)} ({grown(round(1e3 * now), round(1e3 * before))})" if before else "–"


def number(value: float) -> str:
    """About three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _markdown(document: Sequence[Chapter]) -> bytes:
    lines: list[str] = []
    for at, part in enumerate(document):
        lines += [
            f"{'##' if at else '#'} {plain(part.title)}",
            "",
            *(line for one in part.sentences for line in (plain(one), "")),
        ]
        if (grid := part.grid) is not None:
            lines.append(f"| {' | '.join(map(plain, grid.columns))} |")
            lines.append(f"|{'|'.join('---:' if at in grid.numbers else '---' for at in range(len(grid.columns)))}|")
            lines += [f"| {' | '.join(map(plain, row))} |" for row in grid.rows]
            lines.append("")
    return "\n".join(lines).encode()


def _pdf(document: Sequence[Chapter]) -> bytes:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.enums import TA_RIGHT
    from reportlab.lib.pagesizes import A4, landscape
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas
    from reportlab.platypus import CondPageBreak, Paragraph, SimpleDocTemplate, Table, TableStyle

    fonts = {weight: f"{theme.FAMILY} {weight}" for weight in (theme.REGULAR, theme.BOLD)}
    for weight, name in fonts.items():
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(theme.file(weight))))
    ink, muted = HexColor(theme.LIGHT.ink), HexColor(theme.LIGHT.muted)
    text = ParagraphStyle("text", fontName=fonts[theme.REGULAR], fontSize=8.5, leading=10.5, textColor=ink)
    figure = ParagraphStyle("figure", text, alignment=TA_RIGHT)
    head = ParagraphStyle("head", text, fontName=fonts[theme.BOLD], textColor=muted)
    right = ParagraphStyle("right", head, alignment=TA_RIGHT)
    said = ParagraphStyle("said", text, fontSize=10, leading=13, spaceAfter=4)
    title = ParagraphStyle("title", head, fontSize=20, leading=25, textColor=ink, spaceAfter=4)
    titles = (title, ParagraphStyle("subtitle", title, fontSize=13, leading=16, spaceBefore=14))
    file = io.BytesIO()
    page = SimpleDocTemplate(
        file, pagesize=landscape(A4), title=document[0].title, author="Headrace", lang="en", invariant=1,
        leftMargin=40, rightMargin=40, topMargin=36, bottomMargin=40,
    )  # fmt: skip
    flow: list[Any] = []
    for at, part in enumerate(document):
        # A title stays with the beginning of its table; with keepWithNext it would stay with all of it, and leave the page empty.
        flow.append(CondPageBreak(_BEGINNING))
        flow.append(Paragraph(_escaped(part.title), titles[bool(at)]))
        flow += [Paragraph(_escaped(sentence), said) for sentence in part.sentences]
        if (grid := part.grid) is not None:
            styles = [(right, figure) if at in grid.numbers else (head, text) for at in range(len(grid.columns))]
            rows = [
                [Paragraph(_escaped(cell), style[bool(down)]) for cell, style in zip(row, styles, strict=True)]
                for down, row in enumerate([grid.columns, *grid.rows])
            ]
            table = Table(
                rows, colWidths=[(page.width - 2 * _FRAME) * share for share in grid.widths], repeatRows=1, spaceBefore=2
            )
            table.setStyle(
                TableStyle(
                    [
                        ("VALIGN", (0, 0), (-1, -1), "TOP"),
                        ("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor(theme.LIGHT.rule)),
                        ("LEFTPADDING", (0, 0), (-1, -1), 0),
                        ("RIGHTPADDING", (0, 0), (-1, -1), 6),
                        ("TOPPADDING", (0, 0), (-1, -1), 2),
                        ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
                    ]
                )
            )
            flow.append(table)  # with nothing between, so that a title stays with it

    def numbered(canvas: Canvas, _: Any) -> None:
        canvas.setFont(fonts[theme.REGULAR], 8)
        canvas.setFillColor(muted)
        canvas.drawRightString(landscape(A4)[0] - 40, 22, f"page {canvas.getPageNumber()}")

    page.build(flow, onFirstPage=numbered, onLaterPages=numbered)
    return file.getvalue()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
