"""What the page shows of the run under way: bytes by tier, the index, and the diagrams."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from headrace.api.auth import Caller
from headrace.catalog import CHUNKS, INDEXES, Tier
from headrace.core.run import journal_of, newest_first, summary
from headrace.core.runner import Runner
from headrace.documents.generations import active_reader
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.recorded import diagram_of, drawn_from
from headrace.explain.diagram.scene import Item, Label, Line, Rect, Scene
from headrace.explain.diagram.slide import STORIES, TITLES
from headrace.explain.diagram.svg import svg
from headrace.explain.diagram.theme import PALETTES
from headrace.explain.diagram.views import Detail, View, scene_for
from headrace.storage.ledger import Direction, Row
from headrace.storage.tables.handles import quoted
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader


class LiveRun:
    """The run of `headrace up`; safe to share between threads. `queue` says how many questions are answered and wait."""

    def __init__(
        self,
        runner: Runner,
        home: Path,
        queue: Callable[[], tuple[int, int]],
        stopping: Callable[[], bool],
        unindexed: Callable[[str], tuple[int, float]],
    ) -> None:
        self._runner = runner
        self._home = home
        self._queue = queue
        self._stopping = stopping
        self._unindexed = unindexed
        self._drawing = threading.Lock()
        self._drawn: dict[tuple[str, View, Detail, str], tuple[tuple[str, int], Scene]] = {}

    def totals(self) -> dict[str, Any]:
        """What the run has moved so far by tier, its state, and how many questions are under way."""
        record = self._runner.record
        answering, waiting = self._queue()
        return {
            "run": record.id,
            "command": f"headrace {record.command}",
            "state": "stopping" if self._stopping() else record.state,
            "seconds": round((datetime.now(UTC) - record.started).total_seconds()),
            "answering": answering,
            "waiting": waiting,
            "tiers": by_tier(record.ledger.rows(by_tenant=False)),
        }

    def moving(self) -> list[dict[str, Any]]:
        """What this run and a concurrent training round have moved: their flows, summed over tenants.

        A flow is a list: stage, store, tier, direction, bytes, operations, p95 in ms.
        """
        own = self._runner.record
        runs = [
            {"run": own.id, "command": own.command, "flows": flows_of(row.as_dict() for row in own.ledger.rows(by_tenant=False))}
        ]
        if (journal := _running_round(self._home)) is not None:
            runs.append({"run": journal["run"], "command": journal["command"], "flows": flows_of(journal["rows"])})
        return runs

    def ledger(self, run: str | None) -> dict[str, Any]:
        """The ledger of this run, or of a recorded one. Raises `NotFound`."""
        record = self._runner.record
        if run in (None, record.id):
            return {
                "run": record.id,
                "state": record.state,
                "command": record.command,
                "started": record.started.isoformat(),
                "ended": None,
                "rows": record.ledger.rows(),
            }
        journal = journal_of(self._home, run)
        return {name: journal[name] for name in ("run", "state", "command", "started", "ended", "rows")}

    def runs(self, most: int) -> list[dict[str, Any]]:
        """The newest recorded runs, newest first."""
        return [_with_pipelines(journal) for journal in islice(newest_first(self._home), most)]

    def index_status(self, caller: Caller, tenant: str) -> dict[str, Any]:
        """How many passages of a tenant are indexed, in which version of the index, and what waits to be."""
        count, oldest_s = self._unindexed(tenant)
        indexes, vectors = self._index
        served = active_reader(indexes.recent(), vectors)
        return {
            "run": self._runner.record.id,
            "tenant": tenant,
            "default_tenant": caller.tenant,
            "index_version": served.version(),
            "passages": served.count(f"tenant = {quoted(tenant)}"),
            "waiting": count,
            "lag_s": round(oldest_s, 1),
        }

    def diagram(self, name: str, run: str | None, view: View, detail: Detail, theme: str) -> bytes:
        """A pipeline's diagram as SVG, drawn from `run`, or else from the newest run that moved anything in it.

        `theme` is the name of a palette. Raises `NotFound` where there is no such run, `WrongUsage` for an unknown pipeline.
        """
        return svg(self._scene(name, run, view, detail, theme)[1]).encode()

    def scene(self, name: str, run: str | None, view: View, detail: Detail, theme: str) -> dict[str, Any]:
        """The same diagram for the page, as its parts; raises the same."""
        found, scene = self._scene(name, run, view, detail, theme)
        steps = STORIES.get(name, ()) if detail is Detail.SLIDE else ()
        titles = TITLES if detail is Detail.SLIDE else {}
        return {
            "pipeline": name,
            "run": found.run_id,
            "measured": found.measured,
            "live": found.run_id == self._runner.record.id,
            "width": scene.width,
            "height": scene.height,
            "ground": scene.palette.card,
            "title": scene.title,
            "description": scene.description,
            "notes": scene.notes,
            "stages": {step.title: step.stages for step in steps},
            "stores": {f"{store.tier}/{title}": store.name for store, title in titles.items()},
            "groups": [
                {"kind": group.kind, "name": group.name, "alt": group.alt, "items": [_drawn(item) for item in group.items]}
                for group in scene.groups
            ],
        }

    def _scene(self, name: str, run: str | None, view: View, detail: Detail, theme: str) -> tuple[Diagram, Scene]:
        found = diagram_of(self._home, name, run=run, live=self._runner.record)
        stamp = (found.run_id, sum(flow.ops for flow in found.flows))
        key = (name, view, detail, theme)
        with self._drawing:  # one at a time: drawing takes a processor for a while
            if key not in self._drawn or self._drawn[key][0] != stamp:
                self._drawn[key] = (stamp, scene_for(found, view=view, detail=detail, palette=PALETTES[theme]))
            return found, self._drawn[key][1]

    @cached_property
    def _index(self) -> tuple[IndexReader, VectorReader]:
        return self._runner.open(IndexReader, INDEXES, stage="page"), self._runner.open(VectorReader, CHUNKS, stage="page")


def _drawn(item: Item) -> dict[str, Any]:
    """An item of a scene under the names of SVG's elements and attributes, without what is empty."""
    if isinstance(item, Rect):
        box = item.box
        drawn: dict[str, Any] = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "rx": item.radius}
        drawn |= {"fill": item.fill or "none"}
        if item.stroke:
            drawn |= {"stroke": item.stroke, "stroke-width": item.stroke_width}
    elif isinstance(item, Line):
        drawn = {name: getattr(item, name) for name in ("x1", "y1", "x2", "y2")}
        drawn |= {"stroke": item.colour, "stroke-width": item.width, "head": item.head}
    else:
        drawn = {"x": item.x, "y": item.y, "font-size": item.size, "font-weight": item.weight, "fill": item.colour}
        drawn |= {"text-anchor": item.anchor, "text": item.text, "room": item.box.width}
    if isinstance(item, Rect | Line) and item.dash:
        drawn["stroke-dasharray"] = " ".join(map(str, item.dash))
    kind = {Rect: "rect", Line: "line", Label: "text"}[type(item)]
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in drawn.items()}
    return {"is": kind, **rounded}


def flows_of(rows: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    """Ledger rows summed over tenants, as lists. Of two percentiles the larger is kept: they cannot be added."""
    summed: dict[tuple[str, ...], list[Any]] = {}
    for row in rows:
        key = (row["stage"], row["store"], str(row["tier"]), str(row["direction"]))
        flow = summed.setdefault(key, [*key, 0, 0, 0.0])
        flow[4] += row["bytes"]
        flow[5] += row["ops"]
        flow[6] = max(flow[6], row["p95_ms"])
    return list(summed.values())


def _running_round(home: Path) -> dict[str, Any] | None:
    """The journal of the newest round of training, if it runs now."""
    names = sorted(path.name for path in (home / "runs").glob("*-train-*.json"))
    try:
        journal: dict[str, Any] = json.loads((home / "runs" / names[-1]).read_bytes()) if names else {}
    except (ValueError, OSError):  # moved meanwhile
        return None
    return journal if journal.get("state") == "running" else None


def _with_pipelines(journal: Mapping[str, Any]) -> dict[str, Any]:
    return {**summary(journal), "pipelines": drawn_from(journal["rows"])}


def by_tier(rows: list[Row]) -> list[dict[str, Any]]:
    """Operations and bytes of ledger rows summed by tier: every tier, shallow to deep."""
    totals: dict[str, dict[str, Any]] = {
        str(tier): {"tier": str(tier), "ops": 0, "read_bytes": 0, "written_bytes": 0, "estimated": False} for tier in Tier
    }
    for row in rows:
        total = totals[row.tier]
        total["ops"] += row.ops
        total["read_bytes" if row.direction == Direction.READ else "written_bytes"] += row.bytes
        total["estimated"] = total["estimated"] or row.estimated
    return list(totals.values())
