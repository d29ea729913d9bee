"""Commands for the API's tenants and keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli.common import AsJson, cli, err, out, print_json, settings_of, user
from headrace.errors import WrongUsage

tenant_cli = typer.Typer(help="Manage the API's tenants and their quotas.", no_args_is_help=True)
key_cli = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
cli.add_typer(tenant_cli, name="tenant", rich_help_panel="The API")
cli.add_typer(key_cli, name="key", rich_help_panel="The API")
Name = Annotated[str, typer.Argument(help="The tenant.")]
Quotas = Annotated[
    list[str] | None, typer.Option("--quota", metavar="NAME=NUMBER", help="Override a limit for this tenant; repeatable.")
]
_SHARED = (
    "Tenants share one full-text index: from the ranking of its own passages, a tenant can infer how common a word is in all"
    " tenants' documents (SECURITY.md)."
)


@tenant_cli.command("add")
def tenant_add(name: Name, quota: Quotas = None, as_json: AsJson = False) -> None:
    """Add a tenant."""
    quotas = _quotas(quota)
    with _metadata() as metadata:
        metadata.add_tenant(name, quotas, by=_by())
        several = len(metadata.tenants()) > 1
    if as_json:
        print_json({"tenant": name, "quotas": quotas})
    else:
        out.print(f"Added {name}. Create a key: headrace key create {name} --scope read", highlight=False)
        if several:
            err.print(_SHARED, style="yellow", highlight=False)


@tenant_cli.command("quota")
def tenant_quota(name: Name, quota: Quotas = None, as_json: AsJson = False) -> None:
    """Replace a tenant's quotas; without --quota, it gets the limits in the settings."""
    quotas = _quotas(quota)
    with _metadata() as metadata:
        metadata.set_quotas(name, quotas, by=_by())
    if as_json:
        print_json({"tenant": name, "quotas": quotas})
    else:
        shown = ", ".join(f"{limit} {value:,}" for limit, value in quotas.items())
        out.print(f"Quotas of {name}: {shown or 'as in the settings'}.", highlight=False)


@tenant_cli.command("training")
def tenant_training(
    name: Name,
    training: Annotated[str, typer.Argument(metavar="none|shared", help="Whether shared models learn from its verdicts.")],
    as_json: AsJson = False,
) -> None:
    """Set whether models served to all tenants may learn from a tenant's verdicts."""
    with _metadata() as metadata:
        metadata.set_training(name, training, by=_by())
    if as_json:
        print_json({"tenant": name, "training": training})
    else:
        learned = "learn from its verdicts, from the next round" if training == "shared" else "do not learn from its verdicts"
        out.print(f"Models served to all tenants {learned}.", highlight=False)


@tenant_cli.command("list")
def tenant_list(as_json: AsJson = False) -> None:
    """List tenants and their limits."""
    from headrace.api.auth import limits_of
    from headrace.cli.render.results import say_rows

    with _metadata() as metadata:
        tenants = metadata.tenants()
    limits = settings_of().limits
    rows = [
        {
            "tenant": tenant.name,
            "created_at": tenant.created_at.isoformat(),
            "quotas": tenant.quotas,
            "limits": limits_of(limits, tenant.quotas).model_dump(),
            "training": tenant.training,
        }
        for tenant in tenants
    ]
    if as_json:
        print_json({"tenants": rows})
    elif rows:
        shown = [
            {
                "tenant": row["tenant"],
                "added": row["created_at"][:16].replace("T", " "),
                "training": row["training"],
                **_limits(row["limits"]),
            }
            for row in rows
        ]
        say_rows(out, shown)
    else:
        own = settings_of().tenant
        out.print(f"Commands use the tenant {own!r}. No other was added yet: headrace tenant add NAME", highlight=False)


@key_cli.command("create")
def key_create(
    tenant: Name,
    scope: Annotated[list[str], typer.Option("--scope", help="read, write, users, simulate, tenant-admin or admin; repeatable.")],
    reader: Annotated[list[str] | None, typer.Option(help="Restrict it to asking as this user or group; repeatable.")] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create an API key. It is shown once; only its hash is stored."""
    from headrace.api.auth import SCOPES, check_key_scopes
    from headrace.api.routes.tenants import key_row

    if unknown := set(scope) - set(SCOPES):
        raise WrongUsage(f"--scope takes {', '.join(SCOPES)}, not {min(unknown)!r}.")
    check_key_scopes(scope, reader)
    with _metadata() as metadata:
        if tenant == settings_of().tenant and tenant not in {known.name for known in metadata.tenants()}:
            metadata.add_tenant(tenant, by=_by())  # the tenant of all commands, which no one added
        text, key = metadata.create_key(tenant, scope, label=label, readers=reader, by=_by())
    if as_json:
        print_json({"key": text, **key_row(key)})
    else:
        out.print(text, highlight=False, soft_wrap=True)
        err.print(f"Save it: it is not shown again. To revoke it: headrace key revoke {key.id}", style="dim", highlight=False)


@key_cli.command("list")
def key_list(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's keys.")] = None, as_json: AsJson = False
) -> None:
    """List keys, without their secrets."""
    from headrace.api.routes.tenants import key_row
    from headrace.cli.render.results import say_rows
    from headrace.storage.metadata import no_tenant

    with _metadata() as metadata:
        known = {settings_of().tenant} | {one.name for one in metadata.tenants()}
        if tenant is not None and tenant not in known:
            raise no_tenant(tenant)
        rows = [key_row(key) for key in metadata.keys(tenant)]
    if as_json:
        print_json({"keys": rows})
    elif rows:
        shown = [
            {
                "id": row["id"],
                "tenant": row["tenant"],
                "scopes": ", ".join(row["scopes"]),
                "readers": ", ".join(row["readers"] or ()),
                "label": row["label"],
                "made": row["created_at"][:19],
                "last used": (row["last_used_at"] or "never")[:16],
                "revoked": (row["revoked_at"] or "")[:19],
            }
            for row in rows
        ]
        say_rows(out, shown)
    else:
        out.print("There are no keys yet. Create one: headrace key create TENANT --scope read")


@key_cli.command("revoke")
def key_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    with_made: Annotated[bool, typer.Option("--with-made", help="Also the keys that it made, and that these made.")] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a key; every process rejects it within a second."""
    with _metadata() as metadata:
        done = metadata.revoke_key(key_id, with_made=with_made, by=_by())
    if as_json:
        print_json({"id": key_id, "revoked": True, "also_revoked": list(done.with_it), "made_remaining": done.remaining})
        return
    out.print(f"Revoked {', '.join((key_id, *done.with_it))}.", highlight=False)
    if done.remaining:
        err.print(
            f"{done.remaining:,} keys that it made go on. If it was stolen: headrace key revoke {key_id} --with-made",
            highlight=False,
        )


def _metadata() -> Any:
    """The metadata store, closed at the end of the block. No other part of the platform is started."""
    from contextlib import closing

    from headrace.platform import open_platform
    from headrace.platform.home import Home
    from headrace.storage.metadata import Metadata

    settings = settings_of()
    Home(settings.home).prepare()
    with open_platform(settings, parts=frozenset()) as endpoints:
        return closing(Metadata(endpoints))


def _by() -> Any:
    from headrace.storage.metadata import By

    return By("", f"cli:{user()}", "local")


def _quotas(options: list[str] | None) -> dict[str, int]:
    """`--quota name=number` as a dict. Raises `WrongUsage` for an unknown limit."""
    from headrace.api.auth import limits_with

    quotas = {}
    for word in options or ():
        name, equals, number = word.partition("=")
        if not equals or not number.isdecimal():
            raise WrongUsage(f"--quota takes NAME=NUMBER, not {word!r}.", hint="For example: --quota requests_per_minute=60")
        quotas[name] = int(number)
    limits_with(settings_of().limits, quotas)
    return quotas


def _limits(limits: dict[str, int]) -> dict[str, str]:
    from headrace.explain.diagram.format import human_bytes

    return {name.replace("_", " "): human_bytes(number) if "bytes" in name else f"{number:,}" for name, number in limits.items()}
