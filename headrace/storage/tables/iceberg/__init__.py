"""Iceberg tables behind a REST catalog."""

from headrace.imports import when_used

# pyiceberg's own parser of conditions, which loads pyparsing: conditions that a command asks with are mostly expressions already.
with when_used("pyiceberg.expressions.parser"):
    import pyiceberg.table  # noqa: F401
