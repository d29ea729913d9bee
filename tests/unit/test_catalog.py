"""The catalog: what the rest of the code takes for granted about every store."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from headrace import catalog
from headrace.catalog import DIMENSIONS, EXTRA, LANDINGS, ORIGIN_COLUMNS, STORES, Store, Tier, stores


def test_a_name_is_unique_within_its_tier() -> None:
    names = [(store.tier, store.name) for store in STORES]
    assert len(names) == len(set(names))


def test_every_store_that_is_declared_is_listed() -> None:
    declared = [value for value in vars(catalog).values() if isinstance(value, Store)]
    assert sorted(map(str, declared)) == sorted(map(str, STORES))


@pytest.mark.parametrize("store", STORES, ids=str)
def test_structured_stores_have_a_schema_and_the_others_none(store: Store) -> None:
    structured = store.tier in (Tier.STREAM, Tier.TABLE, Tier.VECTOR)
    assert (store.schema is not None) == structured
    assert (store.partitions > 0) == (store.tier is Tier.STREAM)
    assert store.holds
    assert store.retention
    if structured:
        assert len(set(store.columns.names)) == len(store.columns.names)
    else:
        with pytest.raises(TypeError, match="has no schema"):
            _ = store.columns


@pytest.mark.parametrize("store", STORES, ids=str)
def test_names_are_good_for_topics_prefixes_and_sql(store: Store) -> None:
    assert re.fullmatch(r"[a-z][a-z-]*[a-z]", store.name)
    assert re.fullmatch(r"[a-z_]+", store.table)


def test_a_topic_lands_in_a_table_with_its_own_columns_and_where_each_row_stood() -> None:
    assert set(LANDINGS) == set(stores(Tier.STREAM))
    for topic, table in LANDINGS.items():
        assert table.tier is Tier.TABLE
        assert list(table.columns) == [*topic.columns, *(field.with_nullable(False) for field in ORIGIN_COLUMNS), EXTRA]


def test_only_listed_stores_of_a_tier_are_given() -> None:
    assert [store for tier in Tier for store in stores(tier)] != []
    assert {store for tier in Tier for store in stores(tier)} == set(STORES)
    assert all(store.tier is Tier.OBJECT for store in stores(Tier.OBJECT))


def test_the_index_is_as_wide_as_the_embedder() -> None:
    kind = catalog.CHUNKS.columns.field("embedding").type
    assert pa.types.is_fixed_size_list(kind)
    assert kind.list_size == DIMENSIONS == 384
