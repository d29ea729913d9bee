"""The commands. Thin: each opens a session, calls the room that does the work, and shows what came of it."""

from __future__ import annotations

import getpass
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer._click.exceptions import ClickException
from typer._completion_classes import completion_init

from headrace import __version__
from headrace.errors import HeadraceError, NotFound, WrongUsage
from headrace.settings import Settings

app = typer.Typer(
    name="headrace",
    help="Runs the AI training loop and enterprise RAG on any storage, meters every byte, and draws what it measured.",
    no_args_is_help=True,
    # Typer's own options guess the shell from the process tree and fail where they cannot: see `completion`.
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# What Typer makes of a Ctrl-C; it tells its caller by no other sign.
_INTERRUPTED = 130
out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Tenant = Annotated[str | None, typer.Option(help="Tenant; the settings' one unless named.")]
As = Annotated[list[str] | None, typer.Option("--as", help="User or group who asks, to see what is open to them; repeatable.")]
On = Annotated[str, typer.Option(help="Where batch work and training run: local or ray.")]
Model = Annotated[str, typer.Argument(help="The model: reranker.")]


@dataclass
class Common:
    """What every command shares."""

    home: Path | None = None
    debug: bool = False


common = Common()


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    home: Annotated[Path | None, typer.Option(help="Directory of all embedded state.", show_default=".headrace")] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options of every command."""
    common.home, common.debug = home, debug


def _settings(tenant: str | None = None) -> Settings:
    return Settings.load(home=common.home, tenant=tenant)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def _on(value: str) -> str:
    if value not in ("local", "ray"):
        raise WrongUsage(f"--on takes local or ray, not {value!r}.")
    return value


@app.command()
def demo(
    docs: Annotated[Path | None, typer.Option(help="A folder of your own; Python's language reference unless named.")] = None,
    on: On = "local",
    out_dir: Annotated[Path, typer.Option("--out", help="Where the scores are drawn.")] = Path("out"),
    questions: Annotated[int, typer.Option(help="Searches of the simulated user.", min=1, max=10_000)] = 160,
) -> None:
    """Both pipelines once, for real, on the embedded platform, with a report."""
    from headrace.demo import run_demo

    run_demo(_settings(), docs=docs, on=_on(on), out_dir=out_dir, questions=questions, console=out)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the API and the page.", min=1, max=65535)] = 8484,
) -> None:
    """The platform, the API and the page, until Ctrl-C."""
    import secrets

    from headrace.pipeline.progress import Bars
    from headrace.session import opened
    from headrace.web import Service, create_app, serve
    from headrace.web.serve import bound

    settings = _settings()
    bound(port).close()  # a taken port is said before anything is started
    token = secrets.token_urlsafe(18)
    err.print("Starting the platform …", style="dim")
    with opened("up", settings) as session:
        # Nobody watches a bar that moves whenever somebody puts a document.
        session.runner.bars = Bars(quiet=True)
        service = Service(session.runner, session.desk(), settings)
        out.print(f"Headrace is up: http://127.0.0.1:{port}/?token={token}", highlight=False, soft_wrap=True)
        out.print("Ctrl-C ends it.", style="dim")
        serve(create_app(service, token), port)


@app.command()
def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders to index.")],
    tenant: Tenant = None,
    reader: Annotated[
        list[str] | None, typer.Option(help="Only this user or group may read them; repeatable. Otherwise it stays as it is.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Everybody of the tenant may read them from now on.")] = False,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Index documents: put, land, parse, chunk, embed, index."""
    from dataclasses import asdict

    from headrace.inference.pipeline import index_documents
    from headrace.report import say_indexed
    from headrace.session import opened

    if reader and everybody:
        raise WrongUsage("Say --reader or --everybody, not both.")
    settings = _settings(tenant)
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist.", hint="Name a file or a folder.")
    with opened("index", settings, on=_on(on), quiet=as_json) as session:
        readers = [] if everybody else reader or None
        done = index_documents(session.runner, paths, tenant=settings.tenant, settings=settings.inference, readers=readers)
        session.archive()
    if as_json:
        _print_json(asdict(done))
    else:
        say_indexed(out, done)


@app.command()
def reindex(
    chunk_tokens: Annotated[
        int | None, typer.Option(help="Word pieces of a chunk; the settings' number unless named.", min=32, max=254)
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Serve the index before this one again.")] = False,
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """Build another index beside the one that answers (chunk size, embedder), then serve it."""
    from dataclasses import asdict

    from headrace.inference.reindex import back as go_back
    from headrace.inference.reindex import reindex as build
    from headrace.session import opened

    if back and chunk_tokens is not None:
        raise WrongUsage("--back serves the earlier index as it was made: it takes no --chunk-tokens.")
    settings = _settings()
    chosen = settings.inference.model_copy(update={"chunk_tokens": chunk_tokens or settings.inference.chunk_tokens})
    with opened("reindex", settings, on=_on(on), quiet=as_json) as session:
        done = go_back(session.runner) if back else build(session.runner, chosen)
        session.archive()
    if as_json:
        _print_json(asdict(done))
        return
    made = done.generation
    out.print(
        f"Index {done.index.version} answers: {done.index.chunks:,} chunks of {made.window} word pieces, {made.width} numbers by"
        f" {made.embedder}; {done.seconds:.1f} s. To serve the earlier one again: headrace reindex --back",
        highlight=False,
    )


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="What to search for.")],
    tenant: Tenant = None,
    principals: As = None,
    as_json: AsJson = False,
) -> None:
    """The passages for a question, with both scores and both ranks."""
    from headrace.report import printable, rows_table
    from headrace.session import opened

    settings, question = _settings(tenant), _question(question)
    with opened("search", settings, quiet=as_json) as session:
        found = session.desk().search(question, tenant=settings.tenant, user=_user(), readers=principals or ())
    passages = [passage.as_dict() for passage in found.passages]
    if as_json:
        _print_json(
            {
                "answer_id": found.answer_id,
                "passages": passages,
                "model_version": found.model_version,
                "index_version": found.index_version,
                "timings_ms": found.timings_ms,
                "bytes": found.bytes,
            }
        )
        return
    shown = [
        {
            "#": number,
            "document": printable(" · ".join(filter(None, (passage.hit.uri, passage.hit.place)))),
            "passage": " ".join(passage.hit.text.split())[:70],
            "retrieval": f"{passage.hit.score:.4f} (rank {passage.retrieval_rank})",
            "re-ranker": "-" if passage.rerank_score is None else f"{passage.rerank_score:+.2f} (rank {passage.rerank_rank})",
        }
        for number, passage in enumerate(found.passages[:10], 1)
    ]
    out.print(rows_table(shown))


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    tenant: Tenant = None,
    principals: As = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from headrace.inference.answer import Answer
    from headrace.report import say_sources
    from headrace.session import opened

    settings, question = _settings(tenant), _question(question)
    with opened("ask", settings, quiet=as_json) as session:
        for piece in session.desk().ask(question, tenant=settings.tenant, user=_user(), readers=principals or ()):
            if isinstance(piece, Answer):
                if as_json:
                    _print_json(piece.as_dict())
                else:
                    out.print()
                    say_sources(out, piece)
                    out.print(
                        f"  judge it: headrace feedback {piece.answer_id} --up  (or --down --reason …)",
                        style="dim",
                        highlight=False,
                    )
            elif not as_json:
                out.out(piece, end="", highlight=False)
                out.file.flush()


@app.command()
def feedback(
    answer_id: Annotated[str, typer.Argument(help="The answer's id.")],
    up: Annotated[bool, typer.Option("--up", help="It helped.")] = False,
    down: Annotated[bool, typer.Option("--down", help="It did not.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    correction: Annotated[str, typer.Option(help="What the answer should have been.")] = "",
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judge an answer: the verdict goes onto the head and into the next turn."""
    from headrace.inference.feedback import Verdict
    from headrace.inference.feedback import feedback as feedback_stage
    from headrace.session import opened

    if up == down:
        raise WrongUsage("Say --up or --down, one of them.")
    settings = _settings(tenant)
    with opened("feedback", settings, models=False, quiet=as_json) as session:
        _known_answer(session.runner, answer_id, settings.tenant)
        verdict = Verdict(answer_id, up, settings.tenant, _user(), reason=reason, correction=correction)
        places = session.runner.run(feedback_stage, tenant=settings.tenant, verdicts=[verdict])
    if as_json:
        _print_json({"verdict_id": verdict.verdict_id, "topic": "feedback", "partition": places[0][0], "offset": places[0][1]})
    else:
        out.print(f"Recorded at feedback/{places[0][0]}/{places[0][1]}. The next turn learns from it: headrace turn")


@app.command()
def land(
    once: Annotated[bool, typer.Option("--once", help="Until the head is drained; otherwise follow it.")] = False,
    accept_gap: Annotated[
        str | None, typer.Option(metavar="TOPIC/PARTITION", help="Go on past events that the head forgot before they landed.")
    ] = None,
    accept_new_head: Annotated[
        str | None, typer.Option(metavar="TOPIC/PARTITION", help="Go on with a head that is not the one landed from.")
    ] = None,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="First land the dead letters that can be read now, after a fix.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Land the head in the tables, each event once."""
    from headrace.head.accept import accept
    from headrace.head.land import land as land_stage
    from headrace.head.reland import reland
    from headrace.report import say_landed
    from headrace.session import opened

    settings = _settings()
    with opened("land", settings, models=False, quiet=as_json) as session:
        for place, gap in ((accept_gap, True), (accept_new_head, False)):
            if place is not None:
                accepted = session.runner.run(accept, place=place, gap=gap, who=_user())
                err.print(accepted.told, highlight=False)
        if dead_letters:
            again = session.runner.run(reland)
            told = ", ".join(f"{count:,} {topic}" for topic, count in again.events.items() if count) or "none"
            err.print(f"Of the dead letters {told} landed now; {again.dead:,} still cannot be read.", highlight=False)
        if not once:
            _follow_head(session, as_json)
            return
        done = session.runner.run(land_stage, settings=settings.landing)
    if as_json:
        refused = [{"partition": r.place, "kind": r.kind, "seen": r.seen, "remedy": r.remedy} for r in done.refusals]
        _print_json({"landed": done.events, "dead_letters": done.dead, "refused": refused})
    else:
        say_landed(out, done)
    done.require()


def _follow_head(session: Any, as_json: bool) -> None:
    import signal
    import threading

    from headrace.head.follow import follow
    from headrace.head.land import Following
    from headrace.pipeline.upkeep import upkeep
    from headrace.report import LandingLines
    from headrace.settings import Embedded

    lines = LandingLines(out, err, as_json)
    following = Following(threading.Event(), lines.committed, lines.refused, lines.waiting)
    signal.signal(signal.SIGTERM, lambda *_: following.stop.set())
    settings = session.settings.landing
    if isinstance(session.settings.head, Embedded):
        # Embedded servers that are gone do not come back by themselves.
        settings = settings.model_copy(update={"patience_s": min(settings.patience_s, 60.0)})
    err.print("Landing what comes, until Ctrl-C.", style="dim")

    def keep_tables() -> None:
        session.runner.run(upkeep, settings=session.settings.upkeep, only_due=True)

    follow(session.runner, settings, following, chores=keep_tables, failed=lines.failed)
    lines.total()


@app.command()
def head(as_json: AsJson = False) -> None:
    """What is only in the head: per partition its end, what has landed, the lag in events and bytes, and the oldest's age."""
    from headrace.head.backlog import backlog
    from headrace.report import say_backlog
    from headrace.session import opened

    with opened("head", _settings(), models=False, quiet=as_json) as session:
        found = session.runner.run(backlog)
    if as_json:
        _print_json({"partitions": [partition.as_dict() for partition in found]})
    else:
        say_backlog(out, found)


@app.command()
def turn(
    recipe: Annotated[str, typer.Option(help="What to train: reranker.")] = "reranker",
    on: On = "local",
    as_json: AsJson = False,
) -> None:
    """One trip round the training loop: land, prepare, finetune, evaluate, promote or refuse."""
    from headrace.report import say_turn
    from headrace.session import opened
    from headrace.training.pipeline import RECIPE
    from headrace.training.pipeline import turn as go_round

    if recipe != RECIPE:
        raise WrongUsage(f"There is no recipe {recipe!r}.", hint=f"The one there is: --recipe {RECIPE}")
    settings = _settings()
    with opened("turn", settings, models=False, on=_on(on), quiet=as_json) as session:
        done = go_round(session.runner, launch=session.launch, settings=settings.training)
        session.run.detail["turn"] = done.as_dict()
        session.archive()
    if as_json:
        _print_json(done.as_dict())
    else:
        say_turn(out, done)


@app.command()
def models(as_json: AsJson = False) -> None:
    """Released versions of the re-ranker, and which is served."""
    from headrace.catalog import MODELS
    from headrace.report import rows_table
    from headrace.session import opened
    from headrace.storage.meter import Meter
    from headrace.storage.objects import ObjectReader
    from headrace.training.champion import champion, versions

    with opened("models", _settings(), models=False, quiet=as_json) as session:
        store = ObjectReader(MODELS, session.runner.endpoints, Meter(session.run.ledger, "models"))
        standing, _ = champion(store)
        rows = [
            {
                "model": "reranker",
                "version": card["version"],
                "turn": card["turn"],
                "retrieval_weight": card["retrieval_weight"],
                "bytes": sum(file["bytes"] for file in card["files"]),
                "serving": card["version"] == standing.version,
            }
            for card in versions(store)
        ]
    if as_json:
        _print_json({"models": rows, "champion": standing.version, "history": standing.history})
    elif rows:
        out.print(rows_table(rows))
    else:
        out.print("No re-ranker was promoted yet; retrieval's own order is served. Train one: headrace turn")


@app.command()
def promote(model: Model, version: Annotated[str, typer.Argument(help="A released version.")], as_json: AsJson = False) -> None:
    """Serve a released version from now on."""
    from headrace.training.champion import crown

    _move(model, crown, as_json, version=version, why="asked on the command line")


@app.command()
def rollback(model: Model, as_json: AsJson = False) -> None:
    """Serve what was served before."""
    from headrace.training.champion import dethrone

    _move(model, dethrone, as_json, why="asked on the command line")


@app.command()
def runs(as_json: AsJson = False) -> None:
    """What ran in this home, and how it ended."""
    from headrace.explain.format import human_bytes
    from headrace.pipeline.run import runs as journals
    from headrace.report import rows_table

    found = journals(_settings().home)
    rows = [
        {
            "run": j["run"],
            "command": j["command"],
            "state": j["state"],
            "started": j["started"][:19],
            "ended": (j["ended"] or "")[:19],
            "bytes": sum(row["bytes"] for row in j["rows"]),
        }
        for j in found
    ]
    if as_json:
        _print_json({"runs": rows})
    elif rows:
        out.print(rows_table([{**row, "bytes": human_bytes(row["bytes"])} for row in rows]))
    else:
        out.print("Nothing has run in this home yet. Try: headrace demo")


@app.command()
def ledger(
    run: Annotated[str | None, typer.Argument(help="A run's id or its beginning; the newest unless named.")] = None,
    by: Annotated[str | None, typer.Option(help="Add up by tier, stage or tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a run moved: operations, bytes and latency by stage, store and direction."""
    from headrace.pipeline.run import journal_of
    from headrace.report import ledger_table, merged, summary_table, tier_table
    from headrace.storage.ledger import summed

    if by not in (None, "tier", "stage", "tenant"):
        raise WrongUsage(f"--by takes tier, stage or tenant, not {by!r}.")
    journal = journal_of(_settings().home, run)
    if by is not None:
        if "ledger" not in journal:
            raise NotFound(
                f"Run {journal['run']} was recorded by an older Headrace, which kept no histograms to add up.",
                hint=f"Its rows are there: headrace ledger {journal['run']}",
            )
        rows = summed(journal["ledger"], by=(by,))
        if as_json:
            _print_json({"run": journal["run"], "state": journal["state"], "by": by, "rows": rows})
        else:
            out.print(summary_table(rows, by, title=f"What {journal['run']} moved, by {by}"))
        return
    if as_json:
        _print_json({"run": journal["run"], "state": journal["state"], "rows": journal["rows"]})
        return
    rows = summed(journal["ledger"], by=("stage", "store", "tier")) if "ledger" in journal else merged(journal["rows"])
    out.print(ledger_table(rows, title=f"What {journal['run']} moved"))
    out.print()
    out.print(tier_table(rows))
    if any(row["estimated"] for row in rows):
        out.print("≈ estimated: that store's library hides its I/O (docs/ledger.md).", style="dim")


@app.command()
def score(
    pipeline: Annotated[str, typer.Argument(help="training or inference.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.svg, .png or .md")],
    run: Annotated[str | None, typer.Option(help="A run's id; the newest that ran this pipeline unless named.")] = None,
    triggers: Annotated[bool, typer.Option("--triggers/--no-triggers", help="Draw what starts each stage.")] = True,
) -> None:
    """Draw a pipeline from a measured run."""
    from headrace.demo import draw_score

    settings = _settings()
    drawn = draw_score(settings.home, pipeline, output, run=run, triggers=triggers)
    out.print(f"Wrote {output}: {drawn}", highlight=False)


@app.command()
def sql(query: Annotated[str, typer.Argument(help="One SELECT over the tables.")], as_json: AsJson = False) -> None:
    """Read-only SQL over the tables (DuckDB)."""
    from headrace.report import rows_table
    from headrace.session import opened
    from headrace.storage.sql import select

    with opened("sql", _settings(), models=False, quiet=as_json) as session:
        rows = select(query, session.runner.endpoints, session.run.ledger)
    if as_json:
        _print_json({"rows": rows})
    elif rows:
        out.print(rows_table(rows))
    else:
        out.print("No rows.")


@app.command()
def endpoints(as_json: AsJson = False) -> None:
    """Where storage answers, with its keys: starts the platform and shows it while it stays up."""
    from headrace.report import rows_table
    from headrace.session import opened

    with opened("endpoints", _settings(), models=False, quiet=True) as session:
        found = session.runner.endpoints
        shown = {
            "s3_endpoint": found.s3_endpoint,
            "s3_access_key": found.s3_access_key,
            "s3_secret_key": found.s3_secret_key,
            "bucket": found.bucket,
            "catalog_uri": found.catalog_uri,
            "warehouse": found.warehouse,
            "kafka_bootstrap": found.kafka_bootstrap,
            "files_dir": str(found.files_dir),
        }
    if as_json:
        _print_json(shown)
    else:
        out.print(rows_table([{"endpoint": name, "value": value} for name, value in shown.items()]))
        out.print("Embedded ones answer while a command such as `headrace up` runs.", style="dim")


@app.command()
def check(
    only: Annotated[list[str] | None, typer.Option(metavar="TIER", help="object, stream, table or file; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(help="About how long it may take in all.", min=1, max=3600)] = 60,
    as_json: AsJson = False,
) -> None:
    """Does the configured storage keep the promises that Headrace relies on? Exit code 1 if one is broken."""
    from contextlib import closing

    from headrace.catalog import Tier
    from headrace.check.acceptance import TIERS, accept, promises
    from headrace.check.promise import Verdict
    from headrace.check.table import say_checked
    from headrace.pipeline.progress import Bars
    from headrace.platform import open_platform

    if unknown := set(only or ()) - set(TIERS):
        hint = f"Those that can be checked: {', '.join(TIERS)}. The vector tier keeps its files in the object tier."
        raise WrongUsage(f"--only takes a tier, not {min(unknown)!r}.", hint=hint)
    tiers = [tier for tier in TIERS if not only or tier in only]
    needed = {Tier.OBJECT: {"objects"}, Tier.TABLE: {"objects"}, Tier.STREAM: {"head"}}
    settings = _settings()
    bars = Bars(err, quiet=as_json)
    with (
        open_platform(settings, parts=frozenset().union(*(needed.get(tier, set()) for tier in tiers))) as endpoints,
        closing(accept(settings, endpoints, tiers, seconds=seconds)) as asked,
    ):
        findings = list(bars.track(asked, "checked", total=promises(tiers), of="promises"))
    if as_json:
        counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
        _print_json({**counts, "promises": [finding.as_dict() for finding in findings]})
    else:
        say_checked(out, findings)
    if any(finding.verdict is Verdict.BROKEN for finding in findings):
        raise typer.Exit(1)


@app.command()
def upkeep(as_json: AsJson = False) -> None:
    """Keep the tables small and quick: merge small files, expire old snapshots, remove what none names."""
    from headrace.explain.format import human_bytes
    from headrace.pipeline.upkeep import upkeep as upkeep_stage
    from headrace.report import rows_table
    from headrace.session import opened

    settings = _settings()
    with opened("upkeep", settings, models=False, quiet=as_json) as session:
        done = session.runner.run(upkeep_stage, settings=settings.upkeep)
        session.archive()
    rows = [kept.as_dict() for kept in done]
    if as_json:
        _print_json({"tables": rows})
        return
    shown = [
        {
            "table": row["table"],
            "files": f"{row['files_before']:,} → {row['files_after']:,}",
            "bytes": f"{human_bytes(row['bytes_before'])} → {human_bytes(row['bytes_after'])}",
            "snapshots": f"{row['snapshots_before']:,} → {row['snapshots_after']:,}",
            "to be removed": f"{row['condemned']:,}",
            "removed": f"{row['removed']:,} ({human_bytes(row['removed_bytes'])})",
        }
        for row in rows
    ]
    out.print(rows_table(shown) if shown else "There are no tables yet. Try: headrace demo")


evaluation = typer.Typer(help="How good retrieval and answers are, on a folder in BEIR layout.", no_args_is_help=True)
app.add_typer(evaluation, name="eval")
Beir = Annotated[Path, typer.Argument(metavar="DIR", help="Has corpus.jsonl, queries.jsonl and qrels/test.tsv.")]


@evaluation.command("retrieval")
def eval_retrieval(directory: Beir, as_json: AsJson = False) -> None:
    """nDCG@10, recall@5 and MRR@10 of dense, full-text, fused and re-ranked retrieval, with 95 % intervals."""
    from headrace.evaluation.folder import read
    from headrace.evaluation.run import retrieval
    from headrace.report import say_retrieval
    from headrace.session import opened

    folder, settings = read(directory), _settings()
    with opened("eval", settings, quiet=as_json) as session:
        rows = retrieval(session.runner, folder, settings.inference)
    if as_json:
        _print_json({"rows": [row.as_dict() for row in rows], "documents": len(folder.documents), "tenant": folder.tenant})
    else:
        say_retrieval(out, folder, rows)


@evaluation.command("answers")
def eval_answers(
    directory: Beir,
    limit: Annotated[int | None, typer.Option(help="Questions to ask, spread evenly; all unless given.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Exact match, F1, citation precision, groundedness and refusal rate of the answers, with 95 % intervals."""
    from headrace.evaluation.folder import read
    from headrace.evaluation.run import answers
    from headrace.report import say_answers
    from headrace.session import opened

    folder, settings = read(directory), _settings()
    with opened("eval", settings, quiet=as_json) as session:
        found = answers(session.runner, session.desk(), folder, settings.inference, limit)
    if as_json:
        _print_json(found.as_dict())
    else:
        say_answers(out, folder, found)


tenant_app = typer.Typer(help="Tenants of the API and what each may use.", no_args_is_help=True)
key_app = typer.Typer(help="API keys: made, listed, revoked.", no_args_is_help=True)
app.add_typer(tenant_app, name="tenant")
app.add_typer(key_app, name="key")
Name = Annotated[str, typer.Argument(help="The tenant.")]
Quotas = Annotated[
    list[str] | None, typer.Option("--quota", metavar="NAME=NUMBER", help="A limit of its own; repeatable (docs/tenants.md).")
]


@tenant_app.command("add")
def tenant_add(name: Name, quota: Quotas = None, as_json: AsJson = False) -> None:
    """Add a tenant."""
    quotas = _quotas(quota)
    with _metadata() as metadata:
        metadata.add_tenant(name, quotas, by=_by())
    if as_json:
        _print_json({"tenant": name, "quotas": quotas})
    else:
        out.print(f"Added {name}. Make a key for it: headrace key mint {name} --scope read", highlight=False)


@tenant_app.command("quota")
def tenant_quota(name: Name, quota: Quotas = None, as_json: AsJson = False) -> None:
    """Give a tenant these limits of its own instead of those it has; with none, those of the settings."""
    quotas = _quotas(quota)
    with _metadata() as metadata:
        metadata.set_quotas(name, quotas, by=_by())
    if as_json:
        _print_json({"tenant": name, "quotas": quotas})
    else:
        out.print(f"Quotas of {name}: {quotas or 'those of the settings'}.", highlight=False)


@tenant_app.command("list")
def tenant_list(as_json: AsJson = False) -> None:
    """Every tenant and its limits."""
    from headrace.report import rows_table
    from headrace.web.caller import limits_of

    with _metadata() as metadata:
        found = metadata.tenants()
    limits = _settings().limits
    rows = [
        {
            "tenant": tenant.name,
            "created_at": tenant.created_at.isoformat(),
            "quotas": tenant.quotas,
            "limits": limits_of(limits, tenant.quotas).model_dump(),
        }
        for tenant in found
    ]
    if as_json:
        _print_json({"tenants": rows})
    elif rows:
        shown = [{"tenant": row["tenant"], "added": row["created_at"][:19], **_limits(row["limits"])} for row in rows]
        out.print(rows_table(shown))
    else:
        out.print("There are no tenants yet. Add one: headrace tenant add NAME")


@key_app.command("mint")
def key_mint(
    tenant: Name,
    scope: Annotated[list[str], typer.Option("--scope", help="read, write or admin; repeatable.")],
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown once: kept is only a hash of it."""
    from headrace.web.caller import SCOPES
    from headrace.web.tenants import key_row

    if unknown := set(scope) - set(SCOPES):
        raise WrongUsage(f"--scope takes {', '.join(SCOPES)}, not {min(unknown)!r}.")
    with _metadata() as metadata:
        text, key = metadata.mint_key(tenant, scope, label=label, by=_by())
    if as_json:
        _print_json({"key": text, **key_row(key)})
    else:
        out.print(text, highlight=False, soft_wrap=True)
        err.print(f"Keep it: it is not shown again. Revoke it: headrace key revoke {key.id}", style="dim", highlight=False)


@key_app.command("list")
def key_list(tenant: Annotated[str | None, typer.Option(help="Only those of a tenant.")] = None, as_json: AsJson = False) -> None:
    """Every key, without its secret."""
    from headrace.report import rows_table
    from headrace.web.tenants import key_row

    with _metadata() as metadata:
        rows = [key_row(key) for key in metadata.keys(tenant)]
    if as_json:
        _print_json({"keys": rows})
    elif rows:
        shown = [
            {
                "id": row["id"],
                "tenant": row["tenant"],
                "scopes": ", ".join(row["scopes"]),
                "label": row["label"],
                "made": row["created_at"][:19],
                "last used": (row["last_used_at"] or "never")[:16],
                "revoked": (row["revoked_at"] or "")[:19],
            }
            for row in rows
        ]
        out.print(rows_table(shown))
    else:
        out.print("There are no keys yet. Make one: headrace key mint TENANT --scope read")


@key_app.command("revoke")
def key_revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], as_json: AsJson = False) -> None:
    """Let a key allow nothing from now on, in every process within a second."""
    with _metadata() as metadata:
        metadata.revoke_key(key_id, by=_by())
    if as_json:
        _print_json({"id": key_id, "revoked": True})
    else:
        out.print(f"Revoked {key_id}.", highlight=False)


@app.command()
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")]) -> None:
    """The script that teaches a shell to complete headrace's words: eval "$(headrace completion bash)"."""
    from typer._completion_shared import get_completion_script

    if shell not in ("bash", "zsh", "fish", "powershell"):
        raise WrongUsage(f"There is no completion for {shell!r}.", hint="Those there are: bash, zsh, fish, powershell.")
    print(get_completion_script(prog_name="headrace", complete_var="_HEADRACE_COMPLETE", shell=shell))


def _move(model: str, stage: Any, as_json: bool, **inputs: str) -> None:
    from dataclasses import asdict

    from headrace.session import opened
    from headrace.training.champion import RERANKER

    if model != RERANKER:
        raise NotFound(f"There is no model {model!r}.", hint=f"The one there is: {RERANKER}")
    with opened("promote", _settings(), models=False, quiet=as_json) as session:
        standing = session.runner.run(stage, who=_user(), **inputs)
    if as_json:
        _print_json(asdict(standing))
    else:
        shown = "retrieval's own order" if standing.version == "none" else standing.version
        out.print(f"Served from now on: {shown}.")


def _known_answer(runner: Any, answer_id: str, tenant: str) -> None:
    """Raise `NotFound` unless that answer of the tenant's was given: a verdict on nothing would be lost silently."""
    from headrace.catalog import INTERACTION_ROWS, INTERACTIONS
    from headrace.head.land import land as land_stage
    from headrace.storage.meter import Meter
    from headrace.storage.tables import TableReader, quoted

    runner.run(land_stage).require(INTERACTIONS)
    table = TableReader(INTERACTION_ROWS, runner.endpoints, Meter(runner.record.ledger, "feedback", tenant))
    rows = table.read(("answer_id", "tenant"), f"answer_id = {quoted(answer_id)}")
    if tenant not in rows["tenant"].to_pylist():
        raise NotFound(f"Tenant {tenant!r} was given no answer {answer_id!r}.", hint="`headrace ask` prints the id.")


def _metadata() -> Any:
    """The metadata store, closed at the end of the block; nothing else of the platform is needed for it."""
    from contextlib import closing

    from headrace.platform import open_platform
    from headrace.platform.home import Home
    from headrace.storage.metadata import Metadata

    settings = _settings()
    Home(settings.home).prepare()
    with open_platform(settings, parts=frozenset()) as endpoints:
        return closing(Metadata(endpoints))


def _by() -> Any:
    from headrace.storage.metadata import By

    return By("", f"cli:{_user()}", "local")


def _quotas(given: list[str] | None) -> dict[str, int]:
    """`--quota name=number` as a dict. Raises `WrongUsage` for a limit there is not."""
    from headrace.web.caller import checked

    quotas = {}
    for word in given or ():
        name, equals, number = word.partition("=")
        if not equals or not number.isdecimal():
            raise WrongUsage(f"--quota takes NAME=NUMBER, not {word!r}.", hint="Such as --quota requests_per_minute=60")
        quotas[name] = int(number)
    checked(_settings().limits, quotas)
    return quotas


def _limits(limits: dict[str, int]) -> dict[str, str]:
    return {name.replace("_", " "): f"{number:,}" for name, number in limits.items()}


def _question(text: str) -> str:
    if not text.strip():
        raise WrongUsage("The question is empty.")
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _options_first(words: list[str]) -> list[str]:
    """The words with --home and --debug in front, where they are taken; people write them behind the command as well."""
    front, rest, waiting = [], [], iter(words)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word == "--home":
            if (directory := next(waiting, None)) is None:
                raise WrongUsage("--home needs a directory.")
            front += [word, directory]
        elif word == "--debug" or word.startswith("--home="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def main() -> None:
    """Run the command line; every error a user may meet becomes a sentence, a hint and an exit code."""
    try:
        completion_init()
        code = app(_options_first(sys.argv[1:]), standalone_mode=False) or 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # whoever read our output has read enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        err.print("Interrupted. The home is as the last finished step left it; run the same command again to go on.")
        sys.exit(1)
    except ClickException as error:
        error.show()
        sys.exit(2)
    except HeadraceError as error:
        if common.debug:
            traceback.print_exc()
        err.print(error.message, style="red", markup=False, highlight=False)
        if error.hint:
            err.print(error.hint, markup=False, highlight=False)
        sys.exit(error.exit_code)
    except Exception as error:  # what nobody foresaw: still one line, and how to tell us more
        if common.debug:
            raise
        err.print(f"Something unforeseen happened: {type(error).__name__}: {error}", style="red", markup=False)
        err.print("Run it again with `headrace --debug …` to see where.", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
