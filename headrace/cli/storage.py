"""Commands that show storage endpoints, check storage, and maintain tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of
from headrace.errors import HeadraceError, WrongUsage


@cli.command(rich_help_panel="Storage")
def endpoints(as_json: AsJson = False) -> None:
    """Show storage addresses and keys, and how long the embedded servers stay up."""
    from headrace.app import App
    from headrace.cli.render.results import rows_table
    from headrace.platform.home import trust
    from headrace.settings import EmbeddedPart

    settings = settings_of()
    with App(settings, "endpoints", models=False, quiet=True) as app:
        addresses = app.runner.endpoints
        shown = {
            "s3_endpoint": addresses.s3_endpoint,
            "s3_access_key": addresses.s3_access_key,
            "s3_secret_key": addresses.s3_secret_key,
            "bucket": addresses.bucket,
            "catalog_uri": addresses.catalog_uri,
            "warehouse": addresses.warehouse,
            # Of the embedded catalog, for pyiceberg, DuckDB or Spark; of a catalog of your own you have them.
            **{
                f"catalog_{name.replace('-', '_')}": addresses.catalog_properties[name]
                for name in ("credential", "oauth2-server-uri")
                if isinstance(settings.tables, EmbeddedPart) and name in addresses.catalog_properties
            },
            "kafka_bootstrap": addresses.kafka_bootstrap,
            "files_dir": str(addresses.files_dir),
            "idle_s": settings.platform.idle_s,
            "signing_key": addresses.signing_key,
            "other_users": trust(settings),
        }
    if as_json:
        print_json(shown)
    else:
        idle, other_users = shown.pop("idle_s"), shown.pop("other_users")
        out.print(rows_table([{"endpoint": name, "value": value} for name, value in shown.items()]))
        stay = f"Embedded servers stay up for {idle:,.0f} s after the last command (platform.idle_s); `headrace down` ends them."
        out.print(stay, style="dim", highlight=False)
        if other_users:
            out.print(other_users, style="yellow", highlight=False)


@cli.command(rich_help_panel="Storage")
def check(
    only: Annotated[
        list[str] | None, typer.Option(metavar="TIER", help="object, stream, table, vector or file; repeatable.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Approximate time limit.", min=1, max=3600)] = 60,
    concurrency: Annotated[int, typer.Option(help="Operations in flight where throughput is measured.", min=1, max=256)] = 4,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as FILE.md or FILE.pdf.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="Compare with an earlier check, saved with --json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that the storage keeps the promises Headrace relies on, and how fast it is; exit with 1 if one is broken."""
    import time
    from contextlib import closing

    from headrace.catalog import Tier
    from headrace.check.acceptance import TIERS, check_storage, steps
    from headrace.check.doctor import diagnose
    from headrace.check.provenance import provenance
    from headrace.check.report import CheckReport, compared, load_baseline
    from headrace.cli.render.check import say_checked, say_diagnosed
    from headrace.core.progress import ProgressBars
    from headrace.explain.acceptance import check_suffix, write_document
    from headrace.platform import open_platform
    from headrace.platform.home import trust

    if unknown := set(only or ()) - set(TIERS):
        raise WrongUsage(f"--only takes a tier, not {min(unknown)!r}.", hint=f"Choose from {', '.join(TIERS)}.")
    if report is not None:
        check_suffix(report)
    earlier = load_baseline(baseline) if baseline is not None else None
    tiers = [tier for tier in TIERS if not only or tier in only]
    needed = {Tier.OBJECT: {"objects"}, Tier.TABLE: {"objects"}, Tier.VECTOR: {"objects"}, Tier.STREAM: {"head"}}
    settings = settings_of()
    # A wrong address or key breaks no promise of the storage: say what to change, and test nothing.
    own = {Tier.OBJECT: "objects", Tier.TABLE: "tables", Tier.STREAM: "head", Tier.VECTOR: "vectors", Tier.FILE: "files"}
    wrong = [one for one in diagnose(settings, frozenset(own[tier] for tier in tiers)) if one.works is False]
    if wrong:
        if as_json:
            print_json({"parts": [one.as_dict() for one in wrong], "promises": []})
        else:
            say_diagnosed(out, wrong)
            out.print("No promise was tested. Correct the settings first, then check again.", highlight=False)
        raise typer.Exit(1)
    bars = ProgressBars(err, quiet=as_json)
    with (
        open_platform(settings, parts=frozenset().union(*(needed.get(tier, set()) for tier in tiers))) as endpoints,
        closing(check_storage(settings, endpoints, tiers, seconds=seconds, concurrency=concurrency)) as found,
    ):
        header = provenance(settings, endpoints, tiers, seconds=seconds, concurrency=concurrency)
        began = time.monotonic()
        made = CheckReport.of(
            header,
            bars.track(found, "checked", total=steps(tiers), of="promises and workloads"),
            began=began,
            files_dir=endpoints.files_dir,
            other_users=trust(settings),
        )
    try:
        made.keep(settings.home)
    except (HeadraceError, OSError) as error:  # what was found is worth more than its copy for the page
        err.print(f"The report is not kept in {settings.home}: {error}", style="yellow", highlight=False)
    changes = compared(made, earlier) if earlier is not None else None
    if as_json:
        print_json(made.as_dict() | ({} if changes is None else {"changes": [asdict(one) for one in changes]}))
    else:
        say_checked(out, made, changes)
    if report is not None:
        write_document(made, report, changes)
        if not as_json:
            out.print(f"Wrote {report}.", highlight=False)
    if made.broken:
        raise typer.Exit(1)


@cli.command(rich_help_panel="Storage")
def maintain(
    clock_is_right: Annotated[
        bool, typer.Option("--clock-is-right", help="Go on deleting documents by age after the clock was set forward.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Maintain the tables: merge small files, expire old snapshots, remove orphaned files; delete documents past retention."""
    from headrace.app import App
    from headrace.cli.render.results import rows_table
    from headrace.explain.diagram.format import human_bytes

    with App(settings_of(), "maintain", models=False, quiet=as_json) as app:
        done = app.storage.maintain()
        expired = app.storage.expire(clock_is_right=clock_is_right)
        app.storage.archive()
    rows = [report.as_dict() for report in done]
    if as_json:
        print_json({"tables": rows, "expired_documents": expired})
        return
    if expired:
        out.print(f"Deleted {expired:,} documents past their retention.", highlight=False)
    shown = [
        {
            "table": row["table"],
            "files": f"{row['files_before']:,} → {row['files_after']:,}",
            "bytes": f"{human_bytes(row['bytes_before'])} → {human_bytes(row['bytes_after'])}",
            "snapshots": f"{row['snapshots_before']:,} → {row['snapshots_after']:,}",
            "to be removed": f"{row['marked_for_deletion']:,}",
            "removed": f"{row['removed']:,} ({human_bytes(row['removed_bytes'])})",
        }
        for row in rows
    ]
    out.print(rows_table(shown) if shown else "There are no tables yet. Try: headrace demo")
