"""Commands that show storage endpoints, check storage, and maintain tables."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of
from headrace.errors import WrongUsage


@cli.command(rich_help_panel="Storage")
def endpoints(as_json: AsJson = False) -> None:
    """Show storage addresses and keys, and how long the embedded servers stay up."""
    from headrace.app import App
    from headrace.cli.render.results import rows_table
    from headrace.platform.home import trust

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
    only: Annotated[list[str] | None, typer.Option(metavar="TIER", help="object, stream, table or file; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(help="Approximate time limit.", min=1, max=3600)] = 60,
    as_json: AsJson = False,
) -> None:
    """Check that the configured storage keeps the promises Headrace relies on; exit with 1 if it breaks one."""
    from contextlib import closing

    from headrace.catalog import Tier
    from headrace.check.acceptance import TIERS, ask_promises, promises
    from headrace.check.doctor import diagnose
    from headrace.check.promise import Outcome
    from headrace.cli.render.check import say_checked, say_diagnosed
    from headrace.core.progress import ProgressBars
    from headrace.platform import open_platform
    from headrace.platform.home import trust

    if unknown := set(only or ()) - set(TIERS):
        hint = f"Choose from {', '.join(TIERS)}. The vector tier keeps its files in the object tier."
        raise WrongUsage(f"--only takes a tier, not {min(unknown)!r}.", hint=hint)
    tiers = [tier for tier in TIERS if not only or tier in only]
    needed = {Tier.OBJECT: {"objects"}, Tier.TABLE: {"objects"}, Tier.STREAM: {"head"}}
    settings = settings_of()
    # A wrong address or key breaks no promise of the storage: say what to change, and test nothing.
    own = {Tier.OBJECT: "objects", Tier.TABLE: "tables", Tier.STREAM: "head", Tier.FILE: "files"}
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
        closing(ask_promises(settings, endpoints, tiers, seconds=seconds)) as findings_of,
    ):
        findings = list(bars.track(findings_of, "checked", total=promises(tiers), of="promises"))
    trusted = trust(settings)
    if as_json:
        counts = {outcome: sum(finding.outcome is outcome for finding in findings) for outcome in Outcome}
        print_json({**counts, "promises": [finding.as_dict() for finding in findings], "other_users": trusted})
    else:
        say_checked(out, findings)
        if trusted:
            out.print(trusted, style="yellow", highlight=False)
    if any(finding.outcome is Outcome.BROKEN for finding in findings):
        raise typer.Exit(1)


@cli.command(rich_help_panel="Storage")
def maintain(as_json: AsJson = False) -> None:
    """Maintain the tables: merge small files, expire old snapshots, remove orphaned files."""
    from headrace.app import App
    from headrace.cli.render.results import rows_table
    from headrace.explain.diagram.format import human_bytes

    with App(settings_of(), "maintain", models=False, quiet=as_json) as app:
        done = app.storage.maintain()
        app.storage.archive()
    rows = [report.as_dict() for report in done]
    if as_json:
        print_json({"tables": rows})
        return
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
