"""The command that serves an assistant by MCP."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit

import typer

from headrace.cli.common import Tenant, cli, settings_of
from headrace.errors import Unavailable, WrongUsage


@cli.command(rich_help_panel="Inference")
def mcp(
    url: Annotated[str | None, typer.Option(help="A service's address; default: the `headrace up` of this home.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="HEADRACE_TOKEN", show_envvar=True, help="Its API key, with --url.", metavar="KEY")
    ] = None,
    tenant: Tenant = None,
    write: Annotated[bool, typer.Option("--write", help="Also offer to judge answers, and to put and delete documents.")] = False,
) -> None:
    """Serve search, answers, documents, the ledger, sizing and lineage to an assistant, by MCP over standard input and output."""
    from headrace.cli.mcp_tools import Tools, server_of
    from headrace.cli.running import RunningApi, running_api

    if url is None:
        settings = settings_of(tenant)
        api, tenant = running_api(settings), settings.tenant
        if api is None:
            raise Unavailable("No `headrace up` of these settings runs in this home.", hint="Start one, or name a service: --url")
    else:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise WrongUsage(f"--url takes the address of a running `headrace up`, not {url!r}.", hint="http://127.0.0.1:8484")
        if not token:
            raise WrongUsage("--url needs an API key.", hint="Set HEADRACE_TOKEN, or give --token.")
        api = RunningApi(url.rstrip("/"), token)
    os.environ.setdefault("OTEL_SDK_DISABLED", "true")  # a tool of an assistant sends no traces
    server_of(Tools(api, tenant), write=write).run("stdio")
