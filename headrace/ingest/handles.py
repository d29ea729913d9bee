"""The handles that work on the head needs: each topic, the table it lands in, and the tables that say what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.catalog import DEAD_LETTERS, REFUSALS, Store
from headrace.core.stage import Port
from headrace.storage.stream import TopicReader
from headrace.storage.tables.handles import TableReader, TableWriter


def pair_ports(landings: Mapping[Store, Store], table: type[TableReader]) -> tuple[Port, ...]:
    """A topic reader and a handle of its table for each landing."""
    found = []
    for topic, rows in landings.items():
        found += [Port(topic.table, topic, TopicReader), Port(f"{rows.table}_rows", rows, table)]
    return tuple(found)


def ports(landings: Mapping[Store, Store], table: type[TableReader]) -> tuple[Port, ...]:
    """Those of `pair_ports`, then dead letters and refusals."""
    found = pair_ports(landings, table)
    return (*found, Port("dead_letters", DEAD_LETTERS, table), Port("refusals", REFUSALS, TableWriter))


def pairs(landings: Mapping[Store, Store], handles: Mapping[str, Any]) -> list[tuple[TopicReader, TableWriter]]:
    """The handles of each landing, in the order of `landings`."""
    return [(handles[topic.table], handles[f"{rows.table}_rows"]) for topic, rows in landings.items()]
