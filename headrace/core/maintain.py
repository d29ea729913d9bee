"""upkeep: every table of the catalog kept small and quick, whoever wrote it.

The stage has every table as a port, so a store that the catalog gains is kept without a line here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from headrace.catalog import TURNS, Tier, stores
from headrace.core.stage import Port, Stage
from headrace.errors import Transient
from headrace.settings import Upkeep
from headrace.storage.objects import ObjectReader
from headrace.storage.tables.handles import TableWriter
from headrace.storage.tables.maintenance import Upkept


def _upkeep(*, turns: ObjectReader, settings: Upkeep, only_due: bool = False, **tables: TableWriter) -> list[Upkept]:
    """Keep every table, or those that are due; return what was done to each that exists.

    A table that cannot be kept now does not keep the others from it: its error is raised once they are done.
    """
    pinned = pins(turns)
    done: list[Upkept] = []
    failed: list[Transient] = []
    for table in tables.values():
        try:
            if (not only_due or table.due(settings)) and (kept := table.upkeep(settings, pinned)) is not None:
                done.append(kept)
        except Transient as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return done


upkeep: Stage[..., list[Upkept]] = Stage(
    "upkeep",
    "Merges each table's small files, expires old snapshots no turn names, and removes what none names.",
    (
        Port("turns", TURNS, ObjectReader),
        *(Port(f"{store.table}_rows", store, TableWriter) for store in stores(Tier.TABLE)),
    ),
    _upkeep,
    frozenset({"settings", "only_due"}),
)


def pins(turns: ObjectReader) -> Callable[[], set[int]]:
    """Asks for the snapshots that turns name: every number that a plan or a manifest holds.

    Each is read once, for none is ever changed. That a number which is no snapshot is among them does no harm.
    """
    held: dict[str, set[int]] = {}

    def ask() -> set[int]:
        for info in turns.list():
            if info.key not in held:
                held[info.key] = {int(digits) for digits in re.findall(rb"\d+", turns.get(info.key))}
        return set().union(*held.values())

    return ask
