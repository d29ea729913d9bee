"""Makes pyiceberg resolve each kind of manifest once per process: for a small file, that takes longer than reading it.

A file's schema is in its header, and all manifests of a table have the same few.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from functools import lru_cache

from pyiceberg.avro import file
from pyiceberg.avro.reader import Reader
from pyiceberg.schema import Schema
from pyiceberg.typedef import StructProtocol
from pyiceberg.types import IcebergType
from pyiceberg.utils.schema_conversion import AvroSchemaConversion

_KEPT = 64
_SCHEMA = "avro.schema"

_Structs = dict[int, Callable[..., StructProtocol]]
_Enums = dict[int, Callable[..., Enum]]
_resolve = file.resolve_reader  # type: ignore[attr-defined]
_readers: dict[tuple[object, ...], tuple[object, object, Reader]] = {}


def resolve_once() -> None:
    """Replace the two functions that do; what they return does not change."""
    file.resolve_reader = _resolved  # type: ignore[assignment, attr-defined]
    file.AvroFileHeader.get_schema = _schema_of  # type: ignore[assignment, method-assign]


@lru_cache(maxsize=_KEPT)
def _schema(text: str) -> Schema:
    return AvroSchemaConversion().avro_to_iceberg(json.loads(text))


def _schema_of(header: file.AvroFileHeader) -> Schema:
    if _SCHEMA not in header.meta:
        raise ValueError("No schema found in Avro file headers")
    return _schema(header.meta[_SCHEMA])


def _resolved(schema: Schema | IcebergType, read: Schema | IcebergType, structs: _Structs, enums: _Enums) -> Reader:
    """A reader has no state, so several may use it at once."""
    key = (id(schema), id(read), *structs.items(), *enums.items())
    if key not in _readers:
        if len(_readers) >= _KEPT:
            _readers.clear()
        # The schemas are kept too, so that no other one gets the same id.
        _readers[key] = schema, read, _resolve(schema, read, structs, enums)
    return _readers[key][2]
