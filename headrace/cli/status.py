"""Whether everything is ready, and what to do where it is not."""

from __future__ import annotations

import json
import math
from typing import Any

import typer

from headrace.cli.common import AsJson, app, out, print_json, settings_of

_ASKING_S = 10.0


@app.command(rich_help_panel="Start here")
def status(as_json: AsJson = False) -> None:
    """Whether every part is ready, since when not, and what to do. Ends with 0 if all are, else with 1."""
    from headrace.cli.render.results import rows_table

    found = _found()
    if as_json:
        print_json(found)
    else:
        shown = [
            {
                "part": part["part"],
                "state": part["state"],
                "since (UTC)": part.get("since", "")[:19].replace("T", " "),
                "what to do": part.get("remedy", ""),
            }
            for part in found["parts"]
        ]
        out.print(rows_table(shown))
        if found["unrecorded_answers"]:
            out.print(f"{found['unrecorded_answers']:,} answers wait until the head takes them.", highlight=False)
    if found["status"] != "ok":
        raise typer.Exit(1)


def _found() -> dict[str, Any]:
    """What `headrace up` says of itself where it runs in this home, else what stands there without it."""
    from headrace.platform import open_platform
    from headrace.platform.address import brought, embedded_parts, overlay
    from headrace.platform.home import Home
    from headrace.platform.platform import EVERY_PART
    from headrace.platform.state import read_service, read_state
    from headrace.readiness import PartState, Readiness, asks, platform_trouble

    settings = settings_of()
    home = Home(settings.home)
    service = read_service(home)
    if service is not None:
        return _asked(service.port)
    parts: list[PartState] = []
    state, wanted = read_state(home), embedded_parts(settings, EVERY_PART)
    if state is None and wanted:
        trouble = platform_trouble(home, wanted)
        parts = [
            PartState("platform", trouble.state if trouble else "", math.nan, "`headrace up` starts them, as any command does.")
        ]
    elif state is not None:
        parts = [*Readiness(asks(settings, overlay(state.endpoints, brought(settings)))).look()]
    else:
        with open_platform(settings, parts=frozenset()) as endpoints:
            parts = [*Readiness(asks(settings, endpoints)).look()]
    parts.append(PartState("service", "does not run in this home", math.nan, "Start it: `headrace up`."))
    return {"status": "not_ready", "parts": [part.as_dict() for part in parts], "unrecorded_answers": 0}


def _asked(port: int) -> dict[str, Any]:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    from headrace.readiness import PartState

    try:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/health/ready", timeout=_ASKING_S) as answer:
            found: dict[str, Any] = json.loads(answer.read())
    except HTTPError as error:
        found = json.loads(error.read())
    except (OSError, ValueError):
        part = PartState("service", "does not answer", math.nan, "Look into what it wrote to its terminal, and start it again.")
        return {"status": "not_ready", "parts": [part.as_dict()], "unrecorded_answers": 0}
    return {name: found.get(name, 0) for name in ("status", "parts", "unrecorded_answers")}
